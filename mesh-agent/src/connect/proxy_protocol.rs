//! PROXY protocol: tells an endpoint whose connection it is (HAProxy's specification, versions 1 and 2; Istio
//! `proxyProtocol`).
//!
//! The first bytes of a connection, so it belongs to one client's connection: pools do not share it.

use crate::snapshot::policy::ProxyProtocol;
use std::net::{IpAddr, SocketAddr};

/// The client's end of its connection, and ours: the address it asked for where that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    pub client: SocketAddr,
    pub local: SocketAddr,
}

/// §2.2: the 12 bytes that no other protocol begins with.
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// §2.2: version 2, command PROXY.
const VERSION_AND_COMMAND: u8 = 0x21;
/// §2.2: STREAM over AF_INET and AF_INET6.
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;

/// What goes out before the first byte of the connection.
pub(super) fn header(version: ProxyProtocol, ends: Ends) -> Vec<u8> {
    let (from, to) = one_family(ends);
    match version {
        ProxyProtocol::V1 => {
            let family = if from.is_ipv4() { "TCP4" } else { "TCP6" };
            let (client, local) = (ends.client.port(), ends.local.port());
            format!("PROXY {family} {from} {to} {client} {local}\r\n").into_bytes()
        }
        ProxyProtocol::V2 => {
            let mut addresses = Vec::with_capacity(36);
            for ip in [from, to] {
                match ip {
                    IpAddr::V4(ip) => addresses.extend(ip.octets()),
                    IpAddr::V6(ip) => addresses.extend(ip.octets()),
                }
            }
            addresses.extend(ends.client.port().to_be_bytes());
            addresses.extend(ends.local.port().to_be_bytes());
            let family = if from.is_ipv4() { TCP4 } else { TCP6 };
            // 12 or 36 bytes.
            let length = if from.is_ipv4() { 12_u16 } else { 36 };
            [SIGNATURE, &[VERSION_AND_COMMAND, family], &length.to_be_bytes(), &addresses].concat()
        }
    }
}

/// Both addresses in one family: IPv4 becomes v4-mapped beside IPv6.
fn one_family(ends: Ends) -> (IpAddr, IpAddr) {
    let mapped = |ip| match ip {
        IpAddr::V4(ip) => IpAddr::V6(ip.to_ipv6_mapped()),
        IpAddr::V6(_) => ip,
    };
    let (from, to) = (ends.client.ip(), ends.local.ip());
    if from.is_ipv4() == to.is_ipv4() { (from, to) } else { (mapped(from), mapped(to)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(client: &str, local: &str) -> Ends {
        Ends { client: client.parse().unwrap(), local: local.parse().unwrap() }
    }

    #[test]
    fn version_1_is_a_line() {
        let of = |client, local| String::from_utf8(header(ProxyProtocol::V1, ends(client, local))).unwrap();
        assert_eq!(of("10.0.0.1:40000", "10.96.0.1:80"), "PROXY TCP4 10.0.0.1 10.96.0.1 40000 80\r\n");
        assert_eq!(of("[fd00::1]:40000", "[fd00::2]:80"), "PROXY TCP6 fd00::1 fd00::2 40000 80\r\n");
        assert_eq!(of("10.0.0.1:1", "[fd00::2]:80"), "PROXY TCP6 ::ffff:10.0.0.1 fd00::2 1 80\r\n");
    }

    #[test]
    fn version_2_is_binary() {
        let bytes = header(ProxyProtocol::V2, ends("10.0.0.1:40000", "10.96.0.1:80"));
        let expected = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x0a\0\0\x01\x0a\x60\0\x01\x9c\x40\0\x50";
        assert_eq!(bytes, expected);
        let bytes = header(ProxyProtocol::V2, ends("[fd00::1]:40000", "[fd00::2]:80"));
        assert_eq!((bytes.len(), &bytes[13..16]), (16 + 36, &[0x21, 0, 36][..]));
    }
}
