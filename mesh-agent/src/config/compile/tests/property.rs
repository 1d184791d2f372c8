//! The snapshot is a function of the set of objects in force: order, batching and detours do not show.

use super::*;
use crate::snapshot::covers_host;
use crate::snapshot::route::{Family, Visibility};
use proptest::prelude::*;

/// A small world in which everything collides: few names, addresses, labels.
fn object() -> impl Strategy<Value = String> {
    let ns = || prop_oneof![Just("a"), Just("b")];
    let app = || prop_oneof![Just("x"), Just("y")];
    let ip = || (1..5u8).prop_map(|n| format!("10.0.0.{n}"));
    let node = || prop_oneof![Just("n1"), Just("n2"), Just("''")];
    let stamp = || prop_oneof![Just("null"), Just("'2026-01-01T00:00:00Z'"), Just("'2026-02-01T00:00:00Z'")];
    let namespace = (ns(), any::<bool>()).prop_map(|(name, on)| {
        let mode = if on { "enabled" } else { "disabled" };
        format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, labels: {{istio-injection: {mode}}}}}\n")
    });
    let node_object = (node(), app()).prop_map(|(name, zone)| {
        format!(
            "apiVersion: v1\nkind: Node\nmetadata: {{name: {}, labels: {{topology.kubernetes.io/zone: {zone}}}}}\n",
            name.replace("''", "n3")
        )
    });
    let pod = (ns(), 1..4u8, app(), ip(), node(), 0..6u8, stamp()).prop_map(|(ns, n, app, ip, node, odd, at)| {
        let phase = if odd == 0 { "Failed" } else { "Running" };
        let host = odd == 1;
        let uid = if odd == 2 { "other" } else { "one" };
        format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: p{n}, namespace: {ns}, uid: {uid}, labels: {{app: {app}}}, creationTimestamp: {at}, annotations: {{undermesh.dev/netns: /n}}}}\nspec: {{nodeName: {node}, hostNetwork: {host}, containers: [{{ports: [{{name: main, containerPort: 80}}]}}]}}\nstatus: {{phase: {phase}, podIP: {ip}}}\n")
    });
    let service = (ns(), 1..4u8, app(), 1..4u8, any::<bool>(), any::<bool>(), stamp()).prop_map(|(ns, n, app, vip, headless, named, at)| {
        let vip = if headless { "None".to_owned() } else { format!("10.96.0.{vip}") };
        let target = if named { "main" } else { "80" };
        let affinity = if named { "ClientIP" } else { "None" };
        format!("apiVersion: v1\nkind: Service\nmetadata: {{name: s{n}, namespace: {ns}, creationTimestamp: {at}}}\nspec: {{clusterIP: {vip}, selector: {{app: {app}}}, sessionAffinity: {affinity}, ports: [{{name: grpc, port: 80, targetPort: {target}}}, {{name: tcp, port: 81, targetPort: 80}}]}}\n")
    });
    let slice = (ns(), 1..3u8, 1..4u8, ip(), ip(), 1..4u8, node()).prop_map(|(ns, n, service, one, two, pod, node)| {
        format!("apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: e{n}, namespace: {ns}, labels: {{kubernetes.io/service-name: s{service}}}}}\naddressType: IPv4\nports: [{{name: grpc, port: 80}}]\nendpoints: [{{addresses: [{one}], targetRef: {{kind: Pod, name: p{pod}}}}}, {{addresses: [{two}], nodeName: {node}, conditions: {{ready: false}}}}]\n")
    });
    let endpoints = (ns(), 1..4u8, ip()).prop_map(|(ns, n, ip)| {
        format!("apiVersion: v1\nkind: Endpoints\nmetadata: {{name: s{n}, namespace: {ns}}}\nsubsets: [{{addresses: [{{ip: {ip}}}], ports: [{{name: grpc, port: 80}}]}}]\n")
    });
    let export = || prop_oneof![Just("'*'"), Just("."), Just("a"), Just("'~'")];
    let host =
        || prop_oneof![Just("s1"), Just("s2.a.svc.cluster.local"), Just("'*.a.svc.cluster.local'"), Just("x.org")];
    let virtual_service = (ns(), 1..4u8, host(), host(), 0..5u8, export(), stamp()).prop_map(|(ns, n, one, two, form, export, at)| {
        let rule = match form {
            0 => format!("hosts: [{one}], http: [{{delegate: {{name: v2, namespace: a}}}}, {{route: [{{destination: {{host: s1}}}}]}}]"),
            1 => "http: [{match: [{uri: {prefix: /d}}], route: [{destination: {host: s2}}]}]".to_owned(),
            2 => format!("hosts: [{one}, {two}], gateways: [mesh, g], http: [{{match: [{{uri: {{regex: '('}}}}, {{port: 80}}], route: [{{destination: {{host: s{n}, subset: one}}}}]}}]"),
            3 => format!("hosts: [{one}], tcp: [{{route: [{{destination: {{host: {two}}}}}]}}]"),
            _ => format!("hosts: [{two}], http: [{{name: n{n}, route: [{{destination: {{host: s1}}, weight: {n}}}, {{destination: {{host: s2}}, weight: 1}}]}}]"),
        };
        format!("apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: v{n}, namespace: {ns}, creationTimestamp: {at}}}\nspec: {{exportTo: [{export}], {rule}}}\n")
    });
    let destination_rule = (ns(), 1..4u8, host(), 0..4u8, export(), stamp()).prop_map(|(ns, n, host, form, export, at)| {
        let spec = match form {
            0 => "trafficPolicy: {loadBalancer: {simple: RANDOM}}",
            1 => "subsets: [{name: one, labels: {version: v1}}, {name: one}]",
            2 => "workloadSelector: {matchLabels: {app: x}}, trafficPolicy: {connectionPool: {tcp: {maxConnections: 1}}}",
            _ => "trafficPolicy: {loadBalancer: {simple: BROKEN}, portLevelSettings: [{port: {number: 80}, outlierDetection: {}}]}, subsets: [{name: two, trafficPolicy: {tls: {mode: SIMPLE}}}]",
        };
        format!("apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: d{n}, namespace: {ns}, creationTimestamp: {at}}}\nspec: {{host: {host}, exportTo: [{export}], {spec}}}\n")
    });
    let route = (ns(), 1..4u8, 1..4u8, 1..4u8, 0..5u8, stamp()).prop_map(|(ns, n, parent, backend, form, at)| {
        let parent = format!("group: '', kind: Service, namespace: a, name: s{parent}");
        let backend = format!("name: s{backend}, namespace: b, port: 80");
        let (kind, rule) = match form {
            0 => ("HTTPRoute", format!("matches: [{{path: {{value: /a}}}}], backendRefs: [{{{backend}, weight: {n}}}]")),
            1 => ("HTTPRoute", "filters: [{type: ExtensionRef}]".to_owned()),
            2 => ("HTTPRoute", format!("filters: [{{type: RequestMirror, requestMirror: {{backendRef: {{{backend}}}}}}}]")),
            3 => ("GRPCRoute", format!("matches: [{{method: {{service: s, method: m}}}}], backendRefs: [{{{backend}}}]")),
            _ => ("HTTPRoute", "matches: [{path: {type: RegularExpression, value: '('}}]".to_owned()),
        };
        let port = if form == 0 { ", port: 80" } else { "" };
        format!("apiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{name: r{n}, namespace: {ns}, creationTimestamp: {at}}}\nspec: {{parentRefs: [{{{parent}{port}}}], rules: [{{{rule}}}]}}\n")
    });
    let grant = (ns(), 1..3u8, 1..4u8).prop_map(|(ns, n, to)| {
        format!("apiVersion: gateway.networking.k8s.io/v1beta1\nkind: ReferenceGrant\nmetadata: {{name: g{n}, namespace: b}}\nspec: {{from: [{{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: {ns}}}], to: [{{group: '', kind: Service, name: s{to}}}]}}\n")
    });
    let service_entry = (ns(), 1..4u8, host(), 0..4u8, export(), stamp()).prop_map(|(ns, n, host, form, export, at)| {
        let spec = match form {
            0 => "resolution: STATIC, workloadSelector: {labels: {app: x}}",
            1 => "resolution: STATIC, addresses: [10.96.0.1], endpoints: [{address: 10.0.0.1, labels: {version: v1}}, {address: nonsense}]",
            2 => "resolution: DNS",
            _ => "resolution: DNS_ROUND_ROBIN, endpoints: [{address: x.org, ports: {http: 81}}]",
        };
        format!("apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: e{n}, namespace: {ns}, creationTimestamp: {at}}}\nspec: {{hosts: [{host}, y{n}.org], exportTo: [{export}], ports: [{{number: 80, name: http, protocol: HTTP}}], {spec}}}\n")
    });
    let workload_entry = (ns(), 1..3u8, app(), ip()).prop_map(|(ns, n, app, ip)| {
        format!("apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {{name: w{n}, namespace: {ns}}}\nspec: {{address: {ip}, labels: {{app: {app}}}}}\n")
    });
    let sidecar = (ns(), 1..3u8, app(), stamp()).prop_map(|(ns, n, app, at)| {
        format!("apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {{name: c{n}, namespace: {ns}, creationTimestamp: {at}}}\nspec: {{workloadSelector: {{labels: {{app: {app}}}}}, egress: [{{hosts: [./*, nonsense]}}]}}\n")
    });
    let mesh = (export(), any::<bool>()).prop_map(|(export, any)| {
        let mode = if any { "ALLOW_ANY" } else { "REGISTRY_ONLY" };
        let export = export.replace('\'', "\"");
        format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\ndata:\n  mesh: |-\n    defaultServiceExportTo: [{export}]\n    defaultVirtualServiceExportTo: [{export}]\n    outboundTrafficPolicy: {{mode: {mode}}}\n    defaultHttpRetryPolicy: {{attempts: 1}}\n    defaultTrafficPolicy: {{connectionPool: {{tcp: {{maxConnections: 3}}}}}}\n")
    });
    let request_policy = (ns(), 1..3u8, host(), stamp()).prop_map(|(ns, n, host, at)| {
        format!("apiVersion: undermesh.dev/v1alpha1\nkind: RequestPolicy\nmetadata: {{name: r{n}, namespace: {ns}, creationTimestamp: {at}}}\nspec: {{hosts: [{host}], rateLimit: {{maxTokens: {n}}}, connection: {{maxAge: {n}m}}}}\n")
    });
    let istio = prop_oneof![4 => service_entry, 2 => workload_entry, 1 => sidecar, 1 => mesh, 2 => request_policy];
    let kubernetes = prop_oneof![1 => namespace, 1 => node_object, 6 => pod, 4 => service, 2 => slice, 1 => endpoints];
    prop_oneof![6 => kubernetes, 2 => virtual_service, 2 => destination_rule, 2 => route, 1 => grant, 2 => istio]
}

/// An object, whether it is deleted instead, and whether the batch ends after it.
fn history() -> impl Strategy<Value = Vec<(String, bool, bool)>> {
    proptest::collection::vec((object(), prop::bool::weighted(0.25), any::<bool>()), 1..60)
}

fn all_diagnostics(compiler: &Compiler) -> Vec<Diagnostic> {
    compiler.diagnostics().cloned().collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_history_compiles_to_what_is_left_of_it(steps in history(), rotate in 0..60usize) {
        let mut compiler = Compiler::new(settings());
        let mut left: BTreeMap<ObjectKey, Arc<Resource>> = BTreeMap::new();
        let mut batch = Changes::default();
        let mut last = Arc::new(Snapshot::default());
        for (text, delete, end) in steps {
            let resource = Arc::clone(&resources(&text)[0]);
            // One batch says one thing about one object.
            let told = batch.deletes.contains(&resource.key) || batch.upserts.iter().any(|r| r.key == resource.key);
            if told || end {
                last = compiler.apply(std::mem::take(&mut batch)).snapshot;
            }
            if delete {
                left.remove(&resource.key);
                batch.deletes.push(resource.key.clone());
            } else {
                left.insert(resource.key.clone(), Arc::clone(&resource));
                batch.upserts.push(resource);
            }
        }
        let update = compiler.apply(batch);
        prop_assert_eq!(update.is_change(), !update.snapshot.same_content(&last));

        let mut objects: Vec<_> = left.into_values().collect();
        let middle = rotate % objects.len().max(1);
        objects.rotate_left(middle);
        let mut whole = Compiler::new(settings());
        let full = whole.apply(Changes { upserts: objects, ..Changes::default() }).snapshot;
        prop_assert!(full.same_content(&update.snapshot), "incremental {:#?}\nfull {:#?}", update.snapshot, full);
        prop_assert_eq!(all_diagnostics(&whole), all_diagnostics(&compiler));
        // Hosts without a Service, as whoever looks at all of them finds them.
        let unserved = |host: &str| !full.services().any(|s| *s.host == *host || covers_host(host, &s.host));
        let mut ruled: Vec<&str> = full
            .virtual_hosts()
            .filter(|v| v.family == Family::Istio && v.export != Visibility::Nobody && unserved(&v.host))
            .map(|v| &*v.host)
            .collect();
        ruled.sort_unstable();
        ruled.dedup();
        prop_assert_eq!(full.ruled_hosts().map(|host| &**host).collect::<Vec<_>>(), ruled);
        // No service holds another's address, and each address leads back to its owner.
        for service in full.services() {
            for (vip, port) in service.addrs() {
                let found = full.destination(OrigDst::new((vip, port).into()));
                prop_assert!(matches!(found, Destination::Service(s, _) if s.name == service.name));
            }
        }
    }
}
