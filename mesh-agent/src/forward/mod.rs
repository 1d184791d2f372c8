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
    let up = one_way(client_read, endpoint_write, &mut moved.received, &beat);
    let down = one_way(endpoint_read, client_write, &mut moved.sent, &beat);
    let up = async { up.await.map_err(|end| end.of(ForwardError::Client, ForwardError::Endpoint)) };
    let down = async { down.await.map_err(|end| end.of(ForwardError::Endpoint, ForwardError::Client)) };
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
        result = async { tokio::try_join!(up, down) } => result.map(|_| ()),
        error = watch => Err(error),
    }
}

/// Which end of a direction failed.
enum End {
    Read(io::Error),
    Write(io::Error),
}

impl End {
    fn of(
        self,
        read: impl FnOnce(io::Error) -> ForwardError,
        write: impl FnOnce(io::Error) -> ForwardError,
    ) -> ForwardError {
        match self {
            Self::Read(error) => read(error),
            Self::Write(error) => write(error),
        }
    }
}

async fn one_way(
    from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    moved: &mut u64,
    beat: &std::cell::Cell<u64>,
) -> Result<(), End> {
    let mut buffer = Vec::new();
    loop {
        // An idle connection keeps no buffer: it is taken when there is something to read.
        if buffer.is_empty() {
            from.readable().await.map_err(End::Read)?;
            buffer.resize(BUFFER, 0);
        }
        match from.try_read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => {
                to.write_all(buffer.get(..count).unwrap_or_default()).await.map_err(End::Write)?;
                *moved += count as u64;
                beat.set(beat.get() + 1);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => buffer = Vec::new(),
            Err(error) => return Err(End::Read(error)),
        }
    }
    drop(buffer);
    // The other direction goes on: a client may close its side and wait for the answer. A peer that has closed both
    // already does not mind (ENOTCONN).
    let _ = to.shutdown().await;
    Ok(())
}
