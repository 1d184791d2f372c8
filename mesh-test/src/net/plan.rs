//! Who gets which address. Pods are `10.244.N.0/24` and `fd00:10:244:N::/64` on node N, services `10.96.0.0/16` and
//! `fd00:10:96::/112`, nodes meet on `172.31.0.0/16` and `fd00:172:31::/64`: kubeadm's usual choices.

use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Both addresses of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PodIps {
    pub v4: Ipv4Addr,
    pub v6: Ipv6Addr,
}

impl PodIps {
    pub fn both(&self) -> [IpAddr; 2] {
        [self.v4.into(), self.v6.into()]
    }
}

/// Hands out addresses in order and never twice: a new pod cannot be taken for the one that had its address before.
#[derive(Debug, Default)]
pub struct AddressPlan {
    next_pod: Vec<u16>,
    next_service: u16,
}

impl AddressPlan {
    /// The next pod addresses of node `node` (counted from 0). 10.244.3.2 is the first on node 3.
    pub fn pod(&mut self, node: u8) -> Option<PodIps> {
        let at = usize::from(node);
        if self.next_pod.len() <= at {
            self.next_pod.resize(at + 1, 2);
        }
        let host = self.next_pod[at];
        // .255 is the broadcast address. 253 pods are as many as a /24 node can have.
        let low = u8::try_from(host).ok().filter(|low| *low < 255)?;
        self.next_pod[at] += 1;
        Some(PodIps { v4: Ipv4Addr::new(10, 244, node, low), v6: pod_v6(node, host) })
    }

    /// The next cluster IPs of a Service. The first is 10.96.0.10.
    pub fn service(&mut self) -> Option<PodIps> {
        let host = 10 + self.next_service;
        let [high, low] = host.to_be_bytes();
        self.next_service = self.next_service.checked_add(1).filter(|n| *n < 65_000)?;
        Some(PodIps { v4: Ipv4Addr::new(10, 96, high, low), v6: Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, host) })
    }

    /// The bridge of a node: its pods' gateway.
    pub fn gateway(node: u8) -> PodIps {
        PodIps { v4: Ipv4Addr::new(10, 244, node, 1), v6: pod_v6(node, 1) }
    }

    /// The node's own address on the fabric that joins nodes.
    pub fn uplink(node: u8) -> PodIps {
        let host = u16::from(node) + 1;
        let [high, low] = host.to_be_bytes();
        PodIps { v4: Ipv4Addr::new(172, 31, high, low), v6: Ipv6Addr::new(0xfd00, 0x172, 0x31, 0, 0, 0, 0, host) }
    }
}

fn pod_v6(node: u8, host: u16) -> Ipv6Addr {
    // The node's number is written in decimal as it is in the IPv4 address: fd00:10:244:12::/64 is node 12's.
    let digits = u16::from_str_radix(&node.to_string(), 16).unwrap_or(0);
    Ipv6Addr::new(0xfd00, 0x10, 0x244, digits, 0, 0, 0, host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_never_given_twice_and_run_out_politely() {
        let mut plan = AddressPlan::default();
        let all: Vec<_> = std::iter::from_fn(|| plan.pod(12)).collect();
        assert_eq!(all.len(), 253);
        assert_eq!(all[0].v4.to_string(), "10.244.12.2");
        assert_eq!(all[0].v6.to_string(), "fd00:10:244:12::2");
        let distinct: std::collections::HashSet<_> = all.iter().collect();
        assert_eq!(distinct.len(), all.len());
        assert_eq!(plan.service().map(|s| s.v4.to_string()).as_deref(), Some("10.96.0.10"));
    }
}
