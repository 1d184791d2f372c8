//! Child processes of a bench: pinned to cores, killed with their parent, their CPU time and memory read from /proc.

use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

#[derive(clap::Args)]
pub(super) struct PinArgs {
    /// The cores that the program may use
    #[arg(long, value_delimiter = ',', required = true)]
    core: Vec<usize>,
    /// The program and its arguments
    #[arg(last = true, required = true)]
    program: Vec<String>,
}

/// `mesh-bench pin --core N -- PROGRAM …`: becomes the program, pinned, and dies with whoever started it.
pub(super) fn pin(args: &PinArgs) -> Result<()> {
    rustix::thread::sched_setaffinity(None, &set(&args.core)).context("sched_setaffinity")?;
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    let [program, rest @ ..] = args.program.as_slice() else { bail!("no program") };
    Err(Command::new(program).args(rest).exec()).with_context(|| format!("cannot start {program}"))
}

/// Confines a process that runs already, every thread of it, to `cores`.
pub(super) fn confine(pid: u32, cores: &[usize]) -> Result<()> {
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let tid = task?.file_name().to_string_lossy().parse::<i32>()?;
        let tid = rustix::process::Pid::from_raw(tid).context("no thread id")?;
        rustix::thread::sched_setaffinity(Some(tid), &set(cores)).context("sched_setaffinity")?;
    }
    Ok(())
}

fn set(cores: &[usize]) -> rustix::thread::CpuSet {
    let mut set = rustix::thread::CpuSet::new();
    cores.iter().for_each(|core| set.set(*core));
    set
}

/// A running child; killed and reaped when dropped.
pub(super) struct Process {
    child: Child,
    name: String,
}

impl Process {
    /// Starts `command` on `cores`, its standard error in `log`.
    pub(super) fn start(name: &str, cores: &[usize], command: &[String], log: &Path) -> Result<(Self, ChildStdout)> {
        let own = std::env::current_exe()?;
        let cores = cores.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let file = std::fs::File::create(log.join(format!("{name}.log")))?;
        let mut child = Command::new(own)
            .args(["pin", "--core", &cores, "--"])
            .args(command)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(file)
            .spawn()?;
        let stdout = child.stdout.take().context("no standard output")?;
        Ok((Self { child, name: name.to_owned() }, stdout))
    }

    /// As [`Process::start`], with its output thrown away, once it accepts connections on `address`.
    pub(super) fn serve(
        name: &str,
        cores: &[usize],
        command: &[String],
        log: &Path,
        address: SocketAddr,
    ) -> Result<Self> {
        until_free(address)?;
        let (mut process, stdout) = Self::start(name, cores, command, log)?;
        std::thread::spawn(move || {
            let mut sink = BufReader::new(stdout);
            // Until the child ends; nobody reads what a proxy says on standard output.
            drop(std::io::copy(&mut sink, &mut std::io::sink()));
        });
        let deadline = Instant::now() + Duration::from_secs(60);
        while TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_err() {
            if let Some(status) = process.child.try_wait()? {
                bail!("{name} ended with {status}; see {}", log.join(format!("{name}.log")).display());
            }
            if Instant::now() > deadline {
                bail!("{name} does not accept on {address}; see {}", log.join(format!("{name}.log")).display());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(process)
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }
}

/// What a process and its descendants have used so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Usage {
    /// CPU seconds.
    pub(super) cpu: f64,
    /// Resident bytes, shared pages counted once per process.
    pub(super) memory: u64,
}

impl Usage {
    pub(super) fn of(pid: u32) -> Self {
        let pids = tree(pid);
        Self { cpu: pids.iter().map(|pid| cpu(*pid)).sum(), memory: pids.iter().map(|pid| anonymous(*pid)).sum() }
    }
}

fn tree(root: u32) -> Vec<u32> {
    let mut pids = vec![root];
    let mut at = 0;
    while let Some(pid) = pids.get(at) {
        let path = format!("/proc/{pid}/task/{pid}/children");
        let children = std::fs::read_to_string(path).unwrap_or_default();
        pids.extend(children.split_whitespace().filter_map(|c| c.parse::<u32>().ok()));
        at += 1;
    }
    pids
}

/// Waits until nobody accepts on the address: a killed proxy's workers may outlive it for a moment, and would be taken
/// for the next proxy.
fn until_free(address: SocketAddr) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(30);
    while TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_ok() {
        if Instant::now() > deadline {
            bail!("something else accepts on {address}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

impl Drop for Process {
    fn drop(&mut self) {
        // Stopped first: nginx's master answers a killed worker with a new one, which would outlive it and keep the port.
        signal(self.pid(), Signal::STOP);
        tree(self.pid()).into_iter().for_each(|pid| signal(pid, Signal::KILL));
        if let Err(error) = self.child.wait() {
            tracing::warn!("{}: {error}", self.name);
        }
    }
}

/// One that has gone by itself is fine.
fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = rustix::process::Pid::from_raw(pid as i32) {
        let _ = rustix::process::kill_process(pid, signal);
    }
}

/// Lines of a child, `start` and `end` handed to `mark`, the last one returned.
pub(super) fn follow(stdout: impl Read, mut mark: impl FnMut(&str)) -> Result<String> {
    let mut last = String::new();
    for line in BufReader::new(stdout).lines() {
        let line = line?;
        match line.as_str() {
            "start" | "end" => mark(&line),
            _ => last = line,
        }
    }
    Ok(last)
}

/// Nanoseconds on a CPU of every thread (first field of schedstat), else clock ticks.
fn cpu(pid: u32) -> f64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let on_cpu = tasks.filter_map(|task| {
        let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    });
    let nanos: u64 = on_cpu.sum();
    if nanos > 0 {
        return nanos as f64 / 1e9;
    }
    // Fields 14 and 15, after the command's closing parenthesis (proc_pid_stat(5)); 100 ticks a second.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<_> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let ticks = |at: usize| fields.get(at).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}

/// Memory that is the process' own: pages of its program, which the first request of each kind loads, are neither a
/// connection's nor anything that stalled sinks make grow.
fn anonymous(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("RssAnon:"));
    line.and_then(|l| l.trim().split(' ').next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
}
