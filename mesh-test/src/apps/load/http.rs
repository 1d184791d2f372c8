//! HTTP calls: one request at a time on an HTTP/1.1 connection, any number on an HTTP/2 one.

use anyhow::Context as _;
use axum::body::Bytes;
use http::{Request, Response, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::sync::Mutex;

use super::client::{Answer, CallArgs, Failure, Kind};
use crate::apps::SERVED_BY;
use crate::apps::dial::Dialer;

type Payload = Full<Bytes>;

/// An HTTP/1.1 connection; calls wait for one another.
#[derive(Debug, Default)]
pub(super) struct One(Mutex<Option<http1::SendRequest<Payload>>>);

/// An HTTP/2 connection; calls share it.
#[derive(Debug, Default)]
pub(super) struct Shared(Mutex<Option<http2::SendRequest<Payload>>>);

impl One {
    pub(super) async fn call(
        &self,
        args: &CallArgs,
        dialer: &Dialer,
        host: &str,
        port: u16,
    ) -> Result<Answer, Failure> {
        let mut held = self.0.lock().await;
        // Taken while in use: a call that is dropped at its timeout leaves no half-read connection behind.
        let open = held.take().filter(|sender| !sender.is_closed());
        let mut sender = match open {
            Some(sender) => sender,
            None => {
                let stream = dialer.connect(host, port).await.map_err(|error| Failure::new("Connect", error))?;
                let (sender, connection) =
                    http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
                tokio::spawn(async move { drop(connection.await) });
                sender
            }
        };
        sender.ready().await.map_err(|error| broken(&error))?;
        let request = request(args).map_err(|error| Failure::new("Request", format!("{error:#}")))?;
        let response = sender.send_request(request).await.map_err(|error| broken(&error))?;
        let answer = read(response, args).await;
        *held = Some(sender);
        answer
    }
}

impl Shared {
    pub(super) async fn call(
        &self,
        args: &CallArgs,
        dialer: &Dialer,
        host: &str,
        port: u16,
    ) -> Result<Answer, Failure> {
        let mut sender = self.sender(dialer, host, port).await?;
        sender.ready().await.map_err(|error| broken(&error))?;
        let request = request(args).map_err(|error| Failure::new("Request", format!("{error:#}")))?;
        read(sender.send_request(request).await.map_err(|error| broken(&error))?, args).await
    }

    async fn sender(&self, dialer: &Dialer, host: &str, port: u16) -> Result<http2::SendRequest<Payload>, Failure> {
        let mut held = self.0.lock().await;
        if let Some(sender) = held.as_ref().filter(|sender| !sender.is_closed()) {
            return Ok(sender.clone());
        }
        let stream = dialer.connect(host, port).await.map_err(|error| Failure::new("Connect", error))?;
        let (sender, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
        tokio::spawn(async move { drop(connection.await) });
        *held = Some(sender.clone());
        Ok(sender)
    }
}

/// The request that `args` describe.
pub(super) fn request(args: &CallArgs) -> anyhow::Result<Request<Payload>> {
    let path = if args.path.starts_with('/') { args.path.clone() } else { format!("/{}", args.path) };
    let builder = match args.kind {
        Kind::Http2 => {
            let uri = Uri::builder().scheme("http").authority(args.target.as_str()).path_and_query(path).build();
            Request::builder().uri(uri.with_context(|| format!("`{}` is no path", args.path))?)
        }
        Kind::Http | Kind::Grpc | Kind::Tcp => Request::builder().uri(path).header(http::header::HOST, &args.target),
    };
    let method = if args.bytes > 0 { http::Method::POST } else { http::Method::GET };
    let builder = args.metadata.iter().fold(builder.method(method), |builder, (key, value)| builder.header(key, value));
    builder.body(Full::new(Bytes::from(vec![b'.'; args.bytes]))).context("the path or a header is not allowed")
}

async fn read(response: Response<Incoming>, args: &CallArgs) -> Result<Answer, Failure> {
    let (head, body) = response.into_parts();
    let body = body.collect().await.map_err(|error| broken(&error))?.to_bytes();
    let text = String::from_utf8_lossy(&body);
    if head.status.is_client_error() || head.status.is_server_error() {
        return Err(Failure::new(head.status.as_str(), text.trim().chars().take(300).collect::<String>()));
    }
    let named = head.headers.get(SERVED_BY).and_then(|name| name.to_str().ok()).map(str::to_owned);
    // helloworld's own image says it only in words: "Hello version: v1, instance: helloworld-v1-…".
    let named = named.or_else(|| text.split("instance: ").nth(1).map(|rest| rest.trim().to_owned()));
    let parsed = serde_json::from_slice(&body).unwrap_or_else(|_| json!(text.chars().take(1000).collect::<String>()));
    let headers: Vec<_> =
        head.headers.iter().map(|(name, value)| (name.as_str(), String::from_utf8_lossy(value.as_bytes()))).collect();
    let last = json!({ "status": head.status.as_u16(), "headers": headers, "body_bytes": body.len(), "body": parsed });
    Ok(Answer { replica: named.unwrap_or_else(|| args.target.clone()), messages: 1, last })
}

fn broken(error: &hyper::Error) -> Failure {
    let mut text = error.to_string();
    if let Some(cause) = std::error::Error::source(error) {
        text = format!("{text}: {cause}");
    }
    Failure::new("Broken", text)
}
