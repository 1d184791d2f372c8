//! One worker's compiled view of one endpoint set under one policy.

use super::choose::{self, Field};
use super::registry::{PortState, Registry};
use super::state::{Active, EndpointState, millis_since};
use super::{resolve, table};
use crate::addr::EndpointAddr;
use crate::snapshot::{Endpoint, EndpointHealth, EndpointSet, LbPolicy, PortKey};
use fastrand::Rng;
use std::sync::Arc;
use std::time::Instant;

/// Built when a set first appears, thrown away when `set_is` says that the snapshot holds another one; all that was
/// learnt stays in the `Registry`.
#[derive(Debug)]
pub struct Picker {
    set: Arc<EndpointSet>,
    policy: LbPolicy,
    port: Arc<PortState>,
    epoch: Instant,
    slots: Box<[Slot]>,
    /// `None`: equal weights.
    table: Option<Box<[u32]>>,
}

/// A candidate: `Ready`, or `Draining` where nothing is `Ready`.
#[derive(Debug)]
struct Slot {
    addr: EndpointAddr,
    /// Its place in the set.
    index: usize,
    state: Arc<EndpointState>,
}

/// The endpoint for one attempt.
#[derive(Clone, Debug)]
pub struct Picked {
    pub addr: EndpointAddr,
    /// Index in the picker's `EndpointSet`.
    pub index: usize,
    pub state: Arc<EndpointState>,
}

impl Picker {
    pub fn for_set(registry: &Registry, key: &PortKey, set: &Arc<EndpointSet>, policy: LbPolicy) -> Self {
        let port = registry.port(key);
        let of = |health| set.endpoints.iter().enumerate().filter(move |(_, e)| e.health == health);
        let tier =
            if of(EndpointHealth::Ready).next().is_some() { EndpointHealth::Ready } else { EndpointHealth::Draining };
        let slot =
            |(index, e): (usize, &Endpoint)| Slot { addr: e.addr, index, state: port.endpoint(registry, e.addr) };
        let slots: Box<[Slot]> = of(tier).map(slot).collect();
        let weights: Vec<u32> = of(tier).map(|(_, e)| e.weight).collect();
        Self {
            set: Arc::clone(set),
            policy: resolve(policy),
            epoch: registry.epoch(),
            slots,
            table: table::cycle(&weights),
            port,
        }
    }

    /// Still the view of this very set (by identity: a changed set is another allocation)?
    pub fn set_is(&self, set: &Arc<EndpointSet>) -> bool {
        Arc::ptr_eq(&self.set, set)
    }

    pub fn set(&self) -> &Arc<EndpointSet> {
        &self.set
    }

    /// The compiled endpoint behind a `Picked` of this picker.
    pub fn endpoint(&self, picked: &Picked) -> Option<&Endpoint> {
        self.set.endpoints.get(picked.index)
    }

    /// The policy in force (never `Default`).
    pub fn policy(&self) -> LbPolicy {
        self.policy
    }

    /// Endpoints that can be chosen.
    pub fn candidates(&self) -> usize {
        self.slots.len()
    }

    /// An endpoint for one attempt, `None` only where nothing is `Ready` or `Draining` (503 UH).
    ///
    /// `exclude` holds the endpoints that this request has tried already. In order of preference: neither excluded
    /// nor avoided, excluded, avoided, both; within the first by policy, within the others at random.
    pub fn pick(&self, now: Instant, rng: &mut Rng, exclude: &[EndpointAddr]) -> Option<Picked> {
        let now_ms = millis_since(self.epoch, now);
        // Another worker may take the probe that we were about to send: then that endpoint is avoided, look again.
        for _ in 0..3 {
            let slot = self.slots.get(self.choose(now_ms, rng, exclude)?)?;
            if !slot.state.health().wants_probe(now_ms) || slot.state.claim_probe(now_ms) {
                return Some(slot.picked());
            }
        }
        self.slots.get(self.last_resort(now_ms, rng, exclude)?).map(Slot::picked)
    }

    fn choose(&self, now_ms: u64, rng: &mut Rng, exclude: &[EndpointAddr]) -> Option<usize> {
        let field = Field { len: self.slots.len(), table: self.table.as_deref() };
        let weighted = self.table.is_some();
        let eligible = |i: usize| self.slots.get(i).is_some_and(|s| s.rank(now_ms, exclude) == 0);
        let by_policy = match self.policy {
            LbPolicy::RoundRobin => choose::round_robin(field, || self.port.next_turn(), eligible),
            LbPolicy::Random => choose::random(field, rng, eligible),
            LbPolicy::LeastRequest => choose::two_choices(field, rng, eligible, |a, b, rng| {
                let active = |i: usize| self.slots.get(i).map_or(0, |s| s.state.active());
                choose::fewer_active(active(a), active(b), weighted, rng)
            }),
            LbPolicy::PeakEwma | LbPolicy::Default => {
                choose::two_choices(field, rng, eligible, |a, b, _| self.cost(a, now_ms) <= self.cost(b, now_ms))
            }
        };
        by_policy.or_else(|| self.last_resort(now_ms, rng, exclude))
    }

    fn cost(&self, i: usize, now_ms: u64) -> f32 {
        self.slots.get(i).map_or(0.0, |s| choose::ewma_cost(s.state.latency_nanos(now_ms), s.state.active()))
    }

    fn last_resort(&self, now_ms: u64, rng: &mut Rng, exclude: &[EndpointAddr]) -> Option<usize> {
        choose::best_of(self.slots.len(), rng, |i| self.slots.get(i).map_or(u8::MAX, |s| s.rank(now_ms, exclude)))
    }
}

impl Picked {
    /// Counts the attempt as active from now on.
    pub fn begin(self, now: Instant) -> Active {
        Active::new(self.state, now)
    }
}

impl Slot {
    fn picked(&self) -> Picked {
        Picked { addr: self.addr, index: self.index, state: Arc::clone(&self.state) }
    }

    /// 0 = fine. An endpoint that refused this request's stream is a better bet than one that refuses connections.
    fn rank(&self, now_ms: u64, exclude: &[EndpointAddr]) -> u8 {
        u8::from(self.state.health().is_avoided(now_ms)) << 1 | u8::from(exclude.contains(&self.addr))
    }
}

#[cfg(test)]
mod tests;
