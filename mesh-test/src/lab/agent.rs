//! A node's agent as the lab runs it: the real binary, in the node's namespace and cgroup.

use super::inner::{Inner, Place, lock};
use super::pod::tail;
use super::process::Process;
use anyhow::{Context, Result, bail, ensure};
use mesh_agent::kernel::bpffs;
use rustix::process::Signal;
use serde_json::Value;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How long an agent may take to load its programs and read its configuration on a busy machine.
const UP_WITHIN: Duration = Duration::from_secs(20);

/// The agent of one node.
pub struct Agent {
    lab: Arc<Inner>,
    node: usize,
    bin: PathBuf,
    args: Vec<String>,
    process: Mutex<Option<Process>>,
}

impl Agent {
    pub(super) fn start(lab: &Arc<Inner>, node: usize, program: &Path, more: &[String]) -> Result<Self> {
        let agent = Self {
            lab: Arc::clone(lab),
            node,
            bin: program.to_owned(),
            args: more.to_vec(),
            process: Mutex::new(None),
        };
        agent.restart()?;
        Ok(agent)
    }

    pub fn node(&self) -> &str {
        &self.lab.nodes[self.node].name
    }

    /// Kills the process, if it runs, starts another and returns when that one answers on its socket.
    pub fn restart(&self) -> Result<Duration> {
        self.kill9();
        let node = &self.lab.nodes[self.node];
        let run_dir = self.run_dir();
        fs::create_dir_all(&run_dir)?;
        let pins = self.pins()?;
        let text = |path: &Path| path.display().to_string();
        let mut args = vec![
            "--run-dir".to_owned(),
            text(&run_dir),
            "run".to_owned(),
            "--node".to_owned(),
            node.name.clone(),
            "--config".to_owned(),
            text(&self.lab.layout.config()),
            "--pods-cgroup".to_owned(),
            text(node.pods.path()),
            "--pin-dir".to_owned(),
            text(&pins),
        ];
        args.extend(self.args.iter().cloned());
        let log = self.log();
        let place = Place { netns: &node.netns, cgroup: &node.agent, hosts_of: None, log: Some(&log) };
        let began = Instant::now();
        let child = self.lab.spawn(self.lab.enter(&place, &self.bin, &args)?)?;
        *lock(&self.process) = Some(Process::new(child, log));
        self.await_up(began)
    }

    /// SIGKILL, without a chance to clean up.
    pub fn kill9(&self) {
        if let Some(mut process) = lock(&self.process).take() {
            process.kill();
        }
    }

    /// The process is alive and does nothing: it cannot even refuse.
    pub fn freeze(&self) -> Result<()> {
        lock(&self.process).as_ref().context("the agent is not running")?.signal(Signal::STOP)
    }

    pub fn thaw(&self) -> Result<()> {
        lock(&self.process).as_ref().context("the agent is not running")?.signal(Signal::CONT)
    }

    /// SIGTERM; returns when it has ended.
    pub fn stop(&self, limit: Duration) -> Result<()> {
        let mut process = lock(&self.process).take().context("the agent is not running")?;
        process.signal(Signal::TERM)?;
        let status = process.wait(limit)?;
        ensure!(status.success(), "the agent ended with {status}: {}", self.log_tail(20));
        Ok(())
    }

    pub fn pid(&self) -> Option<u32> {
        lock(&self.process).as_ref().map(Process::id)
    }

    /// `mesh-agent <args> -o json` against this agent.
    pub fn ask(&self, args: &[&str]) -> Result<Value> {
        let output = Command::new(&self.bin)
            .arg("--run-dir")
            .arg(self.run_dir())
            .args(["-o", "json"])
            .args(args)
            .output()
            .context("cannot run mesh-agent")?;
        if !output.status.success() {
            bail!("mesh-agent {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        }
        serde_json::from_slice(&output.stdout).context("the answer is not JSON")
    }

    /// The run-time switch of redirection. It has no subcommand: the admin socket speaks HTTP/1.1.
    pub fn set_sk_msg(&self, on: bool) -> Result<()> {
        let mut socket = UnixStream::connect(self.run_dir().join("agent.sock"))?;
        let body = if on { "on" } else { "off" };
        let length = body.len();
        write!(
            socket,
            "PUT /kernel/sk-msg HTTP/1.1\r\nhost: agent\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
        )?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer)?;
        ensure!(answer.starts_with("HTTP/1.1 200"), "redirection cannot be switched {body}: {answer}");
        Ok(())
    }

    /// One counter of the kernel's, by the label of its Reason.
    pub fn counter(&self, reason: &str) -> Result<u64> {
        let kernel = self.ask(&["kernel"])?;
        let counters = kernel["counters"].as_array().context("no counters")?;
        let found = counters.iter().find(|counter| counter["reason"] == reason);
        Ok(found.and_then(|counter| counter["count"].as_u64()).unwrap_or(0))
    }

    /// Waits until `condition` holds of `mesh-agent status`.
    pub fn await_status(&self, what: &str, condition: impl Fn(&Value) -> bool) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            let status = self.ask(&["status"])?;
            if condition(&status) {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "{}: not {what} after 5 s: {status:#}", self.node());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until a pod is in the mesh, or out of it.
    pub fn await_enrolled(&self, namespace: &str, pod: &str, enrolled: bool) -> Result<()> {
        let name = format!("{namespace}/{pod}");
        self.await_status(&format!("{name} enrolled={enrolled}"), |status| {
            status["pods"]["in_mesh"].as_array().is_some_and(|all| all.iter().any(|pod| *pod == *name)) == enrolled
        })
    }

    /// Resident memory of the process, bytes.
    pub fn memory(&self) -> Result<u64> {
        let pid = self.pid().context("the agent is not running")?;
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("no VmRSS")?;
        let kib: u64 = line.split_whitespace().nth(1).context("no number")?.parse()?;
        Ok(kib * 1024)
    }

    pub fn run_dir(&self) -> PathBuf {
        self.lab.layout.agent(self.node())
    }

    pub fn pins(&self) -> Result<PathBuf> {
        Ok(bpffs().context("no bpffs")?.join("undermesh").join(self.lab.layout.pin_name(self.node())))
    }

    pub fn log_tail(&self, lines: usize) -> String {
        tail(&self.log(), lines)
    }

    fn log(&self) -> PathBuf {
        self.lab.layout.logs().join(format!("agent-{}.log", self.node()))
    }

    fn await_up(&self, began: Instant) -> Result<Duration> {
        loop {
            if self.run_dir().join("agent.sock").exists()
                && self.ask(&["status"]).is_ok_and(|status| status["pid"].as_u64() == self.pid().map(u64::from))
            {
                return Ok(began.elapsed());
            }
            let ended = lock(&self.process).as_mut().and_then(Process::ended);
            if let Some(status) = ended {
                bail!("the agent of {} ended with {status}:\n{}", self.node(), self.log_tail(20));
            }
            ensure!(began.elapsed() < UP_WITHIN, "the agent of {} is not up:\n{}", self.node(), self.log_tail(20));
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
