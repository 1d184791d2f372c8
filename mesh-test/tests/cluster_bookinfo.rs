//! Bookinfo on a real Kubernetes: Istio's own YAML (`UNDERMESH_SAMPLES`) for routes and the gateway; stand-ins for its
//! images, which not every cluster can pull.

mod support_cluster;

use mesh_test::apps::fetch::Reply;
use mesh_test::manifest::Manifest;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use support_cluster::{APPS, Cluster, eventually, root};

const NAMESPACE: &str = "bookinfo";
const INGRESS: &str = "istio-ingress";
const REVIEWS: &str = "http://reviews:9080/reviews/0";
/// productpage, details, ratings, three versions of reviews, and the client.
const PODS: usize = 7;

#[test]
fn istios_own_yaml_routes_by_version_and_lets_the_page_in_from_outside() {
    let cluster = Cluster::with_agents();
    cluster.namespace(NAMESPACE);
    cluster.namespace(INGRESS);
    for object in bookinfo() {
        cluster.apply(&object.to_string());
    }
    cluster.client(NAMESPACE, "client");
    cluster.kubectl(&["wait", "-n", NAMESPACE, "--for=condition=Ready", "pod", "--all", "--timeout=180s"]);
    cluster.kubectl(&["label", "namespace", NAMESPACE, "istio-injection=enabled"]);
    cluster.in_mesh(NAMESPACE, PODS);
    assert_eq!(versions(&cluster, 60, &[]).len(), 3, "without a route: every version in turn");

    sample(&cluster, "networking/destination-rule-all.yaml");
    sample(&cluster, "networking/virtual-service-reviews-test-v2.yaml");
    eventually("jason sees v2, others v1", || {
        let (jason, others) = (versions(&cluster, 20, &["--header", "end-user=jason"]), versions(&cluster, 20, &[]));
        let only = |seen: &BTreeMap<String, usize>, version: &str| seen.len() == 1 && seen.get(version) == Some(&20);
        let good = only(&jason, "v2") && only(&others, "v1");
        if good { Ok(()) } else { Err(format!("jason {jason:?}, others {others:?}")) }
    });
    let page = one(&cluster, NAMESPACE, "client", "http://productpage:9080/productpage", &[]);
    assert_eq!(page.status, 200);
    assert!(
        page.body.contains("William Shakespeare") && page.body.contains("Reviews served by: reviews-v1"),
        "{page:?}"
    );

    // From outside, through a pod in which nothing runs.
    cluster.kubectl(&["apply", "-f", &root().join("deploy/examples/ingress-gateway.yaml").display().to_string()]);
    cluster.rolled_out(INGRESS, "deploy/istio-ingressgateway");
    cluster.namespace("outside");
    cluster.client("outside", "browser");
    sample(&cluster, "networking/bookinfo-gateway.yaml");
    by_host(&cluster);
    let from_outside = |host: &str, path: &str| {
        let url = format!("http://istio-ingressgateway.{INGRESS}{path}");
        let reply = one(&cluster, "outside", "browser", &url, &["--header", &format!("host={host}")]);
        let by = reply.pod().split('-').next().filter(|name| !name.is_empty()).unwrap_or("the gateway").to_owned();
        format!("{} by {by}", reply.status)
    };
    eventually("the gateway serves", || match from_outside("bookinfo.example.com", "/productpage") {
        good if good == "200 by productpage" => Ok(()),
        other => Err(other),
    });
    for (host, path, expected) in [
        ("bookinfo.example.com", "/static/bookinfo.css", "200 by productpage"),
        ("bookinfo.example.com", "/api/v1/products", "200 by productpage"),
        ("bookinfo.example.com", "/health", "404 by the gateway"),
        ("api.example.com", "/api/v1/products", "200 by productpage"),
        ("api.example.com", "/reviews/0", "200 by reviews"),
        ("api.example.com", "/details/0", "404 by the gateway"),
    ] {
        assert_eq!(from_outside(host, path), expected, "{host}{path}");
    }
    for namespace in [NAMESPACE, INGRESS, "outside"] {
        cluster.kubectl(&["delete", "namespace", namespace, "--wait=false"]);
    }
}

/// A more exact host than the sample's `*`, and a path of its own.
fn by_host(cluster: &Cluster) {
    let route = |prefix: &str, to: &str| {
        let destination = json!({"destination": {"host": to, "port": {"number": 9080}}});
        json!({"match": [{"uri": {"prefix": prefix}}], "route": [destination]})
    };
    let service = json!({
        "apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
        "metadata": {"name": "api", "namespace": NAMESPACE},
        "spec": {"hosts": ["api.example.com"], "gateways": ["bookinfo-gateway"],
                 "http": [route("/api/", "productpage"), route("/reviews/", "reviews")]},
    });
    cluster.apply(&service.to_string());
}

/// The sample's objects; its Deployments run the stand-ins.
fn bookinfo() -> Vec<Value> {
    let file = samples().join("bookinfo/platform/kube/bookinfo.yaml");
    let mut manifest = Manifest::default();
    let text = std::fs::read_to_string(&file).unwrap();
    manifest.add(&text, "bookinfo.yaml");
    let documents = serde_yaml_ng::Deserializer::from_str(&text);
    let objects = documents.map(|document| serde::Deserialize::deserialize(document).unwrap());
    let mut objects: Vec<Value> = objects.filter(|object: &Value| !object.is_null()).collect();
    for object in &mut objects {
        object["metadata"]["namespace"] = NAMESPACE.into();
        if object["kind"] == "Deployment" {
            let name = object["metadata"]["name"].as_str().unwrap();
            let set = manifest.pod_sets.iter().find(|set| set.name == name).unwrap();
            let container = &mut object["spec"]["template"]["spec"]["containers"][0];
            container["image"] = APPS.into();
            container["args"] = json!(set.program(&manifest.services));
        }
    }
    objects
}

fn samples() -> PathBuf {
    std::env::var_os("UNDERMESH_SAMPLES").expect("UNDERMESH_SAMPLES: the folder of Istio's samples").into()
}

fn sample(cluster: &Cluster, name: &str) {
    let file = samples().join("bookinfo").join(name).display().to_string();
    cluster.kubectl(&["apply", "-n", NAMESPACE, "-f", &file]);
}

fn one(cluster: &Cluster, namespace: &str, pod: &str, url: &str, args: &[&str]) -> Reply {
    cluster.fetch(namespace, pod, url, args).into_iter().next().expect("a reply")
}

/// Versions of reviews that answered, and how often; `failed` for what was no 200.
fn versions(cluster: &Cluster, count: usize, args: &[&str]) -> BTreeMap<String, usize> {
    let count = count.to_string();
    let mut seen = BTreeMap::new();
    for reply in cluster.fetch(NAMESPACE, "client", REVIEWS, &[&["--count", &count], args].concat()) {
        let version = reply.pod().split('-').nth(1).filter(|_| reply.status == 200).unwrap_or("failed");
        *seen.entry(version.to_owned()).or_default() += 1;
    }
    seen
}
