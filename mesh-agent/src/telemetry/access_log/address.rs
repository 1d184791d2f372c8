//! Addresses as text: five to a line, so that those of IPv4 are put together on the stack.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// `10.44.1.27:80`, `[fd00::1]:80`
pub(super) fn write(addr: SocketAddr, out: &mut Vec<u8>) {
    match addr {
        SocketAddr::V4(addr) => {
            v4(*addr.ip(), out);
            out.push(b':');
            out.extend_from_slice(itoa::Buffer::new().format(addr.port()).as_bytes());
        }
        // Writing to a Vec does not fail. A scope id is of this host alone.
        SocketAddr::V6(addr) => drop(write!(out, "[{}]:{}", addr.ip(), addr.port())),
    }
}

/// Without brackets.
pub(super) fn write_ip(addr: IpAddr, out: &mut Vec<u8>) {
    match addr {
        IpAddr::V4(addr) => v4(addr, out),
        IpAddr::V6(addr) => drop(write!(out, "{addr}")),
    }
}

/// `OCTETS[n]`: `n` with a dot behind it, and how long that is.
const OCTETS: [([u8; 4], usize); 256] = {
    let mut octets = [([0; 4], 0); 256];
    let mut n = 0;
    while n < 256 {
        let [ones, tens, hundreds] = [n % 10, n / 10 % 10, n / 100];
        let [ones, tens, hundreds] = [b'0' + ones as u8, b'0' + tens as u8, b'0' + hundreds as u8];
        octets[n] = match n {
            0..10 => ([ones, b'.', 0, 0], 2),
            10..100 => ([tens, ones, b'.', 0], 3),
            _ => ([hundreds, tens, ones, b'.'], 4),
        };
        n += 1;
    }
    octets
};

fn v4(addr: Ipv4Addr, out: &mut Vec<u8>) {
    let mut text = [0; 16];
    let mut at = 0;
    for octet in addr.octets() {
        // Always four bytes: cheaper than as many as it has. The last octet begins at 12 at the latest.
        let (digits, length) = OCTETS[usize::from(octet)];
        text[at..at + 4].copy_from_slice(&digits);
        at += length;
    }
    out.extend_from_slice(&text[..at - 1]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(addr: SocketAddr) -> String {
        let mut out = Vec::new();
        write(addr, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn shortest_and_longest() {
        for addr in ["0.0.0.0:0", "255.255.255.255:65535", "10.99.100.9:80", "[::1]:443", "[fd00::ffff:1]:1"] {
            assert_eq!(text(addr.parse().unwrap()), addr);
        }
    }

    proptest! {
        #[test]
        fn as_rust_shows_them(v4: [u8; 4], v6: [u16; 8], port: u16) {
            for ip in [IpAddr::from(v4), IpAddr::from(v6)] {
                prop_assert_eq!(text((ip, port).into()), SocketAddr::from((ip, port)).to_string());
                let mut out = Vec::new();
                write_ip(ip, &mut out);
                prop_assert_eq!(String::from_utf8(out).unwrap(), ip.to_string());
            }
        }
    }
}
