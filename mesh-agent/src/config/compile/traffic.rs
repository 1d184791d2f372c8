//! Which objects speak about which host, and what is compiled again when one of them changes.
//!
//! Invariant: a change costs what it touches: its own hosts, and the hosts of the VirtualServices that delegate to it.
//! Endpoints are no part of this: routes and policies name hosts.

use super::claims::Claims;
use super::index::{Age, Dirty};
use super::route::{self, Compiled};
use super::traffic_policy;
use super::{Compiler, Found};
use crate::config::diagnostic::Diagnostic;
use crate::config::resource::istio::{destination_rule, virtual_service};
use crate::config::resource::{Object, ObjectKey, Resource};
use crate::snapshot::L4Host;
use crate::snapshot::policy::DestinationPolicy;
use crate::snapshot::route::{Route, VirtualHost};
use rustc_hash::FxHashMap;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

#[derive(Debug, Default)]
pub(super) struct Traffic {
    /// VirtualServices by the hosts they are for.
    virtual_services: Claims<Arc<str>, ObjectKey>,
    compiled: FxHashMap<ObjectKey, Arc<Compiled>>,
    /// Delegates, there or not → the VirtualServices that name them.
    roots: FxHashMap<ObjectKey, BTreeSet<ObjectKey>>,
    delegates: FxHashMap<ObjectKey, Vec<ObjectKey>>,
    destination_rules: Claims<Arc<str>, ObjectKey>,
}

impl Traffic {
    /// VirtualServices of a host, oldest first.
    pub(super) fn of_host(&self, host: &Arc<str>) -> impl Iterator<Item = (&ObjectKey, &Arc<Compiled>)> {
        self.virtual_services.claimants(host).filter_map(|key| Some((key, self.compiled.get(key)?)))
    }

    fn set_delegates(&mut self, root: &ObjectKey, new: Vec<ObjectKey>) {
        for delegate in self.delegates.remove(root).into_iter().flatten() {
            if let Some(roots) = self.roots.get_mut(&delegate) {
                roots.remove(root);
                if roots.is_empty() {
                    self.roots.remove(&delegate);
                }
            }
        }
        for delegate in &new {
            self.roots.entry(delegate.clone()).or_default().insert(root.clone());
        }
        if !new.is_empty() {
            self.delegates.insert(root.clone(), new);
        }
    }
}

impl Compiler {
    /// Puts routes and policies in force. Returns the hosts about which something changed.
    pub(super) fn apply_traffic(&mut self, dirty: &Dirty, news: &mut Vec<Diagnostic>) -> BTreeSet<Arc<str>> {
        let mut touched = BTreeSet::new();
        let mut hosts = self.apply_virtual_services(dirty, news);
        hosts.append(&mut self.apply_gateway_api(dirty, &hosts, news));
        for host in hosts {
            if self.settle_routes(&host) {
                touched.insert(host);
            }
        }
        let mut hosts = BTreeSet::new();
        for key in &dirty.destination_rules {
            let rule = self.index.get(key).and_then(destination_rule);
            let defaults = self.policy_defaults();
            let host = rule.map(|(r, spec)| traffic_policy::host(r, spec, &defaults));
            hosts.extend(self.traffic.destination_rules.clear(key));
            match (rule, host) {
                (Some((r, _)), Some(host)) => {
                    let age = Age::of(r);
                    self.traffic.destination_rules.set(key, &age, std::slice::from_ref(&host));
                    hosts.insert(host);
                }
                _ => self.report(key.clone(), Vec::new(), news),
            }
        }
        for host in hosts {
            if self.settle_policies(&host, news) {
                touched.insert(host);
            }
        }
        touched
    }

    /// Compiles what changed; returns the hosts whose routes may be others now.
    fn apply_virtual_services(&mut self, dirty: &Dirty, news: &mut Vec<Diagnostic>) -> BTreeSet<Arc<str>> {
        let mut keys = dirty.virtual_services.clone();
        for key in &dirty.virtual_services {
            keys.extend(self.traffic.roots.get(key).into_iter().flatten().cloned());
            // Whether a delegate is judged by itself depends on who names it.
            keys.extend(self.traffic.delegates.get(key).into_iter().flatten().cloned());
            let new = self.index.get(key).and_then(virtual_service).map(|(r, spec)| route::delegates(r, spec));
            keys.extend(new.iter().flatten().cloned());
            self.traffic.set_delegates(key, new.unwrap_or_default());
        }
        let defaults = self.route_defaults();
        let mut hosts = BTreeSet::new();
        for key in keys {
            let mut found = Vec::new();
            let old = self.traffic.compiled.remove(&key);
            let new = self.index.get(&key).and_then(virtual_service).map(|(r, spec)| {
                let find = |key: &ObjectKey| self.index.get(key).and_then(virtual_service);
                (Age::of(r), route::compile(r, spec, &find, &defaults, &mut found))
            });
            hosts.extend(old.iter().flat_map(|old| &old.hosts).cloned());
            match new {
                Some((age, mut new)) => {
                    hosts.extend(new.hosts.iter().cloned());
                    self.traffic.virtual_services.set(&key, &age, &new.hosts);
                    if let Some(old) = old {
                        keep_routes(&old.routes, &mut new.routes);
                    }
                    if new.hosts.is_empty() && self.traffic.roots.contains_key(&key) {
                        found.clear();
                    }
                    self.traffic.compiled.insert(key.clone(), Arc::new(new));
                }
                None => {
                    self.traffic.virtual_services.clear(&key);
                }
            }
            self.report(key, found, news);
        }
        hosts
    }

    /// Everything that speaks about the requests for a host: Istio's objects, then the Gateway API's, then our default.
    fn settle_routes(&mut self, host: &Arc<str>) -> bool {
        let former: Vec<Arc<VirtualHost>> = self.snapshot.virtual_hosts_of(host).to_vec();
        let new = self.traffic.of_host(host).filter_map(|(_, compiled)| compiled.virtual_host(host));
        let new = new.chain(self.gateway_api.virtual_hosts(host));
        let new: Vec<_> = new.map(|new| keep(&former, new)).collect();
        let former_l4: Vec<Arc<L4Host>> = self.snapshot.l4_hosts_of(host).to_vec();
        let l4 = self.traffic.of_host(host).filter_map(|(_, compiled)| compiled.l4_host(host));
        let l4: Vec<_> = l4.map(|new| keep(&former_l4, new)).collect();
        let changed = new != former || l4 != former_l4;
        if changed {
            self.snapshot.set_virtual_hosts(host, new);
            self.snapshot.set_l4_hosts(host, l4);
        }
        changed
    }

    fn settle_policies(&mut self, host: &Arc<str>, news: &mut Vec<Diagnostic>) -> bool {
        let defaults = self.policy_defaults();
        let keys: Vec<ObjectKey> = self.traffic.destination_rules.claimants(host).cloned().collect();
        let mut found: Vec<Found> = Vec::new();
        let new = {
            type Rules<'a> = Vec<(&'a Resource, &'a destination_rule::Spec)>;
            let mut groups: Vec<(Arc<str>, traffic_policy::Group, Rules<'_>)> = Vec::new();
            for (r, spec) in keys.iter().filter_map(|key| self.index.get(key).and_then(destination_rule)) {
                let alike = traffic_policy::group(spec, &defaults);
                match groups.iter_mut().find(|(ns, group, _)| *ns == r.key.namespace && *group == alike) {
                    Some((.., rules)) => rules.push((r, spec)),
                    None => groups.push((Arc::clone(&r.key.namespace), alike, vec![(r, spec)])),
                }
            }
            let compile =
                |(_, group, rules): (_, _, Rules<'_>)| traffic_policy::compile(group, &rules, &defaults, &mut found);
            groups.into_iter().filter_map(compile).collect::<Vec<_>>()
        };
        let mut by_rule: BTreeMap<ObjectKey, Vec<Found>> = keys.into_iter().map(|key| (key, Vec::new())).collect();
        for (object, diagnostic) in found {
            if let Some((key, place)) = object {
                by_rule.entry(key.clone()).or_default().push((Some((key, place)), diagnostic));
            }
        }
        for (key, found) in by_rule {
            self.report(key, found, news);
        }
        let former: Vec<Arc<DestinationPolicy>> = self.snapshot.destination_policies_of(host).to_vec();
        let new: Vec<_> = new.into_iter().map(|new| keep(&former, new)).collect();
        let changed = new != former;
        if changed {
            self.snapshot.set_destination_policies(host, new);
        }
        changed
    }
}

/// What did not change keeps its `Arc`.
fn keep<T: PartialEq>(former: &[Arc<T>], new: T) -> Arc<T> {
    former.iter().find(|former| ***former == new).cloned().unwrap_or_else(|| Arc::new(new))
}

fn keep_routes(former: &[Arc<Route>], new: &mut [Arc<Route>]) {
    for (new, former) in new.iter_mut().zip(former) {
        if new == former {
            *new = Arc::clone(former);
        }
    }
}

pub(super) fn virtual_service(r: &Arc<Resource>) -> Option<(&Resource, &virtual_service::Spec)> {
    let Object::VirtualService(object) = &r.object else { return None };
    Some((r, &object.spec))
}

pub(super) fn destination_rule(r: &Arc<Resource>) -> Option<(&Resource, &destination_rule::Spec)> {
    let Object::DestinationRule(object) = &r.object else { return None };
    Some((r, &object.spec))
}
