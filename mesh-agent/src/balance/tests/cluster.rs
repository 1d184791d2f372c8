use super::*;
use crate::balance::Ended;
use crate::snapshot::policy::{ConsistentHash, HashKey, HashTable, LocalityPolicy, OutlierDetection, Warmup};
use crate::snapshot::{
    Enrolment, Locality, Owner, PortKey, Protocol, Service, ServiceName, ServicePort, Snapshot, WorkloadKey,
};
use fastrand::Rng;
use proptest::prelude::*;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

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
    let hash = |table| Balancer::ConsistentHash(Arc::new(ConsistentHash { key: HashKey::SourceIp, table }));
    match policy {
        Policy::RoundRobin => Balancer::RoundRobin,
        Policy::LeastRequest => Balancer::LeastRequest,
        Policy::PeakEwma => Balancer::PeakEwma,
        Policy::Random => Balancer::Random,
        Policy::RingHash => hash(HashTable::Ring { minimum_size: 1024 }),
        Policy::Maglev => hash(HashTable::Maglev { table_size: 65537 }),
        Policy::Passthrough => Balancer::Passthrough,
    }
}

fn cluster(endpoints: Vec<Endpoint>, policy: TrafficPolicy, registry: &Registry) -> Arc<Cluster> {
    cluster_for(endpoints, policy, None, registry)
}

fn cluster_for(
    endpoints: Vec<Endpoint>,
    policy: TrafficPolicy,
    client: Option<&Workload>,
    registry: &Registry,
) -> Arc<Cluster> {
    let spec = Spec {
        key: &ClusterKey::from(key()),
        endpoints: &Arc::new(EndpointSet { endpoints }),
        labels: None,
        policy: &Arc::new(policy),
        lb: LbPolicy::Default,
        distribution: None,
        locality: None,
        client,
    };
    registry.cluster(&spec, Nanos(0))
}

fn with(policy: Policy) -> TrafficPolicy {
    TrafficPolicy { balancer: balancer(policy), ..TrafficPolicy::default() }
}

fn picker(endpoints: Vec<Endpoint>, policy: Policy) -> Arc<Cluster> {
    cluster(endpoints, with(policy), &Registry::default())
}

fn ready(count: u8) -> Vec<Endpoint> {
    (1..=count).map(|last| endpoint(last, 1, EndpointHealth::Ready)).collect()
}

fn last(addr: EndpointAddr) -> u8 {
    match addr.ip() {
        std::net::IpAddr::V4(ip) => ip.octets()[3],
        std::net::IpAddr::V6(ip) => ip.octets()[15],
    }
}

fn ask(tried: &[EndpointAddr]) -> Ask<'_> {
    Ask { tried, now: Nanos(1), ..Ask::default() }
}

fn shares(picker: &Cluster, picks: usize) -> HashMap<u8, usize> {
    let mut rng = Rng::with_seed(7);
    let mut shares = HashMap::new();
    for _ in 0..picks {
        let chosen = picker.pick(&ask(&[]), &mut rng).expect("there are endpoints");
        *shares.entry(last(chosen.addr())).or_default() += 1;
    }
    shares
}

const ALL: [Policy; 6] =
    [Policy::RoundRobin, Policy::LeastRequest, Policy::PeakEwma, Policy::Random, Policy::RingHash, Policy::Maglev];

#[test]
fn round_robin_is_exact() {
    let picker = picker((1..=3).map(|i| endpoint(i, 1, EndpointHealth::Ready)).collect(), Policy::RoundRobin);
    let shares = shares(&picker, 100);
    assert!(shares.values().all(|n| (33..=34).contains(n)), "{shares:?}");
}

#[test]
fn weights_are_followed() {
    for policy in ALL.into_iter().filter(|policy| *policy != Policy::RingHash) {
        let picker = picker(vec![endpoint(1, 1, EndpointHealth::Ready), endpoint(2, 3, EndpointHealth::Ready)], policy);
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
        let slow = &picker.levels[0].hosts.states[0];
        slow.observe(Duration::from_secs(1), Nanos(1));
        let _busy: Vec<_> = (0..9).map(|_| slow.start(None, Nanos(1))).collect();
        assert_eq!(shares(&picker, 100).get(&1), None, "{policy:?}");
    }
}

#[test]
fn a_failing_endpoint_is_passed_over_while_another_works() {
    for policy in ALL {
        let picker = picker((1..=2).map(|i| endpoint(i, 1, EndpointHealth::Ready)).collect(), policy);
        picker.levels[0].hosts.states[0].connect_failed(Nanos(1));
        assert_eq!(shares(&picker, 50).get(&1), None, "{policy:?}");
        picker.levels[0].hosts.states[1].connect_failed(Nanos(1));
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
    let before = cluster(ready(2), with(Policy::Random), &registry);
    before.levels[0].hosts.states[1].connect_failed(Nanos(1));
    let after = cluster(ready(5), with(Policy::Random), &registry);
    assert_eq!(after.levels[0].hosts.states[1].failures(), 1);
}

fn outlier(max_ejection_percent: u32, min_health_percent: u32) -> Option<Arc<OutlierDetection>> {
    Some(Arc::new(OutlierDetection { max_ejection_percent, min_health_percent, ..OutlierDetection::default() }))
}

/// Fails the endpoints until they are ejected.
fn eject(cluster: &Cluster, which: &[u8], now: Nanos) {
    let states: Vec<_> = cluster.endpoints().map(|(_, state)| Arc::clone(state)).collect();
    for state in states.iter().filter(|state| which.contains(&last(state.addr))) {
        let active = cluster.chosen(state, 0).start(now);
        (0..5).for_each(|_| active.finished(Ended::Response { status: 500, grpc_status: None }, now));
        assert!(state.is_ejected());
    }
}

#[test]
fn ejected_endpoints_are_not_chosen_until_they_return() {
    for policy in ALL {
        let policy = TrafficPolicy { outlier: outlier(100, 0), ..with(policy) };
        let cluster = cluster(ready(3), policy, &Registry::default());
        assert_eq!(shares(&cluster, 300).len(), 3);
        eject(&cluster, &[1, 3], Nanos(1));
        assert_eq!(shares(&cluster, 100), HashMap::from([(2, 100)]));
        eject(&cluster, &[2], Nanos(1));
        let mut rng = Rng::with_seed(1);
        assert_eq!(cluster.pick(&ask(&[]), &mut rng).unwrap_err(), NoEndpoint::Ejected);
        let later = Ask { now: Nanos(41_000_000_000), ..Ask::default() };
        let back: std::collections::HashSet<_> =
            (0..300).map(|_| last(cluster.pick(&later, &mut rng).unwrap().addr())).collect();
        assert_eq!(back.len(), 3);
    }
}

#[test]
fn panic_uses_ejected_endpoints_too() {
    for policy in ALL {
        let policy = TrafficPolicy { outlier: outlier(100, 50), ..with(policy) };
        let cluster = cluster(ready(4), policy, &Registry::default());
        eject(&cluster, &[1, 2], Nanos(1));
        assert_eq!(shares(&cluster, 400).len(), 2, "half is enough");
        eject(&cluster, &[3], Nanos(1));
        assert_eq!(shares(&cluster, 400).len(), 4, "a quarter is not");
    }
}

#[test]
fn no_endpoints_differ_from_ejected_ones() {
    let empty = picker(Vec::new(), Policy::Random);
    assert_eq!(empty.pick(&ask(&[]), &mut Rng::with_seed(1)).unwrap_err(), NoEndpoint::Empty);
}

fn workload(region: &str, version: &str) -> Workload {
    Workload {
        key: WorkloadKey { namespace: "shop".into(), name: "web".into(), uid: "1".into() },
        owner: Owner { kind: "Deployment".into(), name: "web".into() },
        service_account: "default".into(),
        node: "n".into(),
        labels: [("version".into(), version.into())].into(),
        ips: Vec::new(),
        locality: Locality { region: region.into(), zone: "".into(), subzone: "".into() },
        enrolment: Enrolment::Elsewhere,
    }
}

fn placed(addr: u8, region: &str) -> Endpoint {
    let workload = workload(region, "v1");
    Endpoint { locality: workload.locality.clone(), workload: Some(Arc::new(workload)), ..ready(addr).pop().unwrap() }
}

#[test]
fn a_subset_may_be_a_place() {
    let endpoints = [(1, "eu"), (2, "us"), (3, "")].map(|(addr, region)| placed(addr, region)).to_vec();
    let members = |labels: &[(&str, &str)]| {
        let labels: BTreeMap<Arc<str>, Arc<str>> = labels.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        let found = endpoints.iter().filter(|endpoint| endpoint.bears(&labels));
        found.count()
    };
    let region = "topology.kubernetes.io/region";
    assert_eq!([members(&[(region, "eu")]), members(&[(region, "eu"), ("version", "v1")])], [1, 1]);
    assert_eq!([members(&[(region, "eu"), ("version", "v2")]), members(&[(region, "")]), members(&[])], [0, 0, 3]);
    let labels: BTreeMap<Arc<str>, Arc<str>> = [(region.into(), "us".into())].into();
    let spec = Spec {
        key: &ClusterKey::from(key()),
        endpoints: &Arc::new(EndpointSet { endpoints }),
        labels: Some(&labels),
        policy: &Arc::default(),
        lb: LbPolicy::Default,
        distribution: None,
        locality: None,
        client: None,
    };
    let chosen = shares(&Registry::default().cluster(&spec, Nanos(0)), 20);
    assert_eq!(chosen, [(2, 20)].into());
}

#[test]
fn ejections_move_load_to_farther_priorities() {
    for policy in ALL {
        let policy = TrafficPolicy { outlier: outlier(100, 0), ..with(policy) };
        let endpoints = [(1, "eu"), (2, "eu"), (3, "us"), (4, "us")].map(|(addr, region)| placed(addr, region));
        let client = workload("eu", "v1");
        let cluster = cluster_for(endpoints.to_vec(), policy, Some(&client), &Registry::default());
        let near =
            |cluster: &Cluster| shares(cluster, 4000).iter().filter(|(a, _)| **a < 3).map(|(_, n)| n).sum::<usize>();
        assert_eq!(near(&cluster), 4000);
        eject(&cluster, &[1], Nanos(1));
        // 140 × ½: 70 % stay. ±5 σ of 4,000 draws is ±145.
        assert!((2655..=2945).contains(&near(&cluster)), "{}", near(&cluster));
        eject(&cluster, &[2], Nanos(1));
        assert_eq!(near(&cluster), 0);
        let mut rng = Rng::with_seed(1);
        let far = cluster.pick(&ask(&[]), &mut rng).unwrap();
        assert_eq!(far.priority, 1);
    }
}

#[test]
fn retries_may_leave_priorities_out() {
    let policy = TrafficPolicy { outlier: outlier(100, 0), ..with(Policy::Random) };
    let client = workload("eu", "v1");
    let cluster = cluster_for(vec![placed(1, "eu"), placed(2, "us")], policy, Some(&client), &Registry::default());
    let mut exclude = Priorities::default();
    exclude.insert(0);
    let mut rng = Rng::with_seed(1);
    let ask = Ask { exclude, ..ask(&[]) };
    assert!((0..50).all(|_| last(cluster.pick(&ask, &mut rng).unwrap().addr()) == 2));
}

#[test]
fn a_farther_endpoint_helps_when_all_near_ones_were_tried_or_fail() {
    let policy = TrafficPolicy { outlier: outlier(100, 0), ..with(Policy::RoundRobin) };
    let client = workload("eu", "v1");
    let cluster = cluster_for(vec![placed(1, "eu"), placed(2, "us")], policy, Some(&client), &Registry::default());
    let tried = [EndpointAddr::new(([10, 0, 0, 1], 80).into())];
    let mut rng = Rng::with_seed(1);
    assert_eq!(last(cluster.pick(&ask(&tried), &mut rng).unwrap().addr()), 2);
    cluster.levels[0].hosts.states[0].connect_failed(Nanos(1));
    assert_eq!(last(cluster.pick(&ask(&[]), &mut rng).unwrap().addr()), 2);
}

#[test]
fn distribute_shares_by_locality() {
    let to = [("eu", 80), ("us", 20)].map(|(to, share)| (to.into(), share)).to_vec();
    let rule = crate::snapshot::policy::Distribution { from: "eu".into(), to };
    for policy in [Policy::RoundRobin, Policy::LeastRequest, Policy::PeakEwma, Policy::Random] {
        let locality = Some(Arc::new(LocalityPolicy::Distribute(vec![rule.clone()])));
        let policy = TrafficPolicy { locality, ..with(policy) };
        let endpoints = [(1, "eu"), (2, "us"), (3, "us"), (4, "as")].map(|(addr, region)| placed(addr, region));
        let client = workload("eu", "v1");
        let cluster = cluster_for(endpoints.to_vec(), policy, Some(&client), &Registry::default());
        let shares = shares(&cluster, 4000);
        // ±5 σ of 4,000 draws at 80 % is ±126.
        assert!((3074..=3326).contains(&shares[&1]), "{shares:?}");
        assert_eq!(shares.get(&4), None, "not listed");
    }
}

#[test]
fn a_key_keeps_its_endpoint() {
    for (policy, expected) in [(Policy::RingHash, [5, 6, 1]), (Policy::Maglev, [6, 3, 6])] {
        let cluster = picker(ready(6), policy);
        let mut rng = Rng::with_seed(1);
        let mut of = |key: &str, tried: &[EndpointAddr]| {
            let hash = Some(xxhash_rust::xxh64::xxh64(key.as_bytes(), 0));
            cluster.pick(&Ask { hash, ..ask(tried) }, &mut rng).unwrap().addr()
        };
        // Computed apart, from Envoy's algorithms.
        assert_eq!(["alice", "bob", "carol"].map(|key| last(of(key, &[]))), expected, "{policy:?}");
        let first = of("alice", &[]);
        let second = of("alice", &[first]);
        assert_ne!(second, first);
        assert_eq!(of("alice", &[first]), second, "a retry's place is fixed as well");
    }
}

#[test]
fn an_ejection_moves_only_the_keys_of_the_ejected() {
    for policy in [Policy::RingHash, Policy::Maglev] {
        let policy = TrafficPolicy { outlier: outlier(100, 0), ..with(policy) };
        let cluster = cluster(ready(6), policy, &Registry::default());
        let mut rng = Rng::with_seed(1);
        let mut of = |hash: u64| {
            let hash = Some(xxhash_rust::xxh64::xxh64(&hash.to_le_bytes(), 0));
            last(cluster.pick(&Ask { hash, ..ask(&[]) }, &mut rng).unwrap().addr())
        };
        let before: Vec<_> = (0..1000).map(&mut of).collect();
        eject(&cluster, &[4], Nanos(1));
        let after: Vec<_> = (0..1000).map(&mut of).collect();
        assert!(before.iter().zip(&after).all(|(b, a)| if *b == 4 { *a != 4 } else { a == b }));
        assert!(before.contains(&4));
    }
}

/// A large table is made beside the path; the former one serves meanwhile, and the new one is exact in the end.
#[test]
fn large_tables_are_made_beside_the_path() {
    let registry = Registry::default();
    let former = cluster(ready(6), with(Policy::Maglev), &registry);
    let mut rng = Rng::with_seed(1);
    former.pick(&Ask { hash: Some(1), ..ask(&[]) }, &mut rng).unwrap();
    let grown = cluster(ready(7), with(Policy::Maglev), &registry);
    for hash in 0..1000 {
        grown.pick(&Ask { hash: Some(hash), ..ask(&[]) }, &mut rng).unwrap();
    }
    let tables = grown.tables.as_ref().unwrap();
    tables.fill(&grown.levels);
    let alone = picker(ready(7), Policy::Maglev);
    for hash in 0..1000 {
        let ask = Ask { hash: Some(hash), ..ask(&[]) };
        assert_eq!(grown.pick(&ask, &mut rng).unwrap().addr(), alone.pick(&ask, &mut rng).unwrap().addr());
    }
}

#[test]
fn a_subset_has_only_its_own() {
    let registry = Registry::default();
    let of = |addr, version| Endpoint { workload: Some(Arc::new(workload("", version))), ..ready(addr).pop().unwrap() };
    let set = Arc::new(EndpointSet { endpoints: vec![of(1, "v1"), of(2, "v2"), of(3, "v2"), ready(4).pop().unwrap()] });
    let pick = |subset: Option<&str>| {
        let labels = subset.map(|version| [("version".into(), version.into())].into());
        let spec = Spec {
            key: &ClusterKey::new(key(), subset.map(Into::into)),
            endpoints: &set,
            labels: labels.as_ref(),
            policy: &Arc::new(with(Policy::RoundRobin)),
            lb: LbPolicy::Default,
            distribution: None,
            locality: None,
            client: None,
        };
        let cluster = registry.cluster(&spec, Nanos(0));
        assert!(cluster.is_of(&spec));
        cluster.endpoints().map(|(_, state)| last(state.addr)).collect::<Vec<_>>()
    };
    assert_eq!(pick(Some("v1")), [1]);
    assert_eq!(pick(Some("v2")), [2, 3]);
    assert_eq!(pick(Some("v3")), [0; 0]);
    assert_eq!(pick(None), [1, 2, 3, 4]);
}

#[test]
fn passthrough_goes_where_the_client_wants() {
    let cluster = picker(ready(2), Policy::Passthrough);
    let original = Some(EndpointAddr::new(([192, 0, 2, 1], 443).into()));
    let mut rng = Rng::with_seed(1);
    let chosen = cluster.pick(&Ask { original, ..ask(&[]) }, &mut rng).unwrap();
    assert_eq!(Some(chosen.addr()), original);
    let active = chosen.start(Nanos(1));
    let again = cluster.pick(&Ask { original, ..ask(&[]) }, &mut rng).unwrap();
    assert_eq!(again.state.active(), 1, "one state while somebody uses it");
    drop(active);
    assert!(last(cluster.pick(&ask(&[]), &mut rng).unwrap().addr()) <= 2);
}

/// One Service, with these endpoints.
fn snapshot(endpoints: Vec<Endpoint>) -> Snapshot {
    let port = ServicePort {
        key: key(),
        port: 80,
        name: "http".into(),
        protocol: Protocol::Http,
        lb: LbPolicy::Default,
        endpoints: Arc::new(EndpointSet { endpoints }),
    };
    let mut snapshot = Snapshot::default();
    let service = Service { ports: vec![Arc::new(port)], ..Service::new(key().service, "reviews") };
    snapshot.insert_service(Arc::new(service));
    snapshot
}

/// A pod's two endpoints.
fn pod(number: u8) -> [Endpoint; 2] {
    let key = WorkloadKey { uid: number.to_string().into(), ..workload("", "v1").key };
    let workload = Some(Arc::new(Workload { key, ..workload("", "v1") }));
    let v6 = EndpointAddr::new((std::net::Ipv6Addr::from(u128::from(number)), 80).into());
    let v4 = Endpoint { workload, ..endpoint(number, 1, EndpointHealth::Ready) };
    [v4.clone(), Endpoint { addr: v6, ..v4 }]
}

#[test]
fn a_pod_with_two_addresses_is_one_endpoint() {
    let mut endpoints = [pod(1), pod(2)].concat();
    // One that has IPv6 alone.
    endpoints.push(pod(3)[1].clone());
    let policy = TrafficPolicy { outlier: outlier(34, 0), ..with(Policy::RoundRobin) };
    let cluster = cluster(endpoints, policy, &Registry::default());
    assert_eq!(cluster.endpoints().count(), 3);
    eject(&cluster, &[1], Nanos(1));
    let mut rng = Rng::with_seed(1);
    let mut dialled = || cluster.pick(&ask(&[]), &mut rng).unwrap().dialled();
    let seen: std::collections::BTreeSet<_> = (0..20).map(|_| dialled()).collect();
    assert_eq!(seen, [pod(2)[0].addr, pod(3)[1].addr].into(), "nothing goes to the ejected pod's other address");
    let (_, second) = cluster.endpoints().nth(1).unwrap();
    second.connect_failed(Nanos(1));
    assert_eq!(second.dialled(), pod(2)[1].addr);
}

#[test]
fn an_ejection_outlives_the_cluster() {
    let registry = Registry::default();
    let policy = || TrafficPolicy { outlier: outlier(100, 0), ..with(Policy::RoundRobin) };
    let before = cluster(ready(2), policy(), &registry);
    eject(&before, &[1], Nanos(1));
    drop(before);
    registry.sweep(Nanos(2));
    let after = cluster(ready(2), policy(), &registry);
    assert_eq!(shares(&after, 10), HashMap::from([(2, 10)]));
    drop(after);
    registry.sweep(Nanos(40_000_000_000));
    assert!(registry.rows(Nanos(40_000_000_000)).is_empty(), "what is over is forgotten");
}

#[test]
fn a_new_endpoint_warms_up() {
    let warmup = Some(Warmup { duration: Duration::from_secs(60), minimum_percent: 10.0, aggression: 1.0 });
    for policy in [Policy::RoundRobin, Policy::LeastRequest, Policy::PeakEwma] {
        let registry = Registry::default();
        let policy = TrafficPolicy { warmup, ..with(policy) };
        let old = cluster(ready(3), policy.clone(), &registry);
        let later = |seconds: u64| Nanos(seconds * 1_000_000_000);
        registry.arrive(&snapshot(ready(3)), &snapshot(ready(4)), &[key().service], later(600));
        // Nobody asks for a while: nothing is held, and all are met anew.
        let key = old.key().clone();
        drop(old);
        let spec = Spec {
            key: &key,
            endpoints: &Arc::new(EndpointSet { endpoints: ready(4) }),
            labels: None,
            policy: &Arc::new(policy),
            lb: LbPolicy::Default,
            distribution: None,
            locality: None,
            client: None,
        };
        let grown = registry.cluster(&spec, later(601));
        let mut rng = Rng::with_seed(3);
        let mut share = |now| {
            let picks = (0..6200).map(|_| grown.pick(&Ask { now, ..Ask::default() }, &mut rng).unwrap());
            picks.filter(|chosen| last(chosen.addr()) == 4).count()
        };
        // Its share is f ÷ (3 + f): 200 of 6,200 at 10 %, 886 at 50 %, 1,550 at 100 %; ±5 σ.
        assert!((130..=270).contains(&share(later(600))), "{:?}", grown.choice());
        assert!((748..=1024).contains(&share(later(630))), "{:?}", grown.choice());
        assert!((1379..=1721).contains(&share(later(660))), "{:?}", grown.choice());
    }
}

#[test]
fn equal_specs_are_one_cluster() {
    let registry = Registry::default();
    let set = Arc::new(EndpointSet { endpoints: vec![placed(1, "eu"), placed(2, "us")] });
    let (plain, close) =
        (Arc::new(with(Policy::Random)), Arc::new(TrafficPolicy { outlier: outlier(10, 0), ..with(Policy::Random) }));
    let (eu, us) = (workload("eu", "v1"), workload("us", "v1"));
    let key = ClusterKey::from(key());
    let of = |policy: &Arc<TrafficPolicy>, client: &Workload| {
        let (labels, lb, distribution) = (None, LbPolicy::Default, None);
        let spec =
            Spec { key: &key, endpoints: &set, labels, policy, lb, distribution, locality: None, client: Some(client) };
        registry.cluster(&spec, Nanos(0))
    };
    let one = of(&plain, &eu);
    assert!(Arc::ptr_eq(&one, &of(&plain, &us)), "where the client is does not matter");
    let near = of(&close, &eu);
    assert!(Arc::ptr_eq(&near, &of(&Arc::new((*close).clone()), &eu)), "an equal policy is the same");
    assert!(!Arc::ptr_eq(&near, &of(&close, &us)));
    let first = |cluster: &Cluster| Arc::clone(cluster.endpoints().next().unwrap().1);
    assert!(Arc::ptr_eq(&first(&one), &first(&near)), "they share what is known of endpoints");
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
            if let Some((_, state)) = picker.endpoints().nth(index) {
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
