//! `cgroup/connect4` and `connect6`: where a pod's connection goes.

use crate::context::{destination4, destination6, read, set4, set6};
use crate::facts::{Kernel, control};
use crate::maps::ORIG;
use crate::report::{count, event};
use aya_ebpf::helpers::bpf_set_retval;
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use mesh_common::connect::{Decision, Place, decide, failed};
use mesh_common::event::{Event, EventKind};
use mesh_common::maps::{CONTROL_LOG, ORIG_AGENT, ORIG_SK_MSG, Orig};
use mesh_common::{AGENT_PORT, Addr, Reason};

const SOCK_STREAM: u32 = 1;
const IPPROTO_TCP: u32 = 6;
const ECONNREFUSED: i32 = 111;

#[cgroup_sock_addr(connect4)]
pub fn mesh_connect4(ctx: SockAddrContext) -> i32 {
    let dst = destination4(ctx.sock_addr);
    match verdict(&ctx, &dst) {
        Verdict::Allow => 1,
        Verdict::Refuse => 0,
        // An IPv4 socket cannot reach an IPv6 endpoint.
        Verdict::Send(to) if !to.is_v4() => refuse(),
        Verdict::Send(to) => {
            set4(ctx.sock_addr, &to);
            1
        }
    }
}

#[cgroup_sock_addr(connect6)]
pub fn mesh_connect6(ctx: SockAddrContext) -> i32 {
    let dst = destination6(ctx.sock_addr);
    match verdict(&ctx, &dst) {
        Verdict::Allow => 1,
        Verdict::Refuse => 0,
        Verdict::Send(to) => {
            set6(ctx.sock_addr, &to);
            1
        }
    }
}

enum Verdict {
    Allow,
    Refuse,
    Send(Addr),
}

/// Carries out mesh-common's decision, except for writing the context.
#[inline(always)]
fn verdict(ctx: &SockAddrContext, dst: &Addr) -> Verdict {
    if read!(ctx.sock_addr, type_) != SOCK_STREAM || read!(ctx.sock_addr, protocol) != IPPROTO_TCP {
        count(Reason::NotTcp);
        return Verdict::Allow;
    }
    let kernel = Kernel::new(ctx.sock_addr);
    let decision = match decide(&kernel, dst) {
        Decision::Rewrite(reason, place, to) => remember(ctx, dst, reason, place, to),
        other => other,
    };
    log(ctx, dst, &decision);
    match decision {
        Decision::Pass(reason) => {
            count(reason);
            // The agent's own sockets carry its mark.
            if reason as u32 != Reason::OwnSocket as u32 {
                forget(ctx);
            }
            Verdict::Allow
        }
        Decision::Refuse(reason, place) => {
            count(reason);
            event(|| refused(&kernel, dst, reason, &place));
            refuse();
            Verdict::Refuse
        }
        Decision::Rewrite(reason, _, to) => {
            count(reason);
            Verdict::Send(to)
        }
    }
}

/// Keeps the original destination with the socket; without memory for it the failure policy decides.
#[inline(always)]
fn remember(ctx: &SockAddrContext, dst: &Addr, reason: Reason, place: Place, to: Addr) -> Decision {
    let agent = if to.port == AGENT_PORT && reason as u32 == Reason::ToAgent as u32 { ORIG_AGENT } else { 0 };
    let sk_msg = if agent != 0 && place.sk_msg { ORIG_SK_MSG } else { 0 };
    let mut orig =
        Orig { dst: *dst, workload: place.workload, service: place.service, flags: agent | sk_msg, netns: 0 };
    // SAFETY: the context's socket is valid for the whole run.
    let stored = unsafe { ORIG.get_or_insert_ptr_mut(ctx, Some(&mut orig)) };
    if stored.is_null() {
        return failed(Reason::StorageOpen, Reason::StorageClosed, place);
    }
    // The entry of an earlier connect() of this socket is overwritten.
    // SAFETY: not null; the storage lives as long as the socket.
    unsafe { *stored = orig };
    Decision::Rewrite(reason, place, to)
}

/// A socket that connected through us before and goes its own way now, perhaps because its pod has left the mesh, has
/// nothing to hide any more; and `sockops` must not enter it as captured.
#[inline(always)]
fn forget(ctx: &SockAddrContext) {
    // SAFETY: the context's socket is valid for the whole run.
    unsafe {
        let stored = ORIG.get_ptr_mut(ctx);
        if !stored.is_null() {
            *stored = Orig::default();
        }
    }
}

#[inline(always)]
fn refused(kernel: &Kernel, dst: &Addr, reason: Reason, place: &Place) -> Event {
    Event {
        netns: kernel.netns,
        kind: EventKind::Refused as u32,
        reason: reason.index(),
        workload: place.workload,
        service: place.service,
        orig: *dst,
        ..Event::default()
    }
}

#[inline(always)]
fn log(ctx: &SockAddrContext, dst: &Addr, decision: &Decision) {
    if !control().is_some_and(|c| c.flags & CONTROL_LOG != 0) {
        return;
    }
    let reason = match decision {
        Decision::Pass(reason) | Decision::Refuse(reason, _) | Decision::Rewrite(reason, ..) => *reason,
    };
    let last = u32::from_be(dst.ip[3]);
    if dst.is_v4() {
        aya_log_ebpf::debug!(ctx, "connect to {:i}:{}: reason {}", last, dst.port, reason.index());
    } else {
        aya_log_ebpf::debug!(ctx, "connect to ipv6 ...{:x} port {}: reason {}", last, dst.port, reason.index());
    }
}

/// The app sees ECONNREFUSED, not EPERM: every client knows what to do with it.
#[inline(always)]
fn refuse() -> i32 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_set_retval(-ECONNREFUSED) };
    0
}
