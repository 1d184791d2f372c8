//! `mesh-app`: the apps of the lab, one process each. See `mesh_test::apps`.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use mesh_test::apps::event::{Event, emit};
use mesh_test::apps::{api, call, demo, echo, faulty, fetch, load, pingpong};

/// Apps that run in the lab's pods. They write JSON lines to stdout and leave on SIGTERM.
#[derive(Debug, Parser)]
#[command(name = "mesh-app", version)]
struct Cli {
    #[command(subcommand)]
    app: App,
}

#[derive(Debug, Subcommand)]
enum App {
    /// ws002-pingpong: the gRPC server.
    Pingpong(pingpong::PingPongArgs),
    /// ws001-api: the HTTP server that calls ws002-pingpong over one connection.
    Api(api::ApiArgs),
    /// Stand-in for any image: HTTP, gRPC and TCP echo by port.
    Echo(echo::EchoArgs),
    /// A service of Bookinfo or Sock Shop.
    Demo(demo::DemoArgs),
    /// Load generator.
    Load(load::LoadArgs),
    /// One call; exit code 1 if it fails.
    Call(load::client::CallArgs),
    /// HTTP requests, every answer with its headers.
    Fetch(fetch::FetchArgs),
    /// An endpoint that misbehaves on purpose.
    Faulty(faulty::FaultyArgs),
}

// One thread: an app of the lab must not take the cores that it shares with the mesh.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let done = match Cli::parse().app {
        App::Pingpong(args) => pingpong::run(args).await.map(|()| true),
        App::Api(args) => api::run(args).await.map(|()| true),
        App::Echo(args) => echo::run(args).await.map(|()| true),
        App::Demo(args) => demo::run(args).await.map(|()| true),
        App::Load(args) => load::run(args).await.map(|()| true),
        App::Call(args) => call::run(args).await,
        App::Fetch(args) => fetch::run(args).await,
        App::Faulty(args) => faulty::run(args).await.map(|()| true),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            let (pod, what) = (String::new(), "mesh-app".to_owned());
            emit(&Event::Failed { pod, what, error: format!("{error:#}") });
            ExitCode::from(2)
        }
    }
}
