//! What the choice of an endpoint costs, by policy and number of endpoints, with the function of the data path.

use super::announce;
use anyhow::{Result, anyhow, ensure};
use fastrand::Rng;
use mesh_agent::addr::EndpointAddr;
use mesh_agent::balance::{Ask, Registry, Spec};
use mesh_agent::snapshot::policy::{Balancer, ConsistentHash, HashKey, HashTable, TrafficPolicy};
use mesh_agent::snapshot::{
    ClusterKey, Endpoint, EndpointHealth, EndpointSet, LbPolicy, Locality, PortKey, ServiceName,
};
use mesh_agent::time::Nanos;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

const ENDPOINTS: [usize; 3] = [10, 100, 1_000];
const PICKS: usize = 200_000;
const ROUNDS: usize = 7;
/// Of the consistent hashes.
const BAR_NS: f64 = 200.0;

/// Prints nanoseconds per pick.
///
/// # Errors
/// A consistent hash takes longer than the bar.
pub(super) fn run() -> Result<()> {
    let hash = |table| Balancer::ConsistentHash(Arc::new(ConsistentHash { key: HashKey::SourceIp, table }));
    let policies = [
        ("round robin", Balancer::RoundRobin),
        ("random", Balancer::Random),
        ("least request", Balancer::LeastRequest),
        ("peak EWMA", Balancer::PeakEwma),
        ("ring hash", hash(HashTable::Ring { minimum_size: 1024 })),
        ("Maglev", hash(HashTable::Maglev { table_size: 65_537 })),
    ];
    announce(&format!("{:<14}{}", "ns per pick", ENDPOINTS.map(|n| format!("{n:>8}")).concat()))?;
    let mut worst = 0.0_f64;
    for (name, balancer) in policies {
        let hashes = matches!(balancer, Balancer::ConsistentHash(_));
        let policy = Arc::new(TrafficPolicy { balancer, ..TrafficPolicy::default() });
        let mut line = format!("{name:<14}");
        for endpoints in ENDPOINTS {
            let nanos = measure(endpoints, &policy)?;
            line.push_str(&format!("{nanos:>8.0}"));
            if hashes {
                worst = worst.max(nanos);
            }
        }
        announce(&line)?;
    }
    ensure!(worst <= BAR_NS, "a consistent hash takes {worst:.0} ns, at most {BAR_NS:.0} are allowed");
    Ok(())
}

/// The median round.
fn measure(endpoints: usize, policy: &Arc<TrafficPolicy>) -> Result<f64> {
    let registry = Registry::default();
    let endpoint = |n: usize| {
        let [.., b, c] = n.to_be_bytes();
        Endpoint {
            addr: EndpointAddr::new(([10, 0, b, c], 80).into()),
            weight: 1,
            health: EndpointHealth::Ready,
            workload: None,
            locality: Locality::default(),
        }
    };
    let spec = Spec {
        key: &ClusterKey::from(PortKey::new(ServiceName::new("bench", "api"), 80)),
        endpoints: &Arc::new(EndpointSet { endpoints: (1..=endpoints).map(endpoint).collect() }),
        labels: None,
        policy,
        lb: LbPolicy::Default,
        distribution: None,
        locality: None,
        client: None,
    };
    let cluster = registry.cluster(&spec, Nanos::now());
    let mut rng = Rng::with_seed(1);
    let mut rounds = [0.0; ROUNDS];
    for round in &mut rounds {
        let begun = Instant::now();
        for _ in 0..PICKS {
            let ask = Ask { hash: Some(rng.u64(..)), now: Nanos(1), ..Ask::default() };
            black_box(cluster.pick(&ask, &mut rng).map_err(|error| anyhow!(error))?);
        }
        *round = begun.elapsed().as_nanos() as f64 / PICKS as f64;
    }
    rounds.sort_by(f64::total_cmp);
    Ok(rounds[ROUNDS / 2])
}
