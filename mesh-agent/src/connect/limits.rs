//! Circuit breakers: how many connections, waiting requests, running requests and retries one source may have at one
//! cluster (SEMANTICS §5 "Connection pool").
//!
//! Place in the path: asked by the pools at every step of a request whose policy sets a limit; others have no `Limits`
//! at all. The counts are of the whole node: workers share them, as Envoy's worker threads do.

use crate::error::ConnectError;
use crate::snapshot::policy::{RetryBudget, TrafficPolicy};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// Counts of one source at one cluster, and how far they may go.
#[derive(Debug)]
pub struct Limits {
    connections: Gauge,
    pending: Gauge,
    requests: Gauge,
    retries: Gauge,
    budget: Option<RetryBudget>,
}

#[derive(Debug)]
struct Gauge {
    now: AtomicU32,
    most: u32,
}

/// One of a gauge's places, until it is dropped.
#[derive(Debug)]
pub struct Permit {
    limits: Arc<Limits>,
    of: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Connection,
    Pending,
    Request,
    Retry,
}

impl Limits {
    /// Whether the policy limits anything.
    pub(super) fn are_set(policy: &TrafficPolicy) -> bool {
        let pool = &policy.pool;
        let most = [pool.max_connections, pool.max_pending_requests, pool.max_requests, pool.max_retries];
        most.iter().any(Option::is_some) || policy.retry_budget.is_some()
    }

    pub(super) fn of(policy: &TrafficPolicy) -> Arc<Self> {
        let pool = &policy.pool;
        Arc::new(Self {
            connections: Gauge::new(pool.max_connections),
            pending: Gauge::new(pool.max_pending_requests),
            requests: Gauge::new(pool.max_requests),
            retries: Gauge::new(pool.max_retries),
            budget: policy.retry_budget,
        })
    }

    /// The right to repeat a request.
    ///
    /// # Errors
    /// There are `maxRetries` or the retry budget's share already.
    pub(super) fn retry(self: &Arc<Self>) -> Result<Permit, ConnectError> {
        let most = self.budget.map_or(self.retries.most, |budget| {
            let share = budget.percent / 100.0 * f64::from(self.requests.count() + self.pending.count());
            (share as u32).max(budget.min_concurrency)
        });
        self.take(Kind::Retry, most)
    }

    /// `force`: whatever the limit is.
    pub(super) fn connection(self: &Arc<Self>, force: bool) -> Result<Permit, ConnectError> {
        self.take(Kind::Connection, if force { u32::MAX } else { self.connections.most })
    }

    pub(super) fn pending(self: &Arc<Self>) -> Result<Permit, ConnectError> {
        self.take(Kind::Pending, self.pending.most)
    }

    pub(super) fn request(self: &Arc<Self>) -> Result<Permit, ConnectError> {
        self.take(Kind::Request, self.requests.most)
    }

    fn take(self: &Arc<Self>, of: Kind, most: u32) -> Result<Permit, ConnectError> {
        if self.gauge(of).take(most) {
            Ok(Permit { limits: Arc::clone(self), of })
        } else {
            Err(ConnectError::Overflow)
        }
    }

    fn gauge(&self, of: Kind) -> &Gauge {
        match of {
            Kind::Connection => &self.connections,
            Kind::Pending => &self.pending,
            Kind::Request => &self.requests,
            Kind::Retry => &self.retries,
        }
    }
}

impl Gauge {
    fn new(most: Option<u32>) -> Self {
        Self { now: AtomicU32::new(0), most: most.unwrap_or(u32::MAX) }
    }

    fn count(&self) -> u32 {
        self.now.load(Relaxed)
    }

    fn take(&self, most: u32) -> bool {
        self.now.fetch_update(Relaxed, Relaxed, |now| (now < most).then_some(now + 1)).is_ok()
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.limits.gauge(self.of).now.fetch_sub(1, Relaxed);
    }
}
