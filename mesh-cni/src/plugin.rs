//! What each command does.

use crate::call::{Code, Command, Config, Failure, VERSIONS, attachment};
use crate::note::{self, Note};
use crate::wire::{self, Answer, Ask, Attachment};
use serde_json::json;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Between two attempts to reach an agent that is just starting.
const RETRY: Duration = Duration::from_millis(50);
/// `DEL` must not wait: the agent finds out by itself.
const FAREWELL: Duration = Duration::from_millis(500);

/// One call of the runtime: what goes to standard output.
///
/// # Errors
/// What the runtime is told; it tells the kubelet, and that the pod.
pub fn run(env: impl Fn(&str) -> Option<String>, config: &[u8]) -> Result<String, Failure> {
    let command = env("CNI_COMMAND").and_then(|word| Command::parse(&word));
    if command == Some(Command::Version) {
        return Ok(json!({"cniVersion": VERSIONS.last(), "supportedVersions": VERSIONS}).to_string());
    }
    let config = Config::parse(config)?;
    let variable = |name: &str| {
        let missing = || config.fail(Code::InvalidEnvironment, format!("{name} is not set"));
        env(name).filter(|value| !value.is_empty()).ok_or_else(missing)
    };
    let pod = || Ok(attachment(&variable("CNI_CONTAINERID")?, &env("CNI_ARGS").unwrap_or_default()));
    match command {
        Some(Command::Add) => add(&config, pod()?, &variable("CNI_NETNS")?),
        Some(Command::Del) => Ok(del(&config, &variable("CNI_CONTAINERID")?, pod()?)),
        Some(Command::Check) => check(&config, pod()?),
        Some(Command::Gc) => Ok(collect(&config)),
        // Ready whatever the agent does. To say that it is away would make the node NotReady, and take its running pods
        // out of every Service.
        Some(Command::Status) => Ok(String::new()),
        Some(Command::Version) | None => {
            Err(config.fail(Code::InvalidEnvironment, "CNI_COMMAND is no command of CNI 1.1".into()))
        }
    }
}

fn add(config: &Config, pod: Option<Attachment>, netns: &str) -> Result<String, Failure> {
    let Some(previous) = &config.previous else {
        let message = "no prevResult: this plugin is to be chained after one that makes the network".into();
        return Err(config.fail(Code::InvalidConfig, message));
    };
    let Some(pod) = pod else {
        // Without its UID no agent can tell it from a former pod of its name.
        return match config.is_open("") {
            true => Ok(previous.to_string()),
            false => Err(config.fail(Code::InvalidEnvironment, "CNI_ARGS does not name the pod and its UID".into())),
        };
    };
    let file = File::open(netns)
        .map_err(|error| config.fail(Code::InvalidEnvironment, format!("CNI_NETNS: {netns}: {error}")))?;
    let (name, namespace) = (format!("{}/{}", pod.namespace, pod.name), pod.namespace.clone());
    let answer = ask(&config.settings.run_dir, &Ask::Join(pod.clone()), Some(file.as_fd()), config.patience());
    let why = match answer {
        Ok(Answer::In | Answer::Outside(_)) => return Ok(previous.to_string()),
        Ok(Answer::Late(why)) => why,
        Err(error) => format!("the agent of this node does not answer: {error}"),
    };
    if config.is_open(&namespace) {
        // What cannot be noted is not worth a pod's start.
        let _ = note::leave(&config.settings.run_dir, &Note::now(pod, why));
        return Ok(previous.to_string());
    }
    let waited = config.settings.timeout_seconds;
    let message = format!(
        "Undermesh: pod {name} is not in the mesh after {waited} s, and its failure policy is closed: {why}; see the \
         undermesh pod of this node"
    );
    Err(config.fail(Code::TryAgain, message))
}

/// It must not fail: what is not there any more is gone.
fn del(config: &Config, container: &str, pod: Option<Attachment>) -> String {
    let _ = note::forget(&config.settings.run_dir, container);
    if let Some(pod) = pod {
        let _ = once(&config.settings.run_dir, &Ask::Leave(pod), None, FAREWELL);
    }
    String::new()
}

fn check(config: &Config, pod: Option<Attachment>) -> Result<String, Failure> {
    let Some(pod) = pod else { return Ok(String::new()) };
    let namespace = pod.namespace.clone();
    let why = match ask(&config.settings.run_dir, &Ask::Check(pod), None, config.patience()) {
        Ok(Answer::In | Answer::Outside(_)) => return Ok(String::new()),
        Ok(Answer::Late(why)) => why,
        Err(_) if config.is_open(&namespace) => return Ok(String::new()),
        Err(error) => format!("the agent of this node does not answer: {error}"),
    };
    Err(config.fail(Code::NotInMesh, format!("Undermesh: the pod is not in the mesh: {why}")))
}

fn collect(config: &Config) -> String {
    let Some(valid) = &config.valid else { return String::new() };
    for note in note::all(&config.settings.run_dir) {
        if !valid.iter().any(|valid| valid.container == note.of.container) {
            let _ = note::forget(&config.settings.run_dir, &note.of.container);
        }
    }
    String::new()
}

/// Until there is an answer, or no time is left: an agent that is replaced is away for a moment.
fn ask(run_dir: &Path, what: &Ask, with: Option<BorrowedFd<'_>>, patience: Duration) -> io::Result<Answer> {
    let end = Instant::now() + patience;
    loop {
        match once(run_dir, what, with, end.saturating_duration_since(Instant::now())) {
            Err(error) if end.saturating_duration_since(Instant::now()) <= RETRY => return Err(error),
            Err(_) => sleep(RETRY),
            answer => return answer,
        }
    }
}

fn once(run_dir: &Path, what: &Ask, with: Option<BorrowedFd<'_>>, patience: Duration) -> io::Result<Answer> {
    let end = Instant::now() + patience;
    let socket = UnixStream::connect(run_dir.join(wire::SOCKET))?;
    wire::send(&socket, &wire::line(what), with)?;
    let (mut line, mut nothing) = (Vec::new(), None);
    while !line.ends_with(b"\n") {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        socket.set_read_timeout(Some(left))?;
        if wire::receive(&socket, &mut line, &mut nothing)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(serde_json::from_slice(&line)?)
}
