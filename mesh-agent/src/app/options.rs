//! What one agent is told at start. The command line makes it; tests may too.

use crate::install::Owner;
use crate::snapshot::tracing::Collector;
use crate::snapshot::{PortKey, ServiceName};
use clap::ValueEnum;
use socket2::{Domain, Protocol, Socket, Type};
use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

#[derive(Clone, Debug)]
pub struct Options {
    pub node: String,
    pub config: ConfigFrom,
    pub run_dir: PathBuf,
    pub cluster_domain: String,
    pub listen: Vec<Explicit>,
    pub workers: usize,
    /// `None`: no eBPF, nothing is captured.
    pub kernel: Option<KernelOptions>,
    /// `None`: pods do not wait for this agent when they start.
    pub cni: Option<CniOptions>,
    pub drain_timeout: Duration,
    pub stop: Stop,
    /// If it is deleted when the agent is told to stop, the agent leaves as [`Stop::Remove`] says.
    pub owner: Option<Owner>,
    /// `None`: no metrics endpoint (the admin socket still has `/metrics`).
    pub metrics_addr: Option<SocketAddr>,
    /// Istio's series at most.
    pub metric_series: usize,
    /// A file, or `-`, whatever the MeshConfig says; `None`: as that says.
    pub access_log: Option<String>,
    /// Where spans go, whatever the MeshConfig says; `None`: as that says.
    pub spans: Option<Arc<Collector>>,
}

/// Where container runtimes look for network plugins, as this agent sees the node's folders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CniOptions {
    pub conf_dir: PathBuf,
    pub bin_dir: PathBuf,
}

/// Where objects come from.
#[derive(Clone, Debug)]
pub enum ConfigFrom {
    /// Files and folders of YAML.
    Files(Vec<PathBuf>),
    /// The API server of this kubeconfig; `None`: as kubectl finds it, or the pod's service account.
    Cluster(Option<PathBuf>),
}

impl ConfigFrom {
    /// The file that names the API server, if one was given.
    pub(super) fn kubeconfig(&self) -> Option<&Path> {
        match self {
            Self::Files(_) => None,
            Self::Cluster(kubeconfig) => kubeconfig.as_deref(),
        }
    }
}

#[derive(Clone, Debug)]
pub struct KernelOptions {
    pub pods_cgroup: Option<PathBuf>,
    pub pin_dir: Option<PathBuf>,
    pub failure_policy: FailurePolicy,
    pub sk_msg: SkMsg,
    pub capacities: Capacities,
}

/// Entries of the kernel's maps, as far as a user has reason to change them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacities {
    pub flows: u32,
    pub services: u32,
    pub endpoints: u32,
    pub pods: u32,
}

impl Default for Capacities {
    fn default() -> Self {
        Self { flows: 65_536, services: 65_536, endpoints: 262_144, pods: 1024 }
    }
}

/// What new connections do while no agent is alive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum FailurePolicy {
    /// As if there were no mesh
    #[default]
    Open,
    /// Refuse them
    Closed,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum SkMsg {
    /// If the self-test passes on this kernel
    #[default]
    Auto,
    Off,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

/// What a stopping agent leaves in the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stop {
    /// Pods out of the mesh, programs loaded and idle.
    #[default]
    Release,
    /// Everything as it is, for a successor.
    Handover,
    /// Nothing.
    Remove,
}

/// `--listen ADDR=NAMESPACE/SERVICE:PORT`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explicit {
    pub addr: SocketAddr,
    pub target: PortKey,
}

impl Explicit {
    /// # Errors
    /// As `bind(2)`: the address is taken, or not this machine's.
    pub(super) fn bind(&self) -> io::Result<TcpListener> {
        let socket = Socket::new(Domain::for_address(self.addr), Type::STREAM, Some(Protocol::TCP))?;
        // A restarted agent's port still has connections in TIME_WAIT.
        socket.set_reuse_address(true)?;
        socket.bind(&self.addr.into())?;
        socket.listen(super::BACKLOG)?;
        socket.set_nonblocking(true)?;
        Ok(socket.into())
    }
}

impl FromStr for Explicit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const FORM: &str = "expected ADDR=NAMESPACE/SERVICE:PORT, such as 127.0.0.1:8080=default/reviews:9080";
        let wrong = |what: &str| format!("{what}: {FORM}");
        let (addr, target) = text.split_once('=').ok_or(FORM)?;
        let addr = addr.parse().map_err(|_| wrong("the part before `=` is no address and port"))?;
        let (service, port) = target.rsplit_once(':').ok_or_else(|| wrong("the Service's port is missing"))?;
        let port: u16 = port.parse().map_err(|_| wrong("the Service's port is no number from 1 to 65535"))?;
        let (namespace, name) = service.split_once('/').ok_or_else(|| wrong("the namespace is missing"))?;
        if namespace.is_empty() || name.is_empty() || port == 0 {
            return Err(wrong("a part is empty"));
        }
        Ok(Self { addr, target: PortKey::new(ServiceName::new(namespace, name), port) })
    }
}

impl fmt::Display for Explicit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.addr, self.target)
    }
}
