//! Taps show exactly what they are asked for, and nobody waits for them.

mod support;

use bytes::Bytes;
use mesh_agent::connections::KernelFacts;
use mesh_agent::settings::Settings;
use mesh_agent::telemetry::tap::{MOST_TAPS, Seen, TapQuestion, Watching, WrongTap};
use mesh_common::Reason;
use std::net::SocketAddr;
use support::{Agent, Client, captured, compiled, echo, grpc, message, soon};

/// Requests of each kind.
const EACH: usize = 40;

/// Three pods: two that ask, and `echo-0`, which answers; what begins with `/fault` is refused.
fn agent(endpoint: SocketAddr) -> Agent {
    let pod = |name: &str, address: &str| {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: default, uid: {name}, labels: {{app: {name}}}, \
             annotations: {{undermesh.dev/netns: /none}}}}\nstatus: {{phase: Running, podIPs: [{{ip: {address}}}]}}\n"
        )
    };
    let rule = "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: v, namespace: default}\n\
        spec: {hosts: [echo], http: [{name: broken, match: [{uri: {prefix: /fault}}], fault: {abort: {grpcStatus: UNAVAILABLE, \
        percentage: {value: 100}}}, route: [{destination: {host: echo}}]}, {name: usual, route: [{destination: {host: echo}}]}]}\n";
    let namespace =
        "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: default, labels: {istio-injection: enabled}}\n";
    let pods = pod("web", "10.9.9.9") + &pod("batch", "10.9.9.8") + &pod("echo-0", &endpoint.ip().to_string());
    let more = format!("{namespace}{pods}{rule}");
    Agent::of(compiled("grpc", &[endpoint], &more), Settings::default())
}

fn question(change: impl FnOnce(&mut TapQuestion)) -> TapQuestion {
    let mut question = TapQuestion::default();
    change(&mut question);
    question
}

/// What a tap has seen when it has seen `count`, and not more.
async fn seen(watching: &mut Watching, count: usize) -> Vec<Box<Seen>> {
    let mut all = Vec::new();
    soon("requests are shown", async {
        while all.len() < count {
            assert!(watching.next(&mut all, 64).await);
        }
    })
    .await;
    assert_eq!((all.len(), watching.dropped()), (count, 0));
    all
}

async fn calls(to: SocketAddr, path: &str, count: usize) {
    let mut client = Client::connect(to, h2::client::Builder::new()).await;
    for number in 0..count {
        let answer = client.call(grpc(&format!("{path}/{number}?q={number}")), message(b"question"));
        soon("an answer", answer).await.expect("answered");
    }
}

#[tokio::test]
async fn each_filter_shows_exactly_its_requests() {
    let agent = agent(echo("one").await);
    let ((web, _web), (batch, _batch)) = (captured(&agent, "web"), captured(&agent, "batch"));
    let open = |question: TapQuestion| agent.shared.taps.open(&question).expect("a tap");
    let names = |of: &[&str]| of.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let mut everything = open(TapQuestion::default());
    let mut of_web = open(question(|q| q.from = names(&["default/web"])));
    let mut refused = open(question(|q| q.codes = names(&["grpc:unavailable", "5xx"])));
    let mut answered = open(question(|q| q.to = names(&["echo-0"])));
    let mut some = open(question(|q| {
        q.from = names(&["other", "batch"]);
        q.to = names(&["default/echo"]);
        q.path_regex = Some("/ok/[0-4]".into());
    }));
    let mut nothing = open(question(|q| q.methods = names(&["GET"])));
    let mut elsewhere = open(question(|q| q.from = names(&["shop/"])));

    calls(web, "/ok", EACH).await;
    calls(web, "/fault", EACH).await;
    calls(batch, "/ok", EACH).await;
    calls(batch, "/last", 1).await;

    let all = seen(&mut everything, 3 * EACH + 1).await;
    assert_eq!(seen(&mut of_web, 2 * EACH).await.len(), 2 * EACH);
    let refused = seen(&mut refused, EACH).await;
    assert!(refused.iter().all(|seen| seen.asked.as_ref().is_some_and(|asked| asked.path.starts_with("/fault/"))));
    assert!(refused.iter().all(|seen| seen.endpoint.is_none() && seen.ended.how.flags.to_string() == "FI"));
    assert_eq!(seen(&mut answered, 2 * EACH + 1).await.len(), 2 * EACH + 1);
    let paths: Vec<_> = seen(&mut some, 5).await.into_iter().filter_map(|seen| Some(seen.asked?.path)).collect();
    assert_eq!(paths, ["/ok/0?q=0", "/ok/1?q=1", "/ok/2?q=2", "/ok/3?q=3", "/ok/4?q=4"]);
    // All records are there: what these have not seen by now they never will.
    for none in [&mut nothing, &mut elsewhere] {
        let mut all = Vec::new();
        assert!(tokio::time::timeout(std::time::Duration::ZERO, none.next(&mut all, 1)).await.is_err());
    }

    let one = all.iter().find(|seen| seen.endpoint.is_some()).expect("one that was answered");
    let asked = one.asked.as_ref().expect("a request");
    assert_eq!((&*asked.method, &*asked.host, asked.version), ("POST", "echo.default.svc.cluster.local", "HTTP/2"));
    assert_eq!(
        (one.grpc, one.ended.how.code, one.ended.how.grpc_status, one.ended.how.attempts),
        (true, Some(200), Some(0), 1)
    );
    assert_eq!((one.ended.received, one.ended.sent), (13, 13), "an echo");
    assert_eq!(one.ended.how.route.as_deref(), Some("usual"));
    assert!(one.ended.tcp.is_some_and(|tcp| tcp.srtt_us > 0 && tcp.retransmits == 0), "{:?}", one.ended);
    let facts = KernelFacts { verdict: Reason::ToAgent, redirected_bytes: Some(0) };
    assert_eq!(one.kernel, Some(facts), "captured, over TCP");
    let pod = |of: &Option<std::sync::Arc<mesh_agent::snapshot::Workload>>| of.as_ref().map(|of| of.key.to_string());
    assert_eq!((pod(&one.source), pod(&one.destination)), (Some("default/web".into()), Some("default/echo-0".into())));
}

#[tokio::test]
async fn nobody_waits_for_a_tap_that_is_not_read() {
    let agent = agent(echo("one").await);
    let mut slow = agent.shared.taps.open(&TapQuestion::default()).expect("a tap");
    let mut client = agent.http2().await;
    for number in 0..1024 + 50 {
        client.call(grpc(&format!("/{number}")), Bytes::new()).await.expect("answered");
    }
    soon("the rest is counted", async {
        while slow.dropped() < 50 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let mut all = Vec::new();
    while all.len() < 1024 {
        assert!(slow.next(&mut all, 1024).await);
    }
    assert_eq!((all.len(), slow.dropped()), (1024, 50));
}

#[tokio::test]
async fn taps_are_few_and_end_with_who_looks() {
    let agent = agent(echo("one").await);
    let open = || agent.shared.taps.open(&TapQuestion::default());
    let mut taps: Vec<_> = (0..MOST_TAPS).map(|_| open().expect("a tap")).collect();
    assert_eq!(open().err(), Some(WrongTap::TooMany));
    taps.truncate(1);
    assert!(open().is_ok());
    taps.clear();
    assert_eq!(agent.shared.taps.count(), 0);
}

#[tokio::test]
async fn opaque_connections_pass_taps_too() {
    let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let addr = server.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = server.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = stream.split();
                tokio::io::copy(&mut from, &mut to).await
            });
        }
    });
    let agent = Agent::yaml("tcp", &[addr], "");
    let mut all = agent.shared.taps.open(&TapQuestion::default()).expect("a tap");
    let mut to = agent.shared.taps.open(&question(|q| q.to = vec!["default/echo".into()])).expect("a tap");
    let mut requests = agent.shared.taps.open(&question(|q| q.path = Some("/".into()))).expect("a tap");
    let mut stream = tokio::net::TcpStream::connect(agent.addr).await.expect("connects");
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    stream.write_all(b"bytes").await.expect("sent");
    stream.shutdown().await.expect("half closed");
    let mut back = Vec::new();
    soon("the echo", stream.read_to_end(&mut back)).await.expect("read");
    let one = seen(&mut all, 1).await.remove(0);
    assert_eq!((one.asked.is_none(), one.ended.received, one.ended.sent), (true, 5, 5));
    assert_eq!(one.endpoint, Some(addr));
    assert_eq!(seen(&mut to, 1).await.len(), 1);
    let mut none = Vec::new();
    assert!(tokio::time::timeout(std::time::Duration::ZERO, requests.next(&mut none, 1)).await.is_err());
}
