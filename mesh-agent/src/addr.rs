//! Role newtypes for addresses: a function that wants the address an app asked for cannot be handed an endpoint's.
//!
//! All of them hold canonical addresses: a v4-mapped IPv6 address (`::ffff:a.b.c.d`, RFC 4291 §2.5.5.2) is kept as
//! IPv4, so that one lookup serves IPv4, IPv6 and dual-stack sockets.

use serde::Serialize;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// Folds a v4-mapped IPv6 address into IPv4; other addresses stay.
pub fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

macro_rules! role {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
        #[serde(transparent)]
        pub struct $name(SocketAddr);

        impl $name {
            /// Takes any spelling of the address; stores the canonical one.
            pub fn new(addr: SocketAddr) -> Self {
                Self(canonical(addr))
            }
            pub fn addr(self) -> SocketAddr {
                self.0
            }
            pub fn ip(self) -> IpAddr {
                self.0.ip()
            }
            pub fn port(self) -> u16 {
                self.0.port()
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }
    };
}

role! {
    /// The address the app passed to `connect()`, before the kernel redirected it.
    OrigDst
}
role! {
    /// The app's own end of a captured connection, as the kernel reports it.
    ClientAddr
}
role! {
    /// Where a request is really sent: a pod's address and target port.
    EndpointAddr
}
role! {
    /// A Service's virtual address and port.
    ServiceAddr
}
