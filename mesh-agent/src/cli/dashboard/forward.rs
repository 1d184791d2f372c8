//! One question to one agent's socket; its answer, as it comes.

use super::server::Body;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http::{HeaderValue, Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use std::io;
use std::path::Path;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::time::timeout;

/// Longest wait for an answer's head; an agent answers from memory.
const PATIENCE: Duration = Duration::from_secs(10);

/// An agent that does not answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Silent {
    #[error("{0}")]
    Unreachable(io::Error),
    #[error("{0}")]
    Broken(#[from] hyper::Error),
    #[error("no answer within {} s", PATIENCE.as_secs())]
    Late,
}

/// The body is passed on as it arrives: answers of some questions never end by themselves. Whoever drops it ends the
/// question.
pub(super) async fn ask(socket: &Path, method: Method, path: &str, body: Bytes) -> Result<Response<Body>, Silent> {
    let answer = async {
        let stream = UnixStream::connect(socket).await.map_err(Silent::Unreachable)?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = path.parse().map_err(|_| Silent::Unreachable(io::ErrorKind::InvalidInput.into()))?;
        request.headers_mut().insert(HOST, HeaderValue::from_static("agent"));
        Ok(sender.send_request(request).await?)
    };
    let answer = timeout(PATIENCE, answer).await.unwrap_or(Err(Silent::Late))?;
    let (head, body) = answer.into_parts();
    let mut response = Response::new(body.map_err(io::Error::other).boxed_unsync());
    *response.status_mut() = head.status;
    if let Some(content_type) = head.headers.get(CONTENT_TYPE) {
        response.headers_mut().insert(CONTENT_TYPE, content_type.clone());
    }
    Ok(response)
}
