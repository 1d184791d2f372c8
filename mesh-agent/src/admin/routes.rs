//! Method and path → question; answer → response.

use super::view::Failure;
use super::{Answer, Lines, Question, Refusal};
use crate::telemetry::Format;
use bytes::Bytes;
use futures_util::stream::StreamExt as _;
use http::header::{ACCEPT, ALLOW, CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Method, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;
use std::convert::Infallible;

/// Every path and how it is used, for `GET /` and for the answer to a wrong one.
const PATHS: &[(&str, &str)] = &[
    ("GET /status", "is the mesh in order on this node, and if not, why"),
    ("GET /endpoints", "health, load, latency and failures of each endpoint"),
    ("GET /services", "addresses, ports, protocols, who balances them"),
    ("GET /workloads", "pods: in the mesh, served elsewhere, or outside and why"),
    ("GET /kernel", "programs, maps (decoded), counters"),
    ("GET /snapshot", "the configuration in force, as compiled"),
    ("GET /graph", "who calls whom, counted since the start"),
    ("GET /traffic", "requests by route and by pod, counted since the start"),
    ("GET /diagnostics", "what is wrong with the configuration"),
    ("GET /connections", "open connections: counts, and the oldest one by one"),
    (
        "POST /explain",
        "body: {\"from\": \"default/web\", \"url\": \"reviews:9080/\"}: why a request goes where it goes",
    ),
    (
        "POST /seen",
        "body: {\"from\": \"default/web\", \"what\": \"routes\"}: services, routes, endpoints or certificates as a pod sees them",
    ),
    (
        "POST /tap",
        "body: {\"from\": [\"default/web\"], \"codes\": [\"5xx\"]}: requests as they pass, a JSON object each; goes on until you leave",
    ),
    ("GET /metrics", "Prometheus text, or OpenMetrics for whoever accepts it"),
    ("GET /readyz", "503 until this node's pods are served, and while stopping"),
    ("GET|PUT /log-level", "body: a filter such as info,mesh_agent::connect=debug"),
    ("PUT /kernel/sk-msg", "body: on or off"),
];

/// Longest body anything here takes, bytes.
pub(super) const MAX_BODY: usize = 64 << 10;

pub(super) type Body = UnsyncBoxBody<Bytes, Infallible>;

/// What a request that is no question is answered.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wrong {
    Index,
    Path,
    Method(&'static str),
    Body(String),
}

/// What the client can read.
pub(super) fn format(headers: &HeaderMap) -> Format {
    headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).map(Format::of).unwrap_or_default()
}

pub(super) fn question(method: &Method, path: &str, format: Format, body: &[u8]) -> Result<Question, Wrong> {
    let read = |question| if method == Method::GET { Ok(question) } else { Err(Wrong::Method("GET")) };
    match path {
        "/" => Err(Wrong::Index),
        "/status" => read(Question::Status),
        "/endpoints" => read(Question::Endpoints),
        "/services" => read(Question::Services),
        "/workloads" => read(Question::Workloads),
        "/kernel" => read(Question::Kernel),
        "/snapshot" => read(Question::Snapshot),
        "/graph" => read(Question::Graph),
        "/traffic" => read(Question::Traffic),
        "/diagnostics" => read(Question::Diagnostics),
        "/connections" => read(Question::Connections),
        "/metrics" => read(Question::Metrics(format)),
        "/readyz" => read(Question::Ready),
        "/explain" if method == Method::POST => match serde_json::from_slice(body) {
            Ok(question) => Ok(Question::Explain(Box::new(question))),
            Err(error) => Err(Wrong::Body(format!("the body is no question: {error}"))),
        },
        "/seen" if method == Method::POST => match serde_json::from_slice(body) {
            Ok(look) => Ok(Question::Seen(look)),
            Err(error) => Err(Wrong::Body(format!("the body is no question: {error}"))),
        },
        "/tap" if method == Method::POST => match serde_json::from_slice(body) {
            Ok(question) => Ok(Question::Tap(question)),
            Err(error) => Err(Wrong::Body(format!("the body is no question: {error}"))),
        },
        "/explain" | "/seen" | "/tap" => Err(Wrong::Method("POST")),
        "/log-level" if method == Method::GET => Ok(Question::LogLevel),
        "/log-level" if method == Method::PUT => Ok(Question::SetLogLevel(text(body)?.to_owned())),
        "/log-level" => Err(Wrong::Method("GET, PUT")),
        "/kernel/sk-msg" if method == Method::PUT => match text(body)? {
            "on" => Ok(Question::SetSkMsg(true)),
            "off" => Ok(Question::SetSkMsg(false)),
            other => Err(Wrong::Body(format!("sk-msg is `on` or `off`, not `{other}`"))),
        },
        "/kernel/sk-msg" => Err(Wrong::Method("PUT")),
        _ => Err(Wrong::Path),
    }
}

pub(super) fn answer(answer: Result<Answer, Refusal>) -> Response<Body> {
    match answer {
        Ok(Answer::Json(body)) => respond(StatusCode::OK, "application/json", body),
        Ok(Answer::Text(text)) => respond(StatusCode::OK, "text/plain", text),
        Ok(Answer::Metrics(format, text)) => respond(StatusCode::OK, format.content_type(), text),
        Ok(Answer::Lines(Lines(lines))) => {
            let body = StreamBody::new(lines.map(|lines| Ok(Frame::data(lines)))).boxed_unsync();
            response(StatusCode::OK, "application/x-ndjson", body)
        }
        Err(refusal) => {
            let status = match refusal {
                Refusal::Invalid(_) => StatusCode::BAD_REQUEST,
                Refusal::Unavailable(_) => StatusCode::CONFLICT,
                Refusal::NotReady(_) => StatusCode::SERVICE_UNAVAILABLE,
                Refusal::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
            };
            failure(status, &refusal.to_string())
        }
    }
}

pub(super) fn wrong(wrong: Wrong) -> Response<Body> {
    let list = || PATHS.iter().map(|(path, what)| format!("{path:<20} {what}\n")).collect::<String>();
    match wrong {
        Wrong::Index => respond(StatusCode::OK, "text/plain", list()),
        Wrong::Path => failure(StatusCode::NOT_FOUND, &format!("no such path; there are:\n{}", list())),
        Wrong::Body(text) => failure(StatusCode::BAD_REQUEST, &text),
        Wrong::Method(allowed) => {
            let mut response = failure(StatusCode::METHOD_NOT_ALLOWED, &format!("this path takes {allowed}"));
            response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
            response
        }
    }
}

pub(super) fn failure(status: StatusCode, error: &str) -> Response<Body> {
    // A struct of one string always serialises; an empty body would still carry the status.
    let body = serde_json::to_vec(&Failure { error: error.to_owned() }).unwrap_or_default();
    respond(status, "application/json", body)
}

fn respond(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    response(status, content_type, Full::new(body.into()).boxed_unsync())
}

fn response(status: StatusCode, content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

fn text(body: &[u8]) -> Result<&str, Wrong> {
    let text = std::str::from_utf8(body).map_err(|_| Wrong::Body("the body is not UTF-8".into()))?.trim();
    if text.is_empty() { Err(Wrong::Body("the body is empty: it is the new value".into())) } else { Ok(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(method: &Method, path: &str, body: &[u8]) -> Result<Question, Wrong> {
        super::question(method, path, Format::Text, body)
    }

    #[test]
    fn each_listed_path_is_a_question() {
        for (entry, _) in PATHS {
            let (methods, path) = entry.split_once(' ').expect("method and path");
            for method in methods.split('|') {
                let method = method.parse().expect("method");
                let body = match path {
                    "/explain" => &br#"{"url": "a"}"#[..],
                    "/tap" => br#"{"codes": ["5xx"]}"#,
                    "/seen" => br#"{"from": "a", "what": "routes"}"#,
                    _ => b"on",
                };
                let asked = question(&method, path, body);
                assert!(asked.is_ok(), "{method} {path}: {asked:?}");
                assert!(matches!(question(&Method::DELETE, path, b""), Err(Wrong::Method(_))), "DELETE {path}");
            }
        }
        assert_eq!(question(&Method::GET, "/nope", b""), Err(Wrong::Path));
    }

    #[test]
    fn values_are_checked_before_they_are_asked() {
        assert_eq!(question(&Method::PUT, "/kernel/sk-msg", b"off\n"), Ok(Question::SetSkMsg(false)));
        assert!(matches!(question(&Method::PUT, "/kernel/sk-msg", b"maybe"), Err(Wrong::Body(_))));
        assert!(matches!(question(&Method::POST, "/explain", b"{}"), Err(Wrong::Body(_))));
        assert!(matches!(question(&Method::PUT, "/log-level", b" "), Err(Wrong::Body(_))));
        assert!(matches!(question(&Method::PUT, "/log-level", &[0xff]), Err(Wrong::Body(_))));
    }
}
