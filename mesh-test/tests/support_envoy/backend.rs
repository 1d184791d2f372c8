//! Endpoints that say what they got. A request's `x-do` tells them what else to do: `status=503`, `fail=2` (the first two
//! attempts get 503), `close` (no answer), `sleep=300` (milliseconds), `grpc=14` (trailers-only), `set-NAME=VALUE`.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpListener;

/// Attempts seen, by case and far end.
type Attempts = Arc<Mutex<BTreeMap<String, u32>>>;

/// Starts one; `http2`: it speaks nothing else.
pub(crate) async fn start(name: &'static str, http2: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let addr = listener.local_addr().expect("bound");
    let attempts = Attempts::default();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let attempts = Arc::clone(&attempts);
            let service = service_fn(move |request| answer(name, request, Arc::clone(&attempts)));
            let io = TokioIo::new(stream);
            // A client that goes is no failure of the test.
            tokio::spawn(async move {
                let _ = if http2 {
                    hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await
                } else {
                    hyper::server::conn::http1::Builder::new().serve_connection(io, service).await
                };
            });
        }
    });
    addr
}

async fn answer(
    name: &str,
    request: Request<Incoming>,
    attempts: Attempts,
) -> Result<Response<Full<Bytes>>, std::io::Error> {
    let header = |name: &str| request.headers().get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    let attempt = {
        let mut attempts = attempts.lock().expect("no panic while locked");
        let count = attempts.entry(header("x-case")).or_default();
        *count += 1;
        *count
    };
    let headers: BTreeMap<&str, String> = request
        .headers()
        .keys()
        .map(|name| {
            let all: Vec<_> =
                request.headers().get_all(name).iter().map(|v| String::from_utf8_lossy(v.as_bytes())).collect();
            (name.as_str(), all.join(","))
        })
        .collect();
    let host = request.uri().authority().map_or_else(|| header("host"), ToString::to_string);
    let path = request.uri().path_and_query().map_or("", |p| p.as_str());
    let echo = json!({
        "backend": name, "method": request.method().as_str(), "path": path, "host": host, "headers": headers,
        "attempt": attempt,
    });
    let mut response = Response::new(Full::new(Bytes::from(echo.to_string())));
    response.headers_mut().insert("x-backend", HeaderValue::from_static("yes"));
    for wish in header("x-do").split(';').filter(|wish| !wish.is_empty()) {
        let (what, value) = wish.split_once('=').unwrap_or((wish, ""));
        match what {
            "status" => *response.status_mut() = value.parse().expect("a status"),
            "fail" if attempt <= value.parse().expect("a number") => {
                *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            }
            "fail" => {}
            "close" => return Err(std::io::Error::other("asked to close")),
            "sleep" => tokio::time::sleep(Duration::from_millis(value.parse().expect("milliseconds"))).await,
            "grpc" => {
                response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
                response.headers_mut().insert("grpc-status", value.parse().expect("a status"));
                *response.body_mut() = Full::default();
            }
            other => {
                let name = other.strip_prefix("set-").unwrap_or_else(|| panic!("x-do: {other}"));
                let name: HeaderName = name.parse().expect("a header's name");
                response.headers_mut().insert(name, value.parse().expect("a header's value"));
            }
        }
    }
    Ok(response)
}
