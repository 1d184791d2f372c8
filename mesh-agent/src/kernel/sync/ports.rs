//! What each service port has in the kernel: its addresses' entries in SERVICES and its endpoint sets.
//!
//! Invariant: an address is handed over, never dropped and claimed again: claims come before withdrawals, whichever
//! Services are concerned.

use super::plan::{PortPlan, Want};
use super::sets::Set;
use super::{Sync, SyncReport};
use crate::addr::OrigDst;
use crate::snapshot::{Destination, PortKey, ServiceName, Snapshot};
use mesh_common::maps::{FailurePolicy, TARGET_SK_MSG, Target, Verdict};
use mesh_common::{Addr, Reason};
use std::collections::BTreeSet;
use std::net::SocketAddr;

#[derive(Debug)]
pub(super) struct PortState {
    plan: PortPlan,
    v4: Option<Set>,
    v6: Option<Set>,
}

/// What a change leaves behind, to be taken out at its end.
#[derive(Debug, Default)]
pub(super) struct Leftovers {
    addrs: Vec<(Addr, PortKey)>,
    sets: Vec<Set>,
}

impl Sync {
    pub(super) fn apply_service(
        &mut self,
        name: &ServiceName,
        plans: Vec<PortPlan>,
        left: &mut Leftovers,
        report: &mut SyncReport,
    ) {
        let keys: Vec<PortKey> = plans.iter().map(|plan| plan.key.clone()).collect();
        let former = if keys.is_empty() {
            self.by_service.remove(name)
        } else {
            self.by_service.insert(name.clone(), keys.clone())
        };
        for plan in plans {
            self.apply_port(plan, left, report);
        }
        for key in former.unwrap_or_default().into_iter().filter(|key| !keys.contains(key)) {
            self.remove_port(&key, left);
        }
    }

    /// Takes out what the service no longer wants, as far as the snapshot cannot place it otherwise: an address that
    /// went from one Service to another stays until `apply` hands it over.
    pub(super) fn retract_service(
        &mut self,
        name: &ServiceName,
        plans: &[PortPlan],
        snapshot: &Snapshot,
        left: &mut Leftovers,
    ) {
        let Some(keys) = self.by_service.get_mut(name) else { return };
        for key in keys.clone() {
            let wanted = plans.iter().find(|plan| plan.key == key);
            let Some(state) = self.ports.get_mut(&key) else { continue };
            let stays =
                |addr: &Addr| wanted.is_some_and(|plan| plan.addrs.contains(addr)) || is_service(snapshot, *addr);
            let (kept, gone): (BTreeSet<Addr>, BTreeSet<Addr>) = state.plan.addrs.iter().copied().partition(stays);
            state.plan.addrs = kept;
            left.addrs.extend(gone.into_iter().map(|addr| (addr, key.clone())));
            if wanted.is_none() && state.plan.addrs.is_empty() {
                keys.retain(|other| *other != key);
                left.sets.extend(self.ports.remove(&key).into_iter().flat_map(|gone| [gone.v4, gone.v6]).flatten());
            }
        }
    }

    /// The last act of a change: addresses are withdrawn after others were claimed, sets removed after nothing leads
    /// to them.
    pub(super) fn withdraw(&mut self, left: &Leftovers, report: &mut SyncReport) {
        for (addr, key) in &left.addrs {
            self.claim(*addr, key, None, report);
        }
        for set in &left.sets {
            report.removed += self.sets.remove(set);
        }
    }

    fn apply_port(&mut self, plan: PortPlan, left: &mut Leftovers, report: &mut SyncReport) {
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
            left.addrs.extend(former.plan.addrs.difference(&plan.addrs).map(|addr| (*addr, plan.key.clone())));
            let kept = [&v4, &v6].map(|set| set.as_ref().map(|set| set.id));
            left.sets.extend([former.v4, former.v6].into_iter().flatten().filter(|old| !kept.contains(&Some(old.id))));
        }
        self.ports.insert(plan.key.clone(), PortState { plan, v4, v6 });
    }

    fn remove_port(&mut self, key: &PortKey, left: &mut Leftovers) {
        let Some(former) = self.ports.remove(key) else { return };
        left.addrs.extend(former.plan.addrs.iter().map(|addr| (*addr, key.clone())));
        left.sets.extend([former.v4, former.v6].into_iter().flatten());
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
                let what = format!("{key} at {}", SocketAddr::from(addr));
                if self.unplaced.insert(addr) {
                    self.problem(&error, Reason::ServicesFull, &what, report);
                }
            }
        }
    }

    pub(super) fn retry_unplaced(&mut self, report: &mut SyncReport) {
        if report.removed > 0 {
            for addr in self.unplaced.clone() {
                self.place(addr, report);
            }
        }
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

/// A connection to this address finds a Service in the snapshot.
fn is_service(snapshot: &Snapshot, addr: Addr) -> bool {
    matches!(snapshot.destination(OrigDst::new(SocketAddr::from(addr))), Destination::Service(..))
}
