//! Scenario D, on three nodes: localities, slow start, session affinity.

use super::check::{Checks, bounds};
use super::stage::{Stage, count, said};
use super::{Scenario, Step};
use crate::lab::Pod;
use anyhow::{Context, Result, ensure};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

const NS: &str = "zones";
const WEB: &str = "http://web/";
/// Pods of the Service, one on each node; the client is with the first.
const PODS: [&str; 3] = ["north-a", "north-b", "south-c"];

pub(super) const ZONES: Scenario = Scenario {
    id: "D",
    title: "localities, slow start, session affinity (three nodes)",
    nodes: 3,
    set_up,
    steps: &[
        Step {
            id: "D7a",
            title: "Zones by weight",
            lesson: "localityLbSetting.distribute sends a share of a zone's requests to other zones.",
            waits_for: None,
            act: distribute,
        },
        Step {
            id: "D7b",
            title: "The same session, the same endpoint",
            lesson: "Consistent hashing of a header, a cookie (which the mesh makes if there is none) or the caller's address.",
            waits_for: None,
            act: affinity,
        },
        Step {
            id: "D7c",
            title: "A new endpoint begins slowly",
            lesson: "With warmup a new endpoint gets a tenth of its share at first and all of it when the time is over.",
            waits_for: None,
            act: slow_start,
        },
        Step {
            id: "D7d",
            title: "Failover by locality",
            lesson: "Requests stay in the zone; when it has no endpoint left they go to the region, then to the next region.",
            waits_for: None,
            act: failover,
        },
    ],
};

fn set_up(stage: &Stage) -> Result<()> {
    stage.ours("zones.yaml")?;
    for (node, name) in PODS.iter().enumerate() {
        start(stage, name, node)?;
    }
    for name in ["client", "other"] {
        stage.lab.pod(name).namespace(NS).label("app", name).start()?;
    }
    stage.enrol(NS)
}

fn start(stage: &Stage, name: &str, node: usize) -> Result<Pod> {
    let pod = stage.lab.pod(name).namespace(NS).label("app", "web").port("http", 80).on_node(node);
    pod.app(&["demo", "--service", "carts"]).start()
}

fn pod(stage: &Stage, name: &str) -> Result<Pod> {
    let mut pods = stage.lab.all_pods().into_iter();
    pods.find(|pod| pod.namespace() == NS && pod.name() == name).with_context(|| format!("no pod {name}"))
}

fn answered(stage: &Stage, from: &Pod, n: u64, args: &[&str]) -> Result<BTreeMap<String, u64>> {
    let n = n.to_string();
    let replies = stage.fetch(from, WEB, &[&["--count", &n, "--concurrency", "4"], args].concat())?;
    Ok(count(&replies, |reply| if reply.status == 200 { reply.pod().to_owned() } else { said(reply) }))
}

fn distribute(stage: &Stage, checks: &mut Checks) -> Result<()> {
    let client = pod(stage, "client")?;
    stage.ours("locality-distribute.yaml")?;
    checks.shares("70/20/10 over zones", 1000, &[("north-a", 0.7), ("north-b", 0.2), ("south-c", 0.1)], || {
        answered(stage, &client, 1000, &[])
    })
}

fn affinity(stage: &Stage, checks: &mut Checks) -> Result<()> {
    let client = pod(stage, "client")?;
    stage.ours("affinity-header.yaml")?;
    let mut used = BTreeSet::new();
    let mut torn = Vec::new();
    for session in 0..24 {
        let header = format!("x-session=s{session}");
        let seen = answered(stage, &client, 20, &["--header", &header])?;
        if seen.len() != 1 {
            torn.push(format!("s{session}: {seen:?}"));
        }
        used.extend(seen.into_keys());
    }
    checks.holds(
        torn.is_empty(),
        "24 sessions by header, 20 requests each",
        "each at one pod",
        or(&torn, "each at one pod"),
    );
    // Three fair pods leave one of them out with 24 sessions once in 5,000.
    checks.equal("pods they use together", &3, &used.len());

    stage.ours("affinity-cookie.yaml")?;
    let first = stage.get(&client, WEB, &[])?;
    let cookie = first.header("set-cookie").split(';').next().unwrap_or_default().to_owned();
    checks.holds(
        cookie.starts_with("session="),
        "an answer without a cookie sets one",
        "session=…",
        first.header("set-cookie"),
    );
    let seen = answered(stage, &client, 50, &["--header", &format!("cookie={cookie}")])?;
    checks.equal("50 requests with it", &BTreeMap::from([(first.pod().to_owned(), 50)]), &seen);

    stage.ours("affinity-source-ip.yaml")?;
    for name in ["client", "other"] {
        let seen = answered(stage, &pod(stage, name)?, 50, &[])?;
        checks.equal(&format!("pods that 50 requests from {name} reach"), &1, &seen.len());
    }
    Ok(())
}

fn slow_start(stage: &Stage, checks: &mut Checks) -> Result<()> {
    let client = pod(stage, "client")?;
    stage.ours("slow-start.yaml")?;
    // Those that are there already are warm before the new one comes.
    std::thread::sleep(Duration::from_secs(4));
    let began = Instant::now();
    let fresh = start(stage, "fresh", 0)?;
    let asked = began.elapsed().as_secs_f64();
    let replies = stage.fetch(&client, WEB, &["--count", "250", "--pause-ms", "20"]);
    let last = answered(stage, &client, 400, &[]);
    fresh.delete()?;
    let (replies, last) = (replies?, last?);
    ensure!(replies.iter().all(|reply| reply.status == 200), "{:?}", count(&replies, said));
    // Its weight after t of 4 s is max(0.1, t/4) against three of 1; it cannot have been known before it was started.
    let weight = ((asked + 1.0) / 4.0).clamp(0.1, 1.0);
    let first: Vec<_> = replies.iter().filter(|reply| reply.at_ms < 1000.0).collect();
    let early = first.iter().filter(|reply| reply.pod() == "fresh").count() as u64;
    let (_, most) = bounds(first.len() as u64, weight / (3.0 + weight));
    checks.holds(
        early <= most,
        "the new pod in its first second",
        format!("at most {most} of {}", first.len()),
        early.to_string(),
    );
    let late = last.get("fresh").copied().unwrap_or(0);
    let (least, most) = bounds(400, 0.25);
    checks.within("the new pod when it is warm, of 400", (least as f64, most as f64), late as f64, "");
    Ok(())
}

/// Deletes pods, so it is the last step.
fn failover(stage: &Stage, checks: &mut Checks) -> Result<()> {
    let client = pod(stage, "client")?;
    stage.ours("locality-failover.yaml")?;
    for (gone, expected) in [(None, "north-a"), (Some("north-a"), "north-b"), (Some("north-b"), "south-c")] {
        if let Some(gone) = gone {
            pod(stage, gone)?.delete()?;
            stage.in_force()?;
        }
        let what = gone.map_or("the zone has an endpoint".to_owned(), |gone| format!("{gone} is gone"));
        checks.equal(&what, &BTreeMap::from([(expected.to_owned(), 200)]), &answered(stage, &client, 200, &[])?);
    }
    Ok(())
}

fn or(torn: &[String], fine: &str) -> String {
    if torn.is_empty() { fine.to_owned() } else { torn.join(", ") }
}
