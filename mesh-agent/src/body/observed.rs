//! A response body that reports how its exchange ended.

use super::{Body, Chunk};
use crate::error::{Failure, Flag, UpstreamError};
use crate::telemetry::Record;
use crate::time::Alarm;
use std::fmt;
use std::task::{Context, Poll};

/// Passes a response on; its end, error or drop is the end of the exchange.
pub struct Observed {
    inner: Body,
    record: Record,
    /// What is left of the request's own timeout (`grpc-timeout`).
    deadline: Option<Alarm>,
}

impl Observed {
    pub fn new(inner: Body, record: Record, deadline: Option<Alarm>) -> Self {
        Self { inner, record, deadline }
    }

    pub(super) fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Chunk, UpstreamError>>> {
        let Poll::Ready(chunk) = self.inner.poll_chunk(cx) else {
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
        self.inner.is_end()
    }

    pub(super) fn release(&mut self, count: usize) {
        self.inner.release(count);
    }

    pub(super) fn held(&mut self) -> usize {
        self.inner.held()
    }

    pub(super) fn is_windowed(&self) -> bool {
        self.inner.is_windowed()
    }

    pub(super) fn size_hint(&self) -> http_body::SizeHint {
        http_body::Body::size_hint(&self.inner)
    }

    pub(super) fn cancelled(&mut self) {
        if !self.record.complete {
            self.record.abandoned();
        }
    }
}

impl Drop for Observed {
    fn drop(&mut self) {
        if self.inner.is_end() {
            self.record.complete = true;
        } else {
            // Dropped in the middle: whoever read it is gone.
            self.cancelled();
        }
    }
}

impl fmt::Debug for Observed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Observed").field("inner", &self.inner).finish_non_exhaustive()
    }
}
