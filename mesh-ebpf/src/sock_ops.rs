//! `sockops`: a captured connection is entered in FLOWS before the agent can accept it, and removed when it closes.

use crate::context::{read, sock_ops_ends};
use crate::facts::control;
use crate::maps::{FLOW_COUNT, FLOWS, ORIG, SERVICE_STATS, SOCKS};
use crate::report::{count, event};
use aya_ebpf::bindings::{BPF_ANY, bpf_sock_ops};
use aya_ebpf::helpers::{bpf_get_netns_cookie, bpf_ktime_get_ns, bpf_sk_storage_get};
use aya_ebpf::macros::sock_ops;
use aya_ebpf::programs::SockOpsContext;
use core::intrinsics::{AtomicOrdering, atomic_xadd};
use core::ptr;
use mesh_common::event::{Event, EventKind};
use mesh_common::maps::{
    CONTROL_SK_MSG, Flow, FlowKey, ORIG_AGENT, ORIG_OPEN, ORIG_SK_MSG, ORIG_UPSTREAM, Orig, ServiceStats, srtt_bucket,
};
use mesh_common::{AGENT_PORT, Reason};

const ACTIVE_ESTABLISHED: u32 = 4;
const PASSIVE_ESTABLISHED: u32 = 5;
const STATE: u32 = 10;
const STATE_FLAG: i32 = 1 << 2;
const TCP_CLOSE: u32 = 7;

#[sock_ops]
pub fn mesh_sock_ops(ctx: SockOpsContext) -> u32 {
    match ctx.op() {
        ACTIVE_ESTABLISHED => opened(&ctx),
        PASSIVE_ESTABLISHED => accepted(&ctx),
        STATE if ctx.arg(1) == TCP_CLOSE => closed(&ctx),
        _ => {}
    }
    1
}

/// An app's handshake is done: the peer's half of it has not been handed to `accept()` yet.
#[inline(always)]
fn opened(ctx: &SockOpsContext) {
    let Some(orig) = orig(ctx.ops) else { return };
    if orig.flags & (ORIG_UPSTREAM | ORIG_OPEN) == ORIG_UPSTREAM {
        return dialled(ctx, orig);
    }
    if orig.dst.port == 0 || orig.flags & ORIG_OPEN != 0 {
        return;
    }
    let key = key(ctx);
    if !control().is_some_and(|c| c.flags & CONTROL_SK_MSG != 0) {
        // Decided here, once: the flow's entry says what holds.
        orig.flags &= !ORIG_SK_MSG;
    }
    if orig.flags & ORIG_AGENT != 0 {
        // SAFETY: the helper has no preconditions.
        let flow = Flow { orig: *orig, opened_ns: unsafe { bpf_ktime_get_ns() }, ..Flow::default() };
        if FLOWS.insert(key, flow, u64::from(BPF_ANY)).is_err() {
            return count(Reason::FlowLost);
        }
        change_flow_count(1);
        count(Reason::FlowOpened);
        if orig.flags & ORIG_SK_MSG != 0 {
            join(ctx, key);
        }
    } else {
        count(Reason::DirectOpened);
        with_stats(orig.service, |stats| stats.opened += 1);
    }
    orig.flags |= ORIG_OPEN;
    // Without the flag the entry would stay until the agent sweeps it; the kernel knows the flag since 4.16.
    // Others' wishes for this socket stay.
    let _ = ctx.set_cb_flags(ctx.cb_flags() as i32 | STATE_FLAG);
    let orig = *orig;
    event(|| Event { kind: EventKind::Opened as u32, reason: opened_reason(&orig).index(), ..about(&key, &orig) });
}

/// The agent's connection to an endpoint of this node: the endpoint's end follows, because the ACK that makes it leaves
/// after this.
#[inline(always)]
fn dialled(ctx: &SockOpsContext, orig: &mut Orig) {
    if !control().is_some_and(|c| c.flags & CONTROL_SK_MSG != 0) {
        return;
    }
    let key = key(ctx).of_endpoint(orig.netns);
    // SAFETY: the helper has no preconditions.
    let flow = Flow { orig: *orig, opened_ns: unsafe { bpf_ktime_get_ns() }, ..Flow::default() };
    if FLOWS.insert(key, flow, u64::from(BPF_ANY)).is_err() {
        return count(Reason::SockFull);
    }
    change_flow_count(1);
    orig.flags |= ORIG_OPEN;
    let _ = ctx.set_cb_flags(ctx.cb_flags() as i32 | STATE_FLAG);
    join(ctx, key.mirrored());
}

/// The other end of a connection that may be redirected: the agent's of a captured one, an endpoint's of the agent's.
#[inline(always)]
fn accepted(ctx: &SockOpsContext) {
    let key = key(ctx);
    let by_agent = ctx.local_port() == u32::from(AGENT_PORT);
    let flow = if by_agent { key.mirrored() } else { key };
    // SAFETY: only the flags are read, and they do not change after insertion.
    let wanted = unsafe { FLOWS.get(flow) }.is_some_and(|flow| flow.orig.flags & ORIG_SK_MSG != 0);
    if wanted {
        join(ctx, key);
    }
}

#[inline(always)]
fn closed(ctx: &SockOpsContext) {
    let Some(orig) = orig(ctx.ops) else { return };
    if orig.flags & ORIG_OPEN == 0 {
        return;
    }
    orig.flags &= !ORIG_OPEN;
    let key = key(ctx);
    if orig.flags & ORIG_UPSTREAM != 0 {
        if FLOWS.remove(key.of_endpoint(orig.netns)).is_ok() {
            change_flow_count(-1);
        }
        return;
    }
    let (received, acked) = (read!(ctx.ops, bytes_received), read!(ctx.ops, bytes_acked));
    // The kernel keeps eight times the round-trip time.
    let (retransmits, srtt) = (read!(ctx.ops, total_retrans), read!(ctx.ops, srtt_us) >> 3);
    let reason = if orig.flags & ORIG_AGENT != 0 {
        if FLOWS.remove(key).is_ok() {
            change_flow_count(-1);
        }
        Reason::FlowClosed
    } else {
        with_stats(orig.service, |stats| {
            stats.closed += 1;
            stats.bytes_sent += acked;
            stats.bytes_received += received;
            stats.retransmits += u64::from(retransmits);
            stats.srtt_us_sum += u64::from(srtt);
            if let Some(bucket) = stats.srtt.get_mut(srtt_bucket(srtt)) {
                *bucket += 1;
            }
        });
        Reason::DirectClosed
    };
    count(reason);
    let orig = *orig;
    event(|| Event {
        kind: EventKind::Closed as u32,
        reason: reason.index(),
        srtt_us: srtt,
        retransmits,
        bytes_sent: acked,
        bytes_received: received,
        ..about(&key, &orig)
    });
}

/// Enters the socket for redirection, if it is switched on now.
#[inline(always)]
fn join(ctx: &SockOpsContext, key: FlowKey) {
    if !control().is_some_and(|c| c.flags & CONTROL_SK_MSG != 0) {
        return;
    }
    let mut key = key;
    // SAFETY: ops is this program's context and the key lies on its stack.
    let done = unsafe { SOCKS.update(&mut key, &mut *ctx.ops, u64::from(BPF_ANY)) };
    count(if done.is_ok() { Reason::SockAdded } else { Reason::SockFull });
}

#[inline(always)]
fn orig(ops: *mut bpf_sock_ops) -> Option<&'static mut Orig> {
    // SAFETY: the helper takes the context's socket after the check for null that the verifier asks for; the storage
    // lives as long as the socket.
    unsafe {
        let sk = (*ops).__bindgen_anon_2.sk;
        if sk.is_null() {
            return None;
        }
        let map = ptr::from_ref(&ORIG).cast_mut().cast();
        bpf_sk_storage_get(map, sk.cast(), ptr::null_mut(), 0).cast::<Orig>().as_mut()
    }
}

#[inline(always)]
fn key(ctx: &SockOpsContext) -> FlowKey {
    // SAFETY: ops is this program's context.
    let netns = unsafe { bpf_get_netns_cookie(ctx.ops.cast()) };
    let (local, remote) = sock_ops_ends(ctx.ops);
    FlowKey { netns, local, remote }
}

#[inline(always)]
fn change_flow_count(by: i64) {
    if let Some(flows) = FLOW_COUNT.get_ptr_mut(0) {
        // SAFETY: the slot is aligned and lives as long as the map. The intrinsic, because the bpf target has no
        // compare-and-swap on every kernel and core therefore hides `AtomicU64::fetch_add`.
        unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(flows, by as u64) };
    }
}

#[inline(always)]
fn with_stats(service: u32, change: impl FnOnce(&mut ServiceStats)) {
    let stats = SERVICE_STATS.get_ptr_mut(service).or_else(|| {
        if SERVICE_STATS.insert(service, ServiceStats::default(), u64::from(BPF_ANY)).is_err() {
            count(Reason::StatsFull);
        }
        SERVICE_STATS.get_ptr_mut(service)
    });
    if let Some(stats) = stats {
        // SAFETY: the value is this CPU's.
        change(unsafe { &mut *stats });
    }
}

#[inline(always)]
fn opened_reason(orig: &Orig) -> Reason {
    if orig.flags & ORIG_AGENT != 0 { Reason::FlowOpened } else { Reason::DirectOpened }
}

#[inline(always)]
fn about(key: &FlowKey, orig: &Orig) -> Event {
    Event {
        netns: key.netns,
        workload: orig.workload,
        service: orig.service,
        local: key.local,
        remote: key.remote,
        orig: orig.dst,
        ..Event::default()
    }
}
