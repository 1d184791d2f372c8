//! Where run-time state outlives pickers and snapshots.

use super::EndpointState;
use crate::addr::EndpointAddr;
use crate::snapshot::PortKey;
use crate::time::Nanos;
use rustc_hash::FxHashMap;
use serde::Serialize;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

/// All endpoint states that some picker holds. Locked when a picker is made, never for a request.
#[derive(Debug, Default)]
pub struct Registry {
    ports: Mutex<FxHashMap<PortKey, PortState>>,
}

#[derive(Debug, Default)]
struct PortState {
    cursor: Weak<AtomicUsize>,
    endpoints: FxHashMap<EndpointAddr, Weak<EndpointState>>,
}

/// One endpoint as `mesh-agent endpoints` shows it.
#[derive(Clone, Debug, Serialize)]
pub struct EndpointRow {
    /// `namespace/name:port`
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
}

impl Registry {
    /// The state of an endpoint; made new where no picker holds it.
    pub fn endpoint(&self, key: &PortKey, addr: EndpointAddr) -> Arc<EndpointState> {
        let mut ports = self.ports.lock().unwrap_or_else(PoisonError::into_inner);
        let port = ports.entry(key.clone()).or_default();
        if let Some(state) = port.endpoints.get(&addr).and_then(Weak::upgrade) {
            return state;
        }
        let state = Arc::new(EndpointState::new(key.clone(), addr));
        port.endpoints.insert(addr, Arc::downgrade(&state));
        state
    }

    /// Round robin's position on a port. Called once for each picker made.
    pub(super) fn cursor(&self, key: &PortKey) -> Arc<AtomicUsize> {
        let mut ports = self.ports.lock().unwrap_or_else(PoisonError::into_inner);
        let port = ports.entry(key.clone()).or_default();
        // Forgets endpoints that nobody uses any more, so that rollouts do not grow the table.
        port.endpoints.retain(|_, state| state.strong_count() > 0);
        port.cursor.upgrade().unwrap_or_else(|| {
            let cursor = Arc::default();
            port.cursor = Arc::downgrade(&cursor);
            cursor
        })
    }

    /// Every endpoint in use, by service and address.
    pub fn rows(&self, now: Nanos) -> Vec<EndpointRow> {
        let mut ports = self.ports.lock().unwrap_or_else(PoisonError::into_inner);
        ports.retain(|_, port| {
            port.endpoints.retain(|_, state| state.strong_count() > 0);
            !port.endpoints.is_empty() || port.cursor.strong_count() > 0
        });
        let mut states: Vec<_> = ports.values().flat_map(|p| p.endpoints.values().filter_map(Weak::upgrade)).collect();
        drop(ports);
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
            })
            .collect()
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
