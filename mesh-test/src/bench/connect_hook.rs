//! What the connect hook costs with 10, 1,000 and 10,000 services.
//!
//! A service without endpoints is refused in the hook, so one `connect()` on one socket is the system call and the hook
//! and nothing else: no packet, no second socket. The sizes take turns in every round, so that a slow moment of the
//! machine meets all of them. Two ways to dial: one service again and again, whose entry is then in the CPU's caches
//! whatever the size of the map (that is the hook's own work), and every service in turn, far apart, so that each
//! look-up also pays for the memory that so many services take.

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
    /// One service again and again.
    pub same: Cost,
    /// Every service in turn.
    pub all: Cost,
}

#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// Median over the rounds of the mean time of one `connect()`.
    pub median_ns: f64,
    /// Median over the rounds of this size's time divided by the smallest size's time of the same round.
    pub ratio: f64,
}

/// Which services one measurement dials.
#[derive(Clone, Copy)]
enum Dial {
    Same,
    All,
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
    let mut text = String::from(
        "| services | one service again and again: ns | against 10 | all in turn: ns | against 10 |\n|---|---|---|---|---|\n",
    );
    for Row { services, same, all } in rows {
        text.push_str(&format!(
            "| {services} | {:.0} | {:.3}× | {:.0} | {:.3}× |\n",
            same.median_ns, same.ratio, all.median_ns, all.ratio
        ));
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
    let mut same = vec![Vec::with_capacity(ROUNDS); SIZES.len()];
    let mut all = same.clone();
    let mut present = 0;
    for round in 0..ROUNDS {
        for turn in 0..SIZES.len() {
            // Another order in each round.
            let index = (round + turn) % SIZES.len();
            let size = *SIZES.get(index).context("size")?;
            resize(&mut kernel, &mut snapshot, &mut present, size)?;
            same.get_mut(index).context("size")?.push(one(Dial::Same, size)?);
            all.get_mut(index).context("size")?.push(one(Dial::All, size)?);
        }
    }
    let expected = (2 * ROUNDS * SIZES.len() * CONNECTS) as u64;
    let refused = kernel.counters().get(Reason::NoEndpoint);
    ensure!(refused == expected, "the hook decided on {refused} of {expected} connects");
    let costs =
        same.iter().zip(&all).map(|(own_same, own_all)| (cost(own_same, same.first()), cost(own_all, all.first())));
    Ok(SIZES.iter().zip(costs).map(|(services, (same, all))| Row { services: *services, same, all }).collect())
}

/// Of one size's times, against the smallest size's of the same rounds.
fn cost(times: &[f64], base: Option<&Vec<f64>>) -> Cost {
    let ratios = times.iter().zip(base.into_iter().flatten()).map(|(time, base)| time / base);
    Cost { median_ns: median(times.iter().copied()), ratio: median(ratios) }
}

/// Mean ns of a `connect()`.
fn one(dial: Dial, size: usize) -> Result<f64> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    let started = Instant::now();
    for turn in 0..CONNECTS {
        // Made on the spot: a list of targets would be larger than the map under test. 7919 is prime to every size.
        let target = match dial {
            Dial::Same => vip(size / 2),
            Dial::All => vip(turn.wrapping_mul(7919) % size),
        };
        let refused =
            socket.connect(&SockAddr::from(target)).is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionRefused);
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
    let report = kernel.apply(&Update { services: &services, ..Update::of(snapshot) });
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
