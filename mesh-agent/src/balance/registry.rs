//! Where run-time state outlives clusters and snapshots.

use super::outlier::Rounds;
use super::{Cluster, EndpointState, Spec};
use crate::addr::EndpointAddr;
use crate::snapshot::ClusterKey;
use crate::time::Nanos;
use rustc_hash::FxHashMap;
use serde::Serialize;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

/// All clusters and endpoint states that somebody holds. Locked when a cluster is asked for, never for a request.
#[derive(Debug, Default)]
pub struct Registry {
    clusters: Mutex<FxHashMap<ClusterKey, Shared>>,
}

#[derive(Debug, Default)]
struct Shared {
    /// One for each policy and point of view.
    clusters: Vec<Weak<Cluster>>,
    cursor: Weak<AtomicUsize>,
    rounds: Weak<Rounds>,
    endpoints: FxHashMap<EndpointAddr, Weak<EndpointState>>,
}

/// One endpoint as `mesh-agent endpoints` shows it.
#[derive(Clone, Debug, Serialize)]
pub struct EndpointRow {
    /// `namespace/name:port`, with `/subset` where there is one.
    pub service: String,
    pub endpoint: EndpointAddr,
    /// Requests (HTTP) or connections (opaque) in flight.
    pub active: u32,
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

    /// The state of an endpoint; made new where no cluster holds it.
    pub fn endpoint(&self, key: &ClusterKey, addr: EndpointAddr, now: Nanos) -> Arc<EndpointState> {
        let mut clusters = self.lock();
        let shared = clusters.entry(key.clone()).or_default();
        if let Some(state) = shared.endpoints.get(&addr).and_then(Weak::upgrade) {
            return state;
        }
        let state = Arc::new(EndpointState::new(key.clone(), addr, now));
        shared.endpoints.insert(addr, Arc::downgrade(&state));
        state
    }

    /// Round robin's position on a shared. Called once for each picker made.
    pub(super) fn cursor(&self, key: &ClusterKey) -> Arc<AtomicUsize> {
        let mut clusters = self.lock();
        let shared = clusters.entry(key.clone()).or_default();
        // Forgets endpoints that nobody uses any more, so that rollouts do not grow the table.
        shared.endpoints.retain(|_, state| state.strong_count() > 0);
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
        shared.rounds.upgrade().unwrap_or_else(|| {
            let rounds = Arc::new(Rounds::new(now));
            shared.rounds = Arc::downgrade(&rounds);
            rounds
        })
    }

    /// Every endpoint in use, by service and address.
    pub fn rows(&self, now: Nanos) -> Vec<EndpointRow> {
        let mut clusters = self.lock();
        clusters.retain(|_, shared| {
            shared.endpoints.retain(|_, state| state.strong_count() > 0);
            !shared.endpoints.is_empty() || shared.cursor.strong_count() > 0
        });
        let mut states: Vec<_> =
            clusters.values().flat_map(|shared| shared.endpoints.values().filter_map(Weak::upgrade)).collect();
        let watched: Vec<_> = clusters.values().flat_map(|s| s.clusters.iter().filter_map(Weak::upgrade)).collect();
        drop(clusters);
        watched.iter().for_each(|cluster| cluster.tick(now));
        states.sort_by(|a, b| (&a.key, a.addr).cmp(&(&b.key, b.addr)));
        states
            .iter()
            .map(|state| EndpointRow {
                service: state.key.to_string(),
                endpoint: state.addr,
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

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
