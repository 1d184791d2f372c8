//! `mesh-agent graph`: who calls whom.

use super::crowd::Crowd;
use super::output::{self, Format, Paint};
use super::table::{Cell, Table};
use super::top::rates::quantile;
use super::top::{latency, success};
use crate::admin::view::{Edge, Graph, Peer};
use anyhow::Result;
use clap::Args;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct GraphArgs {
    /// Calls that begin or end in this namespace
    #[arg(long, short = 'n')]
    pub namespace: Option<String>,
}

const AFTER_HELP: &str = "\
Counts since the agent's start, of what passed this node's agent (--cluster: all agents), as callers saw it.
`mesh-agent top` has rates, `mesh-agent dashboard` draws them.

Examples:
  mesh-agent graph
  mesh-agent graph -n shop -o json | jq '.[] | select(.failures > 0)'
  mesh-agent graph -o dot | dot -Tsvg > mesh.svg";

/// Calls of one workload to another through one Service by one protocol.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Call {
    /// `namespace/workload`; empty: no pod of the mesh.
    from: String,
    /// As `from`; the Service, or what stands for it, where no endpoint is known.
    to: String,
    service: String,
    protocol: String,
    security: String,
    requests: u64,
    failures: u64,
    /// Of one; `None` without requests.
    success: Option<f64>,
    p50_ms: Option<f64>,
    p95_ms: Option<f64>,
    p99_ms: Option<f64>,
    codes: BTreeMap<String, u64>,
    request_bytes: u64,
    response_bytes: u64,
    /// Opaque connections: ever, and now.
    opened: u64,
    open: u64,
}

pub(super) fn run(of: &Crowd<'_>, format: Format, args: &GraphArgs) -> Result<()> {
    let graph = joined(of.read::<Graph>("/graph")?.into_iter().map(|(_, graph)| graph));
    let within = |peer: &Peer| args.namespace.as_ref().is_none_or(|wanted| peer.namespace == *wanted);
    let edges = graph.edges.iter().filter(|edge| within(&edge.source) || within(&edge.destination));
    let calls: Vec<Call> = edges.map(|edge| Call::new(edge, &graph.bounds_ms)).collect();
    match format {
        Format::Dot => output::say(&dot(&calls)),
        format => output::print(format, &calls, |paint| draw(&calls, paint)),
    }
}

/// What agents of several nodes counted of the same callers and callees is one edge.
fn joined(graphs: impl Iterator<Item = Graph>) -> Graph {
    let mut all = Graph::default();
    let mut edges: BTreeMap<_, Edge> = BTreeMap::new();
    for graph in graphs {
        if all.bounds_ms.len() < graph.bounds_ms.len() {
            all.bounds_ms = graph.bounds_ms;
        }
        for edge in graph.edges {
            let ends = (edge.source.clone(), edge.destination.clone(), edge.service.clone());
            match edges.get_mut(&(ends.clone(), edge.protocol.clone(), edge.security.clone())) {
                Some(sum) => add(sum, &edge),
                None => drop(edges.insert((ends, edge.protocol.clone(), edge.security.clone()), edge)),
            }
        }
    }
    all.edges = edges.into_values().collect();
    all
}

fn add(sum: &mut Edge, edge: &Edge) {
    sum.requests += edge.requests;
    sum.failures += edge.failures;
    for (code, count) in &edge.codes {
        *sum.codes.entry(code.clone()).or_default() += count;
    }
    if sum.buckets.len() < edge.buckets.len() {
        sum.buckets.resize(edge.buckets.len(), 0);
    }
    sum.buckets.iter_mut().zip(&edge.buckets).for_each(|(sum, count)| *sum += count);
    sum.request_bytes += edge.request_bytes;
    sum.response_bytes += edge.response_bytes;
    sum.opened += edge.opened;
    sum.open += edge.open;
}

impl Call {
    fn new(edge: &Edge, bounds_ms: &[f64]) -> Self {
        let quantile = |share| quantile(share, bounds_ms, &edge.buckets);
        let failed = edge.failures.min(edge.requests) as f64;
        Self {
            from: name(&edge.source),
            to: name(&edge.destination),
            service: edge.service.clone(),
            protocol: edge.protocol.clone(),
            security: edge.security.clone(),
            requests: edge.requests,
            failures: edge.failures,
            success: (edge.requests > 0).then(|| 1.0 - failed / edge.requests as f64),
            p50_ms: quantile(0.5),
            p95_ms: quantile(0.95),
            p99_ms: quantile(0.99),
            codes: edge.codes.clone(),
            request_bytes: edge.request_bytes,
            response_bytes: edge.response_bytes,
            opened: edge.opened,
            open: edge.open,
        }
    }
}

fn name(peer: &Peer) -> String {
    let name = if peer.workload.is_empty() { &peer.service } else { &peer.workload };
    if peer.namespace.is_empty() { name.clone() } else { format!("{}/{name}", peer.namespace) }
}

fn shown(name: &str) -> &str {
    if name.is_empty() { "(other clients)" } else { name }
}

fn draw(calls: &[Call], paint: Paint) -> String {
    let headers =
        ["FROM", "TO", "SERVICE", "PROTOCOL", "SECURITY", "REQUESTS", "SUCCESS", "P50", "P95", "P99", "CONNECTIONS"];
    let mut table = Table::new(&headers);
    for call in calls {
        let connections = if call.opened > 0 { format!("{} of {}", call.open, call.opened) } else { "-".to_owned() };
        table.row(vec![
            shown(&call.from).into(),
            shown(&call.to).into(),
            call.service.as_str().into(),
            call.protocol.as_str().into(),
            call.security.as_str().into(),
            Cell::number(&call.requests),
            success(call.success),
            Cell::number(&latency(call.p50_ms)),
            Cell::number(&latency(call.p95_ms)),
            Cell::number(&latency(call.p99_ms)),
            Cell::number(&connections),
        ]);
    }
    table.render(paint)
}

/// Graphviz' language: a box for each namespace, an arrow for each call, red where calls fail.
fn dot(calls: &[Call]) -> String {
    let mut out = String::from("digraph mesh {\n  rankdir=LR;\n  node [shape=box, style=rounded];\n");
    let ends: BTreeSet<&str> = calls.iter().flat_map(|call| [&*call.from, &*call.to]).collect();
    let mut namespaces: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for end in ends {
        let namespace = end.split_once('/').map_or("", |(namespace, _)| namespace);
        namespaces.entry(namespace).or_default().push(end);
    }
    // Writing to a String does not fail.
    for (namespace, ends) in namespaces {
        let (indent, close) = match namespace {
            "" => ("  ", ""),
            of => {
                let _ = writeln!(out, "  subgraph {} {{\n    label={};", quoted(&format!("cluster_{of}")), quoted(of));
                ("    ", "  }\n")
            }
        };
        for end in ends {
            let label = end.split_once('/').map_or_else(|| shown(end), |(_, name)| name);
            let _ = writeln!(out, "{indent}{} [label={}];", quoted(shown(end)), quoted(label));
        }
        out.push_str(close);
    }
    for call in calls {
        let volume = match call.requests {
            0 => format!("{} connections", call.opened),
            requests => format!("{requests} × {}, p95 {}", call.protocol, latency(call.p95_ms)),
        };
        let failing = match call.failures {
            0 => (String::new(), ""),
            failures => (format!(", {failures} failed"), ", color=red, fontcolor=red"),
        };
        let (from, to) = (quoted(shown(&call.from)), quoted(shown(&call.to)));
        let _ = writeln!(out, "  {from} -> {to} [label={}{}];", quoted(&(volume + &failing.0)), failing.1);
    }
    out.push_str("}\n");
    out
}

/// A quoted ID of the language: nothing but quotes is special in it, and backslashes in labels.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(from: &str, to: &str, requests: u64, failures: u64) -> Call {
        Call::new(&edge(from, to, requests, failures), &[10.0])
    }

    fn edge(from: &str, to: &str, requests: u64, failures: u64) -> Edge {
        let peer = |name: &str| {
            let (namespace, workload) = name.split_once('/').unwrap_or_default();
            Peer { namespace: namespace.into(), workload: workload.into(), service: String::new() }
        };
        Edge {
            source: peer(from),
            destination: peer(to),
            service: to.to_owned(),
            protocol: "http".into(),
            requests,
            failures,
            buckets: vec![requests, 0],
            opened: 3,
            open: 1,
            codes: BTreeMap::from([("200".to_owned(), requests)]),
            ..Edge::default()
        }
    }

    #[test]
    fn nodes_that_count_the_same_callers_are_one_edge() {
        let of = |edges| Graph { bounds_ms: vec![10.0], edges, ..Graph::default() };
        let first = of(vec![edge("shop/web", "shop/db", 4, 1), edge("shop/api", "shop/db", 2, 0)]);
        let graph = joined([first, of(vec![edge("shop/web", "shop/db", 6, 0)])].into_iter());
        let rows: Vec<_> =
            graph.edges.iter().map(|edge| (&*edge.source.workload, edge.requests, edge.failures)).collect();
        assert_eq!(rows, [("api", 2, 0), ("web", 10, 1)]);
        let web = &graph.edges[1];
        assert_eq!((web.codes["200"], &web.buckets, web.opened, web.open), (10, &vec![10, 0], 6, 2));
    }

    #[test]
    fn calls_are_rows() {
        let text = draw(&[call("", "shop/web", 4, 0), call("shop/web", "shop/db", 4, 1)], Paint::off());
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[1].starts_with("(other clients)  shop/web") && lines[1].contains("100.0 %"), "{text}");
        assert!(lines[2].contains("75.0 %") && lines[2].contains("5.00 ms") && lines[2].ends_with("1 of 3"), "{text}");
    }

    #[test]
    fn graphviz_gets_a_box_for_each_namespace_and_an_arrow_for_each_call() {
        let text = dot(&[call("", "shop/we\"b\\", 4, 0), call("shop/we\"b\\", "db/pg", 0, 0), call("", "db/pg", 2, 1)]);
        let expected = r#"digraph mesh {
  rankdir=LR;
  node [shape=box, style=rounded];
  "(other clients)" [label="(other clients)"];
  subgraph "cluster_db" {
    label="db";
    "db/pg" [label="pg"];
  }
  subgraph "cluster_shop" {
    label="shop";
    "shop/we\"b\\" [label="we\"b\\"];
  }
  "(other clients)" -> "shop/we\"b\\" [label="4 × http, p95 9.50 ms"];
  "shop/we\"b\\" -> "db/pg" [label="3 connections"];
  "(other clients)" -> "db/pg" [label="2 × http, p95 9.50 ms, 1 failed", color=red, fontcolor=red];
}
"#;
        assert_eq!(text, expected);
    }
}
