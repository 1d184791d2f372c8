//! A request body that can be sent again.

use super::{Body, Chunk};
use crate::error::UpstreamError;
use crate::telemetry::Series;
use bytes::Bytes;
use http::HeaderMap;
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll};

/// Keeps what was sent, up to a limit, until it is certain that it need not be sent again.
#[derive(Debug)]
pub struct Replay {
    inner: Body,
    /// Chunks given out since the last rewind can be given again while `keeping`.
    kept: VecDeque<Bytes>,
    /// Index in `kept` of the next chunk to give.
    next: usize,
    kept_bytes: usize,
    limit: usize,
    keeping: bool,
    trailers: Option<Box<HeaderMap>>,
    /// Bytes released by the current receiver, and by any receiver so far (flow control is fed once only).
    released: usize,
    released_ever: usize,
    /// Bytes sent since `series` was set.
    sent: u64,
    series: Option<Rc<Series>>,
}

impl Replay {
    /// `limit`: bytes to keep. A body with more cannot be rewound.
    pub fn new(inner: Body, limit: usize) -> Self {
        Self {
            inner,
            kept: VecDeque::new(),
            next: 0,
            kept_bytes: 0,
            limit,
            keeping: true,
            trailers: None,
            released: 0,
            released_ever: 0,
            sent: 0,
            series: None,
        }
    }

    /// Starts over for another endpoint; false where too much was sent for that.
    pub fn rewind(&mut self) -> bool {
        self.next = 0;
        self.released = 0;
        self.keeping
    }

    /// Where the bytes sent from now on are counted.
    pub fn count_for(&mut self, series: Rc<Series>) {
        self.flush_count();
        self.series = Some(series);
    }

    /// The request was answered: nothing need be kept.
    pub fn settle(&mut self) {
        self.keeping = false;
        if self.next >= self.kept.len() {
            self.kept = VecDeque::new();
            self.next = 0;
        }
    }

    pub(super) fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Chunk, UpstreamError>>> {
        if let Some(bytes) = self.kept.get(self.next) {
            self.next += 1;
            self.sent += bytes.len() as u64;
            return Poll::Ready(Some(Ok(Chunk::Data(bytes.clone()))));
        }
        if let Some(trailers) = &self.trailers {
            return Poll::Ready(Some(Ok(Chunk::Trailers(trailers.clone()))));
        }
        let chunk = std::task::ready!(self.inner.poll_chunk(cx));
        if let Some(Ok(Chunk::Data(bytes))) = &chunk {
            self.sent += bytes.len() as u64;
        }
        if self.keeping {
            match &chunk {
                Some(Ok(Chunk::Data(bytes))) if self.kept_bytes + bytes.len() <= self.limit => {
                    self.kept_bytes += bytes.len();
                    self.kept.push_back(bytes.clone());
                    self.next += 1;
                }
                Some(Ok(Chunk::Trailers(trailers))) => self.trailers = Some(trailers.clone()),
                None => {}
                Some(_) => {
                    self.keeping = false;
                    self.kept = VecDeque::new();
                    self.next = 0;
                }
            }
        }
        Poll::Ready(chunk)
    }

    pub(super) fn is_end(&self) -> bool {
        self.next >= self.kept.len() && self.trailers.is_none() && self.inner.is_end()
    }

    pub(super) fn release(&mut self, count: usize) {
        self.released += count;
        if self.released > self.released_ever {
            self.inner.release(self.released - self.released_ever);
            self.released_ever = self.released;
        }
    }

    pub(super) fn held(&mut self) -> usize {
        self.inner.held() + if self.kept.is_empty() { 0 } else { self.kept_bytes }
    }

    fn flush_count(&mut self) {
        if let Some(series) = &self.series
            && self.sent > 0
        {
            series.sent(self.sent);
        }
        self.sent = 0;
    }

    pub(super) fn size_hint(&self) -> http_body::SizeHint {
        http_body::Body::size_hint(&self.inner)
    }
}

impl Drop for Replay {
    fn drop(&mut self) {
        self.flush_count();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;

    fn text(body: &mut Replay) -> Vec<u8> {
        let mut cx = Context::from_waker(Waker::noop());
        let mut text = Vec::new();
        while let Poll::Ready(Some(Ok(Chunk::Data(data)))) = body.poll_chunk(&mut cx) {
            text.extend_from_slice(&data);
        }
        text
    }

    #[test]
    fn is_sent_again_from_the_start() {
        let mut body = Replay::new(Body::Full(Bytes::from_static(b"hello")), 5);
        assert_eq!(text(&mut body), b"hello");
        assert!(body.rewind());
        assert!(!body.is_end());
        assert_eq!(text(&mut body), b"hello");
    }

    #[test]
    fn too_much_cannot_be_sent_again() {
        let mut body = Replay::new(Body::Full(Bytes::from_static(b"hello")), 4);
        assert_eq!(text(&mut body), b"hello");
        assert!(!body.rewind());
    }
}
