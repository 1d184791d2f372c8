//! Records of the event ring: opens, closes and denials, written only while the agent asks for them.

use crate::addr::Addr;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum EventKind {
    Opened = 0,
    Closed = 1,
    Refused = 2,
}

impl EventKind {
    pub const fn from_index(index: u32) -> Option<Self> {
        match index {
            0 => Some(Self::Opened),
            1 => Some(Self::Closed),
            2 => Some(Self::Refused),
            _ => None,
        }
    }
}

/// One record of `EVENTS`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Event {
    pub at_ns: u64,
    pub netns: u64,
    /// [`EventKind`]
    pub kind: u32,
    /// Index of a [`crate::Reason`].
    pub reason: u32,
    pub workload: u32,
    pub service: u32,
    /// Unset (zero) for refusals.
    pub local: Addr,
    pub remote: Addr,
    /// What the app asked for.
    pub orig: Addr,
    pub srtt_us: u32,
    /// Segments sent again.
    pub retransmits: u32,
    pub pad: u32,
    pub bytes_sent: u64,
    pub bytes_received: u64,
}

const _: () = assert!(size_of::<Event>() == 16 + 16 + 60 + 12 + 16);
