//! `cgroup/getpeername4` and `getpeername6`: an app sees the address it asked for, not where we sent it.

use crate::context::{set4, set6};
use crate::maps::ORIG;
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use mesh_common::maps::Orig;

#[cgroup_sock_addr(getpeername4)]
pub fn mesh_getpeername4(ctx: SockAddrContext) -> i32 {
    if let Some(orig) = orig(&ctx) {
        set4(ctx.sock_addr, &orig.dst);
    }
    1
}

#[cgroup_sock_addr(getpeername6)]
pub fn mesh_getpeername6(ctx: SockAddrContext) -> i32 {
    if let Some(orig) = orig(&ctx) {
        set6(ctx.sock_addr, &orig.dst);
    }
    1
}

/// What the socket asked for, if we sent it elsewhere.
#[inline(always)]
fn orig(ctx: &SockAddrContext) -> Option<Orig> {
    // SAFETY: the context's socket is valid for the whole run; the storage lives as long as it.
    let stored = unsafe { ORIG.get_ptr_mut(ctx).as_ref() }?;
    (stored.dst.port != 0).then_some(*stored)
}
