//! What the connect hook costs with 10, 1,000 and 10,000 services.
//!
//! A service without endpoints is refused in the hook, so one `connect()` on one socket is the system call and the hook
//! and nothing else: no packet, no second socket. The sizes take turns in every round, so that a slow moment of the
//! machine meets all of them.

use anyhow::{Context as _, Result, ensure};
use mesh_agent::kernel::{self, Config, Kernel, Mode, SkMsg, Update};
use mesh_agent::snapshot::{LbPolicy, PortKey, Protocol, Service, ServiceName, ServicePort, Snapshot};
use mesh_common::Reason;
use socket2::{Domain, SockAddr, Socket, Type};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

const SIZES: [usize; 3] = [10, 1_000, 10_000];
const ROUNDS: usize = 15;
const CONNECTS: usize = 20_000;

/// One size's outcome.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    pub services: usize,
    /// Median over the rounds of the mean time of one `connect()`.
    pub median_ns: f64,
    /// Median over the rounds of this size's time divided by the smallest size's time of the same round.
    pub ratio: f64,
}

/// Runs the measurement as root; every connection it makes is refused before it leaves the process.
pub fn run() -> Result<Vec<Row>> {
    let pins = kernel::bpffs()?.join(format!("undermesh-bench-{}", std::process::id()));
    let rows = measure(pins.clone());
    kernel::uninstall(&pins)?;
    rows
}

/// The table that `cargo xtask bench connect-hook` prints.
pub fn table(rows: &[Row]) -> String {
    let mut text = String::from("| services | connect() ns | against 10 |\n|---|---|---|\n");
    for row in rows {
        text.push_str(&format!("| {} | {:.0} | {:.3}× |\n", row.services, row.median_ns, row.ratio));
    }
    text
}

fn measure(pins: std::path::PathBuf) -> Result<Vec<Row>> {
    let own = kernel::own_cgroup()?;
    let mut config = Config::new(own.clone(), own, pins);
    // Every network namespace, no agent: just the hook.
    config.mode = Mode::SocketLb;
    config.sk_msg = SkMsg::Off;
    let mut kernel = Kernel::start(config)?;
    let mut snapshot = Snapshot::default();
    let mut times = vec![Vec::with_capacity(ROUNDS); SIZES.len()];
    let mut present = 0;
    for round in 0..ROUNDS {
        for turn in 0..SIZES.len() {
            // Another order in each round.
            let index = (round + turn) % SIZES.len();
            let size = *SIZES.get(index).context("size")?;
            resize(&mut kernel, &mut snapshot, &mut present, size)?;
            times.get_mut(index).context("size")?.push(one(size)?);
        }
    }
    let expected = (ROUNDS * SIZES.len() * CONNECTS) as u64;
    let refused = kernel.counters().get(Reason::NoEndpoint);
    ensure!(refused == expected, "the hook decided on {refused} of {expected} connects");
    let base = times.first().context("sizes")?.clone();
    Ok(SIZES
        .iter()
        .zip(&times)
        .map(|(services, times)| Row {
            services: *services,
            median_ns: median(times.iter().copied()),
            ratio: median(times.iter().zip(&base).map(|(time, base)| time / base)),
        })
        .collect())
}

/// Mean ns of a `connect()` to services spread over all that exist.
fn one(size: usize) -> Result<f64> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    let targets: Vec<SockAddr> = (0..CONNECTS).map(|i| vip(i.wrapping_mul(7919) % size).into()).collect();
    let started = Instant::now();
    for target in &targets {
        let refused = socket.connect(target).is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionRefused);
        ensure!(refused, "a service without endpoints must refuse");
    }
    Ok(started.elapsed().as_nanos() as f64 / CONNECTS as f64)
}

fn resize(kernel: &mut Kernel, snapshot: &mut Snapshot, present: &mut usize, size: usize) -> Result<()> {
    let changed = if size > *present { *present..size } else { size..*present };
    for index in changed.clone() {
        if size > *present {
            snapshot.insert_service(Arc::new(service(index)));
        } else {
            snapshot.remove_service(&name(index));
        }
    }
    let services: Vec<ServiceName> = changed.map(name).collect();
    let report = kernel.apply(&Update { snapshot, services: &services, workloads: &[] });
    ensure!(report.problems.is_empty(), "{:?}", report.problems.first());
    *present = size;
    Ok(())
}

fn name(index: usize) -> ServiceName {
    ServiceName::new("bench", &format!("s{index}"))
}

/// 198.18.0.0/15 is for benchmarks (RFC 2544).
fn vip(index: usize) -> SocketAddr {
    let [.., high, low] = (index as u32).to_be_bytes();
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 18, high, low)), 80)
}

fn service(index: usize) -> Service {
    let name = name(index);
    let port = ServicePort {
        key: PortKey::new(name.clone(), 80),
        port: 80,
        name: "tcp".into(),
        protocol: Protocol::Tcp,
        lb: LbPolicy::Default,
        endpoints: Arc::default(),
    };
    let host = name.host("cluster.local");
    Service { vips: vec![vip(index).ip()], ports: vec![Arc::new(port)], ..Service::new(name, &host) }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
