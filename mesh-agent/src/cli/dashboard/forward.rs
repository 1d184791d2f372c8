//! One question to one agent; its answer, as it comes.

use super::server::Body;
use crate::cli::client::Agent;
use crate::fleet::PipeError;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http::{HeaderValue, Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio::sync::Mutex;
use tokio::time::timeout;

/// Longest wait for an answer's head; an agent answers from memory.
const PATIENCE: Duration = Duration::from_secs(10);

type Sender = SendRequest<Full<Bytes>>;

/// To one agent. A pod is asked over one stream that stays open, a question at a time: each exec is a process there.
pub(super) struct Line {
    pub(super) agent: Agent,
    kept: Mutex<Option<Sender>>,
}

/// An agent that does not answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Silent {
    #[error("{0}")]
    Unreachable(io::Error),
    #[error("{0}")]
    Pod(#[from] PipeError),
    #[error("{0}")]
    Broken(#[from] hyper::Error),
    #[error("no answer within {} s", PATIENCE.as_secs())]
    Late,
}

impl Line {
    pub(super) fn new(agent: Agent) -> Self {
        Self { agent, kept: Mutex::default() }
    }

    /// The body is passed on as it arrives: answers of some questions never end by themselves. Whoever drops it ends the
    /// question.
    pub(super) async fn ask(&self, method: Method, path: &str, body: Bytes) -> Result<Response<Body>, Silent> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = path.parse().map_err(|_| Silent::Unreachable(io::ErrorKind::InvalidInput.into()))?;
        request.headers_mut().insert(HOST, HeaderValue::from_static("agent"));
        let answer = async {
            match &self.agent {
                Agent::Socket(socket) => {
                    let stream = UnixStream::connect(socket).await.map_err(Silent::Unreachable)?;
                    Ok(handshake(stream).await?.send_request(request).await?)
                }
                Agent::Pod(member, _) => {
                    let mut kept = self.kept.lock().await;
                    let mut open = kept.take();
                    let usable = match &mut open {
                        Some(sender) => sender.ready().await.is_ok(),
                        None => false,
                    };
                    let mut sender = match open.filter(|_| usable) {
                        Some(sender) => sender,
                        None => handshake(member.open().await?).await?,
                    };
                    let answer = sender.send_request(request).await?;
                    *kept = Some(sender);
                    Ok(answer)
                }
            }
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
}

async fn handshake(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Result<Sender, hyper::Error> {
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}
