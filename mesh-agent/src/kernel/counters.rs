//! What happened in the kernel, by `Reason`, and the statistics of connections it placed itself.

use super::ids::name_of;
use super::{KernelError, maps};
use aya::maps::{Array, MapData, PerCpuArray, PerCpuHashMap};
use mesh_common::Reason;
use mesh_common::maps::{Name, SRTT_BUCKETS, ServiceStats};
use serde::Serialize;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Handle on the kernel's counters; cheap to clone.
#[derive(Clone)]
pub struct Counters(Arc<Inner>);

struct Inner {
    reasons: PerCpuArray<MapData, u64>,
    services: PerCpuHashMap<MapData, u32, ServiceStats>,
    flows: Array<MapData, u64>,
    names: maps::Table<u32, Name>,
    /// What the agent's half counts under the same reasons: full maps.
    own: [AtomicU64; Reason::COUNT as usize],
}

/// Connections to one service port that the kernel placed without the agent. Since the maps were made.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize)]
pub struct ServiceCounters {
    /// `namespace/name:port`
    pub service: String,
    pub opened: u64,
    pub closed: u64,
    pub bytes_sent: u64,
    pub bytes_received: u64,
    pub retransmits: u64,
    /// Mean over closed connections of the round-trip time at close, in µs.
    pub srtt_us: u64,
    /// The sum of it.
    pub srtt_us_sum: u64,
    /// Closed connections by their round-trip time (`SRTT_BOUNDS_US`).
    pub srtt: [u64; SRTT_BUCKETS],
}

impl fmt::Debug for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.read().iter().map(|(reason, count)| (reason.label(), count))).finish()
    }
}

impl Counters {
    pub(super) fn open(pin_dir: &Path) -> Result<Self, KernelError> {
        Ok(Self(Arc::new(Inner {
            reasons: maps::per_cpu_array(pin_dir, "COUNTERS")?,
            services: maps::per_cpu_hash(pin_dir, "SERVICE_STATS")?,
            flows: maps::array(pin_dir, "FLOW_COUNT")?,
            names: maps::hash(pin_dir, "NAMES")?,
            own: std::array::from_fn(|_| AtomicU64::new(0)),
        })))
    }

    /// Every reason with its count since the maps were made, in `Reason`'s order.
    pub fn read(&self) -> Vec<(Reason, u64)> {
        Reason::ALL.iter().map(|reason| (*reason, self.get(*reason))).collect()
    }

    pub fn get(&self, reason: Reason) -> u64 {
        let kernel: u64 = self.0.reasons.get(&reason.index(), 0).map(|cpus| cpus.iter().sum()).unwrap_or_default();
        kernel + self.own(reason).map_or(0, |own| own.load(Ordering::Relaxed))
    }

    /// Captured connections open now.
    pub fn open_flows(&self) -> u64 {
        self.0.flows.get(&0, 0).unwrap_or_default()
    }

    pub fn services(&self) -> Vec<ServiceCounters> {
        let rows = self.0.services.iter().filter_map(Result::ok);
        rows.map(|(id, cpus)| {
            let sum = |field: fn(&ServiceStats) -> u64| cpus.iter().map(field).sum::<u64>();
            let (closed, srtt_us_sum) = (sum(|s| s.closed), sum(|s| s.srtt_us_sum));
            ServiceCounters {
                service: name_of(&self.0.names, id),
                opened: sum(|s| s.opened),
                closed,
                bytes_sent: sum(|s| s.bytes_sent),
                bytes_received: sum(|s| s.bytes_received),
                retransmits: sum(|s| s.retransmits),
                srtt_us: srtt_us_sum.checked_div(closed).unwrap_or_default(),
                srtt_us_sum,
                srtt: cpus.iter().fold([0; SRTT_BUCKETS], |all, s| std::array::from_fn(|at| all[at] + s.srtt[at])),
            }
        })
        .collect()
    }

    pub(super) fn count(&self, reason: Reason) {
        if let Some(own) = self.own(reason) {
            own.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn own(&self, reason: Reason) -> Option<&AtomicU64> {
        self.0.own.get(reason.index() as usize)
    }
}
