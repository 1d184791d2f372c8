//! Whether a request is sent again, and when (SEMANTICS §3 "Retries").

use crate::error::{Failure, Situation};
use crate::grpc::GRPC_STATUS;
use crate::snapshot::policy::RetryBudget;
use crate::snapshot::route::{RetryOn, RetryPolicy};
use http::{HeaderMap, HeaderName, StatusCode};
use std::time::Duration;

const RATE_LIMITED: HeaderName = HeaderName::from_static("x-envoy-ratelimited");

/// How an attempt ended.
#[derive(Clone, Copy, Debug)]
pub enum Ended<'a> {
    /// Without a response head. `sent`: a byte of the request was written to a connection.
    Failed { failure: &'a Failure, sent: bool },
    /// With the endpoint's own response head; a gRPC status in trailers after data is not looked at.
    Answered { status: StatusCode, headers: &'a HeaderMap },
}

/// The condition of `policy` that repeats a request which ended so; `None`: it is not repeated.
///
/// Says nothing about how often: see [`RetryPolicy::attempts`] and [`concurrent`].
pub fn condition(policy: &RetryPolicy, ended: Ended<'_>) -> Option<RetryOn> {
    match ended {
        Ended::Failed { failure, sent } => failed(policy.on, failure, sent),
        Ended::Answered { status, headers } => answered(policy, status, headers),
    }
}

fn failed(on: RetryOn, failure: &Failure, sent: bool) -> Option<RetryOn> {
    use Situation as S;
    let first = |conditions: &[RetryOn]| conditions.iter().copied().find(|condition| on.has(*condition));
    let reset = [RetryOn::RESET, RetryOn::FIVE_XX, RetryOn::GATEWAY_ERROR];
    let unsent = (!sent).then_some(RetryOn::RESET_BEFORE_REQUEST).filter(|condition| on.has(*condition));
    let special = match failure.situation() {
        S::ConnectRefused | S::ConnectTimeout | S::ConnectFailed | S::TlsFailed => {
            first(&[RetryOn::PROVEN, RetryOn::CONNECT_FAILURE]).or(unsent)
        }
        // Another endpoint needs a socket as well: only who asks for it.
        S::NoSocket => first(&[RetryOn::CONNECT_FAILURE]).or(unsent),
        S::RefusedStream => first(&[RetryOn::PROVEN, RetryOn::REFUSED_STREAM]),
        S::NotSent => first(&[RetryOn::PROVEN]).or(unsent),
        S::Closed | S::RemoteReset | S::Protocol => unsent,
        // Envoy resets the stream by itself, which is a reset like any other.
        S::PerTryTimeout => None,
        // Overflow, the whole timeout, and everything that never was an attempt.
        S::NoRoute
        | S::NoCluster
        | S::RefusedBackend
        | S::UnknownHost
        | S::NoEndpoint
        | S::Overflow
        | S::Stalled
        | S::Timeout
        | S::IdleRequest
        | S::IdleResponse
        | S::FaultAbort
        | S::RateLimited
        | S::BadRequest
        | S::ClientGone => return None,
    };
    special.or_else(|| first(&reset))
}

fn answered(policy: &RetryPolicy, status: StatusCode, headers: &HeaderMap) -> Option<RetryOn> {
    let on = policy.on;
    if headers.contains_key(RATE_LIMITED) {
        return Some(RetryOn::ENVOY_RATELIMITED).filter(|condition| on.has(*condition));
    }
    let code = status.as_u16();
    let of_status = [
        (RetryOn::FIVE_XX, (500..600).contains(&code)),
        (RetryOn::GATEWAY_ERROR, (502..=504).contains(&code)),
        (RetryOn::RETRIABLE_4XX, code == 409),
        (RetryOn::RETRIABLE_STATUS_CODES, policy.statuses.contains(&code)),
    ];
    let of_grpc = grpc_condition(headers).map(|condition| (condition, true));
    of_status
        .into_iter()
        .chain(of_grpc)
        .find(|(condition, holds)| *holds && on.has(*condition))
        .map(|(condition, _)| condition)
}

/// Of a `grpc-status` in the response's head (trailers-only).
fn grpc_condition(headers: &HeaderMap) -> Option<RetryOn> {
    match headers.get(GRPC_STATUS)?.as_bytes() {
        b"1" => Some(RetryOn::CANCELLED),
        b"4" => Some(RetryOn::DEADLINE_EXCEEDED),
        b"8" => Some(RetryOn::RESOURCE_EXHAUSTED),
        b"13" => Some(RetryOn::INTERNAL),
        b"14" => Some(RetryOn::UNAVAILABLE),
        _ => None,
    }
}

/// The pause before retry `number` (1 is the first): uniform[0, min(B·2^(n-1), 10·B)).
///
/// With B = 25 ms: below 25 ms, 50 ms, 100 ms, 200 ms, then 250 ms.
pub fn backoff(policy: &RetryPolicy, number: u32, rng: &mut fastrand::Rng) -> Duration {
    let doubled = policy.backoff.saturating_mul(1 << number.saturating_sub(1).min(4));
    let bound = doubled.min(policy.backoff.saturating_mul(10));
    let nanos = u64::try_from(bound.as_nanos()).unwrap_or(u64::MAX);
    Duration::from_nanos(if nanos == 0 { 0 } else { rng.u64(..nanos) })
}

/// How many retries may be in flight at one time: max(percent × (active + pending), minimum); without a budget
/// `max_retries`.
///
/// 20 % of 40 requests are 8.
pub fn concurrent(budget: Option<&RetryBudget>, max_retries: Option<u32>, active: u64, pending: u64) -> u64 {
    match budget {
        // Saturates; a negative or NaN percentage is 0.
        Some(budget) => {
            let share = (budget.percent / 100.0 * active.saturating_add(pending) as f64) as u64;
            share.max(u64::from(budget.min_concurrency))
        }
        None => max_retries.map_or(u64::MAX, u64::from),
    }
}
