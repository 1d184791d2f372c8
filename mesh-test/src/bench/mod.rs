//! Benchmarks: load generator, backend, floor proxy, peers, and the rounds that compare them (`cargo xtask bench`).

mod backend;
mod balance;
mod cells;
pub mod connect_hook;
mod costs;
mod engine;
mod floor;
mod load;
mod log;
mod node;
mod pick;
mod process;
mod proxies;
mod report;
mod rounds;
mod route;
mod snapshot;
mod tcp;
mod undermesh;
mod wire;

use anyhow::Result;
use std::io::Write;

#[derive(clap::Parser)]
#[command(name = "mesh-bench", about = "Benchmarks of Undermesh against its peers", max_term_width = 110)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Every cell against every proxy, in interleaved rounds
    Run(rounds::Args),
    /// The endpoint behind every proxy
    Backend(backend::Args),
    /// The plainest hyper proxy
    Floor(floor::Args),
    /// gRPC load: closed loop or fixed rate
    Load(load::Args),
    /// Opaque TCP load
    Tcp(tcp::Args),
    /// Which balancing policy serves uneven endpoints best (a simulation)
    Balance,
    /// What a route decision costs with 10 to 10,000 services
    Route,
    /// What the choice of an endpoint costs, by policy and number of endpoints
    Pick,
    /// What a request's line in the access log costs
    Log,
    /// What it costs to know which pod pays for a task's poll
    Costs,
    /// What a configuration of 10 to 10,000 services weighs, and what one change of it costs
    Snapshot(snapshot::Args),
    /// What the connect hook costs with 10, 1,000 and 10,000 services (as root)
    ConnectHook,
    /// Become a program that is pinned to cores and dies with its parent
    Pin(process::PinArgs),
}

/// Runs one subcommand of `mesh-bench`.
pub fn run(cli: &Cli) -> Result<()> {
    match &cli.command {
        Command::Run(args) => rounds::run(args),
        Command::Backend(args) => backend::run(args),
        Command::Floor(args) => floor::run(args),
        Command::Load(args) => load::run(args),
        Command::Tcp(args) => tcp::run(args),
        Command::Balance => balance::run(),
        Command::Log => log::run(),
        Command::Costs => costs::run(),
        Command::Route => route::run(),
        Command::Pick => pick::run(),
        Command::Snapshot(args) => snapshot::run(args),
        Command::ConnectHook => announce(&connect_hook::table(&connect_hook::run()?)),
        Command::Pin(args) => process::pin(args),
    }
}

/// One line to standard output, flushed: whoever started this process waits for it.
fn announce(line: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()?;
    Ok(())
}
