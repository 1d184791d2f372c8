//! One address type for both families: 16 bytes, IPv4 as v4-mapped IPv6 (RFC 4291 §2.5.5.2), so that IPv4, IPv6 and
//! dual-stack sockets share every key and every line of code.

/// Address and port of one end of a TCP connection.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct Addr {
    /// In memory (network) order, as the kernel's contexts give them.
    pub ip: [u32; 4],
    /// In host order.
    pub port: u16,
    /// Zero: keys are compared byte by byte.
    pub pad: u16,
}

/// `::ffff:0:0/96`, third word in memory order.
const MAPPED: u32 = 0x0000_ffff_u32.to_be();

impl Addr {
    /// `ip` is the IPv4 address in network order, as `user_ip4` is.
    #[inline(always)]
    pub const fn v4(ip: u32, port: u16) -> Self {
        Self { ip: [0, 0, MAPPED, ip], port, pad: 0 }
    }

    /// `ip` in network order, as `user_ip6` is.
    #[inline(always)]
    pub const fn v6(ip: [u32; 4], port: u16) -> Self {
        Self { ip, port, pad: 0 }
    }

    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        self.ip[0] == 0 && self.ip[1] == 0 && self.ip[2] == MAPPED
    }

    /// The IPv4 address in network order; meaningful where [`Addr::is_v4`].
    #[inline(always)]
    pub const fn ip4(&self) -> u32 {
        self.ip[3]
    }

    /// Stands for every address that nobody declared, on this port.
    #[inline(always)]
    pub const fn any(port: u16) -> Self {
        Self { ip: [0; 4], port, pad: 0 }
    }

    /// Never leaves the pod or its link: loopback, link-local (169.254.0.0/16, fe80::/10), unspecified.
    #[inline(always)]
    pub const fn is_local(&self) -> bool {
        if self.is_v4() {
            let ip = u32::from_be(self.ip[3]);
            return ip >> 24 == 127 || ip >> 16 == 0xa9fe || ip == 0;
        }
        if self.ip[0] == 0 && self.ip[1] == 0 && self.ip[2] == 0 {
            return u32::from_be(self.ip[3]) <= 1;
        }
        u32::from_be(self.ip[0]) >> 22 == 0xfe80 >> 6
    }

    /// The in-pod listener that serves this destination's family.
    #[inline(always)]
    pub const fn agent(&self) -> Self {
        if self.is_v4() {
            Self::v4(0x7f00_0001_u32.to_be(), crate::AGENT_PORT)
        } else {
            Self::v6([0, 0, 0, 1_u32.to_be()], crate::AGENT_PORT)
        }
    }
}

impl From<core::net::SocketAddr> for Addr {
    fn from(addr: core::net::SocketAddr) -> Self {
        let octets = match addr.ip() {
            core::net::IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
            core::net::IpAddr::V6(ip) => ip.octets(),
        };
        let mut ip = [0; 4];
        for (word, bytes) in ip.iter_mut().zip(octets.as_chunks::<4>().0) {
            *word = u32::from_ne_bytes(*bytes);
        }
        Self { ip, port: addr.port(), pad: 0 }
    }
}

impl From<Addr> for core::net::SocketAddr {
    /// Canonical: a v4-mapped address comes out as IPv4.
    fn from(addr: Addr) -> Self {
        let mut octets = [0; 16];
        for (bytes, word) in octets.as_chunks_mut::<4>().0.iter_mut().zip(addr.ip) {
            *bytes = word.to_ne_bytes();
        }
        Self::new(core::net::IpAddr::from(octets).to_canonical(), addr.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::SocketAddr;

    #[test]
    fn families_share_one_key() {
        let plain: SocketAddr = "10.0.0.1:80".parse().unwrap();
        let mapped: SocketAddr = "[::ffff:10.0.0.1]:80".parse().unwrap();
        assert_eq!(Addr::from(plain), Addr::from(mapped));
        assert_eq!(Addr::from(plain), Addr::v4(u32::from_ne_bytes([10, 0, 0, 1]), 80));
        assert!(Addr::from(plain).is_v4());
        assert_eq!(SocketAddr::from(Addr::from(mapped)), plain);
    }

    #[test]
    fn agent_is_of_the_same_family() {
        for (dst, agent) in
            [("10.0.0.1:80", "127.0.0.1:15001"), ("[fd00::1]:80", "[::1]:15001"), ("[::1]:80", "[::1]:15001")]
        {
            let dst: SocketAddr = dst.parse().unwrap();
            assert_eq!(SocketAddr::from(Addr::from(dst).agent()), agent.parse().unwrap());
        }
    }
}
