//! `mesh-bench costs`: what it costs to know who pays for a poll (`mesh_agent::costs`), beside the poll itself.

use anyhow::{Result, ensure};
use mesh_agent::costs::{self, Accounts};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, LocalOptions};

/// As many as a busy worker has.
const TASKS: u64 = 50;
const POLLS: u64 = 20_000;
const ROUNDS: usize = 15;
/// A call takes some 5 polls and 13 µs: 26 ns a poll would be 1 % of it.
const BAR_NS: f64 = 26.0;

/// Interleaved rounds; the median of each kind.
pub(super) fn run() -> Result<()> {
    let (mut plain, mut paid) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        plain.push(polls(|_, task| drop(tokio::task::spawn_local(task)))?);
        paid.push(polls(|accounts, task| costs::spawn_for(accounts.of(None), task))?);
    }
    let (plain, paid) = (median(plain), median(paid));
    let mut text = String::from("| task | ns/poll |\n|---|---|\n");
    // Writing to a String cannot fail.
    let _ = write!(text, "| plain | {plain:.1} |\n| paid for | {paid:.1} |\n| difference | {:.1} |", paid - plain);
    super::announce(&text)?;
    ensure!(
        paid - plain <= BAR_NS,
        "to know who pays costs {:.1} ns a poll, at most {BAR_NS} are allowed",
        paid - plain
    );
    Ok(())
}

type Task = std::pin::Pin<Box<dyn Future<Output = ()>>>;

/// Nanoseconds of one poll of a task that does nothing else than to ask for the next.
fn polls(spawn: impl Fn(&Accounts, Task)) -> Result<f64> {
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    runtime.block_on(async {
        let accounts = Accounts::new(Arc::default());
        // How many polls of the second before decides how many are measured.
        for second in 0..2 {
            let begun = Instant::now();
            let (done, mut all) = tokio::sync::mpsc::channel::<()>(1);
            for _ in 0..TASKS {
                let done = done.clone();
                spawn(
                    &accounts,
                    Box::pin(async move {
                        for _ in 0..POLLS {
                            tokio::task::yield_now().await;
                        }
                        drop(done);
                    }),
                );
            }
            drop(done);
            let _ = all.recv().await;
            accounts.settle();
            if second == 1 {
                return Ok(nanos(begun.elapsed()));
            }
        }
        Ok(0.0)
    })
}

fn nanos(time: Duration) -> f64 {
    time.as_nanos() as f64 / (TASKS * POLLS) as f64
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or_default()
}
