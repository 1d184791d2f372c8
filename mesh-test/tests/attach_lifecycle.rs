//! Kernel state outlives the agent: adopted, upgraded, replaced, uninstalled; and beside a socket load balancer.

mod support_attach;

use mesh_agent::kernel::{self, Adoption, Config, HookState, Kernel, Mode, SkMsg, Tier, Update};
use mesh_agent::snapshot::{Protocol, ServiceName};
use mesh_common::Reason;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::time::Instant;
use support_attach::{Node, Pod};

fn ping(app: &mut TcpStream, agent: &mut TcpStream) {
    app.write_all(b"ping").unwrap();
    agent.read_exact(&mut [0; 4]).unwrap();
    agent.write_all(b"pong").unwrap();
    app.read_exact(&mut [0; 4]).unwrap();
}

fn restart(node: &mut Node) {
    node.hang();
    node.kernel = None;
    node.boot();
    node.beat();
}

fn states(node: &mut Node) -> Vec<(&'static str, HookState)> {
    node.kernel().status().hooks.into_iter().map(|hook| (hook.name, hook.state)).collect()
}

#[test]
fn a_restarted_agent_adopts_and_connections_do_not_notice() {
    let mut node = Node::start(|config| config.sk_msg = SkMsg::On);
    assert_eq!(node.kernel().status().adoption, Adoption::Fresh);
    assert_eq!(node.kernel().status().tier, Tier::Full);
    let pod = node.pod("client");
    let server = pod.endpoint("127.0.0.1:7001");
    node.service("db", "10.96.0.20:5432", Protocol::Tcp, &[server.local_addr().unwrap()]);
    node.service("api", "10.96.0.10:80", Protocol::Grpc, &[]);
    let mut app = pod.connect("10.96.0.10:80").unwrap();
    let (mut agent, client, listener) = pod.accept(false).unwrap();
    ping(&mut app, &mut agent);
    let mut direct = (pod.connect("10.96.0.20:5432").unwrap(), server.accept().unwrap().0);

    node.hang();
    node.kernel = None;
    // No agent: opaque flows, old and new, do not notice.
    ping(&mut direct.0, &mut direct.1);
    pod.connect("10.96.0.20:5432").unwrap();
    server.accept().unwrap();

    let started = Instant::now();
    node.boot();
    node.beat();
    assert!(started.elapsed().as_millis() < 500, "{:?}", started.elapsed());
    assert_eq!(node.kernel().status().adoption, Adoption::Adopted);
    assert!(states(&mut node).iter().all(|(_, state)| *state == HookState::Adopted), "{:?}", states(&mut node));
    let info = node.kernel().flows().lookup(pod.cookie, client, listener).unwrap();
    assert_eq!(info.orig.addr(), "10.96.0.10:80".parse().unwrap());
    ping(&mut app, &mut agent);
    assert_eq!(node.count(Reason::ToEndpoint), 2, "counters go on");
    // Adopted entries serve before anything is applied again.
    pod.connect("10.96.0.10:80").unwrap();
    assert!(pod.accept(false).is_some());
}

#[test]
fn adopted_entries_that_nobody_claims_are_swept() {
    let mut node = Node::start(|_| {});
    let (pod, gone) = (node.pod("client"), node.pod("gone"));
    let to = ["127.0.0.1:1".parse().unwrap()];
    node.service("db", "10.96.0.20:5432", Protocol::Tcp, &to);
    node.service("old", "10.96.0.30:5432", Protocol::Tcp, &to);
    restart(&mut node);
    node.service("db", "10.96.0.20:5432", Protocol::Tcp, &to);
    node.kernel().enrol(&pod.key, pod.cookie, false);
    let report = node.kernel().sweep();
    assert!(report.problems.is_empty());
    let rows = node.kernel().dump().unwrap().rows;
    let keys = |map: &str| rows.iter().filter(|r| r.map == map).map(|r| r.key.clone()).collect::<Vec<_>>();
    assert_eq!(keys("SERVICES"), ["10.96.0.20:5432"]);
    assert_eq!(keys("PODS"), [format!("netns {}", pod.cookie)]);
    assert_eq!(keys("ENDPOINTS").len(), 1);
    assert_ne!(gone.cookie, pod.cookie);
}

#[test]
fn another_build_swaps_the_programs_and_keeps_the_maps() {
    let mut node = Node::start(|config| config.sk_msg = SkMsg::On);
    let pod = node.pod("client");
    node.service("api", "10.96.0.10:80", Protocol::Grpc, &[]);
    let mut app = pod.connect("10.96.0.10:80").unwrap();
    let (mut agent, client, listener) = pod.accept(false).unwrap();
    ping(&mut app, &mut agent);
    // The same programs with one byte behind them are another build.
    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../mesh-agent/src/kernel/mesh-ebpf.o");
    let folder = tempfile::tempdir().unwrap();
    let other = folder.path().join("other.o");
    let mut bytes = std::fs::read(committed).unwrap();
    bytes.push(0);
    std::fs::write(&other, bytes).unwrap();
    node.config.object = Some(other);
    restart(&mut node);
    assert_eq!(node.kernel().status().adoption, Adoption::Upgraded);
    let swapped = states(&mut node);
    assert!(swapped.iter().all(|(name, s)| *s == HookState::Swapped || *name == "sk_msg"), "{swapped:?}");
    assert!(node.kernel().flows().lookup(pod.cookie, client, listener).is_some());
    let before = node.count(Reason::Redirected);
    ping(&mut app, &mut agent);
    assert_eq!(node.count(Reason::Redirected), before + 2, "still redirected");
    pod.connect("10.96.0.10:80").unwrap();
    assert!(pod.accept(false).is_some());
}

#[test]
fn unusable_state_is_replaced_with_a_reason() {
    let mut node = Node::start(|_| {});
    node.hang();
    node.kernel = None;
    std::fs::remove_file(node.config.pin_dir.join("maps/NAMES")).unwrap();
    node.boot();
    node.beat();
    let status = node.kernel().status();
    assert!(matches!(&status.adoption, Adoption::Replaced { why } if why.contains("NAMES")), "{:?}", status.adoption);
    let pod = node.pod("client");
    node.service("web", "10.96.0.10:80", Protocol::Http, &[]);
    pod.connect("10.96.0.10:80").unwrap();
    assert!(pod.accept(false).is_some());
}

#[test]
fn uninstall_leaves_nothing_and_connections_go_on() {
    let mut node = Node::start(|config| config.sk_msg = SkMsg::On);
    let pod = node.pod("client");
    let server = pod.endpoint("127.0.0.1:7001");
    node.service("api", "127.0.0.1:7001", Protocol::Grpc, &[]);
    let mut app = pod.connect("127.0.0.1:7001").unwrap();
    let (mut agent, ..) = pod.accept(false).unwrap();
    ping(&mut app, &mut agent);
    node.hang();
    node.kernel = None;
    kernel::uninstall(&node.config.pin_dir).unwrap();
    assert!(!node.config.pin_dir.exists());
    ping(&mut app, &mut agent);
    // New connections go where the app says.
    let mut app = pod.connect("127.0.0.1:7001").unwrap();
    let (mut stream, _) = server.accept().unwrap();
    ping(&mut app, &mut stream);
    kernel::uninstall(&node.config.pin_dir).unwrap();
}

#[test]
fn beside_a_socket_load_balancer_the_mesh_comes_first() {
    let mut node = Node::start(|_| {});
    let pod = node.pod("client");
    let stranger = node.bare_pod("stranger");
    let (mine, other) = (pod.endpoint("127.0.0.1:7001"), stranger.endpoint("127.0.0.1:7001"));
    let parent = node.config.pods_cgroup.parent().unwrap().to_owned();
    let pins = std::path::PathBuf::from(format!("{}-lb", node.config.pin_dir.display()));
    let mut lb_config = Config::new(parent.clone(), parent, pins.clone());
    lb_config.mode = Mode::SocketLb;
    lb_config.sk_msg = SkMsg::Off;
    let mut lb = Kernel::start(lb_config).unwrap();
    node.service("web", "10.96.0.10:80", Protocol::Http, &[mine.local_addr().unwrap()]);
    let name = [ServiceName::new("shop", "web")];
    lb.apply(&Update { services: &name, ..Update::of(&node.snapshot.clone()) });
    let dial = |pod: &Pod| {
        let app = pod.connect("10.96.0.10:80").unwrap();
        assert_eq!(app.peer_addr().unwrap(), "10.96.0.10:80".parse().unwrap());
        app
    };
    // Enrolled: to the agent. Not enrolled: to an endpoint, as kube-proxy would.
    let _to_agent = dial(&pod);
    assert!(pod.accept(false).is_some());
    let _direct = dial(&stranger);
    other.accept().unwrap();
    // The mesh fails open: what is left is the load balancer.
    node.hang();
    node.kernel().apply(&Update {
        services: &name,
        workloads: &[],
        ..Update::of(&mesh_agent::snapshot::Snapshot::default())
    });
    let _placed = dial(&pod);
    mine.accept().unwrap();
    // status names the other one's programs.
    let others = node.kernel().status().other_programs;
    for hook in ["connect4", "connect6", "getpeername4", "getpeername6", "sockops"] {
        assert!(others.iter().any(|o| o.hook == hook), "{hook}: {others:?}");
    }
    drop(lb);
    kernel::uninstall(&pins).unwrap();
}
