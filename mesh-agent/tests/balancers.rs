//! Which endpoint gets a request, as a DestinationRule says it: balancers and sessions, from YAML to the wire.

mod support;

use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use support::scripted::Scripted;
use support::{Agent, Client, WEB, Whole, ask, captured, captured_for, object, soon};
use tokio::net::TcpSocket;

fn destination(policy: &str) -> String {
    object("DestinationRule", "d", &format!("{{host: echo, trafficPolicy: {{loadBalancer: {{{policy}}}}}}}"))
}

async fn three() -> [Scripted; 3] {
    [Scripted::start("a").await, Scripted::start("b").await, Scripted::start("c").await]
}

fn addresses(endpoints: &[Scripted]) -> Vec<std::net::SocketAddr> {
    endpoints.iter().map(|endpoint| endpoint.addr).collect()
}

async fn get(client: &mut Client, what: &str) -> Whole {
    soon(what, client.call(ask(what), Bytes::new())).await.unwrap()
}

fn name(answer: &Whole) -> String {
    answer.head.headers()["x-endpoint"].to_str().unwrap().to_owned()
}

async fn count(client: &mut Client, what: &str, requests: usize) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for _ in 0..requests {
        *counts.entry(name(&get(client, what).await)).or_default() += 1;
    }
    counts
}

async fn client_at(agent: &Agent, ip: [u8; 4]) -> Client {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((ip, 0).into()).unwrap();
    let stream = socket.connect(agent.addr).await.unwrap();
    let (send, connection) = h2::client::handshake(stream).await.unwrap();
    Client { send, driver: tokio::spawn(connection) }
}

#[tokio::test]
async fn simple_balancers_spread_requests() {
    for (simple, exact) in [("ROUND_ROBIN", true), ("RANDOM", false), ("LEAST_REQUEST", false), ("LEAST_CONN", false)] {
        let endpoints = three().await;
        let agent = Agent::yaml("http", &addresses(&endpoints), &destination(&format!("simple: {simple}")));
        let counts = count(&mut agent.http2().await, "GET /", 90).await;
        // Each is left out by chance once in 10^15 runs.
        assert_eq!(counts.len(), 3, "{simple}: {counts:?}");
        assert!(!exact || counts.values().all(|count| *count == 30), "{simple}: {counts:?}");
    }
}

/// Of two the busier one is never chosen; 90 draws by chance alone give 45 ± 4.7.
#[tokio::test]
async fn least_request_avoids_who_is_busy() {
    let (a, b) = (Scripted::start("a").await, Scripted::start("b").await);
    let agent = Agent::yaml("http", &[a.addr, b.addr], &destination("simple: LEAST_REQUEST"));
    let mut client = agent.http2().await;
    let (held, _send) = client.start(ask("GET / | x-do: wait"), true).await;
    support::until("the first", || a.seen().len() + b.seen().len() == 1).await;
    let busy = if a.seen().is_empty() { &b } else { &a };
    let before = busy.seen().len();
    count(&mut client, "GET /", 90).await;
    assert!(busy.seen().len() - before < 30, "{} of 90", busy.seen().len() - before);
    busy.gate.add_permits(1);
    assert_eq!(soon("the held one", support::whole(held)).await.unwrap().head.status(), 200);
}

/// A slow answer is remembered for seconds (`undermesh.dev/load-balancer: peak-ewma`); 90 draws by chance alone give 45 ± 4.7.
#[tokio::test]
async fn peak_ewma_avoids_who_was_slow() {
    let (a, b) = (Scripted::start("a").await, Scripted::start("b").await);
    let service = support::service("timed", "http", &[a.addr, b.addr]).replace(
        "{name: timed, namespace: default}",
        "{name: timed, namespace: default, annotations: {undermesh.dev/load-balancer: peak-ewma}}",
    );
    let agent = Agent::yaml("http", &[], &[WEB, &service].concat());
    let (addr, _listening) = captured(&agent, "web");
    let mut client = Client::connect(addr, h2::client::Builder::new()).await;
    while b.seen().is_empty() {
        get(&mut client, "GET http://timed.default/ | x-do: at=b:slow").await;
    }
    count(&mut client, "GET http://timed.default/", 90).await;
    assert!(b.seen().len() - 1 < 30, "{} of 90", b.seen().len() - 1);
}

/// The address that the client asked for, whoever the endpoints are.
#[tokio::test]
async fn passthrough_goes_where_the_client_wanted_to_go() {
    let (endpoint, original) = (Scripted::start("endpoint").await, Scripted::start("original").await);
    let (ip, port) = (original.addr.ip(), original.addr.port());
    let entry = format!(
        "{{hosts: [named.example], addresses: [{ip}], ports: [{{number: {port}, name: http, protocol: HTTP}}], resolution: STATIC, \
         endpoints: [{{address: {ip}, ports: {{http: {}}}}}]}}",
        endpoint.addr.port()
    );
    for (policy, expected) in [("simple: PASSTHROUGH", "original"), ("simple: RANDOM", "endpoint")] {
        let rule = format!("{{host: named.example, trafficPolicy: {{loadBalancer: {{{policy}}}}}}}");
        let world = [WEB, &object("ServiceEntry", "e", &entry), &object("DestinationRule", "n", &rule)].concat();
        let agent = Agent::yaml("http", &[], &world);
        let (addr, _listening) = captured_for(&agent, "web", original.addr);
        let mut client = Client::connect(addr, h2::client::Builder::new()).await;
        assert_eq!(name(&get(&mut client, "GET http://named.example/").await), expected, "{policy}");
    }
}

/// What makes a session, and how session `n` asks.
type Session = (&'static str, fn(u8) -> String);

const SESSIONS: &[Session] = &[
    ("httpHeaderName: x-user", |n| format!("GET / | x-user: u{n}")),
    ("httpHeaderName: x-user, ringHash: {minimumRingSize: 64}", |n| format!("GET / | x-user: u{n}")),
    ("httpHeaderName: x-user, maglev: {tableSize: 251}", |n| format!("GET / | x-user: u{n}")),
    ("httpQueryParameterName: user", |n| format!("GET /?x=1&user=u{n}&user=other")),
    ("httpCookie: {name: user}", |n| format!("GET / | cookie: theme=dark; user=u{n}")),
];

#[tokio::test]
async fn a_session_stays_at_one_endpoint_and_sessions_use_all() {
    for (hash, asks) in SESSIONS {
        let endpoints = three().await;
        let agent = Agent::yaml("http", &addresses(&endpoints), &destination(&format!("consistentHash: {{{hash}}}")));
        // Two connections: it is not the connection that decides.
        let mut clients = [agent.http2().await, agent.http2().await];
        let mut used = BTreeSet::new();
        for session in 0..24 {
            let mut seen = BTreeSet::new();
            for turn in 0..6 {
                seen.insert(name(&get(&mut clients[turn % 2], &asks(session)).await));
            }
            assert_eq!(seen.len(), 1, "{hash}: session {session}");
            used.extend(seen);
        }
        assert_eq!(used.len(), 3, "{hash}");
        // Without a key any endpoint will do.
        assert!(count(&mut clients[0], "GET /", 60).await.len() > 1, "{hash}");
    }
}

#[tokio::test]
async fn a_callers_address_is_a_session() {
    let endpoints = three().await;
    let agent = Agent::yaml("http", &addresses(&endpoints), &destination("consistentHash: {useSourceIp: true}"));
    let mut used = BTreeSet::new();
    for last in 1..=24 {
        let mut seen = BTreeSet::new();
        for _ in 0..2 {
            seen.extend(count(&mut client_at(&agent, [127, 0, 1, last]).await, "GET /", 3).await.into_keys());
        }
        assert_eq!(seen.len(), 1, "127.0.1.{last}");
        used.extend(seen);
    }
    assert_eq!(used.len(), 3);
}

/// A cookie with a `ttl` is made where it is missing, and brings its bearer back to the same endpoint.
#[tokio::test]
async fn a_missing_cookie_is_made() {
    for (ttl, age) in [("0s", None), ("90s", Some("Max-Age=90"))] {
        let endpoints = three().await;
        let hash = format!("consistentHash: {{httpCookie: {{name: session, path: /shop, ttl: {ttl}}}}}");
        let agent = Agent::yaml("http", &addresses(&endpoints), &destination(&hash));
        for _ in 0..6 {
            let first = get(&mut agent.http2().await, "GET /").await;
            let made = first.head.headers()["set-cookie"].to_str().unwrap().to_owned();
            let parts: Vec<_> = made.split("; ").collect();
            assert!(parts[0].starts_with("session=") && parts.contains(&"Path=/shop") && parts.contains(&"HttpOnly"));
            assert_eq!(parts.iter().find(|part| part.starts_with("Max-Age")).copied(), age, "{made}");
            for _ in 0..3 {
                let again = get(&mut agent.http2().await, &format!("GET / | cookie: {}", parts[0])).await;
                assert_eq!(name(&again), name(&first));
                assert!(!again.head.headers().contains_key("set-cookie"), "it has one");
            }
        }
    }
}
