//! Circuit breakers: how many connections, waiting requests, running requests and retries one source may have at one
//! cluster (SEMANTICS §5 "Connection pool").
//!
//! Place in the path: asked by the pools at every step of a request whose policy sets a limit; others have no `Limits`
//! at all. The counts are of the whole node, the queues of one worker and endpoint, as with Envoy's worker threads. So a
//! freed place is told twice: to the pool it was freed in and to whoever waits anywhere in the cluster.

use crate::error::ConnectError;
use crate::snapshot::policy::{RetryBudget, TrafficPolicy};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// Counts of one source at one cluster, and how far they may go.
#[derive(Debug)]
pub(crate) struct Limits {
    connections: Gauge,
    pending: Gauge,
    requests: Gauge,
    retries: Gauge,
    budget: Option<RetryBudget>,
    /// A connection's place was freed. Only one is woken: it takes the place, or passes the word on.
    pub(super) freed: Notify,
}

/// One worker's pool of one endpoint, as far as limits are concerned.
#[derive(Debug, Default)]
pub(crate) struct Open {
    connections: AtomicU32,
    /// A connection has room again, or is gone.
    pub(crate) changed: Notify,
}

/// Listens for what comes free: in a pool, or anywhere in the cluster.
#[derive(Debug)]
pub(super) struct Word<'a> {
    pool: Pin<Box<Notified<'a>>>,
    cluster: Pin<Box<Notified<'a>>>,
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
    pool: Option<Arc<Open>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Connection,
    Pending,
    Request,
    Retry,
}

impl Limits {
    /// `None` where the policy limits nothing.
    pub(super) fn of(policy: &TrafficPolicy) -> Option<Arc<Self>> {
        let pool = &policy.pool;
        let most = [pool.max_connections, pool.max_pending_requests, pool.max_requests, pool.max_retries];
        let limited = most.iter().any(Option::is_some) || policy.retry_budget.is_some();
        let [connections, pending, requests, retries] = most.map(Gauge::new);
        let (budget, freed) = (policy.retry_budget, Notify::new());
        limited.then(|| Arc::new(Self { connections, pending, requests, retries, budget, freed }))
    }

    /// The right to repeat a request: below `maxRetries`, or the budget's share of all requests (20 % of 50 running or
    /// waiting are 10 retries at a time).
    pub(super) fn retry(self: &Arc<Self>) -> Result<Permit, ConnectError> {
        let most = self.budget.map_or(self.retries.most, |budget| {
            let share = budget.percent / 100.0 * f64::from(self.requests.count() + self.pending.count());
            (share as u32).max(budget.min_concurrency)
        });
        self.take(Kind::Retry, most, None).ok_or(ConnectError::Overflow)
    }

    /// A connection of no pool.
    pub(super) fn connection(self: &Arc<Self>) -> Result<Permit, ConnectError> {
        self.take(Kind::Connection, self.connections.most, None).ok_or(ConnectError::Overflow)
    }

    /// A connection of a pool. One that has none may always open one, or its requests would wait for nothing.
    pub(super) fn pooled(self: &Arc<Self>, pool: &Arc<Open>) -> Option<Permit> {
        let most = if pool.connections.load(Relaxed) == 0 { u32::MAX } else { self.connections.most };
        let permit = self.take(Kind::Connection, most, Some(pool))?;
        pool.connections.fetch_add(1, Relaxed);
        Some(permit)
    }

    /// A place in the queue.
    pub(super) fn pending(self: &Arc<Self>) -> Result<Permit, ConnectError> {
        self.take(Kind::Pending, self.pending.most, None).ok_or(ConnectError::Overflow)
    }

    /// A running request. `pool`: where its end makes room for another one (HTTP/2).
    pub(super) fn request(self: &Arc<Self>, pool: Option<&Arc<Open>>) -> Result<Permit, ConnectError> {
        self.take(Kind::Request, self.requests.most, pool).ok_or(ConnectError::Overflow)
    }

    fn take(self: &Arc<Self>, of: Kind, most: u32, pool: Option<&Arc<Open>>) -> Option<Permit> {
        let taken = self.gauge(of).take(most);
        taken.then(|| Permit { limits: Arc::clone(self), of, pool: pool.cloned() })
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

impl<'a> Word<'a> {
    pub(super) fn new(limits: &'a Limits, pool: &'a Open) -> Self {
        Self { pool: Box::pin(pool.changed.notified()), cluster: Box::pin(limits.freed.notified()) }
    }

    /// Everything that comes free from now on is heard; what is not waited for goes to the next who listens. True where
    /// something came free already that nobody listened for.
    pub(super) fn listen(&mut self) -> bool {
        let (pool, cluster) = (self.pool.as_mut().enable(), self.cluster.as_mut().enable());
        pool || cluster
    }

    /// Waits. True where it was a connection's place in the cluster.
    pub(super) async fn heard(self) -> bool {
        tokio::select! {
            biased;
            () = self.cluster => true,
            () = self.pool => false,
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
        let tell_pool = |pool: &Arc<Open>| match self.of {
            // The last one's end: the pool may open another whatever the others do.
            Kind::Connection => pool.connections.fetch_sub(1, Relaxed) == 1,
            Kind::Pending | Kind::Request | Kind::Retry => true,
        };
        if let Some(pool) = self.pool.as_ref().filter(|pool| tell_pool(pool)) {
            pool.changed.notify_one();
        }
        if self.of == Kind::Connection {
            self.limits.freed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::policy::ConnectionPool;

    fn limits(pool: ConnectionPool, retry_budget: Option<RetryBudget>) -> Option<Arc<Limits>> {
        Limits::of(&TrafficPolicy { pool, retry_budget, ..TrafficPolicy::default() })
    }

    #[test]
    fn nothing_set_means_no_limits() {
        let pool = ConnectionPool { max_requests_per_connection: Some(1), ..ConnectionPool::default() };
        assert!(limits(pool, None).is_none());
    }

    #[test]
    fn each_kind_has_its_own_bound() {
        let pool = ConnectionPool {
            max_connections: Some(1),
            max_pending_requests: Some(2),
            max_requests: Some(3),
            max_retries: Some(0),
            ..ConnectionPool::default()
        };
        let limits = limits(pool, None).unwrap();
        let connection = limits.connection().unwrap();
        assert_eq!(limits.connection().unwrap_err(), ConnectError::Overflow);
        let pending = [limits.pending().unwrap(), limits.pending().unwrap()];
        assert!(limits.pending().is_err());
        let _requests: Vec<_> = (0..3).map(|_| limits.request(None).unwrap()).collect();
        assert!(limits.request(None).is_err());
        assert!(limits.retry().is_err());
        drop((connection, pending));
        assert!(limits.connection().is_ok() && limits.pending().is_ok());
    }

    #[test]
    fn a_pool_without_a_connection_may_open_one() {
        let pool = ConnectionPool { max_connections: Some(1), ..ConnectionPool::default() };
        let limits = limits(pool, None).unwrap();
        let (here, there) = (Arc::default(), Arc::default());
        let first = limits.pooled(&here).unwrap();
        assert!(limits.pooled(&here).is_none());
        let other = limits.pooled(&there).unwrap();
        drop(first);
        assert!(limits.pooled(&there).is_none(), "its own is one");
        drop(other);
        assert!(limits.pooled(&there).is_some());
    }

    #[test]
    fn a_budget_is_a_share_with_a_minimum() {
        let limits =
            limits(ConnectionPool::default(), Some(RetryBudget { percent: 20.0, min_concurrency: 3 })).unwrap();
        let held: Vec<_> = (0..50).map(|_| limits.request(None).unwrap()).collect();
        let retries: Vec<_> = std::iter::from_fn(|| limits.retry().ok()).collect();
        assert_eq!(retries.len(), 10);
        drop((held, retries));
        assert_eq!(std::iter::from_fn(|| limits.retry().ok()).take(9).collect::<Vec<_>>().len(), 3);
    }
}
