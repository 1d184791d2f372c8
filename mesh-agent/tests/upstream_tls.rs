//! TLS to endpoints, from YAML to a real TLS server: whom we believe, who we are, what is told when it fails.

mod support;

use arc_swap::ArcSwap;
use mesh_agent::balance::Registry;
use mesh_agent::config::Changes;
use mesh_agent::config::compile::{Compiler, Settings as CompileSettings};
use mesh_agent::config::resource::parse::parse;
use mesh_agent::settings::Settings;
use mesh_agent::snapshot::{PortKey, ServiceName, Snapshot};
use mesh_agent::telemetry::Metrics;
use mesh_agent::telemetry::trace::Traces;
use mesh_agent::worker::{Listening, Shared, Workers};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use support::soon;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

const HOST: &str = "api.example";

/// An agent with a listener for port 80 of the ServiceEntry of [`HOST`].
struct Agent {
    compiler: Compiler,
    snapshot: Arc<ArcSwap<Snapshot>>,
    addr: SocketAddr,
    _listening: Listening,
    _workers: Workers,
}

impl Agent {
    fn start(yaml: &str) -> Self {
        let settings = CompileSettings { node: "".into(), cluster_domain: "cluster.local".into() };
        let mut compiler = Compiler::new(settings);
        let snapshot = Arc::new(ArcSwap::new(compile(&mut compiler, yaml)));
        let shared = Shared {
            traces: Arc::new(Traces::new(Arc::clone(&snapshot))),
            snapshot,
            metrics: Arc::new(Metrics::new(mesh_agent::telemetry::MOST_SERIES).unwrap()),
            access_log: Arc::default(),
            taps: Arc::default(),
            costs: Arc::default(),
            links: Arc::default(),
            registry: Arc::new(Registry::default()),
            settings: Arc::new(Settings::default()),
        };
        let workers = Workers::start(1, shared.clone()).unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let listening = workers.serve_explicit(listener, PortKey::new(ServiceName::new("shop", HOST), 80));
        Self { compiler, snapshot: shared.snapshot, addr, _listening: listening, _workers: workers }
    }

    fn apply(&mut self, yaml: &str) {
        self.snapshot.store(compile(&mut self.compiler, yaml));
    }

    /// One plain request; the whole answer.
    async fn get(&self) -> String {
        let mut stream = TcpStream::connect(self.addr).await.unwrap();
        let request = format!("GET / HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        soon("an answer", stream.read_to_end(&mut answer)).await.unwrap();
        String::from_utf8(answer).unwrap()
    }

    /// As above, on a connection that nobody looks into: until the body has come, since the server does not close.
    async fn get_open(&self) -> String {
        let mut stream = TcpStream::connect(self.addr).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        while !answer.ends_with(" 0") {
            let byte = soon("a byte", stream.read_u8()).await.unwrap();
            answer.push(char::from(byte));
        }
        answer
    }
}

fn compile(compiler: &mut Compiler, yaml: &str) -> Arc<Snapshot> {
    let parsed = parse(&Path::new("t.yaml").into(), yaml);
    assert!(parsed.diagnostics.is_empty(), "{:?}", parsed.diagnostics);
    let upserts = parsed.resources.into_iter().map(Arc::new).collect();
    compiler.apply(Changes { upserts, ..Changes::default() }).snapshot
}

/// A certificate authority.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// Certificate and key for a DNS name or a URI, PEM.
    fn sign(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        let name = name.try_into().unwrap();
        let uri = AsRef::<str>::as_ref(&name).contains("://");
        params.subject_alt_names.push(if uri { SanType::URI(name) } else { SanType::DnsName(name) });
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }
}

fn acceptor((chain, key): &(String, String), clients: Option<&Authority>) -> TlsAcceptor {
    let chain = vec![CertificateDer::from_pem_slice(chain.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let provider = Arc::new(ring::default_provider());
    let builder =
        ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions().unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from_pem_slice(authority.pem.as_bytes()).unwrap()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        }
    };
    let mut config = builder.with_single_cert(chain, key).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

/// An HTTP/1.1 server behind TLS that answers with the SNI, the ALPN and the number of certificates it got.
async fn server(own: &(String, String), clients: Option<&Authority>) -> SocketAddr {
    let acceptor = acceptor(own, clients);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let session = stream.get_ref().1;
                let alpn = session.alpn_protocol().map(String::from_utf8_lossy).unwrap_or_default();
                let certificates = session.peer_certificates().map_or(0, <[_]>::len);
                let body = format!("{} {alpn} {certificates}", session.server_name().unwrap_or("-"));
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                let mut head = Vec::new();
                while let Ok(byte) = stream.read_u8().await {
                    head.push(byte);
                    if head.ends_with(b"\r\n\r\n") {
                        head.clear();
                        if stream.write_all(answer.as_bytes()).await.is_err() || stream.flush().await.is_err() {
                            return;
                        }
                    }
                }
            });
        }
    });
    addr
}

/// Istio's egress sample: plain HTTP on port 80, TLS on its way to `targetPort`.
fn entry(at: SocketAddr, more: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: api, namespace: shop}}\nspec: {{hosts: [{HOST}], resolution: STATIC, {more}ports: [{{number: 80, name: http, protocol: HTTP, targetPort: {}}}], endpoints: [{{address: {}}}]}}\n",
        at.port(),
        at.ip()
    )
}

fn rule(tls: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: api, namespace: shop}}\nspec: {{host: {HOST}, trafficPolicy: {{tls: {{{tls}}}}}}}\n"
    )
}

fn secret(name: &str, values: &[(&str, &str)]) -> String {
    let values = values.iter().map(|(key, pem)| format!("  {key}: |\n    {}\n", pem.trim().replace('\n', "\n    ")));
    let values: String = values.collect();
    format!("---\napiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: shop}}\nstringData:\n{values}")
}

fn file(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

#[track_caller]
fn refused(answer: &str, why: &str) {
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(answer.contains("TLS_error"), "{answer}");
    assert!(answer.contains(why) || why.is_empty(), "{why} in {answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn simple_by_file_and_whom_it_does_not_believe() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let folder = tempfile::tempdir().unwrap();
    let ca = file(folder.path(), "ca.pem", &ours.pem);
    let at = server(&ours.sign(HOST), None).await;
    let simple = format!("mode: SIMPLE, caCertificates: {ca}");
    let mut agent = Agent::start(&(entry(at, "") + &rule(&simple)));
    let answer = agent.get().await;
    assert!(answer.ends_with("\r\n\r\napi.example http/1.1 0"), "{answer}");
    for (more, ok) in [
        ("sni: other.example", false),
        ("sni: other.example, subjectAltNames: [api.example]", true),
        ("subjectAltNames: [other.example, api.example]", true),
        ("subjectAltNames: [other.example]", false),
        ("sni: other.example, insecureSkipVerify: true", true),
    ] {
        agent.apply(&rule(&format!("{simple}, {more}")));
        let answer = agent.get().await;
        if ok {
            assert!(answer.starts_with("HTTP/1.1 200"), "{more}: {answer}");
            let sni = if more.contains("sni") { "other.example" } else { HOST };
            assert!(answer.contains(&format!("\r\n\r\n{sni} ")), "{more}: {answer}");
        } else {
            refused(&answer, "");
        }
    }
    // The file is exchanged under the same rule; then it is gone.
    agent.apply(&rule(&simple));
    assert!(agent.get().await.starts_with("HTTP/1.1 200"));
    let other = server(&theirs.sign(HOST), None).await;
    agent.apply(&entry(other, ""));
    refused(&agent.get().await, "");
    file(folder.path(), "ca.pem", &theirs.pem);
    soon("the new file", async {
        while !agent.get().await.starts_with("HTTP/1.1 200") {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    })
    .await;
    agent.apply(&rule("mode: SIMPLE, caCertificates: /does/not/exist"));
    refused(&agent.get().await, "/does/not/exist");
    agent.apply(&rule("mode: SIMPLE"));
    refused(&agent.get().await, "");
    // A plain server is not spoken to in the clear.
    let plain = TcpListener::bind("127.0.0.1:0").await.unwrap();
    agent.apply(&(entry(plain.local_addr().unwrap(), "") + &rule("mode: SIMPLE, insecureSkipVerify: true")));
    let (answer, first) = tokio::join!(agent.get(), async {
        let (mut stream, _) = plain.accept().await.unwrap();
        let first = stream.read_u8().await.unwrap();
        drop(plain);
        first
    });
    assert_eq!(first, 0x16, "a handshake, not a request");
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_the_service_entry_and_uris() {
    let ours = Authority::new();
    let folder = tempfile::tempdir().unwrap();
    let simple = format!("mode: SIMPLE, caCertificates: {}", file(folder.path(), "ca.pem", &ours.pem));
    let at = server(&ours.sign("spiffe://cluster.local/ns/shop/sa/api"), None).await;
    let mut agent = Agent::start(&(entry(at, "") + &rule(&simple)));
    refused(&agent.get().await, "");
    agent.apply(&entry(at, "subjectAltNames: ['spiffe://cluster.local/ns/shop/sa/api'], "));
    assert!(agent.get().await.starts_with("HTTP/1.1 200"));
    agent.apply(&rule(&format!("{simple}, subjectAltNames: ['spiffe://cluster.local/ns/shop/sa/other']")));
    refused(&agent.get().await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn mutual_by_secret_and_by_file() {
    let (ours, clients) = (Authority::new(), Authority::new());
    let at = server(&ours.sign(HOST), Some(&clients)).await;
    let (chain, key) = clients.sign("client.example");
    let mut agent = Agent::start(&(entry(at, "") + &rule("mode: MUTUAL, credentialName: api")));
    refused(&agent.get().await, "Secret api");
    // The Secret comes later, its authority in a neighbour.
    agent.apply(&secret("api", &[("tls.crt", &chain), ("tls.key", &key)]));
    refused(&agent.get().await, "Secret api");
    agent.apply(&secret("api-cacert", &[("ca.crt", &ours.pem)]));
    let answer = agent.get().await;
    assert!(answer.ends_with("api.example http/1.1 1"), "{answer}");
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str, text: &str| file(folder.path(), name, text);
    let (ca, chain, key) = (path("ca", &ours.pem), path("crt", &chain), path("key", &key));
    let files = format!("caCertificates: {ca}, clientCertificate: {chain}, privateKey: {key}");
    agent.apply(&rule(&format!("mode: MUTUAL, {files}")));
    assert!(agent.get().await.ends_with("api.example http/1.1 1"));
    agent.apply(&rule(&format!("mode: SIMPLE, {files}")));
    let answer = agent.get().await;
    assert!(answer.starts_with("HTTP/1.1 503"), "the server wants a certificate: {answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_go_through_tls_too() {
    let ours = Authority::new();
    let folder = tempfile::tempdir().unwrap();
    let at = server(&ours.sign(HOST), None).await;
    let ca = file(folder.path(), "ca.pem", &ours.pem);
    let yaml = entry(at, "").replace("protocol: HTTP", "protocol: TCP");
    let agent = Agent::start(&(yaml + &rule(&format!("mode: SIMPLE, caCertificates: {ca}"))));
    let answer = agent.get_open().await;
    assert!(answer.ends_with("api.example  0"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn either_side_may_speak_first_where_nobody_said_what_is_spoken() {
    let ours = Authority::new();
    let folder = tempfile::tempdir().unwrap();
    let ca = file(folder.path(), "ca.pem", &ours.pem);
    let simple = rule(&format!("mode: SIMPLE, caCertificates: {ca}"));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let acceptor = acceptor(&ours.sign(HOST), None);
    let yaml = entry(listener.local_addr().unwrap(), "") + &simple;
    let route = format!(
        "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: api, namespace: shop}}\nspec: {{hosts: [{HOST}], http: [{{headers: {{response: {{set: {{x-looked-at: 'yes'}}}}}}, route: [{{destination: {{host: {HOST}}}}}]}}]}}\n"
    );
    let undeclared = yaml.replace("name: http, protocol: HTTP", "name: some, protocol: ''") + &route;
    let declared = yaml.replace("protocol: HTTP", "protocol: TCP");
    for yaml in [undeclared.clone(), declared] {
        let agent = Agent::start(&yaml);
        let mut client = TcpStream::connect(agent.addr).await.unwrap();
        let (stream, _) = soon("a connection before the client's first byte", listener.accept()).await.unwrap();
        let mut server = soon("a handshake before it, too", acceptor.accept(stream)).await.unwrap();
        server.write_all(b"220 ready\r\n").await.unwrap();
        server.flush().await.unwrap();
        let mut greeting = [0; 11];
        soon("a greeting", client.read_exact(&mut greeting)).await.unwrap();
        assert_eq!(&greeting, b"220 ready\r\n");
        client.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        let mut asked = [0; 16];
        soon("what the client says after it", server.read_exact(&mut asked)).await.unwrap();
        assert_eq!(&asked, b"GET / HTTP/1.1\r\n", "it is not taken for HTTP any more");
    }
    // The handshake is done, its tickets have come, and nobody has said a word: an HTTP client still is one.
    let agent = Agent::start(&undeclared);
    let mut client = TcpStream::connect(agent.addr).await.unwrap();
    let (stream, _) = soon("a connection", listener.accept()).await.unwrap();
    let mut server = soon("a handshake", acceptor.accept(stream)).await.unwrap();
    server.flush().await.unwrap();
    client.write_all(format!("GET / HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n\r\n").as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(soon("the request, on that very connection", server.read_u8()).await.unwrap());
    }
    server.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    server.flush().await.unwrap();
    let mut answer = String::new();
    soon("an answer", client.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("x-looked-at: yes"), "{answer}");
}
