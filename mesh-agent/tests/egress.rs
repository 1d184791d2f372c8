//! Connections of a captured pod that nobody looks into, and those to what nobody declared: from YAML to the wire.

mod support;

use arc_swap::ArcSwap;
use mesh_agent::addr::OrigDst;
use mesh_agent::balance::Registry;
use mesh_agent::config::Changes;
use mesh_agent::config::compile::{Compiler, Settings as CompileSettings};
use mesh_agent::config::resource::parse::parse;
use mesh_agent::listen::Pod;
use mesh_agent::settings::Settings;
use mesh_agent::snapshot::Snapshot;
use mesh_agent::telemetry::access_log::AccessLog;
use mesh_agent::telemetry::trace::Traces;
use mesh_agent::telemetry::{Format, MOST_SERIES, Metrics};
use mesh_agent::worker::{Listening, Shared, Workers};
use serde_json::json;
use socket2::{Domain, Socket, Type};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use support::log_file::{LogFile, says};
use support::soon;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, crypto::ring};

const POD: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio-injection: enabled}}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, uid: u1, labels: {app: web}, annotations: {undermesh.dev/netns: /none}}
status: {phase: Running, podIPs: [{ip: 10.9.9.9}]}
";

/// A data path that takes the connections of one pod, whose network namespace is this one.
struct Node {
    compiler: Compiler,
    snapshot: Arc<ArcSwap<Snapshot>>,
    metrics: Arc<Metrics>,
    access_log: Arc<AccessLog>,
    addr: SocketAddr,
    /// What the next connection is made for.
    wants: Arc<Mutex<SocketAddr>>,
    _listening: Listening,
    _workers: Workers,
}

impl Node {
    fn start(yaml: &str) -> Self {
        let settings = CompileSettings { node: "".into(), cluster_domain: "cluster.local".into() };
        let mut compiler = Compiler::new(settings);
        let snapshot = compile(&mut compiler, &format!("{POD}{yaml}"));
        let workload = Arc::clone(snapshot.workloads().next().unwrap());
        let snapshot = Arc::new(ArcSwap::new(snapshot));
        let traces = Arc::new(Traces::new(Arc::clone(&snapshot)));
        let shared = Shared {
            snapshot,
            traces,
            metrics: Arc::new(Metrics::new(MOST_SERIES).unwrap()),
            registry: Arc::new(Registry::default()),
            settings: Arc::new(Settings::default()),
            access_log: Arc::default(),
            taps: Arc::default(),
            costs: Arc::default(),
            links: Arc::default(),
        };
        let workers = Workers::start(1, shared.clone()).unwrap();
        let wants = Arc::new(Mutex::new(SocketAddr::from(([0, 0, 0, 0], 0))));
        let flows = Arc::clone(&wants);
        let pod = Pod {
            workload: workload.into(),
            cookie: 1,
            find_flow: Arc::new(move |_, _| Some(OrigDst::new(*flows.lock().unwrap()).into())),
            open_socket: Arc::new(|to, _| {
                let domain = Domain::for_address(to.addr());
                let socket = Socket::new(domain, Type::STREAM, None).map(std::os::fd::OwnedFd::from);
                Box::pin(std::future::ready(socket))
            }),
        };
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let listening = workers.serve_captured(vec![listener], Arc::new(pod));
        let Shared { snapshot, metrics, access_log, .. } = shared;
        Self { compiler, snapshot, metrics, access_log, addr, wants, _listening: listening, _workers: workers }
    }

    fn apply(&mut self, yaml: &str) {
        self.snapshot.store(compile(&mut self.compiler, yaml));
    }

    /// The pod's connection to an address, with what it says first; all that comes back until it is closed.
    async fn say(&self, to: &str, bytes: &[u8]) -> Vec<u8> {
        *self.wants.lock().unwrap() = to.parse().unwrap();
        // A connection that is refused may be gone already.
        let Ok(mut stream) = TcpStream::connect(self.addr).await else { return Vec::new() };
        let _ = stream.write_all(bytes).await;
        let mut answer = Vec::new();
        // A reset is an end, too.
        let _ = soon(to, stream.read_to_end(&mut answer)).await;
        answer
    }

    /// As above, as text.
    async fn ask(&self, to: &str, bytes: &[u8]) -> String {
        String::from_utf8_lossy(&self.say(to, bytes).await).into_owned()
    }

    fn metric(&self, parts: &[&str]) -> f64 {
        let text = self.metrics.gather(Format::Text);
        let lines = text.lines().filter(|line| !line.starts_with('#') && parts.iter().all(|part| line.contains(part)));
        lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
    }
}

fn compile(compiler: &mut Compiler, yaml: &str) -> Arc<Snapshot> {
    let parsed = parse(&Path::new("t.yaml").into(), yaml);
    assert!(parsed.diagnostics.is_empty(), "{:?}", parsed.diagnostics);
    let upserts = parsed.resources.into_iter().map(Arc::new).collect();
    compiler.apply(Changes { upserts, ..Changes::default() }).snapshot
}

/// Says its name, then sends back what it gets; closes when the other side does, or after what ends in `!`.
async fn endpoint(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut bytes = [0; 4096];
                if stream.write_all(name.as_bytes()).await.is_err() {
                    return;
                }
                while let Ok(count @ 1..) = stream.read(&mut bytes).await {
                    if stream.write_all(&bytes[..count]).await.is_err() || bytes[count - 1] == b'!' {
                        return;
                    }
                }
            });
        }
    });
    addr
}

/// Answers one request for each connection.
async fn http() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let Ok(byte) = stream.read_u8().await else { return };
                    head.push(byte);
                }
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
            });
        }
    });
    addr
}

fn istio(kind: &str, name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: {kind}\nmetadata: {{name: {name}, namespace: shop}}\nspec: {spec}\n"
    )
}

/// A ServiceEntry with one endpoint here; `address`: `addresses`, or none.
fn entry(name: &str, host: &str, address: Option<&str>, (port, protocol): (u16, &str), at: SocketAddr) -> String {
    let addresses = address.map(|address| format!("addresses: [{address}], ")).unwrap_or_default();
    let spec = format!(
        "{{hosts: ['{host}'], {addresses}resolution: STATIC, ports: [{{number: {port}, name: p, protocol: {protocol}, targetPort: {}}}], endpoints: [{{address: {}, labels: {{version: {name}}}}}]}}",
        at.port(),
        at.ip()
    );
    istio("ServiceEntry", name, &spec)
}

/// The bytes of a ClientHello for a name, and `!` behind them.
fn hello(name: &str) -> Vec<u8> {
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let mut client = ClientConnection::new(Arc::new(config), ServerName::try_from(name).unwrap().to_owned()).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes.push(b'!');
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn tcp_rules_choose_by_labels_subnet_port_and_weight() {
    let (a, b, c) = (endpoint("a").await, endpoint("b").await, endpoint("c").await);
    let yaml = [
        entry("a", "a.example", Some("10.8.0.1, 10.8.1.1"), (5432, "TCP"), a),
        entry("b", "b.example", Some("10.8.0.2"), (5432, "TCP"), b),
        entry("c", "c.example", Some("10.8.0.3"), (5432, "TCP"), c),
        istio(
            "DestinationRule",
            "c",
            "{host: c.example, subsets: [{name: v, labels: {version: c}}, {name: none, labels: {version: x}}]}",
        ),
    ]
    .concat();
    let rules = |rules: &str| istio("VirtualService", "v", &format!("{{hosts: [a.example], tcp: [{rules}]}}"));
    let mut node = Node::start(&yaml);
    assert_eq!(node.ask("10.8.0.1:5432", b"1!").await, "a1!");
    node.apply(&rules(
        "{match: [{destinationSubnets: [10.8.1.0/24]}, {sourceLabels: {app: other}}, {port: 1}], route: [{destination: {host: b.example}}]}, {route: [{destination: {host: c.example, subset: v}}]}",
    ));
    assert_eq!(node.ask("10.8.1.1:5432", b"1!").await, "b1!", "by subnet");
    assert_eq!(node.ask("10.8.0.1:5432", b"1!").await, "c1!", "the rest");
    node.apply(&rules(
        "{match: [{sourceLabels: {app: web}}], route: [{destination: {host: b.example}, weight: 50}, {destination: {host: c.example}, weight: 50}]}",
    ));
    let mut seen = [0; 2];
    for _ in 0..40 {
        match &*node.ask("10.8.0.1:5432", b"!").await {
            "b!" => seen[0] += 1,
            "c!" => seen[1] += 1,
            other => panic!("{other}"),
        }
    }
    // One of two stays away with probability 2 * 0.5^40.
    assert!(seen.iter().all(|n| *n > 0), "{seen:?}");
    assert!(node.metric(&["tcp_connections_opened_total", "c.example"]) >= 1.0);
    node.apply(&rules("{route: [{destination: {host: c.example, subset: none}}]}"));
    assert_eq!(node.ask("10.8.0.1:5432", b"!").await, "", "an empty subset has no endpoint");
    node.apply(&rules("{route: [{destination: {host: nobody.example}}]}"));
    assert_eq!(node.ask("10.8.0.1:5432", b"!").await, "", "no such host");
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_rules_choose_by_name_and_the_hello_arrives_whole() {
    let (a, b) = (endpoint("a").await, endpoint("b").await);
    let yaml = [
        entry("a", "a.example", Some("10.8.0.1"), (443, "TLS"), a),
        entry("b", "b.example", None, (443, "TLS"), b),
        istio(
            "VirtualService",
            "v",
            "{hosts: [a.example, x.a.example], tls: [{match: [{port: 443, sniHosts: [x.a.example]}], route: [{destination: {host: b.example}}]}]}",
        ),
    ]
    .concat();
    let node = Node::start(&yaml);
    let through = |name: &'static str, bytes: &[u8]| [name.as_bytes(), bytes].concat();
    let named = hello("a.example");
    assert_eq!(node.say("10.8.0.1:443", &named).await, through("a", &named), "no rule for the name");
    let other = hello("x.a.example");
    assert_eq!(node.say("10.8.0.1:443", &other).await, through("b", &other), "by a rule");
    // Wherever DNS sent the client: the name tells.
    let b = hello("b.example");
    assert_eq!(node.say("203.0.113.1:443", &b).await, through("b", &b), "known by its name alone");
    let by_rule = hello("x.a.example");
    assert_eq!(node.say("203.0.113.1:443", &by_rule).await, through("b", &by_rule), "by a rule for the name");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_services_tls_rules_hold_for_its_own_names() {
    let (a, b) = (endpoint("a").await, endpoint("b").await);
    let yaml = [
        entry("a", "a.example", Some("10.8.0.1"), (443, "TLS"), a),
        entry("b", "b.example", Some("10.8.0.2"), (443, "TLS"), b),
        istio(
            "VirtualService",
            "v",
            "{hosts: [a.example, '*.a.example'], tls: [{match: [{sniHosts: [a.example]}], route: [{destination: {host: b.example}}]}]}",
        ),
    ]
    .concat();
    let node = Node::start(&yaml);
    let named = hello("a.example");
    assert_eq!(node.say("10.8.0.1:443", &named).await, [b"b", &named[..]].concat());
    // No hello at all: the endpoint's to judge.
    assert_eq!(node.ask("10.8.0.1:443", b"junk!").await, "ajunk!");
    let other = hello("c.a.example");
    assert_eq!(node.say("10.8.0.1:443", &other).await, [b"a", &other[..]].concat());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destination_rule_limits_connections() {
    let a = endpoint("a").await;
    let yaml = entry("a", "a.example", Some("10.8.0.1"), (5432, "TCP"), a)
        + &istio(
            "DestinationRule",
            "a",
            "{host: a.example, trafficPolicy: {connectionPool: {tcp: {maxConnections: 1}}}}",
        );
    let node = Node::start(&yaml);
    *node.wants.lock().unwrap() = "10.8.0.1:5432".parse().unwrap();
    let mut first = TcpStream::connect(node.addr).await.unwrap();
    let mut name = [0];
    soon("the first", first.read_exact(&mut name)).await.unwrap();
    assert_eq!(node.ask("10.8.0.1:5432", b"!").await, "", "one is all");
    drop(first);
    soon("a place", async {
        while node.ask("10.8.0.1:5432", b"!").await != "a!" {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_is_all_that_is_known_of_a_host_without_address() {
    let (a, stranger) = (endpoint("a").await, endpoint("stranger").await);
    let mut node = Node::start(&entry("a", "a.example", None, (5432, "TCP"), a));
    assert_eq!(node.ask("203.0.113.1:5432", b"!").await, "a!");
    assert_eq!(node.ask(&stranger.to_string(), b"!").await, "stranger!", "another port means itself");
    assert_eq!(node.metric(&["tcp_connections_opened_total", "PassthroughCluster"]), 1.0);
    // Where the client wanted to go: what the host has of its own is not asked for.
    let none = format!(
        "{{hosts: [n.example], resolution: NONE, ports: [{{number: {}, name: p, protocol: TCP}}]}}",
        stranger.port()
    );
    node.apply(&istio("ServiceEntry", "n", &none));
    assert_eq!(node.ask(&stranger.to_string(), b"!").await, "stranger!");
    assert_eq!(node.metric(&["tcp_connections_opened_total", "n.example"]), 1.0);
}

const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: tracker.example\r\nconnection: close\r\n\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_only_rules_know_is_served_at_any_address() {
    let web = http().await;
    let rules = istio(
        "VirtualService",
        "made",
        "{hosts: [tracker.example], http: [{match: [{uri: {prefix: /teapot}}], directResponse: {status: 418}}, {match: [{uri: {prefix: /old}}], redirect: {uri: /new}}, {match: [{uri: {exact: /}}], route: [{destination: {host: web.example, port: {number: 81}}}]}]}",
    );
    let node = Node::start(&(entry("web", "web.example", Some("10.5.5.5"), (81, "HTTP"), web) + &rules));
    let get = |path: &str| String::from_utf8_lossy(GET).replacen(" / ", &format!(" {path} "), 1).into_bytes();
    assert!(node.ask("203.0.113.1:80", &get("/")).await.starts_with("HTTP/1.1 200"));
    assert!(node.ask("203.0.113.1:80", &get("/teapot")).await.starts_with("HTTP/1.1 418"));
    let moved = node.ask("203.0.113.1:80", &get("/old")).await;
    assert!(moved.starts_with("HTTP/1.1 301") && moved.contains("location: http://tracker.example/new"), "{moved}");
    assert!(node.ask("203.0.113.1:80", &get("/else")).await.starts_with("HTTP/1.1 404"));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_declared() {
    let (web, tls) = (http().await, endpoint("t").await);
    let yaml = [
        entry("web", "web.example", None, (80, "HTTP"), web),
        entry("tls", "tls.example", None, (443, "TLS"), tls),
        istio("Sidecar", "default", "{outboundTrafficPolicy: {mode: REGISTRY_ONLY}}"),
    ]
    .concat();
    let mut node = Node::start(&yaml);
    let black_hole = |node: &Node, what: &str| node.metric(&[what, "BlackHoleCluster"]);
    let answer = node.ask("203.0.113.1:80", GET).await;
    assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
    assert_eq!(black_hole(&node, "requests_total"), 1.0);
    // Bytes that are not HTTP, a port nobody has, a name nobody has.
    assert_eq!(node.ask("203.0.113.1:80", b"\x00\x01junk").await, "");
    assert_eq!(node.ask("203.0.113.1:9999", b"!").await, "");
    assert_eq!(node.say("203.0.113.1:443", &hello("tracker.example")).await, b"");
    assert_eq!(black_hole(&node, "tcp_connections_opened_total"), 3.0);
    assert_eq!(black_hole(&node, "tcp_connections_closed_total"), 3.0);
    // What is declared.
    let named = hello("tls.example");
    assert_eq!(node.say("203.0.113.1:443", &named).await, [b"t", &named[..]].concat());
    let registered = GET.to_vec();
    let registered = String::from_utf8(registered).unwrap().replace("tracker", "web");
    assert!(node.ask("203.0.113.1:80", registered.as_bytes()).await.starts_with("HTTP/1.1 200"));

    // Everything, again.
    node.apply(&istio("Sidecar", "default", "{outboundTrafficPolicy: {mode: ALLOW_ANY}}"));
    let stranger = endpoint("stranger").await;
    assert_eq!(node.ask(&stranger.to_string(), b"!").await, "stranger!");
    assert_eq!(node.metric(&["tcp_connections_opened_total", "PassthroughCluster"]), 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_go_nowhere_are_lines() {
    let a = endpoint("a").await;
    let yaml = entry("a", "a.example", Some("10.8.0.1"), (5432, "TCP"), a)
        + &entry("t", "t.example", None, (443, "TLS"), a)
        + &istio("Sidecar", "s", "{outboundTrafficPolicy: {mode: REGISTRY_ONLY}}");
    let mut node = Node::start(&yaml);
    let log = LogFile::of(&node.access_log, "");
    // Bytes, and TLS by name, to what nobody declared.
    assert_eq!(node.ask("192.0.2.1:5432", b"!").await, "");
    assert_eq!(node.say("192.0.2.1:443", &hello("u.example")).await, b"");
    let lines = log.lines(2).await;
    let black_hole = json!({
        "response_code": 0, "response_flags": "UH", "response_code_details": null,
        "upstream_cluster": "BlackHoleCluster", "upstream_host": null, "route_name": null, "bytes_sent": 0,
    });
    says(&lines[0], &black_hole);
    says(&lines[0], &json!({"downstream_local_address": "192.0.2.1:5432", "requested_server_name": null}));
    says(&lines[1], &black_hole);
    says(&lines[1], &json!({"requested_server_name": "u.example"}));
    // A rule whose destination is not there; one without endpoints; and a name that leads somewhere.
    let to = |host: &str| {
        istio("VirtualService", "v", &format!("{{hosts: [a.example], tcp: [{{route: [{{destination: {host}}}]}}]}}"))
    };
    node.apply(&to("{host: nobody.example}"));
    assert_eq!(node.ask("10.8.0.1:5432", b"!").await, "");
    node.apply(
        &(to("{host: a.example, subset: none}")
            + &istio("DestinationRule", "a", "{host: a.example, subsets: [{name: none, labels: {version: x}}]}")),
    );
    assert_eq!(node.ask("10.8.0.1:5432", b"!").await, "");
    assert_ne!(node.say("192.0.2.1:443", &hello("t.example")).await, b"");
    let lines = log.lines(5).await;
    let nobody = json!({"response_flags": "NC", "upstream_cluster": null});
    says(&lines[2], &nobody);
    says(&lines[3], &json!({"response_flags": "UH", "upstream_cluster": "outbound|5432|none|a.example"}));
    let served = json!({
        "response_flags": "-", "upstream_cluster": "outbound|443||t.example", "upstream_host": a.to_string(),
        "requested_server_name": "t.example",
    });
    says(&lines[4], &served);
}
