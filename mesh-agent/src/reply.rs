//! Answers the agent makes itself.
//!
//! Place in the path: `proxy` calls it when a route answers by itself, or an exchange failed before the endpoint's head.
//! Invariant: the text begins with Envoy's, then says for which service and endpoint; gRPC gets a trailers-only answer,
//! everybody else a status and a text.

use crate::addr::EndpointAddr;
use crate::body::Body;
use crate::error::{Failure, Flag, grpc_status};
use crate::grpc;
use crate::snapshot::route::DirectResponse;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, LOCATION};
use http::{HeaderMap, Response, StatusCode};
use std::fmt::Write as _;

const OVERLOADED: HeaderName = HeaderName::from_static("x-envoy-overloaded");

/// The client's answer for `failure`. `request`: the request's fields; `to`: where it was headed; `retried`: it was not
/// the first attempt.
pub fn local(
    failure: &Failure,
    request: &HeaderMap,
    to: &str,
    endpoint: Option<EndpointAddr>,
    retried: bool,
) -> Response<Body> {
    let answer = failure.answer();
    let text = text(failure, to, endpoint, retried);
    let mut response = of_status(answer.status, answer.grpc, text, request);
    if answer.flags.has(Flag::UO) {
        response.headers_mut().insert(OVERLOADED, HeaderValue::from_static("true"));
    }
    response
}

/// `directResponse`.
pub fn direct(direct: &DirectResponse, request: &HeaderMap) -> Response<Body> {
    if grpc::is_grpc(request) {
        let text = String::from_utf8_lossy(&direct.body);
        return grpc::trailers_only(grpc_status(direct.status), &text);
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

/// Envoy's text, then ours in parentheses.
fn text(failure: &Failure, to: &str, endpoint: Option<EndpointAddr>, retried: bool) -> String {
    let row = failure.situation().row();
    let mut text = row.text.spell(retried);
    if text.is_empty() {
        // Envoy says nothing here.
        text.push_str(row.doc);
    }
    // Writing to a String does not fail.
    let _ = write!(text, " ({to}");
    if let Some(endpoint) = endpoint {
        let _ = write!(text, ", endpoint {endpoint}");
    }
    if let Some(cause) = failure.cause() {
        let _ = write!(text, ": {cause}");
    }
    text.push(')');
    text
}

/// Trailers-only for gRPC, else a status and a text (SEMANTICS §6 "gRPC local reply").
fn of_status(status: StatusCode, grpc: u8, text: String, request: &HeaderMap) -> Response<Body> {
    if grpc::is_grpc(request) { grpc::trailers_only(grpc, &text) } else { plain(status, text.into()) }
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
        let endpoint = EndpointAddr::new(([10, 244, 1, 5], 9000).into());
        let to = "ws002-pingpong.default.svc.cluster.local:9000";
        let plain = local(&failure, &HeaderMap::new(), to, Some(endpoint), false);
        assert_eq!(plain.status(), StatusCode::SERVICE_UNAVAILABLE);
        let mut fields = HeaderMap::new();
        fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        let grpc = local(&failure, &fields, to, Some(endpoint), false);
        assert_eq!(grpc.status(), StatusCode::OK);
        assert_eq!(grpc.headers()[&grpc::GRPC_STATUS], "14");
        assert_eq!(
            grpc.headers()[&grpc::GRPC_MESSAGE],
            "upstream connect error or disconnect/reset before headers. reset reason: remote connection failure, transport \
             failure reason: delayed connect error: Connection refused \
             (ws002-pingpong.default.svc.cluster.local:9000, endpoint 10.244.1.5:9000: connection refused)"
        );
        assert!(grpc.body().is_end(), "trailers-only");
    }
}
