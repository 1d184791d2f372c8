//! Gateways of both families → what each gateway pod of this node listens on (SEMANTICS §8, §11).
//!
//! Two steps, as for routes: each Gateway object is planned by itself; then the plans of all Gateways that select the
//! same pods are merged with the routes bound to them. A change costs the Gateways it touches: a route those it is
//! bound to, a Secret those that name it, a pod itself.

mod api;
mod certificates;
mod istio;
mod merge;
mod plan;
mod status;

pub use api::GATEWAY_NAME_LABEL;
pub(super) use api::hostname;
pub(super) use plan::{intersection, name_of};

use super::Compiler;
use super::index::{Age, Dirty};
use super::links::Links;
use super::route::Compiled;
use crate::config::diagnostic::Diagnostic;
use crate::config::resource::{Kind, Object, ObjectKey, Resource, Secret};
use crate::snapshot::gateway::Gateway;
use crate::snapshot::route::MESH;
use crate::snapshot::{Enrolment, WorkloadKey};
use certificates::{Secrets, server_tls};
use plan::{Plan, ServerPlan, Wire};
use rustc_hash::FxHashMap;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

#[derive(Debug, Default)]
pub(super) struct Gateways {
    plans: BTreeMap<ObjectKey, (Age, Plan)>,
    /// Enrolled pods of this node; others' gateways are their agents'.
    pods: BTreeSet<WorkloadKey>,
    /// The pods of each group.
    members: Links<Group, WorkloadKey>,
    compiled: FxHashMap<Group, (Arc<Gateway>, Vec<merge::Found>)>,
    /// VirtualServices bound to a Gateway, by its name.
    bound: Links<Arc<str>, ObjectKey>,
    /// Groups that asked for a Secret.
    secrets: Links<ObjectKey, Group>,
    /// Gateways that asked for a namespace's ReferenceGrants.
    grants: Links<Arc<str>, ObjectKey>,
}

/// Pods of one namespace that the same Gateways select, these oldest first. Never empty.
type Group = (Arc<str>, Vec<ObjectKey>);

/// What changed before gateways are looked at.
pub(super) struct Causes<'a> {
    pub(super) pods: &'a [WorkloadKey],
    /// About which VirtualServices changed.
    pub(super) hosts: &'a BTreeSet<Arc<str>>,
    /// Gateways by name whose attached routes changed.
    pub(super) attached: &'a BTreeSet<Arc<str>>,
}

impl Gateways {
    /// What was asked for, found or not.
    pub(super) fn secrets(&self) -> impl Iterator<Item = &ObjectKey> {
        self.secrets.all_keys()
    }

    /// The group that a pod belongs to, as Gateways are planned now.
    fn group(&self, namespace: &Arc<str>, labels: &BTreeMap<Arc<str>, Arc<str>>) -> Option<Group> {
        let selecting = self.plans.iter().filter(|(_, (_, plan))| plan.pods.selects(namespace, labels));
        let by_age: BTreeSet<(&Age, &ObjectKey)> = selecting.map(|(key, (age, _))| (age, key)).collect();
        let keys: Vec<_> = by_age.into_iter().map(|(_, key)| key.clone()).collect();
        (!keys.is_empty()).then(|| (Arc::clone(namespace), keys))
    }

    /// Everything found about a Gateway: by itself and among others.
    fn findings(&self, key: &ObjectKey) -> Vec<Diagnostic> {
        let own = self.plans.get(key).into_iter().flat_map(|(_, plan)| &plan.found);
        let among = self.compiled.values().flat_map(|(_, found)| found).filter(|(of, _)| of == key);
        own.chain(among.map(|(_, diagnostic)| diagnostic)).cloned().collect()
    }
}

impl Compiler {
    /// Puts Gateways in force. Returns whether any pod's gateway is another one now.
    pub(super) fn apply_gateways(&mut self, dirty: &Dirty, causes: &Causes<'_>, news: &mut Vec<Diagnostic>) -> bool {
        let mut names = self.rebind(dirty, causes.hosts);
        names.extend(causes.attached.iter().cloned());
        let planned = self.plan_gateways(dirty);
        let mut stale: BTreeSet<Group> =
            dirty.secrets.iter().flat_map(|secret| self.gateways.secrets.owners(secret).cloned()).collect();
        let named =
            |(key, (_, plan)): &(&ObjectKey, &(Age, Plan))| planned.contains(*key) || names.contains(&plan.name);
        let touched: Vec<&ObjectKey> = self.gateways.plans.iter().filter(named).map(|(key, _)| key).collect();
        let groups = self.gateways.compiled.keys();
        stale.extend(groups.filter(|(_, keys)| keys.iter().any(|key| touched.contains(&key))).cloned());

        let mut pods = self.regroup(causes.pods, !planned.is_empty());
        pods.extend(stale.iter().flat_map(|group| self.gateways.members.owners(group)).cloned());
        let mut said = planned;
        said.extend(stale.iter().flat_map(|(_, keys)| keys.iter().cloned()));
        for group in &stale {
            self.gateways.compiled.remove(group);
        }
        let changed = self.settle_gateways(&pods, &mut said);
        self.forget_groups();
        for key in said {
            let found = self.gateways.findings(&key).into_iter().map(|diagnostic| (None, diagnostic)).collect();
            self.report(key, found, news);
        }
        changed
    }

    /// Notes which VirtualServices are bound to which Gateways; returns the Gateways about which that, or a
    /// VirtualService, changed.
    fn rebind(&mut self, dirty: &Dirty, hosts: &BTreeSet<Arc<str>>) -> BTreeSet<Arc<str>> {
        let mut keys = dirty.virtual_services.clone();
        for host in hosts {
            keys.extend(self.traffic.of_host(host).map(|(key, _)| key.clone()));
        }
        let mut names = BTreeSet::new();
        for key in &keys {
            let gateways = self.traffic.compiled(key).into_iter().flat_map(|vs| &vs.gateways);
            let new: BTreeSet<Arc<str>> = gateways.filter(|name| &***name != MESH).cloned().collect();
            names.extend(self.gateways.bound.set(key, &new));
            names.extend(new);
        }
        names
    }

    /// Plans what changed; returns the objects that were planned anew or are gone.
    fn plan_gateways(&mut self, dirty: &Dirty) -> BTreeSet<ObjectKey> {
        let mut keys = dirty.gateways.clone();
        if dirty.classes {
            keys.extend(self.gateways.plans.keys().filter(|key| key.kind == Kind::Gateway).cloned());
        }
        for grant in &dirty.grants {
            keys.extend(self.gateways.grants.owners(&grant.namespace).cloned());
        }
        for key in &keys {
            let asked = RefCell::new(BTreeSet::new());
            let granted = |namespace: &str, name: &str| {
                asked.borrow_mut().insert(Arc::from(namespace));
                self.is_granted(("Gateway", &key.namespace), namespace, ("Secret", name))
            };
            let plan = self.index.get(key).and_then(|r| {
                let plan = match &r.object {
                    Object::IstioGateway(gateway) => istio::plan(r, gateway),
                    Object::Gateway(gateway) if self.is_our_class(&gateway.spec.gateway_class_name) => {
                        api::plan(r, gateway, &granted)
                    }
                    // Another controller's: kept, so that it is found again when its class becomes ours.
                    Object::Gateway(_) => Plan::nothing(key),
                    _ => return None,
                };
                Some((Age::of(r), plan))
            });
            self.gateways.grants.set(key, &asked.into_inner());
            match plan {
                Some(plan) => self.gateways.plans.insert(key.clone(), plan),
                None => self.gateways.plans.remove(key),
            };
        }
        keys
    }

    /// Says anew which group each of the `touched` pods is in, or every pod; returns those looked at.
    fn regroup(&mut self, touched: &[WorkloadKey], everyone: bool) -> BTreeSet<WorkloadKey> {
        let mut pods: BTreeSet<WorkloadKey> = touched.iter().cloned().collect();
        for key in touched {
            let workload = self.snapshot.workload(key);
            if workload.is_some_and(|w| matches!(w.enrolment, Enrolment::Enrolled { .. })) {
                self.gateways.pods.insert(key.clone());
            } else {
                self.gateways.pods.remove(key);
            }
        }
        if everyone {
            pods.extend(self.gateways.pods.iter().cloned());
        }
        for key in &pods {
            let workload = self.snapshot.workload(key).filter(|_| self.gateways.pods.contains(key));
            let group = workload.and_then(|workload| self.gateways.group(&key.namespace, &workload.labels));
            self.gateways.members.set(key, &group.into_iter().collect());
        }
        pods
    }

    /// Compiles the groups of `pods` that are not compiled, and gives each pod its gateway.
    fn settle_gateways(&mut self, pods: &BTreeSet<WorkloadKey>, said: &mut BTreeSet<ObjectKey>) -> bool {
        let mut changed = false;
        for pod in pods {
            let group = self.gateways.members.keys(pod).next().cloned();
            let former = self.snapshot.gateway(pod).cloned();
            let new = group.map(|group| {
                if let Some((gateway, _)) = self.gateways.compiled.get(&group) {
                    return Arc::clone(gateway);
                }
                let (gateway, found) = self.merge_group(&group);
                // What did not change keeps its `Arc`.
                let gateway = former.clone().filter(|former| **former == gateway).unwrap_or_else(|| Arc::new(gateway));
                said.extend(group.1.iter().cloned());
                self.gateways.compiled.insert(group, (Arc::clone(&gateway), found));
                gateway
            });
            if new != former {
                self.snapshot.set_gateway(pod, new);
                changed = true;
            }
        }
        changed
    }

    fn merge_group(&mut self, group: &Group) -> (Gateway, Vec<merge::Found>) {
        let (namespace, keys) = group;
        let (mut asked, mut found) = (BTreeSet::new(), Vec::new());
        let plans: Vec<(&ObjectKey, &Plan)> =
            keys.iter().filter_map(|key| Some((key, &self.gateways.plans.get(key)?.1))).collect();
        let get = |key: &ObjectKey| secret(self.index.get(key)?).cloned();
        let mut tls = |key: &ObjectKey, server: &ServerPlan, found: &mut Vec<Diagnostic>| {
            let (Wire::Https(plan) | Wire::Tls(plan)) = &server.wire else { return None };
            let mut secrets = Secrets { get: &get, pods: namespace, gateway: &key.namespace, asked: &mut asked };
            Some(Arc::new(server_tls(plan, &mut secrets, found)))
        };
        let mut view = merge::View {
            namespace,
            virtual_services: &|name| self.bound_to(name),
            attached: &|name, listener| self.gateway_api.attached_to(name, listener),
            tls: &mut tls,
        };
        let gateway = merge::merge(&plans, &mut view, &mut found);
        self.gateways.secrets.set(group, &asked);
        (gateway, found)
    }

    /// VirtualServices bound to a Gateway, oldest first.
    fn bound_to(&self, name: &str) -> Vec<&Compiled> {
        let name = Arc::from(name);
        let bound = self.gateways.bound.owners(&name);
        let mut bound: Vec<_> =
            bound.filter_map(|key| Some((Age::of(self.index.get(key)?), self.traffic.compiled(key)?))).collect();
        bound.sort_by(|a, b| a.0.cmp(&b.0));
        bound.into_iter().map(|(_, compiled)| &**compiled).collect()
    }

    fn forget_groups(&mut self) {
        let gateways = &mut self.gateways;
        let empty: Vec<Group> =
            gateways.compiled.keys().filter(|group| gateways.members.owners(group).next().is_none()).cloned().collect();
        for group in empty {
            gateways.compiled.remove(&group);
            gateways.secrets.set(&group, &BTreeSet::new());
        }
    }

    /// `undermesh`, and `istio` for people's YAML as it is; or any class whose controller is one of theirs.
    pub(super) fn is_our_class(&self, name: &str) -> bool {
        match self.index.get(&ObjectKey::new(Kind::GatewayClass, "", name)).map(|r| &r.object) {
            Some(Object::GatewayClass(class)) => CONTROLLERS.contains(&&*class.spec.controller_name),
            _ => matches!(name, "undermesh" | "istio"),
        }
    }
}

const CONTROLLERS: [&str; 2] = [super::status::CONTROLLER, "istio.io/gateway-controller"];

pub(super) fn secret(r: &Arc<Resource>) -> Option<&Secret> {
    let Object::Secret(secret) = &r.object else { return None };
    Some(secret)
}
