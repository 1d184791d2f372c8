//! tonic's client and server of `undermesh.interop.v1`, with the flags and output of the other languages' apps
//! (`mesh-test/interop/README.md`).

mod client;
mod server;

use anyhow::Result;
use std::net::SocketAddr;

// Generated code follows its generator's style.
#[allow(
    unused_qualifications,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    clippy::str_to_string,
    clippy::implicit_clone
)]
pub(crate) mod pb {
    tonic::include_proto!("undermesh.interop.v1");
}

const LANGUAGE: &str = "rust";
/// Both sides accept messages up to this.
const LARGEST: usize = 80 << 20;
const ECHO: &str = "x-interop-echo";
const ECHO_BIN: &str = "x-interop-echo-bin";

#[derive(clap::Parser)]
#[command(name = "mesh-interop", about = "tonic's side of the interop tests")]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Run every case and print the summary; fails if one is not ok
    Client {
        #[arg(long, default_value = "127.0.0.1:50051")]
        target: String,
        #[arg(long, default_value_t = 100)]
        count: usize,
        #[arg(long, default_value_t = 1 << 20)]
        large: usize,
    },
    /// Serve until SIGTERM
    Server {
        #[arg(long, default_value_t = 50051)]
        port: u16,
        #[arg(long, default_value = LANGUAGE)]
        name: String,
        #[arg(long, default_value = "0.0.0.0")]
        bind: std::net::IpAddr,
    },
}

/// Runs one command; `false`: a case was not ok.
pub fn run(cli: Cli) -> Result<bool> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match cli.command {
        Command::Client { target, count, large } => runtime.block_on(client::call(&target, count, large)),
        Command::Server { port, name, bind } => {
            runtime.block_on(server::serve(SocketAddr::new(bind, port), name)).map(|()| true)
        }
    }
}
