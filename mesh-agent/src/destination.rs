//! What a connection was made for → where its requests may go.
//!
//! Place in the path: first thing of every request (HTTP) or connection (opaque); the only reader of the snapshot.
//! Invariant: one snapshot read per request; a target stays the same object while its endpoints do.

use crate::addr::{EndpointAddr, OrigDst};
use crate::balance::{Cluster, Registry, Spec};
use crate::connect::{Upstream, Upstreams};
use crate::error::Failure;
use crate::listen::Wants;
use crate::snapshot::policy::TrafficPolicy;
use crate::snapshot::{
    ClusterKey, Destination, Endpoint, EndpointHealth, EndpointSet, LbPolicy, Locality, PortKey, Protocol, Service,
    ServiceName, ServicePort, Snapshot, Workload,
};
use crate::time::Nanos;
use arc_swap::{ArcSwap, Cache};
use rustc_hash::FxHashMap;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

/// Everything about a destination that a request needs.
#[derive(Debug)]
pub struct Target {
    /// `reviews.default.svc.cluster.local`, or what stands for it in metrics.
    pub service: Arc<str>,
    /// With the port, for messages.
    pub name: Arc<str>,
    pub protocol: Protocol,
    pub cluster: Arc<Cluster>,
    pub upstream: Arc<Upstream>,
}

/// One worker's view of the snapshot.
#[derive(Debug)]
pub struct Destinations {
    snapshot: RefCell<Cache<Arc<ArcSwap<Snapshot>>, Arc<Snapshot>>>,
    registry: Arc<Registry>,
    upstreams: Arc<Upstreams>,
    /// What holds where no DestinationRule speaks.
    policy: Arc<TrafficPolicy>,
    targets: RefCell<FxHashMap<Wants, (u64, Rc<Target>)>>,
    /// The generation of the last sweep.
    swept: Cell<u64>,
}

/// Metrics' name for destinations nobody declared (Istio's).
const PASSTHROUGH: &str = "PassthroughCluster";

impl Destinations {
    pub fn new(snapshot: Arc<ArcSwap<Snapshot>>, registry: Arc<Registry>, upstreams: Arc<Upstreams>) -> Self {
        let snapshot = RefCell::new(Cache::new(snapshot));
        let (policy, targets, swept) = (Arc::default(), RefCell::default(), Cell::new(0));
        Self { snapshot, registry, upstreams, policy, targets, swept }
    }

    /// The target as of now.
    ///
    /// # Errors
    /// `NoRoute` where an explicit listener's port does not exist (any more).
    pub fn target(&self, wants: &Wants) -> Result<Rc<Target>, Failure> {
        let mut cache = self.snapshot.borrow_mut();
        let snapshot = cache.load();
        let mut targets = self.targets.borrow_mut();
        let former = targets.get(wants);
        if let Some((generation, target)) = former
            && *generation == snapshot.generation
        {
            return Ok(Rc::clone(target));
        }
        let former = former.map(|(_, target)| target);
        let target = match wants {
            Wants::Port(key) => {
                let (service, port) = snapshot.port(key).ok_or(Failure::NoRoute)?;
                self.service(&service, &port, former)
            }
            Wants::Original(dst) => match snapshot.destination(*dst) {
                Destination::Service(service, port) => self.service(&service, &port, former),
                Destination::Workload(workload) => self.workload(snapshot, &workload, *dst),
                Destination::Unknown => self.passthrough(*dst),
            },
        };
        targets.insert(wants.clone(), (snapshot.generation, Rc::clone(&target)));
        Ok(target)
    }

    /// Forgets targets of former configurations; those in use come back with the next request. True where the
    /// configuration changed since the last sweep, or too many were known.
    pub fn sweep(&self) -> bool {
        let generation = self.snapshot.borrow_mut().load().generation;
        let mut targets = self.targets.borrow_mut();
        targets.retain(|_, (of, _)| *of == generation);
        // Destinations without a name are as many as the world's addresses.
        let full = targets.len() > 50_000;
        if full {
            targets.clear();
        }
        self.swept.replace(generation) != generation || full
    }

    fn service(&self, service: &Arc<Service>, port: &Arc<ServicePort>, former: Option<&Rc<Target>>) -> Rc<Target> {
        let key = port.key.clone().into();
        let spec = Spec { lb: port.lb, ..self.spec(&key, &port.endpoints) };
        if let Some(former) = former
            && former.cluster.is_of(&spec)
            && former.protocol == port.protocol
        {
            return Rc::clone(former);
        }
        self.made_of(&spec, Arc::clone(&service.host), format!("{}:{}", service.host, port.port).into(), port.protocol)
    }

    fn spec<'a>(&'a self, key: &'a ClusterKey, endpoints: &'a Arc<EndpointSet>) -> Spec<'a> {
        let (policy, lb) = (&self.policy, LbPolicy::Default);
        Spec { key, endpoints, labels: None, policy, lb, distribution: None, client: None }
    }

    fn made_of(&self, spec: &Spec<'_>, service: Arc<str>, name: Arc<str>, protocol: Protocol) -> Rc<Target> {
        let cluster = self.registry.cluster(spec, Nanos::now());
        let upstream = self.upstreams.upstream(spec.key, spec.policy);
        Rc::new(Target { service, name, protocol, cluster, upstream })
    }

    /// A pod dialled by its own address: a headless Service's record. The port's declaration still counts.
    fn workload(&self, snapshot: &Snapshot, workload: &Arc<Workload>, dst: OrigDst) -> Rc<Target> {
        let addr = EndpointAddr::new(dst.addr());
        let (service, key, protocol) = match snapshot.headless_port(dst) {
            Some((service, port)) => (Arc::clone(&service.host), port.key.clone(), port.protocol),
            None => {
                let name =
                    ServiceName { namespace: Arc::clone(&workload.key.namespace), name: workload.key.name.clone() };
                (PASSTHROUGH.into(), PortKey::new(name, dst.port()), Protocol::Detect)
            }
        };
        let name = format!("{} port {}", workload.key, dst.port()).into();
        self.single(service, name, protocol, &key, addr, Some(Arc::clone(workload)))
    }

    fn passthrough(&self, dst: OrigDst) -> Rc<Target> {
        let key = PortKey::new(ServiceName::new("", PASSTHROUGH), dst.port());
        let name = dst.to_string().into();
        self.single(PASSTHROUGH.into(), name, Protocol::Tcp, &key, EndpointAddr::new(dst.addr()), None)
    }

    fn single(
        &self,
        service: Arc<str>,
        name: Arc<str>,
        protocol: Protocol,
        key: &PortKey,
        addr: EndpointAddr,
        workload: Option<Arc<Workload>>,
    ) -> Rc<Target> {
        let endpoint =
            Endpoint { addr, weight: 1, health: EndpointHealth::Ready, workload, locality: Locality::default() };
        let set = Arc::new(EndpointSet { endpoints: vec![endpoint] });
        self.made_of(&self.spec(&key.clone().into(), &set), service, name, protocol)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::{Enrolment, Owner, WorkloadKey};
    use std::collections::BTreeMap;
    use std::net::SocketAddr;

    fn workload(ip: &str) -> Workload {
        let key = WorkloadKey { namespace: "shop".into(), name: "cart-0".into(), uid: "1".into() };
        Workload {
            owner: Owner { kind: "StatefulSet".into(), name: "cart".into() },
            key,
            service_account: "default".into(),
            node: "node".into(),
            labels: BTreeMap::new(),
            ips: vec![ip.parse().unwrap()],
            locality: Locality::default(),
            enrolment: Enrolment::Elsewhere,
        }
    }

    fn service(name: &str, headless: bool, protocol: Protocol, endpoint: SocketAddr) -> Service {
        let name = ServiceName::new("shop", name);
        let endpoint = Endpoint {
            addr: EndpointAddr::new(endpoint),
            weight: 1,
            health: EndpointHealth::Ready,
            workload: None,
            locality: Locality::default(),
        };
        let port = ServicePort {
            key: PortKey::new(name.clone(), 80),
            port: 80,
            name: "port".into(),
            protocol,
            lb: LbPolicy::Default,
            endpoints: Arc::new(EndpointSet { endpoints: vec![endpoint] }),
        };
        let host = name.host("cluster.local");
        Service { headless, ports: vec![Arc::new(port)], ..Service::new(name, &host) }
    }

    /// Only the Service that speaks for the pod's address is asked: not each of the namespace, which costs what they
    /// are in number and lets a Service with a virtual address rename a plain dial to one of its pods.
    #[test]
    fn a_pod_is_known_by_the_service_that_speaks_for_it() {
        let (grpc, plain): (SocketAddr, SocketAddr) =
            ("10.0.0.1:9000".parse().unwrap(), "10.0.0.1:9001".parse().unwrap());
        let mut snapshot = Snapshot::default();
        snapshot.insert_workload(Arc::new(workload("10.0.0.1")));
        for (name, headless, at) in [("a", false, grpc), ("b", true, grpc), ("c", false, plain)] {
            snapshot.insert_service(Arc::new(service(name, headless, Protocol::Grpc, at)));
        }
        snapshot.set_headless(EndpointAddr::new(grpc), Some(&PortKey::new(ServiceName::new("shop", "b"), 80)));
        let destinations = Destinations::new(Arc::new(ArcSwap::from_pointee(snapshot)), Arc::default(), Arc::default());
        let target = |addr| destinations.target(&Wants::Original(OrigDst::new(addr))).unwrap();
        let known = target(grpc);
        assert_eq!((&*known.service, known.protocol), ("b.shop.svc.cluster.local", Protocol::Grpc));
        let unknown = target(plain);
        assert_eq!((&*unknown.service, unknown.protocol), (PASSTHROUGH, Protocol::Detect));
    }
}
