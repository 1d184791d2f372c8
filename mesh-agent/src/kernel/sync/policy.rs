//! Pure: whether somebody wants more for an opaque port than the kernel does by itself, which is to choose one of its
//! endpoints by weight.

use super::reach::Every;
use crate::snapshot::policy::{Balancer, ClientTlsMode, LocalityPolicy, TrafficPolicy};
use crate::snapshot::route::{Conditions, MESH};
use crate::snapshot::{L4Host, LbPolicy, Resolution, Service, ServicePort, Snapshot};

/// The port's connections go to the agent, whoever's they are: the kernel does not tell one pod's rules from another's.
pub(super) fn wants_agent(snapshot: &Snapshot, service: &Service, port: &ServicePort, every: &Every) -> bool {
    let number = port.port;
    let mut policies = snapshot.destination_policies_about(&service.host);
    service.by_host
        // Where the connection was made for, which the agent counts under the Service's name.
        || matches!(service.resolution, Resolution::None | Resolution::DynamicDns)
        || service.traffic_distribution.is_some()
        || !matches!(port.lb, LbPolicy::Default | LbPolicy::Random)
        || every.withholds(service, number)
        || acts(&every.policy)
        || policies.any(|policy| acts(policy.policies.of(number)))
        || snapshot.l4_hosts_about(&service.host).any(|host| routes(host, number))
}

/// A rule that may take connections to the port. What else it asks for is the agent's to find out.
fn routes(host: &L4Host, port: u16) -> bool {
    let may = |wanted: &Conditions| {
        wanted.port.is_none_or(|wanted| wanted == port) && wanted.gateways.iter().any(|gateway| **gateway == *MESH)
    };
    let routes = &host.routes;
    routes.tls.iter().any(|tls| may(&tls.conditions)) || routes.tcp.iter().any(|tcp| may(&tcp.conditions))
}

/// The policy does something to connections that nobody looks into. Subsets do only where a rule names them.
fn acts(policy: &TrafficPolicy) -> bool {
    let pool = &policy.pool;
    let secured = |mode| matches!(mode, ClientTlsMode::Simple | ClientTlsMode::Mutual);
    // The kernel's own choice is random.
    !matches!(policy.balancer, Balancer::Default | Balancer::Random)
        || policy.locality.as_deref().is_some_and(|locality| *locality != LocalityPolicy::Off)
        || policy.warmup.is_some()
        || policy.outlier.is_some()
        || policy.tls.as_ref().is_some_and(|tls| secured(tls.mode))
        || policy.proxy_protocol.is_some()
        || pool.max_connections.is_some()
        || pool.connect_timeout.is_some()
        || pool.tcp_keepalive.is_some()
        || pool.max_connection_duration.is_some()
        || pool.tcp_idle_timeout.is_some()
}

#[cfg(test)]
mod tests {
    use super::super::plan::ruled;
    use super::super::reach::Reach;
    use super::super::{Update, replanned};
    use super::*;
    use crate::config::Changes;
    use crate::config::compile::{self, Compiler, Settings};
    use crate::config::resource::{ObjectKey, parse::parse};
    use std::path::Path;
    use std::sync::Arc;

    const SHOP: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio-injection: enabled}}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, uid: u1, labels: {app: web}, annotations: {undermesh.dev/netns: /none}}
status: {phase: Running, podIPs: [{ip: 10.1.0.9}]}
---
apiVersion: v1
kind: Service
metadata: {name: db, namespace: shop}
spec: {clusterIP: 10.96.0.1, ports: [{name: tcp-a, port: 5432}, {name: tls-b, port: 5433}]}
---
apiVersion: v1
kind: Service
metadata: {name: other, namespace: far}
spec: {clusterIP: 10.96.0.2, ports: [{name: tcp, port: 5432}]}
";

    struct Mesh(Compiler);

    impl Mesh {
        fn new() -> (Self, compile::Update) {
            let settings = Settings { node: "".into(), cluster_domain: "cluster.local".into() };
            let mut mesh = Self(Compiler::new(settings));
            let update = mesh.apply(SHOP);
            (mesh, update)
        }

        fn apply(&mut self, yaml: &str) -> compile::Update {
            let parsed = parse(&Path::new("t.yaml").into(), yaml);
            assert!(parsed.diagnostics.is_empty(), "{:?}", parsed.diagnostics);
            let upserts = parsed.resources.into_iter().map(Arc::new).collect();
            self.0.apply(Changes { upserts, ..Changes::default() })
        }

        fn delete(&mut self, yaml: &str) -> compile::Update {
            let deletes: Vec<ObjectKey> =
                parse(&Path::new("t.yaml").into(), yaml).resources.into_iter().map(|r| r.key).collect();
            self.0.apply(Changes { deletes, ..Changes::default() })
        }
    }

    /// `host:port` of every opaque port that goes to the agent.
    fn to_agent(snapshot: &Snapshot) -> Vec<String> {
        let reach = Reach::of(snapshot);
        let ports = snapshot.services().flat_map(|s| s.ports.iter().map(move |p| (s, p)));
        let mut found: Vec<_> = ports
            .filter(|(s, p)| p.protocol.is_opaque() && wants_agent(snapshot, s, p, &reach.every))
            .map(|(s, p)| format!("{}:{}", s.name.name, p.port))
            .collect();
        found.sort();
        found
    }

    /// What the update makes the kernel's side look at again.
    fn looked_at(update: &compile::Update) -> Vec<String> {
        let touched =
            Update { services: &update.touched_services, hosts: &update.touched_hosts, ..Update::of(&update.snapshot) };
        let names = replanned(&touched, false);
        names.iter().filter(|name| **name != ruled()).map(ToString::to_string).collect()
    }

    fn istio(kind: &str, spec: &str) -> String {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: {kind}\nmetadata: {{name: x, namespace: shop}}\nspec: {spec}\n"
        )
    }

    #[test]
    fn an_object_sends_exactly_its_ports_to_the_agent_and_its_end_sends_them_back() {
        let rule = |policy: &str| istio("DestinationRule", &format!("{{host: db, trafficPolicy: {policy}}}"));
        let both = ["db:5432", "db:5433"];
        let cases: &[(String, &[&str])] = &[
            (rule("{connectionPool: {tcp: {maxConnections: 1}}}"), &both),
            (rule("{outlierDetection: {}}"), &both),
            (rule("{loadBalancer: {simple: ROUND_ROBIN}}"), &both),
            (rule("{loadBalancer: {consistentHash: {useSourceIp: true}}}"), &both),
            (rule("{tls: {mode: SIMPLE}}"), &both),
            (
                rule("{portLevelSettings: [{port: {number: 5433}, connectionPool: {tcp: {connectTimeout: 1s}}}]}"),
                &["db:5433"],
            ),
            (rule("{loadBalancer: {simple: RANDOM}}"), &[]),
            (rule("{connectionPool: {http: {http2MaxRequests: 1}}}"), &[]),
            (istio("DestinationRule", "{host: db, subsets: [{name: v1, labels: {v: v1}}]}"), &[]),
            (istio("VirtualService", "{hosts: [db], tcp: [{route: [{destination: {host: other.far}}]}]}"), &both),
            (
                istio(
                    "VirtualService",
                    "{hosts: [db], tls: [{match: [{port: 5433, sniHosts: [db.shop.svc.cluster.local]}], route: [{destination: {host: db}}]}]}",
                ),
                &["db:5433"],
            ),
            (
                istio(
                    "VirtualService",
                    "{hosts: [db], gateways: [g], tcp: [{route: [{destination: {host: other.far}}]}]}",
                ),
                &[],
            ),
            (
                istio("Sidecar", "{outboundTrafficPolicy: {mode: REGISTRY_ONLY}, egress: [{hosts: [./*]}]}"),
                &["other:5432"],
            ),
            (istio("Sidecar", "{egress: [{hosts: [./*]}]}"), &[]),
        ];
        for (yaml, wanted) in cases {
            let (mut mesh, update) = Mesh::new();
            assert_eq!(to_agent(&update.snapshot), [""; 0]);
            let update = mesh.apply(yaml);
            assert_eq!(to_agent(&update.snapshot), *wanted, "{yaml}");
            assert_eq!(update.touched_services, [], "{yaml}");
            // A Sidecar is about pods, a gateway's routes are no pod's.
            let about_db = !yaml.contains("Sidecar") && !yaml.contains("gateways");
            assert_eq!(looked_at(&update), if about_db { &["shop/db"][..] } else { &[] }, "{yaml}");
            let update = mesh.delete(yaml);
            assert_eq!(to_agent(&update.snapshot), [""; 0], "{yaml}");
            assert_eq!(looked_at(&update), if about_db { &["shop/db"][..] } else { &[] }, "{yaml}");
        }
    }

    #[test]
    fn a_wildcard_is_about_every_service_it_covers() {
        let (mut mesh, _) = Mesh::new();
        let update = mesh.apply(&istio(
            "DestinationRule",
            "{host: '*.shop.svc.cluster.local', trafficPolicy: {outlierDetection: {}}}",
        ));
        assert_eq!(looked_at(&update), ["shop/db"]);
        assert_eq!(to_agent(&update.snapshot), ["db:5432", "db:5433"]);
    }

    #[test]
    fn pods_that_may_reach_only_what_is_declared() {
        let (mut mesh, update) = Mesh::new();
        let reach = Reach::of(&update.snapshot);
        assert!(reach.restricted.is_empty());
        assert_eq!(reach.pods, ["10.1.0.9".parse().unwrap()].into());
        let restricted = |update: &compile::Update| Reach::of(&update.snapshot).restricted.len();
        let sidecar = |labels: &str| {
            istio(
                "Sidecar",
                &format!(
                    "{{workloadSelector: {{labels: {{app: {labels}}}}}, outboundTrafficPolicy: {{mode: REGISTRY_ONLY}}}}"
                ),
            )
        };
        assert_eq!(restricted(&mesh.apply(&sidecar("else"))), 0);
        assert_eq!(restricted(&mesh.apply(&sidecar("web"))), 1);
        assert_eq!(restricted(&mesh.delete(&sidecar("web"))), 0);
        let whole = mesh.apply("{apiVersion: v1, kind: ConfigMap, metadata: {name: istio, namespace: istio-system}, data: {mesh: 'outboundTrafficPolicy: {mode: REGISTRY_ONLY}'}}");
        assert!(whole.touched_scopes);
        assert_eq!(restricted(&whole), 1);
    }

    #[test]
    fn a_host_that_only_rules_know_makes_port_80_looked_at_while_it_is_there() {
        use super::super::plan::{Terms, Want, plan_ruled};
        use mesh_common::{Addr, maps::FailurePolicy};
        let (mut mesh, update) = Mesh::new();
        let planned = |update: &compile::Update| {
            let (every, mode) = (Every::default(), super::super::super::Mode::Mesh);
            let terms = Terms { snapshot: &update.snapshot, every: &every, mode, failure: FailurePolicy::Open };
            plan_ruled(&terms)
        };
        assert_eq!(planned(&update), None);
        let named = |name: &str, spec: &str| istio("VirtualService", spec).replace("name: x", &format!("name: {name}"));
        let route = "http: [{route: [{destination: {host: db}}]}]";
        let seen = named("a", &format!("{{hosts: [made.up], {route}}}"));
        // Nobody's in the mesh: a gateway's, one that is exported to nobody, a Service's, and one with nothing for HTTP.
        for (n, spec) in [
            format!("{{hosts: [made.up], gateways: [g], {route}}}"),
            format!("{{hosts: [made.up], exportTo: ['~'], {route}}}"),
            format!("{{hosts: [db], {route}}}"),
            format!("{{hosts: ['*.shop.svc.cluster.local', '*'], {route}}}"),
            "{hosts: [made.up], tcp: [{route: [{destination: {host: db}}]}]}".to_owned(),
        ]
        .iter()
        .enumerate()
        {
            assert_eq!(planned(&mesh.apply(&named(&format!("n{n}"), spec))), None, "{spec}");
        }
        for (n, spec) in [seen.clone(), named("b", &format!("{{hosts: ['*.made.up'], {route}}}"))].iter().enumerate() {
            let plan = planned(&mesh.apply(spec)).unwrap_or_else(|| panic!("{n}"));
            assert_eq!((plan.addrs, plan.want, plan.sk_msg), ([Addr::any(80)].into(), Want::Agent, false));
        }
        // One goes, one becomes a Service's: the last ends it, and begins it again.
        assert!(planned(&mesh.delete(&seen)).is_some());
        let entry = istio(
            "ServiceEntry",
            "{hosts: [deep.er.made.up], addresses: [10.9.9.9], resolution: STATIC, ports: [{number: 81, name: http, protocol: HTTP}]}",
        );
        assert_eq!(planned(&mesh.apply(&entry)), None);
        assert!(planned(&mesh.delete(&entry)).is_some());
    }

    #[test]
    fn a_host_without_address_is_known_by_its_ports() {
        use super::super::plan::{Terms, Want, plan};
        use mesh_common::{Addr, maps::FailurePolicy};
        let (mut mesh, _) = Mesh::new();
        let update = mesh.apply(&istio(
            "ServiceEntry",
            "{hosts: [api.example.com], resolution: DNS, ports: [{number: 443, name: tls, protocol: TLS}, {number: 80, name: http, protocol: HTTP}]}",
        ));
        let service = update.snapshot.services().find(|s| &*s.host == "api.example.com").unwrap();
        let every = Every::default();
        let mode = super::super::super::Mode::Mesh;
        let terms = Terms { snapshot: &update.snapshot, every: &every, mode, failure: FailurePolicy::Open };
        let plans = plan(service, &terms);
        for (plan, port) in plans.iter().zip([443, 80]) {
            assert_eq!(plan.want, Want::Agent);
            assert!(plan.addrs.contains(&Addr::any(port)), "{plan:?}");
        }
    }
}
