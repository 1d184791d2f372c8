//! `cargo xtask run`: the main job. Builds what it needs, then lets `mesh-lab` tell the story as root.

use crate::sh;
use anyhow::{Context, Result};
use std::ffi::OsString;
use std::os::unix::process::CommandExt;

#[derive(clap::Args)]
// Everything else is mesh-lab's: one place knows the flags.
#[command(disable_help_flag = true)]
pub(crate) struct Args {
    /// Flags of `mesh-lab run`: --app FILE|DIR, --nodes N, --replicas N, --once, --keep, --no-mesh, -o text|json
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    flags: Vec<OsString>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    become_lab("run", &args.flags)
}

/// Builds and hands over: on success this process *is* mesh-lab, so signals and the terminal are its own.
pub(crate) fn become_lab(subcommand: &str, flags: &[OsString]) -> Result<()> {
    sh::build_programs(sh::Profile::Fast)?;
    let lab = sh::programs(sh::Profile::Fast).join("mesh-lab");
    let mut command = sh::as_root(&lab)
        .context("network namespaces, cgroups and eBPF need root, and there is no sudo: run this as root")?;
    let error = command.arg(subcommand).args(flags).exec();
    Err(error).with_context(|| format!("cannot start {}", lab.display()))
}
