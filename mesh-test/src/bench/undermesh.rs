//! How mesh-agent is started beside the other proxies: one explicit listener for each protocol, and what its row adds.

use super::process::Process;
use super::proxies::{ECHO_PORT, ENDPOINTS, GRPC_PORT, PROXY, PROXY_TCP, Proxy, words, write};
use anyhow::{Context, Result, bail};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const METRICS: &str = "127.0.0.1:7709";
const PATIENCE: Duration = Duration::from_secs(20);
/// 5 MiB of lines and 15 MiB of spans wait at most (ARCHITECTURE.md, Bounds), beside what requests under way take.
const MOST_GROWTH: u64 = 64 << 20;

/// The command line of `proxy`, after its configuration is written below `work`.
pub(super) fn command(proxy: Proxy, program: &str, work: &Path, workers: &str) -> Result<Vec<String>> {
    let config = work.join(proxy.name());
    fs::create_dir_all(&config)?;
    write(&config, "service.yaml", &services())?;
    let (grpc, tcp) = (format!("{PROXY}=bench/echo:80"), format!("{PROXY_TCP}=bench/echo:81"));
    let (folder, run) = (config.display().to_string(), work.join("run").display().to_string());
    let mut command = words(&[
        program,
        "--run-dir",
        &run,
        "run",
        "--no-kernel",
        "--listen",
        &grpc,
        "--listen",
        &tcp,
        "--config",
        &folder,
        "--workers",
        workers,
        "--metrics-addr",
        METRICS,
    ]);
    match proxy {
        Proxy::Armed => drop(write(&config, "policy.yaml", &policy())?),
        Proxy::Unobserved => drop(write(&config, "telemetry.yaml", UNOBSERVED)?),
        Proxy::Observed | Proxy::Stalled => {
            let log = log(proxy, work);
            if proxy == Proxy::Stalled {
                unread(&log)?;
            }
            write(&config, "mesh.yaml", &mesh_config(&log))?;
            command.extend(words(&["--zipkin", &format!("http://{}/api/v2/spans", collector(proxy)?)]));
        }
        _ => {}
    }
    Ok(command)
}

fn log(proxy: Proxy, work: &Path) -> PathBuf {
    work.join(format!("{}-access.log", proxy.name()))
}

/// At once, with the row: else the disk would write it while the next one is measured.
pub(super) fn remove_log(work: &Path) -> Result<()> {
    fs::remove_file(log(Proxy::Observed, work)).context("the access log of the row that writes one")
}

/// Somebody who looks at what passes the agent, through a filter that nothing passes.
pub(super) fn tap(program: &str, work: &Path) -> Result<Process> {
    let run = work.join("run").display().to_string();
    let (tap, stdout) =
        Process::start("tap", &[0], &words(&[program, "--run-dir", &run, "tap", "--path", "/none"]), work)?;
    // It says nothing; its pipe stays open until it ends.
    std::thread::spawn(move || std::io::copy(&mut BufReader::new(stdout), &mut std::io::sink()));
    until("an open tap", || Ok(metric("mesh_taps ")? >= 1.0))?;
    Ok(tap)
}

/// Lines that no log on its way takes: some 15,000 wait. A smoke run's cells of small calls make more, too.
const MANY_LINES: u64 = 20_000;

/// Whether the row did what it is for: lines and spans were dropped, since nobody took them, and what waits is bounded.
/// `written`: lines that were made in the window; `grown`: bytes of memory from its begin to its end.
pub(super) fn verify_stalled(written: u64, grown: u64) -> Result<()> {
    let (lines, spans) =
        (metric("mesh_access_log_dropped_total ")?, metric("mesh_trace_spans_total{outcome=\"dropped\"} ")?);
    tracing::info!("stalled: {lines} lines and {spans} spans dropped, memory grew by {} KiB", grown >> 10);
    if lines == 0.0 && written >= MANY_LINES {
        bail!("the access log's file is stalled, and of {written} lines none was dropped");
    }
    if grown > MOST_GROWTH {
        bail!("memory grew by {grown} bytes while the sinks were stalled");
    }
    Ok(())
}

/// Whether the row did what it is for: nothing was counted.
pub(super) fn verify_unobserved() -> Result<()> {
    if scraped()?.contains("\nistio_requests_total{") {
        bail!("a Telemetry object switches all metrics off, and requests are counted");
    }
    Ok(())
}

/// The value of one series, as `/metrics` shows it.
fn metric(series: &str) -> Result<f64> {
    let text = scraped()?;
    let value = text.lines().find_map(|line| line.strip_prefix(series)).with_context(|| format!("no {series}"))?;
    Ok(value.trim().parse()?)
}

fn scraped() -> Result<String> {
    let mut stream = TcpStream::connect(METRICS)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

fn until(what: &str, done: impl Fn() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !done()? {
        if Instant::now() > deadline {
            bail!("no {what} after {PATIENCE:?}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

const UNOBSERVED: &str = "apiVersion: telemetry.istio.io/v1\nkind: Telemetry\nmetadata: {name: unobserved, namespace: istio-system}\n\
    spec:\n  metrics:\n  - providers: [{name: prometheus}]\n    overrides: [{match: {metric: ALL_METRICS, mode: CLIENT_AND_SERVER}, disabled: true}]\n";

fn mesh_config(log: &Path) -> String {
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\ndata:\n  mesh: |\n    \
         accessLogFile: {}\n    accessLogEncoding: JSON\n",
        log.display()
    )
}

/// A pipe that is held open and that nobody reads, for as long as the bench runs.
fn unread(at: &Path) -> Result<()> {
    if !at.exists() {
        rustix::fs::mknodat(rustix::fs::CWD, at, rustix::fs::FileType::Fifo, rustix::fs::Mode::from(0o600), 0)?;
        std::mem::forget(fs::File::options().read(true).write(true).open(at)?);
    }
    Ok(())
}

/// A collector that takes every batch and forgets it, or never answers, for as long as the bench runs; where it listens.
fn collector(proxy: Proxy) -> Result<std::net::SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || {
        let mut held = Vec::new();
        for stream in listener.incoming().flatten() {
            if proxy == Proxy::Stalled {
                held.push(stream);
            } else {
                std::thread::spawn(move || swallow(stream));
            }
        }
    });
    Ok(address)
}

/// Answers each `POST` of one connection with 202 after its body has come.
fn swallow(mut stream: TcpStream) -> Result<()> {
    let mut requests = BufReader::new(stream.try_clone()?);
    loop {
        let mut length = 0;
        loop {
            let mut line = String::new();
            if requests.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let line = line.trim_end().to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(bytes) = line.strip_prefix("content-length:") {
                length = bytes.trim().parse().context("content-length")?;
            }
        }
        std::io::copy(&mut requests.by_ref().take(length), &mut std::io::sink())?;
        stream.write_all(b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n")?;
    }
}

fn services() -> String {
    let slice = |name: &str, port: u16| {
        let endpoints = ENDPOINTS.map(|ip| format!("- addresses: [{ip}]\n  conditions: {{ready: true}}\n")).concat();
        format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: echo-{name}\n  namespace: bench\n  \
             labels: {{kubernetes.io/service-name: echo}}\naddressType: IPv4\nports:\n- {{name: {name}, port: {port}, protocol: TCP}}\nendpoints:\n{endpoints}"
        )
    };
    format!(
        "apiVersion: v1\nkind: Namespace\nmetadata: {{name: bench}}\n---\napiVersion: v1\nkind: Service\nmetadata: {{name: echo, namespace: bench}}\n\
         spec:\n  clusterIP: 10.96.0.77\n  ports:\n  - {{name: grpc, port: 80, targetPort: {GRPC_PORT}}}\n  - {{name: tcp, port: 81, targetPort: {ECHO_PORT}}}\n{}{}",
        slice("grpc", GRPC_PORT),
        slice("tcp", ECHO_PORT)
    )
}

/// 49 rules that each look at the request and let it pass, then the one that takes it.
fn policy() -> String {
    let destination = "{destination: {host: echo}}";
    let rules: String = (0..49)
        .map(|n| match n % 4 {
            0 => format!("{{uri: {{exact: /v{n}.Service/Method}}}}"),
            1 => format!("{{uri: {{prefix: /bench}}, headers: {{x-tier: {{exact: t{n}}}}}}}"),
            2 => format!("{{headers: {{user-agent: {{regex: \"client/{n}[.].*\"}}}}}}"),
            _ => format!("{{headers: {{x-user: {{prefix: u{n}}}}}}}"),
        })
        .map(|matcher| format!("  - {{match: [{matcher}], route: [{destination}]}}\n"))
        .collect();
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: echo, namespace: bench}}\n\
         spec:\n  hosts: [echo]\n  http:\n{rules}  - route: [{destination}]\n    timeout: 30s\n    \
         retries: {{attempts: 3, perTryTimeout: 10s, retryOn: \"unavailable,connect-failure,5xx\"}}\n\
         ---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: echo, namespace: bench}}\n\
         spec:\n  host: echo\n  trafficPolicy:\n    outlierDetection: {{consecutive5xxErrors: 5, interval: 1s}}\n    \
         connectionPool: {{tcp: {{maxConnections: 1000}}, http: {{http2MaxRequests: 10000, maxRetries: 100}}}}\n"
    )
}
