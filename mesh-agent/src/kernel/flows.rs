//! What an accepted connection was meant for.
//!
//! Place in the path: `listen` asks after each accept. sockops entered the flow when the app's handshake ended, before
//! the agent could accept, so the answer is there without waiting. One system call, no lock.

use super::KernelError;
use super::keeper::NetnsCookie;
use super::maps::{self, Table};
use crate::addr::{ClientAddr, OrigDst};
use mesh_common::Addr;
use mesh_common::maps::{Flow, FlowKey, ORIG_SK_MSG};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

/// Handle on `FLOWS`; cheap to clone, usable from every worker.
#[derive(Clone, Debug)]
pub struct FlowTable(Arc<Table<FlowKey, Flow>>);

/// What the kernel knows about a captured connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FlowInfo {
    pub orig: OrigDst,
    /// The flow may be redirected past TCP/IP by sk_msg.
    pub sk_msg: bool,
    /// Bytes that it took past TCP/IP so far, both ways.
    pub redirected_bytes: u64,
    /// CLOCK_MONOTONIC of the handshake's end.
    pub opened_ns: u64,
}

impl FlowTable {
    pub(super) fn open(pin_dir: &Path) -> Result<Self, KernelError> {
        Ok(Self(Arc::new(maps::hash(pin_dir, "FLOWS")?)))
    }

    /// The flow of an accepted connection: the pod's network namespace, the peer's address, and the address of the
    /// listener that accepted it (`local_addr()`). `None`: not captured by us (somebody dialled the listener).
    pub fn lookup(&self, netns: NetnsCookie, client: ClientAddr, listener: SocketAddr) -> Option<FlowInfo> {
        let key = FlowKey { netns: netns.0, local: Addr::from(client.addr()), remote: Addr::from(listener) };
        let flow = self.0.get(&key, 0).ok()?;
        Some(FlowInfo {
            orig: OrigDst::new(flow.orig.dst.into()),
            sk_msg: flow.orig.flags & ORIG_SK_MSG != 0,
            redirected_bytes: flow.redirected_bytes,
            opened_ns: flow.opened_ns,
        })
    }
}
