//! Brings the kernel's maps up to date with a snapshot, in O(touched).
//!
//! Place in the path: `config::publish` calls it after the agent has the snapshot (additions agent first, removals
//! kernel first). Invariants: make before break: a changed endpoint set is written under a new id, then the service's
//! entry is swapped, then the old set goes; an entry that does not fit is counted, logged, shown in `status`, and tried
//! again when room is made.

mod plan;
mod sets;

use super::counters::Counters;
use super::ids::Ids;
use super::keeper::NetnsCookie;
use super::{Config, KernelError, Mode, maps};
use crate::snapshot::{Enrolment, PortKey, ServiceName, Snapshot, WorkloadKey};
use aya::maps::{
    MapData, MapError,
    lpm_trie::{Key, LpmTrie},
};
use ipnet::IpNet;
use mesh_common::maps::{ANY_NETNS, FailurePolicy, POD_SK_MSG, Pod, PrefixData, TARGET_SK_MSG, Target, Verdict};
use mesh_common::{Addr, Reason};
use plan::{PortPlan, Want};
use rustc_hash::{FxHashMap, FxHashSet};
use sets::{Set, Sets};
use std::collections::{BTreeMap, BTreeSet};

/// What changed between two snapshots, and the newer one.
#[derive(Clone, Copy, Debug)]
pub struct Update<'a> {
    pub snapshot: &'a Snapshot,
    /// Added, changed or removed.
    pub services: &'a [ServiceName],
    /// Added, changed or removed.
    pub workloads: &'a [WorkloadKey],
}

/// What an update did.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SyncReport {
    /// Entries written, of all maps.
    pub written: usize,
    pub removed: usize,
    /// What did not fit or failed, with its stated behaviour.
    pub problems: Vec<String>,
}

/// A rule for the addresses of a prefix.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PrefixRule {
    pub verdict: Verdict,
    pub failure: FailurePolicy,
}

#[derive(Debug)]
pub(super) struct Sync {
    mode: Mode,
    failure: FailurePolicy,
    pods: maps::Table<u64, Pod>,
    services: maps::Table<Addr, Target>,
    prefixes: LpmTrie<MapData, PrefixData, Target>,
    sets: Sets,
    ids: Ids,
    counters: Counters,
    /// What each service port has in the kernel.
    ports: FxHashMap<PortKey, PortState>,
    by_service: FxHashMap<ServiceName, Vec<PortKey>>,
    /// Who wants an address; the first by name has it.
    claims: FxHashMap<Addr, BTreeMap<PortKey, Target>>,
    enrolled: FxHashMap<WorkloadKey, NetnsCookie>,
    /// Addresses for which SERVICES had no room.
    unplaced: BTreeSet<Addr>,
    /// Entries of a former process that nobody has claimed yet.
    adopted_addrs: FxHashSet<Addr>,
    adopted_pods: FxHashSet<u64>,
}

#[derive(Debug)]
struct PortState {
    plan: PortPlan,
    v4: Option<Set>,
    v6: Option<Set>,
}

impl Sync {
    pub(super) fn open(config: &Config, counters: Counters) -> Result<Self, KernelError> {
        let mut sync = Self {
            mode: config.mode,
            failure: config.failure,
            pods: maps::hash(&config.pin_dir, "PODS")?,
            services: maps::hash(&config.pin_dir, "SERVICES")?,
            prefixes: maps::trie(&config.pin_dir, "PREFIXES")?,
            sets: Sets::open(&config.pin_dir)?,
            ids: Ids::open(&config.pin_dir)?,
            counters,
            ports: FxHashMap::default(),
            by_service: FxHashMap::default(),
            claims: FxHashMap::default(),
            enrolled: FxHashMap::default(),
            unplaced: BTreeSet::new(),
            adopted_addrs: FxHashSet::default(),
            adopted_pods: FxHashSet::default(),
        };
        sync.adopted_addrs = sync.services.keys().filter_map(Result::ok).collect();
        sync.adopted_pods = sync.pods.keys().filter_map(Result::ok).collect();
        if sync.mode == Mode::SocketLb {
            let every = Pod { workload: 0, flags: 0 };
            sync.pods.insert(ANY_NETNS, every, 0).map_err(|source| KernelError::Map { name: "PODS", source })?;
            sync.adopted_pods.remove(&ANY_NETNS);
        }
        Ok(sync)
    }

    pub(super) fn apply(&mut self, update: &Update<'_>) -> SyncReport {
        let mut report = SyncReport::default();
        let mut retired = Vec::new();
        for name in update.services {
            let plans = update
                .snapshot
                .service(name)
                .map(|service| plan::plan(service, self.mode, self.failure))
                .unwrap_or_default();
            self.apply_service(name, plans, &mut retired, &mut report);
        }
        for set in retired {
            report.removed += self.sets.remove(&set);
        }
        for key in update.workloads {
            let stays =
                update.snapshot.workload(key).is_some_and(|w| matches!(w.enrolment, Enrolment::Enrolled { .. }));
            if !stays {
                self.leave_into(key, &mut report);
            }
        }
        self.retry_unplaced(&mut report);
        report
    }

    pub(super) fn enrol(&mut self, workload: &WorkloadKey, netns: NetnsCookie, sk_msg: bool) -> SyncReport {
        let mut report = SyncReport::default();
        let value =
            Pod { workload: self.ids.intern(&workload.to_string()), flags: if sk_msg { POD_SK_MSG } else { 0 } };
        match self.pods.insert(netns.0, value, 0) {
            Ok(()) => {
                report.written += 1;
                self.adopted_pods.remove(&netns.0);
                self.enrolled.insert(workload.clone(), netns);
            }
            Err(error) => self.problem(&error, Reason::PodsFull, &workload.to_string(), &mut report),
        }
        report
    }

    pub(super) fn leave(&mut self, workload: &WorkloadKey) -> SyncReport {
        let mut report = SyncReport::default();
        self.leave_into(workload, &mut report);
        report
    }

    pub(super) fn prefix(&mut self, prefix: IpNet, rule: Option<PrefixRule>) -> SyncReport {
        let mut report = SyncReport::default();
        let key = prefix_key(prefix);
        match rule {
            Some(rule) => {
                let target = Target { verdict: rule.verdict as u8, failure: rule.failure as u8, ..Target::default() };
                match self.prefixes.insert(&key, target, 0) {
                    Ok(()) => report.written += 1,
                    Err(error) => self.problem(&error, Reason::PrefixesFull, &prefix.to_string(), &mut report),
                }
            }
            None => report.removed += usize::from(self.prefixes.remove(&key).is_ok()),
        }
        report
    }

    pub(super) fn sweep(&mut self) -> SyncReport {
        let mut report = SyncReport::default();
        for cookie in std::mem::take(&mut self.adopted_pods) {
            report.removed += usize::from(self.pods.remove(&cookie).is_ok());
        }
        for addr in std::mem::take(&mut self.adopted_addrs) {
            report.removed += usize::from(self.services.remove(&addr).is_ok());
        }
        report.removed += self.sets.sweep();
        let used: FxHashSet<String> =
            self.ports.keys().map(PortKey::to_string).chain(self.enrolled.keys().map(WorkloadKey::to_string)).collect();
        let unused: Vec<String> = self.ids.names().filter(|name| !used.contains(*name)).cloned().collect();
        for name in &unused {
            self.ids.forget(name);
        }
        self.retry_unplaced(&mut report);
        report
    }

    /// An entry without a service, for the self-test.
    pub(super) fn place_raw(&mut self, addr: Addr, target: Target) -> Result<(), MapError> {
        self.services.insert(addr, target, 0)
    }

    /// A namespace without a workload, for the self-test.
    pub(super) fn enrol_raw(&mut self, netns: NetnsCookie) -> Result<(), MapError> {
        self.pods.insert(netns.0, Pod::default(), 0)
    }

    /// Addresses that did not fit.
    pub(super) fn unplaced(&self) -> usize {
        self.unplaced.len()
    }

    pub(super) fn enrolled(&self) -> usize {
        self.enrolled.len()
    }

    fn apply_service(
        &mut self,
        name: &ServiceName,
        plans: Vec<PortPlan>,
        retired: &mut Vec<Set>,
        report: &mut SyncReport,
    ) {
        let keys: Vec<PortKey> = plans.iter().map(|plan| plan.key.clone()).collect();
        let former = if keys.is_empty() {
            self.by_service.remove(name)
        } else {
            self.by_service.insert(name.clone(), keys.clone())
        };
        for plan in plans {
            self.apply_port(plan, retired, report);
        }
        for key in former.unwrap_or_default().iter().filter(|key| !keys.contains(key)) {
            self.remove_port(key, retired, report);
        }
    }

    fn apply_port(&mut self, plan: PortPlan, retired: &mut Vec<Set>, report: &mut SyncReport) {
        let former = self.ports.remove(&plan.key);
        if let Some(former) = &former
            && former.plan == plan
            && former.complete()
        {
            self.ports.insert(plan.key.clone(), PortState { plan, v4: former.v4.clone(), v6: former.v6.clone() });
            return;
        }
        let service = self.ids.intern(&plan.key.to_string());
        let (v4, v6) = match &plan.want {
            Want::Agent => (None, None),
            Want::Endpoint { v4, v6 } => {
                let old = former.as_ref().map(|f| (f.v4.clone(), f.v6.clone())).unwrap_or_default();
                (self.renew(&plan.key, v4, old.0, report), self.renew(&plan.key, v6, old.1, report))
            }
        };
        for addr in &plan.addrs {
            let set = if addr.is_v4() { &v4 } else { &v6 };
            let target = target(&plan, service, set.as_ref());
            self.claim(*addr, &plan.key, Some(target), report);
        }
        if let Some(former) = former {
            for addr in former.plan.addrs.difference(&plan.addrs) {
                self.claim(*addr, &plan.key, None, report);
            }
            let kept = [&v4, &v6].map(|set| set.as_ref().map(|set| set.id));
            retired.extend([former.v4, former.v6].into_iter().flatten().filter(|old| !kept.contains(&Some(old.id))));
        }
        self.ports.insert(plan.key.clone(), PortState { plan, v4, v6 });
    }

    fn remove_port(&mut self, key: &PortKey, retired: &mut Vec<Set>, report: &mut SyncReport) {
        let Some(former) = self.ports.remove(key) else { return };
        for addr in &former.plan.addrs {
            self.claim(*addr, key, None, report);
        }
        retired.extend([former.v4, former.v6].into_iter().flatten());
        // The id stays until `sweep`: open connections still count under it.
    }

    /// The set for these endpoints: the old one if it is the same, else a new one. `None` if it does not fit.
    fn renew(
        &mut self,
        key: &PortKey,
        endpoints: &[(Addr, u32)],
        old: Option<Set>,
        report: &mut SyncReport,
    ) -> Option<Set> {
        if let Some(old) = old
            && old.endpoints == endpoints
        {
            return Some(old);
        }
        match self.sets.write(endpoints) {
            Ok(set) => {
                report.written += endpoints.len();
                Some(set)
            }
            Err(error) => {
                self.problem(&error, Reason::EndpointsFull, &key.to_string(), report);
                None
            }
        }
    }

    /// Registers or withdraws a port's wish for an address and writes whoever is first.
    fn claim(&mut self, addr: Addr, key: &PortKey, target: Option<Target>, report: &mut SyncReport) {
        let claims = self.claims.entry(addr).or_default();
        match target {
            Some(target) => drop(claims.insert(key.clone(), target)),
            None => drop(claims.remove(key)),
        }
        if claims.is_empty() {
            self.claims.remove(&addr);
            self.unplaced.remove(&addr);
            report.removed += usize::from(self.services.remove(&addr).is_ok());
        } else {
            self.place(addr, report);
        }
        self.adopted_addrs.remove(&addr);
    }

    fn place(&mut self, addr: Addr, report: &mut SyncReport) {
        let Some((key, target)) = self.claims.get(&addr).and_then(|claims| claims.first_key_value()) else { return };
        match self.services.insert(addr, *target, 0) {
            Ok(()) => {
                self.unplaced.remove(&addr);
                report.written += 1;
            }
            Err(error) => {
                let what = format!("{key} at {}", std::net::SocketAddr::from(addr));
                if self.unplaced.insert(addr) {
                    self.problem(&error, Reason::ServicesFull, &what, report);
                }
            }
        }
    }

    fn retry_unplaced(&mut self, report: &mut SyncReport) {
        if report.removed > 0 {
            for addr in self.unplaced.clone() {
                self.place(addr, report);
            }
        }
    }

    fn leave_into(&mut self, workload: &WorkloadKey, report: &mut SyncReport) {
        if let Some(netns) = self.enrolled.remove(workload) {
            report.removed += usize::from(self.pods.remove(&netns.0).is_ok());
        }
    }

    fn problem(&self, error: &MapError, full: Reason, what: &str, report: &mut SyncReport) {
        let text = if maps::is_full(error) {
            self.counters.count(full);
            format!("{what}: {}", full.doc())
        } else {
            format!("{what}: cannot be written to the kernel: {error}")
        };
        tracing::warn!("{text}");
        report.problems.push(text);
    }
}

impl PortState {
    /// Every set it wants is in the kernel.
    fn complete(&self) -> bool {
        matches!(self.plan.want, Want::Agent) || (self.v4.is_some() && self.v6.is_some())
    }
}

/// The entry of one address. A set that does not fit leaves the failure policy.
fn target(plan: &PortPlan, service: u32, set: Option<&Set>) -> Target {
    let base = Target {
        service,
        failure: plan.failure as u8,
        flags: if plan.sk_msg { TARGET_SK_MSG } else { 0 },
        ..Target::default()
    };
    match (&plan.want, set) {
        (Want::Agent, _) => Target { verdict: Verdict::Agent as u8, ..base },
        (Want::Endpoint { .. }, Some(set)) => {
            Target { verdict: Verdict::Endpoint as u8, set: set.id, slots: set.endpoints.len() as u32, ..base }
        }
        (Want::Endpoint { .. }, None) => {
            let verdict = if plan.failure == FailurePolicy::Closed { Verdict::Deny } else { Verdict::Pass };
            Target { verdict: verdict as u8, ..base }
        }
    }
}

/// 10.0.0.0/8 → 96 + 8 = 104 bits of ::ffff:10.0.0.0.
fn prefix_key(prefix: IpNet) -> Key<PrefixData> {
    match prefix {
        IpNet::V4(net) => Key::new(96 + u32::from(net.prefix_len()), net.network().to_ipv6_mapped().octets()),
        IpNet::V6(net) => Key::new(u32::from(net.prefix_len()), net.network().octets()),
    }
}
