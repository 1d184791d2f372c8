//! `mesh_common::connect::Facts` answered by the kernel.

use crate::maps::{BEAT, CONTROL, ENDPOINTS, FLOW_COUNT, PODS, PREFIXES, SERVICES};
use aya_ebpf::bindings::{BPF_F_CURRENT_NETNS, bpf_sock_addr, bpf_sock_tuple};
use aya_ebpf::helpers::{
    bpf_get_current_cgroup_id, bpf_get_netns_cookie, bpf_get_prandom_u32, bpf_ktime_get_ns, bpf_sk_lookup_tcp,
    bpf_sk_release,
};
use aya_ebpf::maps::lpm_trie::Key;
use core::mem::size_of;
use mesh_common::maps::{ANY_NETNS, Control, EndpointKey, Pod, Target};
use mesh_common::{Addr, alias, connect::Facts};

pub struct Kernel {
    pub ctx: *mut bpf_sock_addr,
    pub netns: u64,
}

impl Kernel {
    #[inline(always)]
    pub fn new(ctx: *mut bpf_sock_addr) -> Self {
        // SAFETY: ctx is the context this program was entered with.
        Self { ctx, netns: unsafe { bpf_get_netns_cookie(ctx.cast()) } }
    }
}

impl Facts for Kernel {
    #[inline(always)]
    fn own_socket(&self) -> bool {
        // SAFETY: the helper has no preconditions.
        control().is_some_and(|c| c.agent_cgroup != 0 && c.agent_cgroup == unsafe { bpf_get_current_cgroup_id() })
    }

    #[inline(always)]
    fn pod(&self) -> Option<Pod> {
        // SAFETY: the agent replaces whole entries; both fields are read once.
        unsafe { PODS.get(self.netns).or_else(|| PODS.get(ANY_NETNS)) }.copied()
    }

    #[inline(always)]
    fn target(&self, dst: &Addr) -> Option<Target> {
        // SAFETY: the agent replaces whole entries, and an entry's set is looked up again if it is gone.
        if let Some(target) = unsafe { SERVICES.get(dst) } {
            return Some(*target);
        }
        // SAFETY: four words are sixteen bytes.
        let data = unsafe { core::mem::transmute::<[u32; 4], [u8; 16]>(dst.ip) };
        PREFIXES.get(Key::new(128, data)).copied()
    }

    #[inline(always)]
    fn port_target(&self, port: u16) -> Option<Target> {
        // SAFETY: as above.
        unsafe { SERVICES.get(Addr::any(port)) }.copied()
    }

    #[inline(always)]
    fn beat_fresh(&self) -> bool {
        let (Some(control), Some(beat)) = (control(), BEAT.get(0)) else { return false };
        // SAFETY: the helper has no preconditions.
        let now = unsafe { bpf_ktime_get_ns() };
        now.saturating_sub(*beat) <= control.beat_max_age_ns
    }

    #[inline(always)]
    fn listening(&self, agent: &Addr) -> bool {
        let port = agent.port.to_be();
        if agent.is_v4() {
            // struct bpf_sock_tuple.ipv4: saddr, daddr, sport and dport in one word.
            let mut tuple = [0, agent.ip4(), ports(port)];
            self.lookup(tuple.as_mut_ptr(), size_of::<[u32; 3]>())
        } else {
            let ip = agent.ip;
            let mut tuple = [0, 0, 0, 0, ip[0], ip[1], ip[2], ip[3], ports(port)];
            self.lookup(tuple.as_mut_ptr(), size_of::<[u32; 9]>())
        }
    }

    #[inline(always)]
    fn flow_room(&self) -> bool {
        match (control(), FLOW_COUNT.get(0)) {
            (Some(control), Some(count)) => *count < control.flow_limit,
            _ => false,
        }
    }

    #[inline(always)]
    fn endpoint(&self, set: u32, slots: u32) -> Option<Addr> {
        // SAFETY: the helper has no preconditions.
        let (place, coin) = unsafe { (bpf_get_prandom_u32(), bpf_get_prandom_u32()) };
        let key = EndpointKey { set, slot: alias::slot(slots, place) };
        // SAFETY: a set's slots never change; a changed set has a new id.
        let slot = unsafe { ENDPOINTS.get(key) }?;
        Some(if alias::keeps(slot.threshold, coin) { slot.own } else { slot.alias })
    }
}

impl Kernel {
    #[inline(always)]
    fn lookup(&self, tuple: *mut u32, size: usize) -> bool {
        // SAFETY: the tuple is on the stack and `size` bytes long; the reference is released.
        unsafe {
            let tuple = tuple.cast::<bpf_sock_tuple>();
            let sk = bpf_sk_lookup_tcp(self.ctx.cast(), tuple, size as u32, BPF_F_CURRENT_NETNS as i64 as u64, 0);
            if sk.is_null() {
                return false;
            }
            bpf_sk_release(sk.cast());
            true
        }
    }
}

#[inline(always)]
pub fn control() -> Option<&'static Control> {
    CONTROL.get(0)
}

/// Source port 0 and destination port as they lie in memory.
#[inline(always)]
fn ports(destination: u16) -> u32 {
    u32::from_ne_bytes([0, 0, destination.to_ne_bytes()[0], destination.to_ne_bytes()[1]])
}
