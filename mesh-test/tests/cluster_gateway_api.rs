//! Objects of the Gateway API are told what became of them, by agents in their own pods.

mod support_cluster;

use serde_json::{Value, json};
use support_cluster::{Cluster, SYSTEM, app, eventually, text};

const NAMESPACE: &str = "gateway-api";
const GROUP: &str = "gateway.networking.k8s.io";
const LISTENER: &str = "http";

#[test]
fn conditions_routes_and_events_say_what_is_in_force() {
    let cluster = Cluster::with_agents();
    cluster.namespace(NAMESPACE);
    cluster.kubectl(&["label", "namespace", NAMESPACE, "istio-injection=enabled"]);
    cluster.pingpong(NAMESPACE, 1);
    // The pod in whose place the agent listens, as the label says.
    let mut pod = app(NAMESPACE, "gw", &["echo", "--port", "idle:detect:0"]);
    pod["metadata"]["labels"][format!("{GROUP}/gateway-name")] = "gw".into();
    cluster.apply(&pod.to_string());
    cluster.kubectl(&["wait", "-n", NAMESPACE, "--for=condition=Ready", "pod/gw", "--timeout=120s"]);
    apply(&cluster, "GatewayClass", NAMESPACE, &json!({"controllerName": "undermesh.dev/gateway-controller"}));
    let listeners = json!([{"name": LISTENER, "port": 8080, "protocol": "HTTP"}]);
    apply(&cluster, "Gateway", "gw", &json!({"gatewayClassName": NAMESPACE, "listeners": listeners}));
    apply(&cluster, "HTTPRoute", "good", &route("ws001-api"));
    apply(&cluster, "HTTPRoute", "bad", &route("nobody"));

    let class = status(&cluster, "gatewayclass", NAMESPACE, |status| is(status, "Accepted", "True"));
    assert!(class["supportedFeatures"].as_array().is_some_and(|all| !all.is_empty()), "{class}");
    let gateway = status(&cluster, "gateway", "gw", |status| {
        let listener = &status["listeners"][0];
        let attached = listener["attachedRoutes"] == 2 && is(listener, "Programmed", "True");
        attached && is(status, "Accepted", "True") && is(status, "Programmed", "True")
    });
    let pod = cluster.get(&["pod", "-n", NAMESPACE, "gw"]);
    assert_eq!(gateway["addresses"][0]["value"], pod["status"]["podIP"], "{gateway}");
    let of_route = |name: &str, resolved: &str| {
        status(&cluster, "httproute", name, |status| {
            let parent = &status["parents"][0];
            is(parent, "Accepted", "True") && is(parent, "ResolvedRefs", resolved)
        })
    };
    of_route("good", "True");
    let bad = of_route("bad", "False");
    assert_eq!(condition(&bad["parents"][0], "ResolvedRefs")["reason"], "BackendNotFound", "{bad}");
    // What is said is done: a pod of another namespace comes in by the Gateway.
    let through = format!("http://{}:8080/healthz", text(&pod["status"]["podIP"]));
    cluster.client(NAMESPACE, "client");
    eventually("the Gateway serves", || {
        let replies = cluster.fetch(NAMESPACE, "client", &through, &["--header", "host=good.example"]);
        match replies.first() {
            Some(reply) if reply.status == 200 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });

    // Corrected: the condition turns, for the generation that was written.
    apply(&cluster, "HTTPRoute", "bad", &route("ws001-api"));
    let generation = cluster.get(&["httproute", "bad", "-n", NAMESPACE])["metadata"]["generation"].clone();
    let good = status(&cluster, "httproute", "bad", |status| {
        let resolved = condition(&status["parents"][0], "ResolvedRefs");
        resolved["status"] == "True" && resolved["observedGeneration"] == generation
    });
    assert_eq!(condition(&good["parents"][0], "Accepted")["observedGeneration"], generation, "{good}");
    broken(&cluster);
    let lease = cluster.get(&["lease", "undermesh-status", "-n", SYSTEM]);
    let holder = text(&lease["spec"]["holderIdentity"]);
    let nodes: Vec<String> = cluster.items(&["nodes"]).iter().map(|node| text(&node["metadata"]["name"])).collect();
    assert!(nodes.contains(&holder), "one of the agents writes: {holder:?}");
    cluster.kubectl(&["delete", "gatewayclass", NAMESPACE]);
    cluster.kubectl(&["delete", "namespace", NAMESPACE, "--wait=false"]);
}

/// An object that cannot be in force as it is written: a condition and an Event say so.
fn broken(cluster: &Cluster) {
    let far = json!({
        "parentRefs": [{"name": "gw"}],
        "rules": [{"backendRefs": [{"name": "ws001-api", "namespace": "kube-system", "port": 7001}]}],
    });
    apply(cluster, "HTTPRoute", "far", &far);
    let far = status(cluster, "httproute", "far", |status| is(&status["parents"][0], "ResolvedRefs", "False"));
    assert_eq!(condition(&far["parents"][0], "ResolvedRefs")["reason"], "RefNotPermitted", "{far}");
    eventually("an Event beside it", || {
        let events = cluster.items(&["events.events.k8s.io", "-n", NAMESPACE]);
        let about = events.iter().filter(|event| event["regarding"]["name"] == "far" && event["type"] == "Warning");
        let notes: Vec<String> = about.map(|event| text(&event["note"])).collect();
        if notes.iter().any(|note| note.contains("RefNotPermitted")) { Ok(()) } else { Err(format!("{notes:?}")) }
    });
}

fn route(backend: &str) -> Value {
    json!({
        "parentRefs": [{"name": "gw"}],
        "hostnames": [format!("{}.example", if backend == "nobody" { "bad" } else { "good" })],
        "rules": [{"backendRefs": [{"name": backend, "port": 7001}]}],
    })
}

fn apply(cluster: &Cluster, kind: &str, name: &str, spec: &Value) {
    let mut object =
        json!({"apiVersion": format!("{GROUP}/v1"), "kind": kind, "metadata": {"name": name}, "spec": spec});
    if kind != "GatewayClass" {
        object["metadata"]["namespace"] = NAMESPACE.into();
    }
    cluster.apply(&object.to_string());
}

/// The object's status when it is as wanted, each condition for the generation that is written.
fn status(cluster: &Cluster, kind: &str, name: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    eventually(&format!("the status of {kind} {name}"), || {
        let object = cluster.get(&[&format!("{kind}.{GROUP}"), name, "-n", NAMESPACE]);
        let status = object["status"].clone();
        if wanted(&status) { Ok(status) } else { Err(object.to_string()) }
    })
}

fn condition(of: &Value, kind: &str) -> Value {
    let all = of["conditions"].as_array().cloned().unwrap_or_default();
    all.into_iter().find(|condition| condition["type"] == kind).unwrap_or_default()
}

fn is(of: &Value, kind: &str, status: &str) -> bool {
    condition(of, kind)["status"] == status
}
