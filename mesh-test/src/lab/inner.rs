//! What a lab's parts share: state, nodes, running pods. Locks are taken in the order
//! `published`, `kube_proxy`, `state`, `running`.

use super::Layout;
use super::kube_proxy::KubeProxy;
use super::pod::{Pod, PodInner};
use super::process::Spawner;
use super::state::{Key, State};
use super::{Bins, publish::Published};
use crate::cgroup::Cgroup;
use crate::net::{AddressPlan, Netns};
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::fs::File;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub(super) struct Inner {
    pub(super) layout: Layout,
    pub(super) bins: Bins,
    pub(super) spawner: Mutex<Option<Spawner>>,
    pub(super) nodes: Vec<Node>,
    pub(super) state: Mutex<State>,
    pub(super) plan: Mutex<AddressPlan>,
    pub(super) running: Mutex<BTreeMap<Key, Arc<PodInner>>>,
    pub(super) published: Mutex<Published>,
    pub(super) kube_proxy: Mutex<Option<KubeProxy>>,
    pub(super) grace: Duration,
    next: AtomicU64,
    stopping: AtomicBool,
}

pub(super) struct Node {
    pub(super) name: String,
    pub(super) netns: Netns,
    pub(super) pods: Cgroup,
    pub(super) agent: Cgroup,
}

impl Inner {
    pub(super) fn new(layout: Layout, nodes: Vec<Node>, grace: Duration) -> Result<Self> {
        Ok(Self {
            layout,
            bins: Bins::locate()?,
            spawner: Mutex::new(Some(Spawner::new()?)),
            nodes,
            state: Mutex::default(),
            plan: Mutex::default(),
            running: Mutex::default(),
            published: Mutex::default(),
            kube_proxy: Mutex::new(None),
            grace,
            next: AtomicU64::new(1),
            stopping: AtomicBool::new(false),
        })
    }

    /// A number nobody had.
    pub(super) fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    pub(super) fn stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// Lets go of processes and kernel objects that this process holds.
    pub(super) fn release(&self) {
        for pod in self.pods() {
            pod.end_process();
        }
        lock(&self.running).clear();
        lock(&self.kube_proxy).take();
        lock(&self.spawner).take();
    }

    pub(super) fn pods(&self) -> Vec<Arc<PodInner>> {
        lock(&self.running).values().cloned().collect()
    }

    pub(super) fn handle(self: &Arc<Self>, key: &Key) -> Option<Pod> {
        lock(&self.running).get(key).map(|pod| Pod::new(self, pod))
    }

    pub(super) fn spawn(&self, command: Command) -> Result<Child> {
        lock(&self.spawner).as_ref().context("the lab has ended")?.spawn(command)
    }

    /// `mesh-lab enter … -- program`, its output to `log`.
    pub(super) fn enter(&self, to: &Place<'_>, program: &Path, args: &[String]) -> Result<Command> {
        let mut command = Command::new(&self.bins.lab);
        command
            .arg("enter")
            .arg("--netns")
            .arg(to.netns.path())
            .arg("--cgroup")
            .arg(to.cgroup.path())
            .args(["--parent", &std::process::id().to_string()]);
        if let Some(namespace) = to.hosts_of {
            command.arg("--etc").arg(self.layout.hosts().join(namespace));
        }
        command.arg("--").arg(program).args(args).stdin(Stdio::null());
        if let Some(log) = to.log {
            let file = File::create(log).with_context(|| format!("cannot create {}", log.display()))?;
            command.stdout(file.try_clone()?).stderr(file);
        }
        Ok(command)
    }

    /// Waits until a pod's ports accept connections, asked from its node as a kubelet would.
    pub(super) fn probe(&self, node: usize, ip: IpAddr, ports: &[u16], limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        self.nodes[node].netns.run(|| {
            for port in ports {
                let to = SocketAddr::new(ip, *port);
                while TcpStream::connect_timeout(&to, Duration::from_millis(500)).is_err() {
                    if Instant::now() > deadline {
                        bail!("{to} does not accept connections after {limit:?}");
                    }
                    std::thread::sleep(Duration::from_millis(3));
                }
            }
            Ok(())
        })?
    }
}

/// Where a process of the lab runs.
pub(super) struct Place<'a> {
    pub(super) netns: &'a Netns,
    pub(super) cgroup: &'a Cgroup,
    /// See the `/etc/hosts` of this namespace.
    pub(super) hosts_of: Option<&'a str>,
    /// Standard output and error; inherited where None.
    pub(super) log: Option<&'a Path>,
}

/// A panic elsewhere is no reason to leave namespaces behind.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
