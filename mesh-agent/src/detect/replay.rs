//! A stream whose first bytes were read already.

use crate::connections::Connection;
use bytes::{Buf, Bytes};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Gives `first` before anything `io` has; writes go straight through.
#[derive(Debug)]
pub struct Replay<S> {
    first: Bytes,
    io: S,
    /// Counts what passes, `first` included; `None`: somebody else does.
    shown: Option<Arc<Connection>>,
}

impl<S> Replay<S> {
    pub fn new(first: Bytes, io: S, shown: Arc<Connection>) -> Self {
        shown.add_received(first.len());
        Self { first, io, shown: Some(shown) }
    }

    /// Nothing is counted: what is inside the stream's TLS is, by whoever forwards it.
    pub fn uncounted(first: Bytes, io: S) -> Self {
        Self { first, io, shown: None }
    }

    /// What is behind it.
    pub fn io(&self) -> &S {
        &self.io
    }

    fn count_sent(&self, result: &Poll<io::Result<usize>>) {
        if let (Poll::Ready(Ok(count)), Some(shown)) = (result, &self.shown) {
            shown.add_sent(*count);
        }
    }

    /// The bytes not yet given and the stream.
    pub fn into_parts(self) -> (Bytes, S) {
        (self.first, self.io)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Replay<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.first.is_empty() {
            let before = buf.filled().len();
            let result = Pin::new(&mut self.io).poll_read(cx, buf);
            if let Some(shown) = &self.shown {
                shown.add_received(buf.filled().len() - before);
            }
            return result;
        }
        let count = self.first.len().min(buf.remaining());
        buf.put_slice(self.first.get(..count).unwrap_or_default());
        self.first.advance(count);
        if self.first.is_empty() {
            // Releases the detection buffer: an idle connection keeps nothing of it.
            self.first = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Replay<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write(cx, buf);
        self.count_sent(&result);
        result
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.count_sent(&result);
        result
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
