//! The programs' own debug lines (aya-log), read only while somebody asked for them.
//!
//! Invariant: without [`super::Config::debug`] the programs test one flag and nothing is written or read.

use super::{Config, KernelError, load, sys};
use aya_log::EbpfLogger;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Forwards lines to `log` (and so to `tracing`) until dropped.
#[derive(Debug)]
pub(super) struct DebugLog {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

const PERIOD: Duration = Duration::from_millis(100);

impl DebugLog {
    pub(super) fn start(config: &Config) -> Result<Self, KernelError> {
        let why =
            |why: String| KernelError::Hook { hook: "connect4", why: format!("cannot read its debug lines: {why}") };
        let link = sys::object(&load::links(&config.pin_dir).join("connect4")).map_err(|e| why(e.to_string()))?;
        let info = sys::link_info(&link).map_err(|e| why(e.to_string()))?;
        // By program, because an adopted one was loaded by another process. The connect hooks share one ring.
        let mut logger = EbpfLogger::init_from_id(info.prog).map_err(|e| why(e.to_string()))?;
        let (stop, stopped) = channel::<()>();
        let thread = thread::Builder::new()
            .name("bpf-log".into())
            .spawn(move || {
                while stopped.recv_timeout(PERIOD) == Err(RecvTimeoutError::Timeout) {
                    logger.flush();
                }
            })
            .map_err(|source| KernelError::Thread { name: "bpf-log", source })?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for DebugLog {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
