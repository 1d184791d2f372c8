//! Istio's metrics against what clients and servers counted themselves.

mod support;

use bytes::Bytes;
use http::{Request, Response};
use mesh_agent::config::compile;
use mesh_agent::config::resource::parse::parse;
use mesh_agent::settings::Settings;
use mesh_agent::snapshot::Snapshot;
use mesh_agent::telemetry::Of;
use serde_json::json;
use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use support::log_file::LogFile;
use support::{Agent, Client, captured, endpoint, grpc, message, send_all, soon, trailers};

/// Requests of each kind; there are six kinds. A hundred thousand in all where the build is fast enough.
const EACH: u64 = if cfg!(debug_assertions) { 1_000 } else { 17_000 };
const CLIENTS: u64 = 10;

/// Who asks.
const WEB: &str = "---\napiVersion: v1\nkind: Pod\nmetadata: {name: web, namespace: default, uid: w, labels: {app: web}, \
                   annotations: {undermesh.dev/netns: /none}}\nstatus: {phase: Running, podIPs: [{ip: 10.9.9.9}]}\n";

/// What servers saw: attempts by kind; and who waits for an answer that does not come.
#[derive(Default)]
struct Seen {
    attempts: Mutex<BTreeMap<String, u64>>,
    hanging: Mutex<HashSet<String>>,
}

/// The Service `default/echo` with two pods of this node in the mesh, and rules for each kind of request.
fn snapshot(endpoints: &[SocketAddr], more: &str) -> Snapshot {
    let pods = endpoints.iter().enumerate().map(|(i, addr)| {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: echo-{i}, namespace: default, uid: u{i}, labels: \
             {{app: echo, version: v{i}}}, annotations: {{undermesh.dev/netns: /none}}}}\nstatus: {{phase: Running}}\n\
             ---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: echo-{i}, namespace: default, \
             labels: {{kubernetes.io/service-name: echo}}}}\naddressType: IPv4\nports: [{{name: grpc, port: {}}}]\n\
             endpoints: [{{addresses: [{}], targetRef: {{kind: Pod, name: echo-{i}}}}}]\n",
            addr.port(),
            addr.ip()
        )
    });
    let yaml = format!(
        "apiVersion: v1\nkind: Namespace\nmetadata: {{name: default, labels: {{istio-injection: enabled}}}}\n\
         ---\napiVersion: v1\nkind: Service\nmetadata: {{name: echo, namespace: default, annotations: \
         {{undermesh.dev/load-balancer: round-robin}}}}\nspec: {{clusterIP: 10.96.0.1, ports: [{{name: grpc, port: 80}}]}}\n\
         ---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: v, namespace: default}}\n\
         spec: {{hosts: [echo], http: [\
         {{match: [{{uri: {{prefix: /fault}}}}], fault: {{abort: {{grpcStatus: UNAVAILABLE, percentage: {{value: 100}}}}}}, \
           route: [{{destination: {{host: echo}}}}]}}, \
         {{match: [{{uri: {{prefix: /retry}}}}], retries: {{attempts: 2, retryOn: unavailable}}, \
           route: [{{destination: {{host: echo}}}}]}}, \
         {{route: [{{destination: {{host: echo}}}}], retries: {{attempts: 0}}}}]}}\n{WEB}{}{more}",
        pods.collect::<String>()
    );
    let parsed = parse(&Path::new("metrics.yaml").into(), &yaml);
    assert!(parsed.diagnostics.is_empty(), "{:?}", parsed.diagnostics);
    let settings = compile::Settings { node: "".into(), cluster_domain: "cluster.local".into() };
    let (snapshot, _) = compile::compile(settings, parsed.resources.into_iter().map(Arc::new));
    Arc::try_unwrap(snapshot).unwrap_or_else(|_| panic!("nobody else holds it"))
}

async fn server(seen: &Arc<Seen>) -> SocketAddr {
    let seen = Arc::clone(seen);
    endpoint(move |_, mut connection| {
        let seen = Arc::clone(&seen);
        async move {
            while let Some(Ok((request, respond))) = connection.accept().await {
                tokio::spawn(answer(Arc::clone(&seen), request, respond));
            }
        }
    })
    .await
}

async fn answer(seen: Arc<Seen>, request: Request<h2::RecvStream>, mut respond: h2::server::SendResponse<Bytes>) {
    let path = request.uri().path().to_owned();
    let kind = path.split('/').nth(1).unwrap_or_default().to_owned();
    let first = request.headers().get("x-envoy-attempt-count").is_none_or(|count| count == "1");
    let mut body = request.into_body();
    while let Some(Ok(data)) = body.data().await {
        let _ = body.flow_control().release_capacity(data.len());
    }
    *seen.attempts.lock().unwrap().entry(kind.clone()).or_default() += 1;
    let head = |status: Option<&str>| {
        let head = Response::builder().header("content-type", "application/grpc");
        status.map_or(head, |_| Response::builder().header("grpc-status", "14")).body(()).unwrap()
    };
    match &*kind {
        "reset" => respond.send_reset(h2::Reason::INTERNAL_ERROR),
        "hang" => {
            seen.hanging.lock().unwrap().insert(path);
            let _ = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
        }
        "retry" if first => drop(respond.send_response(head(Some("14")), true)),
        "unavailable" => drop(respond.send_response(head(Some("14")), true)),
        _ => {
            let Ok(mut send) = respond.send_response(head(None), false) else { return };
            send_all(&mut send, message(b"answer"), false).await;
            send_all(&mut send, message(b"and another"), false).await;
            let _ = send.send_trailers(trailers("0"));
        }
    }
}

/// One client's part of the requests; returns how often it got which `grpc-status`.
async fn ask(agent: SocketAddr, seen: Arc<Seen>, number: u64) -> BTreeMap<String, u64> {
    let mut client = Client::connect(agent, h2::client::Builder::new()).await;
    let mut got = BTreeMap::new();
    for round in 0..EACH / CLIENTS {
        for kind in ["ok", "fault", "retry", "unavailable", "reset", "hang"] {
            let path = format!("/{kind}/{number}/{round}");
            if kind == "hang" {
                let (response, mut send) = client.start(grpc(&path), false).await;
                send_all(&mut send, message(b"question"), true).await;
                while !seen.hanging.lock().unwrap().contains(&path) {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                send.send_reset(h2::Reason::CANCEL);
                drop(response);
                *got.entry("cancelled".to_owned()).or_default() += 1;
                continue;
            }
            let answer = client.call(grpc(&path), message(b"question")).await.expect("an answer");
            let status = answer.head.headers().get("grpc-status");
            let status = status.or_else(|| answer.trailers.as_ref()?.get("grpc-status")).expect("a status");
            *got.entry(status.to_str().unwrap().to_owned()).or_default() += 1;
        }
    }
    got
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_reporters_count_what_client_and_servers_do() {
    let seen = Arc::new(Seen::default());
    let endpoints = [server(&seen).await, server(&seen).await];
    let agent = Agent::of(snapshot(&endpoints, ""), Settings::default());
    let (addr, _listening) = captured(&agent, "web");
    let clients: Vec<_> = (0..CLIENTS).map(|n| tokio::spawn(ask(addr, Arc::clone(&seen), n))).collect();
    let mut got: BTreeMap<String, u64> = BTreeMap::new();
    for client in clients {
        let part = tokio::time::timeout(Duration::from_secs(300), client).await.expect("in time").unwrap();
        part.into_iter().for_each(|(status, count)| *got.entry(status).or_default() += count);
    }
    let counted = |reporter: &str, name: &str, labels: &[&str]| {
        let reporter = format!("reporter=\"{reporter}\"");
        agent.metric(&[&[name, &*reporter], labels].concat()) as u64
    };
    let total = |reporter| counted(reporter, "istio_requests_total", &[]);
    soon("the last record", async {
        while total("source") < 6 * EACH || total("destination") < 6 * EACH {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;

    // What clients got is what the source says.
    let source = |labels: &[&str]| counted("source", "istio_requests_total", labels);
    let grpc = |status: &str| format!("grpc_response_status=\"{status}\"");
    assert_eq!(total("source"), 6 * EACH);
    assert_eq!(
        (got["0"], source(&[&grpc("0"), "response_flags=\"-\"", "response_code=\"200\""])),
        (2 * EACH, 2 * EACH)
    );
    assert_eq!((got["14"], source(&[&grpc("14")])), (3 * EACH, 3 * EACH), "fault, unavailable, reset");
    assert_eq!(source(&[&grpc("14"), "response_flags=\"FI\"", "destination_workload=\"unknown\""]), EACH);
    assert_eq!(source(&[&grpc("14"), "response_flags=\"UR\""]), EACH);
    assert_eq!((got["cancelled"], source(&["response_flags=\"DC\"", "response_code=\"0\""])), (EACH, EACH));

    // So do pods and routes: whoever was asked last answers.
    let tallies = agent.shared.metrics.tallies();
    let tallied = |wanted: fn(&Of) -> bool| {
        let of = tallies.iter().filter(|(of, _)| wanted(of)).map(|(_, tallied)| tallied);
        of.fold((0, 0), |(requests, failures), of| (requests + of.requests(), failures + of.failures))
    };
    assert_eq!(tallied(|of| matches!(of, Of::From(_, pod) if &**pod == "web")), (6 * EACH, 3 * EACH));
    assert_eq!(tallied(|of| matches!(of, Of::To(..))), (5 * EACH, 2 * EACH));
    assert_eq!(tallied(|of| matches!(of, Of::Route { .. })), (6 * EACH, 3 * EACH));
    let retried =
        |of: &Of| matches!(of, Of::Route { service, route } if &**service == "default/echo" && route.contains('1'));
    assert_eq!(tallied(retried).0, EACH, "{tallies:?}");

    // What the servers saw is what the destination says, attempt by attempt.
    let attempts = seen.attempts.lock().unwrap().clone();
    let expected = [("hang", EACH), ("ok", EACH), ("reset", EACH), ("retry", 2 * EACH), ("unavailable", EACH)];
    assert_eq!(attempts, expected.map(|(kind, count)| (kind.to_owned(), count)).into());
    let destination = |labels: &[&str]| counted("destination", "istio_requests_total", labels);
    assert_eq!(total("destination"), attempts.values().sum::<u64>());
    assert_eq!(destination(&[&grpc("0"), "response_flags=\"-\""]), 2 * EACH);
    assert_eq!(destination(&[&grpc("14"), "response_flags=\"-\""]), 2 * EACH, "unavailable, and first attempts");
    assert_eq!(destination(&["response_flags=\"UR\""]), EACH);
    assert_eq!(destination(&["response_flags=\"DC\"", "response_code=\"0\""]), EACH);
    assert_eq!(destination(&["source_workload=\"web\"", "destination_app=\"echo\""]), 6 * EACH);
    let by_version = ["v0", "v1"].map(|v| destination(&[&format!("destination_version=\"{v}\"")]));
    assert!(by_version.iter().all(|count| *count > 2 * EACH), "{by_version:?}");

    // A fault answers before it reads; whatever was sent again was asked again.
    let messages = |reporter, which| counted(reporter, &format!("istio_{which}_messages_total"), &[]);
    assert_eq!((messages("source", "request"), messages("source", "response")), (5 * EACH, 4 * EACH));
    assert_eq!((messages("destination", "request"), messages("destination", "response")), (6 * EACH, 4 * EACH));
    for reporter in ["source", "destination"] {
        for histogram in ["istio_request_duration_milliseconds", "istio_request_bytes", "istio_response_bytes"] {
            assert_eq!(counted(reporter, &format!("{histogram}_count"), &[]), 6 * EACH, "{reporter} {histogram}");
        }
    }
}

#[tokio::test]
async fn telemetry_objects_change_what_is_counted_and_logged() {
    let telemetry = "---\napiVersion: telemetry.istio.io/v1\nkind: Telemetry\nmetadata: {name: t, namespace: istio-system}\n\
        spec:\n  metrics:\n  - overrides:\n    - match: {metric: REQUEST_COUNT, mode: CLIENT}\n      tagOverrides:\n        \
        kind: {value: \"request.url_path.startsWith('/ok') ? 'good' : 'bad'\"}\n        \
        peer: {value: upstream_peer.version}\n        \
        oops: {value: \"request.headers['x-none']\"}\n        source_principal: {operation: REMOVE}\n    \
        - match: {metric: REQUEST_SIZE}\n      disabled: true\n  accessLogging:\n  \
        - filter: {expression: \"request.url_path.startsWith('/ok') && response.code == 200\"}\n";
    let seen = Arc::new(Seen::default());
    let endpoints = [server(&seen).await];
    let agent = Agent::of(snapshot(&endpoints, telemetry), Settings::default());
    let log = LogFile::of(&agent.shared.access_log, r#"{"path": "%REQ(:PATH)%"}"#);
    let (addr, _listening) = captured(&agent, "web");
    let mut client = Client::connect(addr, h2::client::Builder::new()).await;
    for path in ["/unavailable/1", "/ok/1", "/unavailable/2", "/ok/2"] {
        soon("call", client.call(grpc(path), message(b"question"))).await.unwrap();
    }
    let count = |labels: &[&str]| agent.metric(&[&["istio_requests_total{"], labels].concat()) as u64;
    soon("the last record", async {
        while count(&["reporter=\"source\""]) < 4 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let source = ["reporter=\"source\"", "peer=\"v0\"", "oops=\"unknown\""];
    for kind in ["kind=\"good\"", "kind=\"bad\""] {
        assert_eq!(count(&[&source[..], &[kind]].concat()), 2, "{kind}");
    }
    assert_eq!(count(&["reporter=\"source\"", "source_principal"]), 0, "removed");
    assert_eq!(count(&["reporter=\"destination\"", "source_principal=\"unknown\""]), 4, "the other side is as it was");
    assert_eq!(agent.metric(&["istio_request_bytes_count"]), 0.0, "switched off");
    assert_eq!(agent.metric(&["istio_response_bytes_count"]), 8.0);
    assert_eq!(log.lines(2).await, [json!({"path": "/ok/1"}), json!({"path": "/ok/2"})]);
}

#[tokio::test]
async fn what_holds_for_the_whole_mesh_holds_for_clients_that_are_no_pods() {
    let telemetry = |namespace: &str, spec: &str| {
        format!(
            "---\napiVersion: telemetry.istio.io/v1\nkind: Telemetry\nmetadata: {{name: t, namespace: {namespace}}}\nspec: {spec}\n"
        )
    };
    let root = "{metrics: [{overrides: [{match: {metric: REQUEST_COUNT, mode: CLIENT}, tagOverrides: {kind: {value: \"'told'\"}}}]}], \
                accessLogging: [{filter: {expression: \"request.url_path.startsWith('/ok')\"}}]}";
    let policies = telemetry("istio-system", root) + &telemetry("default", "{accessLogging: [{disabled: true}]}");
    let seen = Arc::new(Seen::default());
    let agent = Agent::of(snapshot(&[server(&seen).await], &policies), Settings::default());
    let log = LogFile::of(&agent.shared.access_log, r#"{"path": "%REQ(:PATH)%"}"#);
    let mut client = agent.http2().await;
    for path in ["/unavailable/1", "/ok/1"] {
        soon("call", client.call(grpc(path), message(b"question"))).await.unwrap();
    }
    assert_eq!(log.lines(1).await, [json!({"path": "/ok/1"})]);
    let told = ["istio_requests_total{", "source_workload=\"unknown\"", "kind=\"told\""];
    support::until("both are counted", || agent.metric(&told) == 2.0).await;
}
