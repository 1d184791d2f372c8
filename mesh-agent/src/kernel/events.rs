//! Reader of the event ring: opens, closes and refusals.

use super::ids::name_of;
use super::{KernelError, maps};
use aya::maps::{MapData, RingBuf};
use mesh_common::Reason;
use mesh_common::event::EventKind;
use mesh_common::maps::Name;
use serde::Serialize;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;

/// The ring; readable (epoll) when there is something to [`Events::next`].
pub struct Events {
    ring: RingBuf<MapData>,
    names: maps::Table<u32, Name>,
}

/// One event, decoded.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Event {
    pub kind: &'static str,
    pub reason: &'static str,
    /// CLOCK_MONOTONIC
    pub at_ns: u64,
    /// `namespace/name` of the pod.
    pub workload: String,
    /// `namespace/name:port`
    pub service: String,
    pub orig: SocketAddr,
    /// Unspecified for refusals.
    pub local: SocketAddr,
    pub remote: SocketAddr,
    pub bytes_sent: u64,
    pub bytes_received: u64,
    pub srtt_us: u32,
    pub retransmits: u32,
}

impl Events {
    pub(super) fn open(pin_dir: &Path) -> Result<Self, KernelError> {
        Ok(Self { ring: maps::ring(pin_dir, "EVENTS")?, names: maps::hash(pin_dir, "NAMES")? })
    }

    /// The next event that is there; never waits. Records of another layout are skipped.
    #[allow(clippy::should_implement_trait)] // Not an iterator: `None` means "not now".
    pub fn next(&mut self) -> Option<Event> {
        loop {
            let item = self.ring.next()?;
            let raw = decode(&item);
            drop(item);
            if let Some(event) = raw.and_then(|raw| self.named(&raw)) {
                return Some(event);
            }
        }
    }

    fn named(&self, raw: &mesh_common::event::Event) -> Option<Event> {
        Some(Event {
            kind: match EventKind::from_index(raw.kind)? {
                EventKind::Opened => "opened",
                EventKind::Closed => "closed",
                EventKind::Refused => "refused",
            },
            reason: Reason::from_index(raw.reason)?.label(),
            at_ns: raw.at_ns,
            workload: name_of(&self.names, raw.workload),
            service: name_of(&self.names, raw.service),
            orig: raw.orig.into(),
            local: raw.local.into(),
            remote: raw.remote.into(),
            bytes_sent: raw.bytes_sent,
            bytes_received: raw.bytes_received,
            srtt_us: raw.srtt_us,
            retransmits: raw.retransmits,
        })
    }
}

impl AsRawFd for Events {
    fn as_raw_fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }
}

#[allow(unsafe_code)]
fn decode(bytes: &[u8]) -> Option<mesh_common::event::Event> {
    if bytes.len() != size_of::<mesh_common::event::Event>() {
        return None;
    }
    // SAFETY: the length is that of the type, which is repr(C) with integers only, so every bit pattern is a value;
    // the read needs no alignment.
    Some(unsafe { std::ptr::read_unaligned(bytes.as_ptr().cast()) })
}
