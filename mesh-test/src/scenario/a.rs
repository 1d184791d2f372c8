//! Scenario A beyond what `cargo xtask run` tells: faults, retries and circuit breakers of gRPC between ws001 and ws002.

use super::check::Checks;
use super::metrics::Metrics;
use super::stage::{Stage, count, said};
use super::{Scenario, Step};
use crate::lab::Pod;
use crate::manifest::Manifest;
use crate::prometheus::Sample;
use anyhow::Result;
use std::collections::BTreeMap;
use std::time::Duration;

const NS: &str = "pingpong";
const API: &str = "http://ws001-api:7001/api/pingpong";
const WS002: &str = "ws002-pingpong.pingpong.svc.cluster.local";
const PINGPONG: &str = include_str!("../../../deploy/examples/pingpong.yaml");

pub(super) const PING_PONG: Scenario = Scenario {
    id: "A",
    title: "ping-pong: an HTTP front, gRPC behind it over one connection",
    nodes: 1,
    set_up,
    steps: &[
        Step {
            id: "A2",
            title: "Calls spread over the replicas",
            lesson: "ws001-api has one HTTP/2 connection; each RPC on it is balanced (round robin here).",
            waits_for: None,
            act: spread,
        },
        Step {
            id: "A4",
            title: "From outside, by host and path",
            lesson: "A Gateway says where to listen and for which hosts, a VirtualService bound to it which paths go where. \
                     Nothing runs in the gateway's pod: its node's agent listens in it.",
            waits_for: None,
            act: ingress,
        },
        Step {
            id: "A6",
            title: "Istio's metrics, of both sides",
            lesson: "One agent stands for both pods' sidecars: each RPC counts as ws001's (source) and as ws002's (destination).",
            waits_for: None,
            act: series,
        },
        Step {
            id: "A5a",
            title: "Faults in gRPC's own words",
            lesson: "abort.grpcStatus ends the call as ws002 would have ended it: UNAVAILABLE, which ws001 turns into 503.",
            waits_for: None,
            act: aborts,
        },
        Step {
            id: "A5b",
            title: "A delay",
            lesson: "fixedDelay is spent before the request leaves the caller's node.",
            waits_for: None,
            act: delays,
        },
        Step {
            id: "A5c",
            title: "Retries hide the faults",
            lesson: "Half of the calls behind ws001 fail; its callers try up to ten more times: 0.5^11 is one in 2,048.",
            waits_for: None,
            act: retries,
        },
        Step {
            id: "A5d",
            title: "A circuit breaker",
            lesson: "http2MaxRequests bounds calls in flight, whatever connection they are on; gRPC sees UNAVAILABLE (14).",
            waits_for: None,
            act: breaker,
        },
    ],
};

fn set_up(stage: &Stage) -> Result<()> {
    let mut manifest = Manifest::default();
    manifest.add(PINGPONG, "deploy/examples/pingpong.yaml");
    stage.apply(manifest)?;
    stage.lab.pod("client").namespace(NS).label("app", "client").start()?;
    stage.enrol(NS)
}

fn statuses(stage: &Stage, from: &Pod, n: u64, concurrency: u64) -> Result<BTreeMap<String, u64>> {
    let (n, concurrency) = (n.to_string(), concurrency.to_string());
    Ok(count(&stage.fetch(from, API, &["--count", &n, "--concurrency", &concurrency])?, said))
}

fn spread(stage: &Stage, checks: &mut Checks) -> Result<()> {
    let replies = stage.fetch(&stage.client(NS)?, API, &["--count", "100"])?;
    let pods = count(&replies, |reply| if reply.status == 200 { reply.pod().to_owned() } else { said(reply) });
    let even = pods.len() == 2 && pods.values().all(|count| (49..=51).contains(count));
    checks.holds(even, "100 calls, 2 replicas", "each 49–51", format!("{pods:?}"));
    Ok(())
}

fn ingress(stage: &Stage, checks: &mut Checks) -> Result<()> {
    let gateway = stage.ingress()?;
    stage.ours("pingpong-gateway.yaml")?;
    for (who, from) in [("outside the mesh", stage.outsider()?), ("in the mesh", stage.client(NS)?)] {
        for (host, path, expected) in [
            ("ws001.example.com", "/api/pingpong", "200 by ws002"),
            ("WS001.example.com:80", "/api/pingpong", "200 by ws002"),
            ("other.example.com", "/api/pingpong", "404 by the gateway"),
            ("ws001.example.com", "/", "404 by the gateway"),
        ] {
            let came = stage.answer(&from, gateway, host, path)?;
            checks.equal(&format!("{host}{path}, asked {who}"), &expected.to_owned(), &came);
        }
    }
    Ok(())
}

/// The labels that A6 asks for, all of which a series must have.
const LABELS: [&str; 19] = [
    "connection_security_policy",
    "destination_app",
    "destination_canonical_revision",
    "destination_canonical_service",
    "destination_principal",
    "destination_service",
    "destination_service_name",
    "destination_service_namespace",
    "destination_version",
    "destination_workload",
    "destination_workload_namespace",
    "grpc_response_status",
    "request_protocol",
    "response_code",
    "response_flags",
    "source_app",
    "source_principal",
    "source_workload",
    "source_workload_namespace",
];

fn series(stage: &Stage, checks: &mut Checks) -> Result<()> {
    let before = stage.metrics()?;
    let replies = stage.fetch(&stage.client(NS)?, API, &["--count", "40"])?;
    checks.equal("answers", &BTreeMap::from([("200".to_owned(), 40)]), &count(&replies, said));
    for (reporter, security) in [("source", "unknown"), ("destination", "none")] {
        let labels = [
            ("reporter", reporter),
            ("connection_security_policy", security),
            ("destination_service", WS002),
            ("destination_service_name", "ws002-pingpong"),
            ("destination_service_namespace", NS),
            ("destination_app", "ws002-pingpong"),
            ("destination_workload_namespace", NS),
            ("source_app", "ws001-api"),
            ("source_workload_namespace", NS),
            ("request_protocol", "grpc"),
            ("response_code", "200"),
            ("grpc_response_status", "0"),
            ("response_flags", "-"),
        ];
        let counted = |now: &Metrics| now.since(&before, "istio_requests_total", &labels);
        let after = stage.metrics_when(|now| counted(now) == 40)?;
        checks.equal(&format!("RPCs that the {reporter} reports"), &40, &counted(&after));
        let missing = after.without("istio_requests_total", &labels, &LABELS);
        checks.equal(&format!("labels that the {reporter}'s series lack"), &Vec::<String>::new(), &missing);
        for messages in ["istio_request_messages_total", "istio_response_messages_total"] {
            let sent = after.since(&before, messages, &[("reporter", reporter), ("destination_service", WS002)]);
            checks.equal(&format!("{messages} of the {reporter}"), &40, &sent);
        }
    }
    let prometheus = stage.prometheus()?;
    for reporter in ["source", "destination"] {
        let labels = [("reporter", reporter), ("destination_service", WS002)];
        let all = stage.metrics()?.total("istio_requests_total", &labels);
        let query = format!("istio_requests_total{{destination_service=\"{WS002}\", reporter=\"{reporter}\"}}");
        let total = |samples: &[Sample]| samples.iter().map(|sample| sample.value).sum::<f64>() as u64;
        let shown = prometheus.query_until(&query, Duration::from_secs(20), |now| total(now) >= all)?;
        checks.equal(&format!("{query} in Prometheus"), &all, &total(&shown));
        let missing = LABELS.iter().filter(|label| shown.iter().any(|sample| sample.label(label).is_empty()));
        let missing: Vec<String> = missing.map(|label| (*label).to_owned()).collect();
        checks.equal("labels that they lack", &Vec::<String>::new(), &missing);
    }
    Ok(())
}

fn aborts(stage: &Stage, checks: &mut Checks) -> Result<()> {
    let client = stage.client(NS)?;
    stage.ours("pingpong-abort.yaml")?;
    let mut failed = 0;
    let before = stage.metrics()?;
    checks.shares("abort 50 % with UNAVAILABLE", 500, &[("503", 0.5), ("200", 0.5)], || {
        let seen = statuses(stage, &client, 500, 4)?;
        failed += seen.get("503").copied().unwrap_or(0);
        Ok(seen)
    })?;
    let flagged = [("response_flags", "FI"), ("grpc_response_status", "14"), ("destination_service", WS002)];
    let after = stage.metrics_when(|now| now.requests_since(&before, &flagged) == failed)?;
    checks.equal("RPCs counted as grpc_status 14 with flag FI", &failed, &after.requests_since(&before, &flagged));
    Ok(())
}

fn delays(stage: &Stage, checks: &mut Checks) -> Result<()> {
    let client = stage.client(NS)?;
    stage.ours("pingpong-delay.yaml")?;
    let before = stage.metrics()?;
    let replies = stage.fetch(&client, API, &["--count", "20", "--concurrency", "4"])?;
    checks.equal("answers", &BTreeMap::from([("200".to_owned(), 20)]), &count(&replies, said));
    let quickest = replies.iter().map(|reply| reply.elapsed_ms).fold(f64::MAX, f64::min);
    checks.within("quickest of 20", (300.0, 800.0), quickest, " ms");
    let flagged = [("response_flags", "DI"), ("destination_service", WS002)];
    let after = stage.metrics_when(|now| now.requests_since(&before, &flagged) == 20)?;
    checks.equal("RPCs counted with flag DI", &20, &after.requests_since(&before, &flagged));
    Ok(())
}

fn retries(stage: &Stage, checks: &mut Checks) -> Result<()> {
    let client = stage.client(NS)?;
    stage.ours("pingpong-abort.yaml")?;
    stage.ours("pingpong-retry.yaml")?;
    let seen = statuses(stage, &client, 300, 8)?;
    let good = seen.get("200").copied().unwrap_or(0) as f64 / 3.0;
    checks.within("success with 10 retries", (99.0, 100.0), good, " %");
    Ok(())
}

fn breaker(stage: &Stage, checks: &mut Checks) -> Result<()> {
    let client = stage.client(NS)?;
    stage.ours("pingpong-circuit-breaker.yaml")?;
    let before = stage.metrics()?;
    let seen = statuses(stage, &client, 400, 8)?;
    let of = |status: &str| seen.get(status).copied().unwrap_or(0);
    let (good, refused) = (of("200"), of("503"));
    checks.holds(
        good > 0 && refused >= 20 && good + refused == 400,
        "8 callers, one call at a time allowed",
        "some 200, at least 5 % 503, nothing else",
        format!("{seen:?}"),
    );
    let overflow = [("response_flags", "UO"), ("grpc_response_status", "14"), ("destination_service", WS002)];
    let after = stage.metrics_when(|now| now.requests_since(&before, &overflow) == refused)?;
    checks.equal("RPCs counted as grpc_status 14 with UO", &refused, &after.requests_since(&before, &overflow));
    Ok(())
}
