//! What the kernel programs and the agent must agree on: map keys and values, limits, `Reason`, events, and the hooks'
//! decisions as pure functions.
//!
//! Place in the path: `mesh-ebpf → mesh-common ← mesh-agent`. Invariant: a change of any `repr(C)` type or of the
//! meaning of a field raises [`ABI_VERSION`]; nothing in here does IO, reads a clock or draws a random number.
#![no_std]

#[cfg(any(test, feature = "user"))]
extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod addr;
pub mod alias;
pub mod connect;
pub mod event;
pub mod limits;
pub mod maps;
#[cfg(feature = "user")]
mod pod;
pub mod reason;
pub mod sticky;

pub use addr::Addr;
pub use reason::Reason;

/// Layout and meaning of everything shared through maps. Kernel state of another version is replaced, not adopted.
pub const ABI_VERSION: u32 = 3;

/// Where an enrolled pod's agent listens, on `127.0.0.1` and `[::1]` inside the pod's network namespace.
pub const AGENT_PORT: u16 = 15001;
