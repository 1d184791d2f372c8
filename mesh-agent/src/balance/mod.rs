//! Choice of an endpoint.
//!
//! Place in the path: after the destination is known, before `connect`. `Picker` is the immutable view of one port's
//! endpoints; `EndpointState` is what the agent learnt about an endpoint at run time, shared by all workers and kept
//! over snapshot swaps by `Registry`. Invariant: the choice is a pure function of (endpoints, states, cursor, now,
//! rng), takes no lock and only ever returns a member of the set that is not excluded.

mod picker;
mod policy;
mod registry;
mod state;

pub use picker::{Chosen, Picker};
pub use policy::{Policy, default_policy};
pub use registry::{EndpointRow, Registry};
pub use state::{ActiveRequest, EndpointState};
