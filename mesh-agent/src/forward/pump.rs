//! One direction.

use super::buffers::Buffer;
use bytes::Bytes;
use std::cell::Cell;
use std::future::poll_fn;
use std::io::{self, ErrorKind};
use tokio::net::TcpStream;

/// Bytes delivered so far; what the idle watch looks at.
#[derive(Default)]
pub(super) struct Activity(Cell<u64>);

/// How one direction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// The source sent FIN and it was passed on.
    Closed,
    /// Reading failed.
    SourceBroke,
    /// Writing failed.
    SinkBroke,
}

impl Activity {
    pub(super) fn bytes(&self) -> u64 {
        self.0.get()
    }

    fn moved(&self, bytes: usize) {
        self.0.set(self.0.get() + bytes as u64);
    }
}

/// Moves `early`, then everything `from` sends, to `to`; passes the half-close on.
pub(super) async fn pump(from: &TcpStream, to: &TcpStream, early: Bytes, activity: &Activity) -> Ended {
    if write_all(to, &early, activity).await.is_err() {
        return Ended::SinkBroke;
    }
    drop(early);
    loop {
        if poll_fn(|cx| from.poll_read_ready(cx)).await.is_err() {
            return Ended::SourceBroke;
        }
        // From here to the next wait for the source a buffer is held.
        let mut buffer = Buffer::take();
        loop {
            match from.try_read(&mut buffer) {
                Ok(0) => {
                    // ENOTCONN: the sink is gone altogether; reading it will tell how.
                    let _ = rustix::net::shutdown(to, rustix::net::Shutdown::Write);
                    return Ended::Closed;
                }
                Ok(read) => {
                    if write_all(to, buffer.get(..read).unwrap_or_default(), activity).await.is_err() {
                        return Ended::SinkBroke;
                    }
                    // A partial read emptied the socket: wait for readiness instead of asking for WouldBlock.
                    if read < buffer.len() {
                        break;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Ended::SourceBroke,
            }
        }
    }
}

async fn write_all(to: &TcpStream, mut bytes: &[u8], activity: &Activity) -> io::Result<()> {
    while !bytes.is_empty() {
        match to.try_write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => {
                activity.moved(written);
                bytes = bytes.get(written..).unwrap_or_default();
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                poll_fn(|cx| to.poll_write_ready(cx)).await?;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
