//! What the data path's tests share: an agent with explicit listeners, and peers that follow a script.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::field_reassign_with_default,
    reason = "each test binary uses its own part"
)]

pub mod log_file;
pub mod scripted;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use mesh_agent::addr::{EndpointAddr, OrigDst};
use mesh_agent::balance::Registry;
use mesh_agent::config::Severity;
use mesh_agent::config::compile;
use mesh_agent::config::resource::parse::parse;
use mesh_agent::listen::Pod;
use mesh_agent::settings::Settings;
use mesh_agent::snapshot::{
    Endpoint, EndpointHealth, EndpointSet, LbPolicy, Locality, PortKey, Protocol, Service, ServiceName, ServicePort,
    Snapshot,
};
use mesh_agent::telemetry::trace::Traces;
use mesh_agent::telemetry::{Format, MOST_SERIES, Metrics};
use mesh_agent::worker::{Listening, Shared, Workers};
use socket2::{Domain, Socket, Type};
use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};

/// A pod in the mesh, for [`captured`].
pub const WEB: &str = "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {istio-injection: enabled}}\n---\n\
                       apiVersion: v1\nkind: Pod\nmetadata: {name: web, namespace: shop, uid: u1, labels: {app: web, tier: front}, \
                       annotations: {undermesh.dev/netns: /none}}\nstatus: {phase: Running, podIPs: [{ip: 10.9.9.9}]}\n";

/// A running data path with one service port.
pub struct Agent {
    pub addr: SocketAddr,
    pub workers: Workers,
    pub shared: Shared,
    listening: Option<Listening>,
}

impl Agent {
    pub fn start(protocol: Protocol, endpoints: &[SocketAddr]) -> Self {
        Self::with(protocol, endpoints, Settings::default())
    }

    pub fn with(protocol: Protocol, endpoints: &[SocketAddr], settings: Settings) -> Self {
        Self::of(snapshot(1, protocol, endpoints), settings)
    }

    /// As YAML: the Service `default/echo` whose port 80 is named `port`, its endpoints, and `policies`.
    pub fn yaml(port: &str, endpoints: &[SocketAddr], policies: &str) -> Self {
        Self::of(compiled(port, endpoints, policies), Settings::default())
    }

    pub fn of(snapshot: Snapshot, settings: Settings) -> Self {
        let snapshot = Arc::new(ArcSwap::from_pointee(snapshot));
        let traces = Arc::new(Traces::new(Arc::clone(&snapshot)));
        let shared = Shared {
            snapshot,
            traces,
            metrics: Arc::new(Metrics::new(MOST_SERIES).expect("metric names are valid")),
            registry: Arc::new(Registry::default()),
            settings: Arc::new(settings),
            access_log: Arc::default(),
            taps: Arc::default(),
            costs: Arc::default(),
            links: Arc::default(),
        };
        let workers = Workers::start(1, shared.clone()).expect("threads");
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback");
        let addr = listener.local_addr().expect("bound");
        let listening = Some(workers.serve_explicit(listener, key()));
        Self { addr, workers, shared, listening }
    }

    pub fn publish(&self, generation: u64, protocol: Protocol, endpoints: &[SocketAddr]) {
        self.shared.snapshot.store(Arc::new(snapshot(generation, protocol, endpoints)));
    }

    pub fn stop_listening(&mut self) {
        self.listening = None;
    }

    pub async fn http2(&self) -> Client {
        Client::connect(self.addr, h2::client::Builder::new()).await
    }

    /// The value of the series whose line contains all of `parts`; 0 where there is none.
    pub fn metric(&self, parts: &[&str]) -> f64 {
        let text = self.shared.metrics.gather(Format::Text);
        text.lines()
            .filter(|line| !line.starts_with('#') && parts.iter().all(|part| line.contains(part)))
            .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
            .sum()
    }
}

/// Takes connections as if they were a pod's to the Service at 10.96.0.1:80.
pub fn captured(agent: &Agent, pod: &str) -> (SocketAddr, Listening) {
    captured_for(agent, pod, ([10, 96, 0, 1], 80).into())
}

/// Takes connections as if they were a pod's to `wants`.
pub fn captured_for(agent: &Agent, pod: &str, wants: SocketAddr) -> (SocketAddr, Listening) {
    let snapshot = agent.shared.snapshot.load();
    let workload = snapshot.workloads().find(|workload| &*workload.key.name == pod).expect("the pod");
    let pod = Pod {
        workload: Arc::clone(workload).into(),
        cookie: 1,
        find_flow: Arc::new(move |_, _| Some(OrigDst::new(wants).into())),
        open_socket: Arc::new(|to, _| {
            let socket = Socket::new(Domain::for_address(to.addr()), Type::STREAM, None);
            Box::pin(std::future::ready(socket.map(std::os::fd::OwnedFd::from)))
        }),
    };
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback");
    let addr = listener.local_addr().expect("bound");
    (addr, agent.workers.serve_captured(vec![listener], Arc::new(pod)))
}

/// What `Agent::yaml` serves. Endpoints are chosen in turn.
pub fn compiled(port: &str, endpoints: &[SocketAddr], policies: &str) -> Snapshot {
    let slice = |(index, addr): (usize, &SocketAddr)| {
        format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: echo-{index}, namespace: default, \
             labels: {{kubernetes.io/service-name: echo}}}}\naddressType: IPv4\nports: [{{name: {port}, port: {}}}]\n\
             endpoints: [{{addresses: [{}]}}]\n",
            addr.port(),
            addr.ip()
        )
    };
    let slices: String = endpoints.iter().enumerate().map(slice).collect();
    let yaml = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: echo, namespace: default, annotations: \
         {{undermesh.dev/load-balancer: round-robin}}}}\nspec: {{clusterIP: 10.96.0.1, ports: [{{name: {port}, port: 80}}]}}\n\
         {slices}{policies}"
    );
    let parsed = parse(&Path::new("test.yaml").into(), &yaml);
    assert!(parsed.diagnostics.is_empty(), "{:?}", parsed.diagnostics);
    let settings = compile::Settings { node: "n".into(), cluster_domain: "cluster.local".into() };
    let (snapshot, found) = compile::compile(settings, parsed.resources.into_iter().map(Arc::new));
    assert!(found.iter().all(|found| found.severity != Severity::Error), "{found:?}");
    Arc::try_unwrap(snapshot).unwrap_or_else(|_| panic!("nobody else holds it"))
}

pub fn key() -> PortKey {
    PortKey::new(ServiceName::new("default", "echo"), 80)
}

pub fn snapshot(generation: u64, protocol: Protocol, endpoints: &[SocketAddr]) -> Snapshot {
    let endpoints = endpoints
        .iter()
        .map(|addr| Endpoint {
            addr: EndpointAddr::new(*addr),
            weight: 1,
            health: EndpointHealth::Ready,
            workload: None,
            locality: Locality::default(),
        })
        .collect();
    let port = ServicePort {
        key: key(),
        port: 80,
        name: "port".into(),
        protocol,
        lb: LbPolicy::RoundRobin,
        endpoints: Arc::new(EndpointSet { endpoints }),
    };
    let mut snapshot = Snapshot::default();
    snapshot.generation = generation;
    snapshot.insert_service(Arc::new(Service {
        ports: vec![Arc::new(port)],
        ..Service::new(key().service, "echo.default.svc.cluster.local")
    }));
    snapshot
}

/// An HTTP/2 client whose connection is driven in the background.
pub struct Client {
    pub send: h2::client::SendRequest<Bytes>,
    pub driver: tokio::task::JoinHandle<Result<(), h2::Error>>,
}

/// A response with its whole body.
#[derive(Debug)]
pub struct Whole {
    pub head: Response<()>,
    pub body: Vec<u8>,
    pub trailers: Option<HeaderMap>,
}

impl Client {
    pub async fn connect(addr: SocketAddr, builder: h2::client::Builder) -> Self {
        let stream = TcpStream::connect(addr).await.expect("the agent listens");
        stream.set_nodelay(true).expect("option");
        let (send, connection) = builder.handshake(stream).await.expect("handshake");
        Self { send, driver: tokio::spawn(connection) }
    }

    pub async fn start(
        &mut self,
        request: Request<()>,
        end: bool,
    ) -> (h2::client::ResponseFuture, h2::SendStream<Bytes>) {
        self.send = self.send.clone().ready().await.expect("room");
        self.send.send_request(request, end).expect("sent")
    }

    pub async fn call(&mut self, request: Request<()>, body: Bytes) -> Result<Whole, h2::Error> {
        let (response, mut send) = self.start(request, body.is_empty()).await;
        // An echo answers while it reads: both ways at once, or both windows fill up.
        let upload = async {
            if !body.is_empty() {
                send_all(&mut send, body, true).await;
            }
        };
        tokio::join!(upload, whole(response)).1
    }
}

pub async fn whole(response: h2::client::ResponseFuture) -> Result<Whole, h2::Error> {
    let (head, mut stream) = response.await?.into_parts();
    let mut body = Vec::new();
    while let Some(data) = stream.data().await {
        let data = data?;
        stream.flow_control().release_capacity(data.len())?;
        body.extend_from_slice(&data);
    }
    let trailers = stream.trailers().await?;
    Ok(Whole { head: Response::from_parts(head, ()), body, trailers })
}

/// Sends under flow control.
pub async fn send_all(send: &mut h2::SendStream<Bytes>, mut data: Bytes, end: bool) {
    while !data.is_empty() {
        send.reserve_capacity(data.len());
        let Some(Ok(capacity)) = std::future::poll_fn(|cx| send.poll_capacity(cx)).await else { return };
        let chunk = data.split_to(capacity.min(data.len()));
        let last = end && data.is_empty();
        if send.send_data(chunk, last).is_err() {
            return;
        }
    }
}

/// A gRPC request head.
pub fn grpc(path: &str) -> Request<()> {
    Request::post(format!("http://echo.default.svc.cluster.local{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .expect("valid")
}

/// One gRPC message with its five-byte prefix.
pub fn message(payload: &[u8]) -> Bytes {
    let mut framed = vec![0];
    framed.extend_from_slice(&u32::try_from(payload.len()).expect("short").to_be_bytes());
    framed.extend_from_slice(payload);
    framed.into()
}

pub fn trailers(status: &'static str) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", http::HeaderValue::from_static(status));
    trailers
}

/// An HTTP/2 endpoint: `serve` gets each connection.
pub async fn endpoint<F>(
    serve: impl Fn(usize, h2::server::Connection<TcpStream, Bytes>) -> F + Send + Sync + 'static,
) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    endpoint_with(h2::server::Builder::new(), serve).await
}

pub async fn endpoint_with<F>(
    builder: h2::server::Builder,
    serve: impl Fn(usize, h2::server::Connection<TcpStream, Bytes>) -> F + Send + Sync + 'static,
) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let addr = listener.local_addr().expect("bound");
    let serve = Arc::new(serve);
    tokio::spawn(async move {
        for index in 0.. {
            let Ok((stream, _)) = listener.accept().await else { return };
            let _ = stream.set_nodelay(true);
            let (builder, serve) = (builder.clone(), Arc::clone(&serve));
            tokio::spawn(async move {
                if let Ok(connection) = builder.handshake(stream).await {
                    serve(index, connection).await;
                }
            });
        }
    });
    addr
}

/// Answers each request with its own body and `name`.
pub async fn echo(name: &'static str) -> SocketAddr {
    endpoint(move |_, mut connection| async move {
        while let Some(Ok((request, respond))) = connection.accept().await {
            tokio::spawn(echo_one(name, request, respond));
        }
    })
    .await
}

pub async fn echo_one(
    name: &'static str,
    request: Request<h2::RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
) {
    let head = Response::builder().header("content-type", "application/grpc").header("x-endpoint", name);
    let Ok(mut send) = respond.send_response(head.body(()).expect("valid"), false) else { return };
    let mut body = request.into_body();
    while let Some(Ok(data)) = body.data().await {
        let _ = body.flow_control().release_capacity(data.len());
        send_all(&mut send, data, false).await;
    }
    let _ = send.send_trailers(trailers("0"));
}

/// An address where nobody listens.
pub fn refusing() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback");
    listener.local_addr().expect("bound")
}

/// Waits for a condition; fails the test rather than hang.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    soon(what, async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// The request that `METHOD TARGET | name: value | …` means; a target without a host is asked of `echo.default`.
pub fn ask(text: &str) -> Request<()> {
    let mut parts = text.split(" | ");
    let (method, target) = parts.next().and_then(|line| line.split_once(' ')).expect("METHOD TARGET");
    let uri = if target.starts_with('/') { format!("http://echo.default{target}") } else { target.to_owned() };
    let head = parts
        .filter_map(|field| field.split_once(": "))
        .fold(Request::builder().method(method).uri(uri), |head, (name, value)| head.header(name, value));
    head.body(()).expect("valid")
}

/// A Service of the namespace `default` with one port, and its endpoints.
pub fn service(name: &str, port: &str, endpoints: &[SocketAddr]) -> String {
    let subsets: Vec<_> = endpoints
        .iter()
        .map(|addr| format!("{{addresses: [{{ip: {}}}], ports: [{{name: {port}, port: {}}}]}}", addr.ip(), addr.port()))
        .collect();
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: default}}\nspec: {{clusterIP: None, ports: \
         [{{name: {port}, port: 80}}]}}\n---\napiVersion: v1\nkind: Endpoints\nmetadata: {{name: {name}, namespace: default}}\n\
         subsets: [{}]\n",
        subsets.join(", ")
    )
}

/// An object of the namespace `default`.
pub fn object(kind: &str, name: &str, spec: &str) -> String {
    let version = match kind {
        "HTTPRoute" | "GRPCRoute" => "gateway.networking.k8s.io/v1",
        "RequestPolicy" => "undermesh.dev/v1alpha1",
        _ => "networking.istio.io/v1",
    };
    format!("---\napiVersion: {version}\nkind: {kind}\nmetadata: {{name: {name}, namespace: default}}\nspec: {spec}\n")
}

/// Fails the test rather than hang.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(Duration::from_secs(20), future).await {
        Ok(value) => value,
        Err(_) => panic!("{what}: nothing happened for 20 s"),
    }
}
