//! Answers the agent makes itself.
//!
//! Place in the path: `proxy` calls it when a route answers by itself, or an exchange failed before the endpoint's head.
//! Invariant: the text is Envoy's. Clients of the mesh are told as well what failed and for which service and endpoint:
//! gRPC behind the text, in its trailers-only answer, everybody else in a header field.

use crate::addr::EndpointAddr;
use crate::body::{Body, GrpcWeb};
use crate::error::{Failure, Flag, grpc_status};
use crate::grpc;
use crate::snapshot::route::DirectResponse;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, LOCATION};
use http::{HeaderMap, Response, StatusCode};
use std::fmt::Write as _;

const OVERLOADED: HeaderName = HeaderName::from_static("x-envoy-overloaded");
/// What failed, and for which service and endpoint.
const ERROR: HeaderName = HeaderName::from_static("x-undermesh-error");

/// What a client may know of where its request failed.
#[derive(Clone, Copy, Debug)]
pub enum Place<'a> {
    /// A pod of the mesh: everything.
    Mesh { to: &'a str, endpoint: Option<EndpointAddr> },
    /// Anybody in the world: nothing, least of all addresses of pods.
    Gateway,
}

/// The client's answer for `failure`. `request`: the request's fields; `retried`: it was not the first attempt.
pub fn local(failure: &Failure, request: &HeaderMap, place: Place<'_>, retried: bool) -> Response<Body> {
    let (answer, row) = (failure.answer(), failure.situation().row());
    let (text, place) = (row.text.spell(retried), place.tell(failure));
    let mut response = if is_rpc(request) {
        // Envoy's text may be empty; a gRPC status never comes alone.
        let text = if text.is_empty() { row.doc } else { &text };
        let message = place.map_or_else(|| text.to_owned(), |place| format!("{text} ({place})"));
        of_status(answer.status, answer.grpc, message, request)
    } else {
        let mut response = plain(answer.status, text.into());
        // Everything in it is ours, or a host that came as a header field.
        if let Some(Ok(error)) = place.map(|place| HeaderValue::try_from(format!("{} ({place})", row.doc))) {
            response.headers_mut().insert(ERROR, error);
        }
        response
    };
    if answer.flags.has(Flag::UO) {
        response.headers_mut().insert(OVERLOADED, HeaderValue::from_static("true"));
    }
    response
}

/// `directResponse`.
pub fn direct(direct: &DirectResponse, request: &HeaderMap) -> Response<Body> {
    if is_rpc(request) {
        let text = String::from_utf8_lossy(&direct.body).into_owned();
        return of_status(direct.status, grpc_status(direct.status), text, request);
    }
    plain(direct.status, direct.body.clone())
}

/// `redirect`; `location` as `route::redirect` made it.
pub fn redirect(status: StatusCode, location: HeaderValue, request: &HeaderMap) -> Response<Body> {
    let mut response = of_status(status, grpc_status(status), String::new(), request);
    response.headers_mut().insert(LOCATION, location);
    response
}

/// An answer with `fields` and without a body: a CORS preflight's.
pub fn empty(status: StatusCode, fields: HeaderMap) -> Response<Body> {
    let mut response = plain(status, Bytes::new());
    *response.headers_mut() = fields;
    response
}

impl Place<'_> {
    /// `service, endpoint address: cause`
    fn tell(self, failure: &Failure) -> Option<String> {
        let Self::Mesh { to, endpoint } = self else { return None };
        let mut text = to.to_owned();
        // Writing to a String does not fail.
        if let Some(endpoint) = endpoint {
            let _ = write!(text, ", endpoint {endpoint}");
        }
        if let Some(cause) = failure.cause() {
            let _ = write!(text, ": {cause}");
        }
        Some(text)
    }
}

fn is_rpc(request: &HeaderMap) -> bool {
    grpc::is_grpc(request) || GrpcWeb::of(request).is_some()
}

/// Trailers-only for gRPC and gRPC-Web, else a status and a text (SEMANTICS §6 "gRPC local reply").
fn of_status(status: StatusCode, grpc: u8, text: String, request: &HeaderMap) -> Response<Body> {
    match GrpcWeb::of(request) {
        Some(web) => web.response(grpc::trailers_only(grpc, &text)),
        None if grpc::is_grpc(request) => grpc::trailers_only(grpc, &text),
        None => plain(status, text.into()),
    }
}

fn plain(status: StatusCode, text: Bytes) -> Response<Body> {
    let typed = !text.is_empty();
    let mut response = Response::new(if typed { Body::Full(text) } else { Body::Empty });
    *response.status_mut() = status;
    if typed {
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ConnectError;

    #[test]
    fn says_what_failed_and_where() {
        let failure = Failure::Connect(ConnectError::Refused);
        let endpoint = Some(EndpointAddr::new(([10, 244, 1, 5], 9000).into()));
        let mesh = Place::Mesh { to: "ws002-pingpong.default.svc.cluster.local:9000", endpoint };
        let bare = "upstream connect error or disconnect/reset before headers. reset reason: remote connection failure, \
                    transport failure reason: delayed connect error: Connection refused";
        let place = "(ws002-pingpong.default.svc.cluster.local:9000, endpoint 10.244.1.5:9000: connection refused)";
        let plain = local(&failure, &HeaderMap::new(), mesh, false);
        assert_eq!(plain.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(plain.headers()[&ERROR], format!("the endpoint refused the connection {place}"));
        assert!(matches!(plain.body(), Body::Full(text) if text == bare));
        let asks = |kind| {
            let mut fields = HeaderMap::new();
            fields.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
            fields
        };
        let grpc = local(&failure, &asks("application/grpc"), mesh, false);
        assert_eq!((grpc.status(), &grpc.headers()[&grpc::GRPC_STATUS]), (StatusCode::OK, &"14".parse().unwrap()));
        assert_eq!(grpc.headers()[&grpc::GRPC_MESSAGE], format!("{bare} {place}"));
        assert!(grpc.body().is_end(), "trailers-only");
        let web = local(&failure, &asks("application/grpc-web+proto"), mesh, false);
        assert_eq!(web.headers()[CONTENT_TYPE], "application/grpc-web+proto");
        assert_eq!((web.status(), &web.headers()[&grpc::GRPC_STATUS]), (StatusCode::OK, &"14".parse().unwrap()));
    }

    #[test]
    fn strangers_are_told_no_addresses() {
        for failure in [Failure::Connect(ConnectError::Refused), Failure::NoRoute] {
            let plain = local(&failure, &HeaderMap::new(), Place::Gateway, false);
            assert!(!plain.headers().contains_key(&ERROR));
            let mut fields = HeaderMap::new();
            fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            let grpc = local(&failure, &fields, Place::Gateway, false);
            let row = failure.situation().row();
            let text = row.text.spell(false);
            assert_eq!(grpc.headers()[&grpc::GRPC_MESSAGE], if text.is_empty() { row.doc } else { &text });
        }
    }
}
