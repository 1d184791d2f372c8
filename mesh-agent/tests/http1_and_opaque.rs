//! HTTP/1.1, opaque TCP, and ports of which nobody said what they speak.

mod support;

use mesh_agent::settings::Settings;
use mesh_agent::snapshot::Protocol;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;
use support::{Agent, echo, grpc, message, refusing, soon};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// An endpoint of plain bytes: `serve` gets each connection.
async fn tcp<F>(serve: impl Fn(TcpStream) -> F + Send + Sync + 'static) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    addr
}

fn connected(to: SocketAddr) -> TcpStream {
    let stream = std::net::TcpStream::connect(to).unwrap();
    stream.set_nonblocking(true).unwrap();
    TcpStream::from_std(stream).unwrap()
}

/// Reads a head, up to and with the empty line.
async fn head(stream: &mut TcpStream) -> Option<String> {
    let mut text = Vec::new();
    while !text.ends_with(b"\r\n\r\n") {
        text.push(stream.read_u8().await.ok()?);
    }
    String::from_utf8(text).ok()
}

/// Answers each request of a connection with its number on that connection and the request's head.
async fn http1(connections: Arc<AtomicUsize>) -> SocketAddr {
    tcp(move |mut stream| {
        connections.fetch_add(1, SeqCst);
        async move {
            let mut count = 0;
            while let Some(head) = head(&mut stream).await {
                count += 1;
                let body = format!("{count}\n{head}");
                let answer = format!("HTTP/1.1 200 OK\r\nX-Case: Kept\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
        }
    })
    .await
}

/// A head and a body of `content-length`.
async fn answer(stream: &mut TcpStream) -> (String, String) {
    let head = soon("head", head(stream)).await.expect("an answer");
    let length = head
        .lines()
        .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok())
        .unwrap_or(0);
    let mut body = vec![0; length];
    soon("body", stream.read_exact(&mut body)).await.unwrap();
    (head, String::from_utf8(body).unwrap())
}

#[tokio::test]
async fn keep_alive_on_both_sides() {
    let connections = Arc::new(AtomicUsize::new(0));
    let agent = Agent::start(Protocol::Http, &[http1(Arc::clone(&connections)).await]);
    let mut client = TcpStream::connect(agent.addr).await.unwrap();
    for count in 1..=3 {
        client.write_all(b"GET /x HTTP/1.1\r\nHost: echo\r\nX-Odd-CASE: 1\r\n\r\n").await.unwrap();
        let (head, body) = answer(&mut client).await;
        assert!(head.starts_with("HTTP/1.1 200") && head.contains("X-Case: Kept"), "{head}");
        assert!(body.starts_with(&format!("{count}\n")), "the upstream connection is used again: {body}");
        assert!(body.contains("X-Odd-CASE: 1") && body.contains("Host: echo"), "{body}");
        // The connection returns to its pool after the body's last byte.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(connections.load(SeqCst), 1);
    assert_eq!(agent.metric(&["istio_requests_total", "code=\"200\""]), 3.0);
}

/// A client with a keep-alive connection may be sending just when the agent is told to stop.
#[tokio::test]
async fn draining_tells_an_http1_client_with_an_answer() {
    const GRACE: Duration = Duration::from_millis(600);
    let settings = Settings { drain_grace: GRACE, ..Settings::default() };
    let mut agent = Agent::with(Protocol::Http, &[http1(Arc::default()).await], settings);
    let [mut busy, mut idle, mut silent] = [(); 3].map(|()| connected(agent.addr));
    let request = b"GET /x HTTP/1.1\r\nHost: echo\r\n\r\n";
    for client in [&mut busy, &mut idle] {
        client.write_all(request).await.unwrap();
        assert!(!answer(client).await.0.to_ascii_lowercase().contains("connection: close"));
    }
    agent.stop_listening();
    let began = std::time::Instant::now();
    let talk = async {
        tokio::time::sleep(GRACE / 3).await;
        busy.write_all(request).await.unwrap();
        let (head, body) = answer(&mut busy).await;
        assert!(head.starts_with("HTTP/1.1 200") && body.contains("GET /x"), "{head}{body}");
        assert!(head.to_ascii_lowercase().contains("connection: close"), "{head}");
        assert_eq!(soon("close", busy.read(&mut [0])).await.unwrap(), 0, "the answer was the last one");
        for client in [&mut idle, &mut silent] {
            assert_eq!(soon("close", client.read(&mut [0])).await.unwrap(), 0);
            assert!(began.elapsed() >= GRACE, "an idle connection was closed after {:?}", began.elapsed());
        }
    };
    let (drained, ()) = tokio::join!(agent.workers.drain(Duration::from_secs(10)), talk);
    assert!(drained, "nothing is left open");
}

#[tokio::test]
async fn local_errors_are_statuses() {
    let dead = refusing();
    let agent = Agent::start(Protocol::Http, &[dead]);
    let mut client = TcpStream::connect(agent.addr).await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nHost: echo\r\n\r\n").await.unwrap();
    let (head, body) = answer(&mut client).await;
    assert!(head.starts_with("HTTP/1.1 503"), "{head}");
    assert!(body.ends_with("reset reason: remote connection failure, transport failure reason: delayed connect error: Connection refused"), "{body}");
    assert!(head.contains("connection refused") && head.contains(&dead.to_string()), "{head}");
}

#[tokio::test]
async fn an_http1_client_reaches_an_http2_endpoint() {
    let agent = Agent::start(Protocol::Http2, &[echo("a").await]);
    let mut client = TcpStream::connect(agent.addr).await.unwrap();
    client.write_all(b"POST /x HTTP/1.1\r\nHost: echo\r\nContent-Length: 5\r\n\r\nhello").await.unwrap();
    let head = soon("head", head(&mut client)).await.unwrap();
    assert!(head.starts_with("HTTP/1.1 200") && head.to_ascii_lowercase().contains("x-endpoint: a"), "{head}");
    let mut chunk = vec![0; b"5\r\nhello\r\n".len()];
    soon("chunk", client.read_exact(&mut chunk)).await.unwrap();
    assert_eq!(chunk, b"5\r\nhello\r\n");
}

#[tokio::test]
async fn an_upgrade_becomes_a_tunnel() {
    let upgrading = tcp(|mut stream| async move {
        let Some(head) = head(&mut stream).await else { return };
        assert!(head.to_ascii_lowercase().contains("upgrade: websocket"), "{head}");
        let switch = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        stream.write_all(switch).await.unwrap();
        let (mut read, mut write) = stream.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
    })
    .await;
    let agent = Agent::start(Protocol::Http, &[upgrading]);
    let mut client = TcpStream::connect(agent.addr).await.unwrap();
    let ask = b"GET /ws HTTP/1.1\r\nHost: echo\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    client.write_all(ask).await.unwrap();
    assert!(soon("101", head(&mut client)).await.unwrap().starts_with("HTTP/1.1 101"));
    client.write_all(b"frames").await.unwrap();
    let mut back = [0; 6];
    soon("echo", client.read_exact(&mut back)).await.unwrap();
    assert_eq!(&back, b"frames");
}

#[tokio::test]
async fn opaque_bytes_survive_a_half_close() {
    // Answers only after the client has closed its side.
    let counting = tcp(|mut stream| async move {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        stream.write_all(format!("got {}", all.len()).as_bytes()).await.unwrap();
    })
    .await;
    let agent = Agent::start(Protocol::Tcp, &[counting]);
    let mut client = TcpStream::connect(agent.addr).await.unwrap();
    client.write_all(&vec![7; 3_000_000]).await.unwrap();
    client.shutdown().await.unwrap();
    let mut text = String::new();
    soon("answer", client.read_to_string(&mut text)).await.unwrap();
    assert_eq!(text, "got 3000000");
    let counted = async {
        while agent.metric(&["istio_tcp_received_bytes_total"]) < 3_000_000.0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon("bytes counted", counted).await;
}

#[tokio::test]
async fn a_reset_stays_a_reset() {
    let resetting = tcp(|mut stream| async move {
        let _ = stream.read_u8().await;
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    })
    .await;
    let agent = Agent::start(Protocol::Tcp, &[resetting]);
    let mut client = TcpStream::connect(agent.addr).await.unwrap();
    client.write_all(b"x").await.unwrap();
    let error = soon("reset", client.read_u8()).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn an_opaque_connection_takes_another_endpoint() {
    let greeting = tcp(|mut stream| async move {
        let _ = stream.write_all(b"220 ready\r\n").await;
    })
    .await;
    let agent = Agent::start(Protocol::Tcp, &[refusing(), greeting]);
    for _ in 0..4 {
        let mut text = String::new();
        let mut client = TcpStream::connect(agent.addr).await.unwrap();
        soon("greeting", client.read_to_string(&mut text)).await.unwrap();
        assert_eq!(text, "220 ready\r\n");
    }
}

#[tokio::test]
async fn an_undeclared_port_may_speak_server_first() {
    let greeting = tcp(|mut stream| async move {
        stream.write_all(b"220 ready\r\n").await.unwrap();
        let mut line = [0; 6];
        stream.read_exact(&mut line).await.unwrap();
        stream.write_all(&line).await.unwrap();
    })
    .await;
    let agent = Agent::start(Protocol::Detect, &[greeting]);
    let mut client = TcpStream::connect(agent.addr).await.unwrap();
    let began = std::time::Instant::now();
    let mut greeted = [0; 11];
    soon("greeting", client.read_exact(&mut greeted)).await.unwrap();
    assert_eq!(&greeted, b"220 ready\r\n");
    assert!(began.elapsed() < Duration::from_millis(500), "no timer on the happy path: {:?}", began.elapsed());
    client.write_all(b"HELO\r\n").await.unwrap();
    let mut back = [0; 6];
    soon("echo", client.read_exact(&mut back)).await.unwrap();
    assert_eq!(&back, b"HELO\r\n");
}

#[tokio::test]
async fn an_undeclared_port_may_speak_anything_client_first() {
    // HTTP/2, balanced for each call.
    let agent = Agent::start(Protocol::Detect, &[echo("a").await, echo("b").await]);
    let mut client = agent.http2().await;
    let mut names = std::collections::BTreeSet::new();
    for _ in 0..4 {
        let answer = soon("call", client.call(grpc("/a/B"), message(b"x"))).await.unwrap();
        names.insert(answer.head.headers()["x-endpoint"].to_str().unwrap().to_owned());
    }
    assert_eq!(names.len(), 2);

    // HTTP/1.1: the connection made for the race is the one that is used.
    let connections = Arc::new(AtomicUsize::new(0));
    let agent = Agent::start(Protocol::Detect, &[http1(Arc::clone(&connections)).await]);
    let mut client = TcpStream::connect(agent.addr).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    client.write_all(b"GE").await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    client.write_all(b"T /x HTTP/1.1\r\nHost: echo\r\n\r\n").await.unwrap();
    assert!(answer(&mut client).await.1.contains("GET /x HTTP/1.1"));
    assert_eq!(connections.load(SeqCst), 1);

    // TLS and other bytes: opaque, and nothing of them is lost.
    let echoing = tcp(|mut stream| async move {
        let (mut read, mut write) = stream.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
    })
    .await;
    let agent = Agent::start(Protocol::Detect, &[echoing]);
    for first in [&b"\x16\x03\x01\x00\x05hello"[..], b"*1\r\n$4\r\nPING\r\n"] {
        let mut client = TcpStream::connect(agent.addr).await.unwrap();
        client.write_all(first).await.unwrap();
        let mut back = vec![0; first.len()];
        soon("echo", client.read_exact(&mut back)).await.unwrap();
        assert_eq!(back, first);
    }
}

/// `HELO` alone could be a method's name: held back for ever, client and server would wait for each other.
#[tokio::test]
async fn a_beginning_that_could_be_http_does_not_stall_for_ever() {
    let answering = tcp(|mut stream| async move {
        let mut word = [0; 4];
        stream.read_exact(&mut word).await.unwrap();
        stream.write_all(&word).await.unwrap();
    })
    .await;
    let agent = Agent::start(Protocol::Detect, &[answering]);
    let mut client = TcpStream::connect(agent.addr).await.unwrap();
    client.write_all(b"HELO").await.unwrap();
    let mut back = [0; 4];
    soon("answer", client.read_exact(&mut back)).await.unwrap();
    assert_eq!(&back, b"HELO");
}

#[tokio::test]
async fn the_connection_limit_resets_what_is_too_much() {
    let silent = tcp(|mut stream| async move {
        let _ = stream.read_u8().await;
    })
    .await;
    let agent = Agent::with(Protocol::Tcp, &[silent], Settings { max_connections: 2, ..Settings::default() });
    let mut held = Vec::new();
    for _ in 0..2 {
        held.push(TcpStream::connect(agent.addr).await.unwrap());
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    // Whether the reset comes before the connecting side looks, or after.
    let is_reset = async |addr| match TcpStream::connect(addr).await {
        Ok(mut stream) => {
            tokio::time::timeout(Duration::from_millis(100), stream.read_u8()).await.is_ok_and(|read| read.is_err())
        }
        Err(_) => true,
    };
    soon("reset", async { while !is_reset(agent.addr).await {} }).await;
    let counted = async {
        while agent.metric(&["reason=\"too-many-connections\""]) < 1.0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon("counted", counted).await;
    held.clear();
    soon("served again", async { while is_reset(agent.addr).await {} }).await;
}
