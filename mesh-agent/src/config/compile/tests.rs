//! Goldens of single behaviours; `property` holds order-independence, `scale` the cost of one change.

use super::*;
use crate::addr::OrigDst;
use crate::config::resource::parse::parse;
use crate::snapshot::{Destination, EndpointHealth, Enrolment, LbPolicy, OutsideReason, Protocol};
use std::path::Path;

mod analysis;
mod entries;
mod gateway_api;
mod gateways;
mod ineffective;
mod property;
mod routes;
mod scale;
mod status;
mod telemetry;
mod tracing;
mod traffic_scale;

fn settings() -> Settings {
    Settings { node: "n1".into(), cluster_domain: "cluster.local".into() }
}

fn resources(yaml: &str) -> Vec<Arc<Resource>> {
    let parsed = parse(&Path::new("t.yaml").into(), yaml);
    assert!(parsed.diagnostics.is_empty(), "{:?}", parsed.diagnostics);
    parsed.resources.into_iter().map(Arc::new).collect()
}

fn compiled(yaml: &str) -> (Arc<Snapshot>, Vec<String>) {
    let (snapshot, diagnostics) = compile(settings(), resources(yaml));
    (snapshot, diagnostics.iter().map(ToString::to_string).collect())
}

fn service_of(snapshot: &Snapshot, name: &str) -> Arc<Service> {
    snapshot.service(&ServiceName::new("shop", name)).cloned().unwrap_or_else(|| panic!("no service {name}"))
}

fn endpoints_of(snapshot: &Snapshot, name: &str, port: usize) -> Vec<(String, EndpointHealth)> {
    let service = service_of(snapshot, name);
    service.ports[port].endpoints.endpoints.iter().map(|e| (e.addr.to_string(), e.health)).collect()
}

fn dst(addr: &str) -> OrigDst {
    OrigDst::new(addr.parse().unwrap())
}

const SHOP: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio-injection: enabled}}
---
apiVersion: v1
kind: Node
metadata: {name: n1, labels: {topology.kubernetes.io/region: eu, topology.kubernetes.io/zone: eu-a}}
---
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop}
spec:
  clusterIPs: [10.96.0.1, 'fd00::1']
  selector: {app: cart}
  ports:
  - {name: grpc, port: 80, targetPort: rpc}
  - {name: tcp-admin, port: 81, targetPort: 9001}
  - {name: dns, port: 53, protocol: UDP}
---
apiVersion: v1
kind: Pod
metadata:
  {name: cart-1, namespace: shop, uid: u1, labels: {app: cart}, annotations: {undermesh.dev/netns: /run/netns/cart-1}}
spec:
  nodeName: n1
  serviceAccountName: carter
  containers: [{name: c, ports: [{name: rpc, containerPort: 9000}]}]
status: {phase: Running, podIPs: [{ip: 10.0.0.1}, {ip: 'fd00:1::1'}]}
---
apiVersion: v1
kind: Pod
metadata: {name: cart-2, namespace: shop, uid: u2, labels: {app: cart}, deletionTimestamp: '2026-01-01T00:00:00Z'}
spec: {nodeName: n2, containers: [{name: c, ports: [{name: rpc, containerPort: 9009}]}]}
status: {podIP: 10.0.0.2, conditions: [{type: Ready, status: 'True'}]}
";

#[test]
fn a_service_with_pods() {
    let (snapshot, diagnostics) = compiled(SHOP);
    assert_eq!(diagnostics, [""; 0]);
    let cart = service_of(&snapshot, "cart");
    assert_eq!(&*cart.host, "cart.shop.svc.cluster.local");
    assert_eq!(cart.ports.len(), 2, "UDP ports are not ours");
    assert_eq!((cart.ports[0].protocol, cart.ports[1].protocol), (Protocol::Grpc, Protocol::Tcp));
    let want = [
        ("10.0.0.1:9000".to_owned(), EndpointHealth::Ready),
        ("10.0.0.2:9009".to_owned(), EndpointHealth::Draining),
        ("[fd00:1::1]:9000".to_owned(), EndpointHealth::Ready),
    ];
    assert_eq!(endpoints_of(&snapshot, "cart", 0), want);
    let endpoint = &cart.ports[0].endpoints.endpoints[0];
    assert_eq!(&*endpoint.locality.zone, "eu-a");
    let workload = endpoint.workload.as_ref().unwrap();
    assert_eq!((&*workload.service_account, &*workload.owner.name), ("carter", "cart-1"));
    assert!(matches!(&workload.enrolment, Enrolment::Enrolled { netns } if netns.to_string() == "/run/netns/cart-1"));
    let other = cart.ports[0].endpoints.endpoints[1].workload.as_ref().unwrap();
    assert_eq!(other.enrolment, Enrolment::Elsewhere);
    for addr in ["10.96.0.1:80", "[::ffff:10.96.0.1]:80", "[fd00::1]:81"] {
        assert!(matches!(snapshot.destination(dst(addr)), Destination::Service(..)), "{addr}");
    }
    assert!(matches!(snapshot.destination(dst("10.0.0.1:1")), Destination::Workload(w) if &*w.key.name == "cart-1"));
    assert!(matches!(snapshot.destination(dst("10.96.0.1:82")), Destination::Unknown));
}

#[test]
fn slices_then_endpoints_then_pods() {
    let slice = "
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: cart-x, namespace: shop, labels: {kubernetes.io/service-name: cart}}
addressType: IPv4
ports: [{name: grpc, port: 9000}]
endpoints:
- {addresses: [10.0.0.1], conditions: {ready: true}, zone: eu-b, targetRef: {kind: Pod, name: cart-1, namespace: shop}}
- {addresses: [10.0.0.7], conditions: {ready: false, serving: true, terminating: true}}
- {addresses: [10.0.0.8], conditions: {ready: false}}
- {addresses: [10.0.0.9]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: cart-y, namespace: shop, labels: {kubernetes.io/service-name: cart}}
addressType: IPv4
ports: [{name: grpc, port: 9000}]
endpoints: [{addresses: [10.0.0.8]}]
";
    let endpoints = "
---
apiVersion: v1
kind: Endpoints
metadata: {name: cart, namespace: shop}
subsets: [{addresses: [{ip: 10.0.0.5}], notReadyAddresses: [{ip: 10.0.0.6}], ports: [{name: grpc, port: 7}]}]
";
    let (snapshot, _) = compiled(&format!("{SHOP}{slice}{endpoints}"));
    let want = [("10.0.0.1", true), ("10.0.0.7", false), ("10.0.0.8", true), ("10.0.0.9", true)];
    let got = endpoints_of(&snapshot, "cart", 0);
    assert_eq!(got.len(), want.len());
    for ((addr, health), (ip, ready)) in got.iter().zip(want) {
        assert_eq!((addr.as_str(), *health == EndpointHealth::Ready), (format!("{ip}:9000").as_str(), ready));
    }
    assert_eq!(got[1].1, EndpointHealth::Draining);
    let cart = service_of(&snapshot, "cart");
    let first = &cart.ports[0].endpoints.endpoints[0];
    assert_eq!((&*first.locality.region, &*first.locality.zone), ("eu", "eu-b"), "the slice's zone, the node's region");
    assert!(cart.ports[1].endpoints.endpoints.is_empty());

    let (snapshot, _) = compiled(&format!("{SHOP}{endpoints}"));
    let want = [("10.0.0.5:7".to_owned(), EndpointHealth::Ready), ("10.0.0.6:7".to_owned(), EndpointHealth::NotReady)];
    assert_eq!(endpoints_of(&snapshot, "cart", 0), want);
}

#[test]
fn headless_services_speak_for_their_pods() {
    let yaml = SHOP.replace("clusterIPs: [10.96.0.1, 'fd00::1']", "clusterIP: None");
    let (snapshot, diagnostics) = compiled(&yaml);
    assert_eq!(diagnostics, [""; 0]);
    let cart = service_of(&snapshot, "cart");
    assert!(cart.headless && cart.vips.is_empty());
    assert_eq!(cart.ports[0].endpoints.endpoints.len(), 2, "one family, the pods' first");
    let (service, port) = snapshot.headless_port(dst("10.0.0.1:9000")).unwrap();
    assert_eq!((&*service.name.name, port.protocol), ("cart", Protocol::Grpc));
    assert!(snapshot.headless_port(dst("10.0.0.1:9002")).is_none());
}

#[test]
fn each_mistake_is_named_and_takes_nothing_else_down() {
    let yaml = format!(
        "{SHOP}---
apiVersion: v1
kind: Service
metadata: {{name: twin, namespace: shop, annotations: {{undermesh.dev/load-balancer: fastest}}}}
spec: {{clusterIP: 10.96.0.1, selector: {{app: cart}}, ports: [{{name: nonsense, port: 80, targetPort: nowhere}}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: empty, namespace: shop, annotations: {{undermesh.dev/load-balancer: peak-ewma}}}}
spec: {{clusterIP: 10.96.0.300, selector: {{app: ghost}}, ports: [{{name: http, port: 70000}}, {{port: 8080}}, {{name: b, appProtocol: x, port: 8080}}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: bare, namespace: shop}}
spec: {{ports: [{{name: http, port: 80}}], sessionAffinity: ClientIP}}
---
apiVersion: v1
kind: Service
metadata: {{name: out, namespace: shop}}
spec: {{type: ExternalName, externalName: example.com}}
---
apiVersion: v1
kind: Pod
metadata: {{name: hosted, namespace: shop}}
spec: {{hostNetwork: true}}
status: {{podIP: 192.168.0.1}}
---
apiVersion: v1
kind: Pod
metadata: {{name: thief, namespace: shop}}
status: {{podIPs: [{{ip: 10.0.0.1}}, {{ip: 10.0.0}}]}}
"
    );
    let (snapshot, diagnostics) = compiled(&yaml);
    let want = [
        "error UM0106 t.yaml:63 Pod shop/thief status.podIPs[1].ip: \"10.0.0\" is not an IP address",
        "warning UM0202 t.yaml:63 Pod shop/thief status.podIPs: 10.0.0.1 is Pod shop/cart-1 (t.yaml:21)'s address",
        "info UM0203 t.yaml:63 Pod shop/thief metadata.annotations[undermesh.dev/netns]: in the mesh by its labels",
        "info UM0201 t.yaml:57 Pod shop/hosted spec.hostNetwork: hostNetwork",
        "info UM0104 t.yaml:47 Service shop/bare spec.clusterIP: no clusterIP",
        "warning UM0101 t.yaml:47 Service shop/bare spec.selector: no endpoints: it has no selector",
        "error UM0106 t.yaml:42 Service shop/empty spec.clusterIP: \"10.96.0.300\" is not an IP address",
        "error UM0111 t.yaml:42 Service shop/empty spec.ports[0].port: 70000 is not a port number",
        "info IST0118 t.yaml:42 Service shop/empty spec.ports[1].name: port 8080 declares no protocol",
        "error UM0107 t.yaml:42 Service shop/empty spec.ports[2].port: TCP port 8080 is declared twice",
        "warning UM0101 t.yaml:42 Service shop/empty spec.selector: no endpoints: no EndpointSlice, Endpoints or Pod matches (selector app=ghost)",
        "info UM0109 t.yaml:52 Service shop/out spec.externalName: ExternalName: callers are sent to example.com",
        "error UM0102 t.yaml:37 Service shop/twin spec.clusterIP: 10.96.0.1 is already the address of Service shop/cart (t.yaml:10)",
        "error UM0105 t.yaml:37 Service shop/twin metadata.annotations[undermesh.dev/load-balancer]: \"fastest\" is no load-balancing policy",
        "warning IST0118 t.yaml:37 Service shop/twin spec.ports[0].name: port name \"nonsense\" does not begin with a protocol",
        "warning UM0108 t.yaml:37 Service shop/twin spec.ports[0].targetPort: none of the 2 matching pods has a TCP container port named \"nowhere\"",
        "warning UM0101 t.yaml:37 Service shop/twin spec.selector: no endpoints: matching pods have no address or not the target port",
    ];
    for want in want {
        assert!(diagnostics.iter().any(|d| d.starts_with(want)), "missing: {want}\n{diagnostics:#?}");
    }
    assert_eq!(diagnostics.len(), want.len(), "{diagnostics:#?}");
    assert!(diagnostics.iter().all(|d| d.contains("Fix: ")));
    // Healthy objects are as if the others were not there.
    assert_eq!(endpoints_of(&snapshot, "cart", 0).len(), 3);
    assert_eq!(service_of(&snapshot, "empty").ports[0].lb, LbPolicy::PeakEwma);
    assert!(service_of(&snapshot, "twin").vips.is_empty());
    let hosted = snapshot.workloads().find(|w| &*w.key.name == "hosted").unwrap();
    assert_eq!(hosted.enrolment, Enrolment::Outside { reason: OutsideReason::HostNetwork });
    assert!(
        matches!(snapshot.destination(dst("192.168.0.1:80")), Destination::Unknown),
        "a node's address is no pod's"
    );
}

#[test]
fn labels_enrol_and_release_running_pods() {
    let mut compiler = Compiler::new(settings());
    compiler.apply(Changes { upserts: resources(SHOP), ..Changes::default() });
    let ns = |labels: &str| {
        resources(&format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: shop, labels: {labels}}}\n"))
    };
    let update = compiler.apply(Changes { upserts: ns("{}"), ..Changes::default() });
    assert_eq!(update.touched_workloads.len(), 2);
    assert!(update.snapshot.workloads().all(|w| matches!(w.enrolment, Enrolment::Outside { .. })));
    assert_eq!(update.snapshot.generation, 2);
    let update = compiler.apply(Changes { upserts: ns("{istio.io/dataplane-mode: ambient}"), ..Changes::default() });
    let enrolled = update.snapshot.workloads().filter(|w| matches!(w.enrolment, Enrolment::Enrolled { .. })).count();
    assert_eq!(enrolled, 1);
    // The same again changes nothing.
    let update = compiler.apply(Changes { upserts: resources(SHOP), ..Changes::default() });
    let back = compiler.apply(Changes { upserts: resources(SHOP), ..Changes::default() });
    assert!(!back.is_change());
    assert_eq!(back.snapshot.generation, update.snapshot.generation);
}

#[test]
fn what_did_not_change_keeps_its_arc() {
    let mut compiler = Compiler::new(settings());
    let before = compiler.apply(Changes { upserts: resources(SHOP), ..Changes::default() }).snapshot;
    let changed = SHOP.replace("name: tcp-admin, port: 81", "name: http-admin, port: 81");
    let after = compiler.apply(Changes { upserts: resources(&changed), ..Changes::default() });
    assert_eq!(after.touched_services, [ServiceName::new("shop", "cart")]);
    let (before, after) = (service_of(&before, "cart"), service_of(&after.snapshot, "cart"));
    assert!(Arc::ptr_eq(&before.ports[0], &after.ports[0]));
    assert!(Arc::ptr_eq(&before.ports[1].endpoints, &after.ports[1].endpoints));
    assert!(!Arc::ptr_eq(&before.ports[1], &after.ports[1]));
}

#[test]
fn an_address_passes_to_the_next_oldest_when_its_owner_goes() {
    let service = |name: &str, at: &str| {
        format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop, creationTimestamp: {at}}}\nspec: {{clusterIP: 10.96.0.9, ports: [{{name: http, port: 80}}]}}\n"
        )
    };
    let mut compiler = Compiler::new(settings());
    let both = format!("{}{}", service("a", "'2026-02-02T00:00:00Z'"), service("b", "'2026-01-01T00:00:00Z'"));
    let snapshot = compiler.apply(Changes { upserts: resources(&both), ..Changes::default() }).snapshot;
    assert_eq!(service_of(&snapshot, "b").vips.len(), 1);
    assert_eq!(service_of(&snapshot, "a").vips.len(), 0);
    let deletes = vec![ObjectKey::new(Kind::Service, "shop", "b")];
    let update = compiler.apply(Changes { deletes, ..Changes::default() });
    assert!(
        matches!(update.snapshot.destination(dst("10.96.0.9:80")), Destination::Service(s, _) if &*s.name.name == "a")
    );
    assert!(!compiler.diagnostics().any(|d| d.code == Code::AddressTaken));
}
