//! Whether an endpoint has spoken on a new connection.
//!
//! A server's first frame is SETTINGS (RFC 9113 §3.4). Before it nothing is sent but our own preface, so an endpoint
//! that resets, closes or swallows a connection has provably processed no request: it counts as a failed connect, the
//! request goes elsewhere, and the balancer passes the endpoint over. It costs one round trip per connection.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What a connection's task and those who wait for it share.
#[derive(Debug, Default)]
pub(super) struct Preface {
    heard: Cell<bool>,
    ended: Cell<bool>,
    waiting: RefCell<Option<Waker>>,
}

impl Preface {
    /// True once a byte came, false if the connection ended without one.
    pub(super) async fn heard(&self) -> bool {
        poll_fn(|cx| {
            if self.heard.get() || self.ended.get() {
                return Poll::Ready(self.heard.get());
            }
            *self.waiting.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    pub(super) fn end(&self) {
        self.ended.set(true);
        self.wake();
    }

    fn hear(&self) {
        if !self.heard.replace(true) {
            self.wake();
        }
    }

    fn wake(&self) {
        if let Some(waker) = self.waiting.borrow_mut().take() {
            waker.wake();
        }
    }
}

/// A socket that tells its [`Preface`] of the first byte.
pub(super) struct Listened<T> {
    io: T,
    preface: Rc<Preface>,
}

impl<T> Listened<T> {
    pub(super) fn new(io: T, preface: &Rc<Preface>) -> Self {
        Self { io, preface: Rc::clone(preface) }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Listened<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = Pin::new(&mut self.io).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.preface.hear();
        }
        result
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Listened<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
