//! How the connections of one cluster are made and limited.

use super::Limits;
use crate::snapshot::ClusterKey;
use crate::snapshot::policy::TrafficPolicy;
use rustc_hash::FxHashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// One cluster under one policy: connections of different policies never mix.
#[derive(Debug)]
pub struct Upstream {
    /// Stands for the cluster and policy in the keys of pools.
    pub(super) id: u64,
    pub(super) policy: Arc<TrafficPolicy>,
    sources: Mutex<FxHashMap<u64, Weak<Limits>>>,
}

/// All upstreams that somebody holds, shared by the workers. Locked when a configuration is new to a worker, and when a
/// worker meets a source for the first time.
#[derive(Debug, Default)]
pub struct Upstreams {
    known: Mutex<FxHashMap<ClusterKey, Vec<Weak<Upstream>>>>,
    next: AtomicU64,
}

impl Upstreams {
    /// The upstream of a cluster and policy: the one that exists, if one does.
    pub fn upstream(&self, key: &ClusterKey, policy: &Arc<TrafficPolicy>) -> Arc<Upstream> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let of_key = known.entry(key.clone()).or_default();
        of_key.retain(|upstream| upstream.strong_count() > 0);
        if let Some(found) = of_key.iter().filter_map(Weak::upgrade).find(|upstream| upstream.is_of(policy)) {
            return found;
        }
        let id = self.next.fetch_add(1, Relaxed);
        let upstream = Arc::new(Upstream { id, policy: Arc::clone(policy), sources: Mutex::default() });
        of_key.push(Arc::downgrade(&upstream));
        upstream
    }
}

impl Upstream {
    /// Whether it makes connections as the policy wants them.
    pub fn is_of(&self, policy: &Arc<TrafficPolicy>) -> bool {
        let (own, other) = (&*self.policy, &**policy);
        Arc::ptr_eq(&self.policy, policy)
            || own.pool == other.pool
                && own.retry_budget == other.retry_budget
                && own.tls == other.tls
                && own.proxy_protocol == other.proxy_protocol
    }

    /// What one source may do; `None`: everything.
    pub(super) fn limits(&self, source: u64) -> Option<Arc<Limits>> {
        if !Limits::are_set(&self.policy) {
            return None;
        }
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(limits) = sources.get(&source).and_then(Weak::upgrade) {
            return Some(limits);
        }
        let limits = Limits::of(&self.policy);
        sources.retain(|_, limits| limits.strong_count() > 0);
        sources.insert(source, Arc::downgrade(&limits));
        Some(limits)
    }
}
