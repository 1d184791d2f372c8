//! Moves a body into an HTTP/2 stream.

use super::{FRAME, Ledger};
use crate::body::{Body, Chunk};
use crate::costs::Held;
use crate::error::UpstreamError;
use bytes::{Bytes, BytesMut};
use h2::{Reason, SendStream};
use http::HeaderMap;
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::Sleep;

/// How often a stalled stream says how much it holds by now.
const STALL_TICK: Duration = Duration::from_millis(100);
/// Frames at least this long are passed on as they are: copying them would cost more than their header.
const SMALL: usize = 4 << 10;

/// Why a body was not moved to its end.
#[derive(Debug)]
pub(super) enum PumpError {
    /// The sender of the body failed.
    Source(UpstreamError),
    /// The receiver reset the stream or its connection ended.
    Sink,
    /// The receiver stalls and the agent holds too much.
    Stalled,
}

/// State of one direction of one exchange.
#[derive(Debug)]
pub(super) struct Pump {
    sink: SendStream<Bytes>,
    /// Taken from the source, not yet taken by the sink's window.
    pending: Bytes,
    trailers: Option<Box<HeaderMap>>,
    source_done: bool,
    /// END_STREAM was sent.
    ended: bool,
    /// Taken ahead of a stalled sink: see `absorb`. Boxed: rare.
    ahead: Option<Box<Ahead>>,
    /// Where small frames are gathered; its memory is used again once they are written.
    gather: BytesMut,
    stall: Option<Box<Stall>>,
    /// The stream's HEADERS may still wait in `h2`, which gives no capacity before they are written.
    unopened: bool,
    ledger: Arc<Ledger>,
}

/// What follows `pending`; behind it comes what `gather` holds.
#[derive(Debug, Default)]
struct Ahead {
    chunks: VecDeque<Bytes>,
    /// The source failed behind them.
    failed: Option<UpstreamError>,
}

#[derive(Debug)]
struct Stall {
    held: usize,
    paid: Held,
    tick: Pin<Box<Sleep>>,
}

impl Pump {
    pub(super) fn new(sink: SendStream<Bytes>, ledger: Arc<Ledger>) -> Self {
        Self {
            sink,
            pending: Bytes::new(),
            trailers: None,
            source_done: false,
            ended: false,
            ahead: None,
            gather: BytesMut::new(),
            stall: None,
            unopened: false,
            ledger,
        }
    }

    /// For a stream whose HEADERS were handed over a moment ago: the first data follows them without asking for
    /// capacity, so that both leave in one write. At most one frame: `h2` holds it where a window has no room.
    pub(super) fn unopened(sink: SendStream<Bytes>, ledger: Arc<Ledger>) -> Self {
        let mut pump = Self::new(sink, ledger);
        pump.unopened = true;
        pump
    }

    /// Ends the stream with an RST_STREAM code.
    pub(super) fn reset(&mut self, code: u32) {
        self.sink.send_reset(Reason::from(code));
    }

    /// Moves what can be moved; ready when the stream is ended.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, source: &mut Body) -> Poll<Result<(), PumpError>> {
        loop {
            if !self.pending.is_empty() {
                ready!(self.poll_send(cx, source))?;
                continue;
            }
            if let Some(ahead) = &mut self.ahead {
                if let Some(chunk) = ahead.chunks.pop_front() {
                    self.pending = chunk;
                    continue;
                }
                if !self.gather.is_empty() {
                    self.pending = self.gather.split().freeze();
                    continue;
                }
                if let Some(error) = ahead.failed.take() {
                    return Poll::Ready(Err(PumpError::Source(error)));
                }
                self.ahead = None;
            }
            if self.source_done {
                return Poll::Ready(self.finish());
            }
            match self.poll_fill(cx, source) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(PumpError::Source(error))),
                Poll::Pending => {
                    // Nothing to send: learn of a reset all the same.
                    return match self.sink.poll_reset(cx) {
                        Poll::Ready(_) => Poll::Ready(Err(PumpError::Sink)),
                        Poll::Pending => Poll::Pending,
                    };
                }
            }
        }
    }

    /// Takes the next chunk, and with it all small ones that are ready: `h2` costs per DATA frame, so 128 frames of
    /// 128 bytes leave as one of 16 KiB.
    fn poll_fill(&mut self, cx: &mut Context<'_>, source: &mut Body) -> Poll<Result<(), UpstreamError>> {
        let first = match ready!(source.poll_chunk(cx)).transpose()? {
            Some(Chunk::Data(data)) => data,
            other => {
                self.source_done = true;
                self.trailers = other.and_then(into_trailers);
                return Poll::Ready(Ok(()));
            }
        };
        let end = source.is_end();
        if end || first.len() >= SMALL {
            self.source_done = end;
            self.pending = first;
            return Poll::Ready(Ok(()));
        }
        self.pending = first;
        let mut gathered = false;
        while let Poll::Ready(next) = source.poll_chunk(cx) {
            match next.transpose() {
                Ok(Some(Chunk::Data(data))) => {
                    if !gathered {
                        gathered = true;
                        self.gather.reserve(FRAME);
                        self.gather.extend_from_slice(&self.pending);
                    }
                    self.gather.extend_from_slice(&data);
                    if self.gather.len() + SMALL > FRAME {
                        break;
                    }
                }
                Ok(other) => {
                    self.source_done = true;
                    self.trailers = other.and_then(into_trailers);
                    break;
                }
                // What came before the error is lost with it: the stream is reset either way.
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        if gathered {
            self.pending = self.gather.split().freeze();
        }
        Poll::Ready(Ok(()))
    }

    /// Hands `pending` to the sink as far as its window allows, and lets the source send as much again.
    fn poll_send(&mut self, cx: &mut Context<'_>, source: &mut Body) -> Poll<Result<(), PumpError>> {
        self.sink.reserve_capacity(self.pending.len());
        let mut capacity = self.sink.capacity();
        if std::mem::take(&mut self.unopened) {
            capacity = capacity.max(FRAME);
        }
        while capacity == 0 {
            match self.sink.poll_capacity(cx) {
                Poll::Ready(Some(Ok(more))) => capacity = more,
                // The stream was reset or its connection ended.
                Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(Err(PumpError::Sink)),
                Poll::Pending => return self.poll_stalled(cx, source),
            }
        }
        self.end_stall();
        let count = capacity.min(self.pending.len());
        let data = self.pending.split_to(count);
        let last = self.source_done && self.pending.is_empty() && self.trailers.is_none();
        let end = last && self.ahead.is_none();
        self.sink.send_data(data, end).map_err(|_| PumpError::Sink)?;
        self.ended = end;
        source.release(count);
        Poll::Ready(Ok(()))
    }

    /// Takes what the source has while the sink stalls, small frames joined: the bytes were received either way, and
    /// their sender gets no more room for it. But `h2` ends a whole connection when too many small frames wait in it
    /// (`Settings::frame_overhead`), with all streams that do not stall.
    fn absorb(&mut self, cx: &mut Context<'_>, source: &mut Body) {
        if self.source_done || !source.is_windowed() || self.ahead.as_ref().is_some_and(|ahead| ahead.failed.is_some())
        {
            return;
        }
        while let Poll::Ready(next) = source.poll_chunk(cx) {
            let ahead = self.ahead.get_or_insert_default();
            match next.transpose() {
                Ok(Some(Chunk::Data(data))) if data.len() < SMALL => {
                    if self.gather.is_empty() {
                        self.gather.reserve(FRAME);
                    }
                    self.gather.extend_from_slice(&data);
                    if self.gather.len() + SMALL > FRAME {
                        ahead.chunks.push_back(self.gather.split().freeze());
                    }
                    continue;
                }
                Ok(Some(Chunk::Data(data))) => {
                    ahead.chunks.extend((!self.gather.is_empty()).then(|| self.gather.split().freeze()));
                    ahead.chunks.push_back(data);
                    continue;
                }
                Ok(other) => {
                    self.source_done = true;
                    self.trailers = other.and_then(into_trailers);
                }
                Err(error) => ahead.failed = Some(error),
            }
            break;
        }
    }

    fn poll_stalled(&mut self, cx: &mut Context<'_>, source: &mut Body) -> Poll<Result<(), PumpError>> {
        self.absorb(cx, source);
        let holds = source.held().max(self.pending.len());
        let stall = self.stall.get_or_insert_with(|| {
            Box::new(Stall { held: 0, paid: Held::new(0), tick: Box::pin(tokio::time::sleep(STALL_TICK)) })
        });
        self.ledger.replace(stall.held, holds);
        stall.held = holds;
        stall.paid.set(holds);
        while stall.tick.as_mut().poll(cx).is_ready() {
            if self.ledger.is_overdrawn() {
                self.sink.send_reset(Reason::ENHANCE_YOUR_CALM);
                return Poll::Ready(Err(PumpError::Stalled));
            }
            stall.tick = Box::pin(tokio::time::sleep(STALL_TICK));
        }
        Poll::Pending
    }

    fn end_stall(&mut self) {
        if let Some(stall) = self.stall.take() {
            self.ledger.replace(stall.held, 0);
        }
    }

    /// Trailers, or the empty DATA frame with END_STREAM where the last data did not carry it.
    fn finish(&mut self) -> Result<(), PumpError> {
        let result = match self.trailers.take() {
            Some(trailers) => self.sink.send_trailers(*trailers),
            None if self.ended => Ok(()),
            None => self.sink.send_data(Bytes::new(), true),
        };
        result.map_err(|_| PumpError::Sink)
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        self.end_stall();
    }
}

fn into_trailers(chunk: Chunk) -> Option<Box<HeaderMap>> {
    match chunk {
        Chunk::Trailers(trailers) => Some(trailers),
        Chunk::Data(_) => None,
    }
}
