//! Answers the agent makes itself.
//!
//! Place in the path: `proxy` calls it when an exchange failed before the endpoint's head. Invariant: the text says
//! what failed and for which endpoint; gRPC gets a trailers-only answer, everybody else a status and a text.

use crate::addr::EndpointAddr;
use crate::body::Body;
use crate::error::{Failure, Flag, grpc_status};
use crate::grpc;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, Response};

const OVERLOADED: HeaderName = HeaderName::from_static("x-envoy-overloaded");

/// The client's answer for `failure`. `request`: the request's fields; `to`: where it was headed.
pub fn local(failure: &Failure, request: &HeaderMap, to: &str, endpoint: Option<EndpointAddr>) -> Response<Body> {
    let answer = failure.answer();
    let text = match endpoint {
        Some(endpoint) => format!("{failure} ({to}, endpoint {endpoint})"),
        None => format!("{failure} ({to})"),
    };
    let mut response = if grpc::is_grpc(request) {
        grpc::trailers_only(grpc_status(answer.status), &text)
    } else {
        let mut response = Response::new(Body::Full(Bytes::from(text)));
        *response.status_mut() = answer.status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        response
    };
    if answer.flag == Flag::UO {
        response.headers_mut().insert(OVERLOADED, HeaderValue::from_static("true"));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ConnectError;
    use http::StatusCode;

    #[test]
    fn says_what_failed_and_where() {
        let failure = Failure::Connect(ConnectError::Refused);
        let endpoint = EndpointAddr::new(([10, 244, 1, 5], 9000).into());
        let to = "ws002-pingpong.default.svc.cluster.local:9000";
        let plain = local(&failure, &HeaderMap::new(), to, Some(endpoint));
        assert_eq!(plain.status(), StatusCode::SERVICE_UNAVAILABLE);
        let mut fields = HeaderMap::new();
        fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        let grpc = local(&failure, &fields, to, Some(endpoint));
        assert_eq!(grpc.status(), StatusCode::OK);
        assert_eq!(grpc.headers()[&grpc::GRPC_STATUS], "14");
        assert_eq!(
            grpc.headers()[&grpc::GRPC_MESSAGE],
            "upstream connect error or disconnect/reset before headers. reset reason: connection refused \
             (ws002-pingpong.default.svc.cluster.local:9000, endpoint 10.244.1.5:9000)"
        );
        assert!(grpc.body().is_end(), "trailers-only");
    }
}
