//! An agent under test, its endpoints and a client.

use bytes::Bytes;
use http::{Request, Response};
use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, ChildStderr, ChildStdout};

const PATIENCE: Duration = Duration::from_secs(10);

/// A running `mesh-agent run --no-kernel` with one explicit listener for `shop/web:80`; killed when dropped.
pub(crate) struct Agent {
    dir: TempDir,
    child: Child,
    pub(crate) listener: SocketAddr,
    metrics: SocketAddr,
}

/// A subcommand that goes on.
pub(crate) struct Watcher {
    child: Child,
    out: BufReader<ChildStdout>,
    text: String,
    told: BufReader<ChildStderr>,
}

pub(crate) struct Output {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Agent {
    /// Returns when it serves.
    pub(crate) async fn start(files: &[(&str, &str)]) -> Self {
        Self::start_with(files, &[]).await
    }

    /// With more arguments.
    pub(crate) async fn start_with(files: &[(&str, &str)], args: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        fs::create_dir(dir.path().join("config")).expect("configuration folder");
        for (name, text) in files {
            fs::write(dir.path().join("config").join(name), text).expect("configuration file");
        }
        let (listener, metrics) = (free_port(), free_port());
        let child = spawn(dir.path(), listener, metrics, args);
        let agent = Self { dir, child, listener, metrics };
        agent.serving().await
    }

    /// Starts another one in the same place; returns both, the elder first.
    pub(crate) async fn succeed(self) -> (Child, Self) {
        let child = spawn(self.dir.path(), self.listener, self.metrics, &[]);
        let agent = Self { dir: self.dir, child, listener: self.listener, metrics: self.metrics };
        (self.child, agent.serving().await)
    }

    pub(crate) async fn kill_and_restart(mut self) -> Self {
        self.child.kill().await.expect("kill -9");
        self.child = spawn(self.dir.path(), self.listener, self.metrics, &[]);
        self.serving().await
    }

    /// Replaces a file as careful writers do: by rename.
    pub(crate) fn write(&self, name: &str, text: &str) {
        let target = self.dir.path().join("config").join(name);
        let draft = self.dir.path().join("draft");
        fs::write(&draft, text).expect("draft");
        fs::rename(draft, target).expect("rename");
    }

    pub(crate) fn place(&self) -> PathBuf {
        self.dir.path().join("run")
    }

    pub(crate) fn cli(&self, args: &[&str]) -> Output {
        cli(&self.place(), args)
    }

    /// Returns when it has said that it watches.
    pub(crate) async fn spawn(&self, args: &[&str]) -> Watcher {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_mesh-agent"));
        command.arg("--run-dir").arg(self.place()).args(args).kill_on_drop(true);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("mesh-agent starts");
        let out = BufReader::new(child.stdout.take().expect("piped"));
        let mut told = BufReader::new(child.stderr.take().expect("piped"));
        let mut line = String::new();
        told.read_line(&mut line).await.expect("its first word");
        assert!(line.starts_with("watching"), "{line}");
        Watcher { child, out, text: String::new(), told }
    }

    pub(crate) fn json(&self, args: &[&str]) -> serde_json::Value {
        let output = self.cli(&[args, &["-o", "json"]].concat());
        assert_eq!(output.code, Some(0), "{args:?}: {}", output.stderr);
        serde_json::from_str(&output.stdout).expect("JSON")
    }

    /// What a second `run` in the same place says.
    pub(crate) fn run_again(&self) -> Output {
        let args = run_args(self.dir.path(), free_port(), free_port());
        finish(Command::new(env!("CARGO_BIN_EXE_mesh-agent")).args(args))
    }

    pub(crate) async fn metrics(&self) -> String {
        let mut stream = TcpStream::connect(self.metrics).await.expect("metrics port");
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await.expect("request");
        let mut text = String::new();
        stream.read_to_string(&mut text).await.expect("metrics");
        text
    }

    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().expect("running").to_string();
        let sent = Command::new("kill").args([&format!("-{name}"), &pid]).status().expect("kill");
        assert!(sent.success());
    }

    pub(crate) async fn exited(mut self) -> ExitStatus {
        tokio::time::timeout(PATIENCE, self.child.wait()).await.expect("the agent ends").expect("status")
    }

    pub(crate) async fn stop(self) {
        self.signal("TERM");
        assert!(self.exited().await.success());
    }

    async fn serving(self) -> Self {
        until("the agent serves", || {
            std::net::TcpStream::connect(self.listener).is_ok() && self.cli(&["status"]).code == Some(0)
        })
        .await;
        // The probe's connection is gone before a test counts connections.
        until("the probe is forgotten", || self.json(&["status"])["connections"]["open"] == 0).await;
        self
    }
}

impl Watcher {
    /// Waits until so many lines have come.
    pub(crate) async fn shown(mut self, lines: usize) -> Self {
        while self.text.lines().count() < lines {
            let read = tokio::time::timeout(PATIENCE, self.out.read_line(&mut self.text));
            assert!(read.await.expect("in time").expect("read") > 0, "it ended: {}", self.text);
        }
        self
    }

    /// Ctrl-C.
    pub(crate) fn interrupt(&self) {
        let pid = self.child.id().expect("running").to_string();
        assert!(Command::new("kill").args(["-INT", &pid]).status().expect("kill").success());
    }

    /// Exit code, stdout, and what else it said.
    pub(crate) async fn finish(mut self) -> (Option<i32>, String, String) {
        let mut told = String::new();
        let end = async {
            self.out.read_to_string(&mut self.text).await.expect("UTF-8");
            self.told.read_to_string(&mut told).await.expect("UTF-8");
            self.child.wait().await.expect("status").code()
        };
        let code = tokio::time::timeout(PATIENCE, end).await.expect("it ends");
        (code, self.text, told)
    }
}

pub(crate) fn cli(place: &Path, args: &[&str]) -> Output {
    finish(Command::new(env!("CARGO_BIN_EXE_mesh-agent")).arg("--run-dir").arg(place).args(args))
}

fn finish(command: &mut Command) -> Output {
    let output = command.stdin(Stdio::null()).output().expect("mesh-agent starts");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    Output { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

fn spawn(dir: &Path, listener: SocketAddr, metrics: SocketAddr, more: &[&str]) -> Child {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_mesh-agent"));
    command.args(run_args(dir, listener, metrics)).args(more).kill_on_drop(true);
    command.spawn().expect("mesh-agent starts")
}

fn run_args(dir: &Path, listener: SocketAddr, metrics: SocketAddr) -> Vec<String> {
    let path = |name: &str| dir.join(name).display().to_string();
    let args = ["run", "--no-kernel", "--node", "test-node", "--workers", "2", "--log", "warn", "--config"];
    let mut args: Vec<String> = args.map(str::to_owned).into();
    args.extend([path("config"), "--run-dir".into(), path("run"), "--drain-timeout".into(), "5s".into()]);
    args.extend(["--listen".into(), format!("{listener}=shop/web:80"), "--metrics-addr".into(), metrics.to_string()]);
    args
}

/// HTTP/2 servers on one port of several loopback addresses, each answering with its own address.
pub(crate) struct Endpoints {
    addrs: Vec<SocketAddr>,
    received: Arc<AtomicUsize>,
}

impl Endpoints {
    pub(crate) async fn start(count: u8) -> Self {
        Self::slow(count, Duration::ZERO).await
    }

    /// They answer after `delay`.
    pub(crate) async fn slow(count: u8, delay: Duration) -> Self {
        let received = Arc::new(AtomicUsize::new(0));
        let listeners = listeners(count).await;
        let addrs = listeners.iter().map(|listener| listener.local_addr().expect("address")).collect();
        for listener in listeners {
            tokio::spawn(serve(listener, delay, Arc::clone(&received)));
        }
        Self { addrs, received }
    }

    pub(crate) fn addrs(&self) -> Vec<SocketAddr> {
        self.addrs.clone()
    }

    pub(crate) fn received(&self) -> usize {
        self.received.load(Ordering::Relaxed)
    }
}

/// An EndpointSlice of `shop/web` with these endpoints, all of one port.
pub(crate) fn slice(addrs: &[SocketAddr]) -> String {
    let port = addrs.first().map_or(8080, SocketAddr::port);
    let endpoints: String = addrs
        .iter()
        .map(|addr| format!("  - addresses: [\"{}\"]\n    conditions: {{ ready: true }}\n", addr.ip()))
        .collect();
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: web-1\n  namespace: shop\n  labels: {{ kubernetes.io/service-name: web }}\n\
         addressType: IPv4\nports:\n  - {{ name: grpc, port: {port}, protocol: TCP }}\nendpoints:\n{endpoints}"
    )
}

/// One HTTP/2 connection.
pub(crate) struct Client {
    send: h2::client::SendRequest<Bytes>,
}

impl Client {
    pub(crate) async fn connect(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect(addr).await.expect("connects");
        let (send, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
        tokio::spawn(connection);
        Self { send }
    }

    /// Status and body (the endpoint's address).
    pub(crate) async fn call(&mut self) -> (u16, String) {
        self.begin().await.await.expect("answered")
    }

    /// Sends a request; the future is its answer.
    pub(crate) async fn begin(&mut self) -> impl Future<Output = Result<(u16, String), h2::Error>> + use<> {
        let request = Request::get("http://web.shop/").body(()).expect("request");
        let mut send = self.send.clone().ready().await.expect("connection is open");
        let (response, _) = send.send_request(request, true).expect("sent");
        async {
            let (head, mut body) = response.await?.into_parts();
            let mut text = Vec::new();
            while let Some(bytes) = body.data().await {
                let bytes = bytes?;
                body.flow_control().release_capacity(bytes.len())?;
                text.extend_from_slice(&bytes);
            }
            Ok((head.status.as_u16(), String::from_utf8_lossy(&text).into_owned()))
        }
    }

    /// How many of `count` requests each endpoint answered; every one must succeed.
    pub(crate) async fn calls(&mut self, count: usize) -> BTreeMap<String, usize> {
        let mut seen = BTreeMap::new();
        for _ in 0..count {
            let (status, body) = self.call().await;
            assert_eq!(status, 200, "{body}");
            *seen.entry(body).or_default() += 1;
        }
        seen
    }
}

/// Waits for a condition, and fails by its name.
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < PATIENCE, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The condition holds all the time.
pub(crate) async fn stays(time: Duration, mut condition: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while begun.elapsed() < time {
        assert!(condition().await);
    }
}

async fn serve(listener: TcpListener, delay: Duration, received: Arc<AtomicUsize>) {
    let addr = listener.local_addr().expect("address").to_string();
    while let Ok((stream, _)) = listener.accept().await {
        let (addr, received) = (addr.clone(), Arc::clone(&received));
        tokio::spawn(async move {
            let mut connection = h2::server::handshake(stream).await?;
            while let Some(request) = connection.accept().await {
                let (_, mut respond) = request?;
                received.fetch_add(1, Ordering::Relaxed);
                let addr = addr.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(delay).await;
                    let mut body = respond.send_response(Response::new(()), false)?;
                    body.send_data(addr.into(), true)
                });
            }
            Ok::<_, h2::Error>(())
        });
    }
}

/// 127.0.0.11, 127.0.0.12, … with one port that is free on all of them.
async fn listeners(count: u8) -> Vec<TcpListener> {
    for _ in 0..50 {
        let first = TcpListener::bind("127.0.0.11:0").await.expect("loopback");
        let port = first.local_addr().expect("address").port();
        let mut all = vec![first];
        for at in 1..count {
            let addr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 11 + at)), port);
            all.extend(TcpListener::bind(addr).await);
        }
        if all.len() == usize::from(count) {
            return all;
        }
    }
    panic!("no port is free on {count} loopback addresses");
}

fn free_port() -> SocketAddr {
    let probe = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback");
    probe.local_addr().expect("address")
}
