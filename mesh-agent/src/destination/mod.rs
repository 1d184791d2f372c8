//! What a connection or a request was made for → where it may go.
//!
//! Place in the path: first thing of every request (HTTP) or connection (opaque); the only reader of the snapshot.
//! `resolve` is pure; `Destinations` is one worker's memory of its answers. Invariants: one snapshot read per request; a
//! target stays the same object while what it was made of does, so pickers and their state are not made anew by
//! changes elsewhere.

mod l4;
pub mod resolve;

use crate::addr::EndpointAddr;
use crate::balance::{Cluster, Registry, Spec};
use crate::connect::{Peer, Upstream, Upstreams};
use crate::error::Failure;
use crate::listen::{Source, Wants};
use crate::snapshot::gateway::Listener;
use crate::snapshot::policy::{Balancer, TrafficPolicy};
use crate::snapshot::route::{
    Action, Backend, BackendTo, Conditions, Destination, Family, Forward, HeaderOps, MESH, Matcher, Route, RuleRef,
    VirtualHost, Visibility,
};
use crate::snapshot::{
    Client, ClusterKey, Endpoint, EndpointHealth, EndpointSet, LbPolicy, Locality, MeshSettings, PortKey, Protocol,
    Resolution, Service, ServiceName, ServicePort, Snapshot, Workload,
};
use crate::telemetry::{Callee, access_log};
use crate::time::Nanos;
use arc_swap::{ArcSwap, Cache};
use resolve::{Resolved, To};
use rustc_hash::FxHashMap;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

/// One port of a Service, or an address, under the policy that holds for one client.
#[derive(Debug)]
pub struct Target {
    /// What it is in metrics.
    pub callee: Arc<Callee>,
    /// With the port, for messages.
    pub name: Arc<str>,
    /// What the access log calls it.
    pub cluster_name: Rc<str>,
    pub protocol: Protocol,
    pub policy: Arc<TrafficPolicy>,
    pub cluster: Arc<Cluster>,
    pub upstream: Arc<Upstream>,
}

/// Where the requests for one host on one connection may go.
#[derive(Debug)]
pub struct Routes {
    /// Rules somebody wrote, or the one that sends everything to `target`.
    pub host: Arc<VirtualHost>,
    /// Port of the Service or listener that the client asked for.
    pub port: u16,
    /// `namespace/name` of the gateway, or [`MESH`].
    pub gateway: Arc<str>,
    /// Where requests go that no rule sends elsewhere; `None` where only rules know the host.
    pub target: Option<Rc<Target>>,
    /// What it is in metrics, where nothing was chosen or nobody declared what was.
    pub callee: Arc<Callee>,
}

/// One worker's view of the snapshot.
#[derive(Debug)]
pub struct Destinations {
    snapshot: RefCell<Cache<Arc<ArcSwap<Snapshot>>, Arc<Snapshot>>>,
    registry: Arc<Registry>,
    upstreams: Arc<Upstreams>,
    /// By source and original destination.
    connections: Remembered<(u64, Wants), Dated<Found>>,
    /// As above, then by host as the client wrote it.
    routes: Remembered<(u64, Wants), Vec<Host>>,
    /// By source and port, then by what a rule names.
    backends: Remembered<(u64, u16), Named>,
    /// Rules where nobody wrote any, made of the mesh's settings.
    plain: RefCell<(Arc<MeshSettings>, Arc<VirtualHost>)>,
    no_policy: Arc<TrafficPolicy>,
    /// The generation of the last sweep.
    swept: Cell<u64>,
}

type Remembered<K, V> = RefCell<FxHashMap<K, V>>;
type Found = Result<Rc<Target>, Failure>;
type Named = FxHashMap<Destination, Dated<Rc<Target>>>;
type Host = (Box<str>, Dated<Rc<Routes>>);

/// An answer and the generation it was last checked against.
#[derive(Debug)]
struct Dated<T> {
    generation: u64,
    value: T,
}

/// Metrics' names for destinations nobody declared (Istio's).
const PASSTHROUGH: &str = "PassthroughCluster";
/// Hosts remembered for one source and original destination; the network chooses them, so their number is bounded.
const HOSTS: usize = 64;
/// Destinations without a name are as many as the world's addresses.
const REMEMBERED: usize = 50_000;

impl Destinations {
    pub fn new(snapshot: Arc<ArcSwap<Snapshot>>, registry: Arc<Registry>, upstreams: Arc<Upstreams>) -> Self {
        let mesh = Arc::clone(snapshot.load().mesh());
        Self {
            snapshot: RefCell::new(Cache::new(snapshot)),
            registry,
            upstreams,
            connections: RefCell::default(),
            routes: RefCell::default(),
            backends: RefCell::default(),
            plain: RefCell::new((Arc::clone(&mesh), Arc::new(plain(&mesh)))),
            no_policy: Arc::default(),
            swept: Cell::new(0),
        }
    }

    /// Where a connection goes if it is opaque, and what its port speaks.
    ///
    /// # Errors
    /// `NoRoute` where an explicit listener's port does not exist (any more), `Blocked` where only declared
    /// destinations may be reached and this is none.
    pub fn connection(&self, source: &Source, wants: &Wants) -> Result<Rc<Target>, Failure> {
        let mut cache = self.snapshot.borrow_mut();
        let snapshot = cache.load();
        let mut connections = self.connections.borrow_mut();
        let key = (source.cookie, wants.clone());
        let former = match connections.get(&key) {
            Some(former) if former.generation == snapshot.generation => return former.value.clone(),
            former => former.and_then(|former| former.value.as_ref().ok()),
        };
        let client = Asker::new(source, wants);
        let to = resolve::connection(snapshot, &client.client, wants);
        let value = self.default_target(snapshot, &client, &to, former);
        connections.insert(key, Dated { generation: snapshot.generation, value: value.clone() });
        value
    }

    /// The rules for a request whose `Host` or `:authority` is `authority`.
    ///
    /// # Errors
    /// As [`Self::connection`].
    pub fn routes(&self, source: &Source, wants: &Wants, authority: &str) -> Result<Rc<Routes>, Failure> {
        let mut cache = self.snapshot.borrow_mut();
        let snapshot = cache.load();
        let mut routes = self.routes.borrow_mut();
        let hosts = routes.entry((source.cookie, wants.clone())).or_default();
        let at = hosts.iter().position(|(host, _)| **host == *authority);
        let former = at.and_then(|at| hosts.get(at)).map(|(_, dated)| dated);
        if let Some(dated) = former
            && dated.generation == snapshot.generation
        {
            return Ok(Rc::clone(&dated.value));
        }
        let former = former.map(|former| &former.value);
        let value = match wants {
            Wants::Gateway { port, sni } => gateway_routes(snapshot, source, *port, sni.as_deref(), authority, former)?,
            Wants::Original(_) | Wants::Port(_) => {
                let client = Asker::new(source, wants);
                let resolved = resolve::request(snapshot, &client.client, wants, authority);
                self.made_routes(snapshot, &client, wants, authority, resolved, former)?
            }
        };
        let dated = Dated { generation: snapshot.generation, value: Rc::clone(&value) };
        match at.and_then(|at| hosts.get_mut(at)) {
            Some((_, slot)) => *slot = dated,
            None => {
                if hosts.len() >= HOSTS {
                    hosts.clear();
                }
                hosts.push((authority.into(), dated));
            }
        }
        Ok(value)
    }

    /// What a rule names as its destination, for a client that asked for `port`.
    ///
    /// # Errors
    /// `NoCluster` where there is no such Service, port or subset.
    pub fn backend(&self, source: &Source, wants: &Wants, to: &Destination, port: u16) -> Result<Rc<Target>, Failure> {
        let mut cache = self.snapshot.borrow_mut();
        let snapshot = cache.load();
        let mut backends = self.backends.borrow_mut();
        // The asked-for port matters only where the rule names none.
        let backends = backends.entry((source.cookie, to.port.unwrap_or(port))).or_default();
        let former = match backends.get(to) {
            Some(former) if former.generation == snapshot.generation => return Ok(Rc::clone(&former.value)),
            former => former.map(|former| &former.value),
        };
        let client = Asker::new(source, wants);
        let service = snapshot.service_by_host(&client.client, &to.host).ok_or(Failure::NoCluster)?;
        let port = match (to.port, &service.ports[..]) {
            (None, [only]) => only,
            (wanted, ports) => {
                let wanted = wanted.unwrap_or(port);
                ports.iter().find(|p| p.port == wanted).ok_or(Failure::NoCluster)?
            }
        };
        let value = self.service(snapshot, &client, service, port, to.subset.as_deref(), former)?;
        backends.insert(to.clone(), Dated { generation: snapshot.generation, value: Rc::clone(&value) });
        Ok(value)
    }

    /// What a gateway pod does on one of its ports; `None` where it has closed it.
    pub fn gateway_listener(&self, source: &Source, port: u16) -> Option<Arc<Listener>> {
        let pod = source.workload.as_ref()?;
        self.snapshot.borrow_mut().load().gateway_listener(&pod.key, port).cloned()
    }

    /// Whether a port's connections, whoever they are for, may tell by their first bytes what they mean: any Service
    /// speaks HTTP on a port of this number, or TLS that only the ClientHello's name tells.
    pub fn tells(&self, port: u16) -> bool {
        let mut cache = self.snapshot.borrow_mut();
        let snapshot = cache.load();
        snapshot.speaks_http(port) || snapshot.speaks_named_tls(port)
    }

    /// Forgets answers of former configurations; those in use come back with the next request. True where the
    /// configuration changed since the last sweep, or too many were known.
    pub fn sweep(&self) -> bool {
        let generation = self.snapshot.borrow_mut().load().generation;
        let (mut connections, mut routes) = (self.connections.borrow_mut(), self.routes.borrow_mut());
        let mut backends = self.backends.borrow_mut();
        connections.retain(|_, dated| dated.generation == generation);
        backends.retain(|_, to| {
            to.retain(|_, dated| dated.generation == generation);
            !to.is_empty()
        });
        routes.retain(|_, hosts| {
            hosts.retain(|(_, dated)| dated.generation == generation);
            !hosts.is_empty()
        });
        let full = connections.len().max(routes.len()) > REMEMBERED;
        if full {
            connections.clear();
            routes.clear();
        }
        self.swept.replace(generation) != generation || full
    }

    fn made_routes(
        &self,
        snapshot: &Snapshot,
        client: &Asker<'_>,
        wants: &Wants,
        authority: &str,
        resolved: Resolved,
        former: Option<&Rc<Routes>>,
    ) -> Result<Rc<Routes>, Failure> {
        let Resolved { rules, to } = resolved;
        let former_target = former.and_then(|former| former.target.as_ref());
        let target = match &to {
            To::Nowhere => None,
            to => Some(self.default_target(snapshot, client, to, former_target)?),
        };
        let host = rules.unwrap_or_else(|| self.plain(snapshot.mesh()));
        if let Some(former) = former
            && Arc::ptr_eq(&former.host, &host)
            && former.target.as_ref().map(Rc::as_ptr) == target.as_ref().map(Rc::as_ptr)
        {
            return Ok(Rc::clone(former));
        }
        let callee = match &target {
            Some(target) if !target.callee.undeclared => Arc::clone(&target.callee),
            // Istio: the host header says what no cluster does.
            Some(target) => Callee::undeclared(&target.callee.name, Some(authority)).into(),
            None => Callee::undeclared("unknown", Some(authority)).into(),
        };
        Ok(Rc::new(Routes { host, port: wants.port(), gateway: MESH.into(), target, callee }))
    }

    fn plain(&self, mesh: &Arc<MeshSettings>) -> Arc<VirtualHost> {
        let mut kept = self.plain.borrow_mut();
        if !Arc::ptr_eq(&kept.0, mesh) {
            *kept = (Arc::clone(mesh), Arc::new(plain(mesh)));
        }
        Arc::clone(&kept.1)
    }

    fn default_target(
        &self,
        snapshot: &Snapshot,
        client: &Asker<'_>,
        to: &To,
        former: Option<&Rc<Target>>,
    ) -> Result<Rc<Target>, Failure> {
        match to {
            To::Service(service, port) => self.service(snapshot, client, service, port, None, former),
            To::Pod(workload, dst, headless) => {
                let name: Arc<str> = format!("{} port {}", workload.key, dst.port()).into();
                let endpoint = single(EndpointAddr::new(dst.addr()), Some(Arc::clone(workload)));
                Ok(match headless {
                    Some((service, port)) => {
                        let policy = self.policy(snapshot, client, service, port.port, None)?.0;
                        let key: ClusterKey = port.key.clone().into();
                        self.address(callee(service, port), name, port.protocol, &key, &endpoint, &policy, client)
                    }
                    None => {
                        let key = ServiceName::new(&workload.key.namespace, &workload.key.name);
                        let key: ClusterKey = PortKey::new(key, dst.port()).into();
                        let (callee, policy) = (Callee::undeclared(PASSTHROUGH, None), &self.no_policy);
                        self.address(callee, name, Protocol::Detect, &key, &endpoint, policy, client)
                    }
                })
            }
            To::Unknown(dst) => {
                let key: ClusterKey = PortKey::new(ServiceName::new("", PASSTHROUGH), dst.port()).into();
                let endpoint = single(EndpointAddr::new(dst.addr()), None);
                // HTTP and names are looked for only where somebody declared them: anything else may wait for its server
                // to speak.
                let declared = snapshot.speaks_http(dst.port()) || snapshot.speaks_named_tls(dst.port());
                let protocol = if declared { Protocol::Detect } else { Protocol::Tcp };
                let (callee, name) = (Callee::undeclared(PASSTHROUGH, None), dst.to_string().into());
                Ok(self.address(callee, name, protocol, &key, &endpoint, &self.no_policy, client))
            }
            To::Blocked => Err(Failure::UnknownHost),
            To::Nowhere => Err(Failure::NoCluster),
            To::Gone(_) => Err(Failure::NoRoute),
        }
    }

    fn service(
        &self,
        snapshot: &Snapshot,
        client: &Asker<'_>,
        service: &Arc<Service>,
        port: &Arc<ServicePort>,
        subset: Option<&str>,
        former: Option<&Rc<Target>>,
    ) -> Result<Rc<Target>, Failure> {
        let (mut policy, labels) = self.policy(snapshot, client, service, port.port, subset)?;
        if matches!(service.resolution, Resolution::None | Resolution::DynamicDns)
            && policy.balancer != Balancer::Passthrough
        {
            // "NONE: the connection is forwarded to the address it was made for."
            policy = Arc::new(TrafficPolicy { balancer: Balancer::Passthrough, ..TrafficPolicy::clone(&policy) });
        }
        let key = ClusterKey { port: port.key.clone(), subset: subset.map(Into::into) };
        let spec = Spec {
            key: &key,
            endpoints: &port.endpoints,
            labels,
            policy: &policy,
            lb: port.lb,
            distribution: service.traffic_distribution,
            locality: Some(&snapshot.mesh().locality),
            client: client.workload,
        };
        let subject_alt_names = service.subject_alt_names.clone();
        let peer = Peer { host: Arc::clone(&service.host), subject_alt_names };
        if let Some(former) = former
            && former.cluster.is_of(&spec)
            && former.upstream.is_of(&policy, &peer)
            && former.protocol == port.protocol
        {
            return Ok(Rc::clone(former));
        }
        let callee = callee(service, port);
        Ok(Rc::new(Target {
            name: format!("{}:{}", service.host, port.port).into(),
            cluster_name: access_log::cluster(callee.cluster(), &key),
            callee: callee.into(),
            protocol: port.protocol,
            cluster: self.registry.cluster(&spec, Nanos::now()),
            upstream: self.upstreams.upstream(&key, &policy, &peer),
            policy,
        }))
    }

    /// A destination that is one address.
    #[expect(clippy::too_many_arguments, reason = "a target's parts")]
    fn address(
        &self,
        callee: Callee,
        name: Arc<str>,
        protocol: Protocol,
        key: &ClusterKey,
        endpoint: &Arc<EndpointSet>,
        policy: &Arc<TrafficPolicy>,
        client: &Asker<'_>,
    ) -> Rc<Target> {
        let spec = Spec {
            key,
            endpoints: endpoint,
            labels: None,
            policy,
            lb: LbPolicy::Default,
            distribution: None,
            locality: None,
            client: client.workload,
        };
        let cluster = self.registry.cluster(&spec, Nanos::now());
        let peer = Peer { host: Arc::clone(callee.cluster()), subject_alt_names: Vec::new() };
        let upstream = self.upstreams.upstream(key, policy, &peer);
        let (cluster_name, policy) = (access_log::cluster(callee.cluster(), key), Arc::clone(policy));
        Rc::new(Target { callee: callee.into(), name, cluster_name, protocol, policy, cluster, upstream })
    }

    /// The policy of a port and subset for a client, and the subset's labels.
    ///
    /// # Errors
    /// `NoCluster` where there is no such subset.
    fn policy<'s>(
        &self,
        snapshot: &'s Snapshot,
        client: &Asker<'_>,
        service: &Service,
        port: u16,
        subset: Option<&str>,
    ) -> Result<(Arc<TrafficPolicy>, Option<&'s Labels>), Failure> {
        let rules = snapshot.destination_policy(&client.client, service, &snapshot.mesh().root_namespace);
        match (rules, subset) {
            (Some(rules), None) => Ok((Arc::clone(rules.policies.of(port)), None)),
            (Some(rules), Some(name)) => {
                let subset = rules.subsets.iter().find(|s| &*s.name == name).ok_or(Failure::NoCluster)?;
                Ok((Arc::clone(subset.policies.of(port)), Some(&subset.labels)))
            }
            (None, None) => Ok((Arc::clone(&snapshot.mesh().policy), None)),
            (None, Some(_)) => Err(Failure::NoCluster),
        }
    }
}

/// The routes of a gateway's host.
///
/// # Errors
/// `NoRoute` where no route is bound to the host, or the gateway closed the port.
fn gateway_routes(
    snapshot: &Snapshot,
    source: &Source,
    port: u16,
    sni: Option<&str>,
    authority: &str,
    former: Option<&Rc<Routes>>,
) -> Result<Rc<Routes>, Failure> {
    let pod = source.workload.as_ref().ok_or(Failure::NoRoute)?;
    let listener = snapshot.gateway_listener(&pod.key, port).ok_or(Failure::NoRoute)?;
    let server = listener.server(sni).ok_or(Failure::NoRoute)?;
    let host = server.virtual_host(authority).ok_or(Failure::NoRoute)?;
    if let Some(former) = former
        && Arc::ptr_eq(&former.host, host)
    {
        return Ok(Rc::clone(former));
    }
    let gateway = Arc::clone(&server.gateway);
    // What no backend says nobody does: the host is a stranger's word.
    let callee = Callee::undeclared("unknown", None).into();
    Ok(Rc::new(Routes { host: Arc::clone(host), port, gateway, target: None, callee }))
}

type Labels = BTreeMap<Arc<str>, Arc<str>>;

/// Who asks, in the terms of the snapshot.
struct Asker<'a> {
    client: Client<'a>,
    workload: Option<&'a Workload>,
}

impl<'a> Asker<'a> {
    fn new(source: &'a Source, wants: &'a Wants) -> Self {
        Self { client: source.client(wants), workload: source.workload.as_deref() }
    }
}

fn callee(service: &Service, port: &ServicePort) -> Callee {
    Callee::declared(&service.host, &port.key.service.name, &port.key.service.namespace)
}

fn single(addr: EndpointAddr, workload: Option<Arc<Workload>>) -> Arc<EndpointSet> {
    let endpoint = Endpoint { addr, weight: 1, health: EndpointHealth::Ready, workload, locality: Locality::default() };
    Arc::new(EndpointSet { endpoints: vec![endpoint] })
}

/// One rule for everything: to the target.
fn plain(mesh: &MeshSettings) -> VirtualHost {
    let nobody = Destination { host: "".into(), port: None, subset: None };
    let backend =
        Backend { weight: 1, to: BackendTo::Service(nobody), headers: HeaderOps::default(), mirrors: Vec::new() };
    let forward = Forward {
        backends: vec![backend],
        rewrite: None,
        timeout: None,
        retry: mesh.retry.clone(),
        mirrors: Vec::new(),
        hedge: None,
    };
    let route = Route {
        name: "default".into(),
        rule: RuleRef { object: None, field: "".into() },
        conditions: Conditions { gateways: vec![MESH.into()], ..Conditions::default() },
        matcher: Matcher::default(),
        action: Action::Forward(forward),
        fault: None,
        cors: None,
        rate_limit: None,
        headers: HeaderOps::default(),
    };
    VirtualHost {
        host: "*".into(),
        family: Family::Default,
        namespace: "".into(),
        export: Visibility::Public,
        ports: Vec::new(),
        routes: vec![Arc::new(route)].into(),
    }
}

#[cfg(test)]
mod tests;
