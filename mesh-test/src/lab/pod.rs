//! A running pod: a namespace, a cgroup, one main process, and whatever else is run in it.

use super::inner::{Inner, Place, lock};
use super::process::{Process, parse_lines};
use super::state::Key;
use crate::apps::call::Outcome;
use crate::apps::load::Line;
use crate::apps::load::report::Report;
use crate::cgroup::Cgroup;
use crate::net::{Netns, PodIps};
use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A handle on a pod of the lab. Dropping it leaves the pod running.
#[derive(Clone)]
pub struct Pod {
    lab: Arc<Inner>,
    inner: Arc<PodInner>,
}

/// What a one-shot program left behind.
#[derive(Debug)]
pub struct Output {
    pub status: ExitStatus,
    /// Standard output and error.
    pub text: String,
}

pub(super) struct PodInner {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) node: usize,
    pub(super) ips: PodIps,
    pub(super) netns: Netns,
    pub(super) cgroup: Cgroup,
    pub(super) log: PathBuf,
    pub(super) program: PathBuf,
    pub(super) args: Vec<String>,
    pub(super) env: BTreeMap<String, String>,
    pub(super) probes: Vec<u16>,
    /// Restart the main process when it dies, after this long.
    pub(super) restart: Option<Duration>,
    pub(super) process: Mutex<Option<Process>>,
    pub(super) died: Mutex<Option<Instant>>,
}

impl Pod {
    pub(super) fn new(lab: &Arc<Inner>, inner: &Arc<PodInner>) -> Self {
        Self { lab: Arc::clone(lab), inner: Arc::clone(inner) }
    }

    pub fn name(&self) -> &str {
        self.inner.name()
    }

    pub fn namespace(&self) -> &str {
        self.inner.namespace()
    }

    /// Name of the node it runs on.
    pub fn node(&self) -> String {
        self.lab.nodes[self.inner.node].name.clone()
    }

    pub fn ips(&self) -> PodIps {
        self.inner.ips
    }

    pub fn netns(&self) -> &Netns {
        self.inner.netns()
    }

    /// Ports that the pod is probed on.
    pub fn ports(&self) -> &[u16] {
        &self.inner.probes
    }

    /// What the main process has printed.
    pub fn output(&self) -> String {
        fs::read_to_string(&self.inner.log).unwrap_or_default()
    }

    /// Runs a program in the pod to its end.
    pub fn run(&self, program: &Path, args: &[&str], limit: Duration) -> Result<Output> {
        let mut process = self.start(program, args)?;
        let status = process.wait(limit)?;
        Ok(Output { status, text: process.output() })
    }

    /// Starts a program in the pod beside its main process; killed when dropped.
    pub fn start(&self, program: &Path, args: &[&str]) -> Result<Process> {
        self.start_with(program, args, |_| {})
    }

    /// The same, with a last word on environment or working directory.
    pub fn start_with(&self, program: &Path, args: &[&str], more: impl FnOnce(&mut Command)) -> Result<Process> {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let log = self.lab.layout.logs().join(format!("{}-{}.log", self.inner.name, self.lab.number()));
        self.inner.spawn(&self.lab, program, &args, &log, more)
    }

    /// `mesh-app <args>` in the pod.
    pub fn app(&self, args: &[&str]) -> Result<Process> {
        let app = self.lab.bins.app.clone();
        self.start(&app, args)
    }

    /// One `mesh-app call`.
    pub fn call(&self, args: &[&str]) -> Result<Outcome> {
        let args = [&["call"], args].concat();
        let mut process = self.app(&args)?;
        process.wait(Duration::from_secs(30))?;
        let output = process.output();
        parse_lines::<Outcome>(&output).pop().with_context(|| format!("no outcome of {args:?}: {output}"))
    }

    /// A `mesh-app load` to its end: the total.
    pub fn load(&self, args: &[&str]) -> Result<Report> {
        let mut process = self.start_load(args)?;
        process.wait(Duration::from_secs(120))?;
        total(&process)
    }

    /// A `mesh-app load` in the background; [`finish_load`] ends it.
    pub fn start_load(&self, args: &[&str]) -> Result<Process> {
        self.app(&[&["load"], args].concat())
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        lock(&self.inner.process).as_ref().context("the pod's process has ended")?.signal(signal)
    }

    /// The main process dies by SIGKILL, its sockets by the kernel's hand; the kubelet notices in its own time.
    pub fn crash(&self) -> Result<()> {
        self.signal(Signal::KILL)
    }

    /// The main process is alive and does nothing.
    pub fn freeze(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    pub fn thaw(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// Ends the pod as `kubectl delete pod` does: announced first, SIGTERM, grace, gone.
    pub fn delete(&self) -> Result<()> {
        self.lab.delete_pods(&[self.inner.key()])
    }
}

/// Ends a background load and returns its total.
pub fn finish_load(process: &mut Process) -> Result<Report> {
    process.signal(Signal::TERM)?;
    process.wait(Duration::from_secs(30))?;
    total(process)
}

impl PodInner {
    pub(super) fn key(&self) -> Key {
        (self.namespace.clone(), self.name.clone())
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn namespace(&self) -> &str {
        &self.namespace
    }

    pub(super) fn netns(&self) -> &Netns {
        &self.netns
    }

    pub(super) fn log_tail(&self, lines: usize) -> String {
        tail(&self.log, lines)
    }

    /// Starts the main process (again).
    pub(super) fn start_main(&self, lab: &Inner) -> Result<()> {
        let process = self.spawn(lab, &self.program, &self.args, &self.log, |_| {})?;
        *lock(&self.process) = Some(process);
        *lock(&self.died) = None;
        Ok(())
    }

    pub(super) fn end_process(&self) {
        lock(&self.process).take();
    }

    pub(super) fn spawn(
        &self,
        lab: &Inner,
        program: &Path,
        args: &[String],
        log: &Path,
        more: impl FnOnce(&mut Command),
    ) -> Result<Process> {
        let place = Place { netns: &self.netns, cgroup: &self.cgroup, hosts_of: Some(&self.namespace), log: Some(log) };
        let mut command = lab.enter(&place, program, args)?;
        command.envs(&self.env);
        more(&mut command);
        Ok(Process::new(lab.spawn(command)?, log.to_owned()))
    }
}

/// The total a finished load printed.
fn total(process: &Process) -> Result<Report> {
    for line in process.lines::<Line>() {
        if let Line::Total { report, .. } = line {
            return Ok(report);
        }
    }
    bail!("the load client printed no total: {}", process.output())
}

pub(super) fn tail(path: &Path, lines: usize) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let all: Vec<_> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
