//! Circuit breakers of the pools, against peers that answer when the test says so.

mod support;

use http::{Request, Response};
use mesh_agent::addr::EndpointAddr;
use mesh_agent::body::Body;
use mesh_agent::connect::{Dialer, Ends, Pools, Upstream, Upstreams, Way};
use mesh_agent::error::ConnectError;
use mesh_agent::http2::Ledger;
use mesh_agent::snapshot::policy::{ConnectionPool, ProxyProtocol, RetryBudget, TrafficPolicy};
use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;
use support::soon;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, LocalSet};

/// An HTTP/1.1 endpoint: each answer takes a permit of `gate`.
struct Peer {
    addr: SocketAddr,
    gate: Arc<Semaphore>,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    accepted: AtomicUsize,
    open: AtomicUsize,
    most_open: AtomicUsize,
    requests: AtomicUsize,
}

impl Peer {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (gate, counts) = (Arc::new(Semaphore::new(0)), Arc::new(Counts::default()));
        let (gates, all) = (Arc::clone(&gate), Arc::clone(&counts));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&gates), Arc::clone(&all)));
            }
        });
        Self { addr, gate, counts }
    }

    /// Lets `count` answers go.
    fn answer(&self, count: usize) {
        self.gate.add_permits(count);
    }

    async fn has(&self, what: impl Fn(&Counts) -> &AtomicUsize, count: usize) {
        soon("the peer's count", async {
            while what(&self.counts).load(SeqCst) != count {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
    }
}

async fn serve(mut stream: TcpStream, gate: Arc<Semaphore>, counts: Arc<Counts>) {
    counts.accepted.fetch_add(1, SeqCst);
    counts.most_open.fetch_max(counts.open.fetch_add(1, SeqCst) + 1, SeqCst);
    let mut head = Vec::new();
    while let Ok(byte) = stream.read_u8().await {
        head.push(byte);
        if head.ends_with(b"\r\n\r\n") {
            head.clear();
            counts.requests.fetch_add(1, SeqCst);
            gate.acquire().await.unwrap().forget();
            if stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.is_err() {
                break;
            }
        }
    }
    counts.open.fetch_sub(1, SeqCst);
}

/// One worker's pools, for one source.
#[derive(Clone)]
struct Worker {
    pools: Rc<Pools>,
    upstream: Arc<Upstream>,
}

impl Worker {
    fn new(upstreams: &Arc<Upstreams>, policy: &TrafficPolicy) -> Self {
        let pools = Rc::new(Pools::new(Arc::new(Ledger::new(1 << 20)), Arc::clone(upstreams)));
        let upstream = pools.upstream(&support::key().into(), &Arc::new(policy.clone()));
        Self { pools, upstream }
    }

    fn alone(pool: ConnectionPool) -> Self {
        Self::new(&Arc::default(), &TrafficPolicy { pool, ..TrafficPolicy::default() })
    }

    fn way(&self, to: SocketAddr) -> Way<'_> {
        let to = EndpointAddr::new(to);
        Way { source: 1, dialer: &Dialer::Host, upstream: &self.upstream, to, ends: None, others: false }
    }

    async fn http1(&self, to: SocketAddr) -> Result<(), ConnectError> {
        let sender = self.pools.http1(&self.way(to)).await?;
        let request = Request::get("/").header("host", "echo").body(Body::Empty).unwrap();
        let response = sender.send(request).await.expect("an answer");
        read(response).await;
        Ok(())
    }

    fn spawn_http1(&self, to: SocketAddr) -> JoinHandle<Result<(), ConnectError>> {
        let worker = self.clone();
        tokio::task::spawn_local(async move { worker.http1(to).await })
    }
}

async fn read(response: Response<Body>) {
    let mut body = response.into_body();
    while let Some(frame) =
        std::future::poll_fn(|cx| http_body::Body::poll_frame(std::pin::Pin::new(&mut body), cx)).await
    {
        frame.expect("a whole body");
    }
}

async fn local(test: impl Future<Output = ()>) {
    LocalSet::new().run_until(test).await;
}

/// Time for what must not happen.
async fn a_while() {
    tokio::time::sleep(Duration::from_millis(50)).await;
}

fn one_each() -> ConnectionPool {
    ConnectionPool { max_connections: Some(1), max_pending_requests: Some(1), ..ConnectionPool::default() }
}

#[tokio::test]
async fn one_runs_one_waits_the_third_overflows() {
    for (most, connections) in [(None, 1), (Some(1), 2)] {
        local(async {
            let peer = Peer::start().await;
            let worker = Worker::alone(ConnectionPool { max_requests_per_connection: most, ..one_each() });
            let first = worker.spawn_http1(peer.addr);
            peer.has(|c| &c.requests, 1).await;
            let second = worker.spawn_http1(peer.addr);
            a_while().await;
            assert_eq!(worker.http1(peer.addr).await, Err(ConnectError::Overflow));
            assert_eq!(peer.counts.requests.load(SeqCst), 1, "the second waits");
            peer.answer(1);
            soon("the first", first).await.unwrap().unwrap();
            peer.has(|c| &c.requests, 2).await;
            peer.answer(1);
            soon("the second", second).await.unwrap().unwrap();
            assert_eq!(peer.counts.accepted.load(SeqCst), connections, "{most:?}");
            assert_eq!(peer.counts.most_open.load(SeqCst), 1, "{most:?}");
            // The queue is empty again.
            peer.answer(1);
            soon("a fourth", worker.http1(peer.addr)).await.unwrap();
        })
        .await;
    }
}

#[tokio::test]
async fn nobody_overtakes_who_waits() {
    local(async {
        let peer = Peer::start().await;
        let pool = ConnectionPool { max_connections: Some(1), ..ConnectionPool::default() };
        let worker = Worker::alone(pool);
        let order = Rc::new(std::cell::RefCell::new(Vec::new()));
        let tasks: Vec<_> = (0..20)
            .map(|index| {
                let (worker, order, addr) = (worker.clone(), Rc::clone(&order), peer.addr);
                tokio::task::spawn_local(async move {
                    // In order, but some come while others are being served.
                    tokio::time::sleep(Duration::from_millis(index)).await;
                    worker.http1(addr).await.unwrap();
                    order.borrow_mut().push(index);
                })
            })
            .collect();
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_millis(2)).await;
            peer.answer(1);
        }
        for task in tasks {
            soon("all", task).await.unwrap();
        }
        assert_eq!(*order.borrow(), (0..20).collect::<Vec<_>>());
        assert_eq!(peer.counts.accepted.load(SeqCst), 1);
    })
    .await;
}

#[tokio::test]
async fn a_cancelled_waiter_leaves_no_hole() {
    local(async {
        let peer = Peer::start().await;
        let worker = Worker::alone(ConnectionPool { max_connections: Some(1), ..ConnectionPool::default() });
        let first = worker.spawn_http1(peer.addr);
        peer.has(|c| &c.requests, 1).await;
        let (gone, stays) = (worker.spawn_http1(peer.addr), worker.spawn_http1(peer.addr));
        a_while().await;
        peer.answer(1);
        soon("the first", first).await.unwrap().unwrap();
        // Perhaps it holds the word already: it must pass it on.
        gone.abort();
        peer.answer(2);
        soon("the third", stays).await.unwrap().unwrap();
    })
    .await;
}

#[tokio::test]
async fn limits_are_of_the_node_and_a_freed_place_wakes_another_worker() {
    local(async {
        let peer = Peer::start().await;
        let upstreams = Arc::default();
        let pool = ConnectionPool {
            max_connections: Some(2),
            max_requests_per_connection: Some(1),
            ..ConnectionPool::default()
        };
        let policy = TrafficPolicy { pool, ..TrafficPolicy::default() };
        let (a, b) = (Worker::new(&upstreams, &policy), Worker::new(&upstreams, &policy));
        let of_a = a.spawn_http1(peer.addr);
        peer.has(|c| &c.requests, 1).await;
        let first_of_b = b.spawn_http1(peer.addr);
        peer.has(|c| &c.requests, 2).await;
        let second_of_b = b.spawn_http1(peer.addr);
        a_while().await;
        assert_eq!(peer.counts.accepted.load(SeqCst), 2, "two are allowed");
        // The peer answers in order: A's place is freed first.
        peer.answer(1);
        soon("A's", of_a).await.unwrap().unwrap();
        peer.has(|c| &c.accepted, 3).await;
        assert!(!first_of_b.is_finished() && !second_of_b.is_finished());
        peer.answer(2);
        for task in [first_of_b, second_of_b] {
            soon("B's", task).await.unwrap().unwrap();
        }
        assert_eq!(peer.counts.most_open.load(SeqCst), 2);
    })
    .await;
}

#[tokio::test]
async fn a_worker_without_a_connection_may_open_one() {
    local(async {
        let peer = Peer::start().await;
        let upstreams = Arc::default();
        let policy = TrafficPolicy { pool: one_each(), ..TrafficPolicy::default() };
        let (a, b) = (Worker::new(&upstreams, &policy), Worker::new(&upstreams, &policy));
        let of_a = a.spawn_http1(peer.addr);
        peer.has(|c| &c.requests, 1).await;
        let of_b = b.spawn_http1(peer.addr);
        peer.has(|c| &c.requests, 2).await;
        let waits = a.spawn_http1(peer.addr);
        a_while().await;
        assert_eq!(b.http1(peer.addr).await, Err(ConnectError::Overflow), "the queue's place is the node's");
        peer.answer(3);
        for task in [of_a, of_b, waits] {
            soon("all", task).await.unwrap().unwrap();
        }
    })
    .await;
}

/// Many requests of several real threads, few places: a lost word would leave somebody asleep for ever.
#[test]
fn no_word_is_lost_between_threads() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let peer = runtime.block_on(Peer::start());
    peer.answer(100_000);
    for most in [None, Some(3)] {
        let upstreams = Arc::default();
        let pool =
            ConnectionPool { max_connections: Some(2), max_requests_per_connection: most, ..ConnectionPool::default() };
        let policy = TrafficPolicy { pool, ..TrafficPolicy::default() };
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                    runtime.block_on(local(async {
                        let worker = Worker::new(&upstreams, &policy);
                        let tasks: Vec<_> = (0..300).map(|_| worker.spawn_http1(peer.addr)).collect();
                        for task in tasks {
                            soon("each", task).await.unwrap().unwrap();
                        }
                    }));
                });
            }
        });
    }
    assert_eq!(peer.counts.requests.load(SeqCst), 1800);
    assert!(peer.counts.most_open.load(SeqCst) <= 5, "two, and one for a worker that has none");
}

#[tokio::test]
async fn opaque_connections_beyond_the_limit_are_refused_at_once() {
    local(async {
        let peer = Peer::start().await;
        let worker = Worker::alone(one_each());
        let held = worker.pools.opaque(worker.way(peer.addr)).await.unwrap();
        assert_eq!(worker.pools.opaque(worker.way(peer.addr)).await.unwrap_err(), ConnectError::Overflow);
        drop(held);
        worker.pools.opaque(worker.way(peer.addr)).await.unwrap();
    })
    .await;
}

/// Answers a call when the gate opens.
async fn h2_peer(gate: Arc<Semaphore>, accepted: Arc<AtomicUsize>) -> SocketAddr {
    support::endpoint(move |_, mut connection| {
        let gate = Arc::clone(&gate);
        accepted.fetch_add(1, SeqCst);
        async move {
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                let gate = Arc::clone(&gate);
                tokio::spawn(async move {
                    gate.acquire().await.unwrap().forget();
                    let _ = respond.send_response(Response::new(()), true);
                });
            }
        }
    })
    .await
}

fn spawn_http2(worker: &Worker, to: SocketAddr) -> JoinHandle<Result<(), ConnectError>> {
    let worker = worker.clone();
    tokio::task::spawn_local(async move {
        let lease = worker.pools.http2(&worker.way(to)).await?;
        let request = Request::get("http://echo/").body(()).unwrap();
        let mut call = lease.send(request, Body::Empty).map_err(|(error, _)| error).expect("room");
        let response = std::future::poll_fn(|cx| call.poll_response(cx, &mut |_| {})).await.expect("an answer");
        drop(call);
        read(response).await;
        Ok(())
    })
}

#[tokio::test]
async fn http2_requests_streams_and_connections_are_limited() {
    local(async {
        let (gate, accepted) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
        let addr = h2_peer(Arc::clone(&gate), Arc::clone(&accepted)).await;
        let requests = Worker::alone(ConnectionPool { max_requests: Some(2), ..ConnectionPool::default() });
        let running = [spawn_http2(&requests, addr), spawn_http2(&requests, addr)];
        a_while().await;
        let third = soon("the third", spawn_http2(&requests, addr)).await.unwrap();
        assert_eq!(third, Err(ConnectError::Overflow));
        gate.add_permits(2);
        for task in running {
            soon("the others", task).await.unwrap().unwrap();
        }
        assert_eq!(accepted.swap(0, SeqCst), 1);

        let pool = ConnectionPool {
            max_concurrent_streams: Some(1),
            max_connections: Some(1),
            max_pending_requests: Some(1),
            ..ConnectionPool::default()
        };
        let streams = Worker::alone(pool);
        let first = spawn_http2(&streams, addr);
        a_while().await;
        let second = spawn_http2(&streams, addr);
        a_while().await;
        assert_eq!(soon("overflow", spawn_http2(&streams, addr)).await.unwrap(), Err(ConnectError::Overflow));
        gate.add_permits(1);
        soon("the first", first).await.unwrap().unwrap();
        assert!(!second.is_finished());
        gate.add_permits(1);
        soon("the second", second).await.unwrap().unwrap();
        assert_eq!(accepted.swap(0, SeqCst), 1, "a stream's end made room on the only connection");

        let single = ConnectionPool { max_requests_per_connection: Some(1), ..ConnectionPool::default() };
        let single = Worker::alone(single);
        gate.add_permits(2);
        for _ in 0..2 {
            soon("each", spawn_http2(&single, addr)).await.unwrap().unwrap();
        }
        assert_eq!(accepted.load(SeqCst), 2, "a connection for each");
    })
    .await;
}

#[tokio::test]
async fn retries_are_limited_by_number_or_budget() {
    local(async {
        let peer = Peer::start().await;
        let worker = Worker::alone(ConnectionPool { max_retries: Some(1), ..ConnectionPool::default() });
        let way = worker.way(peer.addr);
        let held = worker.pools.retry(way).unwrap();
        assert!(held.is_some());
        assert_eq!(worker.pools.retry(way).unwrap_err(), ConnectError::Overflow);
        drop(held);
        assert!(worker.pools.retry(way).is_ok());
        let budget = Some(RetryBudget { percent: 20.0, min_concurrency: 1 });
        let policy = TrafficPolicy { retry_budget: budget, ..TrafficPolicy::default() };
        let worker = Worker::new(&Arc::default(), &policy);
        let running: Vec<_> = (0..10).map(|_| worker.spawn_http1(peer.addr)).collect();
        peer.has(|c| &c.requests, 10).await;
        let way = worker.way(peer.addr);
        let held = [worker.pools.retry(way).unwrap(), worker.pools.retry(way).unwrap()];
        assert!(worker.pools.retry(way).is_err(), "20 % of ten");
        peer.answer(10);
        for task in running {
            soon("each", task).await.unwrap().unwrap();
        }
        drop(held);
        let unlimited = Worker::alone(ConnectionPool::default());
        assert!(unlimited.pools.retry(unlimited.way(peer.addr)).unwrap().is_none());
    })
    .await;
}

#[tokio::test]
async fn policies_do_not_share_connections_and_idle_times_are_theirs() {
    local(async {
        let peer = Peer::start().await;
        peer.answer(10);
        let upstreams = Arc::default();
        let short = ConnectionPool { idle_timeout: Some(Duration::from_millis(10)), ..ConnectionPool::default() };
        let short = TrafficPolicy { pool: short, ..TrafficPolicy::default() };
        let (plain, short) = (Worker::new(&upstreams, &TrafficPolicy::default()), Worker::new(&upstreams, &short));
        plain.http1(peer.addr).await.unwrap();
        short.http1(peer.addr).await.unwrap();
        peer.has(|c| &c.open, 2).await;
        a_while().await;
        for worker in [&plain, &short] {
            worker.pools.sweep(mesh_agent::time::Nanos::now());
        }
        peer.has(|c| &c.open, 1).await;
    })
    .await;
}

/// Each client's connection is announced on a connection of its own.
#[tokio::test]
async fn proxy_protocol_announces_the_client() {
    local(Box::pin(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let policy = TrafficPolicy { proxy_protocol: Some(ProxyProtocol::V1), ..TrafficPolicy::default() };
        let worker = Worker::new(&Arc::default(), &policy);
        for port in [1001, 1002] {
            let ends = Ends { client: ([10, 0, 0, 1], port).into(), local: ([10, 96, 0, 1], 80).into() };
            let request = async {
                let sender = worker.pools.http1(&Way { ends: Some(ends), ..worker.way(addr) }).await.unwrap();
                let request = Request::get("/").header("host", "echo").body(Body::Empty).unwrap();
                read(sender.send(request).await.expect("an answer")).await;
            };
            let peer = async {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut heard = Vec::new();
                while !heard.ends_with(b"\r\n\r\n") {
                    heard.push(stream.read_u8().await.unwrap());
                }
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
                let expected = format!("PROXY TCP4 10.0.0.1 10.96.0.1 {port} 80\r\nGET / HTTP/1.1\r\n");
                assert!(heard.starts_with(expected.as_bytes()), "{}", String::from_utf8_lossy(&heard));
                assert!(stream.read_u8().await.is_err(), "closed after the exchange");
            };
            soon("the exchange", async { tokio::join!(peer, request) }).await;
        }
    }))
    .await;
}
