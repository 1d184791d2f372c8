//! `mesh-agent run`: flags → `app::Options`.

use crate::app::{self, CniOptions, ConfigFrom, Explicit, FailurePolicy, LogFormat, Options, SkMsg, Stop};
use crate::install::Owner;
use crate::snapshot::tracing::Collector;
use crate::telemetry::MOST_SERIES;
use crate::telemetry::trace;
use anyhow::{Context, Result};
use clap::Args;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct RunArgs {
    /// This node's name: pods whose spec.nodeName says so are served here [default: the host's name]
    #[arg(long, env = "UNDERMESH_NODE")]
    pub node: Option<String>,
    /// File or folder of Kubernetes YAML, watched; a change is in force within a second. Repeatable
    #[arg(long = "config", value_name = "PATH", required_unless_present = "kube")]
    pub config: Vec<PathBuf>,
    /// Objects of a Kubernetes cluster instead of files: by --kubeconfig, as kubectl finds it, or the pod's service account
    #[arg(long, conflicts_with = "config")]
    pub kube: bool,
    #[arg(long, value_name = "FILE", requires = "kube")]
    pub kubeconfig: Option<PathBuf>,
    /// Serve a Service on an address of the agent's own, without capturing anything. Repeatable
    #[arg(long, value_name = "ADDR=NAMESPACE/SERVICE:PORT")]
    pub listen: Vec<Explicit>,
    /// Threads that carry traffic, each with its own connections to endpoints [default: one per core]
    #[arg(long, value_name = "N")]
    pub workers: Option<NonZeroUsize>,
    /// Domain of Services' DNS names
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local")]
    pub cluster_domain: String,

    /// Load no eBPF: nothing is captured, only --listen is served; needs no privilege
    #[arg(long, help_heading = "Kernel")]
    pub no_kernel: bool,
    /// Root of the pods' cgroups, where the connect hooks are attached [default: the kubelet's folder
    /// above this process, else the cgroup2 file system's root]
    #[arg(long, value_name = "DIR", help_heading = "Kernel")]
    pub pods_cgroup: Option<PathBuf>,
    /// bpffs folder of pinned programs and maps, which a restarted agent takes over [default: bpffs/undermesh]
    #[arg(long, value_name = "DIR", help_heading = "Kernel")]
    pub pin_dir: Option<PathBuf>,
    /// What new connections do while no agent is alive: go direct, or be refused
    #[arg(long, value_enum, default_value_t, help_heading = "Kernel")]
    pub failure_policy: FailurePolicy,
    /// Socket redirection between app and agent: `auto` uses it for declared HTTP/2 and gRPC if the self-test passes
    #[arg(long, value_enum, default_value_t, help_heading = "Kernel")]
    pub sk_msg: SkMsg,
    /// Connections the kernel's flow maps hold; when full, new ones follow --failure-policy
    #[arg(long, value_name = "N", default_value_t = app::Capacities::default().flows, help_heading = "Kernel")]
    pub max_flows: u32,
    /// Service addresses the kernel's map holds
    #[arg(long, value_name = "N", default_value_t = app::Capacities::default().services, help_heading = "Kernel")]
    pub max_services: u32,
    /// Endpoints the kernel's map holds (those of opaque TCP services)
    #[arg(long, value_name = "N", default_value_t = app::Capacities::default().endpoints, help_heading = "Kernel")]
    pub max_endpoints: u32,
    /// Pods of this node the kernel's map holds
    #[arg(long, value_name = "N", default_value_t = app::Capacities::default().pods, help_heading = "Kernel")]
    pub max_pods: u32,

    /// Hold the start of this node's new pods until they are in the mesh: chain a plugin into the network configuration of
    /// this folder of the container runtime (/etc/cni/net.d). What --failure-policy says holds while no agent is alive
    #[arg(long, value_name = "DIR", requires = "cni_bin_dir", conflicts_with = "no_kernel", help_heading = "Kernel")]
    pub cni_conf_dir: Option<PathBuf>,
    /// Where the container runtime finds plugins (/opt/cni/bin)
    #[arg(long, value_name = "DIR", requires = "cni_conf_dir", help_heading = "Kernel")]
    pub cni_bin_dir: Option<PathBuf>,

    /// Longest time open requests get to finish after SIGTERM or SIGINT; a second signal ends the agent at once
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = humantime::parse_duration, help_heading = "Stopping")]
    pub drain_timeout: Duration,
    /// Leave pods enrolled and give up the socket and all listeners at once: a successor takes over while this agent
    /// finishes its open requests; until the successor serves --failure-policy decides
    #[arg(long, conflicts_with = "remove_on_exit", help_heading = "Stopping")]
    pub handover: bool,
    /// The DaemonSet this agent's pod is of: if it is deleted, the agent leaves as with --remove-on-exit
    #[arg(long, value_name = "NAMESPACE/NAME", help_heading = "Stopping")]
    pub owner: Option<Owner>,
    /// Detach the programs and delete every pin: leave no trace in the kernel
    #[arg(long, help_heading = "Stopping")]
    pub remove_on_exit: bool,

    /// Prometheus endpoint, or `off`
    #[arg(long, value_name = "ADDR|off", default_value = "127.0.0.1:15090", help_heading = "Observing")]
    pub metrics_addr: MetricsAddr,
    /// Time series of Istio's metrics at most, a histogram's buckets counted one by one; what is beyond is counted in
    /// series labelled `overflow`
    #[arg(long, value_name = "COUNT", default_value_t = MOST_SERIES, help_heading = "Observing")]
    pub metric_series: usize,
    /// One line for each request to FILE, or (`-`) to standard output, whatever the MeshConfig's accessLogFile says; its
    /// accessLogFormat and accessLogEncoding hold. SIGUSR1 opens the file anew [default: as the MeshConfig says, else off]
    #[arg(long, value_name = "FILE|-", help_heading = "Observing")]
    pub access_log: Option<String>,
    /// Send spans of sampled requests to a Zipkin server, whatever the MeshConfig says: http://HOST:PORT, the host may be a
    /// Service. Its `sampling` holds (1 % without)
    #[arg(long, value_name = "URL", value_parser = zipkin, help_heading = "Observing")]
    pub zipkin: Option<Collector>,
    /// As --zipkin, to an OpenTelemetry collector: OTLP over gRPC, or over HTTP where the URL has a path
    #[arg(long, value_name = "URL", value_parser = otlp, conflicts_with = "zipkin", help_heading = "Observing")]
    pub otlp: Option<Collector>,
    /// What to log, to stderr: LEVEL or MODULE=LEVEL, separated by commas
    #[arg(long, env = "UNDERMESH_LOG", value_name = "FILTER", default_value = "info", help_heading = "Observing")]
    pub log: String,
    #[arg(long, value_enum, default_value_t, help_heading = "Observing")]
    pub log_format: LogFormat,
}

const AFTER_HELP: &str = "\
On SIGTERM or SIGINT the agent takes this node's pods out of the mesh (new connections go direct), tells its HTTP/2
clients to go away, and ends when the open requests are done or --drain-timeout has passed. The programs stay loaded
and idle, so that the next start takes them over; --remove-on-exit removes them.

Examples:
  mesh-agent run --config /etc/undermesh
  mesh-agent run --config mesh.yaml --no-kernel --listen 127.0.0.1:8080=default/web:80 --metrics-addr off
  mesh-agent run --config ./mesh.d --log 'warn,mesh_agent::kernel=debug' --drain-timeout 5s";

/// `--metrics-addr`: an address, or nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetricsAddr(pub Option<SocketAddr>);

impl RunArgs {
    pub fn options(self, run_dir: &Path) -> Result<Options> {
        let node = match self.node {
            Some(node) => node,
            None => hostname()?,
        };
        Ok(Options {
            node,
            config: if self.kube { ConfigFrom::Cluster(self.kubeconfig) } else { ConfigFrom::Files(self.config) },
            run_dir: run_dir.to_owned(),
            cluster_domain: self.cluster_domain,
            listen: self.listen,
            workers: self.workers.map_or_else(cores, NonZeroUsize::get),
            kernel: (!self.no_kernel).then_some(app::KernelOptions {
                pods_cgroup: self.pods_cgroup,
                pin_dir: self.pin_dir,
                failure_policy: self.failure_policy,
                sk_msg: self.sk_msg,
                capacities: app::Capacities {
                    flows: self.max_flows,
                    services: self.max_services,
                    endpoints: self.max_endpoints,
                    pods: self.max_pods,
                },
            }),
            cni: self.cni_conf_dir.zip(self.cni_bin_dir).map(|(conf_dir, bin_dir)| CniOptions { conf_dir, bin_dir }),
            drain_timeout: self.drain_timeout,
            stop: match (self.handover, self.remove_on_exit) {
                (true, _) => Stop::Handover,
                (_, true) => Stop::Remove,
                _ => Stop::Release,
            },
            owner: self.owner,
            metrics_addr: self.metrics_addr.0,
            metric_series: self.metric_series,
            access_log: self.access_log,
            spans: self.zipkin.or(self.otlp).map(Arc::new),
        })
    }
}

fn zipkin(url: &str) -> Result<Collector, String> {
    trace::of_url(url, false)
}

fn otlp(url: &str) -> Result<Collector, String> {
    trace::of_url(url, true)
}

impl FromStr for MetricsAddr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self(None));
        }
        let addr = text.parse().map_err(|_| "expected an address such as 127.0.0.1:15090, or `off`".to_owned())?;
        Ok(Self(Some(addr)))
    }
}

pub(super) fn run(run_dir: &Path, args: RunArgs) -> Result<()> {
    let log = app::logging::start(&args.log, args.log_format)?;
    app::run(args.options(run_dir)?, log)
}

fn hostname() -> Result<String> {
    let host = rustix::system::uname();
    let name = host.nodename().to_str().context("this host's name is not UTF-8: give --node")?;
    Ok(name.to_owned())
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, NonZeroUsize::get)
}
