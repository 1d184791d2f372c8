//! What the container runtime starts: parameters from the environment, configuration from standard input, result or
//! error on standard output (CNI specification 1.1, section 2).

use std::io::{self, Read as _, Write as _};
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut config = Vec::new();
    // Standard input that breaks off is malformed configuration.
    let _ = io::stdin().read_to_end(&mut config);
    let (said, code) = match mesh_cni::run(|name| std::env::var(name).ok(), &config) {
        Ok(said) => (said, ExitCode::SUCCESS),
        Err(error) => (error.to_json(), ExitCode::FAILURE),
    };
    // Nobody is left to tell where the runtime has gone.
    let _ = io::stdout().write_all(said.as_bytes());
    code
}
