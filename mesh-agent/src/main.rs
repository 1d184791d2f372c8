//! `mesh-agent`: the command line is in `mesh_agent::cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    mesh_agent::cli::main()
}
