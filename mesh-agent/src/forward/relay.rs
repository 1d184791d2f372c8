//! Bytes both ways where one side at least is TLS.

use super::{Blame, ForwardError};
use crate::connections::Connection;
use bytes::Bytes;
use std::cell::Cell;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};

/// One TLS record (RFC 8446 §5.1).
const CHUNK: usize = 16 << 10;

/// As [`super::forward`], with a copy each way and between any two streams; nothing is reset: the caller knows the
/// sockets.
///
/// # Errors
/// One side failed, or both were silent for `idle`. `moved` counts in any case.
pub async fn relay<C, E>(
    client: &mut C,
    endpoint: &mut E,
    first: Bytes,
    idle: Duration,
    moved: &Connection,
) -> Result<(), ForwardError>
where
    C: AsyncRead + AsyncWrite + Unpin + ?Sized,
    E: AsyncRead + AsyncWrite + Unpin + ?Sized,
{
    let (client_error, endpoint_error): (Blame, Blame) = (ForwardError::Client, ForwardError::Endpoint);
    if !first.is_empty() {
        endpoint.write_all(&first).await.map_err(endpoint_error)?;
        endpoint.flush().await.map_err(endpoint_error)?;
        moved.add_received(first.len());
    }
    drop(first);
    let (client_read, client_write) = split(client);
    let (endpoint_read, endpoint_write) = split(endpoint);
    let beat = Cell::new(0_u64);
    let received = |count| moved.add_received(count);
    let sent = |count| moved.add_sent(count);
    let up = one_way(client_read, endpoint_write, (client_error, endpoint_error), received, &beat);
    let down = one_way(endpoint_read, client_write, (endpoint_error, client_error), sent, &beat);
    tokio::select! {
        result = futures_util::future::try_join(up, down) => result.map(|_| ()),
        error = super::silence(idle, &beat) => Err(error),
    }
}

async fn one_way(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    (read_error, write_error): (Blame, Blame),
    moved: impl Fn(usize),
    beat: &Cell<u64>,
) -> Result<(), ForwardError> {
    let mut buffer = vec![0; CHUNK];
    loop {
        let count = match from.read(&mut buffer).await {
            Ok(count) => count,
            // Many close without `close_notify`: like Envoy, we take it for an end, or their last words would be lost in
            // a reset.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => 0,
            Err(error) => return Err(read_error(error)),
        };
        let Some(bytes) = buffer.get(..count).filter(|bytes| !bytes.is_empty()) else { break };
        to.write_all(bytes).await.map_err(write_error)?;
        to.flush().await.map_err(write_error)?;
        moved(count);
        beat.set(beat.get() + 1);
    }
    // As in `forward`.
    let _ = to.shutdown().await;
    Ok(())
}
