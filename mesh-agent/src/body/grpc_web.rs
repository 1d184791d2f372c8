//! gRPC-Web (PROTOCOL-WEB.md of the gRPC project) translated to gRPC over HTTP/2 and back, as Envoy's filter does.
//!
//! Place in the path: `proxy/exchange.rs` wraps a request before its attempts and the response after them, where the
//! endpoint's port is declared `grpc-web` (Istio) or `grpc`: no gRPC server understands it. Browsers cannot read trailers, so these travel as a last frame of the body; and some read only text, so
//! the body may be base64.

use super::{Body, Chunk};
use crate::error::{UpstreamError, grpc_status};
use crate::grpc::{self, GRPC_MESSAGE, GRPC_STATUS};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, Bytes, BytesMut};
use http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue, TE};
use http::{HeaderMap, Request, Response, StatusCode};
use std::task::{Context, Poll, ready};

const GRPC_ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");

/// A frame whose first byte has this bit carries trailers.
const TRAILERS: u8 = 0x80;

/// How one call speaks gRPC-Web.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GrpcWeb {
    text_request: bool,
    text_response: bool,
}

/// A body on its way from one form into the other.
#[derive(Debug)]
pub struct Translated {
    inner: Body,
    form: Form,
    /// Base64 that is no whole group of four yet.
    rest: BytesMut,
    ended: bool,
    /// Bytes taken from `inner`, and given on, that were not released.
    taken: usize,
    given: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// A text request becomes bytes.
    FromText,
    ToBinary,
    ToText,
}

impl GrpcWeb {
    /// `application/grpc-web`, `application/grpc-web-text`, alone or followed by `+proto`, `;…`.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let text_request = is_text(headers.get(CONTENT_TYPE)?)?;
        // Envoy: the answer is text where the client says that it accepts text.
        let text_response = headers.get(ACCEPT).and_then(is_text).unwrap_or(false);
        Some(Self { text_request, text_response })
    }

    /// The gRPC request that the endpoint gets.
    pub fn request(self, mut request: Request<Body>) -> Request<Body> {
        let headers = request.headers_mut();
        headers.remove(CONTENT_LENGTH);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(TE, HeaderValue::from_static("trailers"));
        // Envoy offers deflate and gzip as well, which no gRPC-Web client unpacks.
        headers.insert(GRPC_ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if self.text_request { request.map(|body| Translated::body(body, Form::FromText)) } else { request }
    }

    /// The response that the client gets. One that is no gRPC becomes a gRPC status: Envoy's mapping, without the body.
    pub fn response(self, mut response: Response<Body>) -> Response<Body> {
        let is_grpc = grpc::is_grpc(response.headers());
        let status = response.status();
        let headers = response.headers_mut();
        headers.remove(CONTENT_LENGTH);
        let (kind, form) = if self.text_response {
            ("application/grpc-web-text+proto", Form::ToText)
        } else {
            ("application/grpc-web+proto", Form::ToBinary)
        };
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        if !is_grpc {
            headers.insert(GRPC_STATUS, HeaderValue::from(u16::from(grpc_status(status))));
            if let Ok(message) = HeaderValue::try_from(format!("HTTP status {}", status.as_u16())) {
                headers.insert(GRPC_MESSAGE, message);
            }
            *response.status_mut() = StatusCode::OK;
            return response.map(|_| Body::Empty);
        }
        // Trailers-only: the status stays in the head.
        if response.body().is_end() { response } else { response.map(|body| Translated::body(body, form)) }
    }
}

impl Translated {
    fn body(inner: Body, form: Form) -> Body {
        Body::Translated(Box::new(Self { inner, form, rest: BytesMut::new(), ended: false, taken: 0, given: 0 }))
    }

    pub(super) fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Chunk, UpstreamError>>> {
        loop {
            if self.ended {
                return Poll::Ready(None);
            }
            let out = match ready!(self.inner.poll_chunk(cx)) {
                None => {
                    self.ended = true;
                    // The client's text ended inside a group.
                    return Poll::Ready((!self.rest.is_empty()).then_some(Err(UpstreamError::Aborted)));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                Some(Ok(Chunk::Data(data))) => {
                    self.taken += data.len();
                    match self.data(data) {
                        Ok(out) => out,
                        Err(error) => {
                            self.ended = true;
                            return Poll::Ready(Some(Err(error)));
                        }
                    }
                }
                Some(Ok(Chunk::Trailers(trailers))) => {
                    self.ended = true;
                    if self.form == Form::FromText {
                        return Poll::Ready(Some(Ok(Chunk::Trailers(trailers))));
                    }
                    encoded(self.form, trailer_frame(&trailers))
                }
            };
            self.given += out.len();
            self.settle();
            if !out.is_empty() {
                return Poll::Ready(Some(Ok(Chunk::Data(out))));
            }
        }
    }

    fn data(&mut self, data: Bytes) -> Result<Bytes, UpstreamError> {
        if self.form != Form::FromText {
            return Ok(encoded(self.form, data));
        }
        self.rest.extend_from_slice(&data);
        let whole = self.rest.len() / 4 * 4;
        decoded(&self.rest.split_to(whole)).ok_or(UpstreamError::Aborted)
    }

    /// Never holds more of the sender's bytes than the receiver holds of ours.
    fn settle(&mut self) {
        let done = self.taken.saturating_sub(self.given);
        self.taken -= done;
        self.inner.release(done);
    }

    pub(super) fn is_end(&self) -> bool {
        self.ended || (self.rest.is_empty() && self.inner.is_end())
    }

    pub(super) fn release(&mut self, count: usize) {
        self.given = self.given.saturating_sub(count);
        self.settle();
    }

    pub(super) fn held(&mut self) -> usize {
        self.inner.held()
    }

    pub(super) fn is_windowed(&self) -> bool {
        self.inner.is_windowed()
    }

    pub(super) fn cancelled(&mut self) {
        self.inner.cancelled();
    }
}

/// Whether a content type is gRPC-Web's text form; `None`: it is not gRPC-Web.
fn is_text(value: &HeaderValue) -> Option<bool> {
    let rest = value.as_bytes().strip_prefix(b"application/grpc-web")?;
    let (text, rest) = rest.strip_prefix(b"-text").map_or((false, rest), |rest| (true, rest));
    matches!(rest.first(), None | Some(b'+' | b';')).then_some(text)
}

/// Each piece of text is complete in itself, padding included, so that a message never waits for the next one.
fn encoded(form: Form, data: Bytes) -> Bytes {
    if form == Form::ToText { STANDARD.encode(data).into() } else { data }
}

/// Whole groups of four; padding may stand at the end of any of them. `None`: no base64.
fn decoded(mut text: &[u8]) -> Option<Bytes> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    while !text.is_empty() {
        let padded = text.chunks(4).position(|group| group.contains(&b'='));
        let (piece, rest) = text.split_at_checked(padded.map_or(text.len(), |group| (group + 1) * 4))?;
        STANDARD.decode_vec(piece, &mut bytes).ok()?;
        text = rest;
    }
    Some(bytes.into())
}

/// `0x80`, length (u32, network order), then `name:value` lines.
fn trailer_frame(trailers: &HeaderMap) -> Bytes {
    let mut lines = BytesMut::new();
    for (name, value) in trailers {
        lines.put_slice(name.as_str().as_bytes());
        lines.put_u8(b':');
        lines.put_slice(value.as_bytes());
        lines.put_slice(b"\r\n");
    }
    let mut frame = BytesMut::with_capacity(5 + lines.len());
    frame.put_u8(TRAILERS);
    // Trailers are limited by SETTINGS_MAX_HEADER_LIST_SIZE, far below 4 GiB.
    frame.put_u32(u32::try_from(lines.len()).unwrap_or(u32::MAX));
    frame.put_slice(&lines);
    frame.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect()
    }

    fn drain(mut body: Body) -> Result<Vec<u8>, UpstreamError> {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut all = Vec::new();
        while let Poll::Ready(Some(chunk)) = body.poll_chunk(&mut cx) {
            match chunk? {
                Chunk::Data(data) => {
                    body.release(data.len());
                    all.extend_from_slice(&data);
                }
                Chunk::Trailers(trailers) => panic!("{trailers:?}"),
            }
        }
        Ok(all)
    }

    #[test]
    fn knows_its_content_types() {
        let web = |pairs: &[_]| GrpcWeb::of(&headers(pairs));
        let form = |text_request, text_response| Some(GrpcWeb { text_request, text_response });
        assert_eq!(web(&[("content-type", "application/grpc")]), None);
        assert_eq!(web(&[("content-type", "application/grpc-websocket")]), None);
        assert_eq!(web(&[("content-type", "application/grpc-web+proto")]), form(false, false));
        assert_eq!(
            web(&[("content-type", "application/grpc-web-text"), ("accept", "application/grpc-web-text+proto")]),
            form(true, true)
        );
        assert_eq!(web(&[("content-type", "application/grpc-web-text")]), form(true, false));
    }

    #[test]
    fn a_text_request_becomes_grpc() {
        let web = GrpcWeb { text_request: true, text_response: true };
        let mut request = Request::new(Body::Full(Bytes::from_static(b"AAAAAAUBAgMEBQ==")));
        request.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("16"));
        let request = web.request(request);
        assert!(grpc::is_grpc(request.headers()) && !request.headers().contains_key(CONTENT_LENGTH));
        assert_eq!(request.headers()[TE], "trailers");
        assert_eq!(drain(request.into_body()).unwrap(), [0, 0, 0, 0, 5, 1, 2, 3, 4, 5]);
        for bad in ["AAA", "A*==", "===="] {
            let request = web.request(Request::new(Body::Full(Bytes::from_static(bad.as_bytes()))));
            assert_eq!(drain(request.into_body()), Err(UpstreamError::Aborted), "{bad}");
        }
    }

    #[test]
    fn trailers_become_the_last_frame() {
        let trailers = headers(&[("grpc-status", "0"), ("grpc-message", "ok")]);
        let frame = trailer_frame(&trailers);
        assert_eq!(&frame[..5], [0x80, 0, 0, 0, 32]);
        let text = std::str::from_utf8(&frame[5..]).unwrap();
        assert!(text.contains("grpc-status:0\r\n") && text.contains("grpc-message:ok\r\n"), "{text}");
    }

    #[test]
    fn responses_that_are_no_grpc_become_a_status() {
        let web = GrpcWeb { text_request: false, text_response: false };
        let mut response = Response::new(Body::Full(Bytes::from_static(b"not here")));
        *response.status_mut() = StatusCode::NOT_FOUND;
        let response = web.response(response);
        assert_eq!((response.status(), &response.headers()[GRPC_STATUS]), (StatusCode::OK, &"12".parse().unwrap()));
        assert!(response.body().is_end());
        let only: Response<Body> = grpc::trailers_only(14, "gone");
        let only = web.response(only);
        assert_eq!(only.headers()[CONTENT_TYPE], "application/grpc-web+proto");
        assert_eq!(only.headers()[GRPC_STATUS], "14");
    }

    proptest! {
        /// Whatever pieces a text comes in, each with padding of its own, the bytes are the same.
        #[test]
        fn pieces_do_not_matter(pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..9), 0..6), cut in 1_usize..7) {
            let text: Vec<u8> = pieces.iter().flat_map(|piece| STANDARD.encode(piece).into_bytes()).collect();
            let Body::Translated(mut body) = Translated::body(Body::Empty, Form::FromText) else { unreachable!() };
            let mut out = Vec::new();
            for part in text.chunks(cut) {
                out.extend_from_slice(&body.data(Bytes::copy_from_slice(part)).unwrap());
            }
            prop_assert_eq!(out, pieces.concat());
            prop_assert!(body.rest.is_empty());
        }

        #[test]
        fn never_panics(text in proptest::collection::vec(any::<u8>(), 0..32)) {
            let _ = decoded(&text);
        }
    }
}
