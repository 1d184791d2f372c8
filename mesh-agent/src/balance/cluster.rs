//! One port's or subset's endpoints under one policy, as a client sees them.

use super::policy::{Candidates, Policy};
use super::{ActiveRequest, EndpointState, Registry};
use crate::addr::EndpointAddr;
use crate::snapshot::policy::{Balancer, HashTable, TrafficPolicy};
use crate::snapshot::{ClusterKey, EndpointHealth, EndpointSet, LbPolicy, TrafficDistribution, Workload, is_subset};
use crate::time::Nanos;
use fastrand::Rng;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// What a cluster is made of. Equal specs are one cluster: `Registry::cluster`.
#[derive(Clone, Copy, Debug)]
pub struct Spec<'a> {
    pub key: &'a ClusterKey,
    /// Of the whole port.
    pub endpoints: &'a Arc<EndpointSet>,
    /// Of the subset: only endpoints whose workload has all of them.
    pub labels: Option<&'a BTreeMap<Arc<str>, Arc<str>>>,
    pub policy: &'a Arc<TrafficPolicy>,
    /// What `Balancer::Default` means on this port.
    pub lb: LbPolicy,
    /// Where the policy says nothing of localities.
    pub distribution: Option<TrafficDistribution>,
    /// Whose requests, for locality and labels; `None`: the agent's own listeners.
    pub client: Option<&'a Workload>,
}

/// Made once per change of the endpoints or the policy, used for every request in between, by all workers.
#[derive(Debug)]
pub struct Cluster {
    key: ClusterKey,
    /// Identity of the set the cluster was made from: another pointer means another cluster.
    set: Arc<EndpointSet>,
    labels: Option<BTreeMap<Arc<str>, Arc<str>>>,
    policy: Arc<TrafficPolicy>,
    choice: Policy,
    /// Ready endpoints, or the draining ones where none is ready (KEP-1669).
    candidates: Candidates,
    /// Position of round robin, shared by all workers so that shares are exact whoever serves.
    cursor: Arc<AtomicUsize>,
}

/// What one attempt wants.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ask<'a> {
    /// Endpoints of former attempts: not chosen while there is another.
    pub tried: &'a [EndpointAddr],
    /// `affinity`'s number; without one a consistent hash chooses at random.
    pub hash: Option<u64>,
    /// Priorities of former attempts that shall not be used (`retryRemoteLocalities`), while there are others.
    pub exclude: Priorities,
    /// Where the client's connection wants to go, for `Balancer::Passthrough`.
    pub original: Option<EndpointAddr>,
    pub now: Nanos,
}

/// A set of priorities; those from 31 on count as one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Priorities(u32);

impl Priorities {
    pub fn insert(&mut self, priority: u8) {
        self.0 |= Self::bit(priority);
    }

    pub fn contains(self, priority: u8) -> bool {
        self.0 & Self::bit(priority) != 0
    }

    fn bit(priority: u8) -> u32 {
        1 << priority.min(31)
    }
}

/// A chosen endpoint.
#[derive(Clone, Debug)]
pub struct Chosen {
    pub state: Arc<EndpointState>,
    /// 0: the closest.
    pub priority: u8,
}

impl Chosen {
    pub fn addr(&self) -> EndpointAddr {
        self.state.addr
    }

    /// Counts an attempt as in flight until the guard is dropped.
    pub fn start(&self, now: Nanos) -> ActiveRequest {
        self.state.start(now)
    }
}

/// Why there is nothing to choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoEndpoint {
    #[error("no endpoints")]
    Empty,
    #[error("all endpoints are ejected")]
    Ejected,
}

impl Cluster {
    /// Only `Registry::cluster` and tests call it.
    pub(super) fn new(spec: &Spec<'_>, registry: &Registry, now: Nanos) -> Self {
        let member = |labels: &BTreeMap<_, _>, workload: Option<&Arc<Workload>>| {
            labels.is_empty() || workload.is_some_and(|workload| is_subset(labels, &workload.labels))
        };
        let of = |health: EndpointHealth| -> Vec<_> {
            let all = spec.endpoints.endpoints.iter().filter(|e| e.health == health);
            all.filter(|e| spec.labels.is_none_or(|labels| member(labels, e.workload.as_ref()))).collect()
        };
        let mut usable = of(EndpointHealth::Ready);
        if usable.is_empty() {
            usable = of(EndpointHealth::Draining);
        }
        let states = usable.iter().map(|e| registry.endpoint(spec.key, e.addr, now)).collect();
        let weights = usable.iter().map(|e| e.weight).collect();
        Self {
            key: spec.key.clone(),
            set: Arc::clone(spec.endpoints),
            labels: spec.labels.cloned(),
            policy: Arc::clone(spec.policy),
            choice: choice(spec),
            candidates: Candidates::new(states, weights),
            cursor: registry.cursor(spec.key),
        }
    }

    pub fn key(&self) -> &ClusterKey {
        &self.key
    }

    pub fn policy(&self) -> &Arc<TrafficPolicy> {
        &self.policy
    }

    /// Whether the cluster is what the spec describes. Cheap: for once per request and snapshot.
    pub fn is_of(&self, spec: &Spec<'_>) -> bool {
        Arc::ptr_eq(&self.set, spec.endpoints)
            && self.choice == choice(spec)
            && (Arc::ptr_eq(&self.policy, spec.policy) || self.policy == *spec.policy)
            && self.labels.as_ref() == spec.labels
            && self.key == *spec.key
    }

    pub fn is_empty(&self) -> bool {
        self.candidates.len() == 0
    }

    /// The endpoint for one attempt.
    ///
    /// Never one in `tried` while there is another; an endpoint whose connections fail is passed over while there is
    /// one that works.
    ///
    /// # Errors
    /// There is no endpoint, or none that is not ejected.
    pub fn pick(&self, ask: &Ask<'_>, rng: &mut Rng) -> Result<Chosen, NoEndpoint> {
        let cursor = match self.choice {
            // A second attempt takes no turn: with two endpoints each call would begin at the same one.
            Policy::RoundRobin if ask.tried.is_empty() => self.cursor.fetch_add(1, Relaxed),
            Policy::RoundRobin => self.cursor.load(Relaxed),
            _ => 0,
        };
        let preferred = self.candidates.choose(self.choice, cursor, ask.now, rng).ok_or(NoEndpoint::Empty)?;
        let untried = |state: &EndpointState| !ask.tried.contains(&state.addr);
        let index = self.first_good(preferred, |state| untried(state) && !state.is_avoided(ask.now));
        let index = index.or_else(|| self.first_good(preferred, untried)).unwrap_or(preferred);
        let state = self.candidates.states.get(index).ok_or(NoEndpoint::Empty)?;
        Ok(Chosen { state: Arc::clone(state), priority: 0 })
    }

    /// Whether another endpoint than `chosen`, not in `tried` and not passed over, could be asked.
    pub fn has_other(&self, chosen: EndpointAddr, tried: &[EndpointAddr], now: Nanos) -> bool {
        let other = |state: &EndpointState| state.addr != chosen && !tried.contains(&state.addr);
        self.candidates.states.iter().any(|state| other(state) && !state.is_avoided(now))
    }

    /// `preferred`, else the next one round the circle that is good.
    fn first_good(&self, preferred: usize, good: impl Fn(&EndpointState) -> bool) -> Option<usize> {
        let count = self.candidates.len();
        (0..count)
            .map(|step| (preferred + step) % count)
            .find(|index| self.candidates.states.get(*index).is_some_and(|state| good(state)))
    }
}

fn choice(spec: &Spec<'_>) -> Policy {
    match &spec.policy.balancer {
        Balancer::Default => spec.lb.into(),
        Balancer::RoundRobin => Policy::RoundRobin,
        Balancer::LeastRequest => Policy::LeastRequest,
        Balancer::Random => Policy::Random,
        Balancer::PeakEwma => Policy::PeakEwma,
        Balancer::Passthrough => Policy::Passthrough,
        Balancer::ConsistentHash(hash) => match hash.table {
            HashTable::Ring { .. } => Policy::RingHash,
            HashTable::Maglev { .. } => Policy::Maglev,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::{Endpoint, Locality, PortKey, ServiceName};
    use fastrand::Rng;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn key() -> PortKey {
        PortKey::new(ServiceName::new("default", "reviews"), 80)
    }

    fn endpoint(last: u8, weight: u32, health: EndpointHealth) -> Endpoint {
        Endpoint {
            addr: EndpointAddr::new(([10, 0, 0, last], 80).into()),
            weight,
            health,
            workload: None,
            locality: Locality::default(),
        }
    }

    fn balancer(policy: Policy) -> Balancer {
        match policy {
            Policy::RoundRobin => Balancer::RoundRobin,
            Policy::LeastRequest => Balancer::LeastRequest,
            Policy::PeakEwma => Balancer::PeakEwma,
            Policy::Random => Balancer::Random,
            Policy::RingHash | Policy::Maglev | Policy::Passthrough => unreachable!("not under test"),
        }
    }

    fn of(set: &Arc<EndpointSet>, policy: Policy, registry: &Registry) -> Cluster {
        let policy = Arc::new(TrafficPolicy { balancer: balancer(policy), ..TrafficPolicy::default() });
        let key = ClusterKey::from(key());
        let lb = LbPolicy::Default;
        let spec =
            Spec { key: &key, endpoints: set, labels: None, policy: &policy, lb, distribution: None, client: None };
        Cluster::new(&spec, registry, Nanos(0))
    }

    fn picker(endpoints: Vec<Endpoint>, policy: Policy) -> Cluster {
        of(&Arc::new(EndpointSet { endpoints }), policy, &Registry::default())
    }

    fn ask(tried: &[EndpointAddr]) -> Ask<'_> {
        Ask { tried, now: Nanos(1), ..Ask::default() }
    }

    fn shares(picker: &Cluster, picks: usize) -> HashMap<u8, usize> {
        let mut rng = Rng::with_seed(7);
        let mut shares = HashMap::new();
        for _ in 0..picks {
            let chosen = picker.pick(&ask(&[]), &mut rng).expect("there are endpoints");
            let std::net::IpAddr::V4(ip) = chosen.addr().ip() else { panic!("an IPv4 endpoint") };
            *shares.entry(ip.octets()[3]).or_default() += 1;
        }
        shares
    }

    const ALL: [Policy; 4] = [Policy::RoundRobin, Policy::LeastRequest, Policy::PeakEwma, Policy::Random];

    #[test]
    fn round_robin_is_exact() {
        let picker = picker((1..=3).map(|i| endpoint(i, 1, EndpointHealth::Ready)).collect(), Policy::RoundRobin);
        let shares = shares(&picker, 100);
        assert!(shares.values().all(|n| (33..=34).contains(n)), "{shares:?}");
    }

    #[test]
    fn weights_are_followed() {
        for policy in [Policy::RoundRobin, Policy::Random] {
            let picker =
                picker(vec![endpoint(1, 1, EndpointHealth::Ready), endpoint(2, 3, EndpointHealth::Ready)], policy);
            let heavy = shares(&picker, 4000)[&2];
            assert!((2850..=3150).contains(&heavy), "{policy:?}: {heavy}");
        }
    }

    #[test]
    fn least_request_shares_follow_weights_under_load() {
        let picker = picker(
            vec![endpoint(1, 1, EndpointHealth::Ready), endpoint(2, 3, EndpointHealth::Ready)],
            Policy::LeastRequest,
        );
        let mut rng = Rng::with_seed(3);
        // Requests that never end: the number in flight is the share.
        let held: Vec<_> = (0..400).map(|_| picker.pick(&ask(&[]), &mut rng).map(|c| c.start(Nanos(1)))).collect();
        let heavy = held.iter().flatten().filter(|r| r.state().addr.ip().to_string() == "10.0.0.2").count();
        assert!((290..=310).contains(&heavy), "{heavy}");
    }

    #[test]
    fn a_busy_or_slow_endpoint_gets_less() {
        for policy in [Policy::LeastRequest, Policy::PeakEwma] {
            let picker = picker((1..=2).map(|i| endpoint(i, 1, EndpointHealth::Ready)).collect(), policy);
            let slow = &picker.candidates.states[0];
            slow.observe(std::time::Duration::from_secs(1), Nanos(1));
            let _busy: Vec<_> = (0..9).map(|_| slow.start(Nanos(1))).collect();
            assert_eq!(shares(&picker, 100).get(&1), None, "{policy:?}");
        }
    }

    #[test]
    fn a_failing_endpoint_is_passed_over_while_another_works() {
        for policy in ALL {
            let picker = picker((1..=2).map(|i| endpoint(i, 1, EndpointHealth::Ready)).collect(), policy);
            picker.candidates.states[0].connect_failed(Nanos(1));
            assert_eq!(shares(&picker, 50).get(&1), None, "{policy:?}");
            picker.candidates.states[1].connect_failed(Nanos(1));
            assert_eq!(shares(&picker, 50).len(), 2, "{policy:?}: with none left all are tried");
        }
    }

    #[test]
    fn draining_endpoints_serve_only_alone() {
        let ready = picker(
            vec![endpoint(1, 1, EndpointHealth::Draining), endpoint(2, 1, EndpointHealth::Ready)],
            Policy::RoundRobin,
        );
        assert_eq!(shares(&ready, 10).len(), 1);
        let alone = picker(
            vec![endpoint(1, 1, EndpointHealth::Draining), endpoint(2, 1, EndpointHealth::NotReady)],
            Policy::RoundRobin,
        );
        assert_eq!(shares(&alone, 10)[&1], 10);
        assert!(picker(vec![endpoint(2, 1, EndpointHealth::NotReady)], Policy::Random).is_empty());
    }

    #[test]
    fn state_survives_a_new_set() {
        let registry = Registry::default();
        let set = |n: u8| {
            Arc::new(EndpointSet { endpoints: (1..=n).map(|i| endpoint(i, 1, EndpointHealth::Ready)).collect() })
        };
        let before = of(&set(2), Policy::Random, &registry);
        before.candidates.states[1].connect_failed(Nanos(1));
        let after = of(&set(5), Policy::Random, &registry);
        assert_eq!(after.candidates.states[1].failures(), 1);
    }

    fn any_health() -> impl Strategy<Value = EndpointHealth> {
        prop_oneof![Just(EndpointHealth::Ready), Just(EndpointHealth::Draining), Just(EndpointHealth::NotReady)]
    }

    proptest! {
        #[test]
        fn chosen_is_usable_and_untried(
            endpoints in proptest::collection::vec((1_u32..2000, any_health()), 0..12),
            policy in proptest::sample::select(&ALL[..]),
            tried in proptest::collection::vec(0_u8..12, 0..6),
            failing in proptest::collection::vec(0_usize..12, 0..6),
            seed: u64,
        ) {
            let endpoints: Vec<_> = endpoints.iter().zip(0_u8..).map(|((w, h), i)| endpoint(i, *w, *h)).collect();
            let tried: Vec<_> = tried.iter().map(|i| EndpointAddr::new(([10, 0, 0, *i], 80).into())).collect();
            let usable: Vec<_> = {
                let of = |health| endpoints.iter().filter(|e| e.health == health).map(|e| e.addr).collect::<Vec<_>>();
                let ready = of(EndpointHealth::Ready);
                if ready.is_empty() { of(EndpointHealth::Draining) } else { ready }
            };
            let picker = picker(endpoints, policy);
            for index in failing {
                if let Some(state) = picker.candidates.states.get(index) {
                    state.connect_failed(Nanos(1));
                }
            }
            let mut rng = Rng::with_seed(seed);
            for _ in 0..20 {
                match picker.pick(&ask(&tried), &mut rng) {
                    Err(_) => prop_assert!(usable.is_empty()),
                    Ok(chosen) => {
                        prop_assert!(usable.contains(&chosen.addr()));
                        let untried = usable.iter().any(|addr| !tried.contains(addr));
                        prop_assert!(!untried || !tried.contains(&chosen.addr()));
                    }
                }
            }
        }
    }
}
