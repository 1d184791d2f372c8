//! A response body that reports how its exchange ended.

use super::{Body, Chunk};
use crate::error::{Failure, Flag, UpstreamError};
use crate::telemetry::Record;
use crate::time::Due;
use std::fmt;
use std::task::{Context, Poll};

/// Passes a response on; its end, error or drop is the end of the exchange.
///
/// Made with the request: the record is filled in where it lies, whatever stages it passes, until its end.
pub struct Observed {
    pub record: Record,
    /// `None` until there is an answer.
    inner: Option<Body>,
    /// What is left of the request's own timeout (`grpc-timeout`).
    deadline: Option<Due>,
}

impl Observed {
    pub fn new(record: Record) -> Box<Self> {
        Box::new(Self { record, inner: None, deadline: None })
    }

    /// The body of an endpoint's answer.
    pub fn body(mut self: Box<Self>, inner: Body, deadline: Option<Due>) -> Body {
        (self.inner, self.deadline) = (Some(inner), deadline);
        Body::Observed(self)
    }

    pub(super) fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Chunk, UpstreamError>>> {
        let Some(inner) = &mut self.inner else { return Poll::Ready(None) };
        let Poll::Ready(chunk) = inner.poll_chunk(cx) else {
            if let Some(deadline) = &mut self.deadline
                && deadline.poll(cx).is_ready()
            {
                self.record.flags.insert(Flag::UT);
                self.record.details = Failure::Timeout.answer().details;
                self.record.complete = true;
                return Poll::Ready(Some(Err(UpstreamError::Reset(crate::error::CANCEL))));
            }
            return Poll::Pending;
        };
        match &chunk {
            None => self.record.complete = true,
            Some(Ok(Chunk::Data(data))) => self.record.response.count(data),
            Some(Ok(Chunk::Trailers(trailers))) => {
                self.record.read_grpc_status(trailers);
                if let Some(log) = &mut self.record.log {
                    log.trailers(trailers);
                }
                self.record.complete = true;
            }
            Some(Err(error)) => {
                let answer = Failure::Upstream(error.clone()).answer();
                self.record.flags |= answer.flags;
                self.record.outcome = answer.outcome;
                self.record.details = answer.details;
                self.record.complete = true;
            }
        }
        Poll::Ready(chunk)
    }

    pub(super) fn is_end(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end)
    }

    pub(super) fn release(&mut self, count: usize) {
        self.inner.iter_mut().for_each(|inner| inner.release(count));
    }

    pub(super) fn held(&mut self) -> usize {
        self.inner.as_mut().map_or(0, Body::held)
    }

    pub(super) fn is_windowed(&self) -> bool {
        self.inner.as_ref().is_some_and(Body::is_windowed)
    }

    pub(super) fn size_hint(&self) -> http_body::SizeHint {
        self.inner.as_ref().map_or_else(|| http_body::SizeHint::with_exact(0), http_body::Body::size_hint)
    }

    pub(super) fn cancelled(&mut self) {
        if !self.record.complete {
            self.record.abandoned();
        }
    }
}

impl Drop for Observed {
    fn drop(&mut self) {
        match &self.inner {
            // The record knows by itself.
            None => {}
            Some(_) if self.record.complete => {}
            Some(inner) if inner.is_end() => self.record.complete = true,
            // Dropped in the middle: whoever read it is gone.
            Some(_) => self.cancelled(),
        }
    }
}

impl fmt::Debug for Observed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Observed").field("inner", &self.inner).finish_non_exhaustive()
    }
}
