//! The product on a real Kubernetes: install, the ping-pong of scenario A before and after, uninstall.

mod support_cluster;

use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::{Duration, Instant, SystemTime};
use support_cluster::{Cluster, SYSTEM, bar, eventually, text};

const NAMESPACE: &str = "pingpong";
const CALLS: u64 = 200;

/// From `mesh-agent install` to the last agent that is ready, and from the label to the last pod that is in the mesh.
const READY: Duration = Duration::from_secs(30);
const JOINED: Duration = Duration::from_secs(2);

#[test]
fn label_a_namespace_and_one_connection_spreads_over_all_nodes() {
    let cluster = Cluster::of_env();
    // What a former test may have left; with nothing there it says so.
    cluster.mesh_agent(&["uninstall"]);
    let before = traces(&cluster);
    let nodes = cluster.items(&["nodes"]).len();
    cluster.namespace(NAMESPACE);
    cluster.pingpong(NAMESPACE, 2 * nodes);
    let on: BTreeSet<String> = replicas(&cluster).iter().map(|pod| text(&pod["spec"]["nodeName"])).collect();
    assert_eq!(on.len(), nodes, "there are replicas on every node");
    let calls = CALLS.to_string();
    let args = ["--target", "ws002-pingpong:9000", "--count", &calls];
    let load = || cluster.load(NAMESPACE, "deploy/ws001-api", &args);

    let plain = load();
    assert_eq!((plain.ok, plain.failed, plain.connections_opened), (CALLS, 0, 1), "{plain:?}");
    assert_eq!(plain.replicas.len(), 1, "kube-proxy balances connections: {plain:?}");

    let began = Instant::now();
    let installed = cluster.mesh_agent(&["install"]);
    bar("install to all agents ready", began.elapsed(), READY);
    assert!(installed.contains(&format!("agents ready: {nodes} of {nodes}")), "{installed}");
    let again = cluster.mesh_agent(&["install"]);
    assert!(!again.contains("configured") && !again.contains("created"), "nothing is changed twice: {again}");
    let outside = load();
    assert_eq!((outside.ok, outside.replicas.len()), (CALLS, 1), "nobody has asked for the mesh yet: {outside:?}");
    let uids = |pods: Vec<Value>| pods.iter().map(|pod| text(&pod["metadata"]["uid"])).collect::<BTreeSet<_>>();
    let running = uids(replicas(&cluster));

    let all = 2 * nodes + 1;
    let began = SystemTime::now();
    cluster.kubectl(&["label", "namespace", NAMESPACE, "istio-injection=enabled"]);
    cluster.in_mesh(NAMESPACE, all);
    bar("label to all running pods in the mesh", joined(&cluster).duration_since(began).unwrap_or_default(), JOINED);
    let after = load();
    assert_eq!((after.ok, after.failed, after.connections_opened), (CALLS, 0, 1), "{after:?}");
    // Round robin, as the example's annotation says: each replica has its part, give or take one per worker.
    assert_eq!(after.replicas.len(), 2 * nodes, "{after:?}");
    let part = CALLS / after.replicas.len() as u64;
    assert!(after.replicas.values().all(|n| n.abs_diff(part) <= 2), "{after:?}");
    println!("{CALLS} calls over one connection: {:?}", after.replicas.values().collect::<Vec<_>>());
    assert_eq!(uids(replicas(&cluster)), running, "no pod was restarted");

    cluster.kubectl(&["label", "namespace", NAMESPACE, "istio-injection-"]);
    cluster.in_mesh(NAMESPACE, 0);
    assert_eq!(load().replicas.len(), 1, "out of the mesh without a restart");

    cluster.kubectl(&["label", "namespace", NAMESPACE, "istio.io/dataplane-mode=ambient"]);
    cluster.in_mesh(NAMESPACE, all);
    let removed = cluster.mesh_agent(&["uninstall"]);
    assert!(removed.contains("gone"), "{removed}");
    let direct = load();
    assert_eq!((direct.ok, direct.failed, direct.replicas.len()), (CALLS, 0, 1), "{direct:?}");
    assert_eq!(traces(&cluster), before, "uninstall leaves what was there before install, and nothing else");

    // A program that was still attached would be adopted, or named as another's.
    cluster.mesh_agent(&["install"]);
    for kernel in cluster.ask(&["kernel"]) {
        assert_eq!(kernel["adoption"], "fresh", "{kernel}");
        assert_eq!(kernel["status"]["other_programs"], json!([]), "{kernel}");
    }
    kept_while_used(&cluster, &before);
    cluster.kubectl(&["delete", "namespace", NAMESPACE, "--wait=false"]);
}

/// With a definition its objects would go: people's are not the uninstall's to take.
fn kept_while_used(cluster: &Cluster, before: &[String]) {
    let policy = json!({
        "apiVersion": "undermesh.dev/v1alpha1", "kind": "RequestPolicy",
        "metadata": {"name": "precious", "namespace": NAMESPACE}, "spec": {"hosts": ["ws002-pingpong"]},
    });
    cluster.apply(&policy.to_string());
    let said = |what: &str| format!("  {what:<11} CustomResourceDefinition requestpolicies.undermesh.dev\n");
    let removed = cluster.mesh_agent(&["uninstall"]);
    assert!(removed.contains(&said("kept")) && removed.contains("gone"), "{removed}");
    let kept = cluster.get(&["requestpolicy", "-n", NAMESPACE, "precious"]);
    assert_eq!(kept["spec"], policy["spec"]);
    let left: Vec<_> = traces(cluster).into_iter().filter(|trace| !before.contains(trace)).collect();
    assert_eq!(left, ["crd \"requestpolicies.undermesh.dev\""], "nothing else stays");

    cluster.kubectl(&["delete", "requestpolicy", "-n", NAMESPACE, "precious"]);
    let removed = cluster.mesh_agent(&["uninstall"]);
    assert!(removed.contains(&said("deleted")), "{removed}");
    eventually("the definition is gone", || {
        let now = traces(cluster);
        if now == before { Ok(()) } else { Err(format!("{now:?}")) }
    });
}

fn replicas(cluster: &Cluster) -> Vec<Value> {
    cluster.items(&["pods", "-n", NAMESPACE, "-l", "app=ws002-pingpong"])
}

/// When the last pod joined, by the agents' logs: asking takes longer than joining.
fn joined(cluster: &Cluster) -> SystemTime {
    let of = |agent: &String| {
        let log = cluster.kubectl(&["logs", "-n", SYSTEM, agent]);
        let lines = log.lines().filter(|line| line.contains("in the mesh pod=pingpong/"));
        lines.filter_map(|line| humantime::parse_rfc3339(line.split_whitespace().next()?).ok()).max()
    };
    cluster.agents().iter().filter_map(of).max().expect("their logs say so")
}

/// What of the mesh is on the cluster, and on its nodes where they are ours.
fn traces(cluster: &Cluster) -> Vec<String> {
    let mut found = Vec::new();
    let kinds = "namespace clusterrole clusterrolebinding role rolebinding serviceaccount daemonset pod crd";
    for kind in kinds.split(' ') {
        let objects = cluster.items(&[kind, "-A", "-l", "app.kubernetes.io/name=undermesh"]);
        found.extend(objects.iter().map(|object| format!("{kind} {}", object["metadata"]["name"])));
    }
    match cluster.rig() {
        Some(rig) => found.extend((1..=2).flat_map(|node| rig.traces(node))),
        None => println!("not looked at: pins, files and listeners of nodes that only their owner can enter"),
    }
    found
}
