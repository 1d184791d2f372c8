//! `mesh-bench run`: every chosen cell against every chosen proxy, in interleaved rounds.
//!
//! The proxy has the last core (or cores) of the machine, load generator and backends share the first. On two cores a
//! proxy with two workers therefore shares one with the load: its calls/s say little there, its CPU per call does.

use super::cells::Cell;
use super::load::Report;
use super::process::Process;
use super::proxies::{ECHO_PORT, ENDPOINTS, GRPC_PORT, Programs, Proxy, Running};
use super::{report, undermesh};
use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde::Serialize;
use std::fs;
use std::io::ErrorKind;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

#[derive(clap::Args)]
pub(super) struct Args {
    /// Only these cells
    #[arg(long = "cell", value_enum, value_delimiter = ',')]
    cells: Vec<Cell>,
    /// Only these proxies
    #[arg(long = "proxy", value_enum, value_delimiter = ',')]
    proxies: Vec<Proxy>,
    /// Workers, and cores, of each proxy
    #[arg(long, value_delimiter = ',', default_value = "1,2")]
    workers: Vec<usize>,
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds measured per cell, proxy and round
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Calls/s of rate-30 [default: 30 % of the slowest in unary-50x4, in the first round, with one worker]
    #[arg(long)]
    rate: Option<f64>,
    /// Every cell for a moment: does it run and answer without errors? Nothing is judged by time
    #[arg(long)]
    smoke: bool,
    /// Where `cargo xtask peers` put Envoy
    #[arg(long, default_value = "target/peers")]
    peers: PathBuf,
    /// The agent's binary [default: the one beside this program]
    #[arg(long)]
    agent: Option<PathBuf>,
    /// Another build of the agent, for the row of that name
    #[arg(long)]
    baseline: Option<PathBuf>,
    /// Where a folder with results, table and plots is made
    #[arg(long, default_value = "target/bench")]
    out: PathBuf,
    #[arg(short, long, value_enum, default_value = "table")]
    output: Format,
}

#[derive(Clone, Copy, ValueEnum, PartialEq, Eq)]
enum Format {
    Table,
    Json,
}

/// One cell against one proxy in one round.
#[derive(Serialize, Clone)]
pub(super) struct Sample {
    pub(super) cell: Cell,
    pub(super) proxy: Proxy,
    pub(super) workers: usize,
    pub(super) round: usize,
    /// In the cell's unit.
    pub(super) value: f64,
    /// The proxy's CPU microseconds per call (per message when streaming).
    pub(super) cpu: Option<f64>,
    pub(super) report: Report,
}

/// Runs the rounds; fails if a cell had errors or a proxy could not be started.
pub(super) fn run(args: &Args) -> Result<()> {
    let plan = Plan::new(args)?;
    let mut samples: Vec<Sample> = Vec::new();
    let mut failures = Vec::new();
    for round in 0..plan.rounds {
        for &workers in &plan.workers {
            for &cell in &plan.cells {
                let rate = plan.rate(&samples);
                for turn in 0..plan.proxies.len() {
                    // Another one begins each round, so that none always has the machine in the same state.
                    let proxy = plan.proxies[(turn + round) % plan.proxies.len()];
                    if !proxy.takes(cell) {
                        continue;
                    }
                    match plan.sample(cell, proxy, workers, round, rate) {
                        Ok(sample) => {
                            progress(&sample);
                            if sample.report.errors > 0 || sample.report.calls == 0 {
                                failures.push(format!("{}/{}: {:?}", cell.name(), proxy.name(), sample.report));
                            }
                            samples.push(sample);
                        }
                        Err(error) => failures.push(format!("{}/{}: {error:#}", cell.name(), proxy.name())),
                    }
                }
            }
        }
    }
    report::write(&plan.programs.work, &samples)?;
    match args.output {
        Format::Json => super::announce(&serde_json::to_string_pretty(&samples)?)?,
        Format::Table => super::announce(&report::table(&samples))?,
    }
    tracing::info!("results, table and plots in {}", plan.programs.work.display());
    if !failures.is_empty() {
        bail!("{} sample(s) with errors:\n  {}", failures.len(), failures.join("\n  "));
    }
    Ok(())
}

struct Plan {
    cells: Vec<Cell>,
    proxies: Vec<Proxy>,
    workers: Vec<usize>,
    rounds: usize,
    seconds: f64,
    warmup: f64,
    rate: Option<f64>,
    programs: Programs,
    _alone: UnixListener,
    _backends: Vec<Process>,
}

impl Plan {
    fn new(args: &Args) -> Result<Self> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
        let work = std::path::absolute(args.out.join(now.to_string()))?;
        fs::create_dir_all(&work).with_context(|| format!("cannot make {}", work.display()))?;
        let agent = match &args.agent {
            Some(agent) => std::path::absolute(agent)?,
            None => std::env::current_exe()?.with_file_name("mesh-agent"),
        };
        let baseline = args.baseline.as_ref().map(std::path::absolute).transpose()?;
        let programs = Programs { peers: std::path::absolute(&args.peers)?, agent, baseline, work };
        let mut proxies = args.proxies.clone();
        if proxies.is_empty() {
            // Only who names another build compares with it.
            let others = Proxy::value_variants().iter().copied();
            proxies = others.filter(|proxy| *proxy != Proxy::Baseline || args.baseline.is_some()).collect();
        }
        let missing: Vec<_> = proxies.iter().filter_map(|p| p.program(&programs).err()).collect();
        if !missing.is_empty() {
            // A comparison with a hole in it is no comparison: leave out by name (`--proxy`), never by accident.
            bail!("{}", missing.join("\n"));
        }
        proxies.dedup();
        let cells = if args.cells.is_empty() { Cell::value_variants().to_vec() } else { args.cells.clone() };
        let alone = alone()?;
        let loopback = proxies.iter().any(|proxy| !proxy.on_node());
        let backends = if loopback { backends(&programs)? } else { Vec::new() };
        let (rounds, seconds, warmup) =
            if args.smoke { (1, 0.3, 0.1) } else { (args.rounds.max(1), args.seconds, 0.5) };
        let workers = if args.smoke { vec![1] } else { args.workers.clone() };
        // What a moment's calls/s were says nothing: a smoke's rate is one that every machine can keep.
        let rate = args.rate.or(args.smoke.then_some(500.0));
        Ok(Self {
            cells,
            proxies,
            workers,
            rounds,
            seconds,
            warmup,
            rate,
            programs,
            _alone: alone,
            _backends: backends,
        })
    }

    /// 30 % of the slowest proxy's calls/s as far as it is known.
    fn rate(&self, samples: &[Sample]) -> f64 {
        let known = samples.iter().filter(|s| s.cell == Cell::Unary50x4 && s.round == 0 && s.workers == 1);
        let slowest = known.map(|s| s.value).fold(f64::INFINITY, f64::min);
        self.rate.unwrap_or(if slowest.is_finite() { slowest * 0.3 } else { 2_000.0 })
    }

    fn sample(&self, cell: Cell, proxy: Proxy, workers: usize, round: usize, rate: f64) -> Result<Sample> {
        let cores = proxy_cores(cell, workers)?;
        let running = proxy.start(&self.programs, &cores)?;
        let targets = running.targets(cell.is_tcp())?;
        let mut command = vec![std::env::current_exe()?.display().to_string()];
        command.extend(cell.arguments(rate));
        let seconds = if cell == Cell::Idle1000 { 0.5 } else { self.seconds };
        command.extend(["--target".to_owned(), targets, "--seconds".to_owned(), seconds.to_string()]);
        command.extend(["--warmup".to_owned(), self.warmup.to_string()]);
        let before = running.usage();
        let mut marks = Vec::new();
        let last = running.load(&command, &self.programs.work, |_| marks.push(running.usage()))?;
        let report: Report = serde_json::from_str(&last).with_context(|| {
            let log = fs::read_to_string(self.programs.work.join("load.log")).unwrap_or_default();
            format!("the load generator said {last:?}; its log: {log}")
        })?;
        let [start, end] = marks[..] else { bail!("the load generator did not mark its window") };
        if let Running::Node(node) = &running {
            node.verify(cell)?;
        }
        if proxy == Proxy::Observed {
            undermesh::remove_log(&self.programs.work)?;
        }
        if proxy == Proxy::Unobserved {
            undermesh::verify_unobserved()?;
        }
        if proxy == Proxy::Stalled {
            undermesh::verify_stalled(cell.lines(&report), end.memory.saturating_sub(start.memory))?;
        }
        let operations = cell.operations(&report).max(1) as f64;
        let cpu = (!proxy.is_direct()).then(|| (end.cpu - start.cpu) * 1e6 / operations);
        let growth = start.memory as i64 - before.memory as i64;
        Ok(Sample { cell, proxy, workers, round, value: cell.value(&report, growth), cpu, report })
    }
}

/// One bench at a time: two would take each other's ports for their own and each other's load for noise. The kernel
/// drops the abstract socket with the process (unix(7)).
fn alone() -> Result<UnixListener> {
    let address = SocketAddr::from_abstract_name("undermesh-bench")?;
    let deadline = Instant::now() + Duration::from_secs(20 * 60);
    loop {
        match UnixListener::bind_addr(&address) {
            Ok(alone) => return Ok(alone),
            Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < deadline => {
                tracing::info!("another bench runs on this machine: waiting for its end");
                std::thread::sleep(Duration::from_secs(5));
            }
            Err(error) => return Err(error).context("another bench runs on this machine"),
        }
    }
}

fn backends(programs: &Programs) -> Result<Vec<Process>> {
    let own = std::env::current_exe()?.display().to_string();
    let start = |(index, ip): (usize, &str)| {
        let listen = format!("{ip}:{GRPC_PORT}");
        let echo = format!("{ip}:{ECHO_PORT}");
        let tag = (index + 1).to_string();
        let command = [own.as_str(), "backend", "--listen", &listen, "--echo", &echo, "--tag", &tag].map(str::to_owned);
        Process::serve(&format!("backend-{tag}"), &[0], &command, &programs.work, listen.parse()?)
    };
    ENDPOINTS.into_iter().enumerate().map(start).collect()
}

/// The last `workers` cores; the first one too when there are no more. One call at a time shares the load's core, because
/// waking another core costs more than all the work of a call, on virtual machines most of all.
fn proxy_cores(cell: Cell, workers: usize) -> Result<Vec<usize>> {
    let cores = std::thread::available_parallelism()?.get();
    if workers == 0 || workers > cores {
        bail!("{workers} workers on {cores} cores");
    }
    Ok(if cell == Cell::Unary1x1 { (0..workers).collect() } else { (cores - workers..cores).collect() })
}

fn progress(sample: &Sample) {
    let cpu = sample.cpu.map_or_else(String::new, |c| format!(", {c:.2} us CPU each"));
    tracing::info!(
        "round {} {} {} x{}: {:.1} {}{cpu}",
        sample.round + 1,
        sample.cell.name(),
        sample.proxy.name(),
        sample.workers,
        sample.value,
        sample.cell.metric().unit
    );
    std::thread::sleep(Duration::from_millis(20));
}
