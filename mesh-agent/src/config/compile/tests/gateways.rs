//! Gateways of both families → what their pods listen on and decide.

use super::*;
use crate::route::{Facts, Head, find};
use crate::snapshot::Client;
use crate::snapshot::gateway::{App, ClientCertificates, Gateway, Listener, Server, Servers, Tls};
use crate::snapshot::route::{Action, BackendTo, Family};
use http::HeaderMap;

/// A gateway pod of node n1.
pub(super) const POD: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: edge, labels: {istio-injection: enabled, team: a}}
---
apiVersion: v1
kind: Pod
metadata: {name: gw, namespace: edge, uid: u1, labels: {istio: ingressgateway, gateway.networking.k8s.io/gateway-name: gw}, annotations: {undermesh.dev/netns: /run/netns/gw}}
spec: {nodeName: n1}
status: {phase: Running, podIPs: [{ip: 10.0.0.9}]}
";

fn istio(kind: &str, namespace: &str, name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: {kind}\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n"
    )
}

fn api(kind: &str, namespace: &str, name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n"
    )
}

fn gateway(servers: &str) -> String {
    istio("Gateway", "edge", "g", &format!("{{selector: {{istio: ingressgateway}}, servers: [{servers}]}}"))
}

fn virtual_service(name: &str, namespace: &str, hosts: &str, http: &str) -> String {
    istio("VirtualService", namespace, name, &format!("{{hosts: [{hosts}], gateways: [edge/g], http: [{http}]}}"))
}

/// `to` of everything below `prefix`.
fn rule(prefix: &str, to: &str) -> String {
    format!("{{match: [{{uri: {{prefix: {prefix}}}}}], route: [{{destination: {{host: {to}}}}}]}}")
}

const HTTP: &str = "{port: {number: 80, protocol: HTTP, name: http}, hosts: ['*']}";

fn pod() -> WorkloadKey {
    WorkloadKey { namespace: "edge".into(), name: "gw".into(), uid: "u1".into() }
}

fn world(yaml: &str) -> (Arc<Snapshot>, Vec<String>) {
    let (snapshot, diagnostics) = compile(settings(), resources(&(POD.to_owned() + yaml)));
    let ours = |d: &&Diagnostic| d.object.as_ref().is_some_and(|key| key.kind.is_traffic());
    (snapshot, diagnostics.iter().filter(ours).map(ToString::to_string).collect())
}

fn listener(snapshot: &Snapshot, port: u16) -> Option<Arc<Listener>> {
    snapshot.gateway_listener(&pod(), port).cloned()
}

fn server(snapshot: &Snapshot, port: u16, sni: Option<&str>) -> Option<Arc<Server>> {
    listener(snapshot, port)?.server(sni).cloned()
}

/// Where a request goes: a host, `404`, `redirect`, or a refusal's status.
fn taken(server: &Server, port: u16, authority: &str, target: &str) -> String {
    let Some(host) = server.virtual_host(authority) else { return "404".into() };
    let (labels, headers) = (BTreeMap::new(), HeaderMap::new());
    let client = Client { namespace: "edge", labels: &labels };
    let head = Head { method: "GET", scheme: "http", authority, target, headers: &headers };
    let Some(route) = find(host, &Facts { port, client, gateway: &server.gateway }, &head) else { return "404".into() };
    match &route.action {
        Action::Forward(forward) => match &forward.backends[0].to {
            BackendTo::Service(to) => to.host.split('.').next().unwrap_or_default().to_owned(),
            BackendTo::Refused { status, .. } => status.as_u16().to_string(),
        },
        Action::Redirect(_) => "redirect".into(),
        Action::Respond(_) => "respond".into(),
    }
}

fn asked(yaml: &str, authority: &str, target: &str) -> String {
    let (snapshot, _) = world(yaml);
    server(&snapshot, 80, None).map_or("closed".into(), |server| taken(&server, 80, authority, target))
}

#[test]
fn bookinfos_gateway_and_what_it_leaves_out() {
    let exact = |path: &str| format!("{{uri: {{exact: {path}}}}}");
    let http = format!(
        "{{match: [{}, {{uri: {{prefix: /static}}}}], route: [{{destination: {{host: productpage, port: {{number: 9080}}}}}}]}}",
        exact("/productpage")
    );
    let yaml = gateway(&HTTP.replace("80,", "8080,")) + &virtual_service("bookinfo", "edge", "'*'", &http);
    let (snapshot, diagnostics) = world(&yaml);
    assert_eq!(diagnostics, [""; 0]);
    let server = server(&snapshot, 8080, None).unwrap();
    for (target, want) in
        [("/productpage", "productpage"), ("/static/x.css", "productpage"), ("/productpage/x", "404"), ("/", "404")]
    {
        assert_eq!(taken(&server, 8080, "10.0.0.9:8080", target), want, "{target}");
    }
    assert!(listener(&snapshot, 80).is_none());
    assert_eq!(snapshot.gateway(&pod()).unwrap().names, ["edge/g".into()]);
}

#[test]
fn hosts_namespaces_and_merging() {
    let vs = |name: &str, namespace: &str, hosts: &str, prefix: &str| {
        virtual_service(name, namespace, hosts, &rule(prefix, name))
    };
    for (servers, yaml, cases) in [
        (
            "{port: {number: 80, protocol: HTTP}, hosts: ['*.shop.com']}",
            vs("a", "x", "a.shop.com", "/") + &vs("b", "x", "b.org", "/") + &vs("c", "x", "'*'", "/"),
            &[
                ("a.shop.com", "/", "a"),
                ("A.Shop.com:80", "/", "a"),
                ("b.org", "/", "404"),
                ("z.shop.com", "/", "c"),
                ("shop.com", "/", "404"),
            ][..],
        ),
        (
            "{port: {number: 80, protocol: HTTP}, hosts: ['./*']}",
            vs("a", "edge", "a.com", "/") + &vs("b", "x", "b.com", "/"),
            &[("a.com", "/", "a"), ("b.com", "/", "404")],
        ),
        (
            "{port: {number: 80, protocol: HTTP}, hosts: ['x/*.com']}",
            vs("a", "edge", "a.com", "/") + &vs("b", "x", "b.com", "/"),
            &[("a.com", "/", "404"), ("b.com", "/", "b")],
        ),
        // Several VirtualServices for one host are merged, catch-alls last.
        (
            HTTP,
            vs("a", "x", "h.com", "/") + &vs("b", "x", "h.com", "/b") + &vs("c", "x", "h.com", "/c"),
            &[("h.com", "/b", "b"), ("h.com", "/c", "c"), ("h.com", "/d", "a")],
        ),
        (
            HTTP,
            vs("a", "x", "h.com", "/a").replace("spec: {", "spec: {exportTo: [.], ")
                + &vs("b", "edge", "i.com", "/").replace("spec: {", "spec: {exportTo: [.], "),
            &[("h.com", "/a", "404"), ("i.com", "/", "b")],
        ),
    ] {
        let yaml = gateway(servers) + &yaml;
        for (authority, target, want) in cases {
            assert_eq!(asked(&yaml, authority, target), *want, "{servers} {authority}{target}");
        }
    }
}

#[test]
fn servers_of_several_gateways_share_a_port() {
    let other = istio(
        "Gateway",
        "x",
        "h",
        "{selector: {istio: ingressgateway}, servers: [{port: {number: 80, protocol: HTTP}, hosts: [b.com]}]}",
    );
    let yaml = gateway("{port: {number: 80, protocol: HTTP}, hosts: [a.com]}")
        + &other
        + &virtual_service("a", "edge", "a.com", &rule("/", "a"))
        + &virtual_service("b", "x", "b.com", &rule("/", "b")).replace("edge/g", "h");
    let (snapshot, diagnostics) = world(&yaml);
    assert_eq!(diagnostics, [""; 0]);
    assert_eq!(snapshot.gateway(&pod()).unwrap().names, ["edge/g".into(), "x/h".into()]);
    let server = server(&snapshot, 80, None).unwrap();
    assert_eq!((taken(&server, 80, "a.com", "/"), taken(&server, 80, "b.com", "/")), ("a".into(), "b".into()));
}

#[test]
fn https_redirect_takes_every_request_of_its_hosts() {
    let servers = "{port: {number: 80, protocol: HTTP}, hosts: [a.com], tls: {httpsRedirect: true}}, {port: {number: 80, protocol: HTTP}, hosts: [b.com]}";
    let yaml = gateway(servers) + &virtual_service("v", "edge", "'*'", &rule("/", "v"));
    assert_eq!(asked(&yaml, "a.com", "/x"), "redirect");
    assert_eq!(asked(&yaml, "b.com", "/x"), "v");
}

#[test]
fn servers_that_cannot_be_are_named_and_left_out() {
    for (servers, code) in [
        (
            "{port: {number: 80, protocol: HTTP}, hosts: ['*']}, {port: {number: 80, protocol: TCP}, hosts: ['*']}",
            "UM0407",
        ),
        (
            "{port: {number: 0, protocol: HTTP}, hosts: ['*']}, {port: {number: 80, protocol: HTTP}, hosts: ['*']}",
            "port number",
        ),
        (
            "{port: {number: 443, protocol: HTTPS}, hosts: ['*']}, {port: {number: 80, protocol: HTTP}, hosts: ['*']}",
            "needs tls",
        ),
        (
            "{port: {number: 443, protocol: TLS}, hosts: ['*'], tls: {mode: AUTO_PASSTHROUGH}}, {port: {number: 80, protocol: HTTP}, hosts: ['*']}",
            "AUTO_PASSTHROUGH",
        ),
        (
            "{port: {number: 81, protocol: UDP}, hosts: ['*']}, {port: {number: 80, protocol: HTTP}, hosts: ['*']}",
            "not a protocol",
        ),
    ] {
        let (snapshot, diagnostics) = world(&gateway(servers));
        assert!(diagnostics.len() == 1 && diagnostics[0].contains(code), "{diagnostics:?}");
        let ports: Vec<u16> = snapshot.gateway(&pod()).unwrap().listeners.iter().map(|l| l.port).collect();
        assert_eq!(ports, [80], "{servers}");
    }
}

fn secret(namespace: &str, name: &str, host: &str) -> String {
    let made = rcgen::generate_simple_self_signed([host.to_owned()]).unwrap();
    let block = |pem: String| pem.lines().map(|line| format!("\n    {line}")).collect::<String>();
    let (cert, key) = (block(made.cert.pem()), block(made.signing_key.serialize_pem()));
    format!(
        "---\napiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: {namespace}}}\ntype: kubernetes.io/tls\nstringData:\n  tls.crt: |{cert}\n  tls.key: |{key}\n  ca.crt: |{cert}\n"
    )
}

#[test]
fn tls_servers_are_chosen_by_name_and_renewed_with_their_secret() {
    let servers = "{port: {number: 443, protocol: HTTPS}, hosts: [a.com], tls: {mode: SIMPLE, credentialName: a}}, {port: {number: 443, protocol: HTTPS}, hosts: ['*.b.com'], tls: {mode: MUTUAL, credentialName: b, minProtocolVersion: TLSV1_3}}, {port: {number: 443, protocol: TLS}, hosts: [p.com], tls: {mode: PASSTHROUGH}}";
    let vs = istio(
        "VirtualService",
        "edge",
        "p",
        "{hosts: [p.com], gateways: [g], tls: [{match: [{sniHosts: [p.com]}], route: [{destination: {host: p}}]}]}",
    );
    let yaml = gateway(servers) + &vs + &virtual_service("v", "edge", "a.com", &rule("/", "v"));
    let (_, diagnostics) = world(&yaml);
    assert_eq!(diagnostics.iter().filter(|d| d.contains("UM0408")).count(), 3, "{diagnostics:?}");

    let mut compiler = Compiler::new(settings());
    let upsert = |yaml: &str| Changes { upserts: resources(yaml), ..Changes::default() };
    let secrets = secret("edge", "a", "a.com") + &secret("edge", "b", "x.b.com");
    let update = compiler.apply(upsert(&(POD.to_owned() + &yaml + &secrets)));
    assert!(compiler.diagnostics().all(|d| d.code != Code::BadCertificate));
    let terminate = |snapshot: &Snapshot, sni| match &server(snapshot, 443, Some(sni)).unwrap().tls {
        Tls::Terminate(tls) => Arc::clone(tls),
        other => panic!("{other:?}"),
    };
    let (a, b) = (terminate(&update.snapshot, "a.com"), terminate(&update.snapshot, "x.b.com"));
    assert!(a.certificates[0].is_for("a.com") && matches!(a.clients, ClientCertificates::None));
    assert!(matches!(b.clients, ClientCertificates::Required(Some(_))));
    assert!(server(&update.snapshot, 443, Some("c.com")).is_none() && server(&update.snapshot, 443, None).is_none());
    let passed = server(&update.snapshot, 443, Some("p.com")).unwrap();
    assert!(matches!((&passed.tls, &passed.app), (Tls::Passthrough, App::L4(routes)) if routes.len() == 1));
    assert_eq!(taken(&server(&update.snapshot, 443, Some("a.com")).unwrap(), 443, "a.com", "/"), "v");

    let renewed = compiler.apply(upsert(&secret("edge", "a", "a.com")));
    assert!(renewed.touched_gateways && renewed.touched_hosts.is_empty());
    assert_ne!(terminate(&renewed.snapshot, "a.com"), a);
    let unrelated = compiler.apply(upsert(&secret("edge", "other", "z.com")));
    assert!(!unrelated.is_change());
    let key = ObjectKey::new(Kind::IstioGateway, "edge", "g");
    let gone = compiler.apply(Changes { deletes: vec![key], ..Changes::default() });
    assert!(gone.touched_gateways && gone.snapshot.gateway(&pod()).is_none());
}

fn api_gateway(listeners: &str) -> String {
    api("Gateway", "edge", "gw", &format!("{{gatewayClassName: undermesh, listeners: [{listeners}]}}"))
}

fn route(namespace: &str, name: &str, more: &str) -> String {
    api(
        "HTTPRoute",
        namespace,
        name,
        &format!(
            "{{parentRefs: [{{name: gw, namespace: edge}}], {more}rules: [{{backendRefs: [{{name: {name}, port: 80}}]}}]}}"
        ),
    )
}

#[test]
fn routes_attach_to_listeners() {
    let open = "allowedRoutes: {namespaces: {from: All}}";
    for (listeners, yaml, cases) in [
        ("{name: h, port: 80, protocol: HTTP}".to_owned(), route("edge", "a", ""), &[("any.com", "a")][..]),
        ("{name: h, port: 80, protocol: HTTP}".to_owned(), route("x", "a", ""), &[("any.com", "404")]),
        (format!("{{name: h, port: 80, protocol: HTTP, {open}}}"), route("x", "a", ""), &[("any.com", "a")]),
        ("{name: h, port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: Selector, selector: {matchLabels: {team: a}}}}}".to_owned(), route("edge", "a", "") + &route("x", "b", "hostnames: [b.com], "), &[("any.com", "a"), ("b.com", "a")]),
        (format!("{{name: h, port: 80, protocol: HTTP, hostname: '*.shop.com', {open}}}"), route("x", "a", "hostnames: [a.shop.com, z.org], ") + &route("x", "b", ""), &[("a.shop.com", "a"), ("c.shop.com", "b"), ("z.org", "404")]),
        // A host belongs to the most specific listener, even where that has no route.
        (format!("{{name: h, port: 80, protocol: HTTP, {open}}}, {{name: i, port: 80, protocol: HTTP, hostname: i.com}}"), route("x", "a", ""), &[("h.com", "a"), ("i.com", "404")]),
        (format!("{{name: h, port: 80, protocol: HTTP, {open}}}, {{name: i, port: 81, protocol: HTTP, {open}}}"), route("x", "a", "").replace("namespace: edge}]", "namespace: edge, sectionName: i}]"), &[("h.com", "404")]),
        ("{name: h, port: 80, protocol: HTTP, allowedRoutes: {kinds: [{kind: GRPCRoute}]}}".to_owned(), route("edge", "a", ""), &[("h.com", "404")]),
    ] {
        let yaml = api_gateway(&listeners) + &yaml;
        for (authority, want) in cases {
            assert_eq!(asked(&yaml, authority, "/"), *want, "{listeners} {authority}");
        }
    }
}

#[test]
fn why_a_route_is_not_attached() {
    for (listeners, yaml, why) in [
        ("{name: h, port: 80, protocol: HTTP}", route("x", "a", ""), "NotAllowedByListeners"),
        (
            "{name: h, port: 80, protocol: HTTP, hostname: a.com}",
            route("edge", "a", "hostnames: [b.com], "),
            "NoMatchingListenerHostname",
        ),
        (
            "{name: h, port: 80, protocol: HTTP}",
            route("edge", "a", "").replace("namespace: edge}]", "namespace: edge, port: 81}]"),
            "NoMatchingParent",
        ),
        (
            "{name: h, port: 80, protocol: HTTP}",
            route("edge", "a", "").replace("{name: gw,", "{name: other,"),
            "there is no Gateway",
        ),
        (
            "{name: h, port: 80, protocol: HTTP}",
            route("edge", "a", "").replace("{name: gw,", "{kind: Queue, name: gw,"),
            "Queue",
        ),
    ] {
        let (_, diagnostics) = world(&(api_gateway(listeners) + &yaml));
        assert!(
            diagnostics.iter().any(|d| d.contains(why) && d.contains("spec.parentRefs[0]")),
            "{why}: {diagnostics:?}"
        );
    }
}

#[test]
fn classes_and_certificates_of_the_gateway_api() {
    let https = "{name: s, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: a, namespace: x}]}}";
    let (snapshot, diagnostics) = world(&(api_gateway(https) + &secret("x", "a", "a.com")));
    assert!(diagnostics.len() == 1 && diagnostics[0].contains("RefNotPermitted"), "{diagnostics:?}");
    assert!(listener(&snapshot, 443).is_none());
    let grant = "---\napiVersion: gateway.networking.k8s.io/v1beta1\nkind: ReferenceGrant\nmetadata: {name: g, namespace: x}\nspec: {from: [{group: gateway.networking.k8s.io, kind: Gateway, namespace: edge}], to: [{group: '', kind: Secret}]}\n";
    let (snapshot, diagnostics) = world(&(api_gateway(https) + &secret("x", "a", "a.com") + grant));
    assert_eq!(diagnostics, [""; 0]);
    let Servers::Tls(table) = &listener(&snapshot, 443).unwrap().servers else { panic!("no TLS") };
    assert!(table.get("a.com").is_some());

    let http = "{name: h, port: 80, protocol: HTTP}";
    let class = |name: &str, controller: &str| {
        format!(
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {{name: {name}}}\nspec: {{controllerName: {controller}}}\n"
        )
    };
    let named = |class: &str| api_gateway(http).replace("undermesh", class);
    for (yaml, ours) in [
        (named("istio"), true),
        (named("nginx"), false),
        (named("mine") + &class("mine", "undermesh.dev/gateway-controller"), true),
        (named("istio") + &class("istio", "example.com/other"), false),
    ] {
        let (snapshot, diagnostics) = world(&(yaml.clone() + &route("edge", "a", "")));
        assert_eq!(snapshot.gateway(&pod()).is_some(), ours, "{yaml}");
        assert!(diagnostics.iter().all(|d| d.contains("there is no Service")), "{diagnostics:?}");
    }
}

#[test]
fn pods_come_and_go() {
    let mut compiler = Compiler::new(settings());
    let upsert = |yaml: &str| Changes { upserts: resources(yaml), ..Changes::default() };
    let first = compiler.apply(upsert(&(gateway(HTTP) + &api_gateway("{name: h, port: 81, protocol: HTTP}"))));
    assert!(!first.touched_gateways);
    let update = compiler.apply(upsert(POD));
    assert!(update.touched_gateways);
    let ports = |gateway: &Gateway| gateway.listeners.iter().map(|l| l.port).collect::<Vec<_>>();
    assert_eq!(ports(update.snapshot.gateway(&pod()).unwrap()), [80, 81], "of both families");
    let outside = compiler.apply(upsert(&POD.replace("istio-injection: enabled, ", "")));
    assert!(outside.touched_gateways && outside.snapshot.gateway(&pod()).is_none(), "not in the mesh any more");
    let back = compiler.apply(upsert(&POD.replace("istio: ingressgateway, ", "")));
    assert_eq!(ports(back.snapshot.gateway(&pod()).unwrap()), [81]);
    let host = back.snapshot.gateway(&pod()).unwrap().listener(81).unwrap().server(None).unwrap().clone();
    assert_eq!(host.virtual_host("x").unwrap().family, Family::GatewayApi);
}

#[test]
fn a_rules_secret_may_come_later_and_goes_with_a_word() {
    let rule = |tls: &str| {
        istio(
            "DestinationRule",
            "edge",
            "d",
            &format!(
                "{{host: far.example, trafficPolicy: {{portLevelSettings: [{{port: {{number: 443}}, tls: {{{tls}}}}}]}}}}"
            ),
        )
    };
    let mut compiler = Compiler::new(settings());
    let said = |compiler: &Compiler| -> Vec<String> {
        let of_secrets = compiler.diagnostics().filter(|d| d.code == Code::BadCertificate);
        of_secrets.map(|d| format!("{} {}", d.field, d.message)).collect()
    };
    let tls = |snapshot: &Snapshot| {
        let policy = &snapshot.destination_policies_of("far.example")[0];
        policy.policies.of(443).tls.clone().unwrap()
    };
    let upsert = |yaml: &str| Changes { upserts: resources(yaml), ..Changes::default() };
    let at = "spec.trafficPolicy.portLevelSettings[0].tls.credentialName";
    let missing = format!("{at} Secret k: there is none of this name; connections to the endpoints fail without it");

    let update = compiler.apply(upsert(&rule("mode: MUTUAL, credentialName: k")));
    assert_eq!(said(&compiler), std::slice::from_ref(&missing));
    assert!(tls(&update.snapshot).identity.is_none() && tls(&update.snapshot).anchors.is_none());
    // Another namespace's is nobody's.
    assert!(!compiler.apply(upsert(&secret("other", "k", "a.com"))).is_change());
    let update = compiler.apply(upsert(&secret("edge", "k", "a.com")));
    assert_eq!(said(&compiler), [""; 0]);
    assert_eq!(*update.touched_hosts, ["far.example".into()]);
    assert!(tls(&update.snapshot).identity.as_ref().is_some_and(|identity| identity.is_for("a.com")));
    assert!(tls(&update.snapshot).anchors.is_some());

    // Without an authority nobody is believed; SIMPLE wants no certificate of the client.
    let bare = secret("edge", "k", "a.com").split("  ca.crt:").next().unwrap().to_owned();
    let update = compiler.apply(upsert(&bare));
    assert_eq!(said(&compiler).len(), 1, "{:?}", said(&compiler));
    assert!(tls(&update.snapshot).identity.is_some() && tls(&update.snapshot).anchors.is_none());
    let update = compiler.apply(upsert(&(rule("mode: SIMPLE, credentialName: k") + &secret("edge", "k-cacert", "ca"))));
    assert_eq!(said(&compiler), [""; 0]);
    assert!(tls(&update.snapshot).identity.is_none() && tls(&update.snapshot).anchors.is_some());

    let gone = ["k", "k-cacert"].map(|name| ObjectKey::new(Kind::Secret, "edge", name));
    compiler.apply(Changes { deletes: gone.into(), ..Changes::default() });
    assert_eq!(said(&compiler), [missing]);
    let rule = ObjectKey::new(Kind::DestinationRule, "edge", "d");
    compiler.apply(Changes { deletes: vec![rule], ..Changes::default() });
    assert_eq!(said(&compiler), [""; 0]);
}
