//! Brings the kernel's maps up to date with a snapshot, in O(touched).
//!
//! Place in the path: `config::publish` calls `retract` before the agent has the snapshot and `apply` after it
//! (additions agent first, removals kernel first). Invariants: make before break: a changed endpoint set is written under a new id, then the service's
//! entry is swapped, then the old set goes; an entry that does not fit is counted, logged, shown in `status`, and tried
//! again when room is made.

mod plan;
mod policy;
mod ports;
mod reach;
mod sets;
mod taker;

pub use taker::{Taker, taker};

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
use mesh_common::maps::{
    ANY_NETNS, FailurePolicy, POD_CLOSED, POD_SK_MSG, POD_UNDECLARED, Pod, PrefixData, Target, Verdict,
};
use mesh_common::{Addr, Reason};
use plan::{PortPlan, Terms};
use ports::{Leftovers, PortState};
use reach::Reach;
use rustc_hash::{FxHashMap, FxHashSet};
use sets::Sets;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What changed between two snapshots, and the newer one.
#[derive(Clone, Copy, Debug)]
pub struct Update<'a> {
    pub snapshot: &'a Snapshot,
    /// Added, changed or removed.
    pub services: &'a [ServiceName],
    /// Added, changed or removed.
    pub workloads: &'a [WorkloadKey],
    /// FQDNs or `*.suffix`es whose routes or policies changed.
    pub hosts: &'a [Arc<str>],
    /// Sidecars, or what holds for the whole mesh, changed.
    pub scopes: bool,
}

impl<'a> Update<'a> {
    /// In which nothing changed yet.
    pub fn of(snapshot: &'a Snapshot) -> Self {
        Self { snapshot, services: &[], workloads: &[], hosts: &[], scopes: false }
    }
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
    enrolled: FxHashMap<WorkloadKey, Enrolled>,
    reach: Reach,
    /// Prefixes that are left alone: addresses of the node and of its captured pods.
    passes: BTreeSet<IpNet>,
    /// Addresses for which SERVICES had no room.
    unplaced: BTreeSet<Addr>,
    /// Entries of a former process that nobody has claimed yet.
    adopted_addrs: FxHashSet<Addr>,
    adopted_pods: FxHashSet<u64>,
    adopted_prefixes: Vec<(u32, PrefixData)>,
}

/// A captured pod.
#[derive(Clone, Copy, Debug)]
struct Enrolled {
    netns: NetnsCookie,
    /// What the kernel was told of it.
    value: Pod,
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
            reach: Reach::default(),
            passes: BTreeSet::new(),
            unplaced: BTreeSet::new(),
            adopted_addrs: FxHashSet::default(),
            adopted_pods: FxHashSet::default(),
            adopted_prefixes: Vec::new(),
        };
        sync.adopted_addrs = sync.services.keys().filter_map(Result::ok).collect();
        sync.adopted_prefixes =
            sync.prefixes.keys().filter_map(Result::ok).map(|key| (key.prefix_len(), key.data())).collect();
        sync.adopted_pods = sync.pods.keys().filter_map(Result::ok).collect();
        if sync.mode == Mode::SocketLb {
            let every = Pod { workload: 0, flags: 0 };
            sync.pods.insert(ANY_NETNS, every, 0).map_err(|source| KernelError::Map { name: "PODS", source })?;
            sync.adopted_pods.remove(&ANY_NETNS);
        }
        Ok(sync)
    }

    /// The part of an update that takes away. Before the agent has the snapshot: the kernel must not send it what the
    /// snapshot cannot place.
    pub(super) fn retract(&mut self, update: &Update<'_>) -> SyncReport {
        let mut report = SyncReport::default();
        let mut left = Leftovers::default();
        for name in update.services.iter().chain([&plan::ruled()]) {
            let plans = self.plans(update.snapshot, name);
            self.retract_service(name, &plans, update.snapshot, &mut left);
        }
        self.withdraw(&left, &mut report);
        self.leave_where_gone(update, &mut report);
        report
    }

    pub(super) fn apply(&mut self, update: &Update<'_>) -> SyncReport {
        let mut report = SyncReport::default();
        let mut left = Leftovers::default();
        let all = self.renew_reach(update, &mut report);
        for name in &replanned(update, all) {
            let plans = self.plans(update.snapshot, name);
            self.apply_service(name, plans, &mut left, &mut report);
        }
        self.withdraw(&left, &mut report);
        self.leave_where_gone(update, &mut report);
        self.retry_unplaced(&mut report);
        report
    }

    pub(super) fn enrol(&mut self, workload: &WorkloadKey, netns: NetnsCookie, sk_msg: bool) -> SyncReport {
        let mut report = SyncReport::default();
        let flags = self.undeclared(workload) | if sk_msg { POD_SK_MSG } else { 0 };
        let value = Pod { workload: self.ids.intern(&workload.to_string()), flags };
        self.write_pod(workload, Enrolled { netns, value }, &mut report);
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
        self.adopted_prefixes.retain(|adopted| *adopted != (key.prefix_len(), key.data()));
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
        for (bits, data) in std::mem::take(&mut self.adopted_prefixes) {
            report.removed += usize::from(self.prefixes.remove(&Key::new(bits, data)).is_ok());
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

    fn plans(&self, snapshot: &Snapshot, name: &ServiceName) -> Vec<PortPlan> {
        let terms = Terms { snapshot, every: &self.reach.every, mode: self.mode, failure: self.failure };
        if *name == plan::ruled() {
            return plan::plan_ruled(&terms).into_iter().collect();
        }
        snapshot.service(name).map(|service| plan::plan(service, &terms)).unwrap_or_default()
    }

    /// Takes in what concerns every pod or every Service; true where all Services are to be planned again.
    fn renew_reach(&mut self, update: &Update<'_>, report: &mut SyncReport) -> bool {
        if !update.scopes && update.workloads.is_empty() {
            return false;
        }
        let former = std::mem::replace(&mut self.reach, Reach::of(update.snapshot));
        for (workload, enrolled) in self.enrolled.clone() {
            let flags = enrolled.value.flags & POD_SK_MSG | self.undeclared(&workload);
            if flags != enrolled.value.flags {
                let value = Pod { flags, ..enrolled.value };
                self.write_pod(&workload, Enrolled { value, ..enrolled }, report);
            }
        }
        self.renew_passes(report);
        former.every != self.reach.every
    }

    /// What a pod dials of its own node, itself included, is not looked at, whatever it may reach.
    fn renew_passes(&mut self, report: &mut SyncReport) {
        let captured = self.reach.pods.iter().copied();
        let node = if self.reach.pods.is_empty() { Vec::new() } else { super::sys::host_addrs() };
        let passes: BTreeSet<IpNet> = captured.chain(node).map(IpNet::from).collect();
        let rule = PrefixRule { verdict: Verdict::Pass, failure: FailurePolicy::Open };
        let former = std::mem::take(&mut self.passes);
        let changes = passes.difference(&former).map(|new| (*new, Some(rule)));
        for (prefix, rule) in changes.chain(former.difference(&passes).map(|gone| (*gone, None))) {
            let SyncReport { written, removed, problems } = self.prefix(prefix, rule);
            report.written += written;
            report.removed += removed;
            report.problems.extend(problems);
        }
        self.passes = passes;
    }

    fn undeclared(&self, workload: &WorkloadKey) -> u32 {
        match (self.reach.restricted.contains(workload), self.failure) {
            (false, _) => 0,
            (true, FailurePolicy::Open) => POD_UNDECLARED,
            (true, FailurePolicy::Closed) => POD_UNDECLARED | POD_CLOSED,
        }
    }

    fn write_pod(&mut self, workload: &WorkloadKey, enrolled: Enrolled, report: &mut SyncReport) {
        match self.pods.insert(enrolled.netns.0, enrolled.value, 0) {
            Ok(()) => {
                report.written += 1;
                self.adopted_pods.remove(&enrolled.netns.0);
                self.enrolled.insert(workload.clone(), enrolled);
            }
            Err(error) => self.problem(&error, Reason::PodsFull, &workload.to_string(), report),
        }
    }

    fn leave_where_gone(&mut self, update: &Update<'_>, report: &mut SyncReport) {
        for key in update.workloads {
            let stays =
                update.snapshot.workload(key).is_some_and(|w| matches!(w.enrolment, Enrolment::Enrolled { .. }));
            if !stays {
                self.leave_into(key, report);
            }
        }
    }

    fn leave_into(&mut self, workload: &WorkloadKey, report: &mut SyncReport) {
        if let Some(enrolled) = self.enrolled.remove(workload) {
            report.removed += usize::from(self.pods.remove(&enrolled.netns.0).is_ok());
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

/// The Services that an update is about: those that changed, those whose host somebody spoke about anew, and always the
/// hosts without a Service, which cost nothing to plan.
fn replanned(update: &Update<'_>, all: bool) -> BTreeSet<ServiceName> {
    let mut names: BTreeSet<ServiceName> = update.services.iter().cloned().chain([plan::ruled()]).collect();
    if all {
        names.extend(update.snapshot.services().map(|service| service.name.clone()));
    } else {
        names.extend(update.hosts.iter().flat_map(|host| update.snapshot.services_under(host)));
    }
    names
}

/// 10.0.0.0/8 → 96 + 8 = 104 bits of ::ffff:10.0.0.0.
fn prefix_key(prefix: IpNet) -> Key<PrefixData> {
    match prefix {
        IpNet::V4(net) => Key::new(96 + u32::from(net.prefix_len()), net.network().to_ipv6_mapped().octets()),
        IpNet::V6(net) => Key::new(u32::from(net.prefix_len()), net.network().octets()),
    }
}
