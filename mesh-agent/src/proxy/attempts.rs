//! The attempts of one request: which endpoint, how long, and whether another one.

use super::Conn;
use super::attempt::attempt;
use super::exchange::Inform;
use crate::addr::EndpointAddr;
use crate::balance::{ActiveRequest, Ask, Ended, Priorities};
use crate::body::{Body, Replay};
use crate::connect::Way;
use crate::destination::Target;
use crate::error::{ConnectError, Failure, Flag, UpstreamError};
use crate::policy::retry;
use crate::policy::timeout::Timeouts;
use crate::snapshot::route::{RetryOn, RetryPolicy};
use crate::telemetry::Record;
use crate::time::Nanos;
use crate::{grpc, http1};
use http::header::HeaderName;
use http::{HeaderValue, Response, request};
use smallvec::SmallVec;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::time::Duration;

const ATTEMPT_COUNT: HeaderName = HeaderName::from_static("x-envoy-attempt-count");

/// Conditions under which another endpoint is asked after a connection that failed.
const CONNECT: RetryOn = RetryOn::PROVEN.with(RetryOn::CONNECT_FAILURE).with(RetryOn::FIVE_XX).with(RetryOn::RESET);

/// A request on its way out.
pub(super) struct Attempts<'a> {
    pub(super) conn: &'a Conn,
    pub(super) target: &'a Rc<Target>,
    pub(super) parts: &'a mut request::Parts,
    /// `None`: the request has no body.
    pub(super) replay: Option<&'a Replay>,
    pub(super) retry: Option<&'a RetryPolicy>,
    pub(super) hash: Option<u64>,
    pub(super) timeouts: Timeouts,
    pub(super) started: Nanos,
    pub(super) upgrade: Option<http1::Upgrade>,
    pub(super) inform: &'a mut Inform,
    pub(super) record: &'a mut Record,
    /// Endpoints are told which attempt theirs is (Istio's `x-envoy-attempt-count`).
    pub(super) numbered: bool,
    /// Who was asked last.
    pub(super) endpoint: Option<EndpointAddr>,
}

/// An endpoint's answer.
pub(super) struct Answered {
    pub(super) response: Response<Body>,
    pub(super) active: ActiveRequest,
}

impl Attempts<'_> {
    /// Asks endpoints until one gives an answer that is not repeated.
    ///
    /// # Errors
    /// What became of the last attempt.
    pub(super) async fn run(&mut self) -> Result<Answered, Failure> {
        let ctx = &self.conn.ctx;
        let mut tried: SmallVec<[EndpointAddr; 4]> = SmallVec::new();
        let mut exclude = Priorities::default();
        let mut priorities: SmallVec<[u8; 4]> = SmallVec::new();
        let mut retries = 0;
        let mut _retrying = None;
        loop {
            let begun = Nanos::now();
            let avoid_previous = self.retry.is_none_or(|policy| policy.avoid_previous);
            let ask = Ask {
                tried: if avoid_previous { &tried } else { &[] },
                hash: self.hash,
                exclude,
                original: self.conn.wants.original(),
                now: begun,
            };
            let chosen = self.target.cluster.pick(&ask, &mut ctx.rng.borrow_mut()).map_err(|_| Failure::NoEndpoint)?;
            let endpoint = chosen.addr();
            self.endpoint = Some(endpoint);
            self.prepare(endpoint, begun);
            let body = match self.replay {
                None => Body::Empty,
                // Whoever wants to repeat has made sure that the beginning is still there.
                Some(replay) => match replay.reader(Some(Rc::clone(&self.record.series))) {
                    Some(reader) => Body::Replay(Box::new(reader)),
                    None => return Err(Failure::ClientGone),
                },
            };
            let active = chosen.start(begun);
            // Time is saved for another endpoint only where one may be asked.
            let others = self.retry.is_some_and(|policy| policy.on.has(CONNECT) && retries < policy.attempts)
                && self.target.cluster.has_other(endpoint, &tried, begun);
            let way = Way { others, ..self.conn.way(self.target, chosen.dialled()) };
            let result = {
                let sent = attempt(self.conn, self.target, way, self.parts, body, &mut self.upgrade, self.inform);
                within(self.timeouts.per_try, pin!(sent)).await
            };
            if let Some(ended) = ended(&result) {
                active.finished(ended, Nanos::now());
            }
            let attempted = match &result {
                Ok(response) => retry::Ended::Answered { status: response.status(), headers: response.headers() },
                Err(failure) => retry::Ended::Failed { failure, sent: was_sent(failure) },
            };
            // A refusal costs a round trip and says that the pod has gone. When a Deployment shrinks most of its
            // endpoints refuse at once, so the first refusal of each is no attempt: 4 of 5 refusing leave all attempts
            // for the fifth.
            let free = matches!(result, Err(Failure::Connect(ConnectError::Refused))) && !tried.contains(&endpoint);
            let policy = self.retry.filter(|policy| retry::condition(policy, attempted).is_some());
            let whole = self.replay.is_none_or(Replay::is_whole);
            let Some(policy) = policy.filter(|_| whole) else {
                return result.map(|response| Answered { response, active });
            };
            if !free && retries >= policy.attempts {
                self.record.flags.insert(Flag::URX);
                return result.map(|response| Answered { response, active });
            }
            let Ok(permit) = ctx.pools.retry(self.conn.way(self.target, endpoint)) else {
                self.record.flags.insert(Flag::UO);
                return result.map(|response| Answered { response, active });
            };
            // Dropping an answer resets its stream.
            drop((result, active));
            ctx.recorder.metrics().retried();
            tried.push(endpoint);
            retries += u32::from(!free);
            if policy.remote_localities {
                priorities.push(chosen.priority);
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
        }
    }

    fn prepare(&mut self, endpoint: EndpointAddr, now: Nanos) {
        let conn = self.conn;
        self.record.series =
            conn.ctx.recorder.series(conn.source.workload.as_ref(), &self.target.service, Some(endpoint));
        self.record.attempts += 1;
        if self.numbered || self.record.attempts > 1 {
            self.parts.headers.insert(ATTEMPT_COUNT, HeaderValue::from(self.record.attempts));
        }
        self.timeouts.write(now.since(self.started), &mut self.parts.headers);
    }
}

/// `sent` stays where it is: a future that is handed over by value lies in both.
async fn within(
    limit: Option<Duration>,
    sent: Pin<&mut impl Future<Output = Result<Response<Body>, Failure>>>,
) -> Result<Response<Body>, Failure> {
    match limit {
        None => sent.await,
        Some(limit) => tokio::time::timeout(limit, sent).await.unwrap_or(Err(Failure::PerTryTimeout)),
    }
}

/// Whether a byte of the request may have been written to a connection.
fn was_sent(failure: &Failure) -> bool {
    !matches!(failure, Failure::Connect(_) | Failure::Upstream(UpstreamError::NotSent))
}

/// What the attempt says about its endpoint; `None` where it is nobody's fault, or ours.
fn ended(result: &Result<Response<Body>, Failure>) -> Option<Ended> {
    match result {
        Ok(response) => Some(Ended::Response {
            status: response.status().as_u16(),
            grpc_status: grpc::status_in(response.headers()),
        }),
        Err(Failure::Connect(ConnectError::Socket(_) | ConnectError::Overflow | ConnectError::NoTls)) => None,
        Err(Failure::Connect(_)) => Some(Ended::ConnectFailure),
        Err(Failure::PerTryTimeout) => Some(Ended::Timeout),
        Err(Failure::Upstream(UpstreamError::Aborted | UpstreamError::Stalled)) => None,
        Err(Failure::Upstream(_)) => Some(Ended::Reset),
        Err(_) => None,
    }
}
