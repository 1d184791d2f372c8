//! Outlier detection: endpoints that fail again and again are left out for a while (SEMANTICS §5 "Outlier detection",
//! Envoy's `outlier_detection_impl.cc`).
//!
//! There is no timer: whoever picks, reports or looks first after an interval has passed makes up for the rounds that
//! are due. Counters are atomics of the endpoint, shared by all workers and pods of the node: each pod's failures help
//! the others, where Envoy's sidecars learn alone. The hot path takes no lock; an ejection, which is rare, does.

use super::EndpointState;
use super::state::Ended;
use crate::snapshot::policy::OutlierDetection;
use crate::time::Nanos;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::*};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// One cluster's watch over its endpoints.
#[derive(Debug)]
pub(super) struct Detector {
    settings: Arc<OutlierDetection>,
    rounds: Arc<Rounds>,
    hosts: Vec<Arc<EndpointState>>,
}

/// What all clusters of one key share; survives snapshots.
#[derive(Debug)]
pub(super) struct Rounds {
    /// When the last round was due.
    at: AtomicU64,
    /// Grows with each ejection and each return.
    version: AtomicU64,
    /// One ejection at a time, or two could exceed the share that may be ejected.
    ejecting: Mutex<()>,
}

/// What is counted of one endpoint.
#[derive(Debug, Default)]
pub(super) struct Monitor {
    consecutive_5xx: AtomicU32,
    consecutive_gateway: AtomicU32,
    consecutive_local: AtomicU32,
    /// 0: not ejected; else when it may come back.
    until: AtomicU64,
    /// Of the base time, for the ejection under way or the last one.
    multiplier: AtomicU32,
    ejections: AtomicU32,
}

/// What an end means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sign {
    /// Connected, nothing known of the application.
    Reached,
    Status(u16),
    /// Never reached the application, or lost on the way.
    Local(u16),
}

impl Detector {
    pub(super) fn new(settings: Arc<OutlierDetection>, rounds: Arc<Rounds>, hosts: Vec<Arc<EndpointState>>) -> Self {
        Self { settings, rounds, hosts }
    }

    pub(super) fn version(&self) -> u64 {
        self.rounds.version.load(Acquire)
    }

    /// Makes up for the rounds that are due.
    pub(super) fn tick(&self, now: Nanos) {
        let last = Nanos(self.rounds.at.load(Relaxed));
        let interval = self.interval();
        let elapsed = now.since(last).as_nanos();
        if elapsed < interval {
            return;
        }
        let missed = u64::try_from(elapsed / interval).unwrap_or(u64::MAX);
        let next = last.0.saturating_add(u64::try_from(u128::from(missed) * interval).unwrap_or(u64::MAX));
        if self.rounds.at.compare_exchange(last.0, next, Relaxed, Relaxed).is_err() {
            return;
        }
        for host in &self.hosts {
            if host.monitor.rounds(last, interval, missed) {
                self.rounds.version.fetch_add(1, Release);
            }
        }
    }

    /// Takes note of how an attempt at one of the endpoints ended.
    pub(super) fn report(&self, host: &EndpointState, ended: Ended, now: Nanos) {
        self.tick(now);
        let (settings, monitor) = (&*self.settings, &host.monitor);
        let status = match Sign::of(ended) {
            Sign::Reached if settings.split_local_origin => return reset(&monitor.consecutive_local),
            Sign::Local(_) if settings.split_local_origin => {
                return self.count(&monitor.consecutive_local, settings.consecutive_local_origin, host, now);
            }
            Sign::Reached => 200,
            Sign::Local(status) => status,
            Sign::Status(status) => {
                reset(&monitor.consecutive_local);
                status
            }
        };
        match self.failure(status) {
            None => {
                reset(&monitor.consecutive_5xx);
                reset(&monitor.consecutive_gateway);
            }
            Some(status) => {
                if matches!(status, 502..=504) {
                    self.count(&monitor.consecutive_gateway, settings.consecutive_gateway, host, now);
                } else {
                    reset(&monitor.consecutive_gateway);
                }
                self.count(&monitor.consecutive_5xx, settings.consecutive_5xx, host, now);
            }
        }
    }

    /// The 5xx that a status counts as: itself, or 500 where the configuration lists one below.
    fn failure(&self, status: u16) -> Option<u16> {
        match &self.settings.http_errors {
            None => (500..600).contains(&status).then_some(status),
            Some(listed) => listed.contains(&status).then_some(status.max(500)),
        }
    }

    /// One more failure in a row. The counter begins anew whether or not the endpoint may be ejected.
    fn count(&self, counter: &AtomicU32, limit: u32, host: &EndpointState, now: Nanos) {
        if counter.fetch_add(1, Relaxed).saturating_add(1) == limit {
            self.eject(host, now);
            reset(counter);
        }
    }

    fn eject(&self, host: &EndpointState, now: Nanos) {
        let _one = self.rounds.ejecting.lock().unwrap_or_else(PoisonError::into_inner);
        let ejected = self.hosts.iter().filter(|host| host.is_ejected()).count() as u64;
        let most = u64::from(self.settings.max_ejection_percent.min(100)) * self.hosts.len() as u64;
        if host.is_ejected() || (ejected + 1) * 100 > most {
            return;
        }
        let (base, longest) =
            (self.settings.base_ejection, self.settings.max_ejection.max(self.settings.base_ejection));
        let monitor = &host.monitor;
        let former = monitor.multiplier.load(Relaxed);
        // Envoy's bound: as large as is needed for the longest time, and no larger.
        let multiplier = if base.saturating_mul(former) < longest + base { former + 1 } else { former };
        monitor.multiplier.store(multiplier, Relaxed);
        monitor.ejections.fetch_add(1, Relaxed);
        monitor.until.store(now.plus(base.saturating_mul(multiplier).min(longest)).0.max(1), Relaxed);
        self.rounds.version.fetch_add(1, Release);
    }

    fn interval(&self) -> u128 {
        self.settings.interval.max(Duration::from_millis(1)).as_nanos()
    }
}

impl Rounds {
    pub(super) fn new(now: Nanos) -> Self {
        Self { at: AtomicU64::new(now.0), version: AtomicU64::new(0), ejecting: Mutex::default() }
    }
}

impl Monitor {
    pub(super) fn is_ejected(&self) -> bool {
        self.until.load(Relaxed) != 0
    }

    /// When an ejected endpoint may come back: at the first round from then on.
    pub(super) fn until(&self) -> Option<Nanos> {
        Some(Nanos(self.until.load(Relaxed))).filter(|until| until.0 != 0)
    }

    pub(super) fn ejections(&self) -> u32 {
        self.ejections.load(Relaxed)
    }

    /// `missed` rounds after `last`: an ejection that is over ends with the first of them that finds it so, each
    /// healthy round after that takes one from the multiplier. True where the endpoint came back.
    ///
    /// Interval 10 s, ejected until 34 s, last round at 20 s, now 61 s (four missed): back at 40 s, −2.
    fn rounds(&self, last: Nanos, interval: u128, missed: u64) -> bool {
        let mut healthy = missed;
        let until = self.until();
        if let Some(until) = until {
            let found = u64::try_from(until.since(last).as_nanos().div_ceil(interval)).unwrap_or(u64::MAX).max(1);
            let Some(after) = missed.checked_sub(found) else { return false };
            healthy = after;
            [&self.consecutive_5xx, &self.consecutive_gateway, &self.consecutive_local].into_iter().for_each(reset);
            self.until.store(0, Relaxed);
        }
        let healthy = u32::try_from(healthy).unwrap_or(u32::MAX);
        let former = self.multiplier.load(Relaxed);
        if former > 0 {
            self.multiplier.store(former.saturating_sub(healthy), Relaxed);
        }
        until.is_some()
    }
}

impl Sign {
    fn of(ended: Ended) -> Self {
        match ended {
            Ended::Connected => Self::Reached,
            Ended::Response { status, grpc_status } => Self::Status(grpc_status.map_or(status, http_status)),
            Ended::ConnectFailure | Ended::Reset => Self::Local(503),
            Ended::Timeout => Self::Local(504),
        }
    }
}

/// Stays a read where there is nothing to reset, so that workers do not fight for the cache line.
fn reset(counter: &AtomicU32) {
    if counter.load(Relaxed) != 0 {
        counter.store(0, Relaxed);
    }
}

/// The HTTP status that a gRPC status counts as (SEMANTICS §6 "gRPC→HTTP").
fn http_status(grpc: u8) -> u16 {
    match grpc {
        0 => 200,
        1 => 499,
        3 | 9 | 11 => 400,
        4 => 504,
        5 => 404,
        6 | 10 => 409,
        7 => 403,
        8 => 429,
        12 => 501,
        14 => 503,
        16 => 401,
        _ => 500,
    }
}

#[cfg(test)]
#[path = "tests/outlier.rs"]
mod tests;
