//! Endpoints that are slow to connect: another one is asked, since nothing was sent.

mod support;

use mesh_agent::settings::Settings;
use mesh_agent::snapshot::Protocol;
use socket2::{Domain, Socket, Type};
use std::net::{Ipv4Addr, SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;
use support::{Agent, echo, endpoint, grpc, message, soon};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

const PATIENCE: Duration = Duration::from_millis(200);
const LIMIT: Duration = Duration::from_secs(6);

fn settings() -> Settings {
    Settings { connect_patience: PATIENCE, connect_timeout: LIMIT, ..Settings::default() }
}

/// An address that answers no SYN: Linux drops them where the queue of connections to accept is full.
struct Silent {
    addr: SocketAddr,
    _listener: StdListener,
    _queued: Vec<Socket>,
}

fn silent() -> Silent {
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    listener.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    listener.listen(0).unwrap();
    let listener = StdListener::from(listener);
    let addr = listener.local_addr().unwrap();
    let fill = |_| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_nonblocking(true).unwrap();
        let _ = socket.connect(&addr.into());
        socket
    };
    let queued = (0..4).map(fill).collect();
    let probe = std::net::TcpStream::connect_timeout(&addr, Duration::from_millis(100));
    assert_eq!(probe.unwrap_err().kind(), std::io::ErrorKind::TimedOut, "the queue is full");
    Silent { addr, _listener: listener, _queued: queued }
}

/// Answers each HTTP/1.1 request, or greets (opaque), by name.
async fn plain(answer: &'static [u8], greet: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut buffer = [0; 1024];
                while greet || stream.read(&mut buffer).await.is_ok_and(|count| count > 0) {
                    if stream.write_all(answer).await.is_err() || greet {
                        return;
                    }
                }
            });
        }
    });
    addr
}

fn in_time(took: Duration, what: &str) {
    assert!(took >= PATIENCE && took < LIMIT / 2, "{what} took {took:?}");
}

#[tokio::test]
async fn grpc_goes_elsewhere_when_an_endpoint_drops_syns() {
    let dead = silent();
    let agent = Agent::with(Protocol::Grpc, &[dead.addr, echo("good").await], settings());
    let mut client = agent.http2().await;
    let began = Instant::now();
    for _ in 0..4 {
        let answer = soon("call", client.call(grpc("/a/B"), message(b"x"))).await.unwrap();
        assert_eq!(answer.head.headers()["x-endpoint"], "good");
    }
    // The first call learns it, for a while nobody else asks there.
    in_time(began.elapsed(), "four calls");
    assert_eq!(agent.metric(&["mesh_retries_total"]), 1.0);
}

#[tokio::test]
async fn http1_and_opaque_go_elsewhere_too() {
    let dead = silent();
    let good = plain(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", false).await;
    let agent = Agent::with(Protocol::Http, &[dead.addr, good], settings());
    let mut client = TcpStream::connect(agent.addr).await.unwrap();
    let began = Instant::now();
    client.write_all(b"GET / HTTP/1.1\r\nHost: echo\r\n\r\n").await.unwrap();
    let mut status = [0; 12];
    soon("answer", client.read_exact(&mut status)).await.unwrap();
    assert_eq!(&status, b"HTTP/1.1 200");
    in_time(began.elapsed(), "HTTP/1.1");

    let agent = Agent::with(Protocol::Tcp, &[dead.addr, plain(b"220 ready", true).await], settings());
    let mut client = TcpStream::connect(agent.addr).await.unwrap();
    let began = Instant::now();
    let mut text = String::new();
    soon("greeting", client.read_to_string(&mut text)).await.unwrap();
    assert_eq!(text, "220 ready");
    in_time(began.elapsed(), "opaque");
}

/// Patience is for when there is a choice: the only endpoint gets the whole time, and so does the last attempt.
#[tokio::test]
async fn the_only_and_the_last_endpoint_get_the_whole_time() {
    let limit = 3 * PATIENCE;
    for (endpoints, least) in [(1, limit), (2, PATIENCE + limit)] {
        let dead: Vec<Silent> = (0..endpoints).map(|_| silent()).collect();
        let addrs: Vec<SocketAddr> = dead.iter().map(|dead| dead.addr).collect();
        let settings = Settings { connect_timeout: limit, max_retries: endpoints - 1, ..settings() };
        let agent = Agent::with(Protocol::Grpc, &addrs, settings);
        let began = Instant::now();
        let answer = soon("call", agent.http2().await.call(grpc("/a/B"), message(b"x"))).await.unwrap();
        assert!(began.elapsed() >= least, "{endpoints}: {:?}", began.elapsed());
        let text = answer.head.headers()["grpc-message"].to_str().unwrap();
        assert!(text.contains("connection timeout after 600ms"), "{text}");
    }
}

#[tokio::test]
async fn endpoints_that_connect_are_asked_once() {
    let opened = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&opened);
    let counting = move |name: &'static str| {
        let count = Arc::clone(&count);
        endpoint(move |_, mut connection| {
            count.fetch_add(1, SeqCst);
            async move {
                while let Some(Ok((request, respond))) = connection.accept().await {
                    tokio::spawn(support::echo_one(name, request, respond));
                }
            }
        })
    };
    let agent = Agent::with(Protocol::Grpc, &[counting("a").await, counting("b").await], settings());
    let mut client = agent.http2().await;
    for _ in 0..8 {
        soon("call", client.call(grpc("/a/B"), message(b"x"))).await.unwrap();
    }
    tokio::time::sleep(2 * PATIENCE).await;
    assert_eq!(opened.load(SeqCst), 2);
    assert_eq!(agent.metric(&["mesh_retries_total"]), 0.0);
}
