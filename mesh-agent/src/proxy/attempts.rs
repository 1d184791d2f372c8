//! The attempts of one request: which endpoint, how long, and whether another one.

use super::Conn;
use super::attempt::attempt;
use super::deadline::Nearer;
use super::exchange::Inform;
use crate::addr::EndpointAddr;
use crate::balance::{ActiveRequest, Ask, Chosen, Ended, Priorities};
use crate::body::{Body, Replay};
use crate::connect::Way;
use crate::destination::Target;
use crate::error::{ConnectError, Failure, Flag, UpstreamError};
use crate::policy::retry;
use crate::policy::timeout::Timeouts;
use crate::snapshot::policy::Balancer;
use crate::snapshot::route::{Hedge, RetryOn, RetryPolicy};
use crate::telemetry::{Callee, Record, Served};
use crate::time::{Alarms, Due, Nanos};
use crate::{grpc, http1};
use http::header::HeaderName;
use http::{HeaderValue, Response, request};
use smallvec::SmallVec;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

const ATTEMPT_COUNT: HeaderName = HeaderName::from_static("x-envoy-attempt-count");

/// Conditions under which another endpoint is asked after a connection that failed.
const CONNECT: RetryOn = RetryOn::PROVEN.with(RetryOn::CONNECT_FAILURE).with(RetryOn::FIVE_XX).with(RetryOn::RESET);

/// A request on its way out.
pub(super) struct Attempts<'a> {
    pub(super) conn: &'a Conn,
    pub(super) target: &'a Rc<Target>,
    /// What it counts as.
    pub(super) callee: &'a Arc<Callee>,
    pub(super) parts: &'a mut request::Parts,
    /// `None`: the request has no body.
    pub(super) replay: Option<&'a Replay>,
    pub(super) retry: Option<&'a RetryPolicy>,
    /// Only where the request may be sent twice.
    pub(super) hedge: Option<&'a Hedge>,
    pub(super) hash: Option<u64>,
    pub(super) timeouts: Timeouts,
    pub(super) started: Nanos,
    pub(super) upgrade: Option<http1::Upgrade>,
    pub(super) inform: &'a mut Inform,
    pub(super) record: &'a mut Record,
    /// Who was asked last.
    pub(super) endpoint: Option<EndpointAddr>,
    /// Whose answers have not begun, and since when they are asked.
    pub(super) underway: SmallVec<[(Chosen, Nanos); 1]>,
    pub(super) nearer: &'a Nearer,
}

/// An endpoint's answer.
pub(super) struct Answered {
    pub(super) response: Response<Body>,
    pub(super) served: Option<Served>,
    /// When its head was there.
    pub(super) at: Nanos,
}

/// How one attempt, or several at once, ended.
pub(super) struct Flown {
    pub(super) result: Result<Response<Body>, Failure>,
    pub(super) endpoint: EndpointAddr,
    pub(super) priority: u8,
    /// `None`: there is no answer, which is counted.
    pub(super) served: Option<Served>,
    pub(super) at: Nanos,
}

impl Attempts<'_> {
    /// Asks endpoints, from `begun` on, until one gives an answer that is not repeated.
    ///
    /// # Errors
    /// What became of the last attempt.
    pub(super) async fn run(&mut self, mut begun: Nanos) -> Result<Answered, Failure> {
        let ctx = &self.conn.ctx;
        let mut tried: SmallVec<[EndpointAddr; 4]> = SmallVec::new();
        let mut exclude = Priorities::default();
        let mut priorities: SmallVec<[u8; 4]> = SmallVec::new();
        let mut retries = 0;
        let mut _retrying = None;
        loop {
            let avoided = if self.avoids_previous() { &tried[..] } else { &[] };
            let chosen = self.choose(avoided, exclude, begun)?;
            let flown = match self.hedge {
                // Boxed: rare, and larger than a plain attempt.
                Some(hedge) => Box::pin(self.race(hedge, chosen, &mut tried, exclude)).await?,
                None => self.fly(chosen, retries, &tried, begun).await?,
            };
            let Flown { result, endpoint, priority, served, at } = flown;
            let attempted = outcome(&result);
            // A refusal costs a round trip and says that the pod has gone. When a Deployment shrinks most of its
            // endpoints refuse at once, so the first refusal of each is no attempt: 4 of 5 refusing leave all attempts
            // for the fifth.
            let free = matches!(result, Err(Failure::Connect(ConnectError::Refused))) && !tried.contains(&endpoint);
            let policy = self.retry.filter(|policy| retry::condition(policy, attempted).is_some());
            let whole = self.replay.is_none_or(Replay::is_whole);
            let Some(policy) = policy.filter(|_| whole) else {
                return result.map(|response| Answered { response, served, at });
            };
            if !free && retries >= policy.attempts {
                self.record.flags.insert(Flag::URX);
                return result.map(|response| Answered { response, served, at });
            }
            let Ok(permit) = ctx.pools.retry(self.conn.way(self.target, endpoint)) else {
                self.record.flags.insert(Flag::UO);
                return result.map(|response| Answered { response, served, at });
            };
            // Dropping an answer resets its stream.
            drop((result, served));
            ctx.recorder.metrics().retried();
            tried.push(endpoint);
            retries += u32::from(!free);
            if policy.remote_localities {
                priorities.push(priority);
                // updateFrequency 2 (SEMANTICS §3).
                if priorities.len().is_multiple_of(2) {
                    priorities.iter().for_each(|priority| exclude.insert(*priority));
                }
            }
            _retrying = permit;
            if !free {
                let pause = retry::backoff(policy, retries, &mut ctx.rng.borrow_mut());
                tokio::time::sleep(pause).await;
            }
            begun = Nanos::now();
        }
    }

    /// One attempt. `retries`: how many of the policy's were made.
    async fn fly(
        &mut self,
        chosen: Chosen,
        retries: u32,
        tried: &[EndpointAddr],
        begun: Nanos,
    ) -> Result<Flown, Failure> {
        let (endpoint, priority) = (chosen.addr(), chosen.priority);
        self.prepare(endpoint, begun);
        let body = self.body()?;
        let mut served = Some(self.served(chosen.start(begun), begun));
        let dialled = chosen.dialled();
        self.underway.push((chosen, begun));
        // Time is saved for another endpoint only where one may be asked.
        let others = self.retry.is_some_and(|policy| policy.on.has(CONNECT) && retries < policy.attempts)
            && self.target.cluster.has_other(endpoint, tried, begun);
        let way = Way { others, ..self.conn.way(self.target, dialled) };
        let result = {
            let sent =
                attempt(self.conn, self.target, &way, self.parts, body, &mut self.upgrade, self.inform, &mut served);
            let end = self.timeouts.per_try.map(|limit| begun.plus(limit));
            self.nearer.set(end);
            within(&self.conn.ctx.alarms, end, pin!(sent)).await
        };
        self.nearer.set(None);
        self.underway.clear();
        self.traced(endpoint, &result);
        let at = Nanos::now();
        let served = landed(served, &result, at);
        Ok(Flown { result, endpoint, priority, served, at })
    }

    /// Tells the trace, if there is one, how an attempt ended.
    pub(super) fn traced(&mut self, endpoint: EndpointAddr, result: &Result<Response<Body>, Failure>) {
        let Some(trace) = &mut self.record.trace else { return };
        match result {
            Ok(response) => {
                trace.answered(endpoint, response.status().as_u16(), grpc::status_in(response.headers()));
            }
            Err(failure) => trace.failed(endpoint, failure.answer().flags, was_sent(failure), Nanos::now()),
        }
    }

    /// The whole request's time is up: so says the detector of whoever has not begun to answer.
    pub(super) fn timed_out(&self) {
        let now = Nanos::now();
        self.underway.iter().for_each(|(chosen, _)| chosen.timed_out(now));
    }

    pub(super) fn choose(&self, tried: &[EndpointAddr], exclude: Priorities, now: Nanos) -> Result<Chosen, Failure> {
        let ask = Ask { tried, hash: self.hash, exclude, original: self.conn.wants.original(), now };
        let rng = &mut self.conn.ctx.rng.borrow_mut();
        self.target.cluster.pick(&ask, rng).map_err(|_| Failure::NoEndpoint)
    }

    /// Whether an endpoint tried before is chosen again only where there is no other; by default not where the
    /// policy wants the same request at the same endpoint (SEMANTICS §3 "Previous-hosts predicate").
    fn avoids_previous(&self) -> bool {
        let hashed = matches!(self.target.policy.balancer, Balancer::ConsistentHash(_));
        self.retry.and_then(|policy| policy.avoid_previous).unwrap_or(!hashed)
    }

    /// The request's body from its beginning.
    pub(super) fn body(&self) -> Result<Body, Failure> {
        let Some(replay) = self.replay else { return Ok(Body::Empty) };
        // Whoever wants to repeat has made sure that the beginning is still there.
        let reader = replay.reader().ok_or(Failure::ClientGone)?;
        Ok(Body::Replay(Box::new(reader)))
    }

    /// An attempt as its endpoint will see it.
    pub(super) fn served(&self, active: ActiveRequest, begun: Nanos) -> Served {
        let mut served = Served::new(&self.record.series, active, begun, self.record.grpc);
        served.request(self.record.request_head, self.record.request.as_ref());
        if self.record.tap.is_some() || self.record.trace.is_some() || self.record.log.is_some() {
            served.watch();
        }
        served
    }

    /// Counts the attempt, and tells its endpoint which one it is (Istio: `include_request_attempt_count`).
    pub(super) fn prepare(&mut self, endpoint: EndpointAddr, now: Nanos) {
        let conn = self.conn;
        self.endpoint = Some(endpoint);
        let workload = || self.target.cluster.workload(endpoint);
        self.record.series =
            conn.ctx.recorder.series(conn.source.workload.as_ref(), self.callee, Some(endpoint), workload);
        self.record.attempts += 1;
        self.record.asked.get_or_insert(now);
        if let Some(log) = &mut self.record.log {
            log.asks(endpoint.addr());
        }
        if let Some(tap) = &mut self.record.tap {
            tap.asks(endpoint.addr());
        }
        let count = match self.record.attempts {
            1 => HeaderValue::from_static("1"),
            more => HeaderValue::from(more),
        };
        self.parts.headers.insert(ATTEMPT_COUNT, count);
        self.timeouts.write(now.since(self.started), &mut self.parts.headers);
        if let Some(trace) = &mut self.record.trace {
            let (workload, rng) = (self.record.series.endpoint.as_ref(), &mut conn.ctx.rng.borrow_mut());
            trace.asks(endpoint, workload, &mut self.parts.headers, rng, now);
        }
    }
}

/// Tells endpoint and record how an attempt ended.
pub(super) fn landed(served: Option<Served>, result: &Result<Response<Body>, Failure>, at: Nanos) -> Option<Served> {
    let mut served = served?;
    if let Some(ended) = ended(result) {
        served.active().finished(ended, at);
    }
    match result {
        Ok(response) => {
            served.answered(response.status(), response.headers());
            Some(served)
        }
        Err(failure) => {
            served.failed(failure, was_sent(failure));
            None
        }
    }
}

/// What the retry policy is told.
pub(super) fn outcome(result: &Result<Response<Body>, Failure>) -> retry::Ended<'_> {
    match result {
        Ok(response) => retry::Ended::Answered { status: response.status(), headers: response.headers() },
        Err(failure) => retry::Ended::Failed { failure, sent: was_sent(failure) },
    }
}

/// Runs an attempt until it is too late for it. `sent` stays where it is: a future that is handed over by value lies in
/// both.
pub(super) async fn within(
    alarms: &Rc<Alarms>,
    end: Option<Nanos>,
    mut sent: Pin<&mut impl Future<Output = Result<Response<Body>, Failure>>>,
) -> Result<Response<Body>, Failure> {
    let mut due = end.map(|end| Due::new(alarms, end));
    poll_fn(|cx| {
        if let Poll::Ready(result) = sent.as_mut().poll(cx) {
            return Poll::Ready(result);
        }
        match &mut due {
            Some(due) => due.poll(cx).map(|()| Err(Failure::PerTryTimeout)),
            None => Poll::Pending,
        }
    })
    .await
}

/// Whether a byte of the request may have been written to a connection.
fn was_sent(failure: &Failure) -> bool {
    !matches!(failure, Failure::Connect(_) | Failure::Upstream(UpstreamError::NotSent))
}

/// What the attempt says about its endpoint; `None` where it is nobody's fault, or ours.
pub(super) fn ended(result: &Result<Response<Body>, Failure>) -> Option<Ended> {
    match result {
        Ok(response) => Some(Ended::Response {
            status: response.status().as_u16(),
            grpc_status: grpc::status_in(response.headers()),
        }),
        Err(Failure::Connect(ConnectError::Socket(_) | ConnectError::Overflow)) => None,
        Err(Failure::Connect(_)) => Some(Ended::ConnectFailure),
        Err(Failure::PerTryTimeout) => Some(Ended::Timeout),
        Err(Failure::Upstream(UpstreamError::Aborted | UpstreamError::Stalled)) => None,
        Err(Failure::Upstream(_)) => Some(Ended::Reset),
        Err(_) => None,
    }
}
