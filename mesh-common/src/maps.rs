//! Keys and values of the shared maps. Every type is `repr(C)` without implicit padding (asserted below).

use crate::addr::Addr;
use crate::sticky::Direction;

/// `PODS` key that stands for every network namespace; used by instances that serve a whole node.
pub const ANY_NETNS: u64 = 0;

/// `PODS` value.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Pod {
    /// Id of the workload, see `NAMES`.
    pub workload: u32,
    /// [`POD_SK_MSG`], [`POD_UNDECLARED`], [`POD_CLOSED`]
    pub flags: u32,
}

/// The workload opted in to redirection on every captured port.
pub const POD_SK_MSG: u32 = 1;
/// Its connections to addresses that nobody declared go to the agent, whatever the port.
pub const POD_UNDECLARED: u32 = 2;
/// With [`POD_UNDECLARED`]: those are refused where the agent cannot take them.
pub const POD_CLOSED: u32 = 4;

/// What the connect hook does with a destination.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Verdict {
    Pass = 0,
    /// To the in-pod listener.
    Agent = 1,
    /// To an endpoint chosen in the kernel.
    Endpoint = 2,
    /// Refuse.
    Deny = 3,
}

impl Verdict {
    #[inline(always)]
    pub const fn from_byte(byte: u8) -> Self {
        match byte {
            1 => Self::Agent,
            2 => Self::Endpoint,
            3 => Self::Deny,
            _ => Self::Pass,
        }
    }
}

/// What the connect hook does when it cannot do its verdict.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum FailurePolicy {
    /// As if there were no mesh.
    Open = 0,
    /// Refuse.
    Closed = 1,
}

/// `SERVICES` and `PREFIXES` value.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Target {
    /// Id of the service port, see `NAMES`; 0: none.
    pub service: u32,
    /// Set of endpoints; a changed set has a new id.
    pub set: u32,
    /// Slots of the set.
    pub slots: u32,
    /// [`Verdict`]
    pub verdict: u8,
    /// [`FailurePolicy`]
    pub failure: u8,
    /// [`TARGET_SK_MSG`]
    pub flags: u8,
    pub pad: u8,
}

/// Flows to this destination may be redirected by sk_msg.
pub const TARGET_SK_MSG: u8 = 1;

/// `PREFIXES` key's data; the prefix length counts from the first bit of the v4-mapped form (10.0.0.0/8 is /104).
pub type PrefixData = [u8; 16];

/// `ENDPOINTS` key.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct EndpointKey {
    pub set: u32,
    pub slot: u32,
}

/// `ENDPOINTS` value: one slot of the alias table.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct EndpointSlot {
    pub own: Addr,
    pub alias: Addr,
    pub threshold: u32,
}

/// `ORIG` (socket storage) value: what the app asked for; on the agent's own sockets, with [`ORIG_UPSTREAM`], which
/// endpoint of this node they are for.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Orig {
    pub dst: Addr,
    pub workload: u32,
    pub service: u32,
    /// [`ORIG_AGENT`], [`ORIG_SK_MSG`], [`ORIG_OPEN`], [`ORIG_UPSTREAM`]
    pub flags: u32,
    /// With [`ORIG_UPSTREAM`]: cookie of the endpoint's network namespace.
    pub netns: u64,
}

/// The flow goes to the agent (else to an endpoint).
pub const ORIG_AGENT: u32 = 1;
/// The flow may be redirected.
pub const ORIG_SK_MSG: u32 = 2;
/// Established and counted; makes a second run of the same hook harmless.
pub const ORIG_OPEN: u32 = 4;
/// The agent's own connection to an endpoint of this node. Only the agent writes it, from user space.
pub const ORIG_UPSTREAM: u32 = 8;

/// `FLOWS` and `SOCKS` key: one end's view of a connection. FLOWS has the pod's end: the app's of a captured
/// connection, the endpoint's of the agent's own. Both ends of a connection are in SOCKS under one cookie, the pod's.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct FlowKey {
    /// Cookie of the network namespace.
    pub netns: u64,
    pub local: Addr,
    pub remote: Addr,
}

impl FlowKey {
    /// The other end's view.
    #[inline(always)]
    pub const fn mirrored(&self) -> Self {
        Self { netns: self.netns, local: self.remote, remote: self.local }
    }

    /// The endpoint's view of the agent's connection to it; `self` is the agent's, which lies in the caller's network
    /// namespace.
    #[inline(always)]
    pub const fn of_endpoint(&self, netns: u64) -> Self {
        Self { netns, local: self.remote, remote: self.local }
    }
}

/// `FLOWS` value.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Flow {
    pub orig: Orig,
    /// Monotonic.
    pub opened_ns: u64,
    /// Pod → agent.
    pub app: Direction,
    /// Agent → pod.
    pub agent: Direction,
    pub redirected_bytes: u64,
}

/// `SERVICE_STATS` value, per CPU: connections placed by the kernel.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ServiceStats {
    pub opened: u64,
    pub closed: u64,
    pub bytes_sent: u64,
    pub bytes_received: u64,
    pub retransmits: u64,
    /// Sum over closed connections of the smoothed round-trip time at close, in µs; divide by `closed`.
    pub srtt_us_sum: u64,
    /// The same connections by [`srtt_bucket`], each counted once.
    pub srtt: [u64; SRTT_BUCKETS],
}

/// Upper bounds of the buckets of round-trip times, µs: from pods of one node to another continent. The last bucket has
/// none.
pub const SRTT_BOUNDS_US: [u32; SRTT_BUCKETS - 1] =
    [50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000];
pub const SRTT_BUCKETS: usize = 15;

/// The bucket of a round-trip time. Example: 300 µs → 3, the bucket up to 500 µs.
#[inline(always)]
pub fn srtt_bucket(srtt_us: u32) -> usize {
    let mut bucket = 0;
    for bound in SRTT_BOUNDS_US {
        bucket += usize::from(srtt_us > bound);
    }
    bucket
}

/// `CONTROL[0]`. Written by the agent only.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Control {
    pub abi: u32,
    /// [`CONTROL_SK_MSG`], [`CONTROL_EVENTS`], [`CONTROL_LOG`]
    pub flags: u32,
    /// Older beats are stale.
    pub beat_max_age_ns: u64,
    /// Captured connections at one time.
    pub flow_limit: u64,
    /// cgroup id of the agent: its sockets are left alone. 0: none.
    pub agent_cgroup: u64,
    /// SHA-256 of the object that was loaded.
    pub object: [u8; 32],
}

pub const CONTROL_SK_MSG: u32 = 1;
pub const CONTROL_EVENTS: u32 = 2;
/// Programs write debug lines (aya-log).
pub const CONTROL_LOG: u32 = 4;

/// `NAMES` value: text of an id, zero-padded. `namespace/name:port` of Kubernetes is at most 63 + 1 + 63 + 6 = 133 bytes.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Name {
    pub text: [u8; 136],
}

const _: () = {
    use core::mem::size_of;
    assert!(size_of::<Addr>() == 20);
    assert!(size_of::<Pod>() == 8);
    assert!(size_of::<Target>() == 16);
    assert!(size_of::<EndpointSlot>() == 2 * 20 + 4);
    assert!(size_of::<Orig>() == 20 + 12 + 8);
    assert!(size_of::<FlowKey>() == 8 + 2 * 20);
    assert!(size_of::<Flow>() == 40 + 8 + 2 * 16 + 8);
    assert!(size_of::<ServiceStats>() == 48 + 8 * SRTT_BUCKETS);
    assert!(size_of::<Control>() == 64);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_times_fall_into_buckets() {
        for (us, bucket) in [(0, 0), (50, 0), (51, 1), (300, 3), (1_000_000, 13), (1_000_001, 14), (u32::MAX, 14)] {
            assert_eq!(srtt_bucket(us), bucket, "{us} µs");
        }
        assert!(SRTT_BOUNDS_US.is_sorted());
    }
}
