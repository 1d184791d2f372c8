//! Rolling updates under load on a real Kubernetes: of the called pods, and of the agents themselves. No call fails, with
//! retries at their default.

mod support_cluster;

use std::collections::BTreeSet;
use support_cluster::{Cluster, LoadPod, is_long};

const REPLICAS: usize = 4;

/// ws001-api, the callees and the load's pod.
const PODS: usize = REPLICAS + 2;

#[test]
fn no_call_fails_while_the_called_deployment_is_restarted() {
    let cluster = Cluster::with_agents();
    prepare(&cluster, "rollout");
    let load = LoadPod::start(&cluster, "rollout");
    cluster.in_mesh("rollout", PODS);
    let restarts = if is_long() { 50 } else { 3 };
    for _ in 0..restarts {
        cluster.kubectl(&["-n", "rollout", "rollout", "restart", "deploy/ws002-pingpong"]);
        cluster.rolled_out("rollout", "deploy/ws002-pingpong");
    }
    let report = load.end(&format!("{restarts} restarts of the called deployment"));
    // `ws002-pingpong-64d549ddb-8dnfv`: some pods live for a second only, but each generation had its calls.
    let generations: BTreeSet<_> =
        report.replicas.keys().filter_map(|pod| pod.rsplit_once('-')).map(|(set, _)| set).collect();
    assert!(generations.len() > restarts, "{report:?}");
    cluster.kubectl(&["delete", "namespace", "rollout", "--wait=false"]);
}

#[test]
fn no_call_fails_while_the_agents_are_replaced() {
    let cluster = Cluster::with_agents();
    prepare(&cluster, "upgrade");
    let load = LoadPod::renewing(&cluster, "upgrade");
    cluster.in_mesh("upgrade", PODS);
    let upgrades = if is_long() { 10 } else { 2 };
    for n in 1..=upgrades {
        let before = cluster.agents();
        // Any change of the template replaces the agents, node by node.
        let log = if n % 2 == 0 { "log=info" } else { "log=info,mesh_agent::kernel=debug" };
        let done = cluster.mesh_agent(&["upgrade", "--set", log]);
        assert!(done.contains("ready after"), "{done}");
        let after = cluster.agents();
        assert!(before.iter().all(|agent| !after.contains(agent)), "{before:?} are replaced: {after:?}");
        cluster.in_mesh("upgrade", PODS);
        load.joins();
    }
    load.end(&format!("{upgrades} rollouts of the agents"));
    cluster.kubectl(&["delete", "namespace", "upgrade", "--wait=false"]);
}

/// Ping-pong in the mesh.
fn prepare(cluster: &Cluster, namespace: &str) {
    cluster.namespace(namespace);
    cluster.kubectl(&["label", "namespace", namespace, "istio-injection=enabled"]);
    cluster.pingpong(namespace, REPLICAS);
    cluster.in_mesh(namespace, PODS - 1);
}
