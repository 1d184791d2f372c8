//! Run-time state of all endpoints, outside the snapshot: a swap of configuration does not forget it.

use super::state::EndpointState;
use crate::addr::EndpointAddr;
use crate::snapshot::PortKey;
use rustc_hash::FxHashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Shared by all workers. Its lock is taken when a `Picker` is built, never when one picks.
#[derive(Debug)]
pub struct Registry {
    epoch: Instant,
    seed: u64,
    ports: Mutex<FxHashMap<PortKey, Arc<PortState>>>,
}

/// What the workers share about one service port.
#[derive(Debug)]
pub(super) struct PortState {
    /// The next turn of round robin: one counter for all workers, so that shares are exact however connections are
    /// spread over them.
    turn: AtomicU64,
    endpoints: Mutex<FxHashMap<EndpointAddr, Known>>,
}

#[derive(Debug)]
struct Known {
    state: Arc<EndpointState>,
    /// Unused at the last sweep.
    idle: bool,
}

impl Registry {
    pub fn new() -> Self {
        Self { epoch: Instant::now(), seed: RandomState::new().hash_one(0u8), ports: Mutex::default() }
    }

    /// State of one endpoint, made on first use.
    pub fn endpoint(&self, key: &PortKey, addr: EndpointAddr) -> Arc<EndpointState> {
        self.port(key).endpoint(self, addr)
    }

    /// Forgets endpoints and ports that no picker and no request used since the sweep before this one. Call it from
    /// the control thread about once a minute.
    pub fn sweep(&self) {
        let mut ports = lock(&self.ports);
        ports.retain(|_, port| {
            let mut endpoints = lock(&port.endpoints);
            endpoints.retain(|_, known| {
                let used = Arc::strong_count(&known.state) > 1;
                let keep = used || !known.idle;
                known.idle = !used;
                keep
            });
            let empty = endpoints.is_empty();
            drop(endpoints);
            !empty || Arc::strong_count(port) > 1
        });
    }

    /// Endpoints remembered, over all ports.
    pub fn len(&self) -> usize {
        lock(&self.ports).values().map(|port| lock(&port.endpoints).len()).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn port(&self, key: &PortKey) -> Arc<PortState> {
        let mut ports = lock(&self.ports);
        if let Some(port) = ports.get(key) {
            return Arc::clone(port);
        }
        // Not zero: nodes that start together would send their first requests to the same endpoint.
        let turn = AtomicU64::new((self.seed ^ u64::from(key.port)) >> 1);
        let port = Arc::new(PortState { turn, endpoints: Mutex::default() });
        ports.insert(key.clone(), Arc::clone(&port));
        port
    }

    pub(super) fn epoch(&self) -> Instant {
        self.epoch
    }
}

impl Default for Registry {
    fn default() -> Self {
        Self::new()
    }
}

impl PortState {
    pub(super) fn next_turn(&self) -> u64 {
        self.turn.fetch_add(1, Relaxed)
    }

    pub(super) fn endpoint(&self, registry: &Registry, addr: EndpointAddr) -> Arc<EndpointState> {
        let mut endpoints = lock(&self.endpoints);
        let known = endpoints.entry(addr).or_insert_with(|| {
            let seed = registry.seed ^ rustc_hash::FxBuildHasher.hash_one(addr);
            Known { state: Arc::new(EndpointState::new(registry.epoch, seed)), idle: false }
        });
        known.idle = false;
        Arc::clone(&known.state)
    }
}

/// A panic elsewhere cannot leave these maps half changed, so a poisoned lock is as good as any.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::ServiceName;

    #[test]
    fn state_is_shared_and_swept_when_unused_twice() {
        let registry = Registry::new();
        let key = PortKey::new(ServiceName::new("default", "web"), 80);
        let addr = EndpointAddr::new(([10, 0, 0, 1], 8080).into());
        let held = registry.endpoint(&key, addr);
        assert!(Arc::ptr_eq(&held, &registry.endpoint(&key, addr)));
        registry.sweep();
        registry.sweep();
        assert_eq!(registry.len(), 1, "in use");
        drop(held);
        registry.sweep();
        assert_eq!(registry.len(), 1, "unused once: a swap may be under way");
        registry.sweep();
        assert!(registry.is_empty());
        assert!(lock(&registry.ports).is_empty());
    }
}
