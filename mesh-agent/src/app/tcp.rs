//! What the kernel knows of TCP connections to endpoints, by Service port: the agent's own, and those that the kernel
//! placed itself.

use crate::connect::{Links, Seen};
use crate::kernel::Counters;
use crate::telemetry::{Buckets, External, Metrics};
use anyhow::Result;
use mesh_common::maps::SRTT_BOUNDS_US;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Service ports that get series of their own, those with the most connections seen; the others are one sum, `overflow`.
/// Each has 18 series.
const MOST_PORTS: usize = 100;

/// Shows them in `metrics`. `kernel`: where it places connections.
pub(super) fn register(metrics: &Metrics, links: &Arc<Links>, kernel: Option<&Counters>) -> Result<()> {
    let (of_agent, of_kernel) = (Arc::clone(links), kernel.cloned());
    let read = move || busiest(all(&of_agent, of_kernel.as_ref()));
    let (rows, read) = (read.clone(), read);
    metrics.register(External::histograms(
        "mesh_tcp_srtt_seconds",
        "Smoothed round-trip time of connections to endpoints: of those in use every 5 s, of short ones and of those \
         that the kernel placed at their end",
        "service",
        SRTT_BOUNDS_US.iter().map(|us| f64::from(*us) / 1e6).collect(),
        move || {
            let buckets = |seen: &Seen| Buckets { counts: seen.srtt.to_vec(), sum: seen.srtt_us_sum as f64 / 1e6 };
            rows().iter().map(|(service, seen)| (service.clone(), buckets(seen))).collect()
        },
    )?)?;
    metrics.register(External::new(
        "mesh_tcp_retransmits_total",
        "Segments sent again on connections to endpoints; of connections that the kernel placed, when they have ended",
        "service",
        move || read().into_iter().map(|(service, seen)| (service, seen.retransmits)).collect(),
    )?)
}

/// By `namespace/name:port`.
fn all(links: &Links, kernel: Option<&Counters>) -> BTreeMap<String, Seen> {
    let mut all: BTreeMap<String, Seen> = BTreeMap::new();
    for (port, seen) in links.read() {
        add(all.entry(port.to_string()).or_default(), &seen);
    }
    for placed in kernel.map(Counters::services).unwrap_or_default() {
        let seen = Seen { srtt: placed.srtt, srtt_us_sum: placed.srtt_us_sum, retransmits: placed.retransmits };
        add(all.entry(placed.service).or_default(), &seen);
    }
    all
}

fn busiest(all: BTreeMap<String, Seen>) -> Vec<(String, Seen)> {
    let mut rows: Vec<_> = all.into_iter().collect();
    rows.sort_by_key(|(_, seen)| Reverse(seen.srtt.iter().sum::<u64>()));
    let rest = rows.split_off(rows.len().min(MOST_PORTS));
    if !rest.is_empty() {
        let mut sum = Seen::default();
        rest.iter().for_each(|(_, seen)| add(&mut sum, seen));
        rows.push(("overflow".to_owned(), sum));
    }
    rows
}

fn add(to: &mut Seen, more: &Seen) {
    to.srtt.iter_mut().zip(more.srtt).for_each(|(to, more)| *to += more);
    to.srtt_us_sum += more.srtt_us_sum;
    to.retransmits += more.retransmits;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_busiest_ports_have_series_of_their_own_and_nothing_is_lost() {
        let seen = |count: u64| {
            let mut seen = Seen { srtt_us_sum: 10 * count, retransmits: 1, ..Seen::default() };
            seen.srtt[3] = count;
            seen
        };
        let all: BTreeMap<_, _> = (1..=MOST_PORTS as u64 + 2).map(|n| (format!("shop/s{n}:80"), seen(n))).collect();
        let rows = busiest(all);
        assert_eq!(rows.len(), MOST_PORTS + 1);
        assert_eq!((rows[0].0.as_str(), rows[0].1), ("shop/s102:80", seen(102)));
        let (name, rest) = rows.last().unwrap();
        assert_eq!((name.as_str(), rest.srtt[3], rest.srtt_us_sum, rest.retransmits), ("overflow", 3, 30, 2));
    }
}
