//! Which objects speak about which host, and what is compiled again when one of them changes.
//!
//! Invariant: a change costs what it touches: its own hosts, and the hosts of the VirtualServices that delegate to it.
//! Endpoints are no part of this: routes and policies name hosts.

use super::claims::Claims;
use super::gateway::Causes;
use super::gateway::secret;
use super::index::{Age, Dirty};
use super::links::Links;
use super::overlay::{self, Overlay};
use super::route::{self, Compiled};
use super::traffic_policy::{self, Group};
use super::{Compiler, Found, entries};
use crate::config::diagnostic::Diagnostic;
use crate::config::resource::istio::{destination_rule, virtual_service};
use crate::config::resource::{Object, ObjectKey, Resource, request_policy};
use crate::snapshot::policy::{
    Balancer, ConsistentHash, DestinationPolicy, HashKey, HashTable, PortPolicies, TrafficPolicy,
};
use crate::snapshot::route::{Route, RuleRef, VirtualHost, Visibility};
use crate::snapshot::{L4Host, WorkloadKey, covers_host, wildcards};
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
    /// Secrets, there or not → the DestinationRules that name them.
    credentials: Links<ObjectKey, ObjectKey>,
    /// RequestPolicies by the hosts they are for.
    request_policies: Claims<Arc<str>, ObjectKey>,
    overlays: FxHashMap<ObjectKey, Arc<Overlay>>,
}

impl Traffic {
    /// VirtualServices of a host, oldest first.
    pub(super) fn of_host(&self, host: &Arc<str>) -> impl Iterator<Item = (&ObjectKey, &Arc<Compiled>)> {
        self.virtual_services.claimants(host).filter_map(|key| Some((key, self.compiled.get(key)?)))
    }

    /// RequestPolicies of a host that are about something, oldest first.
    fn overlays_of(&self, host: &Arc<str>, about: fn(&Overlay) -> bool) -> Vec<&Overlay> {
        let all = self.request_policies.claimants(host).filter_map(|key| self.overlays.get(key));
        all.map(|o| &**o).filter(|o| about(o)).collect()
    }

    /// Hosts with RequestPolicies that one of the wildcards covers: what is laid over them is made of those, too.
    fn overlaid_under(&self, hosts: &BTreeSet<Arc<str>>) -> Vec<Arc<str>> {
        if self.overlays.is_empty() || !hosts.iter().any(|host| host.starts_with('*')) {
            return Vec::new();
        }
        let all = self.overlays.values().flat_map(|o| &o.hosts);
        all.filter(|exact| hosts.iter().any(|wild| covers_host(wild, exact))).cloned().collect()
    }

    pub(super) fn compiled(&self, key: &ObjectKey) -> Option<&Arc<Compiled>> {
        self.compiled.get(key)
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
    /// Puts routes, gateways and policies in force. Returns the hosts about which something changed, and whether some
    /// pod's gateway did.
    pub(super) fn apply_traffic(
        &mut self,
        dirty: &Dirty,
        workloads: &[WorkloadKey],
        news: &mut Vec<Diagnostic>,
    ) -> (Vec<Arc<str>>, bool) {
        let mut touched = BTreeSet::new();
        let overlaid = self.apply_request_policies(dirty, news);
        let mut routed = self.apply_virtual_services(dirty, news);
        let mut affected = self.apply_gateway_api(dirty, &routed, news);
        let causes = Causes { pods: workloads, hosts: &routed, attached: &affected.gateways };
        let gateways = self.apply_gateways(dirty, &causes, news);
        routed.append(&mut affected.hosts);
        routed.extend(self.traffic.overlaid_under(&routed));
        routed.extend(overlaid.iter().cloned());
        for host in routed {
            if self.settle_routes(&host) {
                touched.insert(host);
            }
        }
        let mut hosts = overlaid;
        let defaults = self.mesh.policies.clone();
        hosts.extend(dirty.declared.iter().map(|name| name.host(&self.settings.cluster_domain).into()));
        let named = dirty.secrets.iter().flat_map(|secret| self.traffic.credentials.owners(secret));
        let rules: BTreeSet<ObjectKey> = dirty.destination_rules.iter().chain(named).cloned().collect();
        for key in &rules {
            let rule = self.index.get(key).and_then(destination_rule);
            let host = rule.map(|(r, spec)| Group::of(r, spec, &defaults).host);
            let credentials = rule.map(|(r, spec)| traffic_policy::credentials(r, spec));
            self.traffic.credentials.set(key, &credentials.unwrap_or_default());
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
        hosts.extend(self.traffic.overlaid_under(&hosts));
        for host in hosts {
            if self.settle_policies(&host, news) {
                touched.insert(host);
            }
        }
        (touched.into_iter().collect(), gateways)
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
        let defaults = self.mesh.routes.clone();
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
        let overlays = self.traffic.overlays_of(host, Overlay::is_about_routes);
        let new: Vec<_> = self.candidates(host, !overlays.is_empty());
        let new: Vec<_> = new.into_iter().map(|v| keep(&former, Overlay::on_routes(&overlays, v))).collect();
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

    /// The routes of a host before anything is laid over them. `whole`: with what holds where nobody speaks.
    fn candidates(&self, host: &Arc<str>, whole: bool) -> Vec<VirtualHost> {
        let of = |key: &Arc<str>| {
            let all = self.traffic.of_host(key).filter_map(|(_, compiled)| compiled.virtual_host(host));
            all.collect::<Vec<_>>()
        };
        let mut found = of(host);
        found.extend(self.gateway_api.virtual_hosts(host));
        if whole {
            if found.is_empty() {
                found = wildcards(host).map(|key| of(&key.as_ref().into())).find(|f| !f.is_empty()).unwrap_or_default();
            }
            found.push(overlay::default_host(host, &self.mesh.routes));
        }
        found
    }

    /// Compiles the RequestPolicies that changed; returns their hosts, former and new.
    fn apply_request_policies(&mut self, dirty: &Dirty, news: &mut Vec<Diagnostic>) -> BTreeSet<Arc<str>> {
        let mut hosts = BTreeSet::new();
        for key in &dirty.request_policies {
            let mut found = Vec::new();
            let new = self.index.get(key).and_then(request_policy).map(|(r, spec)| {
                let root = &self.mesh.settings.root_namespace;
                (Age::of(r), overlay::compile(r, spec, root, &self.mesh.routes, &mut found))
            });
            hosts.extend(self.traffic.request_policies.clear(key));
            self.traffic.overlays.remove(key);
            if let Some((age, new)) = new {
                self.traffic.request_policies.set(key, &age, &new.hosts);
                hosts.extend(new.hosts.iter().cloned());
                self.traffic.overlays.insert(key.clone(), Arc::new(new));
            }
            self.report(key.clone(), found.into_iter().map(|d| (None, d)).collect(), news);
        }
        hosts
    }

    fn settle_policies(&mut self, host: &Arc<str>, news: &mut Vec<Diagnostic>) -> bool {
        let defaults = &self.mesh.policies;
        let overlays = self.traffic.overlays_of(host, Overlay::is_about_policies);
        let keys: Vec<ObjectKey> = self.traffic.destination_rules.claimants(host).cloned().collect();
        let mut all = keys.clone();
        if !overlays.is_empty() {
            // A wider host's rules would not be looked at behind this one's: they are taken in after its own.
            for wider in wildcards(host) {
                all.extend(self.traffic.destination_rules.claimants(&wider.as_ref().into()).cloned());
            }
        }
        let mut found: Vec<Found> = Vec::new();
        let secrets = |key: &ObjectKey| secret(self.index.get(key)?).cloned();
        let mut new = {
            type Rules<'a> = Vec<(&'a Resource, &'a destination_rule::Spec)>;
            let mut groups: Vec<(Group, Rules<'_>)> = Vec::new();
            for (r, spec) in all.iter().filter_map(|key| self.index.get(key).and_then(destination_rule)) {
                let alike = Group::of(r, spec, defaults);
                match groups.iter_mut().find(|(group, _)| *group == alike) {
                    Some((_, rules)) => rules.push((r, spec)),
                    None => groups.push((alike, vec![(r, spec)])),
                }
            }
            let compile = |(mut group, rules): (Group, Rules<'_>)| {
                group.host = Arc::clone(host);
                let policy = traffic_policy::compile(group, &rules, defaults, &secrets, &mut found)?;
                Some(Overlay::on_policy(&overlays, policy))
            };
            groups.into_iter().filter_map(compile).collect::<Vec<_>>()
        };
        new.extend(self.fallback_policies(host, &overlays));
        let mut by_rule: BTreeMap<ObjectKey, Vec<Found>> = keys.into_iter().map(|key| (key, Vec::new())).collect();
        for (object, diagnostic) in found {
            // A wider host's rules are judged with their own host.
            if let Some((key, place)) = object.filter(|(key, _)| by_rule.contains_key(key)) {
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

impl Compiler {
    /// What holds for a Service where no DestinationRule speaks: `sessionAffinity`, and a RequestPolicy's ages.
    fn fallback_policies(&self, host: &Arc<str>, overlays: &[&Overlay]) -> Option<DestinationPolicy> {
        let name = entries::kubernetes_service(host, &self.settings.cluster_domain);
        let service = name.as_ref().and_then(|name| self.service(name));
        let sticky = service.filter(|(_, spec)| &*spec.session_affinity == "ClientIP");
        let namespace = name.as_ref().map_or(&self.mesh.settings.root_namespace, |name| &name.namespace);
        let mut base = TrafficPolicy::clone(&self.mesh.settings.policy);
        let mut rules = Vec::new();
        if let Some((r, _)) = sticky {
            let table = HashTable::Maglev { table_size: traffic_policy::MAGLEV_TABLE };
            base.balancer = Balancer::ConsistentHash(Arc::new(ConsistentHash { key: HashKey::SourceIp, table }));
            rules.push(RuleRef { object: Some(r.key.clone()), field: "spec.sessionAffinity".into() });
        }
        rules.extend(overlays.iter().map(|o| o.rule.clone()));
        let policy = DestinationPolicy {
            host: Arc::clone(host),
            namespace: Arc::clone(namespace),
            export: Visibility::Public,
            selector: BTreeMap::new(),
            rules,
            policies: PortPolicies { base: Arc::new(base), ports: Vec::new() },
            subsets: Vec::new(),
        };
        (!policy.rules.is_empty()).then(|| Overlay::on_policy(overlays, policy))
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

pub(super) fn request_policy(r: &Arc<Resource>) -> Option<(&Resource, &request_policy::Spec)> {
    let Object::RequestPolicy(object) = &r.object else { return None };
    Some((r, &object.spec))
}

pub(super) fn destination_rule(r: &Arc<Resource>) -> Option<(&Resource, &destination_rule::Spec)> {
    let Object::DestinationRule(object) = &r.object else { return None };
    Some((r, &object.spec))
}
