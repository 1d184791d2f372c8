use super::*;
use crate::addr::{EndpointAddr, OrigDst};
use crate::connect::Dialer;
use crate::snapshot::policy::{DestinationPolicy, PortPolicies, Subset};
use crate::snapshot::{Enrolment, OutboundPolicy, Owner, WorkloadKey};
use std::net::SocketAddr;

struct Mesh {
    snapshot: Arc<ArcSwap<Snapshot>>,
    destinations: Destinations,
    source: Source,
}

impl Mesh {
    fn new(change: impl FnOnce(&mut Snapshot)) -> Self {
        let mut snapshot = Snapshot::default();
        change(&mut snapshot);
        let snapshot = Arc::new(ArcSwap::from_pointee(snapshot));
        let destinations = Destinations::new(Arc::clone(&snapshot), Arc::default(), Arc::default());
        let source = Source { workload: Some(Arc::new(workload("10.0.0.99"))), cookie: 1, dialer: Dialer::Host };
        Self { snapshot, destinations, source }
    }

    fn change(&self, change: impl FnOnce(&mut Snapshot)) {
        let mut next = Snapshot::clone(&self.snapshot.load());
        next.generation += 1;
        change(&mut next);
        self.snapshot.store(Arc::new(next));
    }

    fn connection(&self, to: &str) -> Result<Rc<Target>, Failure> {
        self.destinations.connection(&self.source, &wants(to))
    }

    fn routes(&self, to: &str, host: &str) -> Result<Rc<Routes>, Failure> {
        self.destinations.routes(&self.source, &wants(to), host)
    }

    fn backend(&self, host: &str, subset: Option<&str>) -> Result<Rc<Target>, Failure> {
        let to = Destination { host: host.into(), port: None, subset: subset.map(Into::into) };
        self.destinations.backend(&self.source, &wants("10.1.0.1:80"), &to, 80)
    }
}

fn wants(to: &str) -> Wants {
    Wants::Original(OrigDst::new(to.parse().unwrap()))
}

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

fn service(name: &str, vip: &str, protocol: Protocol, endpoint: SocketAddr) -> Arc<Service> {
    let name = ServiceName::new("shop", name);
    let endpoints = single(EndpointAddr::new(endpoint), None);
    let port = ServicePort {
        key: PortKey::new(name.clone(), 80),
        port: 80,
        name: "port".into(),
        protocol,
        lb: LbPolicy::Default,
        endpoints,
    };
    let host = name.host("cluster.local");
    let vips: Vec<_> = vip.parse().into_iter().collect();
    Arc::new(Service { headless: vips.is_empty(), vips, ports: vec![Arc::new(port)], ..Service::new(name, &host) })
}

fn two_services(snapshot: &mut Snapshot) {
    snapshot.insert_service(service("a", "10.1.0.1", Protocol::Http, "10.0.0.1:8080".parse().unwrap()));
    snapshot.insert_service(service("b", "10.1.0.2", Protocol::Http, "10.0.0.2:8080".parse().unwrap()));
}

const A: &str = "a.shop.svc.cluster.local";
const B: &str = "b.shop.svc.cluster.local";

/// Only the Service that speaks for the pod's address is asked: not each of the namespace, which costs what they are in
/// number and lets a Service with a virtual address rename a plain dial to one of its pods.
#[test]
fn a_pod_is_known_by_the_service_that_speaks_for_it() {
    let (grpc, plain) = ("10.0.0.1:9000", "10.0.0.1:9001");
    let mesh = Mesh::new(|snapshot| {
        snapshot.insert_workload(Arc::new(workload("10.0.0.1")));
        for (name, vip, at) in [("a", "10.1.0.1", grpc), ("b", "", grpc), ("c", "10.1.0.3", plain)] {
            snapshot.insert_service(service(name, vip, Protocol::Grpc, at.parse().unwrap()));
        }
        let speaker = PortKey::new(ServiceName::new("shop", "b"), 80);
        snapshot.set_headless(EndpointAddr::new(grpc.parse().unwrap()), Some(&speaker));
    });
    let known = mesh.connection(grpc).unwrap();
    assert_eq!((&*known.callee.host, known.protocol), (B, Protocol::Grpc));
    let unknown = mesh.connection(plain).unwrap();
    assert_eq!((&*unknown.callee.name, unknown.protocol), (PASSTHROUGH, Protocol::Detect));
}

#[test]
fn the_host_decides_and_an_unknown_one_means_the_address() {
    let mesh = Mesh::new(two_services);
    let service = |host| mesh.routes("10.1.0.1:80", host).map(|routes| routes.callee.host.to_string());
    assert_eq!(service("b").unwrap(), B);
    assert_eq!(service("b.shop.svc:80").unwrap(), B);
    assert_eq!(service("10.1.0.1").unwrap(), A);
    assert_eq!(service("localhost").unwrap(), A);
    let elsewhere = mesh.routes("192.0.2.1:80", "example.com").unwrap();
    assert_eq!((&*elsewhere.callee.name, elsewhere.host.family), (PASSTHROUGH, Family::Default));
    assert_eq!(
        mesh.routes("192.0.2.1:80", "b").unwrap().callee.host.to_string(),
        B,
        "a Service is where its host says"
    );
}

#[test]
fn what_did_not_change_stays_the_same_object() {
    let mesh = Mesh::new(two_services);
    let (a, b) = (mesh.routes("10.1.0.1:80", "a").unwrap(), mesh.routes("10.1.0.1:80", "b").unwrap());
    let connection = mesh.connection("10.1.0.1:80").unwrap();
    mesh.change(|s| s.insert_service(service("b", "10.1.0.2", Protocol::Http, "10.0.0.3:8080".parse().unwrap())));
    assert!(Rc::ptr_eq(&a, &mesh.routes("10.1.0.1:80", "a").unwrap()));
    assert!(Rc::ptr_eq(&connection, &mesh.connection("10.1.0.1:80").unwrap()));
    assert!(!Rc::ptr_eq(&b, &mesh.routes("10.1.0.1:80", "b").unwrap()));
}

#[test]
fn rules_without_a_service_hold_on_port_80() {
    let rules =
        Arc::new(VirtualHost { family: Family::Istio, host: "foo.com".into(), ..plain(&MeshSettings::default()) });
    let mesh = Mesh::new(|snapshot| snapshot.set_virtual_hosts(&"foo.com".into(), vec![Arc::clone(&rules)]));
    let found = mesh.routes("192.0.2.1:80", "foo.com").unwrap();
    assert!(Arc::ptr_eq(&found.host, &rules) && found.target.is_none());
    assert_eq!(mesh.routes("192.0.2.1:81", "foo.com").unwrap().host.family, Family::Default);
}

#[test]
fn a_wildcards_rules_are_for_the_services_it_covers_or_for_strangers() {
    let rules =
        Arc::new(VirtualHost { family: Family::Istio, host: "*.foo.com".into(), ..plain(&MeshSettings::default()) });
    let mesh = Mesh::new(|snapshot| snapshot.set_virtual_hosts(&"*.foo.com".into(), vec![Arc::clone(&rules)]));
    let connection = || mesh.connection("192.0.2.1:80").unwrap().protocol;
    assert!(Arc::ptr_eq(&mesh.routes("192.0.2.1:80", "a.foo.com").unwrap().host, &rules));
    assert_eq!(connection(), Protocol::Detect, "HTTP's first bytes are waited for");
    mesh.change(|snapshot| {
        let name = ServiceName::new("shop", "b.foo.com");
        snapshot.insert_service(Arc::new(Service::new(name, "b.foo.com")));
    });
    assert_eq!(mesh.routes("192.0.2.1:80", "a.foo.com").unwrap().host.family, Family::Default);
    assert_eq!(connection(), Protocol::Tcp, "nobody speaks HTTP there");
    mesh.change(|snapshot| drop(snapshot.remove_service(&ServiceName::new("shop", "b.foo.com"))));
    assert!(Arc::ptr_eq(&mesh.routes("192.0.2.1:80", "a.foo.com").unwrap().host, &rules));
}

#[test]
fn only_what_is_declared_may_be_reached_under_registry_only() {
    let mesh = Mesh::new(|snapshot| {
        two_services(snapshot);
        let mesh = MeshSettings { outbound: OutboundPolicy::RegistryOnly, ..MeshSettings::default() };
        snapshot.set_mesh(Arc::new(mesh));
    });
    assert_eq!(mesh.connection("192.0.2.1:443").unwrap_err(), Failure::UnknownHost);
    assert_eq!(mesh.routes("192.0.2.1:80", "example.com").unwrap_err(), Failure::UnknownHost);
    assert_eq!(mesh.routes("192.0.2.1:80", "a").unwrap().callee.host.to_string(), A);
}

#[test]
fn a_subset_has_its_own_policy_and_must_exist() {
    let mesh = Mesh::new(|snapshot| {
        two_services(snapshot);
        let rule = RuleRef { object: None, field: "".into() };
        let slow = TrafficPolicy { retry_budget: Some(Default::default()), ..TrafficPolicy::default() };
        let subset = Subset {
            name: "v1".into(),
            labels: BTreeMap::new(),
            policies: PortPolicies { base: Arc::new(slow), ports: Vec::new() },
            rule,
        };
        let policy = DestinationPolicy {
            host: A.into(),
            namespace: "shop".into(),
            export: Visibility::Public,
            selector: BTreeMap::new(),
            rules: Vec::new(),
            policies: PortPolicies::default(),
            subsets: vec![subset],
        };
        snapshot.set_destination_policies(&A.into(), vec![Arc::new(policy)]);
    });
    assert!(mesh.backend(A, Some("v1")).unwrap().policy.retry_budget.is_some());
    assert!(mesh.backend(A, None).unwrap().policy.retry_budget.is_none());
    assert_eq!(mesh.backend(A, Some("v2")).unwrap_err(), Failure::NoCluster);
    assert_eq!(mesh.backend(B, Some("v1")).unwrap_err(), Failure::NoCluster);
    assert_eq!(mesh.backend("c.shop.svc.cluster.local", None).unwrap_err(), Failure::NoCluster);
}
