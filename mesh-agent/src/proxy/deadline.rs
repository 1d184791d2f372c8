//! How long a request may take, all attempts and pauses together.

use crate::body::Replay;
use crate::error::Failure;
use crate::time::{Alarms, Due, Nanos};
use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

/// The request's time limit.
#[derive(Debug)]
pub(super) struct Deadline {
    limit: Option<Duration>,
    begin: Begin,
    now: Nanos,
    /// The request's end was waited for.
    waited: bool,
    /// `None`: the clock has not started.
    due: Option<Due>,
}

/// When the attempt that runs has to end. While that is first, nobody waits for the request's own limit.
pub(super) type Nearer = Cell<Option<Nanos>>;

/// When the clock starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Begin {
    /// At once: the client's own limit (`grpc-timeout`).
    Now,
    /// When the request has been received whole: the route's (SEMANTICS §3 "Timeout").
    RequestEnd,
}

impl Deadline {
    pub(super) fn new(limit: Option<Duration>, begin: Begin, now: Nanos) -> Self {
        Self { limit, begin, now, waited: false, due: None }
    }

    fn poll_passed(
        &mut self,
        alarms: &Rc<Alarms>,
        request: Option<&Replay>,
        nearer: &Nearer,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        let Some(limit) = self.limit else { return Poll::Pending };
        if self.due.is_none()
            && self.begin == Begin::RequestEnd
            && request.is_some_and(|request| request.poll_ended(cx).is_pending())
        {
            self.waited = true;
            return Poll::Pending;
        }
        let begin = || if self.waited { Nanos::now() } else { self.now };
        let due = self.due.get_or_insert_with(|| Due::new(alarms, begin().plus(limit)));
        if nearer.get().is_some_and(|nearer| nearer <= due.at) { Poll::Pending } else { due.poll(cx) }
    }

    /// Runs `work` until the time is up; its owner drops it then, which cancels it at the endpoint.
    pub(super) async fn limit<T>(
        &mut self,
        alarms: &Rc<Alarms>,
        request: Option<&Replay>,
        nearer: &Nearer,
        mut work: Pin<&mut impl Future<Output = Result<T, Failure>>>,
    ) -> Result<T, Failure> {
        poll_fn(|cx| {
            if let Poll::Ready(result) = work.as_mut().poll(cx) {
                return Poll::Ready(result);
            }
            self.poll_passed(alarms, request, nearer, cx).map(|()| Err(Failure::Timeout))
        })
        .await
    }

    /// The running clock, for the response's body.
    pub(super) fn into_due(self) -> Option<Due> {
        self.due
    }
}
