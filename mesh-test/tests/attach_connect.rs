//! `connect4`, `connect6`, `getpeername4/6` and `sockops`' FLOWS with real `connect()`s: IPv4, IPv6, v4-mapped.

mod support_attach;

use mesh_agent::addr::OrigDst;
use mesh_agent::kernel::Update;
use mesh_agent::snapshot::{LbPolicy, PortKey, Protocol, Service, ServiceName, ServicePort, Snapshot};
use mesh_common::Reason;
use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::sync::Arc;
use support_attach::{Node, eventually};

/// Dials `dial` in an enrolled pod, expects the agent to accept it and to learn that it was meant for `vip`.
fn captured(vip: &str, dial: &str, v6_listener: bool) {
    let mut node = Node::start(|_| {});
    let pod = node.pod("client");
    assert!(node.service("web", vip, Protocol::Http, &[]).problems.is_empty());
    let mut app = pod.connect(dial).unwrap();
    let (mut agent, client, listener) = pod.accept(v6_listener).expect("the agent accepts");
    let info = node.kernel().flows().lookup(pod.cookie, client, listener).expect("FLOWS knows it");
    assert_eq!(info.orig, OrigDst::new(dial.parse().unwrap()));
    assert!(!info.sk_msg);
    assert_eq!(app.peer_addr().unwrap(), dial.parse::<SocketAddr>().unwrap(), "getpeername shows what was asked for");
    agent.write_all(b"hello").unwrap();
    let mut got = [0; 5];
    app.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"hello");
    assert_eq!(node.counters().open_flows(), 1);
    drop((app, agent));
    let counters = node.counters();
    eventually("the flow is removed on close", || counters.open_flows() == 0 && counters.get(Reason::FlowClosed) == 1);
    assert_eq!(node.kernel().flows().lookup(pod.cookie, client, listener), None);
    assert_eq!(node.count(Reason::ToAgent), 1);
    assert_eq!(node.count(Reason::FlowOpened), 1);
}

#[test]
fn v4_goes_to_the_agent() {
    captured("10.96.0.10:80", "10.96.0.10:80", false);
}

#[test]
fn v6_goes_to_the_agent() {
    captured("[fd00:96::10]:80", "[fd00:96::10]:80", true);
}

#[test]
fn v4_mapped_goes_to_the_agent() {
    captured("10.96.0.10:80", "[::ffff:10.96.0.10]:80", false);
}

#[test]
fn strangers_and_the_agent_are_left_alone() {
    let mut node = Node::start(|_| {});
    let pod = node.pod("client");
    let stranger = node.bare_pod("stranger");
    let server = stranger.endpoint("127.0.0.1:8080");
    node.service("web", "127.0.0.1:8080", Protocol::Http, &[]);
    stranger.connect("127.0.0.1:8080").unwrap();
    server.accept().unwrap();
    assert_eq!(node.count(Reason::NotEnrolled), 1);
    assert_eq!(node.count(Reason::ToAgent), 0);
    // Unknown destinations of an enrolled pod.
    let other = pod.endpoint("127.0.0.1:9090");
    pod.connect("127.0.0.1:9090").unwrap();
    other.accept().unwrap();
    assert_eq!(node.count(Reason::NoTarget), 1);
}

/// A socket can be used again (`connect()` to AF_UNSPEC ends its connection): what it asked for while its pod was in the
/// mesh says nothing about the connection it makes after the pod has left.
#[test]
fn a_socket_used_again_after_its_pod_left_shows_where_it_goes() {
    for (first, then) in [("10.96.0.10:80", "127.0.0.1:9090"), ("[fd00:96::10]:80", "[::1]:9090")] {
        let mut node = Node::start(|_| {});
        let pod = node.pod("client");
        let server = pod.endpoint(then);
        assert!(node.service("web", first, Protocol::Http, &[]).problems.is_empty());
        let (first, then): (SocketAddr, SocketAddr) = (first.parse().unwrap(), then.parse().unwrap());
        let socket = pod.run(|| {
            let socket = socket2::Socket::new(socket2::Domain::for_address(first), socket2::Type::STREAM, None);
            let socket = socket.unwrap();
            socket.connect(&first.into()).unwrap();
            socket
        });
        pod.accept(first.is_ipv6()).expect("the agent accepts");
        node.kernel().leave(&pod.key);
        pod.run(|| {
            rustix::net::connect_unspec(&socket).unwrap();
            socket.connect(&then.into()).unwrap();
        });
        assert_eq!(socket.peer_addr().unwrap().as_socket().unwrap(), then);
        server.accept().unwrap();
        assert_eq!((node.count(Reason::NotEnrolled), node.count(Reason::FlowOpened)), (1, 1));
    }
}

fn web(name: &str, ports: &[u16]) -> Service {
    let name = ServiceName::new("shop", name);
    let port = |port: &u16| ServicePort {
        key: PortKey::new(name.clone(), *port),
        port: *port,
        name: port.to_string().into(),
        protocol: Protocol::Http,
        lb: LbPolicy::Default,
        endpoints: Arc::default(),
    };
    let ports = ports.iter().map(port).map(Arc::new).collect();
    let host = name.host("cluster.local");
    Service { vips: vec!["10.96.0.10".parse().unwrap()], ports, ..Service::new(name, &host) }
}

/// Make before break: what the coming snapshot cannot place leaves the kernel before the agent has that snapshot, and
/// nothing else does.
#[test]
fn removals_leave_the_kernel_before_the_swap() {
    let mut node = Node::start(|_| {});
    let pod = node.pod("client");
    let [name, heir] = ["web", "web-v2"].map(|name| ServiceName::new("shop", name));
    let services = [name.clone(), heir];
    let mut snapshot = Snapshot::default();
    snapshot.insert_service(Arc::new(web("web", &[80, 81])));
    node.kernel().apply(&Update { services: &services, ..Update::of(&snapshot) });
    let captured = |node: &Node, at: &str| {
        let before = node.count(Reason::ToAgent);
        // Without capture there is no route to it.
        let _ = pod.connect(at);
        node.count(Reason::ToAgent) - before == 1
    };
    assert!(captured(&node, "10.96.0.10:80") && captured(&node, "10.96.0.10:81"));
    // One port of a Service that stays.
    snapshot.insert_service(Arc::new(web("web", &[80])));
    let update = Update { services: &services, ..Update::of(&snapshot) };
    assert_eq!(node.kernel().retract(&update).removed, 1);
    assert!(captured(&node, "10.96.0.10:80") && !captured(&node, "10.96.0.10:81"));
    assert_eq!(node.kernel().apply(&update).removed, 0);
    // An address that another Service takes over is never without an entry.
    snapshot.remove_service(&name);
    snapshot.insert_service(Arc::new(web("web-v2", &[80])));
    let update = Update { services: &services, ..Update::of(&snapshot) };
    assert_eq!(node.kernel().retract(&update).removed, 0);
    assert!(captured(&node, "10.96.0.10:80"));
    assert_eq!(node.kernel().apply(&update).removed, 0);
    assert!(captured(&node, "10.96.0.10:80"));
    assert_eq!(node.count(Reason::NoTarget), 1);
}

#[test]
fn endpoints_are_chosen_by_weight_without_user_space() {
    let mut node = Node::start(|_| {});
    let pod = node.pod("client");
    let (a, b) = (pod.endpoint("127.0.0.1:7001"), pod.endpoint("127.0.0.1:7002"));
    let endpoints = [(a.local_addr().unwrap(), 3), (b.local_addr().unwrap(), 1)];
    assert!(node.weighted("db", "10.96.0.20:5432", Protocol::Tcp, &endpoints).problems.is_empty());
    // The agent plays no part.
    node.hang();
    let mut taken = [0_u32; 2];
    a.set_nonblocking(true).unwrap();
    b.set_nonblocking(true).unwrap();
    for _ in 0..400 {
        let app = pod.connect("10.96.0.20:5432").unwrap();
        assert_eq!(app.peer_addr().unwrap(), "10.96.0.20:5432".parse().unwrap());
        for (server, count) in [&a, &b].iter().zip(&mut taken) {
            match server.accept() {
                Ok(_) => *count += 1,
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
        }
    }
    // 300 expected of 400; the standard deviation is √(400 × ¾ × ¼) = 8.7, so 50 off is a chance of 1 in 10^8.
    assert_eq!(taken.iter().sum::<u32>(), 400, "{taken:?}");
    assert!(taken[0].abs_diff(300) < 50, "{taken:?}");
    assert_eq!(node.count(Reason::ToEndpoint), 400);
    let counters = node.counters();
    eventually("statistics of kernel-placed connections", || {
        counters.services().iter().any(|s| s.service == "shop/db:5432" && s.opened == 400 && s.closed == 400)
    });
    let all = counters.services();
    let db = all.iter().find(|s| s.service == "shop/db:5432").unwrap();
    assert_eq!(db.srtt.iter().sum::<u64>(), 400, "each has a round-trip time: {db:?}");
    assert!(db.srtt_us_sum > 0 && db.srtt_us < 1_000_000, "{db:?}");
}

#[test]
fn endpoints_of_v6_and_mapped_sockets() {
    let mut node = Node::start(|_| {});
    let pod = node.pod("client");
    let (six, four) = (pod.endpoint("[::1]:7001"), pod.endpoint("127.0.0.1:7002"));
    node.service("six", "[fd00:96::20]:5432", Protocol::Tcp, &[six.local_addr().unwrap()]);
    node.service("four", "10.96.0.20:5432", Protocol::Tcp, &[four.local_addr().unwrap()]);
    for (dial, server) in
        [("[fd00:96::20]:5432", &six), ("[::ffff:10.96.0.20]:5432", &four), ("10.96.0.20:5432", &four)]
    {
        let app = pod.connect(dial).unwrap();
        server.accept().unwrap();
        assert_eq!(app.peer_addr().unwrap(), dial.parse::<SocketAddr>().unwrap());
    }
}

#[test]
fn a_service_without_endpoints_refuses() {
    let mut node = Node::start(|_| {});
    let pod = node.pod("client");
    node.service("db", "10.96.0.20:5432", Protocol::Tcp, &[]);
    for dial in ["10.96.0.20:5432", "[::ffff:10.96.0.20]:5432"] {
        assert_eq!(pod.connect(dial).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }
    assert_eq!(node.count(Reason::NoEndpoint), 2);
}

#[test]
fn a_changed_set_is_in_force_at_the_next_connect_and_nothing_fails() {
    let mut node = Node::start(|_| {});
    let pod = node.pod("client");
    let (a, b) = (pod.endpoint("127.0.0.1:7001"), pod.endpoint("127.0.0.1:7002"));
    let (at_a, at_b) = (a.local_addr().unwrap(), b.local_addr().unwrap());
    node.service("db", "10.96.0.20:5432", Protocol::Tcp, &[at_a]);
    let vip: SocketAddr = "10.96.0.20:5432".parse().unwrap();
    for server in [&a, &b] {
        let server = server.try_clone().unwrap();
        std::thread::spawn(move || server.incoming().for_each(drop)); // Ends with the process.
    }
    // 500 connects while the set changes some hundred times.
    let failures = std::thread::scope(|scope| {
        let dialler =
            scope.spawn(|| pod.run(|| (0..500).filter(|_| std::net::TcpStream::connect(vip).is_err()).count()));
        while !dialler.is_finished() {
            node.service("db", "10.96.0.20:5432", Protocol::Tcp, &[at_a, at_b]);
            node.service("db", "10.96.0.20:5432", Protocol::Tcp, &[at_b]);
        }
        dialler.join().unwrap()
    });
    assert_eq!(failures, 0);
    let rows = node.kernel().dump().unwrap().rows;
    assert_eq!(rows.iter().filter(|row| row.map == "ENDPOINTS").count(), 1, "old sets are gone: {rows:?}");
}
