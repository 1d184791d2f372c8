//! Network namespaces and what is in them, by netlink: nothing here calls `ip`.
//!
//! Invariant: nothing is made in the host's own namespace; a veth pair is born inside a node's namespace.

mod link;
mod netns;
mod plan;

pub use link::{Bridge, Ports, configure_pod, join_pod, raise_loopback, set_up_fabric, set_up_node};
pub use netns::Netns;
pub(crate) use netns::{private_dir, unshare};
pub use plan::{AddressPlan, PodIps};
