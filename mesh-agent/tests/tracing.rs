//! Traces through the whole path: what a client sends, what an endpoint is told, and the spans a Zipkin gets.

mod support;

use mesh_agent::settings::Settings;
use mesh_agent::snapshot::tracing::{Collector, Formats, Protocol as Speaks, Rate, Tracing, TracingSettings};
use mesh_agent::snapshot::{
    Endpoint, EndpointHealth, EndpointSet, Enrolment, Locality, MeshSettings, NetnsPlace, Owner, Protocol, Service,
    ServicePort, Snapshot, Workload, WorkloadKey,
};
use serde_json::Value;
use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use support::{Agent, refusing, soon};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

type Spans = Arc<Mutex<Vec<Value>>>;
type Heads = Arc<Mutex<Vec<String>>>;

/// One HTTP/1.1 message with its body, as text.
async fn message(stream: &mut TcpStream) -> Option<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            break end + 4;
        }
        let mut more = [0; 4096];
        match stream.read(&mut more).await.ok()? {
            0 => return None,
            n => bytes.extend(&more[..n]),
        }
    };
    let head = String::from_utf8(bytes[..end].to_vec()).ok()?.to_lowercase();
    let length = field(&head, "content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = bytes.split_off(end);
    while body.len() < length {
        let mut more = [0; 4096];
        match stream.read(&mut more).await.ok()? {
            0 => return None,
            n => body.extend(&more[..n]),
        }
    }
    Some((head, body))
}

fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

/// A Zipkin that keeps what it gets.
async fn zipkin() -> (SocketAddr, Spans) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (addr, spans) = (listener.local_addr().unwrap(), Spans::default());
    let kept = Arc::clone(&spans);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            while let Some((head, body)) = message(&mut stream).await {
                assert!(head.starts_with("post /api/v2/spans "), "{head}");
                kept.lock().unwrap().extend(serde_json::from_slice::<Vec<Value>>(&body).unwrap());
                stream.write_all(b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n").await.unwrap();
            }
        }
    });
    (addr, spans)
}

/// An app that passes `/first` on as `/second`, to wherever `next` is by then, with the headers that apps pass on.
async fn app(next: Arc<Mutex<Option<SocketAddr>>>) -> (SocketAddr, Heads) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (addr, heads) = (listener.local_addr().unwrap(), Heads::default());
    let kept = Arc::clone(&heads);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (kept, next) = (Arc::clone(&kept), Arc::clone(&next));
            tokio::spawn(async move {
                while let Some((head, _)) = message(&mut stream).await {
                    kept.lock().unwrap().push(head.clone());
                    let to = *next.lock().unwrap();
                    if let (Some(to), true) = (to, head.starts_with("get /first")) {
                        let on = head.lines().filter(|line| line.starts_with("x-") || line.starts_with("traceparent"));
                        call(to, "/second", &on.map(|line| format!("{line}\r\n")).collect::<String>()).await;
                    }
                    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
                }
            });
        }
    });
    (addr, heads)
}

async fn call(to: SocketAddr, path: &str, fields: &str) {
    let mut stream = TcpStream::connect(to).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: echo\r\nconnection: close\r\n{fields}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    soon("answer", stream.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

/// Endpoints are pods that this agent acts for.
fn of_this_node(snapshot: &Snapshot) -> Snapshot {
    let workload = Arc::new(Workload {
        key: WorkloadKey { namespace: "default".into(), name: "echo-1".into(), uid: "u".into() },
        owner: Owner { kind: "Deployment".into(), name: "echo".into() },
        service_account: "echo".into(),
        node: "n".into(),
        labels: [("app".into(), "echo".into()), ("version".into(), "v1".into())].into(),
        ips: vec!["127.0.0.1".parse().unwrap()],
        locality: Locality::default(),
        enrolment: Enrolment::Enrolled { netns: NetnsPlace::Path("/proc/1/ns/net".into()) },
    });
    let service = snapshot.services().next().unwrap();
    let port = &service.ports[0];
    let endpoint = |endpoint: &Endpoint| Endpoint {
        addr: endpoint.addr,
        weight: 1,
        health: EndpointHealth::Ready,
        workload: Some(Arc::clone(&workload)),
        locality: Locality::default(),
    };
    let port = ServicePort {
        key: port.key.clone(),
        port: port.port,
        name: Arc::clone(&port.name),
        protocol: port.protocol,
        lb: port.lb,
        endpoints: Arc::new(EndpointSet { endpoints: port.endpoints.endpoints.iter().map(endpoint).collect() }),
    };
    let mut new = Service::new(service.name.clone(), &service.host);
    new.ports.push(Arc::new(port));
    let mut snapshot = snapshot.clone();
    snapshot.insert_service(Arc::new(new));
    snapshot
}

struct Traced {
    agent: Agent,
    spans: Spans,
}

impl Traced {
    async fn start(endpoints: &[SocketAddr], rate: Rate, formats: Formats) -> Self {
        let (zipkin, spans) = zipkin().await;
        let snapshot = of_this_node(&support::snapshot(1, Protocol::Http, endpoints));
        let agent = Agent::of(snapshot, Settings::default());
        let collector = Collector {
            name: "zipkin".into(),
            host: zipkin.ip().to_string().into(),
            port: zipkin.port(),
            protocol: Speaks::Zipkin { path: "/api/v2/spans".into() },
            timeout: Duration::from_secs(60),
            headers: Vec::new(),
            formats,
            longest_path: None,
        };
        let default = Arc::new(Tracing { collector: Some(Arc::new(collector)), rate, ..Tracing::default() });
        let tracing = TracingSettings { default, ..TracingSettings::default() };
        let mut configured = Snapshot::default();
        configured.set_mesh(Arc::new(MeshSettings { tracing, ..MeshSettings::default() }));
        agent.shared.traces.set(&configured, None);
        Self { agent, spans }
    }

    /// Exactly `count` spans, once they are there, in the order of their beginning.
    async fn spans(&self, count: u64) -> Vec<Value> {
        let sent = &self.agent.shared.traces.counts().sent;
        soon("the spans", async {
            while sent.load(Relaxed) < count {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
        let spans = self.spans.lock().unwrap().clone();
        assert_eq!(spans.len() as u64, count, "{spans:#?}");
        spans
    }
}

const B3: Formats = Formats { w3c: false, b3: true, b3_single: false };
const W3C: Formats = Formats { w3c: true, b3: false, b3_single: false };

#[tokio::test]
async fn spans_are_chained_as_sidecars_chain_them() {
    for formats in [B3, W3C] {
        let next = Arc::new(Mutex::new(None));
        let (app, _) = app(Arc::clone(&next)).await;
        let traced = Traced::start(&[app], Rate::ALL, formats).await;
        *next.lock().unwrap() = Some(traced.agent.addr);
        call(traced.agent.addr, "/first?q=1", "").await;
        let spans = traced.spans(4).await;
        let find = |kind: &str, path: &str| {
            let fits =
                |span: &&Value| span["kind"] == kind && span["tags"]["http.url"].as_str().unwrap().contains(path);
            spans.iter().find(fits).unwrap_or_else(|| panic!("no {kind} span of {path}: {spans:#?}"))
        };
        let chain = [("CLIENT", "/first"), ("SERVER", "/first"), ("CLIENT", "/second"), ("SERVER", "/second")];
        let chain = chain.map(|(kind, path)| find(kind, path));
        assert!(chain[0]["parentId"].is_null(), "{:#}", chain[0]);
        for pair in chain.windows(2) {
            assert_eq!(pair[1]["parentId"], pair[0]["id"], "{spans:#?}");
            assert_eq!(pair[1]["traceId"], pair[0]["traceId"]);
            assert_eq!(pair[1]["tags"]["guid:x-request-id"], pair[0]["tags"]["guid:x-request-id"]);
        }
        let (client, server) = (chain[0], chain[1]);
        assert_eq!(client["name"], "echo.default.svc.cluster.local:80/*");
        assert_eq!(
            (&server["name"], &server["localEndpoint"]["serviceName"]),
            (&client["name"], &"echo.default".into())
        );
        for (tag, value) in [
            ("component", "proxy"),
            ("http.method", "GET"),
            ("http.url", "http://echo/first?q=1"),
            ("http.status_code", "200"),
            ("response_flags", "-"),
            ("response_size", "2"),
            ("upstream_cluster", "outbound|80||echo.default.svc.cluster.local"),
            ("undermesh.attempts", "1"),
        ] {
            assert_eq!(client["tags"][tag], value, "{tag}: {client:#}");
        }
        let number = |tag: &str| client["tags"][tag].as_str().and_then(|text| text.parse::<u64>().ok());
        assert!(number("undermesh.rtt_us").is_some_and(|us| us > 0 && us < 1_000_000), "loopback's: {client:#}");
        assert_eq!(number("undermesh.retransmits"), Some(0), "{client:#}");
        assert!(server["tags"]["undermesh.rtt_us"].is_null(), "of the client's connection alone: {server:#}");
        assert_eq!(server["tags"]["istio.canonical_service"], "echo");
        assert_eq!(server["tags"]["node_id"], "sidecar~127.0.0.1~echo-1.default~default.svc.cluster.local");
        assert_eq!(server["tags"]["upstream_cluster"], format!("inbound|{}||", app.port()));
        assert!(client["duration"].as_u64() >= server["duration"].as_u64(), "{spans:#?}");
    }
}

#[tokio::test]
async fn what_was_decided_before_is_kept() {
    let (app, heads) = app(Arc::default()).await;
    let traced = Traced::start(&[app], Rate::NONE, B3).await;
    // Nobody decided: it is not recorded, and the next one is told so.
    call(traced.agent.addr, "/", "").await;
    // Somebody decided: nothing is said anew.
    let dropped = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
    call(traced.agent.addr, "/", &format!("traceparent: {dropped}\r\ntracestate: a=b\r\n")).await;
    // Somebody wants it: B3 as configured, W3C as it came.
    let recorded = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    call(traced.agent.addr, "/", &format!("traceparent: {recorded}\r\ntracestate: a=b\r\nx-request-id: mine\r\n"))
        .await;
    let spans = traced.spans(2).await;
    let heads = heads.lock().unwrap().clone();
    assert_eq!((field(&heads[0], "x-b3-sampled"), field(&heads[0], "x-b3-traceid")), (Some("0"), None), "{}", heads[0]);
    let id = field(&heads[0], "x-request-id").unwrap();
    assert_eq!((id.len(), id.as_bytes()[14]), (36, b'4'), "{id}");
    assert_eq!((field(&heads[1], "traceparent"), field(&heads[1], "x-b3-sampled")), (Some(dropped), None));
    let (client, server) = if spans[0]["kind"] == "CLIENT" { (&spans[0], &spans[1]) } else { (&spans[1], &spans[0]) };
    assert_eq!(
        (&client["traceId"], &client["parentId"]),
        (&"4bf92f3577b34da6a3ce929d0e0e4736".into(), &"00f067aa0ba902b7".into())
    );
    let told = &heads[2];
    let server_id = server["id"].as_str().unwrap();
    assert_eq!(field(told, "traceparent"), Some(&*format!("00-4bf92f3577b34da6a3ce929d0e0e4736-{server_id}-01")));
    assert_eq!(
        (field(told, "x-b3-spanid"), field(told, "x-b3-parentspanid")),
        (Some(server_id), client["id"].as_str())
    );
    assert_eq!((field(told, "tracestate"), field(told, "x-request-id")), (Some("a=b"), Some("mine")));
}

#[tokio::test]
async fn each_attempt_that_arrived_has_a_server_span() {
    let (app, _) = app(Arc::default()).await;
    let traced = Traced::start(&[refusing(), app], Rate::ALL, B3).await;
    // Round robin: one of two calls meets the endpoint that refuses, and is sent on.
    for _ in 0..2 {
        call(traced.agent.addr, "/", "").await;
    }
    let spans = traced.spans(4).await;
    let attempts: Vec<&str> = spans.iter().filter_map(|span| span["tags"]["undermesh.attempts"].as_str()).collect();
    assert!(attempts.contains(&"1") && attempts.contains(&"2"), "{attempts:?}");
    assert_eq!(spans.iter().filter(|span| span["kind"] == "SERVER").count(), 2, "nothing arrived at who refused");
}
