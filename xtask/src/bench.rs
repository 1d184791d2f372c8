//! `cargo xtask bench`: Undermesh beside its peers on the same work, in interleaved rounds.

use crate::sh;
use anyhow::{Context, Result, bail};
use std::ffi::OsString;
use std::process::Command;

#[derive(clap::Args)]
// Everything else is mesh-bench's: one place knows the flags.
#[command(disable_help_flag = true)]
pub(crate) struct Args {
    /// Flags of `mesh-bench run`: --cell, --proxy, --workers, --rounds, --seconds, --rate, --smoke, -o table|json; or another subcommand
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    flags: Vec<OsString>,
}

/// Builds and runs; a first word without a dash names another of mesh-bench's subcommands (`balance`, `route`, `connect-hook`).
pub(crate) fn run(args: &Args) -> Result<()> {
    // A smoke run judges nothing by time; everything else measures what is released.
    let profile =
        if args.flags.iter().any(|flag| flag == "--smoke") { sh::Profile::Fast } else { sh::Profile::Release };
    sh::build_programs(profile)?;
    // Without sudo mesh-bench says which of its cells need root.
    let program = sh::programs(profile).join("mesh-bench");
    let mut bench = sh::as_root(&program).unwrap_or_else(|| Command::new(&program));
    let named = args.flags.first().is_some_and(|word| !word.to_string_lossy().starts_with('-'));
    if !named {
        bench.arg("run");
    }
    let status = bench.args(&args.flags).current_dir(sh::root()).status().context("cannot start mesh-bench")?;
    if !status.success() {
        bail!("mesh-bench ended with {status}");
    }
    Ok(())
}
