//! The few kernel calls that neither aya nor rustix wraps. Every `unsafe` block passes pointers to locals that outlive
//! the call.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::mem::size_of;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// `enum bpf_attach_type` (linux/bpf.h).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub(super) enum AttachType {
    SockOps = 3,
    SkMsgVerdict = 7,
    Inet4Connect = 10,
    Inet6Connect = 11,
    Inet4GetPeerName = 29,
    Inet6GetPeerName = 30,
}

const BPF_OBJ_GET: libc::c_long = 7;
const BPF_PROG_ATTACH: libc::c_long = 8;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_PROG_QUERY: libc::c_long = 16;
const BPF_LINK_UPDATE: libc::c_long = 29;
const BPF_LINK_DETACH: libc::c_long = 34;
const BPF_F_QUERY_EFFECTIVE: u32 = 1;

/// What a cgroup link is attached to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct LinkInfo {
    /// 0 when the cgroup is gone.
    pub cgroup: u64,
    pub prog: u32,
}

/// Addresses of this network namespace's interfaces (getifaddrs(3)). None where they cannot be read.
pub(super) fn host_addrs() -> Vec<IpAddr> {
    let mut list = std::ptr::null_mut::<libc::ifaddrs>();
    // SAFETY: the list is written to a local.
    if unsafe { libc::getifaddrs(&raw mut list) } != 0 {
        return Vec::new();
    }
    let mut found = Vec::new();
    let mut next = list;
    // SAFETY: null or an element of the list, which is freed below.
    while let Some(interface) = unsafe { next.as_ref() } {
        next = interface.ifa_next;
        // SAFETY: null or the interface's address.
        let Some(addr) = (unsafe { interface.ifa_addr.as_ref() }) else { continue };
        match i32::from(addr.sa_family) {
            libc::AF_INET => {
                // SAFETY: AF_INET says that it is a sockaddr_in.
                let v4 = unsafe { interface.ifa_addr.cast::<libc::sockaddr_in>().read_unaligned() };
                found.push(IpAddr::from(v4.sin_addr.s_addr.to_ne_bytes()));
            }
            libc::AF_INET6 => {
                // SAFETY: AF_INET6 says that it is a sockaddr_in6.
                let v6 = unsafe { interface.ifa_addr.cast::<libc::sockaddr_in6>().read_unaligned() };
                found.push(IpAddr::from(v6.sin6_addr.s6_addr));
            }
            _ => {}
        }
    }
    // SAFETY: what getifaddrs gave, once.
    unsafe { libc::freeifaddrs(list) };
    found
}

/// Opens a pinned map, program or link.
pub(super) fn object(path: &Path) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attr {
        pathname: u64,
        bpf_fd: u32,
        file_flags: u32,
    }
    let path = CString::new(path.as_os_str().as_bytes())?;
    let fd = bpf(BPF_OBJ_GET, &mut Attr { pathname: path.as_ptr() as u64, bpf_fd: 0, file_flags: 0 })?;
    // SAFETY: BPF_OBJ_GET returned a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Puts another program behind a link, atomically: no connection falls between the two.
pub(super) fn update_link(link: &impl AsFd, program: &impl AsFd) -> io::Result<()> {
    #[repr(C)]
    struct Attr {
        link_fd: u32,
        new_prog_fd: u32,
        flags: u32,
        old_prog_fd: u32,
    }
    let mut attr = Attr { link_fd: raw(link), new_prog_fd: raw(program), flags: 0, old_prog_fd: 0 };
    bpf(BPF_LINK_UPDATE, &mut attr).map(drop)
}

/// Detaches a link now; dropping its last reference would do it a moment later.
pub(super) fn detach_link(link: &impl AsFd) -> io::Result<()> {
    #[repr(C)]
    struct Attr {
        link_fd: u32,
    }
    bpf(BPF_LINK_DETACH, &mut Attr { link_fd: raw(link) }).map(drop)
}

/// Attaches a program to a sock map; it replaces the former one and stays while the map lives.
pub(super) fn attach_to_map(map: &impl AsFd, program: &impl AsFd, attach_type: AttachType) -> io::Result<()> {
    #[repr(C)]
    struct Attr {
        target_fd: u32,
        attach_bpf_fd: u32,
        attach_type: u32,
        attach_flags: u32,
        replace_bpf_fd: u32,
        relative_fd: u32,
        expected_revision: u64,
    }
    let mut attr = Attr {
        target_fd: raw(map),
        attach_bpf_fd: raw(program),
        attach_type: attach_type as u32,
        attach_flags: 0,
        replace_bpf_fd: 0,
        relative_fd: 0,
        expected_revision: 0,
    };
    bpf(BPF_PROG_ATTACH, &mut attr).map(drop)
}

/// Ids of the programs attached to a cgroup (its own or, if `effective`, its ancestors' too) or to a sock map.
pub(super) fn attached(target: &impl AsFd, attach_type: AttachType, effective: bool) -> io::Result<Vec<u32>> {
    #[repr(C)]
    struct Attr {
        target_fd: u32,
        attach_type: u32,
        query_flags: u32,
        attach_flags: u32,
        prog_ids: u64,
        count: u32,
        pad: u32,
        prog_attach_flags: u64,
        link_ids: u64,
        link_attach_flags: u64,
        revision: u64,
    }
    let mut ids = [0_u32; 64];
    let mut attr = Attr {
        target_fd: raw(target),
        attach_type: attach_type as u32,
        query_flags: if effective { BPF_F_QUERY_EFFECTIVE } else { 0 },
        attach_flags: 0,
        prog_ids: ids.as_mut_ptr() as u64,
        count: ids.len() as u32,
        pad: 0,
        prog_attach_flags: 0,
        link_ids: 0,
        link_attach_flags: 0,
        revision: 0,
    };
    bpf(BPF_PROG_QUERY, &mut attr)?;
    Ok(ids.into_iter().take(attr.count as usize).collect())
}

/// What a cgroup link holds on to.
pub(super) fn link_info(link: &impl AsFd) -> io::Result<LinkInfo> {
    /// `struct bpf_link_info` up to the cgroup arm of its union.
    #[repr(C)]
    #[derive(Default)]
    struct Info {
        kind: u32,
        id: u32,
        prog_id: u32,
        pad: u32,
        cgroup_id: u64,
        attach_type: u32,
        pad2: u32,
        rest: [u64; 8],
    }
    #[repr(C)]
    struct Attr {
        bpf_fd: u32,
        info_len: u32,
        info: u64,
    }
    let mut info = Info::default();
    let mut attr = Attr { bpf_fd: raw(link), info_len: size_of::<Info>() as u32, info: (&raw mut info) as u64 };
    bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
    Ok(LinkInfo { cgroup: info.cgroup_id, prog: info.prog_id })
}

/// `SO_NETNS_COOKIE`
pub(super) fn netns_cookie(socket: &impl AsFd) -> io::Result<u64> {
    let mut cookie = 0_u64;
    let mut len = size_of::<u64>() as libc::socklen_t;
    // SAFETY: both pointers are to locals of the sizes given.
    let rc = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut len,
        )
    };
    if rc == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}

const SO_NETNS_COOKIE: libc::c_int = 71;

/// Moves the calling thread into a new network namespace with a working loopback: for the self-test and for tests.
pub fn new_netns() -> io::Result<()> {
    // SAFETY: a network namespace of its own changes nothing this thread's memory safety depends on.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET)? };
    loopback_up()
}

/// Sets `lo` up in the current network namespace.
fn loopback_up() -> io::Result<()> {
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)?;
    // SAFETY: all-zero is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (slot, byte) in request.ifr_name.iter_mut().zip(b"lo") {
        *slot = *byte as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the request is a local that outlives the call.
    let rc = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) };
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn raw(fd: &impl AsFd) -> u32 {
    fd.as_fd().as_raw_fd() as u32
}

fn bpf<A>(command: libc::c_long, attr: &mut A) -> io::Result<libc::c_long> {
    // SAFETY: `attr` is a repr(C) prefix of `union bpf_attr` that outlives the call; the kernel reads `size` bytes of it
    // and writes only fields that the prefix has; pointers inside are to the caller's locals.
    let rc = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<A>()) };
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(rc) }
}
