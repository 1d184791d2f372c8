//! One Envoy and one agent in front of the same endpoints.

use super::cases::CASES;
use super::{backend, translate};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Version};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Proxies {
    dir: TempDir,
    envoy: SocketAddr,
    /// One listener per case.
    agent: BTreeMap<&'static str, SocketAddr>,
    metrics: SocketAddr,
    _children: [Child; 2],
}

/// What a client saw.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Those that policies make.
    pub(crate) headers: BTreeMap<String, String>,
    /// `None`: the proxy answered.
    pub(crate) got: Option<Got>,
    pub(crate) text: String,
    pub(crate) flags: String,
}

/// What the endpoint got, as it says itself.
#[derive(Debug, PartialEq)]
pub(crate) struct Got {
    pub(crate) backend: String,
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) host: String,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) attempt: u64,
}

impl Proxies {
    pub(crate) async fn start() -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        let backends = [
            ("a", Some(backend::start("a", false).await), false),
            ("b", Some(backend::start("b", false).await), false),
            ("g", Some(backend::start("g", true).await), true),
            ("refused", Some(free_port()), false),
            ("empty", None, false),
        ];
        let rules: Vec<(String, Value)> = CASES
            .iter()
            .map(|case| (host(case.name), serde_yaml_ng::from_str(case.http).expect("a case's rules are YAML")))
            .collect();
        let (envoy, metrics) = (free_port(), free_port());
        let config = translate::bootstrap(&rules, &backends, envoy, &dir.path().join("log"));
        std::fs::write(dir.path().join("envoy.json"), config.to_string()).expect("Envoy's configuration");
        std::fs::create_dir(dir.path().join("mesh")).expect("configuration folder");
        std::fs::write(dir.path().join("mesh/all.yaml"), mesh(&backends)).expect("the agent's configuration");
        let agent: BTreeMap<_, _> = CASES.iter().map(|case| (case.name, free_port())).collect();
        let children = [start_envoy(dir.path()), start_agent(dir.path(), &agent, metrics)];
        for addr in agent.values().chain([&envoy, &metrics]) {
            let connects = async {
                while TcpStream::connect(addr).await.is_err() {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            tokio::time::timeout(PATIENCE, connects).await.unwrap_or_else(|_| panic!("nobody listens on {addr}"));
        }
        Self { dir, envoy, agent, metrics, _children: children }
    }

    pub(crate) async fn envoy(&self, case: &str, text: &str, number: u32) -> Answer {
        let id = format!("envoy-{number}");
        let mut answer = ask(self.envoy, &host(case), text, &id).await;
        let logged = async {
            loop {
                let log = std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
                let line = log.lines().find(|line| line.split(' ').next() == Some(&*id));
                if let Some(flags) = line.and_then(|line| line.split(' ').nth(1)) {
                    return flags.to_owned();
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        answer.flags = tokio::time::timeout(PATIENCE, logged).await.expect("Envoy logs the request");
        answer
    }

    pub(crate) async fn agent(&self, case: &str, text: &str, number: u32) -> Answer {
        let before = self.flags().await;
        let mut answer = ask(self.agent[case], &host(case), text, &format!("agent-{number}")).await;
        let counted = async {
            loop {
                let after = self.flags().await;
                if let Some((flags, _)) = after.iter().find(|(flags, count)| before.get(*flags) != Some(*count)) {
                    return flags.clone();
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        answer.flags = tokio::time::timeout(PATIENCE, counted).await.expect("the agent counts the request");
        answer
    }

    /// Requests so far, by response flags.
    async fn flags(&self) -> BTreeMap<String, u64> {
        let (_, _, text) = send(self.metrics, get("/metrics", "metrics"), false).await;
        let mut flags = BTreeMap::new();
        for line in text.lines().filter(|line| line.starts_with("istio_requests_total{")) {
            let flag = line.split_once("response_flags=\"").and_then(|(_, rest)| rest.split_once('"'));
            let count = line.rsplit_once(' ').and_then(|(_, count)| count.parse::<u64>().ok());
            *flags.entry(flag.expect("a label").0.to_owned()).or_default() += count.expect("a count");
        }
        flags
    }
}

fn host(case: &str) -> String {
    format!("{case}.diff.svc.cluster.local")
}

fn get(target: &str, host: &str) -> Request<Empty<Bytes>> {
    Request::get(target).header("host", host).body(Empty::new()).expect("a request")
}

/// Asks once, over a connection of its own.
async fn ask(addr: SocketAddr, host: &str, text: &str, id: &str) -> Answer {
    let mut parts = text.split(" | ");
    let (method, target) = parts.next().and_then(|line| line.split_once(' ')).expect("METHOD TARGET");
    let grpc = method == "GRPC";
    let mut request = get(target, host);
    *request.method_mut() = if grpc { "POST" } else { method }.parse().expect("a method");
    for part in parts {
        let (name, value) = part.split_once(": ").expect("name: value");
        let name: HeaderName = name.parse().expect("a header's name");
        request.headers_mut().append(name, HeaderValue::from_str(value).expect("a header's value"));
    }
    request.headers_mut().insert("x-case", HeaderValue::from_str(id).expect("a header's value"));
    if grpc {
        request.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
        request.headers_mut().insert("te", HeaderValue::from_static("trailers"));
        request.headers_mut().remove("host");
        *request.uri_mut() = format!("http://{host}{target}").parse().expect("a URI");
        *request.version_mut() = Version::HTTP_2;
    }
    let (status, headers, text) = send(addr, request, grpc).await;
    // An endpoint's own mark; gRPC's trailers-only answers have no body to say what it got.
    let got = serde_json::from_str::<Value>(&text).ok().map(|echo| got(&echo));
    Answer { status, headers: chosen(&headers), got, text: message(&headers).unwrap_or(text), flags: String::new() }
}

async fn send(addr: SocketAddr, request: Request<Empty<Bytes>>, http2: bool) -> (u16, HeaderMap, String) {
    let exchange = async {
        let io = TokioIo::new(TcpStream::connect(addr).await.expect("connects"));
        let response = if http2 {
            let (mut send, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.expect("HTTP/2");
            tokio::spawn(connection);
            send.send_request(request).await
        } else {
            let (mut send, connection) = hyper::client::conn::http1::handshake(io).await.expect("HTTP/1.1");
            tokio::spawn(connection);
            send.send_request(request).await
        };
        let (head, body) = response.expect("an answer").into_parts();
        let body = body.collect().await.expect("a whole body").to_bytes();
        (head.status.as_u16(), head.headers, String::from_utf8_lossy(&body).into_owned())
    };
    tokio::time::timeout(PATIENCE, exchange).await.expect("an answer in time")
}

/// The text of a gRPC answer, as far as it is ASCII.
fn message(headers: &HeaderMap) -> Option<String> {
    headers.get("grpc-message").map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
}

/// What policies write into responses.
fn chosen(headers: &HeaderMap) -> BTreeMap<String, String> {
    let wanted = |name: &str| {
        name.starts_with("x-t-")
            || name.starts_with("access-control-")
            || ["location", "grpc-status", "x-envoy-overloaded", "x-backend", "content-type"].contains(&name)
    };
    fields(headers, wanted)
}

fn fields(headers: &HeaderMap, wanted: impl Fn(&str) -> bool) -> BTreeMap<String, String> {
    let names = headers.keys().map(HeaderName::as_str).filter(|name| wanted(name));
    let value = |name: &str| {
        let all: Vec<_> = headers.get_all(name).iter().map(|v| String::from_utf8_lossy(v.as_bytes())).collect();
        all.join(",")
    };
    names.map(|name| (name.to_owned(), value(name))).collect()
}

fn got(echo: &Value) -> Got {
    let text = |name: &str| echo[name].as_str().unwrap_or_default().to_owned();
    let headers = echo["headers"].as_object().into_iter().flatten();
    let wanted = |name: &str| {
        name.starts_with("x-t")
            || ["x-envoy-original-path", "origin", "cookie", "grpc-timeout", "te", "content-type"].contains(&name)
    };
    Got {
        backend: text("backend"),
        method: text("method"),
        path: text("path"),
        host: text("host"),
        headers: headers
            .filter(|(name, _)| wanted(name))
            .map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_owned()))
            .collect(),
        attempt: echo["attempt"].as_u64().unwrap_or_default(),
    }
}

/// Services and their endpoints, and a VirtualService per case.
fn mesh(backends: &[(&str, Option<SocketAddr>, bool)]) -> String {
    let mut text = String::new();
    let mut put = |part: String| text.write_str(&part).expect("a String takes everything");
    let service = |name: &str, protocol: &str| {
        format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: diff}}\n\
             spec: {{ports: [{{name: {protocol}, port: 80}}]}}\n"
        )
    };
    for (name, addr, http2) in backends {
        let protocol = if *http2 { "grpc" } else { "http" };
        put(service(name, protocol));
        let Some(addr) = addr else { continue };
        put(format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{name: {name}-1, namespace: diff, labels: {{kubernetes.io/service-name: {name}}}}}\n\
             addressType: IPv4\nports: [{{name: {protocol}, port: {}, protocol: TCP}}]\n\
             endpoints: [{{addresses: [\"{}\"], conditions: {{ready: true}}}}]\n",
            addr.port(),
            addr.ip()
        ));
    }
    for case in CASES {
        put(service(case.name, "http"));
        put(format!(
            "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {0}, namespace: diff}}\n\
             spec:\n  hosts: [{0}]\n  http:{1}\n",
            case.name,
            case.http.replace('\n', "\n  ")
        ));
    }
    text
}

fn start_envoy(dir: &Path) -> Child {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/peers/python/bin/envoy");
    assert!(program.exists(), "no {}: run `cargo xtask peers`", program.display());
    let mut command = Command::new(program);
    command.arg("-c").arg(dir.join("envoy.json"));
    command.args([
        "--log-level",
        "error",
        "--file-flush-interval-msec",
        "5",
        "--use-dynamic-base-id",
        "--concurrency",
        "1",
    ]);
    command.kill_on_drop(true).stdin(Stdio::null()).spawn().expect("Envoy starts")
}

fn start_agent(dir: &Path, listeners: &BTreeMap<&'static str, SocketAddr>, metrics: SocketAddr) -> Child {
    let program: PathBuf = Path::new(env!("CARGO_BIN_EXE_mesh-app")).with_file_name("mesh-agent");
    assert!(program.exists(), "no {}: build mesh-agent with the same profile", program.display());
    let mut command = Command::new(program);
    command.args(["run", "--no-kernel", "--node", "diff", "--workers", "1", "--log", "error"]);
    command.arg("--config").arg(dir.join("mesh")).arg("--run-dir").arg(dir.join("run"));
    for (case, addr) in listeners {
        command.args(["--listen", &format!("{addr}=diff/{case}:80")]);
    }
    command.args(["--metrics-addr", &metrics.to_string()]);
    command.kill_on_drop(true).stdin(Stdio::null()).spawn().expect("the agent starts")
}

fn free_port() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback");
    listener.local_addr().expect("bound")
}
