//! Which balancing policy serves uneven endpoints best: the agent's own `Cluster` against simulated queues.
//!
//! A discrete-event simulation with seeded dice and a hand-moved clock, so that every run prints the same numbers and
//! no machine's speed matters. Requests arrive at random (Poisson); each endpoint has so many servers, each request
//! takes a service time with an exponential tail, and waits while all servers are busy. The winner is the policy with
//! the lowest geometric mean of p99 over the scenarios, each relative to the scenario's best.

use fastrand::Rng;
use mesh_agent::addr::EndpointAddr;
use mesh_agent::balance::{ActiveRequest, Ask, Ended, Policy, Registry, Spec, default_policy};
use mesh_agent::snapshot::policy::{Balancer, TrafficPolicy};
use mesh_agent::snapshot::{Endpoint, EndpointHealth, EndpointSet, LbPolicy, Locality, PortKey, ServiceName};
use mesh_agent::time::Nanos;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;

const POLICIES: [Policy; 4] = [Policy::RoundRobin, Policy::LeastRequest, Policy::PeakEwma, Policy::Random];

/// Simulated requests per policy and scenario; the first tenth warms up and is not counted.
const REQUESTS: usize = 60_000;

/// Seeds per cell: the median is reported.
const SEEDS: [u64; 5] = [1, 2, 3, 4, 5];

struct Scenario {
    name: &'static str,
    replicas: Vec<Replica>,
    /// Arrivals as a share of what all replicas together can serve.
    load: f64,
}

#[derive(Clone, Copy)]
struct Replica {
    servers: u32,
    mean_ms: f64,
}

/// One policy in one scenario.
#[derive(Clone)]
struct Score {
    p50_ms: f64,
    p99_ms: f64,
    /// Requests answered per second of simulated time.
    per_second: f64,
    /// Share of each replica, in its order.
    shares: Vec<f64>,
}

/// Prints one table per scenario and the winner.
///
/// # Errors
/// If the winner is not the policy that `LbPolicy::Default` stands for.
pub(super) fn run() -> anyhow::Result<()> {
    let mut logs = [0.0; POLICIES.len()];
    let scenarios = scenarios();
    for scenario in &scenarios {
        say(&format!("\n{} (load {:.0} %)", scenario.name, scenario.load * 100.0));
        say("policy           p50 ms    p99 ms   served/s  share per replica %");
        let scores = POLICIES.map(|policy| median(scenario, policy));
        let best = scores.iter().map(|s| s.p99_ms).fold(f64::INFINITY, f64::min);
        for ((policy, score), log) in POLICIES.iter().zip(&scores).zip(&mut logs) {
            *log += (score.p99_ms / best).ln();
            let shares: Vec<String> = score.shares.iter().map(|s| format!("{:.1}", s * 100.0)).collect();
            let name = format!("{policy:?}");
            say(&format!(
                "{name:<14} {:>8.2} {:>9.1} {:>10.0}  {}",
                score.p50_ms,
                score.p99_ms,
                score.per_second,
                shares.join(" ")
            ));
        }
    }
    say("\ngeometric mean of p99 over the scenarios, 1.00 = best in each");
    let means = logs.map(|log| (log / scenarios.len() as f64).exp());
    for (policy, mean) in POLICIES.iter().zip(means) {
        say(&format!("{:<14} {mean:>6.2}", format!("{policy:?}")));
    }
    let winner = POLICIES.into_iter().zip(means).min_by(|a, b| a.1.total_cmp(&b.1)).map(|(policy, _)| policy);
    say(&format!("winner: {winner:?}; the agent's default: {:?}", default_policy()));
    anyhow::ensure!(
        winner == Some(default_policy()),
        "the default is not the winner: change mesh_agent::balance::default_policy"
    );
    Ok(())
}

fn scenarios() -> Vec<Scenario> {
    let fast = Replica { servers: 8, mean_ms: 5.0 };
    let with = |odd: Replica| [vec![fast; 7], vec![odd]].concat();
    vec![
        Scenario { name: "eight equal replicas", replicas: vec![fast; 8], load: 0.6 },
        Scenario { name: "one slow replica (×5)", replicas: with(Replica { mean_ms: 25.0, ..fast }), load: 0.6 },
        Scenario {
            name: "one very slow replica (×100)",
            replicas: with(Replica { mean_ms: 500.0, ..fast }),
            load: 0.6,
        },
        Scenario {
            name: "uneven capacity (8, 8, 8, 8, 2, 2, 1, 1 servers)",
            replicas: [8, 8, 8, 8, 2, 2, 1, 1].map(|servers| Replica { servers, ..fast }).to_vec(),
            load: 0.6,
        },
        Scenario {
            name: "uneven capacity, nearly full",
            replicas: [8, 8, 8, 8, 2, 2, 1, 1].map(|servers| Replica { servers, ..fast }).to_vec(),
            load: 0.9,
        },
        Scenario {
            name: "one slow replica (×5), light load",
            replicas: with(Replica { mean_ms: 25.0, ..fast }),
            load: 0.1,
        },
    ]
}

fn balancer(policy: Policy) -> Balancer {
    match policy {
        Policy::RoundRobin => Balancer::RoundRobin,
        Policy::LeastRequest => Balancer::LeastRequest,
        Policy::PeakEwma => Balancer::PeakEwma,
        Policy::Random | Policy::RingHash | Policy::Maglev | Policy::Passthrough => Balancer::Random,
    }
}

fn median(scenario: &Scenario, policy: Policy) -> Score {
    let mut scores = SEEDS.map(|seed| simulate(scenario, policy, seed));
    scores.sort_by(|a, b| a.p99_ms.total_cmp(&b.p99_ms));
    scores[SEEDS.len() / 2].clone()
}

fn simulate(scenario: &Scenario, policy: Policy, seed: u64) -> Score {
    let mut rng = Rng::with_seed(seed);
    let registry = Registry::default();
    let cluster = registry.cluster(
        &Spec {
            key: &PortKey::new(ServiceName::new("bench", "uneven"), 80).into(),
            endpoints: &set(scenario.replicas.len()),
            labels: None,
            policy: &Arc::new(TrafficPolicy { balancer: balancer(policy), ..TrafficPolicy::default() }),
            lb: LbPolicy::Default,
            distribution: None,
            locality: None,
            client: None,
        },
        Nanos(0),
    );
    let capacity: f64 = scenario.replicas.iter().map(|r| f64::from(r.servers) / r.mean_ms).sum();
    let gap_ms = 1.0 / (capacity * scenario.load);

    let mut replicas: Vec<Queue> =
        scenario.replicas.iter().map(|r| Queue { free: r.servers, waiting: VecDeque::new() }).collect();
    let mut ends: BinaryHeap<Reverse<(u64, usize, usize)>> = BinaryHeap::new();
    let mut requests: Vec<Option<(u64, ActiveRequest)>> = Vec::with_capacity(REQUESTS);
    let mut latencies = Vec::with_capacity(REQUESTS);
    let mut counts = vec![0usize; replicas.len()];
    let (mut arrival, mut last_end) = (0u64, 0u64);
    let warm = REQUESTS / 10;
    loop {
        let end = ends.peek().map(|Reverse((at, ..))| *at);
        let arrives = requests.len() < REQUESTS && end.is_none_or(|end| arrival <= end);
        if arrives {
            let ask = Ask { now: Nanos(arrival), ..Ask::default() };
            let chosen = cluster.pick(&ask, &mut rng).expect("all replicas are ready");
            let replica = index_of(chosen.addr());
            let request = requests.len();
            if request >= warm {
                counts[replica] += 1;
            }
            requests.push(Some((arrival, chosen.start(ask.now))));
            let takes = exponential(&mut rng, scenario.replicas[replica].mean_ms);
            if let Some(end) = replicas[replica].admit(arrival, request, takes) {
                ends.push(Reverse((end, replica, request)));
            }
            arrival += exponential(&mut rng, gap_ms);
        } else if let Some(Reverse((now, replica, request))) = ends.pop() {
            if let Some((begun, active)) = requests[request].take() {
                active.finished(Ended::Response { status: 200, grpc_status: None }, Nanos(now));
                if request >= warm {
                    latencies.push(now - begun);
                }
            }
            last_end = now;
            if let Some((next, takes)) = replicas[replica].release() {
                ends.push(Reverse((now + takes, replica, next)));
            }
        } else {
            break;
        }
    }
    latencies.sort_unstable();
    let quantile = |q: f64| latencies[((latencies.len() - 1) as f64 * q) as usize] as f64 / 1e6;
    let counted = counts.iter().sum::<usize>() as f64;
    Score {
        p50_ms: quantile(0.5),
        p99_ms: quantile(0.99),
        per_second: REQUESTS as f64 / (last_end as f64 / 1e9),
        shares: counts.iter().map(|c| *c as f64 / counted).collect(),
    }
}

/// A replica: first come, first served.
struct Queue {
    free: u32,
    /// Request and its service time.
    waiting: VecDeque<(usize, u64)>,
}

impl Queue {
    /// When the request ends, if it starts at once.
    fn admit(&mut self, now: u64, request: usize, takes: u64) -> Option<u64> {
        if self.free == 0 {
            self.waiting.push_back((request, takes));
            return None;
        }
        self.free -= 1;
        Some(now + takes)
    }

    /// A server is free: the request that starts now, and how long it takes.
    fn release(&mut self) -> Option<(usize, u64)> {
        let next = self.waiting.pop_front();
        if next.is_none() {
            self.free += 1;
        }
        next
    }
}

fn set(n: usize) -> Arc<EndpointSet> {
    let endpoint = |i: usize| Endpoint {
        addr: EndpointAddr::new(([10, 0, 0, i as u8 + 1], 8080).into()),
        weight: 1,
        health: EndpointHealth::Ready,
        workload: None,
        locality: Locality::default(),
    };
    Arc::new(EndpointSet { endpoints: (0..n).map(endpoint).collect() })
}

/// The inverse of `set`'s numbering.
fn index_of(addr: EndpointAddr) -> usize {
    match addr.ip() {
        std::net::IpAddr::V4(ip) => usize::from(ip.octets()[3]) - 1,
        std::net::IpAddr::V6(_) => unreachable!("set() makes IPv4 addresses"),
    }
}

/// Nanoseconds, exponentially distributed.
fn exponential(rng: &mut Rng, mean_ms: f64) -> u64 {
    (-(1.0 - rng.f64()).ln() * mean_ms * 1e6) as u64
}

#[expect(clippy::print_stdout, reason = "a bench's table is its output")]
fn say(line: &str) {
    println!("{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_serves_in_order_and_never_more_than_it_has_servers() {
        let mut queue = Queue { free: 1, waiting: VecDeque::new() };
        assert_eq!(queue.admit(0, 0, 10), Some(10));
        assert_eq!((queue.admit(1, 1, 5), queue.admit(2, 2, 7)), (None, None));
        assert_eq!(queue.release(), Some((1, 5)));
        assert_eq!(queue.release(), Some((2, 7)));
        assert_eq!((queue.release(), queue.free), (None, 1));
    }

    #[test]
    fn round_robin_is_even_and_a_seed_gives_the_same_shares() {
        let scenario = &scenarios()[1];
        let score = simulate(scenario, Policy::RoundRobin, 1);
        assert!(score.shares.iter().all(|s| (s - 0.125).abs() < 0.001), "{:?}", score.shares);
        let ewma = || simulate(scenario, Policy::PeakEwma, 3).shares;
        assert_eq!(ewma(), ewma());
    }

    #[test]
    fn the_default_is_the_winner() {
        run().unwrap();
    }
}
