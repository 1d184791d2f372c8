//! HTTP/2 (RFC 9113), the only place that knows the `h2` crate.
//!
//! Place in the path: `Server` stands behind `detect`, `Connection` behind `connect`; `Pump` moves bodies between any
//! two sides. Invariant: flow control is end to end: bytes are acknowledged to their sender only when the receiver's
//! window has taken them.

mod client;
mod gather;
mod join;
mod ledger;
mod preface;
mod pump;
mod server;

pub use client::{Call, Connection, connect};
pub use ledger::Ledger;
pub use server::{Exchange, Responder, Server};

use crate::body::{Body, Chunk};
use crate::error::UpstreamError;
use client::Upload;
use h2::{Reason, RecvStream};
use std::task::{Context, Poll, ready};

/// Largest DATA frame we build of small ones: SETTINGS_MAX_FRAME_SIZE's initial value, which every peer takes.
const FRAME: usize = 16 << 10;

/// A body arriving over HTTP/2.
#[derive(Debug)]
pub struct RecvBody {
    stream: RecvStream,
    data_done: bool,
    /// A request still being sent while its response arrives: driven by whoever reads the response.
    upload: Option<Upload>,
    /// Keeps the stream counted as active on its connection.
    _slot: Option<client::Slot>,
    /// Bytes handed to the other side's `h2` so far, and how many of them it may be keeping: `Settings::send_buffer`.
    released: usize,
    send_buffer: usize,
}

impl RecvBody {
    fn request(stream: RecvStream, send_buffer: usize) -> Self {
        Self::response(stream, send_buffer, None, None)
    }

    fn response(stream: RecvStream, send_buffer: usize, upload: Option<Upload>, slot: Option<client::Slot>) -> Self {
        Self { stream, data_done: false, upload, _slot: slot, released: 0, send_buffer }
    }

    pub(crate) fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Chunk, UpstreamError>>> {
        if let Some(upload) = &mut self.upload
            && upload.poll(cx).is_ready()
        {
            self.upload = None;
        }
        if !self.data_done {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) => return Poll::Ready(Some(Ok(Chunk::Data(data)))),
                // RFC 9113 §8.1: after a complete response, RST_STREAM(NO_ERROR) only stops the request.
                Some(Err(error)) if error.reason() == Some(Reason::NO_ERROR) && error.is_reset() => {
                    return Poll::Ready(None);
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(upstream_error(&error)))),
                None => self.data_done = true,
            }
        }
        match ready!(self.stream.poll_trailers(cx)) {
            Ok(Some(trailers)) => Poll::Ready(Some(Ok(Chunk::Trailers(Box::new(trailers))))),
            Ok(None) => Poll::Ready(None),
            Err(error) if error.reason() == Some(Reason::NO_ERROR) && error.is_reset() => Poll::Ready(None),
            Err(error) => Poll::Ready(Some(Err(upstream_error(&error)))),
        }
    }

    pub(crate) fn is_end(&self) -> bool {
        self.stream.is_end_stream()
    }

    pub(crate) fn release(&mut self, count: usize) {
        // Fails only where more is released than was received; then the connection is in error already.
        let _ = self.stream.flow_control().release_capacity(count);
        self.released = self.released.saturating_add(count);
    }

    /// At most: `h2` does not say how much of what it was given it has written, and a full socket makes it keep all that
    /// it may.
    pub(crate) fn held(&mut self) -> usize {
        self.stream.flow_control().used_capacity() + self.released.min(self.send_buffer)
    }
}

/// What an `h2` error means for the request it befell.
fn upstream_error(error: &h2::Error) -> UpstreamError {
    match error.reason() {
        Some(Reason::REFUSED_STREAM) if error.is_remote() => UpstreamError::Refused,
        // `h2` ends with the peer's GOAWAY exactly the streams beyond its last-stream-id; streams up to it go on and
        // meet their own end.
        Some(_) if error.is_go_away() && error.is_remote() => UpstreamError::GoneAway,
        Some(reason) if error.is_reset() && error.is_remote() => UpstreamError::Reset(reason.into()),
        _ if error.is_io() => UpstreamError::Closed,
        _ => UpstreamError::Protocol,
    }
}

impl From<RecvBody> for Body {
    fn from(body: RecvBody) -> Self {
        Self::Http2(Box::new(body))
    }
}
