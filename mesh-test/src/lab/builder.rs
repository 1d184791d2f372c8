//! Starting labs and hand-made pods.

use super::agent::Agent;
use super::inner::{Inner, Node, lock};
use super::kube_proxy::KubeProxy;
use super::pod::{Pod, PodInner};
use super::state::PodState;
use super::{Bins, Lab, Layout, cleanup, kubelet};
use crate::net::{self, Bridge, Netns, Ports};
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How many nodes, and what runs on them.
#[derive(Clone, Debug)]
pub struct LabBuilder {
    nodes: u8,
    agents: bool,
    kube_proxy: bool,
    agent_program: Option<PathBuf>,
    agent_args: Vec<String>,
    grace: Duration,
}

impl Default for LabBuilder {
    fn default() -> Self {
        Self {
            nodes: 1,
            agents: true,
            kube_proxy: true,
            agent_program: None,
            agent_args: Vec::new(),
            grace: Duration::from_secs(5),
        }
    }
}

impl LabBuilder {
    pub fn nodes(mut self, nodes: u8) -> Self {
        self.nodes = nodes.max(1);
        self
    }

    /// No agent: pods as on a cluster without the mesh.
    pub fn without_agents(mut self) -> Self {
        self.agents = false;
        self
    }

    /// No stand-in for kube-proxy: Services have no addresses outside the mesh.
    pub fn without_kube_proxy(mut self) -> Self {
        self.kube_proxy = false;
        self
    }

    /// Another `mesh-agent` than [`Bins::agent`] finds.
    pub fn agent_program(mut self, program: impl Into<PathBuf>) -> Self {
        self.agent_program = Some(program.into());
        self
    }

    /// More arguments for each `mesh-agent run`.
    pub fn agent_args(mut self, args: &[&str]) -> Self {
        self.agent_args.extend(args.iter().map(|arg| (*arg).to_owned()));
        self
    }

    /// How long an ending pod has between SIGTERM and SIGKILL.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Removes what dead labs left, then brings the nodes and their agents up.
    pub fn start(self) -> Result<Lab> {
        if !rustix::process::geteuid().is_root() {
            bail!("a lab needs root (network namespaces, cgroups, eBPF): run it by `cargo xtask run` or with sudo");
        }
        cleanup::remove_leftovers()?;
        let layout = Layout::new(&format!("{:06x}", fastrand::u32(..) & 0xff_ffff));
        net::private_dir(&layout.root())?;
        // From here on somebody cleans up, whatever happens to us.
        let janitor = start_janitor(&layout)?;
        let mut lab = Lab {
            inner: Arc::new(Inner::new(layout.clone(), Vec::new(), self.grace)?),
            agents: Vec::new(),
            kubelet: None,
            janitor: Some(janitor),
        };
        let nodes = make_nodes(&layout, self.nodes)?;
        for dir in [layout.config(), layout.logs(), layout.hosts()] {
            fs::create_dir_all(dir)?;
        }
        lab.inner = Arc::new(Inner::new(layout.clone(), nodes, self.grace)?);
        if self.kube_proxy {
            *lock(&lab.inner.kube_proxy) = Some(KubeProxy::start(&layout)?);
        }
        lab.kubelet = Some(kubelet::start(&lab.inner)?);
        lab.inner.publish()?;
        if self.agents {
            let program = self.agent_program.map_or_else(Bins::agent, Ok)?;
            for node in 0..usize::from(self.nodes) {
                lab.agents.push(Agent::start(&lab.inner, node, &program, &self.agent_args)?);
            }
        }
        Ok(lab)
    }
}

/// A pod made by hand.
pub struct PodBuilder<'a> {
    lab: &'a Arc<Inner>,
    pub(super) state: PodState,
    pub(super) node: usize,
    program: Option<PathBuf>,
    pub(super) args: Vec<String>,
    pub(super) probes: Vec<u16>,
    restart: Option<Duration>,
}

impl<'a> PodBuilder<'a> {
    pub(super) fn new(lab: &'a Arc<Inner>, name: &str) -> Self {
        let state = PodState { name: name.to_owned(), ..PodState::blank() };
        Self { lab, state, node: 0, program: None, args: Vec::new(), probes: Vec::new(), restart: None }
    }

    pub fn namespace(mut self, namespace: &str) -> Self {
        namespace.clone_into(&mut self.state.namespace);
        self
    }

    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.state.labels.insert(key.to_owned(), value.to_owned());
        self
    }

    pub fn annotation(mut self, key: &str, value: &str) -> Self {
        self.state.annotations.insert(key.to_owned(), value.to_owned());
        self
    }

    pub fn on_node(mut self, node: usize) -> Self {
        self.node = node;
        self
    }

    /// A container port; the pod is ready when it accepts connections.
    pub fn port(mut self, name: &str, number: u16) -> Self {
        self.state.ports.push((name.to_owned(), number));
        self.probes.push(number);
        self
    }

    /// A container port that nobody probes: for endpoints that misbehave on purpose.
    pub fn unprobed_port(mut self, name: &str, number: u16) -> Self {
        self.state.ports.push((name.to_owned(), number));
        self
    }

    /// The pod runs `mesh-app <args>`.
    pub fn app(mut self, args: &[&str]) -> Self {
        self.args = args.iter().map(|arg| (*arg).to_owned()).collect();
        self
    }

    /// The pod runs any program.
    pub fn program(mut self, program: impl Into<PathBuf>, args: &[&str]) -> Self {
        self.program = Some(program.into());
        self.app(args)
    }

    /// The main process is started again this long after it died.
    pub fn restart(mut self, after: Duration) -> Self {
        self.restart = Some(after);
        self
    }

    /// Brings the pod up and waits until it is ready.
    pub fn start(self) -> Result<Pod> {
        let lab = self.lab;
        let pod = self.launch()?;
        lab.publish()?;
        lab.await_ready(&[Arc::clone(&pod)])?;
        Ok(Pod::new(lab, &pod))
    }

    /// Brings namespace and process up; the pod is not ready yet.
    pub(super) fn launch(mut self) -> Result<Arc<PodInner>> {
        let lab = self.lab;
        let node = lab.nodes.get(self.node).with_context(|| format!("there is no node {}", self.node))?;
        let number = u8::try_from(self.node)?;
        let ips = lock(&lab.plan).pod(number).context("the node has no pod address left")?;
        let id = lab.number();
        let netns = Netns::create(&lab.layout.netns(), &format!("{}.{}", self.state.namespace, self.state.name))?;
        // Interface names have 15 bytes; both ends are born in the node's namespace.
        let (outer, inner) = (format!("v{id}"), format!("p{id}"));
        net::join_pod(&node.netns, &netns, &Ports { outer: &outer, inner: &inner })?;
        net::configure_pod(&netns, number, &inner, ips)?;
        let cgroup = node.pods.child(&format!("{}.{}", self.state.namespace, self.state.name))?;
        let state = &mut self.state;
        state.node.clone_from(&node.name);
        state.ips = ips;
        state.netns = netns.path().to_owned();
        state.uid = format!("{}-{id:012x}", lab.layout.id);
        let args = if self.args.is_empty() { idle() } else { self.args };
        let env = BTreeMap::from([
            ("POD_NAME".to_owned(), state.name.clone()),
            ("POD_NAMESPACE".to_owned(), state.namespace.clone()),
            ("POD_IP".to_owned(), ips.v4.to_string()),
            ("NODE_NAME".to_owned(), node.name.clone()),
        ]);
        let pod = Arc::new(PodInner {
            namespace: state.namespace.clone(),
            name: state.name.clone(),
            node: self.node,
            ips,
            netns,
            cgroup,
            log: lab.layout.logs().join(format!("{}.{}.log", state.namespace, state.name)),
            program: self.program.unwrap_or_else(|| lab.bins.app.clone()),
            args,
            env,
            probes: self.probes,
            restart: self.restart,
            process: Mutex::new(None),
            died: Mutex::new(None),
        });
        {
            let mut all = lock(&lab.state);
            all.ensure_namespace(&state.namespace);
            all.pods.insert(pod.key(), state.clone());
        }
        lab.write_hosts()?;
        lock(&lab.running).insert(pod.key(), Arc::clone(&pod));
        pod.start_main(lab)?;
        Ok(pod)
    }
}

/// A pod to run other things in.
fn idle() -> Vec<String> {
    ["echo", "--port", "idle:detect:0"].map(str::to_owned).to_vec()
}

fn make_nodes(layout: &Layout, count: u8) -> Result<Vec<Node>> {
    let root = layout.cgroup()?;
    let mut nodes = Vec::new();
    for number in 0..count {
        let name = format!("node-{number}");
        let netns = Netns::create(&layout.netns(), &name)?;
        net::set_up_node(&netns, &Bridge { node: number })?;
        let cgroup = crate::cgroup::Cgroup::at(root.path().join(&name));
        nodes.push(Node { pods: cgroup.child("pods")?, agent: cgroup.child("agent")?, name, netns });
    }
    if nodes.len() > 1 {
        let fabric = Netns::create(&layout.netns(), "fabric")?;
        let numbered: Vec<_> = nodes.iter().zip(0_u8..).map(|(node, number)| (number, node.netns.clone())).collect();
        net::set_up_fabric(&fabric, &numbered)?;
    }
    Ok(nodes)
}

fn start_janitor(layout: &Layout) -> Result<(std::process::Child, std::process::ChildStdin)> {
    fs::write(layout.owner(), serde_json::to_vec(&cleanup::Owner::this_process()?)?)?;
    let mut janitor = Command::new(Bins::locate()?.lab)
        .args(["janitor", "--id", &layout.id])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // Signals to the lab's group are not for the one that cleans up after it.
        .process_group(0)
        .spawn()
        .context("cannot start the janitor")?;
    let stdin = janitor.stdin.take().context("the janitor has no standard input")?;
    Ok((janitor, stdin))
}
