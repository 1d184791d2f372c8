//! `sk_msg` on SOCKS: messages between app and agent skip TCP/IP, within mesh-common's bound.

use crate::context::sk_msg_ends;
use crate::facts::control;
use crate::maps::{FLOWS, SOCKS};
use crate::report::{add, count};
use aya_ebpf::bindings::{BPF_F_INGRESS, sk_msg_md};
use aya_ebpf::helpers::bpf_get_netns_cookie;
use aya_ebpf::macros::sk_msg;
use aya_ebpf::programs::SkMsgContext;
use mesh_common::maps::{CONTROL_SK_MSG, FlowKey};
use mesh_common::sticky::Step;
use mesh_common::{AGENT_PORT, Reason};

const SK_PASS: u32 = 1;

#[sk_msg]
pub fn mesh_sk_msg(ctx: SkMsgContext) -> u32 {
    let size = ctx.size();
    if redirected(&ctx, size) {
        count(Reason::Redirected);
        add(Reason::RedirectedBytes, u64::from(size));
    } else {
        count(Reason::OverTcp);
        add(Reason::OverTcpBytes, u64::from(size));
    }
    // Passing with a redirect set delivers to the peer's socket, without one to TCP.
    SK_PASS
}

#[inline(always)]
fn redirected(ctx: &SkMsgContext, size: u32) -> bool {
    let key = key(ctx.msg);
    let by_agent = key.local.port == AGENT_PORT;
    let Some(flow) = FLOWS.get_ptr_mut(if by_agent { key.mirrored() } else { key }) else { return false };
    // SAFETY: the entry lives for the whole run. A direction is written by its own sender; `heard` of the other side may
    // race with it and then only lengthens or shortens the bound by one message.
    let flow = unsafe { &mut *flow };
    let (own, peer) = if by_agent { (&mut flow.agent, &mut flow.app) } else { (&mut flow.app, &mut flow.agent) };
    peer.heard();
    if !control().is_some_and(|c| c.flags & CONTROL_SK_MSG != 0) {
        if own.stopped == 0 {
            own.stop();
            count(Reason::RedirectOff);
        }
        return false;
    }
    match own.send(size) {
        Step::Tcp => return false,
        Step::Stop => {
            count(Reason::RedirectBound);
            return false;
        }
        Step::Redirect => {}
    }
    let mut to = key.mirrored();
    if SOCKS.redirect_msg(ctx, &mut to, u64::from(BPF_F_INGRESS)) as u32 != SK_PASS {
        own.stop();
        count(Reason::RedirectMiss);
        return false;
    }
    flow.redirected_bytes += u64::from(size);
    true
}

#[inline(always)]
fn key(msg: *mut sk_msg_md) -> FlowKey {
    // SAFETY: msg is this program's context.
    let netns = unsafe { bpf_get_netns_cookie(msg.cast()) };
    let (local, remote) = sk_msg_ends(msg);
    FlowKey { netns, local, remote }
}
