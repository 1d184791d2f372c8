//! The cells through the kernel: a lab node whose client pod dials a Service, two pods behind it, the agent beside them.
//!
//! The same load generator and backends as on loopback, pinned alike: pods on the first core, the agent on the last.
//! Every sample has a node of its own, so that none inherits connections or learnt latencies. After the load the kernel's
//! counters must show that it went the way its row is named after.

use super::cells::Cell;
use super::process;
use super::proxies::{ECHO_PORT, ENDPOINTS, GRPC_PORT, Programs, Proxy};
use crate::lab::{Agent, Lab, Pod, Process};
use anyhow::{Context, Result, bail, ensure};
use std::fs::File;
use std::io::PipeReader;
use std::time::{Duration, Instant};

const NAMESPACE: &str = "bench";
/// One address family, as on loopback. A port's name declares its protocol: `tcp` is placed by the connect hook.
const SERVICE: &str = "apiVersion: v1
kind: Service
metadata: {name: echo, namespace: bench}
spec:
  ipFamilies: [IPv4]
  ipFamilyPolicy: SingleStack
  selector: {app: echo}
  ports:
  - {name: grpc, port: 80, targetPort: grpc}
  - {name: tcp, port: 81, targetPort: tcp}
";

/// How long agent and kernel may take to know the pods on a busy machine.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// A node for one sample; dropping it removes every trace.
pub(super) struct Node {
    proxy: Proxy,
    lab: Lab,
    client: Pod,
    endpoints: Vec<Pod>,
}

impl Node {
    pub(super) fn start(proxy: Proxy, programs: &Programs, cores: &[usize]) -> Result<Self> {
        let workers = cores.len().to_string();
        let builder = Lab::builder().without_kube_proxy();
        let builder = match proxy {
            Proxy::PodDirect => builder.without_agents(),
            _ => builder.agent_program(&programs.agent).agent_args(&["--workers", &workers, "--sk-msg", "off"]),
        };
        let lab = builder.start()?;
        lab.label_namespace(NAMESPACE, "istio-injection", Some("enabled"))?;
        lab.apply_yaml(SERVICE)?;
        let endpoints = (1..=ENDPOINTS.len()).map(|tag| endpoint(&lab, tag)).collect::<Result<Vec<_>>>()?;
        let client = lab.pod("client").namespace(NAMESPACE).start()?;
        let node = Self { proxy, lab, client, endpoints };
        if let Some(agent) = node.agent() {
            node.await_ready(agent)?;
            // By the switch, not by `auto`: the self-test's limits of time are for machines with time.
            agent.set_sk_msg(proxy == Proxy::HookSkMsg)?;
            process::confine(agent.pid().context("the agent is not running")?, cores)?;
        }
        Ok(node)
    }

    /// Where the client dials: the pods themselves outside the mesh, else the Service.
    pub(super) fn targets(&self, tcp: bool) -> Result<String> {
        if self.proxy == Proxy::PodDirect {
            let port = if tcp { ECHO_PORT } else { GRPC_PORT };
            let all: Vec<_> = self.endpoints.iter().map(|pod| format!("{}:{port}", pod.ips().v4)).collect();
            return Ok(all.join(","));
        }
        let services = self.lab.services();
        let ip = services.first().and_then(|service| service.cluster_ips().first().copied());
        let ip = ip.context("the Service has no address")?;
        Ok(format!("{ip}:{}", if tcp { 81 } else { 80 }))
    }

    /// Starts the load generator in the client pod, on the pods' core.
    pub(super) fn load(&self, command: &[String], log: File) -> Result<(Process, PipeReader)> {
        let (reader, writer) = std::io::pipe()?;
        let own = std::env::current_exe()?;
        let args: Vec<&str> =
            ["pin", "--core", "0", "--"].into_iter().chain(command.iter().map(String::as_str)).collect();
        let process = self.client.start_with(&own, &args, |command| {
            command.stdout(writer).stderr(log);
        })?;
        Ok((process, reader))
    }

    /// The agent's process, where there is one.
    pub(super) fn pid(&self) -> Option<u32> {
        self.agent().and_then(Agent::pid)
    }

    /// Did the load go the way that the row says?
    pub(super) fn verify(&self, cell: Cell) -> Result<()> {
        let Some(agent) = self.agent() else { return Ok(()) };
        let connections = agent.counter(if cell.is_tcp() { "to_endpoint" } else { "to_agent" })?;
        ensure!(connections >= cell.connections(), "the hook placed {connections} connection(s)");
        let redirected = agent.counter("redirected")?;
        let over_tcp = agent.counter("over_tcp")?;
        tracing::debug!("{redirected} messages redirected, {over_tcp} over TCP");
        ensure!((redirected > 0) == (self.proxy == Proxy::HookSkMsg), "{redirected} messages were redirected");
        Ok(())
    }

    fn agent(&self) -> Option<&Agent> {
        self.lab.agents().first()
    }

    /// The client is in the mesh, agent and kernel know both endpoints.
    fn await_ready(&self, agent: &Agent) -> Result<()> {
        agent.await_enrolled(NAMESPACE, self.client.name(), true)?;
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            let kernel = agent.ask(&["kernel"])?;
            let services = agent.ask(&["services"])?;
            let ports = services.pointer("/0/ports").and_then(|ports| ports.as_array());
            let known = ports.is_some_and(|ports| ports.iter().all(|port| port["ready"] == ENDPOINTS.len()));
            let maps = kernel["maps"].as_array().into_iter().flatten();
            let placed = maps.filter(|map| map["name"] == "ENDPOINTS").all(|map| map["entries"] == ENDPOINTS.len());
            if known && placed {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("the node is not ready: {services} {}", kernel["maps"]);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A pod with the backend that replies `tag`.
fn endpoint(lab: &Lab, tag: usize) -> Result<Pod> {
    let own = std::env::current_exe()?;
    let program = own.display().to_string();
    let (listen, echo) = (format!("0.0.0.0:{GRPC_PORT}"), format!("0.0.0.0:{ECHO_PORT}"));
    let tag = tag.to_string();
    let args = ["pin", "--core", "0", "--", &program, "backend", "--listen", &listen, "--echo", &echo, "--tag", &tag];
    let pod = lab.pod(&format!("echo-{tag}")).namespace(NAMESPACE).label("app", "echo");
    pod.port("grpc", GRPC_PORT).port("tcp", ECHO_PORT).program(own, &args).start()
}
