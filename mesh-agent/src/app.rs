//! The composition root: the only place that constructs every part and knows all of them.
//!
//! ```text
//! files, API server ─► Source ─► Compiler ─► snapshot ─► workers (one thread per core)
//!                                       └► Kernel ─► pods' connections ─► listeners opened by Keeper ─► workers
//! ```
//! It runs on the control thread: a current-thread runtime that owns the configuration, the kernel half and the admin
//! socket. Nothing here is on a request's path.

mod control;
mod gates;
mod graph;
mod joins;
pub mod logging;
mod metrics;
mod options;
mod parts;
mod pods;
mod report;
mod selftest;
mod signals;
mod source;
mod stop;
mod tap;
mod tcp;
mod traffic;
mod views;

pub(crate) use views::diagnostics as diagnostic_rows;

pub use options::{
    Capacities, CniOptions, ConfigFrom, Explicit, FailurePolicy, KernelOptions, LogFormat, Options, SkMsg, Stop,
};

use anyhow::{Context, Result};
use control::Control;
use logging::LogControl;
use signals::Signals;

/// Backlog of each listener in a pod: the connections that may wait while a worker is busy.
const BACKLOG: i32 = 1024;

/// Runs the agent until it is told to stop and has drained.
///
/// # Errors
/// When a part cannot be started; the text says which, why, and what to do.
pub fn run(options: Options, log: LogControl) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("control runtime")?;
    runtime.block_on(async {
        // First of all: a signal during the start must not kill what has been half made.
        let mut signals = Signals::listen().context("signal handlers")?;
        let mut control = Control::start(options, log).await?;
        control.serve(&mut signals).await?;
        Box::pin(control.stop(&mut signals)).await
    })
}
