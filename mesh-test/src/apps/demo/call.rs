//! Calls between the demos' services: HTTP/1.1, a connection for each, with the headers that a good citizen of a mesh
//! hands on.

use super::Asked;
use super::table::Call;
use crate::apps::dial::{Dialer, split_target};
use axum::body::Bytes;
use http::{HeaderMap, Request, header};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde_json::{Value, json};
use std::time::Duration;

/// What became of a call.
#[derive(Debug, Serialize)]
pub(super) struct Heard {
    pub(super) to: &'static str,
    /// 0: there was no answer.
    pub(super) status: u16,
    pub(super) answer: Value,
    /// Why there was none; empty if there was.
    pub(super) error: String,
}

/// Tracing contexts of all kinds, the user, the session.
const HANDED_ON: &[&str] = &[
    "x-request-id",
    "x-b3-traceid",
    "x-b3-spanid",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-b3-flags",
    "b3",
    "traceparent",
    "tracestate",
    "baggage",
    "x-cloud-trace-context",
    "grpc-trace-bin",
    "sw8",
    "authorization",
    "cookie",
    "user-agent",
    "jwt",
    "end-user",
];

impl Heard {
    /// The answer, if it was a good one.
    pub(super) fn good(&self) -> Option<&Value> {
        (200..400).contains(&self.status).then_some(&self.answer)
    }
}

/// What of a request's headers goes on; a signed-in user becomes `end-user`, as in Bookinfo.
pub(super) fn handed_on(from: &HeaderMap, user: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for name in HANDED_ON {
        if let Some(value) = from.get(*name) {
            headers.insert(*name, value.clone());
        }
    }
    if let (false, Ok(user)) = (user.is_empty(), user.parse()) {
        headers.insert("end-user", user);
    }
    headers
}

/// Makes a call, again if it fails and may be.
pub(super) async fn call(call: &'static Call, dialer: &Dialer, asked: &Asked) -> Heard {
    let mut heard = once(call, dialer, asked).await;
    for _ in 1..call.tries {
        if heard.good().is_some() {
            break;
        }
        heard = once(call, dialer, asked).await;
    }
    heard
}

async fn once(call: &'static Call, dialer: &Dialer, asked: &Asked) -> Heard {
    let limit = Duration::from_millis(call.timeout_ms);
    let attempt = tokio::time::timeout(limit, exchange(call, dialer, asked)).await;
    let result = attempt.unwrap_or_else(|_| Err(anyhow::anyhow!("no answer in {limit:?}")));
    match result {
        Ok((status, answer)) => Heard { to: call.to, status, answer, error: String::new() },
        Err(error) => Heard { to: call.to, status: 0, answer: Value::Null, error: format!("{error:#}") },
    }
}

async fn exchange(call: &Call, dialer: &Dialer, asked: &Asked) -> anyhow::Result<(u16, Value)> {
    let target = if call.to.contains(':') { call.to.to_owned() } else { format!("{}:80", call.to) };
    let (host, port) = split_target(&target)?;
    let stream = dialer.connect(host, port).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let path = call.path.replace("{id}", &asked.id.to_string());
    let mut request = Request::get(path).header(header::HOST, call.to).body(Full::<Bytes>::default())?;
    request.headers_mut().extend(asked.hand_on.clone());
    let response = sender.send_request(request).await;
    let read = async {
        let (head, body) = response?.into_parts();
        let body = body.collect().await?.to_bytes();
        let text = || json!(String::from_utf8_lossy(&body).trim());
        Ok((head.status.as_u16(), serde_json::from_slice(&body).unwrap_or_else(|_| text())))
    };
    let read = read.await;
    connection.abort();
    read
}
