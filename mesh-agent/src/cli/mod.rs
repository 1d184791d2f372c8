//! `mesh-agent`'s command line: one file per subcommand.
//!
//! `run` is the agent; the others ask a running one over its socket and print. Exit codes are part of the interface:
//! 0 done, 1 failed, 2 wrong usage, 3 no agent to ask.

mod admin_pipe;
mod agents;
mod analyze;
mod certificates;
mod client;
mod cluster;
mod connections;
mod crowd;
mod dashboard;
mod diagnostics;
mod endpoints;
mod explain;
mod graph;
mod install;
mod kernel;
mod log_level;
mod output;
mod routes;
mod run;
mod services;
mod status;
mod table;
mod tap;
mod top;
mod version;
mod workloads;

pub use client::ClientError;
pub use output::Format;
pub use run::RunArgs;

use crate::admin::SOCKET_NAME;
use agents::{Agents, Remote};
use anyhow::{Context, Result};
use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand};
use client::{Agent, Client};
use crowd::Crowd;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Undermesh's node agent: balances each request of this node's pods, without sidecars.
#[derive(Debug, Parser)]
#[command(name = "mesh-agent", version, max_term_width = 110, after_help = AFTER_HELP)]
pub struct Cli {
    #[command(flatten)]
    pub place: Place,
    #[command(subcommand)]
    pub command: Command,
}

const AFTER_HELP: &str = "\
Examples:
  mesh-agent run --config ./mesh.d                    serve this node's pods from a folder of Kubernetes YAML
  mesh-agent run --config ./mesh.d --no-kernel \\
      --listen 127.0.0.1:8080=default/reviews:9080    no eBPF: balance what is sent to one address
  mesh-agent status                                   is the mesh in order, and if not, why
  mesh-agent endpoints default/reviews                who answers, how fast, how many requests are with them now
  mesh-agent explain --from deploy/web reviews:9080/  where does this request go, and why
  mesh-agent top routes                               rates, success, latencies, live
  mesh-agent tap --to reviews --code 5xx              requests as they pass
  mesh-agent dashboard                                the console: service graph, workloads, explain, in a browser
  mesh-agent status --cluster                         the agents of all nodes, from a laptop with a kubeconfig
  mesh-agent analyze ./mesh.d                         what is wrong with a folder of YAML, and what to do
  mesh-agent services -o json | jq '.[].name'         every answer as JSON or YAML
  mesh-agent log-level 'info,mesh_agent::connect=debug'

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 no agent to ask.";

/// Where the agent is, for those that ask it; where it shall be, for `run`.
#[derive(Debug, Args)]
pub struct Place {
    /// The agent's directory; its admin socket is `agent.sock` in there (`dashboard` takes several)
    #[arg(long, global = true, env = "UNDERMESH_RUN_DIR", value_name = "DIR", default_value = "/run/undermesh")]
    pub run_dir: Vec<PathBuf>,
    /// The admin socket, if it is elsewhere (not for `run`)
    #[arg(long, global = true, env = "UNDERMESH_SOCKET", value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// How to print the answer
    #[arg(short, long, global = true, value_enum, default_value_t)]
    pub output: Format,
    #[command(flatten)]
    pub remote: Remote,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the agent of this node until SIGTERM or SIGINT
    Run(Box<RunArgs>),
    /// Install the agent on every node of a Kubernetes cluster, and wait until all are ready
    Install(install::InstallArgs),
    /// Bring an installation to this version and these values; nodes follow one by one
    Upgrade(install::InstallArgs),
    /// Take the agents, their programs and everything that was installed away
    Uninstall(install::UninstallArgs),
    #[command(flatten)]
    Ask(Ask),
    /// Join standard input and output to the admin socket: how an agent is asked from afar
    #[command(hide = true)]
    AdminPipe,
}

/// Commands that ask a running agent, or all of a cluster.
#[derive(Debug, Subcommand)]
pub enum Ask {
    /// Is the mesh in order on this node, or (--cluster) on all nodes, and if not, why
    Status,
    /// Endpoints of all services, or of one: health, load, latency, failures
    Endpoints(endpoints::EndpointsArgs),
    /// Why a request goes where it goes, and what it would be answered
    Explain(Box<explain::ExplainArgs>),
    /// Services: addresses, ports, protocols, who balances them
    Services(routes::ServicesArgs),
    /// Rules that may take a workload's requests: host, port, match, destination, object
    Routes(routes::RoutesArgs),
    /// Certificates of gateways and DestinationRules: names, issuer, days left, and what is wrong with them
    Certificates(certificates::CertificatesArgs),
    /// Requests as they pass, live, by source, destination, path, method and code
    Tap(tap::TapArgs),
    /// Services, routes, workloads or pods by rate, success and latency, live
    Top(top::TopArgs),
    /// Who calls whom: requests, success, latency; -o dot for Graphviz
    Graph(graph::GraphArgs),
    /// Open connections from apps, the oldest first: who to where, protocol, age, requests, bytes
    Connections,
    /// Pods: in the mesh, served elsewhere, or outside and why
    Workloads,
    /// Open the console: live service graph, services, workloads, explain, nodes; in a browser on this machine
    Dashboard(dashboard::DashboardArgs),
    /// eBPF programs, maps (decoded) and counters; switch socket redirection
    Kernel(kernel::KernelArgs),
    /// What is wrong with the configuration: file, object, field, fix
    Diagnostics,
    /// Judge files before they are in force, or the running agent's configuration; the exit code says whether it is good
    Analyze(analyze::AnalyzeArgs),
    /// Show or change what the agent logs, while it runs
    LogLevel(log_level::LogLevelArgs),
    /// Print versions: of this program and of the running agent
    Version,
}

/// The whole program. Usage errors end it with code 2 (clap's own).
pub fn main() -> ExitCode {
    let Cli { place, command } = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return wrong_usage(&error),
    };
    if place.run_dir.len() > 1 && !matches!(command, Command::Ask(Ask::Dashboard(_))) {
        let text = "--run-dir names one agent here; `dashboard` takes several";
        return wrong_usage(&Cli::command().error(ErrorKind::ArgumentConflict, text));
    }
    if place.output == Format::Dot && !matches!(command, Command::Ask(Ask::Graph(_))) {
        let text = "only `graph` has -o dot";
        return wrong_usage(&Cli::command().error(ErrorKind::ArgumentConflict, text));
    }
    if let Some(text) = place.remote.misused(&command) {
        return wrong_usage(&Cli::command().error(ErrorKind::ArgumentConflict, text));
    }
    let explains = matches!(command, Command::Ask(Ask::Explain(_)));
    match dispatch(&place, command) {
        Ok(code) => code,
        Err(error) => {
            output::complain(&format!("error: {}", chain(&error)));
            let silent = |error| matches!(error, &ClientError::Unreachable { .. } | &ClientError::Silent { .. });
            let unreachable = error.downcast_ref().is_some_and(silent);
            ExitCode::from(if unreachable && !explains { 3 } else { 1 })
        }
    }
}

/// Code 2, as clap has it; 1 for `explain`, whose 2 says that the request is refused.
fn wrong_usage(error: &clap::Error) -> ExitCode {
    // Nobody is left to tell where even stderr is gone.
    let _ = error.print();
    let named = |word: &OsString| Cli::command().find_subcommand(word).is_some();
    let explains = std::env::args_os().skip(1).find(named).is_some_and(|word| word == "explain");
    match error.exit_code() {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::from(if explains { 1 } else { 2 }),
    }
}

fn dispatch(place: &Place, command: Command) -> Result<ExitCode> {
    let context = place.remote.context.as_deref();
    let done = match command {
        Command::Run(args) => run::run(place.run_dir(), *args),
        Command::Install(args) | Command::Upgrade(args) => install::install(&args, context),
        Command::Uninstall(args) => install::uninstall(&args, context),
        Command::AdminPipe => admin_pipe::run(&place.socket()),
        Command::Ask(command) => {
            return match place.remote.agents(place)? {
                Agents::Named(agents) => ask(agents, place.output, command),
                Agents::All(cluster) => cluster::ask(&cluster, place.output, command),
            };
        }
    };
    done.map(|()| ExitCode::SUCCESS)
}

/// Of one agent; of several that were named one by one only the dashboard asks more than the first.
fn ask(agents: Vec<Agent>, output: Format, command: Ask) -> Result<ExitCode> {
    let client = Client::new(agents.first().cloned().context("no agent is named")?);
    let done = match command {
        Ask::Analyze(args) => return analyze::run(&client, output, &args),
        Ask::Explain(args) => return explain::run(&client, output, *args),
        Ask::Dashboard(args) => dashboard::run(agents, output, &args),
        Ask::Status => status::run(&client, output),
        Ask::Endpoints(args) => endpoints::run(&client, output, &args),
        Ask::Services(args) => services::run(&client, output, &args),
        Ask::Routes(args) => routes::run(&client, output, &args),
        Ask::Certificates(args) => certificates::run(&client, output, &args),
        Ask::Tap(args) => tap::run(&[client], output, args),
        Ask::Top(args) => top::run(&Crowd::One(client), output, &args),
        Ask::Graph(args) => graph::run(&Crowd::One(client), output, &args),
        Ask::Connections => connections::run(&client, output),
        Ask::Workloads => workloads::run(&client, output),
        Ask::Kernel(args) => kernel::run(&client, output, &args),
        Ask::Diagnostics => diagnostics::run(&client, output),
        Ask::LogLevel(args) => log_level::run(&client, output, &args),
        Ask::Version => version::run(&client, output),
    };
    done.map(|()| ExitCode::SUCCESS)
}

/// The error and its causes, each text once: many errors name their cause themselves.
fn chain(error: &anyhow::Error) -> String {
    error.chain().fold(String::new(), |text, cause| match cause.to_string() {
        cause if text.is_empty() => cause,
        cause if text.contains(&cause) => text,
        cause => format!("{text}: {cause}"),
    })
}

impl Place {
    /// There is one: `main` refuses more, and there is a default.
    fn run_dir(&self) -> &Path {
        self.run_dir.first().map_or(Path::new(""), PathBuf::as_path)
    }

    fn socket(&self) -> PathBuf {
        self.socket.clone().unwrap_or_else(|| self.run_dir().join(SOCKET_NAME))
    }

    /// Of each agent that was named.
    fn sockets(&self) -> Vec<PathBuf> {
        match &self.socket {
            Some(socket) => vec![socket.clone()],
            None => self.run_dir.iter().map(|dir| dir.join(SOCKET_NAME)).collect(),
        }
    }
}

#[cfg(test)]
mod tests;
