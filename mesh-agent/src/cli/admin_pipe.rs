//! `mesh-agent admin-pipe`: the far end of `crate::fleet`'s pipe, run by exec in the agent's pod.

use super::client;
use anyhow::{Context, Result};
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::path::Path;

/// Ends when the agent closes, or when whoever asks does.
pub(super) fn run(socket: &Path) -> Result<()> {
    // Without a buffer: an answer may end within a line.
    let out = io::stdout().as_fd().try_clone_to_owned().context("standard output")?;
    pipe(socket, io::stdin(), File::from(out))
}

fn pipe(socket: &Path, from: impl Read + Send + 'static, to: impl Write) -> Result<()> {
    let agent = client::connect(socket)?;
    let asks = agent.try_clone().context("socket")?;
    std::thread::spawn(move || {
        // Nobody is left who would read an answer.
        let _ = pass(from, &asks);
        let _ = asks.shutdown(Shutdown::Both);
    });
    pass(&agent, to).context("the agent's answer")
}

/// Each piece as it comes. `io::copy` splices a socket into a pipe, which keeps what has come until more does: the lines of
/// a tap would be seen when it ends.
fn pass(mut from: impl Read, mut to: impl Write) -> io::Result<()> {
    let mut buffer = [0; 16 << 10];
    loop {
        let read = from.read(&mut buffer)?;
        let Some(piece) = buffer.get(..read).filter(|piece| !piece.is_empty()) else { return Ok(()) };
        to.write_all(piece)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::{UnixListener, UnixStream};

    #[test]
    fn an_answer_that_goes_on_is_seen_as_it_comes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let (mut out, far_out) = io::pipe().unwrap();
        let (asker, far) = UnixStream::pair().unwrap();
        let piping = std::thread::spawn(move || pipe(&path, far, far_out));
        let (mut agent, _) = listener.accept().unwrap();
        for line in [b"one", b"two"] {
            agent.write_all(line).unwrap();
            let mut seen = [0; 3];
            out.read_exact(&mut seen).unwrap();
            assert_eq!(&seen, line);
        }
        drop((agent, asker));
        piping.join().unwrap().unwrap();
    }

    #[test]
    fn both_ends_of_a_conversation_can_end_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let agent = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = [0; 4];
            stream.read_exact(&mut asked).unwrap();
            stream.write_all(b"no newline").unwrap();
            drop(stream);
            // The second one is left alone until it goes.
            let (mut stream, _) = listener.accept().unwrap();
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).unwrap();
            (asked, rest)
        });
        let mut answer = Vec::new();
        let (mut asker, far) = UnixStream::pair().unwrap();
        asker.write_all(b"ask!").unwrap();
        pipe(&path, far, &mut answer).unwrap();
        assert_eq!(answer, b"no newline");
        let (asker, far) = UnixStream::pair().unwrap();
        drop(asker);
        pipe(&path, far, &mut answer).unwrap();
        assert_eq!(agent.join().unwrap(), (*b"ask!", Vec::new()));
    }
}
