//! Tables of consistent hashing, entry for entry those of Envoy's `ring_hash` and `maglev` (SEMANTICS §5
//! "consistentHash"), so that a key keeps its endpoint whoever balances.
//!
//! A table is of all endpoints of a level; one that may not be chosen is stepped over as Envoy steps on at a retry, so
//! that an ejection moves no key but the ejected endpoint's. (Envoy makes a new table then and moves a few others.)

use crate::addr::EndpointAddr;
use crate::snapshot::policy::HashTable;
use std::fmt::Write as _;
use xxhash_rust::xxh64::xxh64;

#[derive(Debug)]
pub(super) enum Table {
    /// Hash and host, in order of the hash.
    Ring(Vec<(u64, u32)>),
    /// The host of each slot.
    Maglev(Vec<u32>),
}

/// Envoy's `maximum_ring_size`.
const LARGEST_RING: u64 = 8 << 20;
/// Envoy's `MaglevTable::MaxTableSize`: a larger size is a mistake of the configuration.
const LARGEST_MAGLEV: u64 = 5_000_011;

impl Table {
    pub(super) fn new(kind: HashTable, hosts: &[(EndpointAddr, u32)]) -> Self {
        match kind {
            HashTable::Ring { minimum_size } => Self::Ring(ring(hosts, minimum_size)),
            HashTable::Maglev { table_size } => Self::Maglev(maglev(hosts, table_size)),
        }
    }

    /// How many steps making the table takes, about.
    pub(super) fn cost(kind: HashTable, hosts: usize) -> u64 {
        match kind {
            HashTable::Ring { minimum_size } => minimum_size.max(hosts as u64).min(LARGEST_RING),
            HashTable::Maglev { table_size } => table_size.min(LARGEST_MAGLEV),
        }
    }

    /// The host of a hash, then those to take instead, in order; with repetitions.
    pub(super) fn hosts(&self, hash: u64) -> impl Iterator<Item = usize> + '_ {
        let (first, slots) = match self {
            Self::Ring(ring) => (ring.partition_point(|(at, _)| *at < hash) as u64, ring.len() as u64),
            Self::Maglev(slots) => (0, slots.len() as u64),
        };
        let slots = if slots == 0 { 0..0 } else { 0..slots };
        let count = slots.end;
        slots.filter_map(move |attempt| {
            let host = match self {
                Self::Ring(ring) => ring.get(usize::try_from((first + attempt) % count).ok()?)?.1,
                Self::Maglev(slots) => {
                    let hash = if attempt == 0 { hash } else { hash ^ (u64::MAX - attempt + 1) };
                    *slots.get(usize::try_from(hash % count).ok()?)?
                }
            };
            usize::try_from(host).ok()
        })
    }
}

/// Ketama: each host stands at as many places as its weight gives it, at the hashes of `<address>_<i>`.
///
/// The lightest host gets whole places and the ring at least `minimum` of them: three equal hosts and 1024 make 342
/// places each, 1026 in all.
fn ring(hosts: &[(EndpointAddr, u32)], minimum: u64) -> Vec<(u64, u32)> {
    let total: f64 = hosts.iter().map(|(_, weight)| f64::from(*weight)).sum();
    let Some(lightest) = hosts.iter().map(|(_, weight)| f64::from(*weight) / total).reduce(f64::min) else {
        return Vec::new();
    };
    let minimum = minimum.clamp(1, LARGEST_RING) as f64;
    let scale = ((lightest * minimum).ceil() / lightest).min(LARGEST_RING as f64);
    let mut ring = Vec::with_capacity(scale.ceil() as usize);
    let (mut placed, mut target) = (0.0, 0.0);
    let mut key = String::new();
    for ((addr, weight), host) in hosts.iter().zip(0..) {
        target += scale * (f64::from(*weight) / total);
        for i in 0_u64.. {
            // Sums run over all hosts: what one host's share leaves of a place counts for the next.
            if placed >= target {
                break;
            }
            key.clear();
            // Writing to a String does not fail.
            let _ = write!(key, "{addr}_{i}");
            ring.push((xxh64(key.as_bytes(), 0), host));
            placed += 1.0;
        }
    }
    ring.sort_by_key(|(hash, _)| *hash);
    ring
}

/// One host's permutation of the slots.
struct Filler {
    host: u32,
    offset: u64,
    skip: u64,
    next: u64,
    weight: f64,
    target: f64,
}

/// Maglev (Eisenbud et al. 2016, §3.4) with weights: a host half as heavy as the heaviest fills a slot every other round.
fn maglev(hosts: &[(EndpointAddr, u32)], size: u64) -> Vec<u32> {
    let size = size.clamp(2, LARGEST_MAGLEV);
    let total: f64 = hosts.iter().map(|(_, weight)| f64::from(*weight)).sum();
    let mut keyed: Vec<_> =
        hosts.iter().zip(0..).map(|((addr, w), host)| (addr.to_string(), f64::from(*w) / total, host)).collect();
    keyed.sort_by(|a, b| a.0.cmp(&b.0));
    let Some(heaviest) = keyed.iter().map(|(_, weight, _)| *weight).reduce(f64::max) else { return Vec::new() };
    let mut fillers: Vec<_> = keyed
        .iter()
        .map(|(key, weight, host)| Filler {
            host: *host,
            offset: xxh64(key.as_bytes(), 0) % size,
            skip: xxh64(key.as_bytes(), 1) % (size - 1) + 1,
            next: 0,
            weight: *weight,
            target: 0.0,
        })
        .collect();
    const FREE: u32 = u32::MAX;
    let mut slots = vec![FREE; usize::try_from(size).unwrap_or(0)];
    let mut free = slots.len();
    for round in 1_u64.. {
        let before = free;
        for filler in &mut fillers {
            if free == 0 {
                return slots;
            }
            if (round as f64) * filler.weight < filler.target {
                continue;
            }
            filler.target += heaviest;
            for _ in 0..size {
                let slot = (filler.offset + filler.skip * filler.next) % size;
                filler.next = (filler.next + 1) % size;
                if let Some(slot) = usize::try_from(slot).ok().and_then(|slot| slots.get_mut(slot))
                    && *slot == FREE
                {
                    *slot = filler.host;
                    free -= 1;
                    break;
                }
            }
        }
        if free == before {
            // The size is not prime, and nobody's steps meet the slots that are left: they go round.
            let hosts = fillers.iter().map(|filler| filler.host).cycle();
            slots.iter_mut().filter(|slot| **slot == FREE).zip(hosts).for_each(|(slot, host)| *slot = host);
            break;
        }
    }
    slots
}

#[cfg(test)]
#[path = "tests/table.rs"]
mod tests;
