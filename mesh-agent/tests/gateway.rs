//! A gateway pod's ports, from YAML to the wire: HTTP, HTTPS by SNI, renewal, redirect, passthrough, plain TCP.

mod support;

use arc_swap::ArcSwap;
use mesh_agent::balance::Registry;
use mesh_agent::config::Changes;
use mesh_agent::config::compile::{Compiler, Settings as CompileSettings};
use mesh_agent::config::resource::parse::parse;
use mesh_agent::listen::Pod;
use mesh_agent::settings::Settings;
use mesh_agent::snapshot::Snapshot;
use mesh_agent::telemetry::Metrics;
use mesh_agent::telemetry::access_log::AccessLog;
use mesh_agent::telemetry::trace::Traces;
use mesh_agent::worker::{Listening, Shared, Workers};
use serde_json::json;
use socket2::{Domain, Socket, Type};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use support::log_file::{LogFile, says};
use support::soon;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::ring};

const POD: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: edge, labels: {istio-injection: enabled}}
---
apiVersion: v1
kind: Pod
metadata: {name: gw, namespace: edge, uid: u1, labels: {istio: ingressgateway}, annotations: {undermesh.dev/netns: /none}}
status: {phase: Running, podIPs: [{ip: 10.9.9.9}]}
";

/// A data path whose only listeners are a gateway pod's; the pod's network namespace is this one.
struct Edge {
    compiler: Compiler,
    snapshot: Arc<ArcSwap<Snapshot>>,
    access_log: Arc<AccessLog>,
    workers: Workers,
    listening: Vec<Listening>,
}

impl Edge {
    fn start(yaml: &str) -> Self {
        let settings = CompileSettings { node: "".into(), cluster_domain: "cluster.local".into() };
        let snapshot = Arc::new(ArcSwap::from_pointee(Snapshot::default()));
        let shared = Shared {
            snapshot: Arc::clone(&snapshot),
            metrics: Arc::new(Metrics::new(mesh_agent::telemetry::MOST_SERIES).unwrap()),
            registry: Arc::new(Registry::default()),
            settings: Arc::new(Settings::default()),
            access_log: Arc::default(),
            taps: Arc::default(),
            costs: Arc::default(),
            links: Arc::default(),
            traces: Arc::new(Traces::new(Arc::clone(&snapshot))),
        };
        let access_log = Arc::clone(&shared.access_log);
        let workers = Workers::start(1, shared).unwrap();
        let mut edge = Self { compiler: Compiler::new(settings), snapshot, access_log, workers, listening: Vec::new() };
        edge.apply(&(POD.to_owned() + yaml));
        edge
    }

    fn apply(&mut self, yaml: &str) {
        let parsed = parse(&Path::new("t.yaml").into(), yaml);
        assert!(parsed.diagnostics.is_empty(), "{:?}", parsed.diagnostics);
        let upserts = parsed.resources.into_iter().map(Arc::new).collect();
        let update = self.compiler.apply(Changes { upserts, ..Changes::default() });
        self.snapshot.store(update.snapshot);
    }

    /// Serves the gateway's `port` on some port here.
    fn listen(&mut self, port: u16) -> SocketAddr {
        let snapshot = self.snapshot.load();
        let workload = snapshot.workloads().next().unwrap();
        assert!(snapshot.gateway_listener(&workload.key, port).is_some(), "no listener on {port}");
        let pod = Pod {
            workload: Arc::clone(workload).into(),
            cookie: 1,
            find_flow: Arc::new(|_, _| None),
            open_socket: Arc::new(|to, _| {
                let domain = Domain::for_address(to.addr());
                let socket = Socket::new(domain, Type::STREAM, None).map(std::os::fd::OwnedFd::from);
                Box::pin(std::future::ready(socket))
            }),
        };
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        self.listening.push(self.workers.serve_gateway(listener, Arc::new(pod), port));
        addr
    }
}

/// An endpoint that answers every request on a connection with what it got; returns its address.
async fn endpoint(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = Vec::new();
                while let Ok(byte) = stream.read_u8().await {
                    head.push(byte);
                    if head.ends_with(b"\r\n\r\n") {
                        let body = format!("{name}\n{}", String::from_utf8_lossy(&head));
                        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                        let _ = stream.write_all(answer.as_bytes()).await;
                        // Where bytes are forwarded, the client's wish to close comes through.
                        if body.contains("connection: close") {
                            return;
                        }
                        head.clear();
                    }
                }
            });
        }
    });
    addr
}

fn service(name: &str, endpoint: SocketAddr) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: edge}}\nspec: {{clusterIP: None, ports: [{{name: http, port: 80}}]}}\n---\napiVersion: v1\nkind: Endpoints\nmetadata: {{name: {name}, namespace: edge}}\nsubsets: [{{addresses: [{{ip: {}}}], ports: [{{name: http, port: {}}}]}}]\n",
        endpoint.ip(),
        endpoint.port()
    )
}

fn istio(kind: &str, name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: {kind}\nmetadata: {{name: {name}, namespace: edge}}\nspec: {spec}\n"
    )
}

fn gateway(servers: &str) -> String {
    istio("Gateway", "g", &format!("{{selector: {{istio: ingressgateway}}, servers: [{servers}]}}"))
}

/// One request over any stream; the whole answer.
async fn ask<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, host: &str, path: &str) -> String {
    let request =
        format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nx-forwarded-for: 1.2.3.4\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // A close without TLS's own is no concern of these tests.
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8(answer).unwrap()
}

async fn get(addr: SocketAddr, host: &str, path: &str) -> String {
    soon("an answer", async { ask(TcpStream::connect(addr).await.unwrap(), host, path).await }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn http_by_host_and_path() {
    let (a, b) = (endpoint("a").await, endpoint("b").await);
    let to = |host: &str| format!("route: [{{destination: {{host: {host}}}}}]");
    let yaml = service("a", a)
        + &service("b", b)
        + &gateway(
            "{port: {number: 80, protocol: HTTP}, hosts: ['*']}, {port: {number: 81, protocol: HTTP}, hosts: ['*'], tls: {httpsRedirect: true}}",
        )
        + &istio(
            "VirtualService",
            "v",
            &format!(
                "{{hosts: [shop.com], gateways: [g], http: [{{match: [{{uri: {{prefix: /api}}}}], {}}}]}}",
                to("a")
            ),
        )
        + &istio("VirtualService", "w", &format!("{{hosts: ['*.org'], gateways: [g], http: [{{{}}}]}}", to("b")));
    let mut edge = Edge::start(&yaml);
    let addr = edge.listen(80);
    for (host, path, want) in [
        ("shop.com", "/api/x", "200 OK"),
        ("SHOP.com:8080", "/api", "200 OK"),
        ("shop.com", "/", "404"),
        ("other.com", "/api", "404"),
        ("x.org", "/any", "200 OK"),
    ] {
        let answer = get(addr, host, path).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {want}")), "{host}{path}: {answer}");
    }
    let answer = get(addr, "shop.com", "/api").await.to_ascii_lowercase();
    for line in ["x-forwarded-for: 1.2.3.4,127.0.0.1", "x-forwarded-proto: http\r", "x-request-id: "] {
        assert!(answer.contains(line), "{line} in {answer}");
    }
    let redirected = get(edge.listen(81), "shop.com", "/p?q=1").await.to_ascii_lowercase();
    assert!(
        redirected.starts_with("http/1.1 301") && redirected.contains("location: https://shop.com/p?q=1"),
        "{redirected}"
    );

    // The configuration changes under an open listener.
    edge.apply(&istio(
        "VirtualService",
        "v",
        &format!("{{hosts: [shop.com], gateways: [g], http: [{{{}}}]}}", to("b")),
    ));
    assert!(get(addr, "shop.com", "/").await.contains("\r\n\r\nb\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_of_the_gateway_api() {
    let a = endpoint("a").await;
    let yaml = service("a", a)
        + "---\napiVersion: v1\nkind: Pod\nmetadata: {name: gw, namespace: edge, uid: u1, labels: {gateway.networking.k8s.io/gateway-name: api}, annotations: {undermesh.dev/netns: /none}}\nstatus: {phase: Running, podIPs: [{ip: 10.9.9.9}]}\n---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: api, namespace: edge}\nspec: {gatewayClassName: undermesh, listeners: [{name: http, port: 80, protocol: HTTP}]}\n---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r, namespace: edge}\nspec:\n  parentRefs: [{name: api}]\n  rules:\n  - matches: [{path: {value: /a}}]\n    backendRefs: [{name: a, port: 80}]\n  - matches: [{path: {value: /gone}}]\n    backendRefs: [{name: gone, port: 80}]\n";
    let mut edge = Edge::start(&yaml);
    let addr = edge.listen(80);
    for (path, want) in [("/a/x", "200"), ("/", "404"), ("/gone", "500")] {
        let answer = get(addr, "any.com", path).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {want}")), "{path}: {answer}");
    }
}

struct Pair(rcgen::CertifiedKey<rcgen::KeyPair>);

impl Pair {
    fn new(name: &str) -> Self {
        Self(rcgen::generate_simple_self_signed([name.to_owned()]).unwrap())
    }

    fn secret(&self, name: &str) -> String {
        let block = |pem: String| pem.lines().map(|line| format!("\n    {line}")).collect::<String>();
        let (cert, key) = (block(self.0.cert.pem()), block(self.0.signing_key.serialize_pem()));
        format!(
            "---\napiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: edge}}\nstringData:\n  tls.crt: |{cert}\n  tls.key: |{key}\n"
        )
    }

    async fn connect(
        &self,
        addr: SocketAddr,
        name: &str,
        alpn: &[u8],
    ) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(self.0.cert.der().to_vec())).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().unwrap();
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![alpn.to_vec()];
        let stream = TcpStream::connect(addr).await?;
        TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(name.to_owned()).unwrap(), stream).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn https_by_name_and_renewal_without_a_failed_request() {
    let (a, b) = (endpoint("a").await, endpoint("b").await);
    let server = |host: &str| {
        format!(
            "{{port: {{number: 443, protocol: HTTPS}}, hosts: [{host}.com], tls: {{mode: SIMPLE, credentialName: {host}}}}}"
        )
    };
    let vs = |host: &str| {
        istio(
            "VirtualService",
            host,
            &format!("{{hosts: [{host}.com], gateways: [g], http: [{{route: [{{destination: {{host: {host}}}}}]}}]}}"),
        )
    };
    let (one, two, renewed) = (Pair::new("a.com"), Pair::new("b.com"), Pair::new("a.com"));
    let yaml = service("a", a)
        + &service("b", b)
        + &gateway(&format!("{}, {}", server("a"), server("b")))
        + &vs("a")
        + &vs("b")
        + &one.secret("a")
        + &two.secret("b");
    let mut edge = Edge::start(&yaml);
    let addr = edge.listen(443);
    let answer =
        soon("https", async { ask(one.connect(addr, "a.com", b"http/1.1").await.unwrap(), "a.com", "/x").await }).await;
    assert!(answer.contains("\r\n\r\na\n") && answer.contains("x-forwarded-proto: https"), "{answer}");
    let answer =
        soon("https", async { ask(two.connect(addr, "b.com", b"http/1.1").await.unwrap(), "b.com", "/x").await }).await;
    assert!(answer.contains("\r\n\r\nb\n"), "{answer}");
    assert!(one.connect(addr, "c.com", b"http/1.1").await.is_err(), "no server has the name");
    let h2 = one.connect(addr, "a.com", b"h2").await.unwrap();
    assert_eq!(h2.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));

    let open = one.connect(addr, "a.com", b"http/1.1").await.unwrap();
    edge.apply(&renewed.secret("a"));
    assert!(ask(open, "a.com", "/old").await.contains("200 OK"), "the open connection goes on");
    assert!(one.connect(addr, "a.com", b"http/1.1").await.is_err(), "the former certificate is gone");
    let answer = ask(renewed.connect(addr, "a.com", b"http/1.1").await.unwrap(), "a.com", "/new").await;
    assert!(answer.contains("200 OK"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tcp_and_tls_inside_and_passed_through() {
    let a = endpoint("a").await;
    let servers = "{port: {number: 1, protocol: TCP}, hosts: ['*']}, {port: {number: 443, protocol: TLS}, hosts: [in.com], tls: {mode: SIMPLE, credentialName: in}}, {port: {number: 443, protocol: TLS}, hosts: [through.com], tls: {mode: PASSTHROUGH}}";
    let tcp = istio(
        "VirtualService",
        "tcp",
        "{hosts: ['*'], gateways: [g], tcp: [{route: [{destination: {host: a, port: {number: 80}}}]}]}",
    );
    let tls = istio(
        "VirtualService",
        "tls",
        "{hosts: [through.com], gateways: [g], tls: [{match: [{sniHosts: [through.com]}], route: [{destination: {host: inner, port: {number: 80}}}]}]}",
    );
    let (outer, inner) = (Pair::new("in.com"), Pair::new("through.com"));
    // The endpoint behind the passthrough terminates TLS itself: another gateway plays it.
    let far = service("a", a)
        + &gateway(
            "{port: {number: 443, protocol: HTTPS}, hosts: [through.com], tls: {mode: SIMPLE, credentialName: inner}}",
        )
        + &istio(
            "VirtualService",
            "v",
            "{hosts: [through.com], gateways: [g], http: [{route: [{destination: {host: a}}]}]}",
        )
        + &inner.secret("inner");
    let mut far = Edge::start(&far);
    let yaml =
        service("a", a) + &service("inner", far.listen(443)) + &gateway(servers) + &tcp + &tls + &outer.secret("in");
    let mut edge = Edge::start(&yaml);
    let log = LogFile::of(&edge.access_log, "");
    assert!(get(edge.listen(1), "any", "/").await.contains("\r\n\r\na\n"));
    let addr = edge.listen(443);
    let answer =
        soon("inside", async { ask(outer.connect(addr, "in.com", b"x").await.unwrap(), "in.com", "/").await }).await;
    assert!(answer.contains("\r\n\r\na\n"), "{answer}");
    // What is inside TLS is counted, not TLS.
    let inside = log.lines(2).await.remove(1);
    let sent = json!({
        "response_flags": "-", "bytes_sent": answer.len(), "requested_server_name": "in.com",
        "upstream_host": a.to_string(), "upstream_cluster": "outbound|80||a.edge.svc.cluster.local",
    });
    says(&inside, &sent);
    let answer = soon("through", async {
        ask(inner.connect(addr, "through.com", b"http/1.1").await.unwrap(), "through.com", "/").await
    })
    .await;
    assert!(answer.contains("\r\n\r\na\n"), "{answer}");
    says(&log.lines(3).await[2], &json!({"response_flags": "-", "requested_server_name": "through.com"}));
    // A name that no server has.
    assert!(outer.connect(addr, "other.com", b"x").await.is_err());
    let nobody = json!({
        "response_flags": "NR", "response_code_details": "filter_chain_not_found", "upstream_cluster": null,
        "requested_server_name": "other.com",
    });
    says(&log.lines(4).await[3], &nobody);
}
