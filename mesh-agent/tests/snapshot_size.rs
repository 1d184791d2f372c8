//! What a snapshot weighs: 10,000 Services with 5 rules each, 100,000 endpoints, at most 150 MB.

use mesh_agent::config::Changes;
use mesh_agent::config::compile::{Compiler, Settings};
use mesh_agent::config::resource::{Resource, parse};
use mesh_agent::snapshot::Snapshot;
use peak_alloc::PeakAlloc;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

/// Counts what is allocated and not freed; this file has one test, so nobody else allocates meanwhile.
#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

const SERVICES: usize = 10_000;
const ENDPOINTS: usize = 10;
const BAR: usize = 150_000_000;

#[test]
fn ten_thousand_services_fit() {
    let before = HEAP.current_usage();
    let snapshot = snapshot();
    let ports = snapshot.services().flat_map(|service| &service.ports);
    assert_eq!(ports.map(|port| port.endpoints.endpoints.len()).sum::<usize>(), SERVICES * ENDPOINTS);
    let rules: usize = snapshot.virtual_hosts().map(|host| host.routes.len()).sum();
    assert!(rules >= SERVICES * 5, "{rules}");
    let weight = HEAP.current_usage() - before;
    println!("{} bytes", weight);
    assert!(weight <= BAR, "{weight} bytes, at most {BAR} are allowed");
}

/// The snapshot alone: objects and compiler are dropped.
fn snapshot() -> Arc<Snapshot> {
    let mut compiler = Compiler::new(Settings { node: "n1".into(), cluster_domain: "cluster.local".into() });
    let mut snapshot = Arc::new(Snapshot::default());
    for first in (0..SERVICES).step_by(500) {
        let upserts = (first..first + 500).flat_map(service).map(Arc::new).collect();
        snapshot = compiler.apply(Changes { upserts, ..Changes::default() }).snapshot;
    }
    snapshot
}

fn service(n: usize) -> Vec<Resource> {
    let (a, b) = (n / 250, n % 250 + 1);
    let mut yaml = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: s{n}, namespace: shop}}\n\
         spec: {{clusterIP: 10.96.{a}.{b}, ports: [{{name: http, port: 80}}]}}\n\
         ---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: s{n}, namespace: shop}}\n\
         spec: {{host: s{n}, trafficPolicy: {{outlierDetection: {{}}}}, subsets: [{{name: v1, labels: {{version: v1}}}}]}}\n\
         ---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: s{n}, namespace: shop, labels: {{kubernetes.io/service-name: s{n}}}}}\n\
         addressType: IPv4\nports: [{{name: http, port: 8080}}]\nendpoints:\n"
    );
    for e in 0..ENDPOINTS {
        let _ = writeln!(yaml, "- {{addresses: [10.{}.{a}.{b}], nodeName: n{}}}", 100 + e, e % 3);
    }
    let _ = write!(
        yaml,
        "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: s{n}, namespace: shop}}\n\
         spec:\n  hosts: [s{n}]\n  http:\n"
    );
    for m in 0..4 {
        let _ = writeln!(
            yaml,
            "  - {{match: [{{uri: {{prefix: /{m}}}, headers: {{x-version: {{exact: v{m}}}}}}}], retries: {{attempts: 3, retryOn: 5xx}}, \
             timeout: 5s, route: [{{destination: {{host: s{n}, subset: v1}}}}]}}"
        );
    }
    let _ = writeln!(yaml, "  - {{route: [{{destination: {{host: s{n}}}}}]}}");
    let parsed = parse::parse(&Path::new("size.yaml").into(), &yaml);
    assert!(parsed.diagnostics.is_empty(), "{:?}", parsed.diagnostics);
    parsed.resources
}
