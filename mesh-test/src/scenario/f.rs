//! Scenario F5: hosts outside the mesh, registered or not.

use super::check::Checks;
use super::stage::{Stage, ours, said};
use super::{Scenario, Step};
use crate::apps::fetch::Reply;
use crate::lab::Pod;
use crate::manifest::Manifest;
use anyhow::{Context, Result};

const NS: &str = "shop";
/// No label puts this namespace into the mesh.
const OUTSIDE: &str = "internet";
/// Of `external-host.yaml`.
const REGISTERED: &str = "http://240.240.7.7/anything";
const BLACK_HOLE: &str = "BlackHoleCluster";

pub(super) const EGRESS: Scenario = Scenario {
    id: "F5",
    title: "Egress: hosts outside the mesh",
    nodes: 1,
    set_up,
    steps: &[
        Step {
            id: "F5a",
            title: "By default everything can be reached",
            lesson: "outboundTrafficPolicy is ALLOW_ANY unless somebody says otherwise: hosts that nobody registered pass.",
            waits_for: None,
            act: allow_any,
        },
        Step {
            id: "F5b",
            title: "A host that only a VirtualService knows",
            lesson: "Rules make a host by themselves: on port 80, whatever address DNS gives it, as long as they are there. \
                     Who asks the same address for another host gets what it asks for.",
            waits_for: None,
            act: made_up,
        },
        Step {
            id: "F5c",
            title: "REGISTRY_ONLY",
            lesson: "With a Sidecar that says so, a ServiceEntry is what makes a host reachable. The rest is answered with 502 \
                     and counted as BlackHoleCluster, so that somebody notices.",
            waits_for: None,
            act: registry_only,
        },
    ],
};

fn set_up(stage: &Stage) -> Result<()> {
    for name in ["api", "tracker"] {
        let pod = stage.lab.pod(name).namespace(OUTSIDE).port("http", 80).port("raw", 9999);
        pod.app(&["echo", "--port", "http:http:80", "--port", "raw:http:9999"]).start()?;
    }
    stage.lab.pod("client").namespace(NS).label("app", "client").start()?;
    stage.enrol(NS)?;
    let mut entry = Manifest::default();
    let api = outside(stage, "api")?.ips().v4.to_string();
    entry.add(&std::fs::read_to_string(ours("external-host.yaml"))?.replace("ENDPOINT", &api), "external-host.yaml");
    stage.apply(entry)
}

fn outside(stage: &Stage, name: &str) -> Result<Pod> {
    let mut pods = stage.lab.all_pods().into_iter();
    pods.find(|pod| pod.namespace() == OUTSIDE && pod.name() == name).with_context(|| format!("no pod {name}"))
}

fn registered(stage: &Stage, client: &Pod, checks: &mut Checks) -> Result<()> {
    let reply = stage.get(client, REGISTERED, &["--header", "host=api.example.com"])?;
    let answered = format!("{} by {}", said(&reply), reply.pod());
    checks.equal("api.example.com, which a ServiceEntry registers", &"200 by api".to_owned(), &answered);
    Ok(())
}

fn allow_any(stage: &Stage, checks: &mut Checks) -> Result<()> {
    let client = stage.client(NS)?;
    registered(stage, &client, checks)?;
    let url = format!("http://{}/", outside(stage, "tracker")?.ips().v4);
    let reply = stage.get(&client, &url, &["--header", "host=tracker.example.com"])?;
    let answered = format!("{} by {}", said(&reply), reply.pod());
    checks.equal("tracker.example.com, which nobody registered", &"200 by tracker".to_owned(), &answered);
    Ok(())
}

fn made_up(stage: &Stage, checks: &mut Checks) -> Result<()> {
    let client = stage.client(NS)?;
    stage.ours("made-up-host.yaml")?;
    let url = format!("http://{}", outside(stage, "tracker")?.ips().v4);
    let asked =
        |host: &str, path: &str| stage.get(&client, &format!("{url}{path}"), &["--header", &format!("host={host}")]);
    let answered = |reply: &Reply| format!("{} by {}", said(reply), reply.pod());
    let routed = asked("made-up.example.com", "/")?;
    checks.equal("the tracker's address, asked for made-up.example.com", &"200 by api".to_owned(), &answered(&routed));
    checks.equal("made-up.example.com/status", &418, &asked("made-up.example.com", "/status")?.status);
    checks.equal("made-up.example.com/old", &301, &asked("made-up.example.com", "/old")?.status);
    let other = asked("tracker.example.com", "/")?;
    checks.equal("the same address, asked for another host", &"200 by tracker".to_owned(), &answered(&other));
    Ok(())
}

fn registry_only(stage: &Stage, checks: &mut Checks) -> Result<()> {
    let client = stage.client(NS)?;
    stage.ours("registry-only.yaml")?;
    registered(stage, &client, checks)?;
    let tracker = outside(stage, "tracker")?.ips().v4;
    let before = stage.metrics()?;
    let replies = stage.fetch(
        &client,
        &format!("http://{tracker}/"),
        &["--header", "host=tracker.example.com", "--count", "5"],
    )?;
    let refused = replies.iter().filter(|reply| reply.status == 502).count();
    checks.equal("502s for tracker.example.com, of 5", &5, &refused);
    let counted = [("response_code", "502"), ("destination_service_name", BLACK_HOLE)];
    let after = stage.metrics_when(|now| now.requests_since(&before, &counted) == 5)?;
    checks.equal("requests counted as BlackHoleCluster", &5, &after.requests_since(&before, &counted));
    let reply = stage.get(&client, &format!("http://{tracker}:9999/"), &["--timeout-ms", "5000"])?;
    let closed = reply.status == 0 && !reply.error.contains("no answer in");
    checks.holds(closed, "a port that no registered host has", "the connection is closed, at once", said(&reply));
    Ok(())
}
