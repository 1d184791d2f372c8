//! `cargo xtask scenario`: what people do with a mesh in their first week, checked step by step by `mesh-lab`.

use crate::run::become_lab;
use anyhow::Result;
use std::ffi::OsString;

#[derive(clap::Args)]
// Everything is mesh-lab's: one place knows the scenarios and the flags.
#[command(disable_help_flag = true)]
pub(crate) struct Args {
    /// `mesh-lab scenario`'s: A|B|C|D|E|F5|all or a step (B3), --once, --keep, -o text|json
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    flags: Vec<OsString>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    become_lab("scenario", &args.flags)
}
