//! `sk_msg` on SOCKS: messages between a pod and the agent skip TCP/IP, within mesh-common's bound. The pod is an app
//! whose connection was captured, or an endpoint that the agent dialled.

use crate::context::sk_msg_ends;
use crate::facts::control;
use crate::maps::{FLOWS, ORIG, SOCKS};
use crate::report::{add, count};
use aya_ebpf::bindings::{BPF_F_INGRESS, sk_msg_md};
use aya_ebpf::helpers::{bpf_get_netns_cookie, bpf_sk_storage_get};
use aya_ebpf::macros::sk_msg;
use aya_ebpf::programs::SkMsgContext;
use core::ptr;
use mesh_common::maps::{CONTROL_SK_MSG, FlowKey, ORIG_UPSTREAM, Orig};
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
    let (pod, by_agent) = match endpoint(ctx.msg) {
        _ if key.local.port == AGENT_PORT => (key.mirrored(), true),
        Some(netns) => (key.of_endpoint(netns), true),
        None => (key, false),
    };
    let Some(flow) = FLOWS.get_ptr_mut(pod) else { return false };
    // SAFETY: the entry lives for the whole run. A direction is written by its own sender; `heard` of the other side may
    // race with it and then only lengthens or shortens the bound by one message.
    let flow = unsafe { &mut *flow };
    let (own, peer, mut to) =
        if by_agent { (&mut flow.agent, &mut flow.app, pod) } else { (&mut flow.app, &mut flow.agent, pod.mirrored()) };
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
    if SOCKS.redirect_msg(ctx, &mut to, u64::from(BPF_F_INGRESS)) as u32 != SK_PASS {
        own.stop();
        count(Reason::RedirectMiss);
        return false;
    }
    flow.redirected_bytes += u64::from(size);
    true
}

/// The network namespace of the endpoint that the agent dialled with this socket.
#[inline(always)]
fn endpoint(msg: *mut sk_msg_md) -> Option<u64> {
    // SAFETY: the helper takes the context's socket after the check for null that the verifier asks for; the storage
    // lives as long as the socket.
    let orig = unsafe {
        let sk = (*msg).__bindgen_anon_3.sk;
        if sk.is_null() {
            return None;
        }
        let map = ptr::from_ref(&ORIG).cast_mut().cast();
        bpf_sk_storage_get(map, sk.cast(), ptr::null_mut(), 0).cast::<Orig>().as_ref()
    }?;
    (orig.flags & ORIG_UPSTREAM != 0).then_some(orig.netns)
}

#[inline(always)]
fn key(msg: *mut sk_msg_md) -> FlowKey {
    // SAFETY: msg is this program's context.
    let netns = unsafe { bpf_get_netns_cookie(msg.cast()) };
    let (local, remote) = sk_msg_ends(msg);
    FlowKey { netns, local, remote }
}
