//! How long connections last, as a DestinationRule or RequestPolicy says it: by requests, by age, by silence.

mod support;

use bytes::Bytes;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;
use support::scripted::Scripted;
use support::{Agent, ask, endpoint, object, soon};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

fn pool(pool: &str) -> String {
    object("DestinationRule", "d", &format!("{{host: echo, trafficPolicy: {{connectionPool: {{{pool}}}}}}}"))
}

/// Answers each HTTP/1.1 request with the number of its connection.
async fn http1() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let connections = Arc::new(AtomicUsize::new(0));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let number = connections.fetch_add(1, SeqCst);
            tokio::spawn(async move {
                let mut head = Vec::new();
                while let Ok(byte) = stream.read_u8().await {
                    head.push(byte);
                    if head.ends_with(b"\r\n\r\n") {
                        head.clear();
                        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n{number}");
                        let _ = stream.write_all(answer.as_bytes()).await;
                    }
                }
            });
        }
    });
    addr
}

/// The connection on which a request of `client` was answered.
async fn asked(client: &mut TcpStream) -> usize {
    client.write_all(b"GET / HTTP/1.1\r\nHost: echo.default\r\n\r\n").await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(soon("answer", client.read_u8()).await.unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&head));
    usize::from(soon("body", client.read_u8()).await.unwrap() - b'0')
}

#[tokio::test]
async fn a_connection_takes_so_many_requests() {
    let agent = Agent::yaml("http", &[http1().await], &pool("http: {maxRequestsPerConnection: 2}"));
    let mut client = TcpStream::connect(agent.addr).await.unwrap();
    for expected in [0, 0, 1, 1, 2] {
        assert_eq!(asked(&mut client).await, expected, "HTTP/1.1");
    }
    let a = Scripted::start("a").await;
    let agent = Agent::yaml("http", &[a.addr], &pool("http: {maxRequestsPerConnection: 2}"));
    let mut client = agent.http2().await;
    for _ in 0..5 {
        soon("call", client.call(ask("GET /"), Bytes::new())).await.unwrap();
    }
    let connections: Vec<_> = a.seen().iter().map(|seen| seen.connection).collect();
    assert_eq!(connections, [0, 0, 1, 1, 2], "HTTP/2");
}

/// A stream that is open stays; those after it move on.
#[tokio::test]
async fn an_old_connection_keeps_its_streams_and_gets_no_more() {
    for policy in [
        pool("tcp: {maxConnectionDuration: 200ms}"),
        object("RequestPolicy", "r", "{hosts: [echo], connection: {maxAge: 200ms}}"),
    ] {
        let a = Scripted::start("a").await;
        let agent = Agent::yaml("http", &[a.addr], &policy);
        let mut client = agent.http2().await;
        let (held, _send) = client.start(ask("GET /held | x-do: wait"), true).await;
        a.has(1).await;
        soon("a successor", async {
            while a.last().connection == 0 {
                let answer = client.call(ask("GET /"), Bytes::new()).await.unwrap();
                assert_eq!(answer.head.status(), 200, "{policy}");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
        a.gate.add_permits(1);
        assert_eq!(soon("the held one", support::whole(held)).await.unwrap().head.status(), 200, "{policy}");

        let agent = Agent::yaml("http", &[http1().await], &policy);
        let mut client = TcpStream::connect(agent.addr).await.unwrap();
        let mut seen = BTreeSet::from([asked(&mut client).await]);
        soon("a successor", async {
            while seen.len() < 2 {
                tokio::time::sleep(Duration::from_millis(10)).await;
                seen.insert(asked(&mut client).await);
            }
        })
        .await;
    }
}

async fn echoing() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    addr
}

/// One ping and its echo; an error where the connection has ended.
async fn ping(client: &mut TcpStream) -> std::io::Result<()> {
    client.write_all(b"!").await?;
    soon("echo", client.read_u8()).await.map(|byte| assert_eq!(byte, b'!'))
}

#[tokio::test]
async fn silent_bytes_end_and_busy_ones_do_not() {
    let agent = Agent::yaml("tcp", &[echoing().await], &pool("tcp: {idleTimeout: 1s}"));
    let mut silent = TcpStream::connect(agent.addr).await.unwrap();
    let mut busy = TcpStream::connect(agent.addr).await.unwrap();
    ping(&mut silent).await.unwrap();
    let mut byte = [0];
    soon("silence ends", async {
        loop {
            tokio::select! {
                ended = silent.read(&mut byte) => break assert!(matches!(ended, Ok(0) | Err(_))),
                () = tokio::time::sleep(Duration::from_millis(20)) => ping(&mut busy).await.unwrap(),
            }
        }
    })
    .await;
    ping(&mut busy).await.unwrap();
}

#[tokio::test]
async fn bytes_end_at_their_age_however_busy_they_are() {
    let agent = Agent::yaml("tcp", &[echoing().await], &pool("tcp: {maxConnectionDuration: 300ms}"));
    let mut busy = TcpStream::connect(agent.addr).await.unwrap();
    ping(&mut busy).await.unwrap();
    soon("age ends it", async {
        while ping(&mut busy).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    ping(&mut TcpStream::connect(agent.addr).await.unwrap()).await.unwrap();
}

/// An endpoint's connection without requests; by itself it would be kept for minutes.
#[tokio::test]
async fn an_idle_endpoint_connection_is_closed_in_its_time() {
    let (tell, mut ended) = mpsc::unbounded_channel();
    let addr = endpoint(move |number, mut requests| {
        let tell = tell.clone();
        async move {
            while let Some(Ok((_, mut respond))) = requests.accept().await {
                let _ = respond.send_response(http::Response::new(()), true);
            }
            tell.send(number).unwrap();
        }
    })
    .await;
    let agent = Agent::yaml("http", &[addr], &pool("http: {idleTimeout: 100ms}"));
    let mut client = agent.http2().await;
    soon("call", client.call(ask("GET /"), Bytes::new())).await.unwrap();
    assert_eq!(soon("closed", ended.recv()).await, Some(0));
    assert_eq!(soon("call", client.call(ask("GET /"), Bytes::new())).await.unwrap().head.status(), 200);
}
