//! How long a request may take, all attempts and pauses together.

use crate::body::Replay;
use crate::error::Failure;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Sleep;

/// The request's time limit.
#[derive(Debug)]
pub(super) struct Deadline {
    limit: Option<Duration>,
    begin: Begin,
    sleep: Option<Pin<Box<Sleep>>>,
}

/// When the clock starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Begin {
    /// At once: the client's own limit (`grpc-timeout`).
    Now,
    /// When the request has been received whole: the route's (SEMANTICS §3 "Timeout").
    RequestEnd,
}

impl Deadline {
    pub(super) fn new(limit: Option<Duration>, begin: Begin) -> Self {
        Self { limit, begin, sleep: None }
    }

    fn poll_passed(&mut self, cx: &mut Context<'_>, request: Option<&Replay>) -> Poll<()> {
        let Some(limit) = self.limit else { return Poll::Pending };
        if self.sleep.is_none() {
            if self.begin == Begin::RequestEnd && request.is_some_and(|request| request.poll_ended(cx).is_pending()) {
                return Poll::Pending;
            }
            self.sleep = Some(Box::pin(tokio::time::sleep(limit)));
        }
        match &mut self.sleep {
            Some(sleep) => sleep.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }

    /// Runs `work` until the time is up; its owner drops it then, which cancels it at the endpoint.
    pub(super) async fn limit<T>(
        &mut self,
        request: Option<&Replay>,
        mut work: Pin<&mut impl Future<Output = Result<T, Failure>>>,
    ) -> Result<T, Failure> {
        poll_fn(|cx| {
            if let Poll::Ready(result) = work.as_mut().poll(cx) {
                return Poll::Ready(result);
            }
            self.poll_passed(cx, request).map(|()| Err(Failure::Timeout))
        })
        .await
    }

    /// The running clock, for the response's body.
    pub(super) fn into_sleep(self) -> Option<Pin<Box<Sleep>>> {
        self.sleep
    }
}
