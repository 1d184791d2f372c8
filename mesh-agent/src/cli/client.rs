//! One question to the agent's admin socket, one answer, or many lines of one.
//!
//! HTTP/1.0 by hand: the agent answers with a whole body and closes. On its node over a blocking socket, so that a command
//! needs no runtime and starts in a millisecond; from elsewhere through its pod (`crate::fleet`).

use crate::admin::view::Failure;
use crate::fleet::{Member, PipeError};
use futures_util::future::join_all;
use serde::de::DeserializeOwned;
use std::fmt;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::runtime::Runtime;

/// Longest wait for the agent; it answers from memory.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Exit code 3.
    #[error("cannot reach the agent at {}: {source}\n  {}", path.display(), hint(source))]
    Unreachable { path: PathBuf, source: io::Error },
    /// Exit code 3.
    #[error("the agent on {agent} does not answer: {source}")]
    Silent { agent: String, source: Box<PipeError> },
    #[error("the agent at {agent} stopped answering: {source}")]
    Broken { agent: String, source: io::Error },
    /// It was to tell more.
    #[error("the agent at {0} has ended")]
    Ended(String),
    /// The agent understood and refused; the text is its own.
    #[error("{0}")]
    Refused(String),
    #[error(
        "the agent's answer to {path} is not what this version of mesh-agent expects: {source}\n  are both of one version? compare `mesh-agent version` with `mesh-agent status`"
    )]
    Strange { path: String, source: serde_json::Error },
}

/// One agent, and how it is asked.
#[derive(Clone)]
pub(crate) enum Agent {
    /// Its admin socket on this machine.
    Socket(PathBuf),
    /// Its pod, through the API server, on the runtime that found it.
    Pod(Box<Member>, Arc<Runtime>),
}

/// Asks one agent.
#[derive(Clone)]
pub(crate) struct Client {
    agent: Agent,
}

/// An answer that goes on.
pub(crate) struct Lines {
    path: String,
    agent: String,
    reader: BufReader<Box<dyn Duplex>>,
    line: Vec<u8>,
}

trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}

impl Client {
    pub(crate) fn new(agent: Agent) -> Self {
        Self { agent }
    }

    pub(crate) fn read<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        parse(path, &self.call("GET", path, "")?)
    }

    pub(crate) fn write<T: DeserializeOwned>(&self, path: &str, body: &str) -> Result<T, ClientError> {
        parse(path, &self.call("PUT", path, body)?)
    }

    /// A question that needs more words than a path.
    pub(crate) fn ask<T: DeserializeOwned>(&self, path: &str, body: &str) -> Result<T, ClientError> {
        parse(path, &self.call("POST", path, body)?)
    }

    /// The body of a 2xx answer; otherwise the agent's own words as an error.
    fn call(&self, method: &str, path: &str, body: &str) -> Result<Vec<u8>, ClientError> {
        let request = request(method, path, body);
        let answer = match &self.agent {
            Agent::Socket(socket) => over(socket, &request)?,
            Agent::Pod(member, runtime) => {
                runtime.block_on(member.ask(&request)).map_err(|source| silent(member, source))?
            }
        };
        let strange =
            || ClientError::Broken { agent: self.agent.to_string(), source: io::ErrorKind::InvalidData.into() };
        body_of(&answer, method, path, strange)
    }

    pub(crate) fn name(&self) -> String {
        self.agent.to_string()
    }

    /// Where answers that go on are read: a pod is reached on the runtime that found it.
    pub(crate) fn runtime(&self) -> io::Result<Arc<Runtime>> {
        match &self.agent {
            Agent::Socket(_) => Ok(Arc::new(tokio::runtime::Builder::new_current_thread().enable_all().build()?)),
            Agent::Pod(_, runtime) => Ok(Arc::clone(runtime)),
        }
    }

    /// Asks a question whose answer is a JSON object on each line, for as long as there are any.
    pub(crate) async fn stream(&self, path: &str, body: &str) -> Result<Lines, ClientError> {
        let broken = |source| ClientError::Broken { agent: self.agent.to_string(), source };
        let stream: Box<dyn Duplex> = match &self.agent {
            Agent::Socket(socket) => {
                let unreachable = |source| ClientError::Unreachable { path: socket.clone(), source };
                Box::new(tokio::net::UnixStream::connect(socket).await.map_err(unreachable)?)
            }
            Agent::Pod(member, _) => Box::new(member.open().await.map_err(|source| silent(member, source))?),
        };
        let mut reader = BufReader::new(stream);
        reader.write_all(&request("POST", path, body)).await.map_err(broken)?;
        reader.flush().await.map_err(broken)?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            if reader.read_until(b'\n', &mut head).await.map_err(broken)? == 0 {
                return Err(broken(io::ErrorKind::UnexpectedEof.into()));
            }
        }
        let (status, _) = split(&head).ok_or_else(|| broken(io::ErrorKind::InvalidData.into()))?;
        if !(200..300).contains(&status) {
            let mut body = Vec::new();
            reader.read_to_end(&mut body).await.map_err(broken)?;
            return Err(refused(status, &body, "POST", path));
        }
        Ok(Lines { path: path.to_owned(), agent: self.agent.to_string(), reader, line: Vec::new() })
    }
}

impl Lines {
    /// Whose they are.
    pub(crate) fn agent(&self) -> &str {
        &self.agent
    }

    /// `None`: there are no more. Nothing is lost if the caller stops waiting.
    pub(crate) async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, ClientError> {
        let read = self.reader.read_until(b'\n', &mut self.line).await;
        read.map_err(|source| ClientError::Broken { agent: self.agent.clone(), source })?;
        // What does not end in a line feed was cut off by the agent's end.
        if !self.line.ends_with(b"\n") {
            return Ok(None);
        }
        let parsed = parse(&self.path, &self.line);
        self.line.clear();
        parsed.map(Some)
    }
}

/// Asks several agents of a cluster at once, each the same.
pub(super) fn read_all<'m, T: DeserializeOwned>(
    runtime: &Runtime,
    members: &'m [Member],
    path: &str,
) -> Vec<(&'m Member, Result<T, ClientError>)> {
    let question = request("GET", path, "");
    let answers = runtime.block_on(join_all(members.iter().map(|member| member.ask(&question))));
    let answered = members.iter().zip(answers).map(|(member, answer)| {
        let read = answer.map_err(|source| silent(member, source)).and_then(|answer| {
            let strange =
                || ClientError::Broken { agent: member.to_string(), source: io::ErrorKind::InvalidData.into() };
            parse(path, &body_of(&answer, "GET", path, strange)?)
        });
        (member, read)
    });
    answered.collect()
}

impl fmt::Display for Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(path) => path.display().fmt(f),
            Self::Pod(member, _) => member.fmt(f),
        }
    }
}

fn request(method: &str, path: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("{method} {path} HTTP/1.0\r\nhost: agent\r\ncontent-length: {length}\r\n\r\n{body}").into_bytes()
}

fn over(socket: &Path, request: &[u8]) -> Result<Vec<u8>, ClientError> {
    let broken = |source| ClientError::Broken { agent: socket.display().to_string(), source };
    let mut stream = connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(broken)?;
    stream.set_write_timeout(Some(PATIENCE)).map_err(broken)?;
    stream.write_all(request).map_err(broken)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).map_err(broken)?;
    Ok(answer)
}

pub(super) fn connect(socket: &Path) -> Result<UnixStream, ClientError> {
    UnixStream::connect(socket).map_err(|source| ClientError::Unreachable { path: socket.to_owned(), source })
}

fn silent(member: &Member, source: PipeError) -> ClientError {
    ClientError::Silent { agent: member.to_string(), source: Box::new(source) }
}

fn body_of(answer: &[u8], method: &str, path: &str, strange: impl Fn() -> ClientError) -> Result<Vec<u8>, ClientError> {
    let (status, body) = split(answer).ok_or_else(strange)?;
    if (200..300).contains(&status) {
        return Ok(body.to_vec());
    }
    Err(refused(status, body, method, path))
}

/// In the agent's own words, if it has any.
fn refused(status: u16, body: &[u8], method: &str, path: &str) -> ClientError {
    let said = serde_json::from_slice::<Failure>(body).map(|failure| failure.error);
    ClientError::Refused(said.unwrap_or_else(|_| format!("the agent answered {status} to {method} {path}")))
}

fn parse<T: DeserializeOwned>(path: &str, body: &[u8]) -> Result<T, ClientError> {
    serde_json::from_slice(body).map_err(|source| ClientError::Strange { path: path.to_owned(), source })
}

/// Status code and body of a whole HTTP/1 answer.
fn split(answer: &[u8]) -> Option<(u16, &[u8])> {
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n")?;
    let head = std::str::from_utf8(answer.get(..end)?).ok()?;
    let status = head.lines().next()?.split(' ').nth(1)?.parse().ok()?;
    Some((status, answer.get(end + 4..)?))
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "its socket is readable by its owner only: run this as the agent's user, or with sudo"
        }
        io::ErrorKind::ConnectionRefused => "an agent was here and is gone: start it again with `mesh-agent run`",
        _ => "is it running? start it with `mesh-agent run`, or name its directory with --run-dir",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn head_and_body_are_told_apart() {
        assert_eq!(split(b"HTTP/1.0 404 Not Found\r\na: b\r\n\r\n{}"), Some((404, &b"{}"[..])));
        assert_eq!(split(b"HTTP/1.0 200 OK\r\n\r\n"), Some((200, &b""[..])));
        assert_eq!(split(b"HTTP/1.0 200"), None);
        assert_eq!(split(b"junk\r\n\r\n"), None);
    }

    #[test]
    fn an_absent_agent_is_named_with_what_to_do() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let error = Client::new(Agent::Socket(dir.path().join("agent.sock")))
            .read::<Failure>("/status")
            .expect_err("nobody listens");
        let text = error.to_string();
        assert!(matches!(error, ClientError::Unreachable { .. }));
        assert!(text.contains("agent.sock") && text.contains("mesh-agent run"), "{text}");
    }
}
