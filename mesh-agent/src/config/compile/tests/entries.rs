//! ServiceEntries, Sidecars, the mesh's settings, RequestPolicies → snapshot.

use super::routes::seen;
use super::*;
use crate::snapshot::access_log::{Encoding, Format};
use crate::snapshot::policy::{Balancer, LocalityPolicy};
use crate::snapshot::route::{Action, Family};
use crate::snapshot::{Client, OutboundPolicy, Resolution, TrafficDistribution};
use std::net::Ipv4Addr;
use std::time::Duration;

fn istio(kind: &str, name: &str, namespace: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: {kind}\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec:\n{spec}\n"
    )
}

fn named(snapshot: &Snapshot, host: &str) -> Arc<Service> {
    snapshot.service(&ServiceName::new("shop", host)).cloned().unwrap_or_else(|| panic!("no {host}"))
}

fn addrs(service: &Service) -> Vec<String> {
    service.ports[0].endpoints.endpoints.iter().map(|e| format!("{}*{}", e.addr, e.weight)).collect()
}

#[test]
fn endpoints_written_selected_and_resolved() {
    let yaml = [
        istio("ServiceEntry", "static", "shop", "  hosts: [db.example.com]\n  addresses: [10.1.1.1]\n  ports: [{number: 80, name: http, protocol: HTTP, targetPort: 8080}, {number: 443, name: tls, protocol: TLS}]\n  resolution: STATIC\n  location: MESH_INTERNAL\n  endpoints:\n  - {address: 10.2.0.1, ports: {http: 9}, weight: 3, labels: {version: v1}, locality: eu/a/b}\n  - {address: 10.2.0.2}\n  - {address: not-an-ip}"),
        istio("ServiceEntry", "selected", "shop", "  hosts: [vm.example.com]\n  ports: [{number: 80, name: http, protocol: HTTP}]\n  resolution: STATIC\n  workloadSelector: {labels: {app: vm}}"),
        istio("WorkloadEntry", "w1", "shop", "  address: 10.3.0.1\n  labels: {app: vm}\n  ports: {http: 8088}\n  serviceAccount: vmer"),
        istio("WorkloadEntry", "w2", "shop", "  address: 10.3.0.2\n  labels: {app: other}"),
        istio("ServiceEntry", "dns", "shop", "  hosts: [api.example.org, '*.wild.org']\n  ports: [{number: 443, name: https, protocol: HTTPS}]\n  resolution: DNS"),
    ]
    .concat();
    let mut compiler = Compiler::new(settings());
    let update = compiler.apply(Changes { upserts: resources(&yaml), ..Changes::default() });
    let db = named(&update.snapshot, "db.example.com");
    assert_eq!(addrs(&db), ["10.2.0.1:9*3", "10.2.0.2:8080*1"]);
    assert_eq!(
        (db.external, db.resolution, &db.vips[..]),
        (false, Resolution::Static, &["10.1.1.1".parse().unwrap()][..])
    );
    let first = &db.ports[0].endpoints.endpoints[0];
    assert_eq!((&*first.locality.zone, first.workload.as_ref().unwrap().labels.len()), ("a", 1));
    assert_eq!(db.ports[1].protocol, Protocol::Tls);
    assert_eq!(addrs(&named(&update.snapshot, "vm.example.com")), ["10.3.0.1:8088*1"]);
    let labels = BTreeMap::new();
    let client = Client { namespace: "elsewhere", labels: &labels };
    assert_eq!(&*update.snapshot.service_by_host(&client, "a.wild.org").unwrap().host, "*.wild.org");

    assert_eq!(addrs(&named(&update.snapshot, "api.example.org")), [""; 0]);
    assert_eq!(compiler.names().map(|n| &**n).collect::<Vec<_>>(), ["api.example.org"]);
    let resolved = vec![("api.example.org".into(), vec!["1.2.3.5".parse().unwrap(), "1.2.3.4".parse().unwrap()])];
    let update = compiler.apply(Changes { resolved: resolved.clone(), ..Changes::default() });
    assert_eq!(update.touched_services, [ServiceName::new("shop", "api.example.org")]);
    assert_eq!(addrs(&named(&update.snapshot, "api.example.org")), ["1.2.3.4:443*1", "1.2.3.5:443*1"]);
    assert!(!compiler.apply(Changes { resolved, ..Changes::default() }).is_change());

    let moved = istio("WorkloadEntry", "w2", "shop", "  address: 10.3.0.2\n  labels: {app: vm}");
    let update = compiler.apply(Changes { upserts: resources(&moved), ..Changes::default() });
    assert_eq!(addrs(&named(&update.snapshot, "vm.example.com")), ["10.3.0.1:8088*1", "10.3.0.2:80*1"]);
    let said: Vec<_> = compiler.diagnostics().map(|d| d.field.as_str()).collect();
    assert_eq!(said, ["spec.hosts", "spec.endpoints[2].address"]);
}

#[test]
fn hosts_without_an_address_get_one_by_name() {
    let entry = |n: usize| {
        istio(
            "ServiceEntry",
            &format!("e{n}"),
            "shop",
            &format!(
                "  hosts: [h{n}.example.com]\n  ports: [{{number: 80, name: tcp, protocol: TCP}}]\n  resolution: DNS"
            ),
        )
    };
    let all: Vec<String> = (0..300).map(entry).collect();
    let (snapshot, _) = compiled(&all.concat());
    let (again, _) = compiled(&all.iter().rev().cloned().collect::<String>());
    assert!(snapshot.same_content(&again));
    let mut vips: Vec<IpAddr> = snapshot.services().flat_map(|s| s.vips.clone()).collect();
    vips.sort();
    vips.dedup();
    assert_eq!(vips.len(), 300, "each its own");
    let range: ipnet::Ipv4Net = "240.240.0.0/16".parse().unwrap();
    assert!(
        vips.iter()
            .all(|ip| matches!(ip, IpAddr::V4(ip) if range.contains(ip) && *ip != Ipv4Addr::new(240, 240, 0, 0)))
    );
    let none =
        istio("ServiceEntry", "n", "shop", "  hosts: ['*.a.com']\n  ports: [{number: 80, name: tcp, protocol: TCP}]");
    let (snapshot, _) = compiled(&none);
    assert!(named(&snapshot, "*.a.com").vips.is_empty());
}

#[test]
fn a_kubernetes_service_counts_before_an_entry_for_its_host() {
    let entry = istio(
        "ServiceEntry",
        "e",
        "other",
        "  hosts: [cart.shop.svc.cluster.local]\n  ports: [{number: 80, name: http, protocol: HTTP}]\n  resolution: STATIC\n  endpoints: [{address: 1.1.1.1}]",
    );
    let name = ServiceName::new("other", "cart.shop.svc.cluster.local");
    let mut compiler = Compiler::new(settings());
    let first = compiler.apply(Changes { upserts: resources(&entry), ..Changes::default() }).snapshot;
    assert!(first.service(&name).is_some());
    let second = compiler.apply(Changes { upserts: resources(SHOP), ..Changes::default() }).snapshot;
    assert!(second.service(&name).is_none());
    let deletes = vec![ObjectKey::new(Kind::Service, "shop", "cart")];
    let third = compiler.apply(Changes { deletes, ..Changes::default() }).snapshot;
    assert!(third.service(&name).is_some());
}

#[test]
fn sidecars_scope_their_namespace() {
    let yaml = [
        istio("Sidecar", "default", "shop", "  egress: [{hosts: ['./*', 'prod/reviews.prod.svc.cluster.local', '*/*.example.com', '~prod/x', oops]}]\n  outboundTrafficPolicy: {mode: REGISTRY_ONLY}"),
        istio("Sidecar", "one", "shop", "  workloadSelector: {labels: {app: a}}\n  egress: [{port: {number: 9080}, hosts: ['~/*']}, {hosts: ['*/*']}]"),
    ]
    .concat();
    let (snapshot, diagnostics) = compiled(&yaml);
    assert_eq!(diagnostics.len(), 1, "{diagnostics:?}");
    assert!(diagnostics[0].contains("Sidecar shop/default spec.egress[0].hosts[4]"));
    let none = BTreeMap::new();
    let plain = snapshot.egress(&Client { namespace: "shop", labels: &none }, "istio-system").unwrap();
    assert_eq!(plain.outbound, Some(OutboundPolicy::RegistryOnly));
    assert!(plain.allows("shop", "cart.shop.svc.cluster.local", 80));
    assert!(plain.allows("prod", "reviews.prod.svc.cluster.local", 80));
    assert!(!plain.allows("prod", "ratings.prod.svc.cluster.local", 80));
    let labels = BTreeMap::from([("app".into(), "a".into())]);
    let own = snapshot.egress(&Client { namespace: "shop", labels: &labels }, "istio-system").unwrap();
    assert!(own.allows("prod", "ratings.prod.svc.cluster.local", 80));
    assert!(!own.allows("prod", "ratings.prod.svc.cluster.local", 9080));
}

#[test]
fn a_sidecar_chooses_among_virtual_services_as_among_services() {
    let rules = |name: &str, namespace: &str| {
        istio(
            "VirtualService",
            name,
            namespace,
            "  hosts: [cart.shop.svc.cluster.local]\n  http: [{directResponse: {status: 200}}]\n  tcp: [{route: [{destination: {host: cart}}]}]",
        )
    };
    let yaml = format!("{SHOP}{}", rules("foreign", "far"));
    let labels = BTreeMap::new();
    let client = Client { namespace: "shop", labels: &labels };
    let host = "cart.shop.svc.cluster.local";
    let of = |snapshot: &Snapshot| {
        let http = snapshot.virtual_host(&client, host, 80).map(|v| v.namespace.to_string());
        let l4 = snapshot.l4_host(&client, host, 80).map(|v| v.namespace.to_string());
        (http, l4)
    };
    let both = |namespace: &str| (Some(namespace.to_owned()), Some(namespace.to_owned()));
    let scoped = |hosts: &str| istio("Sidecar", "default", "shop", &format!("  egress: [{{hosts: [{hosts}]}}]"));
    assert_eq!(of(&compiled(&yaml).0), both("far"));
    assert_eq!(of(&compiled(&format!("{yaml}{}", scoped("./*"))).0), (None, None), "its namespace is not looked at");
    assert_eq!(of(&compiled(&format!("{yaml}{}", scoped("./*, far/*"))).0), both("far"));
    assert_eq!(of(&compiled(&format!("{yaml}{}", scoped("./*, far/*.other.com"))).0), (None, None), "nor its host");
    let own = format!("{yaml}{}{}", scoped("./*"), rules("young", "shop"));
    assert_eq!(of(&compiled(&own).0), both("shop"), "what is not looked at does not stand in the way");
}

#[test]
fn the_meshs_settings_hold_for_all() {
    let mesh = "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata:\n  mesh: |-\n    rootNamespace: mesh-root\n    accessLogFile: /dev/stdout\n    accessLogEncoding: JSON\n    accessLogFormat: '%NO_SUCH%'\n    meshMTLS: {minProtocolVersion: TLSV1_3}\n    outboundTrafficPolicy: {mode: REGISTRY_ONLY}\n    defaultHttpRetryPolicy: {attempts: 5, retryOn: 5xx}\n    localityLbSetting: {enabled: false}\n    defaultVirtualServiceExportTo: ['.']\n    defaultTrafficPolicy: {outlierDetection: {consecutive5xxErrors: 7}}\n  meshNetworks: 'networks: {}'\n";
    let yaml = [
        istio("VirtualService", "v", "shop", "  hosts: [a]\n  http: [{route: [{destination: {host: a}}]}]"),
        istio("DestinationRule", "d", "shop", "  host: a\n  trafficPolicy: {loadBalancer: {simple: RANDOM}}"),
    ]
    .concat();
    let mut compiler = Compiler::new(settings());
    compiler.apply(Changes { upserts: resources(&yaml), ..Changes::default() });
    let update = compiler.apply(Changes { upserts: resources(mesh), ..Changes::default() });
    let settings = update.snapshot.mesh();
    assert!(update.touched_scopes);
    assert_eq!((&*settings.root_namespace, settings.outbound), ("mesh-root", OutboundPolicy::RegistryOnly));
    assert_eq!(*settings.locality, LocalityPolicy::Off);
    assert_eq!(settings.policy.outlier.as_ref().unwrap().consecutive_5xx, 7);
    let host = "a.shop.svc.cluster.local";
    assert!(seen(&update.snapshot, "other", host).is_none(), "private by default now");
    let own = seen(&update.snapshot, "shop", host).unwrap();
    let Action::Forward(forward) = &own.routes[0].action else { panic!() };
    assert_eq!(forward.retry.as_ref().unwrap().attempts, 5);
    assert!(update.snapshot.destination_policies_of(host)[0].policies.base.outlier.is_some());
    let mut said: Vec<_> = compiler.diagnostics().map(|d| (d.field.as_str(), d.severity)).collect();
    said.sort_by_key(|(field, _)| *field);
    let (error, info) = (crate::config::Severity::Error, crate::config::Severity::Info);
    assert_eq!(said, [("data.mesh: accessLogFormat", error), ("data.mesh: meshMTLS", info)]);
    let log = &settings.access_log;
    assert_eq!(log.file.as_deref(), Some("/dev/stdout"));
    assert_eq!(*log.format, Format::parse(Encoding::Json, "").unwrap(), "what is not understood leaves Istio's line");
    let deletes = vec![ObjectKey::new(Kind::ConfigMap, "istio-system", "istio")];
    let update = compiler.apply(Changes { deletes, ..Changes::default() });
    assert!(seen(&update.snapshot, "other", host).is_some());
    assert_eq!(compiler.diagnostics().count(), 0);
}

#[test]
fn request_policies_need_no_virtual_service() {
    let policy = |hosts: &str| {
        format!(
            "---\napiVersion: undermesh.dev/v1alpha1\nkind: RequestPolicy\nmetadata: {{name: p, namespace: shop}}\nspec:\n  {hosts}\n  rateLimit: {{maxTokens: 4, tokensPerFill: 2, fillInterval: 60s, resourceExhausted: true, responseHeaders: {{x-limit: '4'}}}}\n  hedging: {{delay: 100ms}}\n  connection: {{maxAge: 5m}}\n"
        )
    };
    let host = "a.shop.svc.cluster.local";
    let (snapshot, diagnostics) = compiled(&policy("targetRefs: [{kind: Service, name: a}]"));
    assert_eq!(diagnostics, [""; 0]);
    let found = seen(&snapshot, "anywhere", host).unwrap();
    assert_eq!((found.family, found.routes.len()), (Family::Default, 1));
    let limit = found.routes[0].rate_limit.as_ref().unwrap();
    assert_eq!((limit.max_tokens, limit.tokens_per_fill, limit.fill_interval), (4, 2, Duration::from_secs(60)));
    let Action::Forward(forward) = &found.routes[0].action else { panic!() };
    assert_eq!(forward.hedge.as_ref().unwrap().max_attempts, 2);
    let pool = &snapshot.destination_policies_of(host)[0].policies.base.pool;
    assert_eq!(pool.max_connection_duration, Some(Duration::from_secs(300)));

    // Laid over a wildcard's routes and policies; only the named route is limited.
    let wide = [
        istio("VirtualService", "v", "shop", "  hosts: ['*.shop.svc.cluster.local']\n  http: [{name: one, match: [{uri: {prefix: /one}}], route: [{destination: {host: a}}]}, {name: two, route: [{destination: {host: a}}]}]"),
        istio("DestinationRule", "d", "shop", "  host: '*.shop.svc.cluster.local'\n  trafficPolicy: {loadBalancer: {simple: RANDOM}}"),
        policy("hosts: [a]\n  routes: [two]"),
    ]
    .concat();
    let (snapshot, diagnostics) = compiled(&wide);
    assert_eq!(diagnostics, [""; 0]);
    let found = seen(&snapshot, "shop", host).unwrap();
    let limited: Vec<_> = found.routes.iter().map(|r| (&*r.name, r.rate_limit.is_some())).collect();
    assert_eq!(limited, [("one", false), ("two", true)]);
    assert!(seen(&snapshot, "shop", "b.shop.svc.cluster.local").unwrap().routes[1].rate_limit.is_none());
    let base = &snapshot.destination_policies_of(host)[0].policies.base;
    assert_eq!((&base.balancer, base.pool.max_connection_duration.is_some()), (&Balancer::Random, true));

    let (snapshot, diagnostics) = compiled(&policy("hosts: [b.prod.svc.cluster.local]"));
    assert!(seen(&snapshot, "prod", "b.prod.svc.cluster.local").is_none());
    assert!(diagnostics[0].starts_with("error UM0112 t.yaml:2 RequestPolicy shop/p spec.hosts[0]"), "{diagnostics:?}");
}

#[test]
fn traffic_fields_of_services() {
    let yaml = "---\napiVersion: v1\nkind: Service\nmetadata: {name: a, namespace: shop, annotations: {networking.istio.io/exportTo: '., back'}}\nspec: {clusterIP: 10.96.0.1, trafficDistribution: PreferClose, sessionAffinity: ClientIP, ports: [{name: http, port: 80}]}\n";
    let (snapshot, _) = compiled(yaml);
    let service = service_of(&snapshot, "a");
    assert!(service.export.visible_to("shop", "back") && service.export.visible_to("shop", "shop"));
    assert!(!service.export.visible_to("shop", "front"));
    assert_eq!(service.traffic_distribution, Some(TrafficDistribution::SameZone));
    let labels = BTreeMap::new();
    let client = Client { namespace: "front", labels: &labels };
    let policy = snapshot.destination_policy(&client, &service, "istio-system").unwrap();
    assert!(matches!(policy.policies.of(80).balancer, Balancer::ConsistentHash(_)));
}
