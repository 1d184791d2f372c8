//! Stopping: pods out of the mesh, clients told to go away, open requests finished, the kernel left as asked.

use super::Stop;
use super::control::Control;
use super::pods::LINGER;
use super::selftest;
use super::signals::Signals;
use super::source::JOURNAL;
use crate::admin::SOCKET_NAME;
use crate::kernel;
use anyhow::{Context, Result};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::{sleep, timeout};

/// How long a stopping agent waits for the access log's writer.
const LAST_LINES: Duration = Duration::from_secs(1);

/// How long a self-test under way may take to end where nothing may be left; usually it takes 0.2 s.
const SELF_TEST: Duration = Duration::from_secs(15);

impl Control {
    /// Ends the agent: bounded by `--drain-timeout`, at once on a second signal.
    ///
    /// # Errors
    /// When the kernel state cannot be removed as `--remove-on-exit` asked.
    pub(super) async fn stop(mut self, signals: &mut Signals) -> Result<()> {
        self.draining = true;
        let owner = self.owner.take();
        if let Some(owner) = &owner
            && self.answer_until(owner.is_gone()).await
        {
            self.options.stop = Stop::Remove;
        }
        self.joins.close();
        if self.options.stop == Stop::Remove {
            // First of all: a pod that starts from now on would wait for nobody.
            self.joins.remove();
        }
        let socket = self.options.run_dir.join(SOCKET_NAME);
        if self.options.stop == Stop::Handover {
            // The successor needs the socket and the ports now, not when the last stream has ended.
            self.servers.drain(..).for_each(|server| server.abort());
            let _ = std::fs::remove_file(&socket);
        }
        if let Some(captured) = &mut self.captured
            && self.options.stop != Stop::Handover
        {
            self.pods.release_all(captured, Instant::now());
            // Connections that were on their way get in before the listeners close.
            self.answer_until(sleep(LINGER)).await;
        }
        self.pods.close();
        self.gates.close();
        self.listening.clear();
        let (workers, limit) = (Arc::clone(&self.workers), self.options.drain_timeout);
        let drained = async {
            tokio::select! {
                drained = workers.drain(limit) => if drained { "all connections are done" } else { "--drain-timeout is over" },
                signal = signals.next() => signal,
            }
        };
        let why = self.answer_until(drained).await;
        let left: usize = self.workers.connections().iter().sum();
        tracing::info!(left, "stopped: {why}");
        if self.options.stop != Stop::Handover {
            // Before the kernel state: whoever waits for the socket to vanish finds the rest done soon.
            let _ = std::fs::remove_file(&socket);
        }
        // A namespace that is deleted takes its pods and its DaemonSet in any order.
        if owner.is_some_and(|owner| owner.has_seen_it_go()) {
            self.options.stop = Stop::Remove;
            self.joins.remove();
        }
        if let (Stop::Remove, Some(mut test)) = (self.options.stop, self.self_test.take()) {
            // It has programs of its own, and takes them along.
            let _ = self.answer_until(timeout(SELF_TEST, test.recv())).await;
        }
        let log = Arc::clone(&self.access_log);
        let left = self.leave_kernel();
        // The last holder: the threads end, and hand over their last lines.
        drop(workers);
        if !log.flushed(LAST_LINES) {
            tracing::warn!("the access log's file is too slow: its last lines are lost");
        }
        left
    }

    fn leave_kernel(self) -> Result<()> {
        let Some(captured) = self.captured else { return Ok(()) };
        let pin_dir = captured.kernel.config().pin_dir.clone();
        let run_dir = self.options.run_dir.clone();
        // The heart stops before the programs go.
        drop(captured);
        match self.options.stop {
            Stop::Release | Stop::Handover => Ok(()),
            Stop::Remove => {
                tracing::info!("leaving nothing behind");
                kernel::uninstall(&pin_dir)
                    .with_context(|| format!("removing the kernel state in {}", pin_dir.display()))?;
                // Other nodes' agents on this machine may have theirs beside it.
                let _ = pin_dir.parent().map(std::fs::remove_dir);
                for kept in [JOURNAL, selftest::FILE] {
                    match std::fs::remove_file(run_dir.join(kept)) {
                        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                            tracing::warn!(%error, kept, "a file of the agent's cannot be removed");
                        }
                        _ => {}
                    }
                }
                Ok(())
            }
        }
    }
}
