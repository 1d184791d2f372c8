//! `mesh-bench`: see `mesh_test::bench`.

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    match mesh_test::bench::run(&mesh_test::bench::Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing_subscriber::fmt().with_writer(std::io::stderr).init();
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
