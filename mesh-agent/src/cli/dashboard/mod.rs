//! `mesh-agent dashboard`: a page about one or several agents, for a browser on this machine.
//!
//! Place: a process of its own, run by whoever may read the agents' sockets; the agents know nothing of it. Invariants:
//! it listens on loopback only; nothing is answered without the secret it printed; what it forwards is a fixed list of
//! questions, none of which changes anything; the page's files are in this binary and load nothing from elsewhere.

mod assets;
mod browser;
mod forward;
mod guard;
mod server;

use super::client::{Agent, Client, ClientError};
use super::output::{self, Format, Paint, Style};
use crate::admin::view::Status;
use anyhow::{Context, Result};
use clap::Args;
use guard::Guard;
use serde::Serialize;
use server::Console;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use tokio::net::TcpListener;

#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct DashboardArgs {
    /// Port on 127.0.0.1; 0: any free one
    #[arg(long, default_value_t = 0)]
    pub port: u16,
    /// Print the address, do not open a browser
    #[arg(long)]
    pub no_open: bool,
}

const AFTER_HELP: &str = "\
Examples:
  mesh-agent dashboard                                          this node's agent
  mesh-agent dashboard --run-dir /run/node-a --run-dir /run/node-b    one page about two agents
  mesh-agent dashboard --cluster                                one page about the agents of all nodes of a cluster
  mesh-agent dashboard --no-open --port 15080                   on a server; then from your desk:
      ssh -L 15080:127.0.0.1:15080 SERVER                       and open the address that was printed

The address holds a secret: whoever has it may read what the agents know (nothing can be changed).";

/// What a script needs (`-o json`).
#[derive(Debug, Serialize)]
struct Opened {
    url: String,
    agents: Vec<String>,
}

/// Serves until it is ended by a signal.
///
/// # Errors
/// No agent answers, or the port is taken.
pub(super) fn run(agents: Vec<Agent>, format: Format, args: &DashboardArgs) -> Result<()> {
    let missing = unreachable(&agents)?;
    // Pods are asked on the runtime that found them.
    let runtime = match agents.first() {
        Some(Agent::Pod(_, runtime)) => Arc::clone(runtime),
        _ => Arc::new(tokio::runtime::Builder::new_current_thread().enable_all().build()?),
    };
    runtime.block_on(async {
        let wanted = SocketAddr::from((Ipv4Addr::LOCALHOST, args.port));
        let listener = TcpListener::bind(wanted).await.with_context(|| {
            format!("cannot listen on {wanted}\n  --port takes another one; without it a free one is chosen")
        })?;
        let address = listener.local_addr()?;
        let guard = Guard::new(address.port()).context("no randomness to make a secret of")?;
        let opened = Opened { url: guard.url(address), agents: agents.iter().map(ToString::to_string).collect() };
        output::print(format, &opened, |paint| draw(&opened, &missing, address.port(), paint))?;
        if !args.no_open && browser::may_open() {
            browser::open(&guard.url_once(address));
        }
        server::serve(listener, Arc::new(Console::new(guard, agents))).await;
        Ok(())
    })
}

/// The agents that do not answer now, with why; an error where none does.
fn unreachable(agents: &[Agent]) -> Result<Vec<String>, ClientError> {
    let mut missing = Vec::new();
    for agent in agents {
        match Client::new(agent.clone()).read::<Status>("/status") {
            Ok(_) => {}
            Err(error) if missing.len() + 1 == agents.len() => return Err(error),
            Err(error) => missing.push(error.to_string()),
        }
    }
    Ok(missing)
}

fn draw(opened: &Opened, missing: &[String], port: u16, paint: Paint) -> String {
    let mut out = String::new();
    // Writing to a String does not fail.
    let _ = writeln!(out, "{}  {}", paint.text("console", Style::Bold), opened.url);
    let _ = writeln!(out, "         of {}; Ctrl-C ends it", opened.agents.join(", "));
    if !browser::may_open() {
        let _ = writeln!(out, "         from your desk: ssh -L {port}:127.0.0.1:{port} THIS-MACHINE");
    }
    for error in missing {
        let _ = writeln!(out, "{}", paint.text(error, Style::Warn));
    }
    out
}

#[cfg(test)]
mod tests;
