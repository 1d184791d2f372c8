//! A node small enough for one test: a threaded child cgroup for pods, one for the agent, network namespaces that have
//! loopback only, and a kernel instance of its own. All of it goes when the value is dropped.
#![allow(dead_code, unreachable_pub)] // Each test binary uses its part.

use futures_util::FutureExt as _;
use mesh_agent::addr::{ClientAddr, EndpointAddr};
use mesh_agent::kernel::{
    self, Config, Counters, Family, Heartbeat, Keeper, Kernel, Marks, NetnsCookie, PodListeners, SkMsg, SyncReport,
    Ticks, Update,
};
use mesh_agent::snapshot::{
    Endpoint, EndpointHealth, EndpointSet, LbPolicy, Locality, NetnsPlace, PortKey, Protocol, Service, ServiceName,
    ServicePort, Snapshot, WorkloadKey,
};
use mesh_common::Reason;
use std::fs::{self, File};
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

/// One test's node.
pub struct Node {
    pub config: Config,
    pub kernel: Option<Kernel>,
    pub snapshot: Snapshot,
    cgroup: PathBuf,
    keeper: Keeper,
    beat: Option<Heartbeat>,
}

/// A network namespace with processes in the pods' cgroup.
pub struct Pod {
    pub key: WorkloadKey,
    pub cookie: NetnsCookie,
    netns: File,
    cgroup: PathBuf,
    pub listeners: Option<PodListeners>,
}

impl Node {
    /// A node whose agent beats.
    pub fn start(tweak: impl FnOnce(&mut Config)) -> Self {
        let mut node = Self::stopped(tweak);
        node.boot();
        node.beat();
        node
    }

    /// Everything but the kernel instance.
    pub fn stopped(tweak: impl FnOnce(&mut Config)) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let cgroup = base_cgroup().join(&name);
        for folder in [&cgroup, &cgroup.join("pods"), &cgroup.join("agent")] {
            fs::create_dir(folder).unwrap();
            fs::write(folder.join("cgroup.type"), "threaded").unwrap();
        }
        let pins = kernel::bpffs().unwrap().join(format!("undermesh-attach-{name}"));
        let mut config = Config::new(cgroup.join("pods"), cgroup.join("agent"), pins);
        config.sk_msg = SkMsg::Off;
        tweak(&mut config);
        Self {
            config,
            kernel: None,
            snapshot: Snapshot::default(),
            cgroup,
            keeper: Keeper::start().unwrap(),
            beat: None,
        }
    }

    pub fn boot(&mut self) {
        self.kernel = Some(Kernel::start(self.config.clone()).unwrap());
    }

    pub fn beat(&mut self) {
        self.beat = Some(self.kernel().heartbeat(Ticks::new(0, Duration::from_secs(1))).unwrap());
    }

    /// What a hung agent looks like: beats stop.
    pub fn hang(&mut self) {
        self.beat = None;
    }

    pub fn kernel(&mut self) -> &mut Kernel {
        self.kernel.as_mut().unwrap()
    }

    pub fn counters(&self) -> Counters {
        self.kernel.as_ref().unwrap().counters()
    }

    pub fn count(&self, reason: Reason) -> u64 {
        self.counters().get(reason)
    }

    /// A pod whose agent listeners are open and which is enrolled.
    pub fn pod(&mut self, name: &str) -> Pod {
        let mut pod = self.bare_pod(name);
        self.listen(&mut pod);
        let report = self.kernel().enrol(&pod.key, pod.cookie, false);
        assert!(report.problems.is_empty(), "{report:?}");
        pod
    }

    /// A namespace that nobody knows.
    pub fn bare_pod(&self, name: &str) -> Pod {
        let netns = thread::spawn(|| {
            kernel::new_netns().unwrap();
            File::open("/proc/thread-self/ns/net").unwrap()
        })
        .join()
        .unwrap();
        let path = NetnsPlace::Path(format!("/proc/self/fd/{}", netns.as_raw_fd()).into());
        let cookie = wait(self.keeper.open_netns(&path)).unwrap().cookie();
        let key = WorkloadKey { namespace: "shop".into(), name: name.into(), uid: name.into() };
        Pod { key, cookie, netns, cgroup: self.config.pods_cgroup.clone(), listeners: None }
    }

    /// Opens the agent's listeners, from a thread in the agent's cgroup as the keeper's would be.
    pub fn listen(&self, pod: &mut Pod) {
        let path = NetnsPlace::Path(format!("/proc/self/fd/{}", pod.netns.as_raw_fd()).into());
        pod.listeners = Some(self.as_agent(|| {
            let keeper = Keeper::start().unwrap();
            wait(keeper.open_listeners(&path, 1, 1024)).unwrap()
        }));
    }

    /// Runs in the agent's cgroup. Threads inherit their parent's.
    pub fn as_agent<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        in_cgroup(&self.config.agent_cgroup, act)
    }

    /// A connection of the agent's own, from a pod's namespace to an endpoint.
    pub fn dial(&self, from: &Pod, to: &str, marks: &Marks) -> TcpStream {
        let to: SocketAddr = to.parse().unwrap();
        let path = NetnsPlace::Path(format!("/proc/self/fd/{}", from.netns.as_raw_fd()).into());
        let socket = self.as_agent(|| {
            let keeper = Keeper::start().unwrap();
            let netns = wait(keeper.open_netns(&path)).unwrap();
            wait(keeper.open_socket(&netns, Family::from(&to))).unwrap()
        });
        marks.mark(&socket, EndpointAddr::new(to));
        let socket = socket2::Socket::from(socket);
        socket.set_nonblocking(false).unwrap();
        socket.connect(&to.into()).unwrap();
        socket.into()
    }

    /// A service in the kernel. Protocol `Tcp` is placed by the kernel, all others go to the agent.
    pub fn service(&mut self, name: &str, vip: &str, protocol: Protocol, endpoints: &[SocketAddr]) -> SyncReport {
        let weighted: Vec<(SocketAddr, u32)> = endpoints.iter().map(|addr| (*addr, 1)).collect();
        self.weighted(name, vip, protocol, &weighted)
    }

    pub fn weighted(
        &mut self,
        name: &str,
        vip: &str,
        protocol: Protocol,
        endpoints: &[(SocketAddr, u32)],
    ) -> SyncReport {
        let vip: SocketAddr = vip.parse().unwrap();
        self.snapshot.insert_service(Arc::new(service(name, vip, protocol, endpoints)));
        self.apply(&[name])
    }

    pub fn remove_service(&mut self, name: &str) -> SyncReport {
        self.snapshot.remove_service(&ServiceName::new("shop", name));
        self.apply(&[name])
    }

    fn apply(&mut self, names: &[&str]) -> SyncReport {
        let services: Vec<ServiceName> = names.iter().map(|name| ServiceName::new("shop", name)).collect();
        let snapshot = self.snapshot.clone();
        self.kernel().apply(&Update { services: &services, ..Update::of(&snapshot) })
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.beat = None;
        self.kernel = None;
        let _ = kernel::uninstall(&self.config.pin_dir);
        for folder in ["pods", "agent", ""] {
            let _ = fs::remove_dir(self.cgroup.join(folder));
        }
    }
}

impl Pod {
    /// Runs as a process of the pod: in its namespace and cgroup.
    pub fn run<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        in_cgroup(&self.cgroup, || {
            rustix::thread::move_into_link_name_space(
                self.netns.as_fd(),
                Some(rustix::thread::LinkNameSpaceType::Network),
            )
            .unwrap();
            act()
        })
    }

    pub fn connect(&self, to: &str) -> io::Result<TcpStream> {
        let to: SocketAddr = to.parse().unwrap();
        self.run(|| TcpStream::connect_timeout(&to, Duration::from_secs(5)))
    }

    /// A listener that is no agent: an endpoint.
    pub fn endpoint(&self, at: &str) -> TcpListener {
        let at: SocketAddr = at.parse().unwrap();
        let listener = self.run(|| TcpListener::bind(at).unwrap());
        // A connection that went elsewhere fails the test instead of hanging it: accept() obeys SO_RCVTIMEO.
        socket2::SockRef::from(&listener).set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        listener
    }

    /// What the agent accepts within a second.
    pub fn accept(&self, v6: bool) -> Option<(TcpStream, ClientAddr, SocketAddr)> {
        let listeners = self.listeners.as_ref()?;
        let listener = if v6 { listeners.v6.first()? } else { listeners.v4.first()? };
        for _ in 0..200 {
            match listener.accept() {
                Ok((stream, peer)) => {
                    stream.set_nonblocking(false).unwrap();
                    let local = stream.local_addr().unwrap();
                    return Some((stream, ClientAddr::new(peer), local));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(Duration::from_millis(5)),
                Err(error) => panic!("{error}"),
            }
        }
        None
    }
}

/// Waits up to 2 s for something that the kernel does by itself.
pub fn eventually(what: &str, holds: impl Fn() -> bool) {
    for _ in 0..400 {
        if holds() {
            return;
        }
        thread::sleep(Duration::from_millis(5));
    }
    panic!("did not happen within 2 s: {what}");
}

fn service(name: &str, vip: SocketAddr, protocol: Protocol, endpoints: &[(SocketAddr, u32)]) -> Service {
    let name = ServiceName::new("shop", name);
    let endpoints = endpoints
        .iter()
        .map(|(addr, weight)| Endpoint {
            addr: EndpointAddr::new(*addr),
            weight: *weight,
            health: EndpointHealth::Ready,
            workload: None,
            locality: Locality::default(),
        })
        .collect();
    let port = ServicePort {
        key: PortKey::new(name.clone(), vip.port()),
        port: vip.port(),
        name: "".into(),
        protocol,
        lb: LbPolicy::Default,
        endpoints: Arc::new(EndpointSet { endpoints }),
    };
    let host = name.host("cluster.local");
    Service { vips: vec![vip.ip()], ports: vec![Arc::new(port)], ..Service::new(name, &host) }
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    for _ in 0..2000 {
        if let Some(value) = future.as_mut().now_or_never() {
            return value;
        }
        thread::sleep(Duration::from_millis(1));
    }
    panic!("the keeper did not answer within 2 s");
}

fn in_cgroup<T: Send>(cgroup: &Path, act: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let worker = scope.spawn(|| {
            let tid = rustix::thread::gettid().as_raw_nonzero().to_string();
            fs::write(cgroup.join("cgroup.threads"), tid).unwrap();
            act()
        });
        match worker.join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// The test process's own cgroup, above all nodes: threads can be placed only below their process's.
fn base_cgroup() -> &'static Path {
    static BASE: OnceLock<PathBuf> = OnceLock::new();
    BASE.get_or_init(|| {
        assert!(rustix::process::geteuid().is_root(), "attach tests need root: run them with `cargo xtask test`");
        remove_leftovers();
        let base = kernel::cgroup2().unwrap().join(format!("{PREFIX}{}", std::process::id()));
        fs::create_dir_all(&base).unwrap();
        fs::write(base.join("cgroup.procs"), std::process::id().to_string()).unwrap();
        base
    })
}

const PREFIX: &str = "undermesh-attach-";

/// A process cannot remove the cgroup it is in, and a killed one removes nothing: the next one does both.
fn remove_leftovers() {
    let alive = |name: &str| {
        let pid = name.trim_start_matches(PREFIX).split('-').next().unwrap_or_default();
        Path::new("/proc").join(pid).exists()
    };
    let dead = |folder: &Path| -> Vec<PathBuf> {
        let entries = fs::read_dir(folder).unwrap().flatten();
        let ours = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(PREFIX));
        ours.filter(|entry| !alive(&entry.file_name().to_string_lossy())).map(|entry| entry.path()).collect()
    };
    for pins in dead(&kernel::bpffs().unwrap()) {
        let _ = kernel::uninstall(&pins);
    }
    for base in dead(&kernel::cgroup2().unwrap()) {
        for node in fs::read_dir(&base).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir()) {
            for folder in ["pods", "agent", ""] {
                let _ = fs::remove_dir(node.path().join(folder));
            }
        }
        let _ = fs::remove_dir(base);
    }
}
