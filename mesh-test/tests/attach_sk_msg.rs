//! Redirection between app and agent: counted, bounded, sticky, switchable; half-close.

mod support_attach;

use mesh_agent::kernel::{Kernel, NetnsCookie, SkMsg};
use mesh_agent::snapshot::{Enrolment, Locality, NetnsPlace, Owner, Protocol, Workload};
use mesh_common::Reason;
use mesh_common::sticky::{MAX_BYTES, MAX_MESSAGES};
use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use support_attach::{Node, Pod, eventually};

const VIP: &str = "10.96.0.10:80";

/// A redirectable connection: the app's end and the agent's.
fn flow(node: &mut Node, pod: &Pod) -> (TcpStream, TcpStream) {
    node.service("api", VIP, Protocol::Grpc, &[]);
    let app = pod.connect(VIP).unwrap();
    let (agent, client, listener) = pod.accept(false).unwrap();
    assert!(node.kernel().flows().lookup(pod.cookie, client, listener).unwrap().sk_msg);
    (app, agent)
}

fn node() -> Node {
    Node::start(|config| config.sk_msg = SkMsg::On)
}

fn pass(from: &mut TcpStream, to: &mut TcpStream, bytes: &[u8]) {
    from.write_all(bytes).unwrap();
    let mut got = vec![0; bytes.len()];
    to.read_exact(&mut got).unwrap();
    assert_eq!(got, bytes);
}

#[test]
fn the_self_test_of_this_kernel_says_what_it_found() {
    let mut node = Node::stopped(|config| config.sk_msg = SkMsg::Auto);
    node.kernel = Some(Kernel::start(node.config.clone()).unwrap());
    let status = node.kernel().status();
    assert!(status.self_test.passed, "{:?}", status.self_test);
    assert!(status.sk_msg);
    // The one thing that may be missing, with its reason.
    assert!(status.self_test.limits.iter().all(|limit| limit.contains("splice")), "{:?}", status.self_test);
    println!("{:?}", status.self_test);
    assert!(
        !std::path::Path::new(&format!("{}-selftest", node.config.pin_dir.display())).exists(),
        "scratch pins are gone"
    );
}

#[test]
fn ping_pong_is_redirected_both_ways_and_counted() {
    let mut node = node();
    let pod = node.pod("client");
    let (mut app, mut agent) = flow(&mut node, &pod);
    for _ in 0..2 * MAX_MESSAGES {
        pass(&mut app, &mut agent, b"ping");
        pass(&mut agent, &mut app, b"pong");
    }
    assert_eq!(node.count(Reason::Redirected), u64::from(4 * MAX_MESSAGES));
    assert_eq!(node.count(Reason::RedirectedBytes), u64::from(16 * MAX_MESSAGES));
    assert_eq!(node.count(Reason::OverTcp), 0);
    let rows = node.kernel().dump().unwrap().rows;
    assert!(rows.iter().any(|row| row.map == "FLOWS" && row.value.contains("redirected")), "{rows:?}");
}

#[test]
fn messages_bound_is_sticky_and_keeps_the_order() {
    let mut node = node();
    let pod = node.pod("client");
    let (mut app, mut agent) = flow(&mut node, &pod);
    let messages = MAX_MESSAGES + 10;
    for index in 0..messages {
        app.write_all(&index.to_be_bytes()).unwrap();
    }
    for index in 0..messages {
        let mut got = [0; 4];
        agent.read_exact(&mut got).unwrap();
        assert_eq!(u32::from_be_bytes(got), index);
    }
    assert_eq!(node.count(Reason::Redirected), u64::from(MAX_MESSAGES));
    assert_eq!(node.count(Reason::RedirectBound), 1);
    assert_eq!(node.count(Reason::OverTcp), 10);
    // The other direction is its own; this one never comes back.
    pass(&mut agent, &mut app, b"peer speaks");
    assert_eq!(node.count(Reason::Redirected), u64::from(MAX_MESSAGES) + 1);
    pass(&mut app, &mut agent, b"still tcp");
    assert_eq!(node.count(Reason::OverTcp), 11);
}

#[test]
fn a_stalled_reader_holds_no_more_than_the_bound() {
    let mut node = node();
    let pod = node.pod("client");
    let (mut app, _agent) = flow(&mut node, &pod);
    app.set_nonblocking(true).unwrap();
    let chunk = vec![0_u8; 65_536];
    // TCP's own buffers stop the writer in the end: there is back-pressure again.
    let mut written = 0;
    while let Ok(length) = app.write(&chunk) {
        written += length;
        assert!(written < 64 << 20, "no back-pressure");
    }
    assert!(node.count(Reason::RedirectedBytes) <= u64::from(MAX_BYTES));
    assert_eq!(node.count(Reason::RedirectBound), 1);
}

#[test]
fn half_close_delivers_everything_both_ways() {
    let mut node = node();
    let pod = node.pod("client");
    for _ in 0..20 {
        let (mut app, mut agent) = flow(&mut node, &pod);
        app.write_all(b"request").unwrap();
        app.shutdown(Shutdown::Write).unwrap();
        assert_eq!(to_end(&mut agent), b"request");
        agent.write_all(b"answer").unwrap();
        drop(agent);
        assert_eq!(to_end(&mut app), b"answer");
    }
}

/// Blocking readers may see a stray EAGAIN at half-close (DESIGN §5).
fn to_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    let mut strays = 0;
    while let Err(error) = stream.read_to_end(&mut all) {
        assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
        strays += 1;
        assert!(strays < 100, "EAGAIN for ever");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    all
}

#[test]
fn the_switch_works_at_run_time() {
    let mut node = node();
    let pod = node.pod("client");
    let (mut app, mut agent) = flow(&mut node, &pod);
    pass(&mut app, &mut agent, b"redirected");
    node.kernel().set_sk_msg(false).unwrap();
    pass(&mut app, &mut agent, b"tcp");
    node.kernel().set_sk_msg(true).unwrap();
    pass(&mut app, &mut agent, b"tcp for good");
    assert_eq!(
        (node.count(Reason::Redirected), node.count(Reason::RedirectOff), node.count(Reason::OverTcp)),
        (1, 1, 2)
    );
}

/// The agent's end and the endpoint's of a connection that is marked for the pod with this cookie.
fn dialled(node: &mut Node, pod: &Pod, cookie: NetnsCookie) -> (TcpStream, TcpStream) {
    const ENDPOINT: &str = "127.0.0.1:7001";
    let marks = node.kernel().marks();
    marks.enter(&workload(pod, ENDPOINT), cookie);
    let listener = pod.endpoint(ENDPOINT);
    let agent = node.dial(pod, ENDPOINT, &marks);
    let (endpoint, _) = listener.accept().unwrap();
    (agent, endpoint)
}

fn workload(pod: &Pod, at: &str) -> Workload {
    let at: SocketAddr = at.parse().unwrap();
    Workload {
        key: pod.key.clone(),
        owner: Owner { kind: "Pod".into(), name: pod.key.name.clone() },
        service_account: "default".into(),
        node: "node".into(),
        labels: BTreeMap::new(),
        ips: vec![at.ip()],
        locality: Locality::default(),
        enrolment: Enrolment::Enrolled { netns: NetnsPlace::Path("unused".into()) },
    }
}

#[test]
fn the_agents_own_connection_to_an_endpoint_of_the_node_is_redirected_too() {
    let mut node = node();
    let pod = node.pod("endpoint");
    let (mut agent, mut endpoint) = dialled(&mut node, &pod, pod.cookie);
    for _ in 0..2 * MAX_MESSAGES {
        pass(&mut agent, &mut endpoint, b"ping");
        pass(&mut endpoint, &mut agent, b"pong");
    }
    assert_eq!((node.count(Reason::Redirected), node.count(Reason::OverTcp)), (u64::from(4 * MAX_MESSAGES), 0));
    // Bounded and sticky as the app's half is.
    for _ in 0..=MAX_MESSAGES {
        agent.write_all(b"x").unwrap();
    }
    let mut got = vec![0; MAX_MESSAGES as usize + 1];
    endpoint.read_exact(&mut got).unwrap();
    assert_eq!((node.count(Reason::RedirectBound), node.count(Reason::OverTcp)), (1, 1));
    endpoint.write_all(b"answer").unwrap();
    drop(endpoint);
    assert_eq!(to_end(&mut agent), b"answer");
    drop(agent);
    let flows = || node.kernel.as_ref().unwrap().dump().unwrap().rows.iter().filter(|row| row.map == "FLOWS").count();
    eventually("the flow's entry goes with the connection", || flows() == 0);
}

#[test]
fn only_the_namespace_that_the_mark_names_is_joined() {
    let mut node = node();
    let (pod, other) = (node.pod("endpoint"), node.pod("other"));
    let (mut agent, mut endpoint) = dialled(&mut node, &pod, other.cookie);
    pass(&mut agent, &mut endpoint, b"ping");
    pass(&mut endpoint, &mut agent, b"pong");
    assert_eq!((node.count(Reason::Redirected), node.count(Reason::RedirectMiss)), (0, 1));
}

#[test]
fn undeclared_ports_stay_on_tcp_unless_the_workload_opts_in() {
    let mut node = node();
    let pod = node.pod("client");
    node.service("web", VIP, Protocol::Http, &[]);
    let mut app = pod.connect(VIP).unwrap();
    let (mut agent, ..) = pod.accept(false).unwrap();
    pass(&mut app, &mut agent, b"plain");
    assert_eq!((node.count(Reason::SockAdded), node.count(Reason::Redirected)), (0, 0));
    let report = node.kernel().enrol(&pod.key, pod.cookie, true);
    assert!(report.problems.is_empty());
    let mut app = pod.connect(VIP).unwrap();
    let (mut agent, ..) = pod.accept(false).unwrap();
    pass(&mut app, &mut agent, b"opted in");
    assert_eq!((node.count(Reason::SockAdded), node.count(Reason::Redirected)), (2, 1));
}
