//! What a large configuration weighs and what changing it costs: up to 10,000 Services with 5 rules each, 100,000 endpoints.
//!
//! Each size has a process of its own, whose resident memory is counted: snapshot, objects and what the compiler keeps for
//! the next change. What the snapshot alone weighs: `mesh-agent/tests/snapshot_size.rs`.

use super::announce;
use anyhow::{Context, Result, ensure};
use mesh_agent::balance::Registry;
use mesh_agent::config::Changes;
use mesh_agent::config::compile::{Compiler, Settings};
use mesh_agent::config::resource::{Resource, parse};
use mesh_agent::snapshot::Snapshot;
use mesh_agent::time::Nanos;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

const SIZES: [usize; 3] = [10, 1_000, 10_000];
const ENDPOINTS: usize = 10;
const CHANGES: usize = 1_000;
/// Services compiled at a time, as a watch delivers them.
const BATCH: usize = 100;
/// Of one endpoint's change, 99th percentile.
const BAR_CHANGE: Duration = Duration::from_millis(50);

#[derive(clap::Args)]
pub(super) struct Args {
    /// Only this many services, in this process
    #[arg(long)]
    services: Option<usize>,
}

/// Prints a line per size.
///
/// # Errors
/// A bar is not met.
pub(super) fn run(args: &Args) -> Result<()> {
    if let Some(services) = args.services {
        return measure(services);
    }
    announce("services  endpoints  resident MiB  compiled in  endpoint change p50  p99       rule change p50  p99")?;
    for services in SIZES {
        let mut child = Command::new(std::env::current_exe()?);
        let status = child.args(["snapshot", "--services", &services.to_string()]).status()?;
        ensure!(status.success(), "with {services} services: {status}");
    }
    Ok(())
}

fn measure(services: usize) -> Result<()> {
    let before = resident()?;
    let mut compiler = Compiler::new(Settings { node: "n1".into(), cluster_domain: "cluster.local".into() });
    let mut snapshot = Arc::new(Snapshot::default());
    let mut full = Duration::ZERO;
    for first in (0..services).step_by(BATCH) {
        let world = (first..services.min(first + BATCH)).flat_map(|n| objects(&service(n))).collect();
        let start = Instant::now();
        snapshot = compiler.apply(Changes { upserts: world, ..Changes::default() }).snapshot;
        full += start.elapsed();
    }
    let memory = resident()?.saturating_sub(before);
    let registry = Registry::default();
    let endpoint = changes(&mut compiler, &mut snapshot, &registry, |n| slice(n % services, n / services + 1))?;
    let rule = changes(&mut compiler, &mut snapshot, &registry, |n| routes(n % services, n + 1))?;
    let endpoints: usize = snapshot.services().flat_map(|s| &s.ports).map(|p| p.endpoints.endpoints.len()).sum();
    ensure!(endpoints == services * ENDPOINTS, "{endpoints} endpoints of {services} services");
    announce(&format!(
        "{services:>8}  {endpoints:>9}  {:>12}  {full:>11.0?}  {:>19.0?}  {:<8.0?}  {:>15.0?}  {:<8.0?}",
        memory >> 20,
        endpoint.0,
        endpoint.1,
        rule.0,
        rule.1
    ))?;
    ensure!(
        endpoint.1 <= BAR_CHANGE,
        "an endpoint's change takes {:?}, at most {BAR_CHANGE:?} are allowed",
        endpoint.1
    );
    Ok(())
}

/// Median and 99th percentile of one change, from the object to a snapshot that can be swapped in.
fn changes(
    compiler: &mut Compiler,
    snapshot: &mut Arc<Snapshot>,
    registry: &Registry,
    change: impl Fn(usize) -> String,
) -> Result<(Duration, Duration)> {
    let mut took = Vec::with_capacity(CHANGES);
    for n in 0..CHANGES {
        let upserts = objects(&change(n));
        let start = Instant::now();
        let update = compiler.apply(Changes { upserts, ..Changes::default() });
        registry.arrive(snapshot, &update.snapshot, &update.touched_services, Nanos::now());
        took.push(start.elapsed());
        ensure!(update.is_change(), "change {n} changed nothing");
        *snapshot = update.snapshot;
    }
    took.sort_unstable();
    Ok((took[CHANGES / 2], took[CHANGES * 99 / 100]))
}

fn objects(yaml: &str) -> Vec<Arc<Resource>> {
    parse::parse(&Path::new("bench.yaml").into(), yaml).resources.into_iter().map(Arc::new).collect()
}

fn service(n: usize) -> String {
    let (a, b) = (n / 250, n % 250 + 1);
    let service = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: s{n}, namespace: shop}}\nspec: {{clusterIP: 10.96.{a}.{b}, ports: [{{name: http, port: 80}}]}}\n"
    );
    let rule = format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: s{n}, namespace: shop}}\nspec: {{host: s{n}, trafficPolicy: {{outlierDetection: {{}}}}, subsets: [{{name: v1, labels: {{version: v1}}}}]}}\n"
    );
    [service, slice(n, 0), routes(n, 0), rule].join("---\n")
}

/// `round` moves the last endpoint.
fn slice(n: usize, round: usize) -> String {
    let mut yaml = format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: s{n}, namespace: shop, labels: {{kubernetes.io/service-name: s{n}}}}}\naddressType: IPv4\nports: [{{name: http, port: 8080}}]\nendpoints:\n"
    );
    for e in 0..ENDPOINTS {
        let e = if e + 1 == ENDPOINTS { e + round } else { e };
        let _ =
            writeln!(yaml, "- {{addresses: [10.{}.{}.{}], nodeName: n{}}}", 100 + e % 150, n / 250, n % 250 + 1, e % 3);
    }
    yaml
}

fn routes(n: usize, round: usize) -> String {
    let mut yaml = format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: s{n}, namespace: shop}}\nspec:\n  hosts: [s{n}]\n  http:\n"
    );
    for m in 0..4 {
        let _ = writeln!(
            yaml,
            "  - {{match: [{{uri: {{prefix: /{m}/{round}}}, headers: {{x-version: {{exact: v{m}}}}}}}], retries: {{attempts: 3, retryOn: 5xx}}, timeout: 5s, route: [{{destination: {{host: s{n}, subset: v1}}}}]}}"
        );
    }
    let _ = writeln!(yaml, "  - {{route: [{{destination: {{host: s{n}}}}}]}}");
    yaml
}

/// Resident bytes of this process.
fn resident() -> Result<usize> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kibibytes: usize = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kibibytes << 10)
}
