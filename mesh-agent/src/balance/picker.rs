//! The immutable view of one port's endpoints that a worker chooses from.

use super::policy::{Candidates, Policy};
use super::{EndpointState, Registry};
use crate::addr::EndpointAddr;
use crate::snapshot::{EndpointHealth, EndpointSet, PortKey};
use crate::time::Nanos;
use fastrand::Rng;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Made once per change of the endpoints, used for every request in between.
#[derive(Debug)]
pub struct Picker {
    /// Identity of the set the picker was made from: another pointer means another picker.
    set: Arc<EndpointSet>,
    policy: Policy,
    /// Ready endpoints, or the draining ones where none is ready (KEP-1669).
    candidates: Candidates,
    /// Position of round robin, shared by all workers so that shares are exact whoever serves.
    cursor: Arc<AtomicUsize>,
}

/// A chosen endpoint.
#[derive(Clone, Debug)]
pub struct Chosen {
    pub state: Arc<EndpointState>,
}

impl Chosen {
    pub fn addr(&self) -> EndpointAddr {
        self.state.addr
    }
}

impl Picker {
    pub fn new(key: &PortKey, set: &Arc<EndpointSet>, policy: Policy, registry: &Registry) -> Self {
        let of = |health: EndpointHealth| -> Vec<_> { set.endpoints.iter().filter(|e| e.health == health).collect() };
        let mut usable = of(EndpointHealth::Ready);
        if usable.is_empty() {
            usable = of(EndpointHealth::Draining);
        }
        let states = usable.iter().map(|e| registry.endpoint(key, e.addr)).collect();
        let weights = usable.iter().map(|e| e.weight).collect();
        Self {
            set: Arc::clone(set),
            policy,
            candidates: Candidates::new(states, weights),
            cursor: registry.cursor(key),
        }
    }

    /// Whether the picker still shows this set.
    pub fn is_of(&self, set: &Arc<EndpointSet>, policy: Policy) -> bool {
        Arc::ptr_eq(&self.set, set) && self.policy == policy
    }

    pub fn is_empty(&self) -> bool {
        self.candidates.len() == 0
    }

    /// The endpoint for one request.
    ///
    /// Never one in `tried` while there is another; an endpoint whose connections fail is passed over while there is
    /// one that works. `None` where there is no endpoint at all.
    pub fn pick(&self, tried: &[EndpointAddr], now: Nanos, rng: &mut Rng) -> Option<Chosen> {
        let cursor = match self.policy {
            // A second attempt takes no turn: with two endpoints each call would begin at the same one.
            Policy::RoundRobin if tried.is_empty() => self.cursor.fetch_add(1, Relaxed),
            Policy::RoundRobin => self.cursor.load(Relaxed),
            Policy::LeastRequest | Policy::PeakEwma | Policy::Random => 0,
        };
        let preferred = self.candidates.choose(self.policy, cursor, now, rng)?;
        let index = self.first_good(preferred, |state| !tried.contains(&state.addr) && !state.is_avoided(now));
        let index =
            index.or_else(|| self.first_good(preferred, |state| !tried.contains(&state.addr))).unwrap_or(preferred);
        let state = Arc::clone(self.candidates.states.get(index)?);
        Some(Chosen { state })
    }

    /// `preferred`, else the next one round the circle that is good.
    fn first_good(&self, preferred: usize, good: impl Fn(&EndpointState) -> bool) -> Option<usize> {
        let count = self.candidates.len();
        (0..count)
            .map(|step| (preferred + step) % count)
            .find(|index| self.candidates.states.get(*index).is_some_and(|state| good(state)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::{Endpoint, Locality, ServiceName};
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

    fn picker(endpoints: Vec<Endpoint>, policy: Policy) -> Picker {
        Picker::new(&key(), &Arc::new(EndpointSet { endpoints }), policy, &Registry::default())
    }

    fn shares(picker: &Picker, picks: usize) -> HashMap<u8, usize> {
        let mut rng = Rng::with_seed(7);
        let mut shares = HashMap::new();
        for _ in 0..picks {
            let chosen = picker.pick(&[], Nanos(1), &mut rng).expect("there are endpoints");
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
        let held: Vec<_> = (0..400).map(|_| picker.pick(&[], Nanos(1), &mut rng).map(|c| c.state.start())).collect();
        let heavy = held.iter().flatten().filter(|r| r.state().addr.ip().to_string() == "10.0.0.2").count();
        assert!((290..=310).contains(&heavy), "{heavy}");
    }

    #[test]
    fn a_busy_or_slow_endpoint_gets_less() {
        for policy in [Policy::LeastRequest, Policy::PeakEwma] {
            let picker = picker((1..=2).map(|i| endpoint(i, 1, EndpointHealth::Ready)).collect(), policy);
            let slow = &picker.candidates.states[0];
            slow.observe(std::time::Duration::from_secs(1), Nanos(1));
            let _busy: Vec<_> = (0..9).map(|_| slow.start()).collect();
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
        let before = Picker::new(&key(), &set(2), Policy::Random, &registry);
        before.candidates.states[1].connect_failed(Nanos(1));
        let after = Picker::new(&key(), &set(5), Policy::Random, &registry);
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
                match picker.pick(&tried, Nanos(1), &mut rng) {
                    None => prop_assert!(usable.is_empty()),
                    Some(chosen) => {
                        prop_assert!(usable.contains(&chosen.addr()));
                        let untried = usable.iter().any(|addr| !tried.contains(addr));
                        prop_assert!(!untried || !tried.contains(&chosen.addr()));
                    }
                }
            }
        }
    }
}
