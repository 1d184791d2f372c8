//! `mesh-agent version`: this program's, and the running agent's if there is one.

use super::client::Client;
use super::output::{self, Format};
use crate::admin::view::Status;
use anyhow::Result;
use serde::Serialize;

#[derive(Serialize)]
struct Version {
    client: &'static str,
    /// `None` when no agent answers; that is no error here.
    agent: Option<String>,
}

pub(super) fn run(client: &Client, format: Format) -> Result<()> {
    let agent = client.read::<Status>("/status").ok().map(|status| status.version);
    let version = Version { client: env!("CARGO_PKG_VERSION"), agent };
    output::print(format, &version, |_| {
        let agent = version.agent.as_deref().unwrap_or("not running");
        format!("mesh-agent {}\nrunning agent: {agent}\n", version.client)
    })
}
