//! Joins the frames of one turn of a connection into few writes.
//!
//! `h2` writes and flushes every DATA frame by itself, so 1 MiB is 64 `writev` calls and as many passes through TCP.
//! Here large writes are gathered, and written when 64 KiB are together or the connection's turn is over.
//!
//! Place in the path: between `h2` and the socket, on both sides. Invariant: nothing stays gathered after a turn unless
//! the socket is full, and then the socket wakes the connection's task.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes gathered at most: the largest segment TCP hands down at once.
const LIMIT: usize = 64 << 10;
/// Shorter writes go straight to the socket if nothing waits before them: `h2` has joined small frames already.
const LARGE: usize = 4 << 10;

thread_local! {
    /// A worker drives one connection at a time: they share the memory.
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// The socket as `h2` sees it.
#[derive(Debug)]
pub(super) struct Gathered<T> {
    shared: Rc<RefCell<Shared<T>>>,
}

/// Writes what a turn has gathered.
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
}

impl<T> Gathered<T> {
    pub(super) fn new(io: T) -> (Self, TurnEnd<T>) {
        let shared = Rc::new(RefCell::new(Shared { io, gathered: Vec::new(), written: 0, failed: None }));
        (Self { shared: Rc::clone(&shared) }, TurnEnd { shared })
    }
}

impl<T: AsyncWrite + Unpin> TurnEnd<T> {
    /// To be called whenever the connection was polled, from the same task.
    pub(super) fn poll(&self, cx: &mut Context<'_>) {
        let shared = &mut *self.shared.borrow_mut();
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
        let count = slices.iter().map(|slice| slice.len()).sum::<usize>();
        if self.gathered.len() + count > LIMIT {
            ready!(self.poll_drain(cx))?;
        }
        if self.gathered.is_empty() && !(LARGE..LIMIT).contains(&count) {
            return Pin::new(&mut self.io).poll_write_vectored(cx, slices);
        }
        if self.gathered.capacity() == 0 {
            self.gathered = SPARE.take();
            self.gathered.reserve(LIMIT);
        }
        for slice in slices {
            self.gathered.extend_from_slice(slice);
        }
        Poll::Ready(Ok(count))
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
            SPARE.set(std::mem::take(&mut self.gathered));
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Gathered<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.shared.borrow_mut().io).poll_read(cx, buf)
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
