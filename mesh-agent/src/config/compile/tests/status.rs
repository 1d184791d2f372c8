//! What the Gateway API's objects are told of themselves.

use super::gateways::POD;
use super::*;
use crate::config::compile::ObjectStatus;
use serde_json::Value;

/// The gateway pod of the tests beside, on another node: conditions do not ask whose agent serves it.
fn world() -> String {
    POD.replace("nodeName: n1", "nodeName: n2") + CART_AND_CLASS
}

const CART_AND_CLASS: &str = "---
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: edge}
spec: {clusterIP: None, ports: [{name: http, port: 80}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: undermesh, generation: 3}
spec: {controllerName: undermesh.dev/gateway-controller}
";

fn object(kind: &str, name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{name: {name}, namespace: edge, generation: 7}}\nspec: {spec}\n"
    )
}

fn gateway(listeners: &str) -> String {
    object("Gateway", "gw", &format!("{{gatewayClassName: undermesh, listeners: [{listeners}]}}"))
}

fn route(name: &str, spec: &str, rules: &str) -> String {
    object("HTTPRoute", name, &format!("{{parentRefs: [{{name: gw}}], {spec}rules: [{rules}]}}"))
}

const HTTP: &str = "{name: http, port: 80, protocol: HTTP}";
const CART: &str = "{backendRefs: [{name: cart, port: 80}]}";

fn statuses(yaml: &str) -> Vec<ObjectStatus> {
    let mut compiler = Compiler::new(settings());
    compiler.apply(Changes { upserts: resources(yaml), ..Changes::default() });
    compiler.statuses()
}

/// Of the object of this name and kind, in `world` and `yaml`.
fn status(kind: Kind, name: &str, yaml: &str) -> Value {
    let all = statuses(&(world() + yaml));
    let found = all.into_iter().find(|status| status.key.kind == kind && *status.key.name == *name);
    found.unwrap_or_else(|| panic!("no status of {kind} {name}")).status
}

/// `Accepted=True Accepted`, each with its generation looked at.
fn conditions(of: &Value, generation: i64) -> Vec<String> {
    let one = |condition: &Value| {
        assert_eq!(condition["observedGeneration"], generation, "{condition}");
        let text = |name: &str| condition[name].as_str().unwrap().to_owned();
        format!("{}={} {}", text("type"), text("status"), text("reason"))
    };
    of["conditions"].as_array().unwrap().iter().map(one).collect()
}

#[test]
fn a_class_of_ours_is_accepted_and_no_others() {
    let class = status(Kind::GatewayClass, "undermesh", "");
    assert_eq!(conditions(&class, 3), ["Accepted=True Accepted"]);
    let names: Vec<&str> =
        class["supportedFeatures"].as_array().unwrap().iter().map(|f| f["name"].as_str().unwrap()).collect();
    assert!(names.contains(&"HTTPRoute") && names.contains(&"Mesh"));
    assert!(names.is_sorted(), "{names:?}");
    let theirs = world().replace("undermesh.dev/gateway-controller", "istio.io/gateway-controller");
    let all = statuses(&(theirs + &gateway(HTTP) + &route("r", "", CART)));
    let judged: Vec<String> =
        all.iter().filter(|s| s.status["parents"] != serde_json::json!([])).map(|s| s.key.to_string()).collect();
    assert_eq!(judged, [""; 0], "Istio answers for its classes");
}

#[test]
fn a_gateway_says_which_listeners_are_served_and_by_how_many_routes() {
    let grpc = "{name: grpc, port: 81, protocol: HTTP, allowedRoutes: {kinds: [{kind: GRPCRoute}]}}";
    let yaml = gateway(&format!("{HTTP}, {grpc}")) + &route("a", "", CART) + &route("b", "", CART);
    let status = status(Kind::Gateway, "gw", &yaml);
    assert_eq!(conditions(&status, 7), ["Accepted=True Accepted", "Programmed=True Programmed"]);
    assert_eq!(status["addresses"], serde_json::json!([{"type": "IPAddress", "value": "10.0.0.9"}]));
    let listeners = status["listeners"].as_array().unwrap();
    let summary: Vec<_> = listeners
        .iter()
        .map(|l| {
            (
                l["name"].as_str().unwrap(),
                l["attachedRoutes"].as_u64().unwrap(),
                l["supportedKinds"].as_array().unwrap().len(),
            )
        })
        .collect();
    assert_eq!(summary, [("http", 2, 2), ("grpc", 0, 1)]);
    for listener in listeners {
        let fine = [
            "Accepted=True Accepted",
            "Conflicted=False NoConflicts",
            "Programmed=True Programmed",
            "ResolvedRefs=True ResolvedRefs",
        ];
        assert_eq!(conditions(listener, 7), fine);
    }
}

#[test]
fn what_is_wrong_with_a_listener_is_said_with_the_apis_reason() {
    let tls = "tls: {certificateRefs: [{name: none}]}";
    for (listener, wanted) in [
        ("{name: x, port: 90, protocol: UDP}".to_owned(), "Accepted=False UnsupportedProtocol"),
        ("{name: x, port: 80, protocol: HTTP}".to_owned(), "Conflicted=True HostnameConflict"),
        (format!("{{name: x, port: 80, protocol: HTTPS, {tls}}}"), "Conflicted=True ProtocolConflict"),
        (format!("{{name: x, port: 443, protocol: HTTPS, {tls}}}"), "ResolvedRefs=False InvalidCertificateRef"),
        (
            "{name: x, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: a, namespace: far}]}}".to_owned(),
            "ResolvedRefs=False RefNotPermitted",
        ),
        (
            "{name: x, port: 81, protocol: HTTP, allowedRoutes: {kinds: [{kind: TCPRoute}]}}".to_owned(),
            "ResolvedRefs=False InvalidRouteKinds",
        ),
    ] {
        let status = status(Kind::Gateway, "gw", &gateway(&format!("{HTTP}, {listener}")));
        let said = conditions(&status["listeners"][1], 7);
        assert!(said.iter().any(|condition| condition == wanted), "{wanted}: {said:?}");
        assert!(said.contains(&"Programmed=False Invalid".to_owned()), "{said:?}");
        assert_eq!(conditions(&status, 7), ["Accepted=True ListenersNotValid", "Programmed=True Programmed"]);
        assert_eq!(conditions(&status["listeners"][0], 7)[0], "Accepted=True Accepted", "its neighbour is served");
    }
    let all = status(Kind::Gateway, "gw", &gateway("{name: x, port: 90, protocol: UDP}"));
    assert_eq!(conditions(&all, 7), ["Accepted=False ListenersNotValid", "Programmed=False Invalid"]);
}

#[test]
fn a_gateway_without_pods_in_the_mesh_is_not_programmed() {
    let world = world().replace("istio-injection: enabled", "a: b") + &gateway(HTTP);
    let all = statuses(&world);
    let gateway = all.iter().find(|status| status.key.kind == Kind::Gateway).unwrap();
    assert_eq!(conditions(&gateway.status, 7), ["Accepted=True Accepted", "Programmed=False NoResources"]);
    assert!(conditions(&gateway.status["listeners"][0], 7).contains(&"Programmed=False Pending".to_owned()));
    assert_eq!(gateway.status["addresses"], serde_json::json!([]));
}

#[test]
fn a_route_is_told_by_each_parent_of_ours() {
    let bad_filter = "{filters: [{type: ExtensionRef}], backendRefs: [{name: cart, port: 80}]}";
    for (route, wanted) in [
        (route("r", "", CART), "Accepted=True Accepted, ResolvedRefs=True ResolvedRefs"),
        (
            route("r", "", "{backendRefs: [{name: none, port: 80}]}"),
            "Accepted=True Accepted, ResolvedRefs=False BackendNotFound",
        ),
        (
            route("r", "", "{backendRefs: [{kind: Bucket, name: cart, port: 80}]}"),
            "Accepted=True Accepted, ResolvedRefs=False InvalidKind",
        ),
        (
            route("r", "", "{backendRefs: [{name: cart, namespace: far, port: 80}]}"),
            "Accepted=True Accepted, ResolvedRefs=False RefNotPermitted",
        ),
        (
            route("r", "", CART).replace("{name: gw}", "{name: gw, sectionName: other}"),
            "Accepted=False NoMatchingParent, ResolvedRefs=True ResolvedRefs",
        ),
        (
            route("r", "", "{backendRefs: [{name: none, port: 80}]}")
                .replace("{name: gw}", "{name: gw, sectionName: other}"),
            "Accepted=False NoMatchingParent, ResolvedRefs=False BackendNotFound",
        ),
        (
            route("r", "", CART).replace("{name: gw}", "{kind: Service, group: '', name: none}"),
            "Accepted=False NoMatchingParent, ResolvedRefs=True ResolvedRefs",
        ),
        (
            route("r", "", CART).replace("{name: gw}", "{kind: Service, group: '', name: cart, port: 80}"),
            "Accepted=True Accepted, ResolvedRefs=True ResolvedRefs",
        ),
        (route("r", "", bad_filter), "Accepted=False UnsupportedValue, ResolvedRefs=True ResolvedRefs"),
        (
            route("r", "", &format!("{CART}, {bad_filter}")),
            "Accepted=True Accepted, ResolvedRefs=True ResolvedRefs, PartiallyInvalid=True UnsupportedValue",
        ),
    ] {
        let status = status(Kind::HttpRoute, "r", &(gateway(HTTP) + &route));
        let parents = status["parents"].as_array().unwrap();
        assert_eq!(parents.len(), 1, "{route}");
        assert_eq!(parents[0]["controllerName"], "undermesh.dev/gateway-controller");
        assert_eq!(conditions(&parents[0], 7).join(", "), wanted, "{route}");
    }
}

#[test]
fn a_parent_that_is_not_ours_is_not_spoken_for() {
    let other = gateway(HTTP).replace("gatewayClassName: undermesh", "gatewayClassName: nginx");
    let status = status(Kind::HttpRoute, "r", &(other + &route("r", "", CART)));
    assert_eq!(status["parents"], serde_json::json!([]));
    let written =
        route("r", "", CART).replace("{name: gw}", "{name: gw, namespace: edge, sectionName: http, port: 80}");
    let status = self::status(Kind::HttpRoute, "r", &(gateway(HTTP) + &written));
    let reference = serde_json::json!({
        "group": "gateway.networking.k8s.io", "kind": "Gateway", "namespace": "edge", "name": "gw", "sectionName": "http", "port": 80,
    });
    assert_eq!(status["parents"][0]["parentRef"], reference, "as the route writes it");
}
