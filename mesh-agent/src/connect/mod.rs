//! Connections to endpoints.
//!
//! Place in the path: after `balance`, before the wire protocols' client sides and `forward`. Pools belong to one
//! worker and are keyed by source pod × endpoint × protocol. Invariant: a socket is opened in the source pod's network
//! namespace, so that the endpoint sees the pod's address.

mod dial;
mod pool;

pub use dial::{Dialer, OpenSocket};
pub use pool::{Pools, Wire};
