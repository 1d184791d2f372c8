//! The API server goes away under load, and the agents are restarted before it comes back: nobody notices.

mod support_cluster;

use serde_json::Value;
use std::thread::sleep;
use std::time::{Duration, Instant};
use support_cluster::{Cluster, LoadPod, bar, eventually, is_long, text};

const NAMESPACE: &str = "away";
const REPLICAS: usize = 4;

/// From the start of an agent's process to its pods in the mesh, without an API server.
const BACK: Duration = Duration::from_secs(1);

#[test]
fn no_call_fails_while_the_api_server_is_away_and_agents_restart() {
    let cluster = Cluster::with_agents();
    let rig = cluster.rig().expect("a rig");
    cluster.namespace(NAMESPACE);
    cluster.kubectl(&["label", "namespace", NAMESPACE, "istio-injection=enabled"]);
    cluster.pingpong(NAMESPACE, REPLICAS);
    let load = LoadPod::start(&cluster, NAMESPACE);
    cluster.in_mesh(NAMESPACE, REPLICAS + 2);
    let served = [1, 2].map(|node| in_mesh(&cluster, node));
    let half = Duration::from_secs(if is_long() { 300 } else { 15 });

    let away = rig.stop_api();
    let began = Instant::now();
    sleep(half);
    for node in [1, 2] {
        let former = rig.agent(node);
        rig.on(node, &format!("kill -TERM {former}"));
        let process = eventually("another agent", || match rig.agent(node) {
            now if now == former => Err(format!("{former} has not ended")),
            now => Ok(now),
        });
        let status = eventually("pods in the mesh again", || match rig.status(node) {
            Some(status) if ours(&status) == served[node - 1] => Ok(status),
            other => Err(format!("{other:?}")),
        });
        assert_eq!(status["pid"], process);
        assert_eq!(status["config"]["cluster"]["state"], "last-known", "{status}");
    }
    sleep(half.saturating_sub(began.elapsed().saturating_sub(half)));
    println!("the API server was away for {:.0?}", began.elapsed());
    drop(away);
    eventually("the agents are in touch again", || {
        let states = cluster.ask(&["status"]).into_iter().map(|status| status["config"]["cluster"]["state"].clone());
        let states: Vec<_> = states.collect();
        if states.iter().all(|state| state == "in-sync") { Ok(()) } else { Err(format!("{states:?}")) }
    });
    // What comes to an agent's mind when the server is back must not take anything down either.
    sleep(Duration::from_secs(if is_long() { 60 } else { 5 }));
    for (node, before) in [1, 2].into_iter().zip(&served) {
        assert_eq!(&in_mesh(&cluster, node), before, "node {node}");
        bar(&format!("restart to serving without an API server, node {node}"), started_in(&cluster, node), BACK);
    }
    load.end("an API server away, agents restarted meanwhile");
    cluster.kubectl(&["delete", "namespace", NAMESPACE, "--wait=false"]);
}

fn in_mesh(cluster: &Cluster, node: usize) -> Vec<String> {
    ours(&cluster.rig().unwrap().status(node).expect("a status"))
}

/// Pods of this test that an agent serves; other tests' may still be ending.
fn ours(status: &Value) -> Vec<String> {
    let pods = status["pods"]["in_mesh"].as_array().into_iter().flatten().map(text);
    pods.filter(|pod| pod.starts_with("away/")).collect()
}

/// As the agent's own log says it: `serving … took=512ms`.
fn started_in(cluster: &Cluster, node: usize) -> Duration {
    let pod = cluster.agent_of(&format!("node{node}"));
    let log = cluster.kubectl(&["logs", "-n", support_cluster::SYSTEM, &pod]);
    let line = log.lines().find(|line| line.contains("serving") && line.contains("took=")).expect("it says so");
    let took = line.rsplit("took=").next().unwrap_or_default().split_whitespace().next().unwrap_or_default();
    humantime::parse_duration(&whole(took)).unwrap_or_else(|error| panic!("{took}: {error}"))
}

/// `512.3ms` as `512300us`: the parser takes whole numbers only.
fn whole(took: &str) -> String {
    let unit: String = took.chars().filter(|c| !c.is_ascii_digit() && *c != '.').collect();
    let number: f64 = took.trim_end_matches(|c: char| !c.is_ascii_digit()).parse().unwrap_or(0.0);
    let micros = match unit.as_str() {
        "s" => number * 1e6,
        "ms" => number * 1e3,
        _ => number,
    };
    format!("{}us", micros as u64)
}
