//! Reading contexts in the only way the verifier accepts: each field by a load of its own at a constant offset. Volatile
//! keeps the compiler from merging loads or computing their addresses; both families are read before one is chosen.

use aya_ebpf::bindings::{bpf_sock_addr, bpf_sock_ops, sk_msg_md};
use mesh_common::Addr;

const AF_INET: u32 = 2;

/// One field, or one word of an array.
macro_rules! read {
    ($ctx:expr, $($field:tt)+) => {
        // SAFETY: the context is valid for the whole run and the field is readable in this kind of program.
        unsafe { (&raw const (*$ctx).$($field)+).read_volatile() }
    };
}
pub(crate) use read;

macro_rules! words {
    ($ctx:expr, $field:ident) => {
        [read!($ctx, $field[0]), read!($ctx, $field[1]), read!($ctx, $field[2]), read!($ctx, $field[3])]
    };
}

/// Local and remote end of a connection, from either kind of context: they name their fields alike.
macro_rules! ends {
    ($ctx:expr) => {{
        let family = read!($ctx, family);
        let (local4, remote4) = (read!($ctx, local_ip4), read!($ctx, remote_ip4));
        let (local6, remote6) = (words!($ctx, local_ip6), words!($ctx, remote_ip6));
        // The local port is in host order; the remote one in network order in the word's upper half.
        let (local, remote) = (read!($ctx, local_port) as u16, u32::from_be(read!($ctx, remote_port)) as u16);
        if family == AF_INET {
            (Addr::v4(local4, local), Addr::v4(remote4, remote))
        } else {
            (Addr::v6(local6, local), Addr::v6(remote6, remote))
        }
    }};
}

#[inline(always)]
pub fn sock_ops_ends(ctx: *mut bpf_sock_ops) -> (Addr, Addr) {
    ends!(ctx)
}

#[inline(always)]
pub fn sk_msg_ends(ctx: *mut sk_msg_md) -> (Addr, Addr) {
    ends!(ctx)
}

#[inline(always)]
pub fn destination4(ctx: *mut bpf_sock_addr) -> Addr {
    Addr::v4(read!(ctx, user_ip4), port(read!(ctx, user_port)))
}

#[inline(always)]
pub fn destination6(ctx: *mut bpf_sock_addr) -> Addr {
    Addr::v6(words!(ctx, user_ip6), port(read!(ctx, user_port)))
}

/// `ctx` may be written in connect and getpeername hooks.
#[inline(always)]
pub fn set4(ctx: *mut bpf_sock_addr, to: &Addr) {
    // SAFETY: both fields are writable in these hooks.
    unsafe {
        (&raw mut (*ctx).user_ip4).write_volatile(to.ip4());
        (&raw mut (*ctx).user_port).write_volatile(u32::from(to.port.to_be()));
    }
}

#[inline(always)]
pub fn set6(ctx: *mut bpf_sock_addr, to: &Addr) {
    // SAFETY: as above.
    unsafe {
        (&raw mut (*ctx).user_ip6[0]).write_volatile(to.ip[0]);
        (&raw mut (*ctx).user_ip6[1]).write_volatile(to.ip[1]);
        (&raw mut (*ctx).user_ip6[2]).write_volatile(to.ip[2]);
        (&raw mut (*ctx).user_ip6[3]).write_volatile(to.ip[3]);
        (&raw mut (*ctx).user_port).write_volatile(u32::from(to.port.to_be()));
    }
}

/// `user_port` holds the port in network order in its lower half.
#[inline(always)]
fn port(user_port: u32) -> u16 {
    u16::from_be(user_port as u16)
}
