//! Pods come and go, in the middle of their calls: others do not notice, and nothing of them stays.

mod support_cluster;

use serde_json::json;
use std::thread::sleep;
use std::time::{Duration, Instant};
use support_cluster::{Cluster, Counts, LoadPod, app, eventually, is_long};

const NAMESPACE: &str = "churn";
const REPLICAS: usize = 4;
/// As many at a time, as often: 100 a minute.
const BATCH: usize = 10;
const EVERY: Duration = Duration::from_secs(6);

#[test]
fn a_hundred_pods_a_minute_leave_nothing_behind() {
    let cluster = Cluster::with_agents();
    cluster.namespace(NAMESPACE);
    cluster.kubectl(&["label", "namespace", NAMESPACE, "istio-injection=enabled"]);
    cluster.pingpong(NAMESPACE, REPLICAS);
    let load = LoadPod::start(&cluster, NAMESPACE);
    cluster.in_mesh(NAMESPACE, REPLICAS + 2);
    // One of each kind first: what is made once and kept is no leak.
    churn(&cluster, 0);
    gone(&cluster);
    let before = [1, 2].map(|node| settled(&cluster, node, None));

    let began = Instant::now();
    let lasts = Duration::from_secs(if is_long() { 600 } else { 60 });
    let mut batches = 0;
    while began.elapsed() < lasts {
        let next = began + EVERY * (batches as u32 + 1);
        batches += 1;
        churn(&cluster, batches);
        sleep(next.saturating_duration_since(Instant::now()));
    }
    let (pods, minutes) = (batches * BATCH, began.elapsed().as_secs_f64() / 60.0);
    println!("{pods} pods in {minutes:.1} min: {:.0} a minute", pods as f64 / minutes);
    gone(&cluster);
    for (node, before) in [1, 2].into_iter().zip(&before) {
        println!("node {node} before: {before:?}");
        println!("node {node} after:  {:?}", settled(&cluster, node, Some(before)));
    }
    cluster.in_mesh(NAMESPACE, REPLICAS + 2);
    load.end("churn of others");
    cluster.kubectl(&["delete", "namespace", NAMESPACE, "--wait=false"]);
}

/// Pods with calls under way, deleted while they are.
fn churn(cluster: &Cluster, batch: usize) {
    let args = ["load", "--target", "ws002-pingpong:9000", "--rate", "10", "--interval-ms", "0"];
    let pods: Vec<_> = (0..BATCH)
        .map(|n| {
            let mut pod = app(NAMESPACE, &format!("churn-{batch}-{n}"), &args);
            pod["metadata"]["labels"] = json!({"app": "churn"});
            pod
        })
        .collect();
    cluster.apply(&json!({"apiVersion": "v1", "kind": "List", "items": pods}).to_string());
    let names: Vec<String> = (0..BATCH).map(|n| format!("pod/churn-{batch}-{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    cluster.kubectl(&[&["wait", "-n", NAMESPACE, "--for=condition=Ready", "--timeout=120s"], &names[..]].concat());
    cluster.kubectl(&[&["delete", "-n", NAMESPACE, "--wait=false", "--grace-period=1"], &names[..]].concat());
}

fn gone(cluster: &Cluster) {
    eventually("the pods are gone", || {
        let left = cluster.items(&["pods", "-n", NAMESPACE, "-l", "app=churn"]);
        if left.is_empty() { Ok(()) } else { Err(format!("{} left", left.len())) }
    });
}

/// What the agent holds when nothing changes any more; or, with `wanted`, when it is down to that.
fn settled(cluster: &Cluster, node: usize, wanted: Option<&Counts>) -> Counts {
    let rig = cluster.rig().expect("a rig");
    let mut last = None;
    eventually(&format!("node {node} settles"), || {
        let counts = rig.counts(node);
        let done = match wanted {
            Some(wanted) => {
                let more = |(what, count): &(&String, &u64)| wanted.get(*what).copied().unwrap_or(0) < **count;
                let more: Vec<_> = counts.iter().filter(more).collect();
                if more.is_empty() { Ok(()) } else { Err(format!("leaked: {more:?}; before: {wanted:?}")) }
            }
            None if last.as_ref() == Some(&counts) => Ok(()),
            None => Err(format!("{counts:?}")),
        };
        last = Some(counts.clone());
        if done.is_err() {
            sleep(Duration::from_secs(2));
        }
        done.map(|()| counts)
    })
}
