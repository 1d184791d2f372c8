//! The waiting half: reads just enough from the sockets.

use super::sniff::{self, Sniffed, sniff};
use bytes::{Bytes, BytesMut};
use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::Sleep;

/// Read at a time while looking; what HTTP clients send first fits.
const CHUNK: usize = 4096;

/// How long an ambiguous fragment (`GET /fo`) may stay alone. A client that waits for an answer to it does not speak
/// HTTP; one that was only slow is still served, without what HTTP would give it.
const FRAGMENT: Duration = Duration::from_secs(1);

/// Who spoke first on an undeclared port, and what.
#[derive(Debug)]
pub enum Race {
    /// The client's bytes (in the caller's buffer) decided; or the client half-closed, or sent a fragment and went quiet
    /// (both `Opaque`). `upstream` is there if its connection was made meanwhile.
    Client { sniffed: Sniffed, upstream: Option<TcpStream> },
    /// The server spoke (`bytes`) or closed (`bytes` empty): opaque. A client's fragment may be in the caller's buffer.
    Server { upstream: TcpStream, bytes: Bytes },
    /// The client has said nothing decisive and the endpoint cannot be reached. Another `race` may follow.
    UpstreamFailed(io::Error),
    /// The client reset the connection.
    ClientClosed,
}

/// Which HTTP the client of a declared HTTP port speaks: `Http1`, `Http2` or `Tls` (a client that speaks TLS to a
/// plain-text port). What was read is appended to `buf`.
///
/// # Errors
/// `UnexpectedEof` if the client closes before it is clear; any error of the read.
pub async fn http_version(stream: &mut TcpStream, buf: &mut BytesMut) -> io::Result<Sniffed> {
    loop {
        if let Some(version) = sniff::http_version(buf) {
            return Ok(version);
        }
        if poll_fn(|cx| poll_read(stream, cx, buf)).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// Waits for the first bytes of either side of an undeclared port.
///
/// The client is looked at first: bytes that are there already decide before `upstream` (the connection attempt to the
/// chosen endpoint) is even polled. A connected upstream is read only to see it speak.
pub async fn race(
    client: &mut TcpStream,
    upstream: impl Future<Output = io::Result<TcpStream>>,
    buf: &mut BytesMut,
) -> Race {
    let mut connecting = pin!(upstream);
    let mut connected: Option<TcpStream> = None;
    // Armed only while the client owes the rest of a fragment.
    let mut fragment: Option<std::pin::Pin<Box<Sleep>>> = None;
    poll_fn(|cx| {
        loop {
            let read = match poll_read(client, cx, buf) {
                Poll::Ready(Ok(read)) => read,
                Poll::Ready(Err(_)) => return Poll::Ready(Race::ClientClosed),
                Poll::Pending => break,
            };
            let sniffed = if read == 0 { Some(Sniffed::Opaque) } else { sniff(buf) };
            if let Some(sniffed) = sniffed {
                return Poll::Ready(Race::Client { sniffed, upstream: connected.take() });
            }
        }
        if !buf.is_empty() {
            let sleep = fragment.get_or_insert_with(|| Box::pin(tokio::time::sleep(FRAGMENT)));
            if sleep.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Race::Client { sniffed: Sniffed::Opaque, upstream: connected.take() });
            }
        }
        if connected.is_none() {
            match ready!(connecting.as_mut().poll(cx)) {
                Ok(stream) => connected = Some(stream),
                Err(error) => return Poll::Ready(Race::UpstreamFailed(error)),
            }
        }
        let Some(stream) = &mut connected else { return Poll::Pending };
        let mut first = BytesMut::new();
        // A read error here is the forwarder's to report: it meets it again, with both sides at hand.
        let _ = ready!(poll_read(stream, cx, &mut first));
        match connected.take() {
            Some(upstream) => Poll::Ready(Race::Server { upstream, bytes: first.freeze() }),
            None => Poll::Pending,
        }
    })
    .await
}

/// Reads once, appending to `buf`; takes memory only when there is something to read.
fn poll_read(stream: &TcpStream, cx: &mut Context<'_>, buf: &mut BytesMut) -> Poll<io::Result<usize>> {
    loop {
        ready!(stream.poll_read_ready(cx))?;
        buf.reserve(CHUNK);
        match stream.try_read_buf(buf) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            result => return Poll::Ready(result),
        }
    }
}
