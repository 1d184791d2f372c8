//! `cargo xtask`: every developer and CI action as a typed subcommand, one file per task.

mod bench;
mod build_ebpf;
mod cluster;
mod doctor;
mod image;
mod peers;
mod run;
mod scenario;
mod sh;
mod test;
mod tidy;
mod tools;

use clap::{CommandFactory, Parser, Subcommand};
use std::process::ExitCode;

/// Undermesh's tasks.
///
/// `cargo xtask run` shows the product on this machine; `cargo xtask test` passes every test.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 110)]
struct Args {
    #[command(subcommand)]
    task: Option<Task>,
}

#[derive(Subcommand)]
enum Task {
    /// Show the product on this machine: pods, an agent per node, a story; flags are `mesh-lab run`'s
    Run(run::Args),
    /// Pass scenarios (A, B, C, D, E, F5, all): YAML as people have it, load, what was expected and what came
    Scenario(scenario::Args),
    /// Measure Undermesh beside its peers in interleaved rounds; flags are `mesh-bench run`'s
    Bench(bench::Args),
    /// Install what tests and benches need beyond Rust
    Peers(peers::Args),
    /// Say what this machine lacks, and the command that fixes it
    Doctor(doctor::Args),
    /// Pass every test: static checks, unit, scripted peers, attach, node, scenario, interop, smoke, cluster
    Test(test::Args),
    /// Rebuild the committed eBPF object from its source, or prove that it matches (`--check`)
    BuildEbpf(build_ebpf::Args),
    /// Make the agent's container image and the list of what is in it, without a Docker daemon
    Image(image::Args),
    /// Hold the fences: who may import what, where unsafe may stand, how long a file may be
    Tidy(tidy::Args),
}

fn main() -> ExitCode {
    let Some(task) = Args::parse().task else {
        // `cargo xtask` alone lists the tasks; it is a question, not a mistake.
        let help = Args::command().print_help();
        return if help.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    };
    let done = match task {
        Task::Run(args) => run::run(&args),
        Task::Scenario(args) => scenario::run(&args),
        Task::Bench(args) => bench::run(&args),
        Task::Peers(args) => peers::run(&args),
        Task::Doctor(args) => doctor::run(&args),
        Task::Test(args) => test::run(&args),
        Task::BuildEbpf(args) => build_ebpf::run(&args),
        Task::Image(args) => image::run(&args),
        Task::Tidy(args) => tidy::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            sh::error(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}
