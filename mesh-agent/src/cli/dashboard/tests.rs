//! The console as a browser meets it: real sockets, an agent's socket with a scripted answer behind them.

use super::server::{Console, serve};
use super::{Agent, Guard, unreachable};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener};

/// A console of one agent that answers and one that is not there; the token's path and a cookie for it.
struct Fixture {
    address: SocketAddr,
    token: String,
    cookie: String,
    _dir: tempfile::TempDir,
}

/// Says what it was asked.
async fn agent(socket: &Path) {
    let listener = UnixListener::bind(socket).expect("binds");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut asked = Vec::new();
                let mut buffer = [0; 4096];
                while !asked.ends_with(b"END") && !asked.ends_with(b"\r\n\r\n") {
                    let read = stream.read(&mut buffer).await.expect("question");
                    asked.extend_from_slice(&buffer[..read]);
                }
                let line = String::from_utf8_lossy(&asked).lines().next().unwrap_or_default().to_owned();
                let body = format!("{{\"asked\":\"{line}\"}}");
                let head = format!(
                    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nset-cookie: no=1\r\ncontent-length: {}\r\n\r\n",
                    body.len()
                );
                stream.write_all((head + &body).as_bytes()).await.expect("answer");
            });
        }
    });
}

impl Fixture {
    async fn new() -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        let sockets = vec![dir.path().join("a.sock"), dir.path().join("gone.sock")];
        agent(&sockets[0]).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("address");
        let guard = Guard::new(address.port()).expect("guard");
        let token = guard.url(address).replace(&format!("http://{address}"), "");
        let agents = sockets.into_iter().map(Agent::Socket).collect();
        tokio::spawn(serve(listener, Arc::new(Console::new(guard, agents))));
        let mut fixture = Self { address, token, cookie: String::new(), _dir: dir };
        let page = fixture.call("GET", &fixture.token.clone(), "").await;
        let cookie = page.lines().find_map(|line| line.strip_prefix("set-cookie: ")).expect("cookie");
        fixture.cookie = cookie.split(';').next().expect("pair").to_owned();
        fixture
    }

    async fn call(&self, method: &str, path: &str, body: &str) -> String {
        self.raw(method, path, &format!("host: {}\r\ncookie: {}\r\n", self.address, self.cookie), body).await
    }

    async fn raw(&self, method: &str, path: &str, fields: &str, body: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.expect("connects");
        let length = body.len();
        let request =
            format!("{method} {path} HTTP/1.1\r\n{fields}connection: close\r\ncontent-length: {length}\r\n\r\n{body}");
        stream.write_all(request.as_bytes()).await.expect("request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("answer");
        answer
    }
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or_default()
}

#[tokio::test]
async fn the_page_and_its_headers() {
    let console = Fixture::new().await;
    for path in [&*console.token, "/", "/index.html"] {
        let answer = console.call("GET", path, "").await;
        assert_eq!(status(&answer), "200", "{answer}");
        for needle in [
            "content-type: text/html; charset=utf-8",
            "content-security-policy: default-src 'none'; script-src 'self'",
            "frame-ancestors 'none'",
            "x-content-type-options: nosniff",
            "referrer-policy: no-referrer",
            "cache-control: no-store",
            "<!doctype html>",
        ] {
            assert!(answer.contains(needle), "{needle}: {answer}");
        }
        assert!(!answer.contains("access-control-"), "{answer}");
    }
    let head = console.call("HEAD", "/", "").await;
    assert!(status(&head) == "200" && !head.contains("<!doctype"), "{head}");
    assert_eq!(status(&console.call("POST", "/", "").await), "405");
    assert_eq!(status(&console.call("GET", "/nope", "").await), "404");
}

#[tokio::test]
async fn questions_are_forwarded_and_nothing_else_is() {
    let console = Fixture::new().await;
    let answer = console.call("GET", "/api/agents/0/status?x=1", "").await;
    assert!(answer.contains(r#"{"asked":"GET /status HTTP/1.1"}"#), "{answer}");
    assert!(!answer.contains("no=1"), "an agent's header fields stay with it: {answer}");
    let answer = console.call("POST", "/api/agents/0/explain", "{}END").await;
    assert!(answer.contains("POST /explain"), "{answer}");
    let answer = console.call("POST", "/api/agents/0/tap", "{}END").await;
    assert!(answer.contains("POST /tap"), "{answer}");
    assert!(console.call("GET", "/api/agents", "").await.contains("a.sock"));
    for (method, path, wanted) in [
        ("GET", "/api/agents/0/explain", "405"),
        ("PUT", "/api/agents/0/status", "405"),
        ("GET", "/api/agents/0/log-level", "404"),
        ("PUT", "/api/agents/0/log-level", "404"),
        ("PUT", "/api/agents/0/kernel/sk-msg", "404"),
        ("GET", "/api/agents/0/../status", "404"),
        ("GET", "/api/agents/2/status", "404"),
        ("GET", "/api/agents/-1/status", "404"),
        ("DELETE", "/api/agents", "405"),
        ("GET", "/api/agents/1/status", "502"),
    ] {
        let answer = console.call(method, path, "").await;
        assert_eq!(status(&answer), wanted, "{method} {path}: {answer}");
        assert!(answer.contains(r#"{"error":""#), "{answer}");
    }
    let long = console.call("POST", "/api/agents/0/explain", &"x".repeat(17 << 10)).await;
    assert_eq!(status(&long), "413", "{long}");
}

#[tokio::test]
async fn strangers_learn_nothing() {
    let console = Fixture::new().await;
    let host = format!("host: {}\r\n", console.address);
    let cookie = format!("cookie: {}\r\n", console.cookie);
    for (fields, wanted) in [
        (host.clone(), "401"),
        (format!("host: evil.example\r\n{cookie}"), "421"),
        (format!("{host}{cookie}origin: http://evil.example\r\n"), "403"),
        (format!("{host}{cookie}sec-fetch-site: cross-site\r\n"), "403"),
        (format!("{host}{cookie}sec-fetch-site: same-origin\r\n"), "200"),
    ] {
        let answer = console.raw("GET", "/api/agents/0/status", &fields, "").await;
        assert_eq!(status(&answer), wanted, "{fields}: {answer}");
        assert!(wanted == "200" || !answer.contains("asked"), "{answer}");
    }
    let answer = console.raw("GET", "/", &host, "").await;
    assert!(answer.contains("mesh-agent dashboard") && !answer.contains("set-cookie"), "{answer}");
}

#[tokio::test]
async fn a_console_needs_an_agent() {
    let missing = ["/nowhere/a.sock", "/nowhere/b.sock"].map(|path| Agent::Socket(path.into()));
    let error = unreachable(&missing).expect_err("none answers").to_string();
    assert!(error.contains("b.sock") && error.contains("mesh-agent run"), "{error}");
}
