//! Counters of one service port and of its endpoints.

use super::histogram::{self, Histogram};
use super::labels::{ConnectError, RetryReason};
use super::record::{Codes, Record};
use crate::addr::EndpointAddr;
use rustc_hash::FxHashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

/// Series of a port, whatever its endpoints do.
pub(super) const PORT_SERIES: usize = histogram::SERIES + 5 + ConnectError::ALL.len() + RetryReason::ALL.len();

/// Combinations of codes per endpoint; further ones are counted as overflow.
const MAX_CODES: usize = 64;

/// How many series there may be, and how many there are.
#[derive(Debug)]
pub(super) struct Budget {
    pub(super) limit: usize,
    used: AtomicUsize,
}

#[derive(Debug)]
pub(super) struct PortSeries {
    /// `destination_service`
    pub(super) host: Arc<str>,
    /// `destination_port`
    pub(super) port: u16,
    pub(super) durations: Histogram,
    pub(super) opened: AtomicU64,
    pub(super) closed: AtomicU64,
    pub(super) received: AtomicU64,
    pub(super) sent: AtomicU64,
    pub(super) errors: [AtomicU64; ConnectError::ALL.len()],
    pub(super) retries: [AtomicU64; RetryReason::ALL.len()],
    /// Answers of the agent itself have no endpoint.
    endpoints: Mutex<FxHashMap<Option<EndpointAddr>, Arc<EndpointSeries>>>,
    gone_since: Mutex<Option<Instant>>,
}

/// Requests by their codes: a list that only grows, one node per combination seen (one to three, mostly), so that
/// counting needs no lock.
#[derive(Debug, Default)]
pub(super) struct EndpointSeries {
    first: OnceLock<Box<Node>>,
    gone_since: Mutex<Option<Instant>>,
}

#[derive(Debug)]
pub(super) struct Node {
    pub(super) codes: Codes,
    count: AtomicU64,
    next: OnceLock<Box<Node>>,
}

impl Budget {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, used: AtomicUsize::new(0) }
    }

    pub(super) fn used(&self) -> usize {
        self.used.load(Relaxed)
    }

    /// Takes `series` if they fit.
    pub(super) fn take(&self, series: usize) -> bool {
        self.used.fetch_update(Relaxed, Relaxed, |used| (used + series <= self.limit).then_some(used + series)).is_ok()
    }

    pub(super) fn give_back(&self, series: usize) {
        self.used.fetch_sub(series, Relaxed);
    }
}

impl PortSeries {
    pub(super) fn new(host: Arc<str>, port: u16) -> Self {
        Self {
            host,
            port,
            durations: Histogram::default(),
            opened: AtomicU64::default(),
            closed: AtomicU64::default(),
            received: AtomicU64::default(),
            sent: AtomicU64::default(),
            errors: Default::default(),
            retries: Default::default(),
            endpoints: Mutex::default(),
            gone_since: Mutex::default(),
        }
    }

    pub(super) fn endpoint(&self, addr: Option<EndpointAddr>) -> Arc<EndpointSeries> {
        Arc::clone(lock(&self.endpoints).entry(addr).or_default())
    }

    pub(super) fn observe(&self, record: &Record) {
        self.durations.observe(record.duration);
        self.bytes(record.bytes_in, record.bytes_out);
    }

    pub(super) fn bytes(&self, received: u64, sent: u64) {
        for (counter, bytes) in [(&self.received, received), (&self.sent, sent)] {
            if bytes > 0 {
                counter.fetch_add(bytes, Relaxed);
            }
        }
    }

    /// Endpoints in the order of their addresses.
    pub(super) fn endpoints(&self) -> Vec<(Option<EndpointAddr>, Arc<EndpointSeries>)> {
        let mut all: Vec<_> = lock(&self.endpoints).iter().map(|(addr, e)| (*addr, Arc::clone(e))).collect();
        all.sort_unstable_by_key(|(addr, _)| *addr);
        all
    }

    /// Drops endpoints that have been gone for long enough and that nobody holds; says whether the port itself may go.
    pub(super) fn sweep(
        &self,
        exists: bool,
        alive: impl Fn(EndpointAddr) -> bool,
        expired: impl Fn(Instant) -> bool + Copy,
        now: Instant,
        budget: &Budget,
    ) -> bool {
        lock(&self.endpoints).retain(|addr, series| {
            let alive = exists && addr.is_none_or(&alive);
            let held = Arc::strong_count(series) > 1;
            let keep = held || !gone(&series.gone_since, alive, expired, now);
            if !keep {
                budget.give_back(series.nodes().count());
            }
            keep
        });
        gone(&self.gone_since, exists, expired, now)
    }
}

impl EndpointSeries {
    /// Counts one request; false if its combination is new and does not fit.
    pub(super) fn count(&self, codes: Codes, budget: &Budget) -> bool {
        let mut slot = &self.first;
        for _ in 0..MAX_CODES {
            let node = match slot.get() {
                Some(node) => node,
                None if budget.take(1) => {
                    let mut ours = false;
                    let node = slot.get_or_init(|| {
                        ours = true;
                        Box::new(Node { codes, count: AtomicU64::new(0), next: OnceLock::new() })
                    });
                    if !ours {
                        // Another worker made the node, for these codes or for others.
                        budget.give_back(1);
                    }
                    node
                }
                None => return false,
            };
            if node.codes == codes {
                node.count.fetch_add(1, Relaxed);
                return true;
            }
            slot = &node.next;
        }
        false
    }

    pub(super) fn nodes(&self) -> impl Iterator<Item = &Node> {
        std::iter::successors(self.first.get(), |node| node.next.get()).map(|node| &**node)
    }
}

impl Node {
    pub(super) fn requests(&self) -> u64 {
        self.count.load(Relaxed)
    }
}

/// Remembers since when something has been gone; true when that is long enough.
fn gone(since: &Mutex<Option<Instant>>, alive: bool, expired: impl Fn(Instant) -> bool, now: Instant) -> bool {
    let mut since = lock(since);
    if alive {
        *since = None;
        return false;
    }
    expired(*since.get_or_insert(now))
}

/// Counters stay usable whatever panicked elsewhere.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
