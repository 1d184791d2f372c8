//! Opaque bytes, both ways.
//!
//! Place in the path: after `connect`, for connections that are not HTTP. Invariant: an end of stream on one side
//! becomes an end of stream on the other and nothing more (half-close); a reset becomes a reset.

use bytes::Bytes;
use socket2::SockRef;
use std::io;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};

/// Buffer of one direction, bytes.
const BUFFER: usize = 32 << 10;

/// Bytes moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// Client to endpoint.
    pub received: u64,
    /// Endpoint to client.
    pub sent: u64,
}

/// Why a connection ended before both sides had closed.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    #[error("no byte for {0:?}")]
    Idle(Duration),
    #[error("client: {0}")]
    Client(io::Error),
    #[error("endpoint: {0}")]
    Endpoint(io::Error),
}

/// Moves bytes until both sides have closed; `first` is what was already read from the client.
///
/// # Errors
/// One side failed, or both were silent for `idle`; the other side is reset then. `moved` counts in any case.
pub async fn forward(
    client: &mut TcpStream,
    endpoint: &mut TcpStream,
    first: Bytes,
    idle: Duration,
    moved: &mut Moved,
) -> Result<(), ForwardError> {
    let result = both_ways(client, endpoint, first, idle, moved).await;
    if let Err(error) = &result {
        match error {
            ForwardError::Client(_) => reset(endpoint),
            ForwardError::Endpoint(_) => reset(client),
            ForwardError::Idle(_) => {}
        }
    }
    result
}

/// Makes the coming close a reset: what was lost must not look like an orderly end.
pub fn reset(stream: &TcpStream) {
    // A failure means the socket is closed already.
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

async fn both_ways(
    client: &mut TcpStream,
    endpoint: &mut TcpStream,
    first: Bytes,
    idle: Duration,
    moved: &mut Moved,
) -> Result<(), ForwardError> {
    let (client_read, client_write) = client.split();
    let (endpoint_read, mut endpoint_write) = endpoint.split();
    if !first.is_empty() {
        endpoint_write.write_all(&first).await.map_err(ForwardError::Endpoint)?;
        moved.received += first.len() as u64;
    }
    drop(first);
    let beat = std::cell::Cell::new(0_u64);
    let (client_error, endpoint_error): (Blame, Blame) = (ForwardError::Client, ForwardError::Endpoint);
    let up = one_way(client_read, endpoint_write, (client_error, endpoint_error), &mut moved.received, &beat);
    let down = one_way(endpoint_read, client_write, (endpoint_error, client_error), &mut moved.sent, &beat);
    let watch = async {
        loop {
            let before = beat.get();
            tokio::time::sleep(idle).await;
            if beat.get() == before {
                return ForwardError::Idle(idle);
            }
        }
    };
    tokio::select! {
        result = futures_util::future::try_join(up, down) => result.map(|_| ()),
        error = watch => Err(error),
    }
}

/// Whose socket an error is of.
type Blame = fn(io::Error) -> ForwardError;

async fn one_way(
    from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    (read_error, write_error): (Blame, Blame),
    moved: &mut u64,
    beat: &std::cell::Cell<u64>,
) -> Result<(), ForwardError> {
    let mut buffer = Vec::new();
    loop {
        // An idle connection keeps no buffer: it is taken when there is something to read.
        if buffer.is_empty() {
            from.readable().await.map_err(read_error)?;
            buffer.resize(BUFFER, 0);
        }
        match from.try_read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => {
                to.write_all(buffer.get(..count).unwrap_or_default()).await.map_err(write_error)?;
                *moved += count as u64;
                beat.set(beat.get() + 1);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => buffer = Vec::new(),
            Err(error) => return Err(read_error(error)),
        }
    }
    drop(buffer);
    // The other direction goes on: a client may close its side and wait for the answer. A peer that has closed both
    // already does not mind (ENOTCONN).
    let _ = to.shutdown().await;
    Ok(())
}

#[cfg(test)]
mod tests;
