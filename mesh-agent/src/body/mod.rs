//! A message body in transit: the value the wire protocols hand to one another.
//!
//! Place in the path: between `http1` and `http2`, request and response alike. Invariant: back-pressure is kept; a
//! chunk's bytes count as held by the sender's flow control until `release` is called for them.

mod grpc_web;
mod observed;
mod replay;

pub use grpc_web::{GrpcWeb, Translated};
pub use observed::Observed;
pub use replay::{Reader, Replay};

use crate::error::UpstreamError;
use crate::{http1, http2};
use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;
use std::pin::Pin;
use std::task::{Context, Poll};

/// The rest of a message after its head.
#[derive(Debug, Default)]
pub enum Body {
    #[default]
    Empty,
    /// A local answer's text.
    Full(Bytes),
    Http1(Box<http1::RecvBody>),
    Http2(Box<http2::RecvBody>),
    /// A request body that others may read too.
    Replay(Box<Reader>),
    /// A response body that reports how the exchange ended.
    Observed(Box<Observed>),
    /// gRPC-Web on one side, gRPC on the other.
    Translated(Box<Translated>),
}

/// A piece of a body.
#[derive(Debug)]
pub enum Chunk {
    Data(Bytes),
    /// Always the last chunk. Boxed: a chunk is handed through four layers per message of a stream.
    Trailers(Box<HeaderMap>),
}

impl Body {
    /// The next chunk; `None` at the end.
    ///
    /// An error is the *sender's*: of the client for a request body, of the endpoint for a response body.
    pub fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Chunk, UpstreamError>>> {
        match self {
            Self::Empty => Poll::Ready(None),
            Self::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                *self = Self::Empty;
                Poll::Ready((!bytes.is_empty()).then_some(Ok(Chunk::Data(bytes))))
            }
            Self::Http1(body) => body.poll_chunk(cx),
            Self::Http2(body) => body.poll_chunk(cx),
            Self::Replay(body) => body.poll_chunk(cx),
            Self::Observed(body) => body.poll_chunk(cx),
            Self::Translated(body) => body.poll_chunk(cx),
        }
    }

    /// Nothing will follow, as far as can be told without waiting.
    pub fn is_end(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(bytes) => bytes.is_empty(),
            Self::Http1(body) => body.is_end(),
            Self::Http2(body) => body.is_end(),
            Self::Replay(body) => body.is_end(),
            Self::Observed(body) => body.is_end(),
            Self::Translated(body) => body.is_end(),
        }
    }

    /// `count` bytes of earlier chunks were taken over by the receiver: the sender may send as many again.
    pub fn release(&mut self, count: usize) {
        match self {
            Self::Empty | Self::Full(_) => {}
            Self::Http1(body) => body.release(count),
            Self::Http2(body) => body.release(count),
            Self::Replay(body) => body.release(count),
            Self::Observed(body) => body.release(count),
            Self::Translated(body) => body.release(count),
        }
    }

    /// Bytes received and not yet released, and at most how many of the released ones wait to be written.
    pub fn held(&mut self) -> usize {
        match self {
            Self::Empty | Self::Full(_) => 0,
            Self::Http1(body) => body.held(),
            Self::Http2(body) => body.held(),
            Self::Replay(body) => body.held(),
            Self::Observed(body) => body.held(),
            Self::Translated(body) => body.held(),
        }
    }

    /// Whether the sender stops by itself until bytes are released: such a body may be taken ahead of its receiver.
    pub fn is_windowed(&self) -> bool {
        match self {
            Self::Empty | Self::Full(_) | Self::Http1(_) => false,
            Self::Http2(_) => true,
            Self::Replay(body) => body.is_windowed(),
            Self::Observed(body) => body.is_windowed(),
            Self::Translated(body) => body.is_windowed(),
        }
    }

    /// The receiver is gone.
    pub fn cancelled(&mut self) {
        match self {
            Self::Observed(body) => body.cancelled(),
            Self::Translated(body) => body.cancelled(),
            _ => {}
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = UpstreamError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        self.poll_chunk(cx).map(|chunk| {
            Some(chunk?.map(|chunk| match chunk {
                Chunk::Data(bytes) => {
                    // hyper asks for a frame only when its write buffer has room: asking is taking.
                    self.release(bytes.len());
                    Frame::data(bytes)
                }
                Chunk::Trailers(trailers) => Frame::trailers(*trailers),
            }))
        })
    }

    fn is_end_stream(&self) -> bool {
        self.is_end()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        match self {
            Self::Empty => http_body::SizeHint::with_exact(0),
            Self::Full(bytes) => http_body::SizeHint::with_exact(bytes.len() as u64),
            Self::Http1(body) => body.size_hint(),
            Self::Observed(body) => body.size_hint(),
            Self::Replay(body) => body.size_hint(),
            Self::Http2(_) | Self::Translated(_) => http_body::SizeHint::default(),
        }
    }
}
