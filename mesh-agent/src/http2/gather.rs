//! Few large system calls instead of many small ones, on both sides of every HTTP/2 connection.
//!
//! `h2` reads 8 KiB at a time, and writes and flushes every DATA frame by itself: 1 MiB is 128 `recv` and 64 `writev`
//! calls and as many passes through TCP. A *turn* is one poll of a connection by its task. Here a turn reads the socket
//! 64 KiB at a time and stops after as much, and writes when 64 KiB are together or when it ends.
//!
//! The bound on reading is for the cache: `h2` queues every frame as some 300 bytes of bookkeeping. Of a long run of
//! small frames, most would have left the cache before the streams' tasks take them (bench cell `stream-128`: 0.62 µs
//! of CPU per message without the bound, 0.38 µs with it; since a stream's frames are joined before `h2` sees them,
//! see `join`, it matters where the frames of many streams alternate).
//!
//! Place in the path: between `h2` and the socket, on both sides. Invariant: nothing stays gathered after a turn unless
//! the socket is full, and then the socket wakes the connection's task; what was read and not taken is given before
//! anything else. An idle connection holds no memory of either kind.

use super::join::Joiner;
use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes gathered for a write, and read in a turn, at most: the largest segment TCP hands down or up at once.
const LIMIT: usize = 64 << 10;
/// Shorter writes go straight to the socket if nothing waits before them: `h2` has joined small frames already.
const LARGE: usize = 4 << 10;

thread_local! {
    /// A worker drives one connection at a time: they share the memory.
    static SPARE_WRITE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    static SPARE_READ: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// The socket as `h2` sees it.
#[derive(Debug)]
pub(super) struct Gathered<T> {
    shared: Rc<RefCell<Shared<T>>>,
}

/// Writes what a turn has gathered, and lets the next one read.
#[derive(Debug)]
pub(super) struct TurnEnd<T> {
    shared: Rc<RefCell<Shared<T>>>,
}

#[derive(Debug)]
struct Shared<T> {
    io: T,
    gathered: Vec<u8>,
    /// How much of it the socket has taken.
    written: usize,
    /// An error met at the end of a turn, for `h2`'s next write or flush.
    failed: Option<io::Error>,
    /// `h2` is between two frames: it flushes when, and only when, it has handed over whole ones.
    between: bool,
    /// Frames of ours, to be written there.
    aside: &'static [u8],
    ahead: Ahead,
    joiner: Joiner,
    /// Bytes that the socket gave in this turn.
    read: usize,
}

/// Bytes read and not yet taken: `bytes[taken..end]`.
#[derive(Debug, Default)]
struct Ahead {
    /// Empty, or `LIMIT` long.
    bytes: Vec<u8>,
    taken: usize,
    end: usize,
}

impl<T> Gathered<T> {
    /// `preface`: bytes that come before the first frame.
    pub(super) fn new(io: T, preface: usize) -> (Self, TurnEnd<T>) {
        let shared = Shared {
            io,
            gathered: Vec::new(),
            written: 0,
            failed: None,
            between: false,
            aside: &[],
            ahead: Ahead::default(),
            joiner: Joiner::new(preface),
            read: 0,
        };
        let shared = Rc::new(RefCell::new(shared));
        (Self { shared: Rc::clone(&shared) }, TurnEnd { shared })
    }
}

impl<T> TurnEnd<T> {
    /// Whole frames, which `h2` does not know of, to be written as soon as they fit between its own.
    pub(super) fn say(&self, frames: &'static [u8]) {
        self.shared.borrow_mut().aside = frames;
    }
}

impl<T: AsyncWrite + Unpin> TurnEnd<T> {
    /// To be called whenever the connection was polled, from the same task.
    pub(super) fn poll(&self, cx: &mut Context<'_>) {
        let shared = &mut *self.shared.borrow_mut();
        shared.read = 0;
        if shared.between && !shared.aside.is_empty() {
            let frames = std::mem::take(&mut shared.aside);
            shared.gather(&[IoSlice::new(frames)]);
        }
        if shared.gathered.is_empty() || shared.failed.is_some() {
            return;
        }
        if let Poll::Ready(Err(error)) = shared.poll_drain(cx) {
            shared.failed = Some(error);
            cx.waker().wake_by_ref();
        }
    }
}

impl<T: AsyncWrite + Unpin> Shared<T> {
    fn poll_gather(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if let Some(error) = self.failed.take() {
            return Poll::Ready(Err(error));
        }
        self.between = false;
        let count = slices.iter().map(|slice| slice.len()).sum::<usize>();
        if self.gathered.len() + count > LIMIT {
            ready!(self.poll_drain(cx))?;
        }
        if self.gathered.is_empty() && !(LARGE..LIMIT).contains(&count) {
            return Pin::new(&mut self.io).poll_write_vectored(cx, slices);
        }
        self.gather(slices);
        Poll::Ready(Ok(count))
    }

    fn gather(&mut self, slices: &[IoSlice<'_>]) {
        if self.gathered.capacity() == 0 {
            self.gathered = SPARE_WRITE.take();
            self.gathered.reserve(LIMIT);
        }
        for slice in slices {
            self.gathered.extend_from_slice(slice);
        }
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest) = self.gathered.get(self.written..).filter(|rest| !rest.is_empty()) {
            match ready!(Pin::new(&mut self.io).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.written += count,
            }
        }
        self.written = 0;
        self.gathered.clear();
        if self.gathered.capacity() > 0 {
            SPARE_WRITE.set(std::mem::take(&mut self.gathered));
        }
        Poll::Ready(Ok(()))
    }
}

impl Ahead {
    /// One read of the socket; ready with how much it gave, 0 at its end.
    fn poll_fill<T: AsyncRead + Unpin>(&mut self, io: &mut T, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.bytes = SPARE_READ.take();
        // Zeroed once per worker.
        self.bytes.resize(LIMIT, 0);
        let mut buf = ReadBuf::new(&mut self.bytes);
        let result = Pin::new(io).poll_read(cx, &mut buf);
        (self.taken, self.end) = (0, buf.filled().len());
        if self.end == 0 {
            self.give_back();
        }
        result.map_ok(|()| self.end)
    }

    fn join(&mut self, joiner: &mut Joiner) {
        if let Some(bytes) = self.bytes.get_mut(..self.end) {
            self.end = joiner.join(bytes);
        }
    }

    fn take(&mut self, buf: &mut ReadBuf<'_>) {
        let rest = self.bytes.get(self.taken..self.end).unwrap_or_default();
        let count = rest.len().min(buf.remaining());
        buf.put_slice(rest.get(..count).unwrap_or_default());
        self.taken += count;
        if self.taken == self.end {
            self.give_back();
        }
    }

    fn is_empty(&self) -> bool {
        self.taken == self.end
    }

    fn give_back(&mut self) {
        if !self.bytes.is_empty() {
            SPARE_READ.set(std::mem::take(&mut self.bytes));
        }
        (self.taken, self.end) = (0, 0);
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Gathered<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let shared = &mut *self.shared.borrow_mut();
        if shared.ahead.is_empty() {
            if shared.read >= LIMIT {
                // The streams' tasks, woken by what came so far, run before this one.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            shared.read += ready!(shared.ahead.poll_fill(&mut shared.io, cx))?;
            shared.ahead.join(&mut shared.joiner);
        }
        shared.ahead.take(buf);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Gathered<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.shared.borrow_mut().poll_gather(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.shared.borrow_mut().poll_gather(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.shared.borrow().io.is_write_vectored()
    }

    /// `h2` flushes after every frame; the end of the turn does what this stands for.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shared = &mut *self.shared.borrow_mut();
        shared.between = true;
        if let Some(error) = shared.failed.take() {
            return Poll::Ready(Err(error));
        }
        if shared.gathered.is_empty() { Pin::new(&mut shared.io).poll_flush(cx) } else { Poll::Ready(Ok(())) }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shared = &mut *self.shared.borrow_mut();
        ready!(shared.poll_drain(cx))?;
        Pin::new(&mut shared.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
