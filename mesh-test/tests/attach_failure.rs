//! What happens when the agent is gone or hung, and what is refused: nothing hangs, each destination has its way.

mod support_attach;

use mesh_agent::kernel::{FailurePolicy, PrefixRule};
use mesh_agent::snapshot::Protocol;
use mesh_common::Reason;
use mesh_common::maps::Verdict;
use std::io;
use std::time::{Duration, Instant};
use support_attach::{Node, Pod};

/// A server on loopback that is captured, so that "as if there were no mesh" can be seen: it answers itself.
const DIRECT: &str = "127.0.0.1:8080";
const CLOSED: &str = "127.0.0.2:8080";

fn world(node: &mut Node) -> (Pod, [std::net::TcpListener; 2]) {
    let pod = node.pod("client");
    let servers = [pod.endpoint(DIRECT), pod.endpoint(CLOSED)];
    node.service("web", DIRECT, Protocol::Http, &[]);
    let closed = PrefixRule { verdict: Verdict::Agent, failure: FailurePolicy::Closed };
    let report = node.kernel().prefix("127.0.0.2/32".parse().unwrap(), Some(closed));
    assert!(report.problems.is_empty());
    (pod, servers)
}

fn refused(pod: &Pod, to: &str) {
    let started = Instant::now();
    assert_eq!(pod.connect(to).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    assert!(started.elapsed() < Duration::from_millis(500), "refused at once");
}

fn served_by(pod: &Pod, to: &str, server: &std::net::TcpListener) {
    let app = pod.connect(to).unwrap();
    let (_, peer) = server.accept().unwrap();
    assert_eq!(app.local_addr().unwrap(), peer);
}

#[test]
fn a_killed_agent_is_noticed_at_the_next_connect() {
    let mut node = Node::start(|_| {});
    let (mut pod, [direct, _closed]) = world(&mut node);
    pod.connect(DIRECT).unwrap();
    assert!(pod.accept(false).is_some(), "alive: the agent has it");
    // What the kernel does for a killed process: its listeners close. The beat is still fresh.
    pod.listeners = None;
    served_by(&pod, DIRECT, &direct);
    refused(&pod, CLOSED);
    assert_eq!((node.count(Reason::ListenerGoneOpen), node.count(Reason::ListenerGoneClosed)), (1, 1));
    // Back again.
    node.listen(&mut pod);
    pod.connect(DIRECT).unwrap();
    assert!(pod.accept(false).is_some());
}

#[test]
fn a_hung_agent_is_noticed_within_a_second() {
    let mut node = Node::start(|config| config.beat_max_age = Duration::from_millis(300));
    let (pod, [direct, _closed]) = world(&mut node);
    pod.connect(CLOSED).unwrap();
    assert!(pod.accept(false).is_some());
    node.hang();
    std::thread::sleep(Duration::from_millis(350));
    served_by(&pod, DIRECT, &direct);
    refused(&pod, CLOSED);
    assert_eq!((node.count(Reason::BeatStaleOpen), node.count(Reason::BeatStaleClosed)), (1, 1));
    node.beat();
    pod.connect(DIRECT).unwrap();
    assert!(pod.accept(false).is_some());
}

#[test]
fn before_the_first_beat_nothing_goes_to_the_agent() {
    let mut node = Node::stopped(|_| {});
    node.boot();
    let (pod, [direct, _closed]) = world(&mut node);
    served_by(&pod, DIRECT, &direct);
    assert_eq!(node.count(Reason::BeatStaleOpen), 1);
}

#[test]
fn denied_prefixes_are_refused_and_the_longest_prefix_wins() {
    let mut node = Node::start(|config| config.events = true);
    let pod = node.pod("client");
    let server = pod.endpoint("127.0.7.7:8080");
    let v6 = pod.endpoint("[::1]:8080");
    let rule = |verdict| Some(PrefixRule { verdict, failure: FailurePolicy::Closed });
    node.kernel().prefix("127.0.0.0/16".parse().unwrap(), rule(Verdict::Deny));
    node.kernel().prefix("127.0.7.7/32".parse().unwrap(), rule(Verdict::Pass));
    node.kernel().prefix("::/0".parse().unwrap(), rule(Verdict::Deny));
    refused(&pod, "127.0.7.8:8080");
    refused(&pod, "[::ffff:127.0.7.8]:8080");
    refused(&pod, "[::1]:8080");
    served_by(&pod, "127.0.7.7:8080", &server);
    assert_eq!((node.count(Reason::DeniedByRule), node.count(Reason::PassedByRule)), (3, 1));
    let mut events = node.kernel().events().unwrap().unwrap();
    let event = events.next().expect("a refusal is an event");
    assert_eq!((event.kind, event.reason), ("refused", "denied_by_rule"));
    assert_eq!(event.workload, "shop/client");
    assert_eq!(event.orig, "127.0.7.8:8080".parse().unwrap());
    // Without the rule ::/0 does not reach IPv4 either way.
    node.kernel().prefix("::/0".parse().unwrap(), None);
    served_by(&pod, "[::1]:8080", &v6);
}

#[test]
fn a_refused_socket_may_be_connected_again_elsewhere() {
    let mut node = Node::start(|_| {});
    let pod = node.pod("client");
    let server = pod.endpoint("127.0.0.1:9090");
    // Sent to an endpoint that nobody serves, then to one that passes: getpeername must not remember the first.
    node.service("db", "10.96.0.20:5432", Protocol::Tcp, &["127.0.0.1:1".parse().unwrap()]);
    pod.run(|| {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        let to = |text: &str| socket2::SockAddr::from(text.parse::<std::net::SocketAddr>().unwrap());
        let error = socket.connect(&to("10.96.0.20:5432")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        socket.connect(&to("127.0.0.1:9090")).unwrap();
        assert_eq!(socket.peer_addr().unwrap().as_socket().unwrap(), "127.0.0.1:9090".parse().unwrap());
    });
    server.accept().unwrap();
    assert_eq!(node.counters().open_flows(), 0);
}
