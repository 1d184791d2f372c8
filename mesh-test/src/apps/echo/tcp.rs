//! TCP echo: a line in, the prefix, a space and the line out; as Istio's tcp-echo sample.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::finish;
use crate::apps::listen::Connection;
use crate::apps::pod::Pod;

/// A longer line is answered in pieces of this size.
const LINE_LIMIT: usize = 64 * 1024;

/// How to answer on a TCP port.
#[derive(Debug, Clone)]
pub(super) struct Server {
    pod: Pod,
    prefix: Vec<u8>,
    greets: bool,
}

impl Server {
    /// With `greets` the server speaks first: `220 <pod> ready`.
    pub(super) fn new(pod: &Pod, prefix: &str, greets: bool) -> Self {
        Self { pod: pod.clone(), prefix: format!("{prefix} ").into_bytes(), greets }
    }

    /// Serves until `connections` ends, then gives those still open `drain`.
    pub(super) async fn serve(self, mut connections: mpsc::Receiver<Connection>, drain: Duration) {
        let mut tasks = JoinSet::new();
        while let Some(connection) = connections.recv().await {
            let server = self.clone();
            tasks.spawn(async move { server.answer(connection).await });
            while tasks.try_join_next().is_some() {}
        }
        finish(tasks, drain).await;
    }

    /// Answers one connection until its end. A reset by the peer is its business.
    pub(super) async fn answer(&self, mut connection: Connection) {
        let _ = self.echo(&mut connection).await;
    }

    async fn echo(&self, connection: &mut Connection) -> io::Result<()> {
        if self.greets {
            connection.write_all(format!("220 {} ready\r\n", self.pod.name).as_bytes()).await?;
        }
        let mut pending = Vec::with_capacity(4096);
        loop {
            let read = connection.read_buf(&mut pending).await?;
            let mut answers = Vec::new();
            let mut rest = pending.as_slice();
            while let Some(end) = line_end(rest) {
                let (line, after) = rest.split_at(end);
                self.pod.count_call();
                answers.extend_from_slice(&self.prefix);
                answers.extend_from_slice(line);
                rest = after;
            }
            // The peer's last line may lack its end; it still waits for the answer on its half-closed connection.
            if read == 0 && !rest.is_empty() {
                self.pod.count_call();
                answers.extend_from_slice(&self.prefix);
                answers.extend_from_slice(rest);
            }
            let consumed = pending.len() - rest.len();
            connection.write_all(&answers).await?;
            if read == 0 {
                return connection.shutdown().await;
            }
            pending.drain(..consumed);
        }
    }
}

/// Bytes up to and with the first newline, or a full piece of a line that has none in sight.
fn line_end(bytes: &[u8]) -> Option<usize> {
    match bytes.iter().position(|byte| *byte == b'\n') {
        Some(newline) => Some(newline + 1),
        None => (bytes.len() >= LINE_LIMIT).then_some(bytes.len()),
    }
}
