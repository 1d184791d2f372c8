//! The picker as the proxy uses it: real registry, seeded dice, a clock moved by hand.

use super::*;
use crate::snapshot::{Locality, ServiceName};
use fastrand::Rng;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::time::Duration;

const POLICIES: [LbPolicy; 5] =
    [LbPolicy::Default, LbPolicy::RoundRobin, LbPolicy::LeastRequest, LbPolicy::PeakEwma, LbPolicy::Random];

fn key() -> PortKey {
    PortKey::new(ServiceName::new("shop", "web"), 80)
}

fn addr(i: usize) -> EndpointAddr {
    EndpointAddr::new(([10, 0, (i / 250) as u8, (i % 250) as u8 + 1], 8080).into())
}

fn set(endpoints: impl IntoIterator<Item = (EndpointHealth, u32)>) -> Arc<EndpointSet> {
    let endpoint = |(i, (health, weight))| Endpoint {
        addr: addr(i),
        weight,
        health,
        workload: None,
        locality: Locality::default(),
    };
    Arc::new(EndpointSet { endpoints: endpoints.into_iter().enumerate().map(endpoint).collect() })
}

fn ready(n: usize) -> Arc<EndpointSet> {
    set((0..n).map(|_| (EndpointHealth::Ready, 1)))
}

fn shares(picker: &Picker, now: Instant, rng: &mut Rng, n: usize) -> BTreeMap<EndpointAddr, usize> {
    let mut counts = BTreeMap::new();
    for _ in 0..n {
        *counts.entry(picker.pick(now, rng, &[]).unwrap().addr).or_default() += 1;
    }
    counts
}

#[test]
fn round_robin_is_exact_over_workers_that_take_turns_at_random() {
    let registry = Registry::new();
    let set = ready(7);
    let workers: Vec<Picker> = (0..3).map(|_| Picker::for_set(&registry, &key(), &set, LbPolicy::RoundRobin)).collect();
    let mut rng = Rng::with_seed(4);
    let mut counts = BTreeMap::<_, usize>::new();
    for _ in 0..1000 {
        let worker = &workers[rng.usize(..3)];
        *counts.entry(worker.pick(Instant::now(), &mut rng, &[]).unwrap().addr).or_default() += 1;
    }
    // 1000 / 7 = 142.9
    assert!(counts.len() == 7 && counts.values().all(|c| (142..=143).contains(c)), "{counts:?}");
}

#[test]
fn every_policy_spreads_equal_endpoints() {
    for policy in POLICIES {
        let registry = Registry::new();
        let picker = Picker::for_set(&registry, &key(), &ready(5), policy);
        let mut rng = Rng::with_seed(5);
        let mut now = Instant::now();
        let mut counts = BTreeMap::<_, i64>::new();
        // 4 requests in flight, 10 ms each.
        let mut flying = std::collections::VecDeque::new();
        for _ in 0..5000 {
            let picked = picker.pick(now, &mut rng, &[]).unwrap();
            *counts.entry(picked.addr).or_default() += 1;
            flying.push_back(picked.begin(now));
            now += Duration::from_micros(2500);
            if flying.len() == 4 {
                flying.pop_front().unwrap().finish(now, true);
            }
        }
        // Bound: 20 % off an even share (6 σ of a fair draw is 17 %).
        assert!(counts.values().all(|c| (c - 1000).abs() < 200), "{policy:?} {counts:?}");
    }
}

#[test]
fn weights_shape_the_shares_of_every_policy() {
    for policy in POLICIES {
        let registry = Registry::new();
        let weighted = set([(EndpointHealth::Ready, 6), (EndpointHealth::Ready, 3), (EndpointHealth::Ready, 1)]);
        let picker = Picker::for_set(&registry, &key(), &weighted, policy);
        let counts = shares(&picker, Instant::now(), &mut Rng::with_seed(6), 10_000);
        let of = |i: usize| counts[&addr(i)] as f64 / 10_000.0;
        let near = |share: f64, want: f64| (share - want).abs() < 0.03;
        assert!(near(of(0), 0.6) && near(of(1), 0.3) && near(of(2), 0.1), "{policy:?} {counts:?}");
        if policy == LbPolicy::RoundRobin {
            assert_eq!((counts[&addr(0)], counts[&addr(2)]), (6000, 1000));
        }
    }
}

#[test]
fn ready_first_draining_only_alone_not_ready_never() {
    use EndpointHealth::{Draining, NotReady, Ready};
    let registry = Registry::new();
    let mut rng = Rng::with_seed(7);
    let now = Instant::now();
    let pick_set = |health: &[EndpointHealth], rng: &mut Rng| {
        let set = set(health.iter().map(|h| (*h, 1)));
        let picker = Picker::for_set(&registry, &key(), &set, LbPolicy::Random);
        (0..50).filter_map(|_| picker.pick(now, rng, &[]).map(|p| set.endpoints[p.index].health)).collect::<Vec<_>>()
    };
    assert!(pick_set(&[NotReady, Draining, Ready], &mut rng).iter().all(|h| *h == Ready));
    assert!(pick_set(&[NotReady, Draining], &mut rng).iter().all(|h| *h == Draining));
    assert_eq!(pick_set(&[NotReady], &mut rng), []);
    assert_eq!(pick_set(&[], &mut rng), []);
}

#[test]
fn a_retry_goes_elsewhere_while_it_can() {
    let registry = Registry::new();
    let mut rng = Rng::with_seed(8);
    let now = Instant::now();
    for policy in POLICIES {
        let picker = Picker::for_set(&registry, &key(), &ready(3), policy);
        for _ in 0..200 {
            assert_eq!(picker.pick(now, &mut rng, &[addr(0), addr(2)]).unwrap().addr, addr(1));
            assert!(picker.pick(now, &mut rng, &[addr(0), addr(1), addr(2)]).is_some());
        }
    }
}

#[test]
fn a_refusing_endpoint_is_avoided_probed_once_and_taken_back() {
    for policy in POLICIES {
        let registry = Registry::new();
        let picker = Picker::for_set(&registry, &key(), &ready(3), policy);
        let mut rng = Rng::with_seed(9);
        let now = Instant::now();
        let bad = registry.endpoint(&key(), addr(1));
        bad.on_connect_failure(now);
        assert_eq!(shares(&picker, now, &mut rng, 300).get(&addr(1)), None, "{policy:?}");
        let later = now + Duration::from_secs(2);
        let counts = shares(&picker, later, &mut rng, 300);
        assert_eq!(counts.get(&addr(1)), Some(&1), "{policy:?}: one probe");
        bad.on_success();
        assert!(shares(&picker, later, &mut rng, 300)[&addr(1)] > 50, "{policy:?}");
    }
}

#[test]
fn all_avoided_still_gets_an_endpoint() {
    let registry = Registry::new();
    let picker = Picker::for_set(&registry, &key(), &ready(3), LbPolicy::Default);
    let (now, mut rng) = (Instant::now(), Rng::with_seed(10));
    (0..3).for_each(|i| registry.endpoint(&key(), addr(i)).on_connect_failure(now));
    assert_eq!(shares(&picker, now, &mut rng, 300).len(), 3);
    registry.endpoint(&key(), addr(2)).on_success();
    // Refused this request's stream, but it is the only one that accepts connections.
    assert_eq!(picker.pick(now, &mut rng, &[addr(2)]).unwrap().addr, addr(2));
}

#[test]
fn what_was_learnt_survives_a_swap() {
    let registry = Registry::new();
    let (now, mut rng) = (Instant::now(), Rng::with_seed(11));
    let before = Picker::for_set(&registry, &key(), &ready(2), LbPolicy::LeastRequest);
    let held = before.pick(now, &mut rng, &[]).unwrap();
    let busy = held.addr;
    let active = held.begin(now);
    let grown = ready(3);
    assert!(!before.set_is(&grown));
    drop(before);
    let after = Picker::for_set(&registry, &key(), &grown, LbPolicy::LeastRequest);
    assert!(after.set_is(&grown));
    // Two choices never take the only busy one.
    assert_eq!(shares(&after, now, &mut rng, 300).get(&busy), None);
    active.finish(now, true);
    assert!(shares(&after, now, &mut rng, 300).contains_key(&busy));
}

#[test]
fn peak_ewma_leaves_a_slow_endpoint_alone_and_comes_back() {
    let registry = Registry::new();
    let picker = Picker::for_set(&registry, &key(), &ready(3), LbPolicy::PeakEwma);
    let (now, mut rng) = (Instant::now(), Rng::with_seed(12));
    for (i, ms) in [(0, 1), (1, 1), (2, 500)] {
        let state = registry.endpoint(&key(), addr(i));
        state.begin(now).finish(now + Duration::from_millis(ms), true);
    }
    assert_eq!(shares(&picker, now, &mut rng, 300).get(&addr(2)), None);
    // The others stay known at 1 ms; the slow one's memory fades: 500·e^-7 = 0.46 ms.
    let later = now + Duration::from_secs(70);
    for i in [0, 1] {
        registry.endpoint(&key(), addr(i)).begin(later).finish(later + Duration::from_millis(1), true);
    }
    assert!(shares(&picker, later, &mut rng, 300).contains_key(&addr(2)));
}

fn health() -> impl Strategy<Value = EndpointHealth> {
    prop_oneof![Just(EndpointHealth::Ready), Just(EndpointHealth::Draining), Just(EndpointHealth::NotReady)]
}

proptest! {
    #[test]
    fn chosen_is_in_the_best_tier(
        endpoints in prop::collection::vec((health(), 1u32..9), 0..20),
        failures in prop::collection::vec(0usize..20, 0..10),
        excluded in prop::collection::vec(0usize..20, 0..4),
        policy in prop::sample::select(&POLICIES[..]),
        seed: u64,
    ) {
        let registry = Registry::new();
        let set = set(endpoints);
        let picker = Picker::for_set(&registry, &key(), &set, policy);
        let (now, mut rng) = (Instant::now(), Rng::with_seed(seed));
        failures.iter().for_each(|i| registry.endpoint(&key(), addr(*i)).on_connect_failure(now));
        let excluded: Vec<_> = excluded.into_iter().map(addr).collect();
        let any = |h| set.endpoints.iter().any(|e| e.health == h);
        for _ in 0..20 {
            let health = picker.pick(now, &mut rng, &excluded).map(|p| picker.endpoint(&p).unwrap().health);
            let want = [EndpointHealth::Ready, EndpointHealth::Draining].into_iter().find(|h| any(*h));
            prop_assert_eq!(health, want);
        }
    }
}
