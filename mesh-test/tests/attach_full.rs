//! Each map when it is full: the stated behaviour, counted, shown; and room is used again.

mod support_attach;

use mesh_agent::kernel::{Capacities, FailurePolicy, PrefixRule, SkMsg};
use mesh_agent::snapshot::Protocol;
use mesh_common::Reason;
use mesh_common::maps::Verdict;
use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use support_attach::{Node, eventually};

const TINY: Capacities = Capacities::TINY;

fn tiny() -> Node {
    Node::start(|config| config.capacities = TINY)
}

#[test]
fn pods() {
    let mut node = tiny();
    let mut pods: Vec<_> = (0..TINY.pods).map(|i| node.pod(&format!("pod-{i}"))).collect();
    let extra = node.bare_pod("extra");
    let report = node.kernel().enrol(&extra.key, extra.cookie, false);
    assert!(report.problems[0].contains("PODS is full"), "{report:?}");
    assert_eq!(node.count(Reason::PodsFull), 1);
    // Left untouched, not broken.
    let server = extra.endpoint("127.0.0.1:8080");
    node.service("web", "127.0.0.1:8080", Protocol::Http, &[]);
    extra.connect("127.0.0.1:8080").unwrap();
    server.accept().unwrap();
    // Room again.
    let gone = pods.pop().unwrap();
    assert_eq!(node.kernel().leave(&gone.key).removed, 1);
    assert!(node.kernel().enrol(&extra.key, extra.cookie, false).problems.is_empty());
}

#[test]
fn services() {
    let mut node = tiny();
    let pod = node.pod("client");
    for i in 0..TINY.services {
        assert!(node.service(&format!("s{i}"), &format!("127.0.1.{i}:80"), Protocol::Http, &[]).problems.is_empty());
    }
    let server = pod.endpoint("127.0.1.200:80");
    let report = node.service("extra", "127.0.1.200:80", Protocol::Http, &[]);
    assert!(report.problems[0].contains("SERVICES is full"), "{report:?}");
    assert_eq!((node.count(Reason::ServicesFull), node.kernel().status().unplaced_addresses), (1, 1));
    pod.connect("127.0.1.200:80").unwrap();
    server.accept().unwrap();
    assert_eq!(node.count(Reason::NoTarget), 1);
    // A service goes: the one that waited takes its place by itself.
    node.remove_service("s0");
    assert_eq!(node.kernel().status().unplaced_addresses, 0);
    pod.connect("127.0.1.200:80").unwrap();
    assert!(pod.accept(false).is_some());
}

#[test]
fn prefixes() {
    let mut node = tiny();
    let rule = Some(PrefixRule { verdict: Verdict::Deny, failure: FailurePolicy::Closed });
    for i in 0..TINY.prefixes {
        assert!(node.kernel().prefix(format!("10.{i}.0.0/16").parse().unwrap(), rule).problems.is_empty());
    }
    let report = node.kernel().prefix("10.200.0.0/16".parse().unwrap(), rule);
    assert!(report.problems[0].contains("PREFIXES is full"), "{report:?}");
    assert_eq!(node.count(Reason::PrefixesFull), 1);
}

#[test]
fn endpoints() {
    let mut node = tiny();
    let pod = node.pod("client");
    let server = pod.endpoint("127.0.1.200:5432");
    let all: Vec<SocketAddr> = (0..=TINY.endpoints).map(|i| SocketAddr::from(([127, 0, 2, i as u8], 1))).collect();
    let report = node.service("big", "127.0.1.200:5432", Protocol::Tcp, &all);
    assert!(report.problems[0].contains("ENDPOINTS is full"), "{report:?}");
    // Fail-open: as if there were no mesh; and no slot is left behind.
    pod.connect("127.0.1.200:5432").unwrap();
    server.accept().unwrap();
    assert_eq!((node.count(Reason::EndpointsFull), node.count(Reason::PassedByRule)), (1, 1));
    assert!(node.kernel().dump().unwrap().rows.iter().all(|row| row.map != "ENDPOINTS"));
    // A smaller set fits.
    let fits: Vec<SocketAddr> = vec![server.local_addr().unwrap()];
    assert!(node.service("big", "127.0.1.200:5432", Protocol::Tcp, &fits).problems.is_empty());
    pod.connect("127.0.1.200:5432").unwrap();
    assert_eq!(node.count(Reason::ToEndpoint), 1);
}

#[test]
fn flows() {
    let mut node = tiny();
    let pod = node.pod("client");
    let server = pod.endpoint("127.0.1.1:80");
    node.service("web", "127.0.1.1:80", Protocol::Http, &[]);
    let held: Vec<_> =
        (0..TINY.flows).map(|_| (pod.connect("127.0.1.1:80").unwrap(), pod.accept(false).unwrap())).collect();
    assert_eq!(node.counters().open_flows(), u64::from(TINY.flows));
    // One more goes its own way, or is refused where the destination fails closed.
    pod.connect("127.0.1.1:80").unwrap();
    server.accept().unwrap();
    let closed = PrefixRule { verdict: Verdict::Agent, failure: FailurePolicy::Closed };
    node.kernel().prefix("127.0.9.0/24".parse().unwrap(), Some(closed));
    assert_eq!(pod.connect("127.0.9.1:80").unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    assert_eq!((node.count(Reason::FlowsFullOpen), node.count(Reason::FlowsFullClosed)), (1, 1));
    drop(held);
    let counters = node.counters();
    eventually("closed flows make room", || counters.open_flows() == 0);
    pod.connect("127.0.1.1:80").unwrap();
    assert!(pod.accept(false).is_some());
}

#[test]
fn socks() {
    let mut node = Node::start(|config| {
        config.capacities = TINY;
        config.sk_msg = SkMsg::On;
    });
    let pod = node.pod("client");
    node.service("api", "10.96.0.10:80", Protocol::Grpc, &[]);
    // Room for the two ends of one flow; the second flow works over TCP.
    let mut pairs: Vec<_> =
        (0..2).map(|_| (pod.connect("10.96.0.10:80").unwrap(), pod.accept(false).unwrap().0)).collect();
    for (app, agent) in &mut pairs {
        for _ in 0..3 {
            app.write_all(b"ping").unwrap();
            agent.read_exact(&mut [0; 4]).unwrap();
        }
    }
    assert_eq!((node.count(Reason::SockAdded), node.count(Reason::SockFull)), (2, 2));
    assert_eq!(node.count(Reason::Redirected), 3);
}

#[test]
fn statistics_and_names() {
    let mut node = tiny();
    let pod = node.pod("client");
    let server = pod.endpoint("127.0.0.1:7001");
    for i in 0..3 {
        node.service(&format!("db{i}"), &format!("10.96.0.{i}:5432"), Protocol::Tcp, &[server.local_addr().unwrap()]);
        pod.connect(&format!("10.96.0.{i}:5432")).unwrap();
        server.accept().unwrap();
    }
    assert_eq!(node.count(Reason::ToEndpoint), 3, "placing does not depend on statistics");
    assert_eq!(node.counters().services().len(), TINY.stats as usize);
    assert!(node.count(Reason::StatsFull) >= 2);
}

#[test]
fn events() {
    let mut node = Node::start(|config| {
        config.capacities = TINY;
        config.events = true;
    });
    let pod = node.pod("client");
    let rule = Some(PrefixRule { verdict: Verdict::Deny, failure: FailurePolicy::Closed });
    node.kernel().prefix("10.0.0.0/8".parse().unwrap(), rule);
    // 4,096 bytes hold 33 records of 112 bytes and their headers of 8 (rounded to 8).
    for _ in 0..60 {
        pod.connect("10.0.0.1:80").unwrap_err();
    }
    assert!(node.count(Reason::EventLost) >= 20, "{}", node.count(Reason::EventLost));
    assert_eq!(node.count(Reason::DeniedByRule), 60, "the verdict does not depend on events");
    let mut ring = node.kernel().events().unwrap().unwrap();
    let read = std::iter::from_fn(|| ring.next()).count() as u64;
    assert_eq!(read + node.count(Reason::EventLost), 60);
}
