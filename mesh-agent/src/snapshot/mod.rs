//! Immutable compiled configuration, the only thing the data path reads.
//!
//! Place in the path: `config::compile` makes it, `config::publish` swaps it in, each request (HTTP) or connection
//! (opaque) reads it once. Invariant: nothing in here changes after publishing and nothing in here is run-time state
//! (latency, ejections, pools live in `balance` and `connect`, keyed by endpoint identity).
//!
//! The maps are persistent (structure-sharing): a change costs what it touches, whatever the number of services.

pub mod access_log;
pub mod cel;
mod egress;
pub mod gateway;
mod l4;
mod lookup;
mod mesh;
mod pattern;
pub mod policy;
pub mod route;
mod ruled;
mod service;
mod table;
pub mod telemetry;
pub mod tracing;
mod workload;

pub use egress::{EgressListener, EgressScope, OutboundPolicy, ScopedHost, ScopedNamespace, covers_host};
pub use l4::{L4Host, L4Routes, TcpRoute, TlsRoute};
pub use lookup::{Client, as_ip, host_names, is_subset, wildcards, without_port};
pub use mesh::MeshSettings;
pub use ruled::RULED_PORT;
pub use service::{
    ClusterKey, Endpoint, EndpointHealth, EndpointSet, LbPolicy, PortKey, Protocol, Resolution, Service, ServiceName,
    ServicePort, TrafficDistribution,
};
pub use workload::{Enrolment, Locality, NetnsPlace, OutsideReason, Owner, Workload, WorkloadKey};

use crate::addr::{EndpointAddr, OrigDst, ServiceAddr};
use lookup::ByHost;
use policy::DestinationPolicy;
use route::VirtualHost;
use std::net::IpAddr;
use std::sync::Arc;

/// Port first: all of one number are neighbours.
type PortKeyByPort = (u16, ServiceName);
type Map<K, V> = imbl::GenericHashMap<K, V, rustc_hash::FxBuildHasher, imbl::shared_ptr::DefaultSharedPtr>;

/// One consistent view of the mesh as this node sees it.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Grows by one with each published change.
    pub generation: u64,
    mesh: Arc<MeshSettings>,
    services: Map<ServiceName, Arc<Service>>,
    by_addr: Map<ServiceAddr, PortKey>,
    workloads: Map<WorkloadKey, Arc<Workload>>,
    by_ip: Map<IpAddr, WorkloadKey>,
    /// Addresses of pods behind headless Services, for protocol and metrics of connections straight to them.
    headless: Map<EndpointAddr, PortKey>,
    /// How many Service ports with this number speak HTTP, declared or not.
    http_ports: Map<u16, usize>,
    /// As above, of TLS ports of Services that are known by their host only.
    tls_ports: Map<u16, usize>,
    /// Ports of Services that are known by nothing but them: TCP, and no address.
    bare_ports: imbl::OrdSet<PortKeyByPort>,
    /// Who has a host: usually one Service.
    hosts: ByHost<ServiceName>,
    /// Routes of clients in the mesh.
    virtual_hosts: ByHost<VirtualHost>,
    /// Routes of opaque connections of clients in the mesh.
    l4_hosts: ByHost<L4Host>,
    ruled: ruled::Ruled,
    policies: ByHost<DestinationPolicy>,
    /// Of gateway pods.
    gateways: Map<WorkloadKey, Arc<gateway::Gateway>>,
    /// By namespace, in order of age.
    sidecars: Map<Arc<str>, Arc<[Arc<EgressScope>]>>,
    /// As above.
    telemetries: Map<Arc<str>, Arc<[Arc<telemetry::Telemetry>]>>,
}

/// What an original destination is, as the configuration knows it.
#[derive(Clone, Debug)]
pub enum Destination {
    /// A Service's virtual address and port.
    Service(Arc<Service>, Arc<ServicePort>),
    /// A pod's own address: a headless Service's record, or a plain dial to a pod IP.
    Workload(Arc<Workload>),
    /// Nothing we know: goes where the app asked.
    Unknown,
}

impl Snapshot {
    /// What the app's destination means. Cost does not grow with the number of services.
    pub fn destination(&self, dst: OrigDst) -> Destination {
        if let Some(key) = self.by_addr.get(&ServiceAddr::new(dst.addr()))
            && let Some((service, port)) = self.port(key)
        {
            return Destination::Service(service, port);
        }
        match self.workload_by_ip(dst.ip()) {
            Some(workload) => Destination::Workload(Arc::clone(workload)),
            None => Destination::Unknown,
        }
    }

    /// What holds for the whole mesh.
    pub fn mesh(&self) -> &Arc<MeshSettings> {
        &self.mesh
    }

    pub fn set_mesh(&mut self, mesh: Arc<MeshSettings>) {
        self.mesh = mesh;
    }

    pub fn service(&self, name: &ServiceName) -> Option<&Arc<Service>> {
        self.services.get(name)
    }

    /// The service and port behind a key, as of this snapshot.
    pub fn port(&self, key: &PortKey) -> Option<(Arc<Service>, Arc<ServicePort>)> {
        let service = self.services.get(&key.service)?;
        let port = service.ports.iter().find(|p| p.port == key.port)?;
        Some((Arc::clone(service), Arc::clone(port)))
    }

    /// The headless Service's port that a pod's own address and port belong to (the oldest Service's where several
    /// list it): what the pod speaks there, and under which name to count it.
    pub fn headless_port(&self, dst: OrigDst) -> Option<(Arc<Service>, Arc<ServicePort>)> {
        self.port(self.headless.get(&EndpointAddr::new(dst.addr()))?)
    }

    /// Every pod address and port that a headless Service speaks for.
    pub fn headless(&self) -> impl Iterator<Item = (EndpointAddr, &PortKey)> {
        self.headless.iter().map(|(addr, key)| (*addr, key))
    }

    /// Equal in everything but the generation.
    pub fn same_content(&self, other: &Self) -> bool {
        self.mesh == other.mesh
            && self.services == other.services
            && self.by_addr == other.by_addr
            && self.workloads == other.workloads
            && self.by_ip == other.by_ip
            && self.headless == other.headless
            && self.hosts == other.hosts
            && self.virtual_hosts == other.virtual_hosts
            && self.ruled == other.ruled
            && self.l4_hosts == other.l4_hosts
            && self.policies == other.policies
            && self.sidecars == other.sidecars
            && self.telemetries == other.telemetries
            && self.gateways == other.gateways
    }

    pub fn workload(&self, key: &WorkloadKey) -> Option<&Arc<Workload>> {
        self.workloads.get(key)
    }

    pub fn workload_by_ip(&self, ip: IpAddr) -> Option<&Arc<Workload>> {
        self.workloads.get(self.by_ip.get(&ip.to_canonical())?)
    }

    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.values()
    }

    pub fn workloads(&self) -> impl Iterator<Item = &Arc<Workload>> {
        self.workloads.values()
    }

    /// Puts a compiled service in place of its former self (`former`'s addresses are released first).
    ///
    /// Only `config::compile` and tests call the mutators; a published snapshot is behind an `Arc`.
    pub fn insert_service(&mut self, service: Arc<Service>) {
        self.remove_service(&service.name.clone());
        for (vip, port) in service.addrs() {
            self.by_addr.insert(ServiceAddr::new((vip, port).into()), PortKey::new(service.name.clone(), port));
        }
        self.count_ports(&service, true);
        self.rename(&service, |names| names.push(Arc::new(service.name.clone())));
        self.recount_ruled(&service.host, true);
        self.services.insert(service.name.clone(), service);
    }

    pub fn remove_service(&mut self, name: &ServiceName) -> Option<Arc<Service>> {
        let former = self.services.remove(name)?;
        self.count_ports(&former, false);
        self.rename(&former, |_| {});
        self.recount_ruled(&former.host, false);
        for (vip, port) in former.addrs() {
            let addr = ServiceAddr::new((vip, port).into());
            if self.by_addr.get(&addr).is_some_and(|key| key.service == *name) {
                self.by_addr.remove(&addr);
            }
        }
        Some(former)
    }

    /// Whether any Service speaks HTTP on a port of this number, or hosts without a Service are served there.
    pub fn speaks_http(&self, port: u16) -> bool {
        self.http_ports.contains_key(&port) || (port == RULED_PORT && self.serves_ruled_hosts())
    }

    /// Whether TLS on a port of this number can be for a Service that only the ClientHello's name tells.
    pub fn speaks_named_tls(&self, port: u16) -> bool {
        self.tls_ports.contains_key(&port)
    }

    /// Services that have this TCP port and no address, in order of name: connections to addresses that nobody
    /// declared mean the first that the client may see (SEMANTICS §8).
    pub fn bare_port(&self, port: u16) -> impl Iterator<Item = (&Arc<Service>, &Arc<ServicePort>)> {
        let from = (port, ServiceName { namespace: "".into(), name: "".into() });
        let names = self.bare_ports.range(from..).take_while(move |(number, _)| *number == port);
        names.filter_map(move |(_, name)| {
            let service = self.services.get(name)?;
            Some((service, service.ports.iter().find(|p| p.port == port)?))
        })
    }

    fn count_ports(&mut self, service: &Service, up: bool) {
        for port in &service.ports {
            let numbers = match port.protocol {
                Protocol::Tls if service.by_host => &mut self.tls_ports,
                Protocol::Tcp if service.by_host => {
                    let key = (port.port, service.name.clone());
                    if up {
                        self.bare_ports.insert(key)
                    } else {
                        self.bare_ports.remove(&key)
                    };
                    continue;
                }
                Protocol::Tls | Protocol::Tcp => continue,
                Protocol::Http | Protocol::Http2 | Protocol::Grpc | Protocol::GrpcWeb | Protocol::Detect => {
                    &mut self.http_ports
                }
            };
            let count = numbers.get(&port.port).copied().unwrap_or(0);
            match if up { count + 1 } else { count.saturating_sub(1) } {
                0 => numbers.remove(&port.port),
                count => numbers.insert(port.port, count),
            };
        }
    }

    /// Who has a Service's host beside it, changed by `change`; kept in order of name.
    fn rename(&mut self, service: &Service, change: impl FnOnce(&mut Vec<Arc<ServiceName>>)) {
        let mut names: Vec<_> = self.hosts.exact(&service.host).to_vec();
        names.retain(|name| **name != service.name);
        change(&mut names);
        names.sort();
        self.hosts.set(&service.host, names);
    }

    pub fn virtual_hosts(&self) -> impl Iterator<Item = &Arc<VirtualHost>> {
        self.virtual_hosts.all()
    }

    /// Those of exactly this host.
    pub fn virtual_hosts_of(&self, host: &str) -> &[Arc<VirtualHost>] {
        self.virtual_hosts.exact(host)
    }

    pub fn destination_policies_of(&self, host: &str) -> &[Arc<DestinationPolicy>] {
        self.policies.exact(host)
    }

    /// All of a host's candidates: Istio's, then the Gateway API's, then ours; each in order of age.
    pub fn set_virtual_hosts(&mut self, host: &Arc<str>, candidates: Vec<Arc<VirtualHost>>) {
        self.virtual_hosts.set(host, candidates);
        self.settle_ruled(host);
    }

    pub fn destination_policies(&self) -> impl Iterator<Item = &Arc<DestinationPolicy>> {
        self.policies.all()
    }

    /// All of a host's DestinationRules, merged by namespace and selector, in order of age.
    pub fn set_destination_policies(&mut self, host: &Arc<str>, policies: Vec<Arc<DestinationPolicy>>) {
        self.policies.set(host, policies);
    }

    pub fn sidecars_of(&self, namespace: &str) -> &[Arc<EgressScope>] {
        self.sidecars.get(namespace).map_or(&[], |scopes| &scopes[..])
    }

    /// All of a namespace's Sidecars in order of age.
    pub fn set_sidecars(&mut self, namespace: &Arc<str>, scopes: Vec<Arc<EgressScope>>) {
        if scopes.is_empty() {
            self.sidecars.remove(namespace);
        } else {
            self.sidecars.insert(Arc::clone(namespace), scopes.into());
        }
    }

    pub fn telemetries(&self) -> impl Iterator<Item = &Arc<telemetry::Telemetry>> {
        self.telemetries.values().flat_map(|all| all.iter())
    }

    /// Whether there is any Telemetry object.
    pub fn has_telemetries(&self) -> bool {
        !self.telemetries.is_empty()
    }

    pub fn telemetries_of(&self, namespace: &str) -> &[Arc<telemetry::Telemetry>] {
        self.telemetries.get(namespace).map_or(&[], |all| &all[..])
    }

    /// All of a namespace's Telemetry objects in order of age.
    pub fn set_telemetries(&mut self, namespace: &Arc<str>, all: Vec<Arc<telemetry::Telemetry>>) {
        if all.is_empty() {
            self.telemetries.remove(namespace);
        } else {
            self.telemetries.insert(Arc::clone(namespace), all.into());
        }
    }

    pub fn insert_workload(&mut self, workload: Arc<Workload>) {
        self.remove_workload(&workload.key.clone());
        // A finished pod, and one on the host's network, do not own their addresses.
        let owns = |e: &Enrolment| {
            !matches!(e, Enrolment::Outside { reason: OutsideReason::HostNetwork | OutsideReason::Finished })
        };
        for ip in workload.ips.iter().filter(|_| owns(&workload.enrolment)) {
            self.by_ip.insert(ip.to_canonical(), workload.key.clone());
        }
        self.workloads.insert(workload.key.clone(), workload);
    }

    /// Says which headless Service's port speaks for a pod's address; returns whether that is news.
    pub fn set_headless(&mut self, addr: EndpointAddr, owner: Option<&PortKey>) -> bool {
        let former = match owner {
            Some(owner) => self.headless.insert(addr, owner.clone()),
            None => self.headless.remove(&addr),
        };
        former.as_ref() != owner
    }

    pub fn remove_workload(&mut self, key: &WorkloadKey) -> Option<Arc<Workload>> {
        let former = self.workloads.remove(key)?;
        for ip in &former.ips {
            if self.by_ip.get(ip).is_some_and(|owner| owner == key) {
                self.by_ip.remove(ip);
            }
        }
        Some(former)
    }
}
