//! `cargo xtask doctor`: what this machine lacks, and the command that fixes it.

use crate::sh;
use crate::tools::{TOOLS, Tool};
use anyhow::{Result, bail};
use serde::Serialize;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// How to print the findings
    #[arg(short, long, value_enum, default_value = "table")]
    output: Format,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Format {
    Table,
    Json,
}

/// What a finding is needed for, in the order a newcomer meets it.
#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Need {
    Run,
    Test,
    Ebpf,
}

#[derive(Serialize)]
struct Finding {
    what: &'static str,
    need: Need,
    ok: bool,
    found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    fix: Option<String>,
}

/// Prints every finding; fails if something `cargo xtask run` needs is missing.
pub(crate) fn run(args: &Args) -> Result<()> {
    let findings = findings();
    match args.output {
        Format::Json => sh::say(&serde_json::to_string_pretty(&findings)?),
        Format::Table => table(&findings),
    }
    if findings.iter().any(|f| !f.ok && f.need == Need::Run) {
        bail!("`cargo xtask run` cannot work here yet: see the fixes above");
    }
    Ok(())
}

fn findings() -> Vec<Finding> {
    let mut all = vec![privilege(), kernel(), cgroup2(), bpffs(), btf(), stable_rust()];
    all.extend(TOOLS.iter().map(program));
    all.extend([nightly(), rust_src()]);
    all
}

fn table(findings: &[Finding]) {
    for (need, title) in [
        (Need::Run, "cargo xtask run"),
        (Need::Test, "cargo xtask test, beyond that"),
        (Need::Ebpf, "cargo xtask build-ebpf, and its check in cargo xtask test"),
    ] {
        sh::say(title);
        for f in findings.iter().filter(|f| f.need == need) {
            sh::say(&format!("  {:4} {:12} {}", if f.ok { "ok" } else { "MISS" }, f.what, f.found));
            if let Some(fix) = &f.fix {
                sh::say(&format!("       {:12} fix: {fix}", ""));
            }
        }
    }
}

fn privilege() -> Finding {
    let sudo = sh::find("sudo").is_some();
    let (ok, found) = match (sh::is_root(), sudo) {
        (true, _) => (true, "root"),
        (false, true) => (true, "sudo (asked for once)"),
        (false, false) => (false, "neither root nor sudo"),
    };
    finding("privilege", Need::Run, ok, found.into(), "run as root, or install sudo")
}

fn kernel() -> Finding {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    // Of what the programs use, bpf_set_retval in connect hooks came last, with 5.18.
    finding("kernel", Need::Run, version >= (5, 18), release, "Linux ≥ 5.18 is needed")
}

fn cgroup2() -> Finding {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let mount = mounts.lines().find(|l| l.split(' ').nth(2) == Some("cgroup2"));
    let found = mount.and_then(|l| l.split(' ').nth(1)).unwrap_or("not mounted (the agent mounts it when it may)");
    finding("cgroup2", Need::Run, listed("cgroup2"), found.into(), "a kernel with CONFIG_CGROUPS and CONFIG_CGROUP_BPF")
}

fn bpffs() -> Finding {
    finding("bpffs", Need::Run, listed("bpf"), "kernel has it".into(), "a kernel with CONFIG_BPF_SYSCALL")
}

fn btf() -> Finding {
    let ok = Path::new("/sys/kernel/btf/vmlinux").exists();
    let found = if ok { "/sys/kernel/btf/vmlinux" } else { "none" };
    finding("BTF", Need::Run, ok, found.into(), "a kernel with CONFIG_DEBUG_INFO_BTF (sk_storage needs it)")
}

fn stable_rust() -> Finding {
    let found = version("cargo", &["--version"]);
    finding("cargo", Need::Run, found.is_some(), found.unwrap_or_default(), "install Rust (stable) with rustup")
}

fn nightly() -> Finding {
    let found = version("rustc", &["+nightly", "--version"]);
    let text = found.clone().unwrap_or_else(|| "no nightly toolchain".into());
    finding("nightly", Need::Ebpf, found.is_some(), text, "rustup toolchain install nightly --component rust-src")
}

/// Where `build-ebpf` finds the sources of `core`.
fn rust_src() -> Finding {
    let given = std::env::var_os("UNDERMESH_RUST_SRC").map(PathBuf::from);
    let sysroot = version("rustc", &["+nightly", "--print", "sysroot"]);
    let component = sysroot.map(|sysroot| Path::new(&sysroot).join("lib/rustlib/src/rust/library"));
    let debian = Some(PathBuf::from("/usr/src/rustc/library"));
    let found = [given, component, debian].into_iter().flatten().find(|path| path.exists());
    let text = found.as_ref().map_or_else(|| "no sources of core".into(), |path| path.display().to_string());
    finding("rust-src", Need::Ebpf, found.is_some(), text, "rustup component add rust-src --toolchain nightly")
}

fn program(tool: &Tool) -> Finding {
    let ok = tool.works();
    let found = tool.path().map_or_else(|| "missing".to_owned(), |path| path.display().to_string());
    let fix = format!("cargo xtask peers, or install {}", tool.wanted());
    Finding { what: tool.name, need: Need::Test, ok, found, fix: (!ok).then_some(fix) }
}

fn finding(what: &'static str, need: Need, ok: bool, found: String, fix: &'static str) -> Finding {
    Finding { what, need, ok, found, fix: (!ok).then(|| fix.to_owned()) }
}

fn listed(filesystem: &str) -> bool {
    let all = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    all.lines().any(|line| line.split_whitespace().last() == Some(filesystem))
}

fn version(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).output().ok().filter(|o| o.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned())
}
