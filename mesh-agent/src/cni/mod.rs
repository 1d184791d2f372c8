//! The agent's half of the CNI plugin (`mesh-cni`): puts the plugin on the node and into the network's chain, and hears
//! of new pods before they start.
//!
//! Place: beside the kernel half, on the control thread. Invariants: the chain is changed in one step and only by our own
//! entry; whoever rewrites the file finds our entry in it again a second later; an uninstall takes it out first and the
//! program after it, so that no runtime is ever told to start what is not there.

mod chain;
mod socket;

pub use chain::{Chain, ChainError};
pub use socket::{Request, bind, serve};

use chain::Place;
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

/// How soon another's rewrite of the configuration is noticed.
const LOOK: Duration = Duration::from_secs(1);

/// Longest wait of a pod that starts for this agent.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// The agent answers before the plugin's patience ends: what it says is better than nothing.
pub const ANSWER: Duration = Duration::from_secs(4);

/// The file in whose chain the plugin is, or why it is in none.
pub type Standing = Result<PathBuf, String>;

/// Keeps the plugin in the chain until it is aborted, and says how that goes. Call it on the runtime that shall look.
pub fn keep(chain: Chain) -> (JoinHandle<()>, watch::Receiver<Standing>) {
    let (say, standing) = watch::channel(Err("not looked yet".into()));
    let task = tokio::spawn(async move {
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut known = None;
        loop {
            look.tick().await;
            match chain.ensure(&mut known) {
                Ok(Place { file, is_new }) => {
                    if is_new {
                        tracing::info!(file = %file.display(), "the CNI plugin is in the chain: pods start when they are in the mesh");
                    }
                    let _ = say.send_replace(Ok(file));
                }
                Err(error) => {
                    let why = error.to_string();
                    if say.borrow().as_ref().err() != Some(&why) {
                        tracing::warn!(error = why, "pods start without waiting for the mesh");
                    }
                    let _ = say.send_replace(Err(why));
                }
            }
        }
    });
    (task, standing)
}
