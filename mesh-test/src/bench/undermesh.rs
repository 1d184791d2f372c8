//! How mesh-agent is started beside the other proxies: one explicit listener for each protocol, and what its row adds.

use super::proxies::{ECHO_PORT, ENDPOINTS, GRPC_PORT, PROXY, PROXY_TCP, Proxy, words, write};
use anyhow::{Context, Result};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;

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
        "127.0.0.1:7709",
    ]);
    match proxy {
        Proxy::Armed => drop(write(&config, "policy.yaml", &policy())?),
        Proxy::Unobserved => drop(write(&config, "telemetry.yaml", UNOBSERVED)?),
        Proxy::Observed | Proxy::Stalled => {
            let log = work.join(format!("{}-access.log", proxy.name()));
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
