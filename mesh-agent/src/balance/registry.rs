//! Where run-time state outlives clusters and snapshots.

use super::arrivals::Arrivals;
use super::outlier::Rounds;
use super::{Cluster, EndpointState, Spec};
use crate::addr::EndpointAddr;
use crate::snapshot::{ClusterKey, ServiceName, Snapshot};
use crate::time::Nanos;
use rustc_hash::FxHashMap;
use serde::Serialize;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

/// All clusters that somebody holds, and what is known of their endpoints. Locked when a cluster is asked for, never for a
/// request.
#[derive(Debug, Default)]
pub struct Registry {
    clusters: Mutex<FxHashMap<ClusterKey, Shared>>,
    arrivals: Mutex<Arrivals>,
}

#[derive(Debug, Default)]
struct Shared {
    /// One for each policy and point of view.
    clusters: Vec<Weak<Cluster>>,
    cursor: Weak<AtomicUsize>,
    rounds: Option<Arc<Rounds>>,
    /// Held here too: a configuration that changes while nobody asks must not undo an ejection.
    endpoints: FxHashMap<EndpointAddr, Arc<EndpointState>>,
}

/// One endpoint as `mesh-agent endpoints` shows it.
#[derive(Clone, Debug, Serialize)]
pub struct EndpointRow {
    pub key: ClusterKey,
    pub endpoint: EndpointAddr,
    /// The same pod's address of the other family.
    pub other: Option<EndpointAddr>,
    /// Requests (HTTP) or connections (opaque) in flight.
    pub active: u32,
    /// Attempts (HTTP) that ended, and those of them for which it is to blame.
    pub ended: u64,
    pub blamed: u64,
    /// Smoothed response time, milliseconds.
    pub ewma_ms: f64,
    /// Connect failures in a row.
    pub failures: u32,
    /// For how much longer the endpoint is passed over, milliseconds; 0 where it is not.
    pub avoided_ms: u64,
    /// Left out by outlier detection.
    pub ejected: bool,
    /// Until the ejection may end, milliseconds: it does at the next round then.
    pub ejected_ms: u64,
    /// Ejections so far.
    pub ejections: u32,
}

impl Registry {
    /// The cluster of a spec: the one that exists, if one does.
    pub fn cluster(&self, spec: &Spec<'_>, now: Nanos) -> Arc<Cluster> {
        let of_key = || -> Vec<_> {
            let clusters = self.lock();
            clusters.get(spec.key).map_or(Vec::new(), |s| s.clusters.iter().filter_map(Weak::upgrade).collect())
        };
        let former = of_key();
        if let Some(found) = former.iter().find(|cluster| cluster.is_of(spec)) {
            return Arc::clone(found);
        }
        let cluster = Arc::new(Cluster::new(spec, self, now));
        // Another worker may have made it meanwhile: its tables are further on.
        if let Some(found) = of_key().into_iter().find(|cluster| cluster.is_of(spec)) {
            return found;
        }
        {
            let mut clusters = self.lock();
            let shared = clusters.entry(spec.key.clone()).or_default();
            shared.clusters.retain(|cluster| cluster.strong_count() > 0);
            shared.clusters.push(Arc::downgrade(&cluster));
        }
        cluster.prepare(former.into_iter().rev().find(|former| former.is_alike(&cluster)));
        cluster
    }

    /// The state of an endpoint; made new where none is known, or the pod's addresses are others now.
    pub fn endpoint(&self, key: &ClusterKey, addr: EndpointAddr, other: Option<EndpointAddr>) -> Arc<EndpointState> {
        let since = self.arrivals.lock().unwrap_or_else(PoisonError::into_inner).of(&key.port, addr);
        let mut clusters = self.lock();
        let shared = clusters.entry(key.clone()).or_default();
        if let Some(state) = shared.endpoints.get(&addr).filter(|state| state.other == other) {
            return Arc::clone(state);
        }
        let state = Arc::new(EndpointState::new(key.clone(), addr, other, since));
        shared.endpoints.insert(addr, Arc::clone(&state));
        state
    }

    /// Notes which endpoints come with `new`, to be called before it is in force. `services`: those that differ.
    pub fn arrive(&self, old: &Snapshot, new: &Snapshot, services: &[ServiceName], now: Nanos) {
        let mut arrivals = self.arrivals.lock().unwrap_or_else(PoisonError::into_inner);
        for former in services.iter().filter_map(|name| old.service(name)).flat_map(|service| &service.ports) {
            let next = new.service(&former.key.service).and_then(|s| s.ports.iter().find(|p| p.port == former.port));
            match next {
                Some(next) if Arc::ptr_eq(&next.endpoints, &former.endpoints) => {}
                Some(next) => arrivals.note(&former.key, &former.endpoints, &next.endpoints, now),
                None => arrivals.forget(&former.key),
            }
        }
    }

    /// Forgets what nobody holds, but for endpoints in trouble.
    pub fn sweep(&self, now: Nanos) {
        self.arrivals.lock().unwrap_or_else(PoisonError::into_inner).sweep(now);
        self.lock().retain(|_, shared| {
            shared.sweep(now);
            !shared.endpoints.is_empty() || shared.cursor.strong_count() > 0
        });
    }

    /// Round robin's position. Called once for each cluster made.
    pub(super) fn cursor(&self, key: &ClusterKey, now: Nanos) -> Arc<AtomicUsize> {
        let mut clusters = self.lock();
        let shared = clusters.entry(key.clone()).or_default();
        // So that rollouts do not grow the table.
        shared.sweep(now);
        shared.cursor.upgrade().unwrap_or_else(|| {
            let cursor = Arc::default();
            shared.cursor = Arc::downgrade(&cursor);
            cursor
        })
    }

    /// Outlier detection's rounds. Called once for each cluster made.
    pub(super) fn rounds(&self, key: &ClusterKey, now: Nanos) -> Arc<Rounds> {
        let mut clusters = self.lock();
        let shared = clusters.entry(key.clone()).or_default();
        Arc::clone(shared.rounds.get_or_insert_with(|| Arc::new(Rounds::new(now))))
    }

    /// Every endpoint in use, by service and address.
    pub fn rows(&self, now: Nanos) -> Vec<EndpointRow> {
        self.sweep(now);
        let clusters = self.lock();
        let mut states: Vec<_> = clusters.values().flat_map(|shared| shared.endpoints.values().cloned()).collect();
        let watched: Vec<_> = clusters.values().flat_map(|s| s.clusters.iter().filter_map(Weak::upgrade)).collect();
        drop(clusters);
        watched.iter().for_each(|cluster| cluster.tick(now));
        states.sort_by(|a, b| (&a.key, a.addr).cmp(&(&b.key, b.addr)));
        states
            .iter()
            .map(|state| (state, state.totals()))
            .map(|(state, (ended, blamed))| EndpointRow {
                ended,
                blamed,
                key: state.key.clone(),
                endpoint: state.addr,
                other: state.other,
                active: state.active(),
                ewma_ms: state.ewma().as_secs_f64() * 1e3,
                failures: state.failures(),
                avoided_ms: millis(state.avoid_until().since(now)),
                ejected: state.is_ejected(),
                ejected_ms: state.monitor.until().map_or(0, |until| millis(until.since(now))),
                ejections: state.monitor.ejections(),
            })
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, FxHashMap<ClusterKey, Shared>> {
        self.clusters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    fn sweep(&mut self, now: Nanos) {
        self.endpoints.retain(|_, state| Arc::strong_count(state) > 1 || state.is_in_trouble(now));
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
