//! Running other programs: visible, logged, with a spinner where a person watches.

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The workspace's root folder.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The words before a command of tests that need root; none for who is root.
pub(crate) fn root_runner() -> Vec<String> {
    if is_root() { Vec::new() } else { vec!["sudo".into(), "-E".into()] }
}

/// `program` with root's rights, asked for at most once: it does everything that needs them. `None` without sudo.
pub(crate) fn as_root(program: &Path) -> Option<Command> {
    if is_root() {
        return Some(Command::new(program));
    }
    find("sudo")?;
    let mut sudo = Command::new("sudo");
    sudo.args(["--preserve-env=TERM,RUST_LOG,UNDERMESH_AGENT", "--"]).arg(program);
    Some(sudo)
}

/// How programs are built: nearly as fast as released ones in half the time, or exactly as they are released.
#[derive(Clone, Copy)]
pub(crate) enum Profile {
    Fast,
    Release,
}

impl Profile {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Fast => "fast",
            Self::Release => "release",
        }
    }
}

/// Where a profile's binaries are.
pub(crate) fn programs(profile: Profile) -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    target.join(profile.name())
}

/// Builds what is run: the agent, the lab, the apps, the bench. cargo shows its progress on standard error; standard
/// output is the program's, so that `-o json` stays JSON.
pub(crate) fn build_programs(profile: Profile) -> Result<()> {
    let mut build = cargo();
    build.args(["build", "--profile", profile.name(), "--package", "mesh-agent", "--package", "mesh-test", "--bins"]);
    if !build.status().context("cannot start cargo")?.success() {
        bail!("the build failed");
    }
    Ok(())
}

/// `program` on PATH?
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|file| file.is_file())
}

/// Writes a coloured line to standard error.
pub(crate) fn error(message: &str) {
    let mut err = std::io::stderr();
    let (on, off) = if err.is_terminal() { ("\x1b[1;31m", "\x1b[0m") } else { ("", "") };
    // Nothing is left to tell anyone if standard error is gone.
    let _ = writeln!(err, "{on}error:{off} {message}");
}

/// Runs one command with a spinner (or start and end lines where nobody watches) and keeps its output in
/// `target/xtask/<name>.log`. Fails with the log's tail.
pub(crate) fn step(name: &str, command: &mut Command) -> Result<Output> {
    let log_path = log_path(name)?;
    let started = Instant::now();
    let spinner = spinner(name);
    let (reader, writer) = std::io::pipe()?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .spawn()
        .with_context(|| format!("cannot start {:?}", command.get_program()))?;
    // `command` still holds our copies of the pipe's writing end; without dropping them the reader never ends.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut log = File::create(&log_path)?;
    let mut output = Output::default();
    for line in BufReader::new(reader).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).into_owned();
        writeln!(log, "{line}")?;
        spinner.set_message(line.trim().chars().take(80).collect::<String>());
        output.lines.push(line);
    }
    let status = child.wait()?;
    spinner.finish_and_clear();
    let took = started.elapsed();
    if status.success() {
        say(&format!("  ok    {name} ({})", human(took)));
        return Ok(output);
    }
    for line in output.lines.iter().rev().take(60).rev() {
        say(&format!("        {line}"));
    }
    say(&format!("  FAIL  {name} ({})", human(took)));
    let why = output.complaints().map(|line| format!("\n    {line}")).collect::<String>();
    bail!("{name}: {:?} ended with {status}; whole output in {}{why}", command.get_program(), log_path.display())
}

/// What a step printed, standard output and error in one stream.
#[derive(Default)]
pub(crate) struct Output {
    pub(crate) lines: Vec<String>,
}

impl Output {
    /// The lines that say what failed: panics with their messages, tests by name (libtest's, TAP's), errors of cargo.
    fn complaints(&self) -> impl Iterator<Item = &str> {
        const MOST: usize = 30;
        let panics = |line: &str| line.contains("panicked at");
        let before = std::iter::once("").chain(self.lines.iter().map(String::as_str));
        let found = before.zip(&self.lines).filter(move |(before, line)| {
            let failed = line.starts_with("not ok ") || line.starts_with("error") || line.ends_with("FAILED");
            failed || panics(line) || panics(before)
        });
        found.map(|(_, line)| line.as_str()).take(MOST)
    }
}

/// One line to standard output. A closed pipe (`| head`) is no reason to die.
pub(crate) fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

pub(crate) fn human(took: Duration) -> String {
    let s = took.as_secs();
    if s >= 60 { format!("{}m{:02}s", s / 60, s % 60) } else { format!("{:.1}s", took.as_secs_f32()) }
}

fn log_path(name: &str) -> Result<PathBuf> {
    let dir = root().join("target/xtask");
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    Ok(dir.join(format!("{}.log", name.replace(|c: char| !c.is_ascii_alphanumeric(), "-"))))
}

fn spinner(name: &str) -> ProgressBar {
    if !std::io::stdout().is_terminal() {
        say(&format!("  ...   {name}"));
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("  {spinner} {prefix} {elapsed} {wide_msg:.dim}");
    let bar = ProgressBar::new_spinner().with_prefix(name.to_owned());
    if let Ok(style) = style {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}
