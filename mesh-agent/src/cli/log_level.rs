//! `mesh-agent log-level [FILTER]`.

use super::client::Client;
use super::output::{self, Format};
use crate::admin::view::LogLevel;
use anyhow::Result;
use clap::Args;

#[derive(Debug, Args)]
pub struct LogLevelArgs {
    /// LEVEL or MODULE=LEVEL, separated by commas, e.g. `info,mesh_agent::connect=debug`; shows the present one if left out
    pub filter: Option<String>,
}

pub(super) fn run(client: &Client, format: Format, args: &LogLevelArgs) -> Result<()> {
    let now: LogLevel = match &args.filter {
        Some(filter) => client.write("/log-level", filter)?,
        None => client.read("/log-level")?,
    };
    output::print(format, &now, |_| format!("{}\n", now.filter))
}
