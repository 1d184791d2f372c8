//! `cargo xtask test`: every test, layer by layer (ARCHITECTURE.md, "Testing"), on a bare machine too.

use crate::cluster::{self, Place};
use crate::sh;
use anyhow::{Result, bail};
use std::process::Command;
use std::time::Instant;

/// What `cargo xtask test` builds cargo-deny from.
const CARGO_DENY: &str = "0.20.2";

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only these layers
    #[arg(long = "layer", value_enum)]
    layers: Vec<Layer>,
    /// All but these layers
    #[arg(long, value_enum, conflicts_with = "layers")]
    skip: Vec<Layer>,
    /// The cluster tests in their long forms, which prove the bars: about an hour
    #[arg(long)]
    long: bool,
    /// Stop at the first step that fails
    #[arg(long)]
    fail_fast: bool,
}

/// In the order of their cost.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum, Debug)]
enum Layer {
    /// format, tidy, clippy, docs, deny, the committed eBPF object against its source
    Static,
    /// no root: pure, property, scripted peers
    Unit,
    /// root: each hook attached, real connect()
    Attach,
    /// root: netns pods through kernel and agent
    Node,
    /// the console in a real Chromium, in front of synthetic agents and a real one; screenshots in target/console
    Console,
    /// root: what users do, step by step (`cargo xtask scenario all`)
    Scenario,
    /// root: other languages' gRPC clients and servers, h2spec
    Interop,
    /// root: the main job's story, and every bench cell for a moment
    Smoke,
    /// root: install, traffic, restarts, churn and uninstall on a real Kubernetes (KUBECONFIG, or UNDERMESH_KUBE_RIG)
    Cluster,
}

const LAYERS: &[Layer] = &[
    Layer::Static,
    Layer::Unit,
    Layer::Attach,
    Layer::Node,
    Layer::Console,
    Layer::Scenario,
    Layer::Interop,
    Layer::Smoke,
    Layer::Cluster,
];

/// A command with a name.
pub(crate) struct Step {
    name: &'static str,
    command: Command,
    role: Role,
}

/// What a step's failure means for those behind it in its layer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    /// Nothing: they run all the same.
    Test,
    /// They cannot pass: they are left out, but for `Last`.
    Setup,
    /// Runs whatever came of those before.
    Last,
}

/// Some of mesh-test's test files: by name, and the words that each is started through.
pub(crate) struct Tests {
    pub(crate) wanted: fn(&str) -> bool,
    pub(crate) runner: Vec<String>,
}

impl Step {
    pub(crate) fn new(name: &'static str, command: Command) -> Self {
        Self { name, command, role: Role::Test }
    }

    /// One without which those behind it mean nothing.
    pub(crate) fn setup(name: &'static str, command: Command) -> Self {
        Self { role: Role::Setup, ..Self::new(name, command) }
    }

    /// One that cleans up.
    pub(crate) fn last(name: &'static str, command: Command) -> Self {
        Self { role: Role::Last, ..Self::new(name, command) }
    }
}

/// Runs every chosen layer to its end, then fails with all that failed.
pub(crate) fn run(args: &Args) -> Result<()> {
    let started = Instant::now();
    let mut failed = Vec::new();
    let mut passed_tests = 0;
    let chosen = |layer: &Layer| {
        if args.layers.is_empty() { !args.skip.contains(layer) } else { args.layers.contains(layer) }
    };
    let place = chosen(&Layer::Cluster).then(Place::find);
    if let Some(Ok(place)) = &place {
        place.prepare();
    }
    for layer in LAYERS.iter().filter(|layer| chosen(layer)) {
        sh::say(&format!("{layer:?} ({})", disk()));
        let steps = match (layer, &place) {
            (Layer::Cluster, Some(Ok(place))) => place.steps(|tests| cluster_tests(tests, args.long)),
            (Layer::Cluster, Some(Err(error))) => {
                sh::say(&format!("  FAIL  {error:#}"));
                failed.push(format!("{error:#}"));
                continue;
            }
            _ => steps(*layer),
        };
        let mut lacking = None;
        for Step { name, mut command, role } in steps {
            if args.fail_fast && !failed.is_empty() && role != Role::Last {
                continue;
            }
            if let Some(setup) = lacking.filter(|_| role != Role::Last) {
                sh::say(&format!("  FAIL  {name} (not run: {setup} failed)"));
                continue;
            }
            match sh::step(name, &mut command) {
                Ok(output) => passed_tests += count_passed(&output).max(1),
                Err(error) => {
                    failed.push(format!("{error:#}"));
                    lacking = (role == Role::Setup).then_some(name);
                }
            }
        }
    }
    for error in &failed {
        sh::error(error);
    }
    sh::say(&format!("took {}", sh::human(started.elapsed())));
    sh::say(&format!("{passed_tests} passed, {} failed", failed.len()));
    if !failed.is_empty() {
        bail!("{} step(s) failed", failed.len());
    }
    Ok(())
}

/// What the tests' own builds leave of the disk: a full one fails tests in ways that do not say so.
fn disk() -> String {
    rustix::fs::statvfs(sh::root()).map_or_else(
        |error| error.to_string(),
        |disk| format!("{} GiB of disk free", (disk.f_bavail * disk.f_frsize) >> 30),
    )
}

fn steps(layer: Layer) -> Vec<Step> {
    let steps: Vec<(&'static str, Command)> = match layer {
        Layer::Static => vec![
            ("format", cargo(&["fmt", "--all", "--check"])),
            ("tidy", xtask(&["tidy"])),
            ("clippy", cargo(&["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"])),
            ("docs", docs()),
            ("cargo-deny", install_deny()),
            ("deny", deny()),
            ("ebpf object", xtask(&["build-ebpf", "--check"])),
        ],
        Layer::Unit => vec![("unit", cargo(&["test", "--quiet", "--no-fail-fast"]))],
        Layer::Attach => vec![
            ("build", build_bins()),
            // Of the lab itself; here, because what they are built with is built now.
            ("lab", cargo(&["test", "--quiet", "--profile", "fast", "--package", "mesh-test", "--lib"])),
            ("attach", privileged("attach_")),
        ],
        Layer::Node => vec![
            ("peers for the node", xtask(&["peers", "--only", "observe"])),
            ("samples", privileged("samples")),
            ("node", privileged("node_")),
        ],
        Layer::Console => vec![
            ("peers for the console", xtask(&["peers", "--only", "browser"])),
            ("build the agent", build_bins()),
            ("console", console()),
        ],
        Layer::Scenario => vec![
            // fortio is Go; what Go builds needs the stubs that Python's protoc makes.
            ("peers for scenarios", xtask(&["peers", "--only", "observe,python,go,trace"])),
            ("scenario all", xtask(&["scenario", "all"])),
        ],
        Layer::Interop => vec![("peers", xtask(&["peers"])), ("interop", privileged("interop_"))],
        Layer::Smoke => vec![
            ("run --once", xtask(&["run", "--once"])),
            ("peers for bench", xtask(&["peers", "--only", "bench,python"])),
            ("bench --smoke", xtask(&["bench", "--smoke"])),
        ],
        // Which steps depends on where the cluster is.
        Layer::Cluster => Vec::new(),
    };
    steps.into_iter().map(|(name, command)| Step::new(name, command)).collect()
}

fn cargo(args: &[&str]) -> Command {
    let mut command = sh::cargo();
    command.args(args);
    command
}

fn xtask(args: &[&str]) -> Command {
    let mut command = cargo(&["run", "--quiet", "--package", "xtask", "--"]);
    command.args(args);
    command
}

fn docs() -> Command {
    let mut command = cargo(&["doc", "--workspace", "--no-deps", "--quiet"]);
    command.env("RUSTDOCFLAGS", "-D warnings");
    command
}

/// cargo-deny from source; unoptimised, because it runs once for a second.
fn install_deny() -> Command {
    let mut command =
        cargo(&["install", "--quiet", "cargo-deny", "--version", CARGO_DENY, "--locked", "--root", "target/tools"]);
    command.env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0").env("CARGO_PROFILE_RELEASE_LTO", "off");
    command
}

/// Advisories need a database from outside, so they are not part of it.
fn deny() -> Command {
    let mut command = Command::new(sh::root().join("target/tools/bin/cargo-deny"));
    command.current_dir(sh::root()).args(["check", "bans", "licenses", "sources"]);
    command
}

/// Node.js's own test runner. One file after the other: several browsers would only wait for each other.
fn console() -> Command {
    let mut command = Command::new("node");
    command.current_dir(sh::root()).args(["--test", "--test-reporter=tap", "--test-concurrency=1"]);
    let files = std::fs::read_dir(sh::root().join("mesh-test/console")).into_iter().flatten().flatten();
    let mut tests: Vec<_> =
        files.map(|file| file.path()).filter(|path| path.to_string_lossy().ends_with(".test.mjs")).collect();
    tests.sort();
    command.args(tests);
    command
}

/// The binaries that tests start. Always chosen together: another choice of packages has other features of what they
/// depend on, and builds all of it once more.
fn build_bins() -> Command {
    cargo(&["build", "--quiet", "--profile", "fast", "--package", "mesh-agent", "--package", "mesh-test", "--bins"])
}

/// mesh-test's tests whose file name starts with `prefix`.
fn privileged(prefix: &str) -> Command {
    tests(&|name| name.starts_with(prefix), &sh::root_runner())
}

fn cluster_tests(of: &Tests, long: bool) -> Command {
    let mut command = tests(&of.wanted, &of.runner);
    if !long {
        command = limited(&command);
    }
    // Bars and what was measured are worth reading.
    command.arg("--nocapture");
    if long {
        command.env(cluster::LONG, "1");
    }
    command
}

/// A cluster that does not work makes each test wait to its own end: together they would take hours. They need 8 minutes.
fn limited(tests: &Command) -> Command {
    let mut command = Command::new("timeout");
    command.current_dir(sh::root()).args(["--kill-after=30s", "25m"]).arg(tests.get_program()).args(tests.get_args());
    command
}

/// mesh-test's test files of these names, through these words, one at a time: they share the machine's kernel.
fn tests(wanted: &dyn Fn(&str) -> bool, runner: &[String]) -> Command {
    let mut command = sh::cargo();
    if !runner.is_empty() {
        command.args(["--config", &format!("target.'cfg(all())'.runner = {runner:?}")]);
    }
    // One that fails keeps no other from running.
    command.args(["test", "--profile", "fast", "--no-fail-fast", "--package", "mesh-test"]);
    let files = std::fs::read_dir(sh::root().join("mesh-test/tests")).into_iter().flatten().flatten();
    let mut names: Vec<_> = files.filter_map(|f| Some(f.path().file_stem()?.to_str()?.to_owned())).collect();
    names.sort();
    let chosen: Vec<&String> = names.iter().filter(|name| wanted(name)).collect();
    if chosen.is_empty() {
        // A name that no file has makes cargo fail: a layer without tests must not pass.
        command.args(["--test", "none-chosen"]);
    }
    for name in chosen {
        command.args(["--test", name]);
    }
    command.args(["--", "--test-threads=1"]);
    command
}

/// Adds up libtest's `test result: ok. 12 passed; 0 failed; …` lines, and Node.js's `# pass 12`.
fn count_passed(output: &sh::Output) -> usize {
    let number = |line: &str| match line.strip_prefix("# pass ") {
        Some(passed) => passed.parse::<usize>().ok(),
        None if line.starts_with("test result:") => line.split(" passed").next()?.rsplit(' ').next()?.parse().ok(),
        None => None,
    };
    output.lines.iter().filter_map(|line| number(line)).sum()
}
