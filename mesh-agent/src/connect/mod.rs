//! Connections to endpoints.
//!
//! Place in the path: after `balance`, before the wire protocols' client sides and `forward`. Pools belong to one
//! worker and are keyed by source pod × upstream (cluster and policy) × endpoint × protocol; `Limits` are of the node. Invariant: a socket is opened in the source pod's network
//! namespace, so that the endpoint sees the pod's address.

mod dial;
mod limits;
mod link;
mod pool;
mod proxy_protocol;
mod socket;
mod tls;
mod upstream;

pub use dial::{Carries, Dialer, OpenSocket};
pub use limits::Permit;
pub use link::{Link, Links, Seen};
pub use pool::{Http2Lease, Opaque, Pools, Way, Wire};
pub use proxy_protocol::Ends;
pub use socket::Stream;
pub use tls::Peer;
pub use upstream::{HedgePermit, Upstream, Upstreams};

pub(crate) use limits::Open;

use limits::Limits;
use socket::Socket;
