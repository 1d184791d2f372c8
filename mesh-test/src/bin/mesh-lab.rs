//! `mesh-lab`: brings a node of pods up and tells the main job's story; also the lab's own helpers.

use anyhow::Result;
use clap::{Parser, Subcommand};
use mesh_test::lab::cleanup;
use mesh_test::lab::enter::{EnterArgs, enter};
use mesh_test::run::{RunArgs, run};
use mesh_test::scenario::{self, ScenarioArgs};
use std::io::Write;
use std::process::ExitCode;

#[derive(Parser)]
#[command(version, about = "Nodes and pods as network namespaces on one machine", max_term_width = 110)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Bring up nodes, pods and the mesh, and show what it does
    Run(RunArgs),
    /// Pass scenarios: YAML as people have it, load, what was expected and what came
    Scenario(ScenarioArgs),
    /// Remove what labs left whose process is gone
    Clean,
    /// Become a process inside a pod (used by the lab)
    #[command(hide = true)]
    Enter(EnterArgs),
    /// Clean up when standard input ends (used by the lab)
    #[command(hide = true)]
    Janitor {
        #[arg(long)]
        id: String,
    },
}

fn main() -> ExitCode {
    let done = match Args::parse().command {
        Command::Run(args) => run(&args),
        Command::Scenario(args) => scenario::run(&args),
        Command::Clean => clean(),
        Command::Enter(args) => enter(&args),
        Command::Janitor { id } => cleanup::janitor(&id),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing is left to tell anyone if standard error is gone.
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn clean() -> Result<()> {
    for id in cleanup::remove_leftovers()? {
        let _ = writeln!(std::io::stdout(), "removed what lab {id} left");
    }
    Ok(())
}
