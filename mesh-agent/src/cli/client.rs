//! One question to the agent's admin socket, one answer.
//!
//! HTTP/1.0 by hand over a blocking socket: the agent answers with a whole body and closes, so that a command needs no
//! runtime and starts in a millisecond.

use crate::admin::view::Failure;
use serde::de::DeserializeOwned;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Longest wait for the agent; it answers from memory.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Exit code 3.
    #[error("cannot reach the agent at {}: {source}\n  {}", path.display(), hint(source))]
    Unreachable { path: PathBuf, source: io::Error },
    #[error("the agent at {} stopped answering: {source}", path.display())]
    Broken { path: PathBuf, source: io::Error },
    /// The agent understood and refused; the text is its own.
    #[error("{0}")]
    Refused(String),
    #[error(
        "the agent's answer to {path} is not what this version of mesh-agent expects: {source}\n  are both of one version? compare `mesh-agent version` with `mesh-agent status`"
    )]
    Strange { path: String, source: serde_json::Error },
}

/// Where the agent listens.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    socket: PathBuf,
}

impl Client {
    pub(crate) fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
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
        let unreachable = |source| ClientError::Unreachable { path: self.socket.clone(), source };
        let broken = |source| ClientError::Broken { path: self.socket.clone(), source };
        let mut stream = UnixStream::connect(&self.socket).map_err(unreachable)?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(broken)?;
        stream.set_write_timeout(Some(PATIENCE)).map_err(broken)?;
        let length = body.len();
        let request = format!("{method} {path} HTTP/1.0\r\nhost: agent\r\ncontent-length: {length}\r\n\r\n{body}");
        stream.write_all(request.as_bytes()).map_err(broken)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).map_err(broken)?;
        let (status, body) = split(&answer).ok_or_else(|| broken(io::ErrorKind::InvalidData.into()))?;
        if (200..300).contains(&status) {
            return Ok(body.to_vec());
        }
        let said = serde_json::from_slice::<Failure>(body).map(|failure| failure.error);
        Err(ClientError::Refused(said.unwrap_or_else(|_| format!("the agent answered {status} to {method} {path}"))))
    }
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
        let error = Client::new(&dir.path().join("agent.sock")).read::<Failure>("/status").expect_err("nobody listens");
        let text = error.to_string();
        assert!(matches!(error, ClientError::Unreachable { .. }));
        assert!(text.contains("agent.sock") && text.contains("mesh-agent run"), "{text}");
    }
}
