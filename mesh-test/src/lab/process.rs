//! Child processes of the lab. All are started from one thread that lives as long as the lab: the parent-death signal
//! follows the *thread* that forked, so a helper thread's end would kill its children.

use anyhow::{Context, Result, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde::de::DeserializeOwned;
use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

type Request = (Command, Sender<io::Result<Child>>);

/// The thread that forks.
#[derive(Debug)]
pub(super) struct Spawner {
    requests: Sender<Request>,
}

impl Spawner {
    pub(super) fn new() -> Result<Self> {
        let (requests, inbox) = channel::<Request>();
        thread::Builder::new().name("lab-spawner".to_owned()).spawn(move || {
            for (mut command, reply) in inbox {
                // A group of its own: Ctrl-C at the terminal is for the lab, which ends its children in order.
                let _ = reply.send(command.process_group(0).spawn());
            }
        })?;
        Ok(Self { requests })
    }

    pub(super) fn spawn(&self, command: Command) -> Result<Child> {
        let (reply, answer) = channel();
        let program = command.get_program().to_string_lossy().into_owned();
        self.requests.send((command, reply)).map_err(|_| anyhow!("the lab's spawner has ended"))?;
        answer.recv().context("the lab's spawner has ended")?.with_context(|| format!("cannot start {program}"))
    }
}

/// A process of a pod or node with its output in a file; killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    pub fn new(child: Child, log: PathBuf) -> Self {
        Self { child, log }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("no pid")?;
        kill_process(pid, signal).with_context(|| format!("cannot signal {}", self.child.id()))
    }

    /// The exit status if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Waits for the end.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.ended() {
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!("process {} did not end within {limit:?}; its output: {}", self.id(), self.log.display());
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// SIGTERM, then after `grace` SIGKILL, as the kubelet does.
    pub fn stop(&mut self, grace: Duration) {
        let _ = self.signal(Signal::TERM);
        if self.wait(grace).is_err() {
            self.kill();
        }
    }

    /// SIGKILL and reap.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub fn log(&self) -> &Path {
        &self.log
    }

    pub fn output(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The lines of type `T` that the app has printed so far.
    pub fn lines<T: DeserializeOwned>(&self) -> Vec<T> {
        parse_lines(&self.output())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The lines that are a `T` in JSON; a line cut short by a crash is none.
pub fn parse_lines<T: DeserializeOwned>(output: &str) -> Vec<T> {
    output.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}
