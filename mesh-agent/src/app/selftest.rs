//! The sk_msg self-test beside serving: a restarted agent must not wait for it, and need not repeat it.
//!
//! A pass is kept in the run directory for as long as the same programs meet the same running kernel.

use crate::kernel::{Kernel, SelfTest};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};
use tokio::sync::mpsc;

pub(super) const FILE: &str = "self-test.json";

#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    subject: String,
    outcome: SelfTest,
}

/// Puts a kept outcome in force, or starts the test in a thread of its own; its outcome then arrives on the channel.
pub(super) fn start(kernel: &mut Kernel, run_dir: &Path) -> mpsc::Receiver<SelfTest> {
    let (done, outcome) = mpsc::channel(1);
    let file = run_dir.join(FILE);
    let subject = subject(kernel);
    if let Some(kept) = read(&file).filter(|kept| Some(&kept.subject) == subject.as_ref()) {
        apply(kernel, kept.outcome);
        return outcome;
    }
    let config = kernel.config().clone();
    let test = move || {
        let outcome = SelfTest::run(&config);
        // A failure may be the machine's mood (load, limits): it is tried again at the next start.
        if let Some(subject) = subject.filter(|_| outcome.passed) {
            keep(&file, &Kept { subject, outcome: outcome.clone() });
        }
        // Nobody listens when the agent has been stopped meanwhile.
        let _ = done.blocking_send(outcome);
    };
    if let Err(error) = std::thread::Builder::new().name("self-test-start".into()).spawn(test) {
        tracing::warn!(%error, "no thread for the sk_msg self-test: redirection stays off");
    }
    outcome
}

pub(super) fn apply(kernel: &mut Kernel, outcome: SelfTest) {
    tracing::info!(on = outcome.passed, "sk_msg: {}", outcome.detail);
    if let Err(error) = kernel.tested(outcome) {
        tracing::warn!(%error, "redirection cannot be switched");
    }
}

/// What the outcome holds for: the programs, and this boot of this kernel. `None` where the kernel does not tell.
fn subject(kernel: &Kernel) -> Option<String> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let release = rustix::system::uname().release().to_str().ok()?.to_owned();
    Some(format!("{} on {release}, boot {}", kernel.status().object, boot.trim()))
}

fn read(file: &PathBuf) -> Option<Kept> {
    serde_json::from_slice(&fs::read(file).ok()?).ok()
}

/// A lost or half-written file costs one more test.
fn keep(file: &PathBuf, kept: &Kept) {
    let written = serde_json::to_vec(kept).map_err(std::io::Error::other).and_then(|text| fs::write(file, text));
    if let Err(error) = written {
        tracing::debug!(%error, "the self-test's outcome is not kept");
    }
}
