//! Opaque bytes, both ways.
//!
//! Place in the path: after `connect`, for connections that are not HTTP. Invariant: an end of stream on one side
//! becomes an end of stream on the other and nothing more (half-close); a reset becomes a reset.

mod relay;

pub use relay::relay;

use crate::connections::Connection;
use bytes::Bytes;
use socket2::SockRef;
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};

/// Bytes read at once, and kept at most for a direction whose reader stalls. Two of TCP's largest segments: a 64 KiB
/// message passes in one read and one write (bench cell `tcp-bulk`).
const LIMIT: usize = 128 << 10;

thread_local! {
    /// A worker moves one direction of one connection at a time: they share the memory, and an idle one holds none.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
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
    moved: &Connection,
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
    moved: &Connection,
) -> Result<(), ForwardError> {
    let (client_read, client_write) = client.split();
    let (endpoint_read, mut endpoint_write) = endpoint.split();
    if !first.is_empty() {
        endpoint_write.write_all(&first).await.map_err(ForwardError::Endpoint)?;
        moved.add_received(first.len());
    }
    drop(first);
    let beat = Cell::new(0_u64);
    let (client_error, endpoint_error): (Blame, Blame) = (ForwardError::Client, ForwardError::Endpoint);
    let up =
        one_way(client_read, endpoint_write, (client_error, endpoint_error), |count| moved.add_received(count), &beat);
    let down =
        one_way(endpoint_read, client_write, (endpoint_error, client_error), |count| moved.add_sent(count), &beat);
    tokio::select! {
        result = futures_util::future::try_join(up, down) => result.map(|_| ()),
        error = silence(idle, &beat) => Err(error),
    }
}

/// Until no byte has moved for `idle`, and at most twice that.
async fn silence(idle: Duration, beat: &Cell<u64>) -> ForwardError {
    loop {
        let before = beat.get();
        tokio::time::sleep(idle).await;
        if beat.get() == before {
            return ForwardError::Idle(idle);
        }
    }
}

/// Whose socket an error is of.
type Blame = fn(io::Error) -> ForwardError;

async fn one_way(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    (read_error, write_error): (Blame, Blame),
    moved: impl Fn(usize),
    beat: &Cell<u64>,
) -> Result<(), ForwardError> {
    while let Some(Step { count, rest }) =
        poll_fn(|cx| poll_step(cx, &mut from, &to, (read_error, write_error))).await?
    {
        if !rest.is_empty() {
            to.write_all(&rest).await.map_err(write_error)?;
        }
        moved(count);
        beat.set(beat.get() + 1);
    }
    // The other direction goes on: a client may close its side and wait for the answer. A peer that has closed both
    // already does not mind (ENOTCONN).
    let _ = to.shutdown().await;
    Ok(())
}

/// Bytes read, and those of them that the other side has not taken.
struct Step {
    count: usize,
    rest: Bytes,
}

/// One read and one write; `None` at the end. Only what a full socket refuses is kept by the connection itself.
fn poll_step(
    cx: &mut Context<'_>,
    from: &mut ReadHalf<'_>,
    to: &WriteHalf<'_>,
    (read_error, write_error): (Blame, Blame),
) -> Poll<Result<Option<Step>, ForwardError>> {
    BUFFER.with_borrow_mut(|buffer| {
        // Zeroed once per worker.
        buffer.resize(LIMIT, 0);
        let mut buf = ReadBuf::new(buffer);
        ready!(Pin::new(from).poll_read(cx, &mut buf)).map_err(read_error)?;
        let bytes = buf.filled();
        if bytes.is_empty() {
            return Poll::Ready(Ok(None));
        }
        let written = match to.try_write(bytes) {
            Ok(written) => written,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => return Poll::Ready(Err(write_error(error))),
        };
        let rest = Bytes::copy_from_slice(bytes.get(written..).unwrap_or_default());
        Poll::Ready(Ok(Some(Step { count: bytes.len(), rest })))
    })
}

#[cfg(test)]
mod tests;
