//! `mesh-agent top`: services, routes, workloads or pods by traffic.

pub(super) mod rates;

use super::crowd::Crowd;
use super::output::{self, Format, Paint, Style};
use super::table::{Cell, Table};
use crate::admin::view::{Graph, Peer, Traffic};
use anyhow::Result;
use clap::{Args, ValueEnum};
use rates::{Counts, Name, Recent, Row, Scrape};
use serde::Serialize;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::io::{self, IsTerminal};
use std::thread::sleep;
use std::time::{Duration, Instant};

#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct TopArgs {
    /// What is told apart
    #[arg(value_enum, default_value_t)]
    pub by: By,
    #[arg(long, value_enum, default_value_t)]
    pub sort: Sort,
    /// Rows, the first ones
    #[arg(long, short = 'n', default_value_t = 20, value_name = "N")]
    pub limit: usize,
    /// Between two looks
    #[arg(long, default_value = "2s", value_name = "TIME", value_parser = pause)]
    pub interval: Duration,
    /// Print one table, of one interval
    #[arg(long)]
    pub once: bool,
    /// Print one table, of everything since the agent's start
    #[arg(long, conflicts_with = "once")]
    pub total: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum By {
    /// By the Service that was asked for
    #[default]
    Services,
    /// By the route that took the request
    Routes,
    /// By what owns the pods that were asked
    Workloads,
    /// By the pod that was asked
    Pods,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Sort {
    #[default]
    Rate,
    Failures,
    P99,
    /// Of pods: CPU time that the agent spends for them
    Cpu,
    /// Of pods: memory that it holds for them
    Memory,
    Name,
}

const AFTER_HELP: &str = "\
Rates, success and latencies of what passed this node's agent (--cluster: all agents) within the last 10 seconds, as
callers saw it. A request succeeds unless it was answered 5xx, INTERNAL, UNAVAILABLE or DATA_LOSS, or not at all.

CPU and MEMORY of a pod are the agent's own, spent for the connections that the pod makes: CPU time of the workers, of
one core; and what connections take and stalled readers leave behind, about.

Examples:
  mesh-agent top                            services, busiest first, until Ctrl-C
  mesh-agent top routes --sort failures
  mesh-agent top pods --once --interval 10s
  mesh-agent top services --total -o json | jq '.rows[] | {name, requests}'
  mesh-agent top workloads -o json          one object per look, each on a line";

/// What a script gets.
#[derive(Debug, Serialize)]
struct Top {
    by: By,
    /// What it was counted in; `None`: since the agent's start.
    seconds: Option<f64>,
    rows: Vec<Row>,
}

pub(super) fn run(of: &Crowd<'_>, format: Format, args: &TopArgs) -> Result<()> {
    let begun = Instant::now();
    let mut recent = Recent::default();
    let first = scrape(of, args.by, begun)?;
    if args.total {
        let top = top(args, None, first.totals());
        return output::print(format, &top, |paint| draw(&top, args, paint));
    }
    recent.add(first);
    loop {
        sleep(args.interval);
        recent.add(scrape(of, args.by, begun)?);
        let (time, rows) = recent.rows();
        let top = top(args, Some(time.as_secs_f64()), rows);
        if args.once {
            return output::print(format, &top, |paint| draw(&top, args, paint));
        }
        let text = match format {
            Format::Json => serde_json::to_string(&top)? + "\n",
            Format::Yaml => format!("---\n{}", serde_yaml_ng::to_string(&top)?),
            Format::Table | Format::Dot => screen(&draw(&top, args, Paint::for_stdout())),
        };
        if !output::try_say(&text)? {
            return Ok(());
        }
    }
}

/// In place of what was there, where somebody looks (ECMA-48: CUP, then ED after the last line).
fn screen(text: &str) -> String {
    if !io::stdout().is_terminal() {
        return format!("{text}\n");
    }
    let lines: String = text.lines().map(|line| format!("{line}\u{1b}[K\n")).collect();
    format!("\u{1b}[H{lines}\u{1b}[J")
}

fn scrape(of: &Crowd<'_>, by: By, begun: Instant) -> Result<Scrape> {
    let mut scrape = Scrape::default();
    let mut add = |agent: String, bounds_ms: Vec<f64>, rows| {
        // Versions differ while agents are upgraded one by one, bounds have not yet.
        if scrape.bounds_ms.len() < bounds_ms.len() {
            scrape.bounds_ms = bounds_ms;
        }
        scrape.agents.insert(agent, rows);
    };
    match by {
        By::Services | By::Workloads => {
            for (agent, graph) in of.read::<Graph>("/graph")? {
                let rows = of_graph(&graph, by);
                add(agent, graph.bounds_ms, rows);
            }
        }
        By::Routes | By::Pods => {
            for (agent, traffic) in of.read::<Traffic>("/traffic")? {
                let rows = of_traffic(&traffic, by);
                add(agent, traffic.bounds_ms, rows);
            }
        }
    }
    scrape.at = begun.elapsed();
    Ok(scrape)
}

fn of_graph(graph: &Graph, by: By) -> BTreeMap<Name, Counts> {
    let mut rows: BTreeMap<Name, Counts> = BTreeMap::new();
    for edge in &graph.edges {
        let name = if by == By::Services { Some(edge.service.clone()) } else { workload(&edge.destination) };
        if let Some(name) = name {
            rows.entry((name, String::new())).or_default().add(edge.requests, edge.failures, &edge.buckets);
        }
        if let (By::Workloads, Some(name)) = (by, workload(&edge.source)) {
            rows.entry((name, String::new())).or_default().asked += edge.requests;
        }
    }
    rows
}

/// `None`: it is no workload of the mesh.
fn workload(peer: &Peer) -> Option<String> {
    (!peer.workload.is_empty()).then(|| format!("{}/{}", peer.namespace, peer.workload))
}

fn of_traffic(traffic: &Traffic, by: By) -> BTreeMap<Name, Counts> {
    let counts = |of: &crate::admin::view::Tally, asked| {
        let mut counts = Counts { asked, ..Counts::default() };
        counts.add(of.buckets.iter().sum(), of.failures, &of.buckets);
        counts
    };
    match by {
        By::Pods => traffic
            .pods
            .iter()
            .map(|pod| {
                let asked = pod.asked.buckets.iter().sum();
                let mut counts = counts(&pod.answered, asked);
                counts.costs = Some((pod.cpu_seconds, pod.memory_bytes));
                ((pod.pod.clone(), pod.workload.clone()), counts)
            })
            .collect(),
        _ => {
            let name = |of: &str| if of.is_empty() { "-".to_owned() } else { of.to_owned() };
            let routes = traffic.routes.iter();
            routes.map(|of| ((name(&of.route), of.service.clone()), counts(&of.requests, 0))).collect()
        }
    }
}

fn top(args: &TopArgs, seconds: Option<f64>, mut rows: Vec<Row>) -> Top {
    let descending = |value: Option<f64>| Reverse((value.unwrap_or(-1.0) * 1e6) as i64);
    match args.sort {
        Sort::Rate => rows.sort_by_cached_key(|row| (Reverse(row.requests), Reverse(row.asked))),
        Sort::Failures => rows.sort_by_cached_key(|row| (Reverse(row.failures), Reverse(row.requests))),
        Sort::Cpu => rows.sort_by_cached_key(|row| descending(row.cpu_seconds)),
        Sort::Memory => rows.sort_by_cached_key(|row| Reverse(row.memory_bytes)),
        Sort::P99 => rows.sort_by_cached_key(|row| descending(row.p99_ms)),
        // As they are.
        Sort::Name => {}
    }
    Top { by: args.by, seconds, rows }
}

fn draw(top: &Top, args: &TopArgs, paint: Paint) -> String {
    let (title, of) = match top.by {
        By::Services => ("SERVICE", None),
        By::Routes => ("ROUTE", Some("SERVICE")),
        By::Workloads => ("WORKLOAD", None),
        By::Pods => ("POD", Some("WORKLOAD")),
    };
    let asks = matches!(top.by, By::Workloads | By::Pods);
    let rate = if top.seconds.is_some() { "RATE" } else { "REQUESTS" };
    let mut headers = vec![title];
    headers.extend(of);
    headers.extend([rate, "SUCCESS", "P50", "P95", "P99"]);
    headers.extend(asks.then_some("ASKS"));
    let costs = top.by == By::Pods;
    headers.extend(costs.then_some(["CPU", "MEMORY"]).into_iter().flatten());
    let mut table = Table::new(&headers);
    for row in top.rows.iter().take(args.limit) {
        let mut cells = vec![row.name.as_str().into()];
        cells.extend(of.map(|_| row.of.as_str().into()));
        cells.push(Cell::number(&volume(row.requests, top.seconds)));
        cells.push(success(row.success));
        cells.extend([row.p50_ms, row.p95_ms, row.p99_ms].map(|ms| Cell::number(&latency(ms))));
        cells.extend(asks.then(|| Cell::number(&volume(row.asked, top.seconds))));
        if costs {
            let cpu = row.cpu_seconds.unwrap_or(0.0);
            // Of one core, or what it came to.
            let cpu =
                top.seconds.map_or_else(|| format!("{cpu:.2} s"), |s| format!("{:.1} %", 100.0 * cpu / s.max(1e-9)));
            cells.push(Cell::number(&cpu));
            cells.push(Cell::number(&format!("{:.1} MiB", row.memory_bytes.unwrap_or(0) as f64 / 1_048_576.0)));
        }
        table.row(cells);
    }
    let mut text = table.render(paint);
    let more = top.rows.len().saturating_sub(args.limit);
    if more > 0 {
        text.push_str(&paint.text(&format!("and {more} more (--limit)"), Style::Dim));
        text.push('\n');
    }
    text
}

fn volume(count: u64, seconds: Option<f64>) -> String {
    match seconds {
        None => count.to_string(),
        Some(seconds) => format!("{:.1}/s", count as f64 / seconds.max(1e-9)),
    }
}

/// Rounded down: what is not 100 % must not say so.
pub(super) fn success(share: Option<f64>) -> Cell {
    let Some(share) = share else { return Cell::styled("-", Style::Dim) };
    let style = match share {
        0.999.. => Style::Good,
        0.99.. => Style::Warn,
        _ => Style::Bad,
    };
    Cell::styled(format!("{:.1} %", (share * 1000.0 + 1e-6).floor() / 10.0), style).right()
}

pub(super) fn latency(ms: Option<f64>) -> String {
    match ms {
        None => "-".to_owned(),
        Some(ms @ ..10.0) => format!("{ms:.2} ms"),
        Some(ms @ ..1000.0) => format!("{ms:.0} ms"),
        Some(ms) => format!("{:.1} s", ms / 1000.0),
    }
}

fn pause(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if time < Duration::from_millis(100) { Err("at least 100ms".into()) } else { Ok(time) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::view::Edge;

    fn edge(source: &str, destination: &str, requests: u64, failures: u64) -> Edge {
        let peer = |name: &str| Peer { namespace: "shop".into(), workload: name.into(), service: name.into() };
        Edge {
            source: peer(source),
            destination: peer(destination),
            service: format!("shop/{destination}"),
            requests,
            failures,
            buckets: vec![requests, 0],
            ..Edge::default()
        }
    }

    fn args(by: By, sort: Sort) -> TopArgs {
        TopArgs { by, sort, limit: 2, interval: Duration::from_secs(1), once: true, total: false }
    }

    #[test]
    fn edges_are_gathered_sorted_and_cut() {
        let edges = vec![edge("web", "db", 10, 1), edge("api", "db", 30, 0), edge("web", "api", 20, 20)];
        let graph = Graph { bounds_ms: vec![4.0], edges, ..Graph::default() };
        let totals = |by| {
            let agents = BTreeMap::from([("n1".to_owned(), of_graph(&graph, by))]);
            Scrape { at: Duration::ZERO, bounds_ms: graph.bounds_ms.clone(), agents }.totals()
        };
        let args = args(By::Workloads, Sort::Rate);
        let rows = totals(By::Workloads);
        let rows = top(&args, None, rows);
        let text = draw(&rows, &args, Paint::off());
        let expected = "WORKLOAD  REQUESTS  SUCCESS      P50      P95      P99  ASKS\n\
                        shop/db         40   97.5 %  2.00 ms  3.80 ms  3.96 ms     0\n\
                        shop/api        20    0.0 %  2.00 ms  3.80 ms  3.96 ms    30\n\
                        and 1 more (--limit)\n";
        let blanks = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(blanks(&text), blanks(expected), "{text}");
        let failures = top(&TopArgs { sort: Sort::Failures, ..args }, None, totals(By::Services));
        let names: Vec<_> = failures.rows.iter().map(|row| (row.name.as_str(), row.failures)).collect();
        assert_eq!(names, [("shop/api", 20), ("shop/db", 1)]);
    }

    #[test]
    fn a_share_is_never_rounded_up() {
        let text = |share| {
            let mut table = Table::new(&["X"]);
            table.row(vec![success(Some(share))]);
            table.render(Paint::off())
        };
        assert!(text(0.99999).contains("99.9 %") && text(1.0).contains("100.0 %") && text(0.0).contains("0.0 %"));
    }
}
