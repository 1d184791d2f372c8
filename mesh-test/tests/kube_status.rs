//! Statuses, Events and the Lease against a real API server.
//!
//! It takes `KUBECONFIG` of a cluster where namespaces and Nodes may be made, and no other agent of Undermesh; an API
//! server alone is enough. `cargo xtask test --layer cluster` runs it before any agent is installed; by hand, after
//! `cargo xtask image --fast`: `cargo test -p mesh-test --test kube_status`.

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use k8s_openapi::api::events::v1::Event;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const CRDS: &str = include_str!("../../deploy/crds/gateway-api.yaml");
/// More than a Lease lasts, on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// An agent without kernel, in the cluster's eyes on node `name`.
struct Agent {
    process: Child,
    _dir: tempfile::TempDir,
}

impl Agent {
    fn start(name: &str, namespace: &str) -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        let log = std::fs::File::create(std::env::temp_dir().join(format!("{namespace}-{name}.log"))).expect("log");
        let process = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/image/mesh-agent"))
            .args(["run", "--kube", "--no-kernel", "--workers=1", "--metrics-addr=off", "--drain-timeout=0s"])
            .args(["--node", name, "--owner", &format!("{namespace}/undermesh")])
            .arg("--run-dir")
            .arg(dir.path())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("agent");
        Self { process, _dir: dir }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // Gone without a word, as on a node that fails.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

struct World {
    client: Client,
    namespace: String,
    /// Of the gateway's pod: no two pods of a cluster have one.
    address: String,
}

impl World {
    async fn new() -> Self {
        assert!(
            std::env::var_os("KUBECONFIG").is_some(),
            "this test needs KUBECONFIG of a cluster (in CI: `rig api up` prints one)"
        );
        let client = Client::try_default().await.expect("KUBECONFIG leads to no API server");
        let namespace = format!("status-{:08x}", fastrand::u32(..));
        let address = format!("10.{}.{}.{}", fastrand::u8(..), fastrand::u8(..), fastrand::u8(1..));
        let world = Self { client, namespace, address };
        for document in serde_yaml_ng::Deserializer::from_str(CRDS) {
            let definition: Value = serde::Deserialize::deserialize(document).expect("YAML");
            world.define(&definition).await;
        }
        world.create("v1", "Namespace", &json!({"metadata": {"name": world.namespace}})).await;
        // Pods of a node that there is not are collected as garbage where a controller manager runs.
        world.create("v1", "Node", &json!({"metadata": {"name": world.node()}, "spec": {"unschedulable": true}})).await;
        world
    }

    /// Where the gateway's pod is; no kubelet is there.
    fn node(&self) -> String {
        format!("{}-n1", self.namespace)
    }

    /// A cluster's own definitions stay.
    async fn define(&self, definition: &Value) {
        let api = self.api("apiextensions.k8s.io/v1", "CustomResourceDefinition", false);
        let object: DynamicObject = serde_json::from_value(definition.clone()).expect("object");
        match api.create(&PostParams::default(), &object).await {
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            done => drop(done.expect("CustomResourceDefinition")),
        }
        let name = object.name_any();
        until(&format!("{name} is established"), async || {
            let conditions = api.get(&name).await.ok()?.data["status"]["conditions"].clone();
            let established = |c: &&Value| c["type"] == "Established" && c["status"] == "True";
            conditions.as_array()?.iter().find(established).map(|_| ())
        })
        .await;
    }

    fn api(&self, version: &str, kind: &str, namespaced: bool) -> Api<DynamicObject> {
        let (group, version) = version.rsplit_once('/').unwrap_or(("", version));
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
        match namespaced {
            true => Api::namespaced_with(self.client.clone(), &self.namespace, &resource),
            false => Api::all_with(self.client.clone(), &resource),
        }
    }

    async fn create(&self, version: &str, kind: &str, object: &Value) {
        let mut object = object.clone();
        object["apiVersion"] = version.into();
        object["kind"] = kind.into();
        let name = object["metadata"]["name"].as_str().expect("name").to_owned();
        let api = self.api(version, kind, !matches!(kind, "Namespace" | "Node" | "GatewayClass"));
        let done = api.patch(&name, &PatchParams::apply("test").force(), &Patch::Apply(&object)).await;
        done.unwrap_or_else(|error| panic!("{kind} {name}: {error}"));
    }

    async fn gateway_api(&self, kind: &str, name: &str, spec: Value) {
        let object = json!({"metadata": {"name": name}, "spec": spec});
        self.create("gateway.networking.k8s.io/v1", kind, &object).await;
    }

    /// Until the object's status is as `wanted` says, which it returns.
    async fn status(&self, kind: &str, name: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let api = self.api("gateway.networking.k8s.io/v1", kind, kind != "GatewayClass");
        until(&format!("the status of {kind} {name}"), async || {
            let object = api.get(name).await.ok()?;
            wanted(&object.data["status"]).then(|| object.data["status"].clone())
        })
        .await
    }

    async fn holder(&self) -> Option<String> {
        let api: Api<Lease> = Api::namespaced(self.client.clone(), &self.namespace);
        api.get("undermesh-status").await.ok()?.spec?.holder_identity
    }

    async fn end(&self) {
        let _ = self.api("v1", "Node", false).delete(&self.node(), &DeleteParams::default()).await;
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let _ = namespaces.delete(&self.namespace, &DeleteParams::default()).await;
        let class = self.api("gateway.networking.k8s.io/v1", "GatewayClass", false);
        let _ = class.delete(&self.namespace, &DeleteParams::default()).await;
    }
}

/// Waits for a condition, not for a time.
async fn until<T>(what: &str, condition: impl AsyncFn() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(began.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn condition(of: &Value, kind: &str) -> (String, String, i64) {
    let all = of["conditions"].as_array().cloned().unwrap_or_default();
    let found = all.iter().find(|condition| condition["type"] == kind).cloned().unwrap_or_default();
    let text = |name: &str| found[name].as_str().unwrap_or_default().to_owned();
    (text("status"), text("reason"), found["observedGeneration"].as_i64().unwrap_or(-1))
}

fn is(of: &Value, kind: &str, status: &str, reason: &str) -> bool {
    let (found, why, _) = condition(of, kind);
    (&*found, &*why) == (status, reason)
}

#[tokio::test]
async fn objects_are_told_what_became_of_them_by_one_agent_at_a_time() {
    let world = World::new().await;
    let namespace = world.namespace.clone();
    let first = Agent::start(&world.node(), &namespace);
    until("n1 is the writer", async || (world.holder().await? == world.node()).then_some(())).await;
    let second = Agent::start("n2", &namespace);

    // A class, a Gateway with a good and a bad listener, a pod that serves it, and routes.
    world.gateway_api("GatewayClass", &namespace, json!({"controllerName": "undermesh.dev/gateway-controller"})).await;
    let class = world.status("GatewayClass", &namespace, |status| is(status, "Accepted", "True", "Accepted")).await;
    assert!(class["supportedFeatures"].as_array().is_some_and(|features| features.len() > 10), "{class}");
    let tls = json!({"certificateRefs": [{"name": "none"}]});
    let listeners = json!([
        {"name": "http", "port": 80, "protocol": "HTTP"},
        {"name": "https", "port": 443, "protocol": "HTTPS", "tls": tls},
    ]);
    world.gateway_api("Gateway", "gw", json!({"gatewayClassName": namespace, "listeners": listeners})).await;
    world.status("Gateway", "gw", |status| is(status, "Programmed", "False", "NoResources")).await;
    enrol(&world).await;
    world.gateway_api("HTTPRoute", "good", route(&json!([{"name": "gw"}]), "cart")).await;
    world.gateway_api("HTTPRoute", "lost", route(&json!([{"name": "gw", "sectionName": "none"}]), "nobody")).await;
    let gateway = world
        .status("Gateway", "gw", |status| {
            is(status, "Programmed", "True", "Programmed") && status["listeners"][0]["attachedRoutes"] == 1
        })
        .await;
    assert!(is(&gateway, "Accepted", "True", "ListenersNotValid"), "{gateway}");
    assert!(is(&gateway["listeners"][1], "ResolvedRefs", "False", "InvalidCertificateRef"), "{gateway}");
    assert_eq!(gateway["addresses"], json!([{"type": "IPAddress", "value": world.address}]));
    let lost = world.status("HTTPRoute", "lost", |status| status["parents"][0].is_object()).await;
    assert!(is(&lost["parents"][0], "Accepted", "False", "NoMatchingParent"), "{lost}");
    assert!(is(&lost["parents"][0], "ResolvedRefs", "False", "BackendNotFound"), "{lost}");

    // Another controller's parent stays when ours changes; a change of spec is observed.
    let theirs = json!({"parentRef": {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "other"}, "controllerName": "example.com/c", "conditions": [
        {"type": "Accepted", "status": "True", "reason": "Accepted", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    ]});
    let api = world.api("gateway.networking.k8s.io/v1", "HTTPRoute", true);
    let mut good = world.status("HTTPRoute", "good", |s| is(&s["parents"][0], "Accepted", "True", "Accepted")).await;
    good["parents"].as_array_mut().expect("parents").push(theirs.clone());
    let patch = json!({"status": good});
    api.patch_status("good", &PatchParams::default(), &Patch::Merge(&patch)).await.expect("status of another");
    world.gateway_api("HTTPRoute", "good", route(&json!([{"name": "gw"}]), "nobody")).await;
    let good = world
        .status("HTTPRoute", "good", |status| {
            let ours = status["parents"].as_array().into_iter().flatten();
            let mut ours = ours.filter(|parent| parent["controllerName"] == "undermesh.dev/gateway-controller");
            ours.any(|parent| {
                is(parent, "ResolvedRefs", "False", "BackendNotFound") && condition(parent, "Accepted").2 == 2
            })
        })
        .await;
    assert!(good["parents"].as_array().expect("parents").contains(&theirs), "{good}");

    // An error is told in one Event.
    let events: Api<Event> = Api::namespaced(world.client.clone(), &namespace);
    let about = |event: &Event| {
        let regarding = event.regarding.as_ref()?;
        (regarding.kind.as_deref()? == "Gateway" || regarding.name.as_deref()? == "bad").then(|| event.note.clone())?
    };
    world
        .gateway_api(
            "HTTPRoute",
            "bad",
            json!({
                "parentRefs": [{"name": "gw"}],
                "rules": [{"backendRefs": [{"name": "cart", "namespace": "far", "port": 80}]}],
            }),
        )
        .await;
    let notes = async || {
        let all = events.list(&ListParams::default()).await.expect("events");
        all.items.iter().filter_map(about).collect::<Vec<String>>()
    };
    until("the Event about a reference that is not allowed", async || {
        notes().await.iter().any(|note| note.contains("RefNotPermitted")).then_some(())
    })
    .await;

    // The writer goes without a word; the other takes over, and says nothing twice.
    let before = notes().await.len();
    drop(first);
    until("n2 is the writer", async || (world.holder().await? == "n2").then_some(())).await;
    world.gateway_api("HTTPRoute", "good", route(&json!([{"name": "gw"}]), "cart")).await;
    world
        .status("HTTPRoute", "good", |status| {
            let parents = status["parents"].as_array().cloned().unwrap_or_default();
            parents.iter().any(|p| is(p, "ResolvedRefs", "True", "ResolvedRefs") && condition(p, "Accepted").2 == 3)
        })
        .await;
    assert_eq!(notes().await.len(), before);

    // What is as it should be is not written again.
    let versions = async || {
        let routes = api.list(&ListParams::default()).await.expect("routes");
        routes.items.iter().map(|route| route.resource_version()).collect::<Vec<_>>()
    };
    let still = versions().await;
    world.create("v1", "Service", &json!({"metadata": {"name": "more"}, "spec": {"ports": [{"port": 80}]}})).await;
    // The Service that comes is compiled, then judged: longer than both.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(versions().await, still);
    drop(second);
    world.end().await;
}

fn route(parents: &Value, backend: &str) -> Value {
    json!({"parentRefs": parents, "rules": [{"backendRefs": [{"name": backend, "port": 80}]}]})
}

/// A pod in the mesh that serves the Gateway, and a Service; there is no kubelet, so the test says where it is.
async fn enrol(world: &World) {
    let labelled = json!({"metadata": {"name": world.namespace, "labels": {"istio-injection": "enabled"}}});
    world.create("v1", "Namespace", &labelled).await;
    let services: Api<Service> = Api::namespaced(world.client.clone(), &world.namespace);
    let service = json!({"metadata": {"name": "cart"}, "spec": {"ports": [{"name": "http", "port": 80}]}});
    let service = serde_json::from_value(service).expect("Service");
    services.create(&PostParams::default(), &service).await.expect("Service");
    let pods: Api<Pod> = Api::namespaced(world.client.clone(), &world.namespace);
    let pod = json!({
        "metadata": {"name": "gw", "labels": {"gateway.networking.k8s.io/gateway-name": "gw"}},
        "spec": {"nodeName": world.node(), "automountServiceAccountToken": false, "containers": [{"name": "c", "image": "none"}]},
    });
    // Without a controller manager the default ServiceAccount is the test's to make.
    let account = json!({"metadata": {"name": "default"}});
    world.create("v1", "ServiceAccount", &account).await;
    pods.create(&PostParams::default(), &serde_json::from_value(pod).expect("Pod")).await.expect("Pod");
    let status = json!({"status": {"phase": "Running", "podIP": world.address, "podIPs": [{"ip": world.address}]}});
    pods.patch_status("gw", &PatchParams::default(), &Patch::Merge(&status)).await.expect("the pod's status");
}
