//! What keeps requests going when endpoints do not, from YAML to the wire: retries, ejections, limits, ages, balancers.

mod support;

use bytes::Bytes;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use support::scripted::Scripted;
use support::{Agent, Client, WEB, Whole, ask, captured, grpc, message, object, refusing, soon};

fn rules(http: &str) -> String {
    object("VirtualService", "v", &format!("{{hosts: [echo], http: [{http}]}}"))
}

fn retries(policy: &str) -> String {
    rules(&format!("{{route: [{{destination: {{host: echo}}}}], retries: {{{policy}}}}}"))
}

fn destination(policy: &str) -> String {
    object("DestinationRule", "d", &format!("{{host: echo, trafficPolicy: {{{policy}}}}}"))
}

async fn get(client: &mut Client, what: &str) -> Whole {
    soon(what, client.call(ask(what), Bytes::new())).await.unwrap()
}

async fn status(client: &mut Client, what: &str) -> u16 {
    get(client, what).await.head.status().as_u16()
}

/// A condition, what it repeats (`x-do` of `support::scripted`), and what it leaves.
const CONDITIONS: &[(&str, &[&str], &[&str])] = &[
    (
        "5xx",
        &["status=500", "status=503", "reset=2", "reset=7"],
        &["status=404", "grpc=14", "status=503;x-envoy-ratelimited"],
    ),
    ("gateway-error", &["status=502", "status=504", "reset=2"], &["status=500"]),
    ("reset", &["reset=2", "reset=7"], &["status=503", "grpc=14"]),
    ("reset-before-request", &[], &["reset=2", "status=503"]),
    ("connect-failure", &[], &["reset=2", "status=503"]),
    ("refused-stream", &["reset=7"], &["reset=2", "status=503"]),
    ("retriable-4xx", &["status=409"], &["status=404", "status=503"]),
    ("'retriable-status-codes,418'", &["status=418"], &["status=419"]),
    ("'418'", &["status=418"], &["status=419"]),
    ("envoy-ratelimited", &["status=429;x-envoy-ratelimited"], &["status=429"]),
    ("cancelled", &["grpc=1"], &["grpc=4", "trailers=14"]),
    ("deadline-exceeded", &["grpc=4"], &["grpc=8"]),
    ("resource-exhausted", &["grpc=8"], &["grpc=13"]),
    ("internal", &["grpc=13"], &["grpc=14"]),
    ("unavailable", &["grpc=14"], &["grpc=1", "trailers=14"]),
];

#[tokio::test]
async fn every_condition_repeats_what_it_names_and_nothing_else() {
    for (condition, repeats, leaves) in CONDITIONS {
        let a = Scripted::start("a").await;
        let agent =
            Agent::yaml("http", &[a.addr], &retries(&format!("attempts: 1, backoff: 1ms, retryOn: {condition}")));
        let mut client = agent.http2().await;
        for (all, attempts) in [(repeats, 2), (leaves, 1)] {
            for what in *all {
                let before = a.seen().len();
                // A reset is an error of the connection's stream; whatever comes, the endpoint has counted.
                let _ = soon(what, client.call(ask(&format!("GET / | x-do: {what}")), Bytes::new())).await;
                assert_eq!(a.seen().len() - before, attempts, "{condition}: {what}");
            }
        }
    }
}

/// Refused connections, by who asks for a retry of them: two endpoints in turn, so that one of two requests meets one.
#[tokio::test]
async fn a_refused_connection_is_repeated_where_a_condition_has_it() {
    for (condition, fails) in [
        ("5xx", 0.0),
        ("gateway-error", 0.0),
        ("reset", 0.0),
        ("reset-before-request", 0.0),
        ("connect-failure", 0.0),
        ("retriable-4xx", 1.0),
        ("unavailable", 1.0),
        ("'503'", 1.0),
    ] {
        let a = Scripted::start("a").await;
        let policy = retries(&format!("attempts: 1, backoff: 1ms, retryOn: {condition}"));
        let agent = Agent::yaml("http", &[refusing(), a.addr], &policy);
        let mut client = agent.http2().await;
        for _ in 0..2 {
            get(&mut client, "GET /").await;
        }
        assert_eq!(agent.metric(&["istio_requests_total", "response_flags=\"UF\""]), fails, "{condition}");
    }
}

/// Uniform below B, then below 2·B: 60 requests wait 0.5·B ± 0.04·B, then B ± 0.07·B, on average; a busy machine only adds.
#[tokio::test]
async fn the_pause_before_a_retry_doubles_and_varies() {
    const B: Duration = Duration::from_millis(200);
    let a = Scripted::start("a").await;
    let agent = Agent::yaml("http", &[a.addr], &retries("attempts: 2, backoff: 200ms, retryOn: '503'"));
    let mut client = agent.http2().await;
    let mut answers = Vec::new();
    for number in 0..60 {
        let request = ask(&format!("GET /{number} | x-do: at=a:503"));
        answers.push(client.start(request, true).await.0);
    }
    for answer in answers {
        assert_eq!(soon("an answer", support::whole(answer)).await.unwrap().head.status(), 503);
    }
    let mut asked = BTreeMap::<String, Vec<Instant>>::new();
    for seen in a.seen() {
        asked.entry(seen.path().to_owned()).or_default().push(seen.at);
    }
    assert!(asked.values().all(|times| times.len() == 3));
    let pauses = |n: usize| asked.values().map(move |times| times[n + 1] - times[n]);
    let mean = |n| pauses(n).sum::<Duration>() / 60;
    assert!(mean(0) > B.mul_f64(0.3) && mean(1) > B.mul_f64(0.65), "{:?}, {:?}", mean(0), mean(1));
    let spread = pauses(1).max().unwrap() - pauses(1).min().unwrap();
    assert!(spread > B, "the longest second pause is only {spread:?} longer than the shortest");
}

/// `maxRetries` and `retryBudget`: while one request is being repeated another one is not.
#[tokio::test]
async fn retries_at_one_time_are_limited() {
    for limit in ["connectionPool: {http: {maxRetries: 1}}", "retryBudget: {percent: 0, minRetryConcurrency: 1}"] {
        let a = Scripted::start("a").await;
        let policy = retries("attempts: 1, backoff: 1ms, retryOn: '503'") + &destination(limit);
        let agent = Agent::yaml("http", &[a.addr], &policy);
        let mut client = agent.http2().await;
        // Its second attempt waits at the gate and holds the only place.
        let (held, _send) = client.start(ask("GET / | x-do: later=503"), true).await;
        a.has(2).await;
        assert_eq!(status(&mut client, "GET / | x-do: status=503").await, 503, "{limit}");
        assert_eq!(agent.metric(&["istio_requests_total", "response_flags=\"UO\""]), 1.0, "{limit}");
        a.gate.add_permits(1);
        assert_eq!(soon("the held one", support::whole(held)).await.unwrap().head.status(), 200);
        assert_eq!(status(&mut client, "GET / | x-do: status=503").await, 200, "{limit}: the place is free again");
    }
}

/// Three endpoints in the caller's region, one beyond: after two attempts that is asked, if the policy says so.
#[tokio::test]
async fn retries_leave_a_region_that_fails() {
    let near = [Scripted::start("near").await, Scripted::start("near").await, Scripted::start("near").await];
    let far = Scripted::start("far").await;
    let node = |name: &str| {
        format!(
            "---\napiVersion: v1\nkind: Node\nmetadata: {{name: {name}, labels: {{topology.kubernetes.io/region: {name}}}}}\n"
        )
    };
    let slice = |(number, (node, addr)): (usize, (&str, SocketAddr))| {
        format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: at-{number}, namespace: default, \
             labels: {{kubernetes.io/service-name: echo}}}}\naddressType: IPv4\nports: [{{name: http, port: {}}}]\n\
             endpoints: [{{addresses: [{}], nodeName: {node}}}]\n",
            addr.port(),
            addr.ip()
        )
    };
    let endpoints = near.iter().map(|near| ("near", near.addr)).chain([("far", far.addr)]);
    let slices: String = endpoints.enumerate().map(slice).collect();
    let web = WEB.replace("status:", "spec: {nodeName: near}\nstatus:");
    for (remote, expected) in [("true", 200), ("false", 503)] {
        let policy = retries(&format!("attempts: 2, backoff: 1ms, retryOn: 5xx, retryRemoteLocalities: {remote}"))
            + &destination("outlierDetection: {consecutive5xxErrors: 0}");
        let world = [&*web, &node("near"), &node("far"), &slices, &policy].concat();
        let agent = Agent::yaml("http", &[], &world);
        let (addr, _listening) = captured(&agent, "web");
        let mut client = Client::connect(addr, h2::client::Builder::new()).await;
        let asked = far.seen().len();
        assert_eq!(status(&mut client, "GET / | x-do: at=near:503").await, expected, "{remote}");
        assert_eq!(far.seen().len() - asked, usize::from(expected == 200));
    }
    assert_eq!(near.iter().map(|near| near.seen().len()).sum::<usize>(), 2 + 3);
}

/// What a detector is told, what happens then, and how many of six requests the bad one of two endpoints got.
const DETECTORS: &[(&str, &str, usize)] = &[
    ("consecutive5xxErrors: 1, maxEjectionPercent: 100", "500", 1),
    ("consecutive5xxErrors: 2, maxEjectionPercent: 100", "500", 2),
    ("consecutive5xxErrors: 1, maxEjectionPercent: 100", "404", 3),
    ("consecutive5xxErrors: 0, consecutiveGatewayErrors: 1, maxEjectionPercent: 100", "502", 1),
    ("consecutive5xxErrors: 0, consecutiveGatewayErrors: 1, maxEjectionPercent: 100", "500", 3),
    ("consecutive5xxErrors: 1, maxEjectionPercent: 100, outlierDetectionHttpErrorCodes: [429]", "429", 1),
    ("consecutive5xxErrors: 1, maxEjectionPercent: 100, outlierDetectionHttpErrorCodes: [429]", "500", 3),
    ("splitExternalLocalOriginErrors: true, consecutiveLocalOriginFailures: 1, maxEjectionPercent: 100", "reset", 1),
    ("splitExternalLocalOriginErrors: true, consecutive5xxErrors: 1, maxEjectionPercent: 100", "reset", 3),
    // SEMANTICS §5: a tenth of two endpoints is none.
    ("consecutive5xxErrors: 1", "500", 3),
    // Half is less than 60 %: then all are asked, whatever the detector says.
    ("consecutive5xxErrors: 1, maxEjectionPercent: 100, minHealthPercent: 60", "500", 3),
    ("consecutive5xxErrors: 1, maxEjectionPercent: 100, minHealthPercent: 40", "500", 1),
];

#[tokio::test]
async fn detectors_eject_for_what_they_are_told() {
    for (detector, what, expected) in DETECTORS {
        let (bad, good) = (Scripted::start("bad").await, Scripted::start("good").await);
        let policy = retries("attempts: 0") + &destination(&format!("outlierDetection: {{{detector}}}"));
        let agent = Agent::yaml("http", &[bad.addr, good.addr], &policy);
        let mut client = agent.http2().await;
        for _ in 0..6 {
            let _ = soon(what, client.call(ask(&format!("GET / | x-do: at=bad:{what}")), Bytes::new())).await;
        }
        assert_eq!(bad.seen().len(), *expected, "{detector}: {what}");
    }
}

#[tokio::test]
async fn where_all_are_ejected_the_answer_says_so_and_they_come_back() {
    let bad = Scripted::start("bad").await;
    let detector = "outlierDetection: {consecutive5xxErrors: 1, maxEjectionPercent: 100, interval: 100ms, baseEjectionTime: 300ms}";
    let agent = Agent::yaml("http", &[bad.addr], &(retries("attempts: 0") + &destination(detector)));
    let mut client = agent.http2().await;
    assert_eq!(status(&mut client, "GET / | x-do: status=500").await, 500);
    let answer = get(&mut client, "GET /").await;
    assert_eq!((answer.head.status().as_u16(), &*answer.body), (503, &b"no healthy upstream"[..]));
    assert_eq!(agent.metric(&["istio_requests_total", "response_flags=\"UH\""]), 1.0);
    soon("it comes back", async {
        while status(&mut client, "GET /").await != 200 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

/// Each route has tokens of its own where the policy names routes, else each host.
#[tokio::test]
async fn a_rate_limit_holds_for_the_routes_it_names() {
    let routes = rules(
        "{name: limited, match: [{uri: {prefix: /l}}], route: [{destination: {host: echo}}]}, {name: also, match: [{uri: \
         {prefix: /m}}], route: [{destination: {host: echo}}]}, {name: free, route: [{destination: {host: echo}}]}",
    );
    for (which, passed, exhausted, code) in
        [(", routes: [limited, also]", [2, 2, 4], "false", "14"), ("", [2, 0, 0], "true", "8")]
    {
        let limit = format!(
            "{{hosts: [echo]{which}, rateLimit: {{maxTokens: 2, fillInterval: 3600s, resourceExhausted: {exhausted}}}}}"
        );
        let a = Scripted::start("a").await;
        let agent = Agent::yaml("http", &[a.addr], &(routes.clone() + &object("RequestPolicy", "r", &limit)));
        let mut client = agent.http2().await;
        for (path, passed) in ["/l", "/m", "/free"].into_iter().zip(passed) {
            for turn in 0..4 {
                let expected = if turn < passed { 200 } else { 429 };
                assert_eq!(status(&mut client, &format!("GET {path}")).await, expected, "{which}: {path}");
            }
        }
        let refused = soon("call", client.call(grpc("/l.S/M"), message(b"x"))).await.unwrap();
        assert_eq!(
            (refused.head.status().as_u16(), &refused.head.headers()["grpc-status"]),
            (200, &code.parse().unwrap())
        );
        assert_eq!(a.seen().len(), passed.iter().sum::<usize>());
    }
}
