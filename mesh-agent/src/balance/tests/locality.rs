use super::*;
use crate::addr::EndpointAddr;
use crate::snapshot::WorkloadKey;
use crate::snapshot::policy::{OutlierDetection, TrafficPolicy};
use crate::snapshot::{ClusterKey, EndpointHealth, EndpointSet, Enrolment, LbPolicy, Owner, PortKey, ServiceName};

fn locality(text: &str) -> Locality {
    let mut parts = text.split('/').map(Into::into).chain(std::iter::repeat("".into()));
    let mut next = || parts.next().unwrap();
    Locality { region: next(), zone: next(), subzone: next() }
}

fn workload(at: &str, node: &str, labels: &[(&str, &str)]) -> Workload {
    Workload {
        key: WorkloadKey { namespace: "shop".into(), name: "web".into(), uid: "1".into() },
        owner: Owner { kind: "Deployment".into(), name: "web".into() },
        service_account: "default".into(),
        node: node.into(),
        labels: labels.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(),
        ips: Vec::new(),
        locality: locality(at),
        enrolment: Enrolment::Elsewhere,
    }
}

fn endpoint(last: u8, weight: u32, workload: Workload) -> Endpoint {
    Endpoint {
        addr: EndpointAddr::new(([10, 0, 0, last], 80).into()),
        weight,
        health: EndpointHealth::Ready,
        locality: workload.locality.clone(),
        workload: Some(Arc::new(workload)),
    }
}

fn set(of: impl IntoIterator<Item = Workload>) -> Vec<Endpoint> {
    of.into_iter().zip(1..).map(|(workload, last)| endpoint(last, 1, workload)).collect()
}

/// (priority, weight, last bytes of the members).
type Ranked = Vec<(u8, u32, Vec<u8>)>;

fn ranked(
    policy: &TrafficPolicy,
    distribution: Option<TrafficDistribution>,
    client: &Workload,
    endpoints: &[Endpoint],
) -> Ranked {
    ranked_in(None, policy, distribution, client, endpoints)
}

fn ranked_in(
    mesh: Option<LocalityPolicy>,
    policy: &TrafficPolicy,
    distribution: Option<TrafficDistribution>,
    client: &Workload,
    endpoints: &[Endpoint],
) -> Ranked {
    let mesh = mesh.map(Arc::new);
    let spec = Spec {
        key: &ClusterKey::from(PortKey::new(ServiceName::new("shop", "cart"), 80)),
        endpoints: &Arc::new(EndpointSet::default()),
        labels: None,
        policy: &Arc::new(policy.clone()),
        lb: LbPolicy::Default,
        distribution,
        locality: mesh.as_ref(),
        client: Some(client),
    };
    let ranks = Outlook::of(&spec).ranks(spec.locality().map(|l| &**l), &endpoints.iter().collect::<Vec<_>>());
    let last = |e: &&Endpoint| match e.addr.ip() {
        std::net::IpAddr::V4(ip) => ip.octets()[3],
        std::net::IpAddr::V6(_) => 0,
    };
    ranks.iter().map(|r| (r.priority, r.weight, r.members.iter().map(last).collect())).collect()
}

fn policy(locality: Option<LocalityPolicy>, outlier: bool) -> TrafficPolicy {
    let outlier = outlier.then(|| Arc::new(OutlierDetection::default()));
    TrafficPolicy { locality: locality.map(Arc::new), outlier, ..TrafficPolicy::default() }
}

fn everywhere() -> Vec<Endpoint> {
    set(["eu/a/1", "eu/a/2", "eu/b", "us/a/1", "as"].map(|at| workload(at, "n", &[])))
}

const FLAT: &[(u8, u32, &[u8])] = &[(0, 1, &[1, 2, 3, 4, 5])];

fn owned(expected: &[(u8, u32, &[u8])]) -> Ranked {
    expected.iter().map(|(p, w, m)| (*p, *w, m.to_vec())).collect()
}

#[test]
fn closeness_counts_only_with_outlier_detection() {
    let client = workload("eu/a/1", "n", &[]);
    let of = |locality, outlier| ranked(&policy(locality, outlier), None, &client, &everywhere());
    let close: &[(u8, u32, &[u8])] = &[(0, 1, &[1]), (1, 1, &[2]), (2, 1, &[3]), (3, 1, &[4, 5])];
    assert_eq!(of(None, true), owned(close), "the mesh's default");
    assert_eq!(of(None, false), owned(FLAT));
    assert_eq!(of(Some(LocalityPolicy::Off), true), owned(FLAT));
    let nowhere = workload("", "n", &[]);
    assert_eq!(ranked(&policy(None, true), None, &nowhere, &everywhere()), owned(FLAT));
}

/// SEMANTICS §5: "resolution order DR > Service trafficDistribution > mesh".
#[test]
fn the_meshs_setting_counts_where_nobody_else_speaks() {
    let client = workload("eu/a/1", "n", &[]);
    let to_asia = || LocalityPolicy::Failover { regions: vec![("eu".into(), "as".into())], always: false };
    let of = |mesh, own, distribution| ranked_in(Some(mesh), &policy(own, true), distribution, &client, &everywhere());
    let failover: &[(u8, u32, &[u8])] = &[(0, 1, &[1]), (1, 1, &[2]), (2, 1, &[3]), (3, 1, &[5]), (4, 1, &[4])];
    assert_eq!(of(to_asia(), None, None), owned(failover));
    assert_eq!(of(LocalityPolicy::Off, None, None), owned(FLAT));
    assert_eq!(of(LocalityPolicy::Off, Some(to_asia()), None), owned(failover));
    let same_zone = ranked(&policy(None, true), Some(TrafficDistribution::SameZone), &client, &everywhere());
    assert_eq!(of(LocalityPolicy::Off, None, Some(TrafficDistribution::SameZone)), same_zone);
}

#[test]
fn failover_prefers_the_named_region() {
    let client = workload("eu/a/1", "n", &[]);
    let to = |from: &str, to: &str| {
        let failover = LocalityPolicy::Failover { regions: vec![(from.into(), to.into())], always: false };
        ranked(&policy(Some(failover), true), None, &client, &everywhere())
    };
    let us: &[(u8, u32, &[u8])] = &[(0, 1, &[1]), (1, 1, &[2]), (2, 1, &[3]), (3, 1, &[4]), (4, 1, &[5])];
    assert_eq!(to("eu", "us"), owned(us));
    assert_eq!(to("us", "as").len(), 4, "of another region: does not count");
}

#[test]
fn priorities_have_no_gaps() {
    let client = workload("eu/a/1", "n", &[]);
    let endpoints = set(["eu/b", "us"].map(|at| workload(at, "n", &[])));
    let expected: &[(u8, u32, &[u8])] = &[(0, 1, &[1]), (1, 1, &[2])];
    assert_eq!(ranked(&policy(None, true), None, &client, &endpoints), owned(expected));
}

#[test]
fn labels_rank_by_their_matching_prefix() {
    let client = workload("eu/a", "n1", &[("app", "x"), ("version", "v1")]);
    let endpoints = set([
        workload("", "n", &[("app", "x"), ("version", "v1")]),
        workload("", "n", &[("app", "x"), ("version", "v2")]),
        // The first label decides before the second is looked at.
        workload("", "n", &[("app", "y"), ("version", "v1")]),
    ]);
    let keys = vec![("app".into(), None), ("version".into(), None)];
    let of =
        |keys| ranked(&policy(Some(LocalityPolicy::Labels { keys, always: false }), true), None, &client, &endpoints);
    let expected: &[(u8, u32, &[u8])] = &[(0, 1, &[1]), (1, 1, &[2]), (2, 1, &[3])];
    assert_eq!(of(keys), owned(expected));
    let wanted: &[(u8, u32, &[u8])] = &[(0, 1, &[2]), (1, 1, &[1, 3])];
    assert_eq!(of(vec![("version".into(), Some("v2".into()))]), owned(wanted));
}

#[test]
fn traffic_distribution_needs_no_outlier_detection() {
    let client = workload("eu/a", "n1", &[]);
    let endpoints = set([workload("eu/a", "n2", &[]), workload("eu/a", "n1", &[]), workload("us/a", "n1", &[])]);
    let of = |distribution| ranked(&policy(None, false), Some(distribution), &client, &endpoints);
    let zone: &[(u8, u32, &[u8])] = &[(0, 1, &[1, 2]), (1, 1, &[3])];
    assert_eq!(of(TrafficDistribution::SameZone), owned(zone));
    let node: &[(u8, u32, &[u8])] = &[(0, 1, &[2]), (1, 1, &[1]), (2, 1, &[3])];
    assert_eq!(of(TrafficDistribution::SameNode), owned(node));
}

#[test]
fn distribute_divides_by_pattern_and_weight() {
    let client = workload("eu/a/1", "n", &[]);
    let at = |last, weight, at| endpoint(last, weight, workload(at, "n", &[]));
    let endpoints = vec![at(1, 1, "eu/a/1"), at(2, 2, "eu/a/2"), at(3, 1, "eu/b"), at(4, 1, "us/a")];
    let rule = |from: &str, to: &[(&str, u32)]| Distribution {
        from: from.into(),
        to: to.iter().map(|(to, share)| ((*to).into(), *share)).collect(),
    };
    let of = |rule| ranked(&policy(Some(LocalityPolicy::Distribute(vec![rule])), false), None, &client, &endpoints);
    // 70 over weights 1 and 2: ⌈23.3⌉ and ⌈46.7⌉. `us` is not listed.
    let expected: &[(u8, u32, &[u8])] = &[(0, 24, &[1]), (0, 47, &[2]), (0, 30, &[3])];
    assert_eq!(of(rule("eu/a/*", &[("eu/a/*", 70), ("eu/b/*", 30)])), owned(expected));
    let flat: &[(u8, u32, &[u8])] = &[(0, 1, &[1, 2, 3, 4])];
    assert_eq!(of(rule("us/*", &[("us/*", 100)])), owned(flat), "not this client's");
}
