//! Chooses one endpoint of a set for each request (HTTP) or connection (opaque).
//!
//! Place in the path: after `route`, before `connect`. Three layers, each usable alone:
//! - `choose`, `table`, `health`, `ewma`: pure arithmetic; `now` and randomness are arguments;
//! - `EndpointState` and `Registry`: what was learnt at run time, shared by all workers, keyed by endpoint identity, so
//!   that it survives a configuration swap;
//! - `Picker`: one worker's compiled view of one `EndpointSet`.
//!
//! Invariants: a chosen endpoint is always one of the set, never `NotReady`, and `Draining` only if nothing is `Ready`.
//! Passive knowledge (connect failures, previous attempts) orders the candidates, it never refuses a request. `pick`
//! takes no lock and allocates nothing.

mod choose;
mod ewma;
mod health;
mod picker;
mod registry;
mod state;
mod table;

pub use picker::{Picked, Picker};
pub use registry::Registry;
pub use state::{Active, EndpointState};

use crate::snapshot::LbPolicy;

/// What `LbPolicy::Default` means.
pub const DEFAULT: LbPolicy = LbPolicy::PeakEwma;

/// The policy in force: `Default` replaced by [`DEFAULT`].
pub fn resolve(policy: LbPolicy) -> LbPolicy {
    match policy {
        LbPolicy::Default => DEFAULT,
        LbPolicy::RoundRobin | LbPolicy::LeastRequest | LbPolicy::PeakEwma | LbPolicy::Random => policy,
    }
}
