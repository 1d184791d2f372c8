//! A stream to one agent's admin socket: `exec` in its pod, standard streams joined to the socket there.

use super::Member;
use kube::api::{AttachParams, AttachedProcess};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{
    AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Join, ReadBuf, ReadHalf, SimplexStream, WriteHalf,
};
use tokio::time::timeout;

/// What the agent's image and the DaemonSet call them.
const COMMAND: [&str; 2] = ["/usr/bin/mesh-agent", "admin-pipe"];
const CONTAINER: &str = "agent";
/// Bytes of an answer on their way.
const BUFFER: usize = 64 << 10;
/// Longest wait for the API server, the kubelet and the agent together.
const PATIENCE: Duration = Duration::from_secs(20);

/// Both directions; dropping it ends the process in the pod.
pub struct Exchange {
    streams: Join<ReadHalf<SimplexStream>, WriteHalf<SimplexStream>>,
    process: AttachedProcess,
}

#[derive(Debug, thiserror::Error)]
pub enum PipeError {
    #[error("{0}")]
    Silent(String),
    #[error("exec in its pod: {0}")]
    Exec(#[from] kube::Error),
    #[error("the stream broke: {0}")]
    Broken(#[from] io::Error),
    /// The process ended without a word on stdout; what it, or the kubelet, said instead.
    #[error("{0}")]
    Failed(String),
    #[error("no answer within {} s", PATIENCE.as_secs())]
    Late,
}

impl Member {
    /// # Errors
    /// The agent's pod does not run, or the API server refuses or is silent.
    pub async fn open(&self) -> Result<Exchange, PipeError> {
        timeout(PATIENCE, self.exec()).await.unwrap_or(Err(PipeError::Late))
    }

    async fn exec(&self) -> Result<Exchange, PipeError> {
        if let Some(why) = &self.silent {
            return Err(PipeError::Silent(why.clone()));
        }
        let streams = AttachParams::default().container(CONTAINER).stdin(true).stdout(true).stderr(true);
        let mut process =
            self.api.exec(&self.pod, COMMAND, &streams.max_stdout_buf_size(BUFFER).max_stderr_buf_size(BUFFER)).await?;
        match (process.stdout(), process.stdin()) {
            (Some(out), Some(into)) => Ok(Exchange { streams: tokio::io::join(out, into), process }),
            _ => Err(PipeError::Failed("exec gave no streams".into())),
        }
    }

    /// Sends one HTTP/1.0 request and reads until the agent closes.
    ///
    /// # Errors
    /// Whatever keeps the agent from answering.
    pub async fn ask(&self, request: &[u8]) -> Result<Vec<u8>, PipeError> {
        let asked = async {
            let mut exchange = self.open().await?;
            // A process that failed takes nothing; what it said is worth more than the broken pipe.
            let sent = async {
                exchange.write_all(request).await?;
                exchange.flush().await
            };
            let sent = sent.await;
            let mut answer = Vec::new();
            exchange.read_to_end(&mut answer).await?;
            if answer.is_empty() {
                return Err(PipeError::Failed(exchange.last_words().await));
            }
            sent?;
            Ok(answer)
        };
        timeout(PATIENCE, asked).await.unwrap_or(Err(PipeError::Late))
    }
}

impl Exchange {
    /// What the process wrote to stderr, or how it ended.
    async fn last_words(&mut self) -> String {
        let mut said = Vec::new();
        if let Some(mut stderr) = self.process.stderr() {
            let _ = stderr.read_to_end(&mut said).await;
        }
        let said = String::from_utf8_lossy(&said).trim().to_owned();
        let status = match self.process.take_status() {
            Some(status) => status.await.and_then(|status| status.message),
            None => None,
        };
        match (said.is_empty(), status) {
            (false, _) => said.strip_prefix("error: ").unwrap_or(&said).to_owned(),
            (true, Some(message)) => message,
            (true, None) => "the stream ended without an answer".into(),
        }
    }
}

impl AsyncRead for Exchange {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.streams).poll_read(cx, buf)
    }
}

impl AsyncWrite for Exchange {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.streams).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.streams).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.streams).poll_shutdown(cx)
    }
}
