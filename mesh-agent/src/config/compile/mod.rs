//! Resources → (Snapshot, Diagnostics). Pure: no IO, no clock.
//!
//! Place in the path: `source` feeds [`Compiler::apply`], `publish` takes the [`Update`]s. Invariants: the snapshot
//! depends on the set of objects in force only, never on their order of arrival or batching; a change costs what it
//! touches, whatever the number of services; what did not change keeps its `Arc`.

mod analyze;
mod claims;
mod endpoints;
mod entries;
mod gateway;
mod gateway_api;
mod index;
mod links;
mod mesh;
mod names;
mod overlay;
mod places;
mod protocol;
mod route;
mod scopes;
mod service;
mod service_entry;
mod sidecar;
mod status;
mod telemetry;
mod traffic;
mod traffic_policy;
mod workload;

pub use gateway::GATEWAY_NAME_LABEL;
pub use service::LOAD_BALANCER_ANNOTATION;
pub use status::{CONTROLLER, ObjectStatus};
pub use workload::{MESH_LABEL, NETNS_ANNOTATION};

use super::diagnostic::{Code, Diagnostic};
use super::resource::{Kind, Object, ObjectKey, Resource};
use super::{Changes, resource};
use crate::addr::EndpointAddr;
use crate::snapshot::{Locality, PortKey, Service, ServiceName, Snapshot, Workload, WorkloadKey};
use claims::Claims;
use endpoints::{Origin, View};
use gateway::Gateways;
use gateway_api::GatewayApi;
use index::{Age, Dirty, Index, PodName, pod_key, service_key};
use mesh::Mesh;
use rustc_hash::{FxHashMap, FxHashSet};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use traffic::Traffic;

/// What compilation knows beside the objects.
#[derive(Clone, Debug)]
pub struct Settings {
    /// This agent's node (`spec.nodeName` of its pods); empty where there is only one node.
    pub node: Arc<str>,
    /// `cluster.local`
    pub cluster_domain: Arc<str>,
}

/// A finding and the object it is about, where that is not the one being compiled.
type Found = (Option<(ObjectKey, resource::Provenance)>, Diagnostic);

/// The outcome of one batch of changes.
#[derive(Debug)]
pub struct Update {
    pub snapshot: Arc<Snapshot>,
    /// Services that are new, different or gone.
    pub touched_services: Vec<ServiceName>,
    /// Workloads that are new, different or gone.
    pub touched_workloads: Vec<WorkloadKey>,
    /// Hosts (FQDN or wildcard) whose routes or policies are new, different or gone.
    pub touched_hosts: Vec<Arc<str>>,
    /// Whether Sidecars or what holds for the whole mesh are different.
    pub touched_scopes: bool,
    /// Something else is counted, logged or traced.
    pub touched_telemetry: bool,
    /// Some gateway pod does something else.
    pub touched_gateways: bool,
    /// Those that this batch brought up; [`Compiler::diagnostics`] has all.
    pub diagnostics: Vec<Diagnostic>,
}

impl Update {
    /// Whether the snapshot differs from the one before.
    pub fn is_change(&self) -> bool {
        self.touched_scopes
            || self.touched_telemetry
            || self.touched_gateways
            || !self.touched_services.is_empty()
            || !self.touched_workloads.is_empty()
            || !self.touched_hosts.is_empty()
    }
}

/// The objects in force and everything compiled from them.
#[derive(Debug)]
pub struct Compiler {
    settings: Settings,
    index: Index,
    snapshot: Snapshot,
    workloads: FxHashMap<PodName, WorkloadKey>,
    pod_ips: Claims<IpAddr, PodName>,
    vips: Claims<IpAddr, ServiceName>,
    /// Hosts of ServiceEntries and the entries that define them.
    entries: Claims<ServiceName, ObjectKey>,
    /// Addresses that hosts without one may get.
    auto_vips: Claims<IpAddr, ServiceName>,
    /// Answers of DNS.
    resolved: FxHashMap<Arc<str>, Vec<IpAddr>>,
    mesh: Mesh,
    /// Pod addresses and ports that headless Services speak for.
    headless: Claims<EndpointAddr, PortKey>,
    asked: Asked,
    traffic: Traffic,
    gateway_api: GatewayApi,
    gateways: Gateways,
    /// By the object compiled when they were found.
    diagnostics: BTreeMap<ObjectKey, Vec<Diagnostic>>,
}

/// Compiles a whole set of objects.
pub fn compile(
    settings: Settings,
    resources: impl IntoIterator<Item = Arc<Resource>>,
) -> (Arc<Snapshot>, Vec<Diagnostic>) {
    let mut compiler = Compiler::new(settings);
    let changes = Changes { upserts: resources.into_iter().collect(), ..Changes::default() };
    let update = compiler.apply(changes);
    (update.snapshot, compiler.diagnostics().cloned().collect())
}

impl Compiler {
    pub fn new(settings: Settings) -> Self {
        let mesh = mesh::compile(None, &settings.cluster_domain, &mut Vec::new());
        let mut snapshot = Snapshot::default();
        snapshot.set_mesh(Arc::clone(&mesh.settings));
        Self {
            settings,
            index: Index::default(),
            snapshot,
            entries: Claims::default(),
            auto_vips: Claims::default(),
            resolved: FxHashMap::default(),
            mesh,
            workloads: FxHashMap::default(),
            pod_ips: Claims::default(),
            vips: Claims::default(),
            headless: Claims::default(),
            asked: Asked::default(),
            traffic: Traffic::default(),
            gateway_api: GatewayApi::default(),
            gateways: Gateways::default(),
            diagnostics: BTreeMap::new(),
        }
    }

    /// Puts a batch in force. The generation grows by one if the snapshot differs from the one before.
    pub fn apply(&mut self, changes: Changes) -> Update {
        let mut dirty = Dirty::default();
        for key in &changes.deletes {
            self.index.put(key, None, &mut dirty);
        }
        for new in changes.upserts {
            self.index.put(&new.key, Some(&new), &mut dirty);
        }
        for (name, addresses) in changes.resolved {
            if self.resolved.get(&name) != Some(&addresses) {
                self.resolved.insert(Arc::clone(&name), addresses);
                dirty.names.insert(name);
            }
        }
        self.relocate(&changes.moved);
        let mut news = Vec::new();
        let touched_scopes = self.apply_scopes(&mut dirty, &mut news);
        let touched_telemetry = self.apply_telemetry(&dirty, &mut news);
        let touched_workloads = self.apply_workloads(&mut dirty, &mut news);
        let (touched_hosts, touched_gateways) = self.apply_traffic(&dirty, &touched_workloads, &mut news);
        let touched_services = self.apply_services(dirty, &mut news);
        let mut update = Update {
            snapshot: Arc::default(),
            touched_services,
            touched_workloads,
            touched_hosts,
            touched_scopes,
            touched_telemetry,
            touched_gateways,
            diagnostics: news,
        };
        if update.is_change() {
            self.snapshot.generation += 1;
        }
        update.snapshot = Arc::new(self.snapshot.clone());
        update
    }

    /// Secrets that Gateways of this node's pods name, whether they are there or not.
    pub fn secrets(&self) -> impl Iterator<Item = &ObjectKey> {
        self.gateways.secrets()
    }

    /// Of the object of this name that is in force; `None` where there is none.
    pub fn uid(&self, key: &ObjectKey) -> Option<Arc<str>> {
        Some(Arc::clone(&self.index.get(key)?.meta.uid))
    }

    /// Every finding about the objects in force, in order of object.
    pub fn diagnostics(&self) -> impl Iterator<Item = &Diagnostic> {
        self.diagnostics.values().flatten()
    }

    /// Findings about an object that moved point to its new place.
    fn relocate(&mut self, moved: &[(ObjectKey, resource::Provenance)]) {
        if moved.is_empty() {
            return;
        }
        let moved: FxHashMap<&ObjectKey, &resource::Provenance> =
            moved.iter().map(|(key, place)| (key, place)).collect();
        for (key, place) in &moved {
            if let Some(r) = self.index.get_mut(key) {
                Arc::make_mut(r).place = (*place).clone();
            }
        }
        for diagnostic in self.diagnostics.values_mut().flatten() {
            if let Some(place) = diagnostic.object.as_ref().and_then(|key| moved.get(key)) {
                *diagnostic = diagnostic.clone().at(place);
            }
        }
    }

    fn apply_workloads(&mut self, dirty: &mut Dirty, news: &mut Vec<Diagnostic>) -> Vec<WorkloadKey> {
        let mut moved_ips = Vec::new();
        let mut contested = BTreeSet::new();
        for name in &dirty.pods {
            let pod = self.pod(name);
            let addrs = pod.as_ref().filter(|(_, pod)| workload::owns_addresses(pod));
            let addrs = addrs.map(|(_, pod)| workload::ips(pod, &mut Vec::new())).unwrap_or_default();
            let changed = match &pod {
                Some((r, _)) => self.pod_ips.set(name, &Age::of(r), &addrs),
                None => self.pod_ips.clear(name),
            };
            moved_ips.extend(changed);
        }
        for ip in &moved_ips {
            contested.extend(self.pod_ips.claimants(ip).cloned());
            self.asked.about_ip(*ip, &mut dirty.services);
        }
        dirty.pods.append(&mut contested);

        let mut gone = Vec::new();
        let mut made = Vec::new();
        for name in &dirty.pods {
            let mut found = Vec::new();
            let new = self.compile_pod(name, &mut found);
            let old = self.workloads.get(name).and_then(|key| self.snapshot.workload(key)).cloned();
            self.report(pod_key(name), found.into_iter().map(|d| (None, d)).collect(), news);
            if new.as_ref() == old.as_deref() {
                continue;
            }
            self.asked.about_pod(name, &mut dirty.services);
            for ip in old.iter().flat_map(|w| &w.ips).chain(new.iter().flat_map(|w| &w.ips)) {
                self.asked.about_ip(*ip, &mut dirty.services);
            }
            gone.extend(old.map(|w| w.key.clone()));
            match new {
                Some(new) => {
                    self.workloads.insert(name.clone(), new.key.clone());
                    made.push(Arc::new(new));
                }
                None => {
                    self.workloads.remove(name);
                }
            }
        }
        // All removals first: an address may pass from one workload to another in one batch.
        for key in &gone {
            self.snapshot.remove_workload(key);
        }
        let mut touched: BTreeSet<WorkloadKey> = gone.into_iter().collect();
        for workload in made {
            touched.insert(workload.key.clone());
            self.snapshot.insert_workload(workload);
        }
        touched.into_iter().collect()
    }

    fn compile_pod(&self, name: &PodName, found: &mut Vec<Diagnostic>) -> Option<Workload> {
        let (r, pod) = self.pod(name)?;
        let mut ips = workload::ips(pod, found);
        if workload::owns_addresses(pod) {
            ips.retain(|ip| {
                let winner = self.pod_ips.winner(ip);
                if let Some(winner) = winner.filter(|winner| *winner != name) {
                    found.push(
                        Diagnostic::warning(
                            Code::PodAddressTaken,
                            format!("{ip} is {}'s address; it is left out here", place(self, &pod_key(winner))),
                        )
                        .field("status.podIPs")
                        .fix("give each pod an address of its own"),
                    );
                }
                winner == Some(name)
            });
        }
        let labels = |kind, name: &str| self.index.get(&ObjectKey::new(kind, "", name)).map(|r| &r.meta.labels);
        let around = workload::Surroundings {
            node: &self.settings.node,
            namespace_labels: labels(Kind::Namespace, &name.0),
            node_labels: labels(Kind::Node, &pod.spec.node_name),
        };
        Some(workload::compile(r, pod, ips, &around, found))
    }

    fn apply_services(&mut self, mut dirty: Dirty, news: &mut Vec<Diagnostic>) -> Vec<ServiceName> {
        for node in &dirty.nodes {
            self.asked.about_node(node, &mut dirty.services);
        }
        self.apply_entries(&mut dirty, news);
        let mut contested = BTreeSet::new();
        for name in &dirty.services {
            let (written, auto) = match (self.service(name), self.entry_addresses(name)) {
                (Some((_, spec)), _) if service::is_external(spec) => (None, None),
                (Some((r, spec)), _) => (Some((Age::of(r), service::vips(spec, &mut Vec::new()))), None),
                (None, Some((age, written, auto))) => (Some((age.clone(), written)), Some((age, auto))),
                (None, None) => (None, None),
            };
            let changed = match written {
                Some((age, vips)) => self.vips.set(name, &age, &vips),
                None => self.vips.clear(name),
            };
            let changed_auto = match auto {
                Some((age, vips)) => self.auto_vips.set(name, &age, &vips),
                None => self.auto_vips.clear(name),
            };
            for vip in changed.iter().chain(&changed_auto) {
                contested.extend(self.vips.claimants(vip).cloned());
                contested.extend(self.auto_vips.claimants(vip).cloned());
            }
        }
        dirty.services.append(&mut contested);

        let mut gone = Vec::new();
        let mut made = Vec::new();
        let mut respoken = Vec::new();
        for name in &dirty.services {
            let old = self.snapshot.service(name).cloned();
            let new = self.compile_service(name, old.as_deref(), news);
            let spoken_for = self.claim_headless(name, old.as_deref(), new.as_ref());
            respoken.extend(spoken_for.then(|| name.clone()));
            if new.as_ref() == old.as_deref() {
                continue;
            }
            if old.is_some() {
                gone.push(name.clone());
            }
            made.extend(new.map(Arc::new));
        }
        for name in &gone {
            self.snapshot.remove_service(name);
        }
        let mut touched: BTreeSet<ServiceName> = gone.into_iter().chain(respoken).collect();
        for service in made {
            touched.insert(service.name.clone());
            self.snapshot.insert_service(service);
        }
        touched.into_iter().collect()
    }

    fn compile_service(
        &mut self,
        name: &ServiceName,
        former: Option<&Service>,
        news: &mut Vec<Diagnostic>,
    ) -> Option<Service> {
        let mut asked = Questions::default();
        let mut found: Vec<endpoints::Found<'_>> = Vec::new();
        let entry = self.service(name).is_none();
        let compiled = self.service(name).map(|(r, spec)| {
            let mut own = Vec::new();
            let mut vips = service::vips(spec, &mut own);
            vips.retain(|vip| {
                let winner = self.vips.winner(vip);
                if let Some(winner) = winner.filter(|winner| *winner != name && !service::is_external(spec)) {
                    let message = format!(
                        "{vip} is already the address of {}; it is left out here",
                        place(self, &service_key(winner))
                    );
                    let diagnostic = Diagnostic::error(Code::AddressTaken, message).field("spec.clusterIP");
                    own.push(diagnostic.fix("give each Service an address of its own"));
                }
                winner == Some(name)
            });
            found.extend(own.into_iter().map(|d| (None, d)));
            let origin = self.origin(name, spec, &mut asked);
            let asked = std::cell::RefCell::new(&mut asked);
            let mut view = View {
                workload_of_pod: &mut |pod: &PodName| {
                    asked.borrow_mut().pods.insert(pod.clone());
                    self.workload_of(pod)
                },
                workload_at: &mut |ip: IpAddr| {
                    asked.borrow_mut().ips.insert(ip.to_canonical());
                    self.snapshot.workload_by_ip(ip).cloned()
                },
                locality_of_node: &mut |node: &Arc<str>| {
                    asked.borrow_mut().nodes.insert(Arc::clone(node));
                    let node = self.index.get(&ObjectKey::new(Kind::Node, "", node));
                    node.map_or_else(Locality::default, |r| workload::locality(&r.meta.labels))
                },
            };
            let cluster_domain = &*self.settings.cluster_domain;
            let input = service::Input {
                resource: r,
                spec,
                name: name.clone(),
                cluster_domain,
                vips,
                origin,
                former,
                export: &self.mesh.service_export,
            };
            service::compile(input, &mut view, &mut found)
        });
        let compiled = compiled.or_else(|| self.compile_entry(name, former, &mut asked, &mut found));
        let found = found.into_iter().map(|(r, d)| (r.map(|r| (r.key.clone(), r.place.clone())), d)).collect();
        self.asked.set(name, asked);
        // A name may have been an entry's host before, or become one.
        let (own, other) = (service_key(name), entries::host_key(name));
        let (own, other) = if entry { (other, own) } else { (own, other) };
        self.report(other, Vec::new(), news);
        self.report(own, found, news);
        compiled
    }

    fn origin<'a>(&'a self, name: &ServiceName, spec: &'a resource::ServiceSpec, asked: &mut Questions) -> Origin<'a> {
        if let Some(slices) = self.index.slices(name) {
            return Origin::Slices(slices.values().map(|r| &**r).collect());
        }
        let key = ObjectKey { kind: Kind::Endpoints, ..service_key(name) };
        if let Some(r) = self.index.get(&key) {
            return Origin::Endpoints(r);
        }
        let mut pods = Vec::new();
        for (pod_name, r) in self.index.selected(&name.namespace, &spec.selector) {
            if let Object::Pod(pod) = &r.object {
                asked.pods.insert(pod_name.clone());
                pods.push((&**pod, r.meta.deletion_timestamp.is_some(), self.workload_of(pod_name)));
            }
        }
        Origin::Pods(pods)
    }

    /// A headless Service's pods are dialled by their own addresses: those are spoken for by its ports.
    /// Returns whether any address is spoken for by another port than before.
    fn claim_headless(&mut self, name: &ServiceName, old: Option<&Service>, new: Option<&Service>) -> bool {
        let headless = |s: &&Service| s.headless;
        let (old, new) = (old.filter(headless), new.filter(headless));
        let former = old.into_iter().flat_map(|s| &s.ports).map(|p| &p.key);
        let ports = new.into_iter().flat_map(|s| &s.ports);
        let mut changed = Vec::new();
        for key in former.filter(|key| !ports.clone().any(|p| p.key == **key)) {
            changed.extend(self.headless.clear(key));
        }
        if let Some(age) = self.service(name).map(|(r, _)| Age::of(r)) {
            for port in ports {
                let addrs: Vec<EndpointAddr> = port.endpoints.endpoints.iter().map(|e| e.addr).collect();
                changed.extend(self.headless.set(&port.key, &age, &addrs));
            }
        }
        let mut differs = false;
        for addr in changed {
            differs |= self.snapshot.set_headless(addr, self.headless.winner(&addr));
        }
        differs
    }

    fn pod(&self, name: &PodName) -> Option<(&Resource, &resource::Pod)> {
        let r = self.index.get(&pod_key(name))?;
        let Object::Pod(pod) = &r.object else { return None };
        Some((r, pod))
    }

    fn service(&self, name: &ServiceName) -> Option<(&Resource, &resource::ServiceSpec)> {
        let r = self.index.get(&service_key(name))?;
        let Object::Service(service) = &r.object else { return None };
        Some((r, &service.spec))
    }

    fn workload_of(&self, pod: &PodName) -> Option<Arc<Workload>> {
        self.snapshot.workload(self.workloads.get(pod)?).cloned()
    }

    /// Files the findings of one object's compilation; those it did not have before are news.
    fn report(&mut self, owner: ObjectKey, found: Vec<Found>, news: &mut Vec<Diagnostic>) {
        let own = self.index.get(&owner).map(|r| r.place.clone());
        let complete = |(other, diagnostic): Found| match (other, &own) {
            (Some((key, place)), _) => diagnostic.object(&key).at(&place),
            (None, Some(place)) => diagnostic.object(&owner).at(place),
            (None, None) => diagnostic.object(&owner),
        };
        let mut new: Vec<Diagnostic> = Vec::new();
        for diagnostic in found.into_iter().map(complete) {
            // A slice's bad address is met once for each port of its Service.
            if !new.contains(&diagnostic) {
                new.push(diagnostic);
            }
        }
        let old = self.diagnostics.get(&owner);
        news.extend(new.iter().filter(|d| !old.is_some_and(|old| old.contains(d))).cloned());
        if new.is_empty() {
            self.diagnostics.remove(&owner);
        } else {
            self.diagnostics.insert(owner, new);
        }
    }
}

/// What services' compilations asked for beside their own objects, both ways round.
#[derive(Debug, Default)]
struct Asked {
    by: FxHashMap<ServiceName, Questions>,
    pods: FxHashMap<PodName, FxHashSet<ServiceName>>,
    ips: FxHashMap<IpAddr, FxHashSet<ServiceName>>,
    nodes: FxHashMap<Arc<str>, FxHashSet<ServiceName>>,
    services: FxHashMap<ServiceName, FxHashSet<ServiceName>>,
    /// Names that DNS resolves.
    names: FxHashMap<Arc<str>, FxHashSet<ServiceName>>,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Questions {
    pods: BTreeSet<PodName>,
    ips: BTreeSet<IpAddr>,
    nodes: BTreeSet<Arc<str>>,
    services: BTreeSet<ServiceName>,
    names: BTreeSet<Arc<str>>,
}

impl Asked {
    fn set(&mut self, service: &ServiceName, new: Questions) {
        let old = self.by.remove(service).unwrap_or_default();
        swap(&mut self.pods, service, &old.pods, &new.pods);
        swap(&mut self.ips, service, &old.ips, &new.ips);
        swap(&mut self.nodes, service, &old.nodes, &new.nodes);
        swap(&mut self.services, service, &old.services, &new.services);
        swap(&mut self.names, service, &old.names, &new.names);
        if new != Questions::default() {
            self.by.insert(service.clone(), new);
        }
    }

    fn about_pod(&self, pod: &PodName, services: &mut BTreeSet<ServiceName>) {
        services.extend(self.pods.get(pod).into_iter().flatten().cloned());
    }

    fn about_ip(&self, ip: IpAddr, services: &mut BTreeSet<ServiceName>) {
        services.extend(self.ips.get(&ip).into_iter().flatten().cloned());
    }

    fn about_service(&self, name: &ServiceName, services: &mut BTreeSet<ServiceName>) {
        services.extend(self.services.get(name).into_iter().flatten().cloned());
    }

    fn about_name(&self, name: &Arc<str>, services: &mut BTreeSet<ServiceName>) {
        services.extend(self.names.get(name).into_iter().flatten().cloned());
    }

    fn about_node(&self, node: &Arc<str>, services: &mut BTreeSet<ServiceName>) {
        services.extend(self.nodes.get(node).into_iter().flatten().cloned());
    }
}

fn swap<K: Ord + std::hash::Hash + Clone>(
    map: &mut FxHashMap<K, FxHashSet<ServiceName>>,
    service: &ServiceName,
    old: &BTreeSet<K>,
    new: &BTreeSet<K>,
) {
    for key in old.difference(new) {
        if let Some(services) = map.get_mut(key) {
            services.remove(service);
            if services.is_empty() {
                map.remove(key);
            }
        }
    }
    for key in new.difference(old) {
        map.entry(key.clone()).or_default().insert(service.clone());
    }
}

/// `Service shop/cart (demo.yaml:12)`
fn place(compiler: &Compiler, key: &ObjectKey) -> String {
    compiler.index.get(key).map_or_else(|| key.to_string(), |r| format!("{key} ({})", r.place))
}

#[cfg(test)]
mod tests;
