//! The admin socket: `<run-dir>/agent.sock`, HTTP/1.1 and JSON, for `mesh-agent`'s subcommands and for people with curl.
//!
//! Place: beside the data path, on the control thread. The server only translates: each request becomes a [`Question`]
//! to the control loop, which owns the state and answers it.
//! Invariant: only the agent's own user and root are answered; the file mode says so and each peer's credentials are
//! checked again.

mod routes;
mod server;
pub mod view;

pub use server::{AdminError, bind, serve, serve_metrics};

use crate::telemetry::Format;
use crate::telemetry::tap::TapQuestion;
use bytes::Bytes;
use futures_util::stream::{BoxStream, Stream, StreamExt as _};
use std::fmt;
use tokio::sync::{mpsc, oneshot};

/// Name of the socket in the run directory.
pub const SOCKET_NAME: &str = "agent.sock";

/// What can be asked, one per route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    Status,
    Endpoints,
    Services,
    Workloads,
    Kernel,
    Graph,
    Traffic,
    Snapshot,
    Diagnostics,
    Connections,
    Explain(Box<crate::explain::Question>),
    Seen(crate::explain::seen::Look),
    LogLevel,
    SetLogLevel(String),
    SetSkMsg(bool),
    Metrics(Format),
    Tap(TapQuestion),
    /// `/readyz`
    Ready,
}

/// An answer's body; its type decides the content type.
#[derive(Debug)]
pub enum Answer {
    Json(Vec<u8>),
    Text(String),
    /// In the format that was asked for.
    Metrics(Format, String),
    /// Goes on until it has nothing more to say, or whoever asked leaves.
    Lines(Lines),
}

/// JSON objects, each on a line of its own, as they come; an item is some lines.
pub struct Lines(pub(crate) BoxStream<'static, Bytes>);

impl Answer {
    pub fn json<T: serde::Serialize>(value: &T) -> Result<Self, Refusal> {
        serde_json::to_vec(value).map(Self::Json).map_err(|error| Refusal::Failed(error.to_string()))
    }
}

impl Lines {
    pub fn new(lines: impl Stream<Item = Bytes> + Send + 'static) -> Self {
        Self(lines.boxed())
    }
}

impl fmt::Debug for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lines")
    }
}

/// Why a question has no answer, in words for whoever asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// 400: the value asked for makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// 409: not as this agent runs.
    #[error("{0}")]
    Unavailable(String),
    /// 503
    #[error("{0}")]
    NotReady(String),
    /// 500
    #[error("{0}")]
    Failed(String),
}

/// A question and where its answer goes.
#[derive(Debug)]
pub struct Ask {
    pub question: Question,
    pub reply: oneshot::Sender<Result<Answer, Refusal>>,
}

/// Asks the control loop; `Failed` while it is ending.
#[derive(Clone, Debug)]
pub struct Asker(mpsc::Sender<Ask>);

impl Asker {
    /// The handle and the control loop's end of it.
    pub fn new() -> (Self, mpsc::Receiver<Ask>) {
        let (send, receive) = mpsc::channel(16);
        (Self(send), receive)
    }

    pub async fn ask(&self, question: Question) -> Result<Answer, Refusal> {
        let ending = || Refusal::Failed("the agent is stopping".into());
        let (reply, answer) = oneshot::channel();
        self.0.send(Ask { question, reply }).await.map_err(|_| ending())?;
        answer.await.map_err(|_| ending())?
    }
}

#[cfg(test)]
mod tests;
