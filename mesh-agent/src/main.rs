//! `mesh-agent`: the command line is in `mesh_agent::cli`.

use std::process::ExitCode;

/// A request makes and frees some dozens of small objects on one thread: with glibc's allocator a call costs a tenth more
/// (`mesh-test/benches/results.md`).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    mesh_agent::cli::main()
}
