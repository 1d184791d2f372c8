//! A request body that goes to several endpoints: one after another (retries) or at once (hedges, mirrors).

use super::{Body, Chunk};
use crate::error::UpstreamError;
use crate::telemetry::Meter;
use bytes::Bytes;
use http::HeaderMap;
use http_body::SizeHint;
use smallvec::SmallVec;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

/// The body as the client sends it, and what of it is kept for further readers.
#[derive(Debug)]
pub struct Replay {
    shared: Rc<RefCell<Shared>>,
}

/// One attempt's view of the body, from its beginning.
#[derive(Debug)]
pub struct Reader {
    shared: Rc<RefCell<Shared>>,
    slot: usize,
    trailers_given: bool,
    /// Bytes the receiver took over.
    released: usize,
}

#[derive(Debug)]
struct Shared {
    inner: Body,
    hint: SizeHint,
    /// Chunks from number `first` on.
    kept: VecDeque<Bytes>,
    first: usize,
    kept_bytes: usize,
    limit: usize,
    /// A further reader may still begin: nothing has been thrown away, and nobody said that none will come.
    keeping: bool,
    trailers: Option<Box<HeaderMap>>,
    ended: bool,
    failed: Option<UpstreamError>,
    /// The number of the chunk that each reader takes next; `None` where the reader is gone.
    readers: SmallVec<[Option<usize>; 2]>,
    /// Bytes released by any reader so far: flow control is fed once only.
    released: usize,
    waiting: SmallVec<[Waker; 2]>,
    /// What the client sent.
    meter: Rc<Meter>,
}

impl Replay {
    /// `limit`: bytes to keep. Of a longer body no new reader can begin; a reader that falls behind by twice as much
    /// fails.
    pub fn new(inner: Body, limit: usize, meter: Rc<Meter>) -> Self {
        let hint = http_body::Body::size_hint(&inner);
        let shared = Shared {
            inner,
            hint,
            kept: VecDeque::new(),
            first: 0,
            kept_bytes: 0,
            limit,
            keeping: true,
            trailers: None,
            ended: false,
            failed: None,
            readers: SmallVec::new(),
            released: 0,
            waiting: SmallVec::new(),
            meter,
        };
        Self { shared: Rc::new(RefCell::new(shared)) }
    }

    /// The body from its beginning; `None` where that is gone.
    pub fn reader(&self) -> Option<Reader> {
        let mut shared = self.shared.borrow_mut();
        if !shared.keeping {
            return None;
        }
        let free = shared.readers.iter().position(Option::is_none);
        let slot = free.unwrap_or(shared.readers.len());
        match shared.readers.get_mut(slot) {
            Some(place) => *place = Some(0),
            None => shared.readers.push(Some(0)),
        }
        drop(shared);
        Some(Reader { shared: Rc::clone(&self.shared), slot, trailers_given: false, released: 0 })
    }

    /// Whether a further reader could begin now.
    pub fn is_whole(&self) -> bool {
        self.shared.borrow().keeping
    }

    /// No further reader will begin: what all have read is forgotten.
    pub fn settle(&self) {
        let mut shared = self.shared.borrow_mut();
        shared.keeping = false;
        shared.forget();
    }

    /// Ready when the client has sent all of it, or failed to.
    pub fn poll_ended(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut shared = self.shared.borrow_mut();
        if shared.is_ended() {
            return Poll::Ready(());
        }
        shared.wait(cx);
        Poll::Pending
    }
}

impl Shared {
    fn is_ended(&self) -> bool {
        self.ended || self.failed.is_some() || self.inner.is_end()
    }

    fn wait(&mut self, cx: &Context<'_>) {
        if !self.waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            self.waiting.push(cx.waker().clone());
        }
    }

    /// Throws away what no reader needs.
    fn forget(&mut self) {
        if self.keeping {
            return;
        }
        let needed = self.readers.iter().flatten().min().copied().unwrap_or(usize::MAX);
        while self.first < needed && !self.kept.is_empty() {
            self.drop_first();
        }
    }

    fn drop_first(&mut self) {
        if let Some(chunk) = self.kept.pop_front() {
            self.kept_bytes -= chunk.len();
            self.first += 1;
        }
    }

    /// The client's next chunk, for `slot` and all who wait for it.
    fn poll_inner(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Poll::Ready(chunk) = self.inner.poll_chunk(cx) else {
            // The client's wake-up goes to who asked last; the others are woken from here.
            if self.readers.iter().flatten().count() > 1 || !self.waiting.is_empty() {
                self.wait(cx);
            }
            return Poll::Pending;
        };
        match chunk {
            Some(Ok(Chunk::Data(bytes))) => {
                self.kept_bytes += bytes.len();
                self.meter.count(&bytes);
                self.kept.push_back(bytes);
                self.keeping &= self.kept_bytes <= self.limit;
                while self.kept_bytes > 2 * self.limit && self.kept.len() > 1 {
                    self.drop_first();
                }
            }
            Some(Ok(Chunk::Trailers(trailers))) => {
                self.trailers = Some(trailers);
                self.ended = true;
            }
            Some(Err(error)) => self.failed = Some(error),
            None => self.ended = true,
        }
        for waker in self.waiting.drain(..) {
            waker.wake();
        }
        Poll::Ready(())
    }
}

impl Reader {
    pub(super) fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Chunk, UpstreamError>>> {
        let shared = &mut *self.shared.borrow_mut();
        loop {
            let Some(next) = shared.readers.get(self.slot).copied().flatten() else {
                return Poll::Ready(Some(Err(UpstreamError::Stalled)));
            };
            if next < shared.first {
                return Poll::Ready(Some(Err(UpstreamError::Stalled)));
            }
            if let Some(bytes) = shared.kept.get(next - shared.first) {
                let bytes = bytes.clone();
                if let Some(place) = shared.readers.get_mut(self.slot) {
                    *place = Some(next + 1);
                }
                shared.forget();
                return Poll::Ready(Some(Ok(Chunk::Data(bytes))));
            }
            if let Some(error) = &shared.failed {
                return Poll::Ready(Some(Err(error.clone())));
            }
            if shared.ended {
                let trailers = shared.trailers.as_ref().filter(|_| !self.trailers_given).cloned();
                self.trailers_given = true;
                return Poll::Ready(trailers.map(|trailers| Ok(Chunk::Trailers(trailers))));
            }
            ready!(shared.poll_inner(cx));
        }
    }

    pub(super) fn is_end(&self) -> bool {
        let shared = self.shared.borrow();
        let next = shared.readers.get(self.slot).copied().flatten().unwrap_or(0);
        let read_all = next >= shared.first + shared.kept.len();
        read_all && (shared.trailers.is_none() || self.trailers_given) && (shared.ended || shared.inner.is_end())
    }

    pub(super) fn release(&mut self, count: usize) {
        self.released += count;
        let shared = &mut *self.shared.borrow_mut();
        if self.released > shared.released {
            shared.inner.release(self.released - shared.released);
            shared.released = self.released;
        }
    }

    /// What the client's flow control counts as held, and what is kept for further readers.
    pub(super) fn held(&self) -> usize {
        let shared = &mut *self.shared.borrow_mut();
        shared.inner.held() + shared.kept_bytes
    }

    pub(super) fn is_windowed(&self) -> bool {
        self.shared.borrow().inner.is_windowed()
    }

    /// Right before the first chunk is taken, which is when protocols ask.
    pub(super) fn size_hint(&self) -> SizeHint {
        self.shared.borrow().hint
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let shared = &mut *self.shared.borrow_mut();
        if let Some(place) = shared.readers.get_mut(self.slot) {
            *place = None;
        }
        shared.forget();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(body: &mut Reader) -> Result<Vec<u8>, UpstreamError> {
        let mut cx = Context::from_waker(Waker::noop());
        let mut text = Vec::new();
        while let Poll::Ready(Some(chunk)) = body.poll_chunk(&mut cx) {
            if let Chunk::Data(data) = chunk? {
                text.extend_from_slice(&data);
            }
        }
        Ok(text)
    }

    fn replay(limit: usize) -> Replay {
        Replay::new(Body::Full(Bytes::from_static(b"hello")), limit, Rc::default())
    }

    #[test]
    fn is_sent_again_from_the_start() {
        let replay = replay(5);
        let mut first = replay.reader().unwrap();
        assert_eq!(text(&mut first).unwrap(), b"hello");
        drop(first);
        let mut second = replay.reader().unwrap();
        assert!(!second.is_end());
        assert_eq!(text(&mut second).unwrap(), b"hello");
        assert!(second.is_end());
    }

    #[test]
    fn two_read_at_once() {
        let replay = replay(5);
        let (mut first, mut second) = (replay.reader().unwrap(), replay.reader().unwrap());
        replay.settle();
        assert!(replay.reader().is_none());
        assert_eq!(text(&mut first).unwrap(), b"hello");
        assert_eq!(replay.shared.borrow().kept.len(), 1, "kept for the second");
        assert_eq!(text(&mut second).unwrap(), b"hello");
        assert_eq!(replay.shared.borrow().kept.len(), 0);
    }

    #[test]
    fn too_much_cannot_be_sent_again() {
        let replay = replay(4);
        assert_eq!(text(&mut replay.reader().unwrap()).unwrap(), b"hello");
        assert!(replay.reader().is_none());
    }
}
