//! Policies through the whole path: YAML, compiled, served, against peers that follow a script.

mod support;

use bytes::Bytes;
use h2::Reason;
use http::{HeaderMap, Response};
use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use support::{Agent, echo, endpoint, grpc, message, soon, trailers};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

/// What an endpoint saw.
#[derive(Default)]
struct Seen {
    /// `x-envoy-attempt-count` of each request.
    attempts: Mutex<Vec<String>>,
    /// Streams that the agent reset with CANCEL.
    cancelled: AtomicUsize,
}

impl Seen {
    fn attempts(&self) -> Vec<String> {
        self.attempts.lock().unwrap().clone()
    }

    async fn has_cancelled(&self, count: usize) {
        soon("CANCEL", async {
            while self.cancelled.load(SeqCst) != count {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }
}

/// Answers with `status` after `pause` (`None`: never), unless the agent cancels before.
async fn answering(name: &'static str, status: u16, pause: Option<Duration>) -> (SocketAddr, Arc<Seen>) {
    by_attempt(name, move |_| (status, pause)).await
}

/// As `answering`, by the number of the attempt: which endpoint is asked first is up to the agent.
async fn by_attempt(
    name: &'static str,
    behave: impl Fn(&str) -> (u16, Option<Duration>) + Send + Sync + Copy + 'static,
) -> (SocketAddr, Arc<Seen>) {
    let seen = Arc::new(Seen::default());
    let all = Arc::clone(&seen);
    let addr = endpoint(move |_, mut connection| {
        let seen = Arc::clone(&all);
        async move {
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                let count = request.headers().get("x-envoy-attempt-count").expect("attempts are numbered");
                let count = count.to_str().unwrap().to_owned();
                let (status, pause) = behave(&count);
                seen.attempts.lock().unwrap().push(count);
                let seen = Arc::clone(&seen);
                tokio::spawn(async move {
                    let sleep = async {
                        match pause {
                            Some(pause) => tokio::time::sleep(pause).await,
                            None => std::future::pending().await,
                        }
                    };
                    tokio::select! {
                        () = sleep => {
                            let head = Response::builder().status(status).header("x-endpoint", name);
                            let mut send = respond.send_response(head.body(()).unwrap(), false).unwrap();
                            let _ = send.send_trailers(trailers("0"));
                        }
                        reset = poll_fn(|cx| respond.poll_reset(cx)) => {
                            if reset.is_ok_and(|reason| reason == Reason::CANCEL) {
                                seen.cancelled.fetch_add(1, SeqCst);
                            }
                        }
                    }
                });
            }
        }
    })
    .await;
    (addr, seen)
}

const MS: Duration = Duration::from_millis(1);

fn hedging(spec: &str) -> String {
    format!(
        "---\napiVersion: undermesh.dev/v1alpha1\nkind: RequestPolicy\nmetadata: {{name: h, namespace: default}}\n\
         spec: {{hosts: [echo], hedging: {{{spec}}}}}\n"
    )
}

fn rules(http: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: v, namespace: default}}\n\
         spec: {{hosts: [echo], http: [{http}]}}\n"
    )
}

fn destination(policy: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: d, namespace: default}}\n\
         spec: {{host: echo, trafficPolicy: {{{policy}}}}}\n"
    )
}

#[tokio::test]
async fn a_hedge_overtakes_a_slow_endpoint() {
    let (slow, saw) = answering("slow", 200, None).await;
    let (fast, answered) = answering("fast", 200, Some(Duration::ZERO)).await;
    let agent = Agent::yaml("grpc", &[slow, fast], &hedging("delay: 50ms, methods: [/a/Safe]"));
    let mut client = agent.http2().await;
    for _ in 0..2 {
        let answer = soon("call", client.call(grpc("/a/Safe"), message(b"x"))).await.unwrap();
        assert_eq!(answer.head.headers()["x-endpoint"], "fast");
    }
    saw.has_cancelled(1).await;
    assert_eq!((saw.attempts(), answered.attempts().len()), (vec!["1".to_owned()], 2));
    assert!(answered.attempts().contains(&"2".to_owned()), "the hedge is the second attempt");
    assert_eq!(agent.metric(&["mesh_hedges_total"]), 1.0);
    assert_eq!(agent.metric(&["istio_requests_total", "response_flags=\"-\""]), 2.0);
    // Attempts are counted at their endpoints; the slow one was not to blame for having been left.
    let ended = |addr: SocketAddr| {
        let row = agent.workers.endpoints().into_iter().find(|row| row.endpoint.addr() == addr).unwrap();
        (row.ended, row.blamed)
    };
    assert_eq!((ended(fast), ended(slow)), ((2, 0), (1, 0)));
}

#[tokio::test]
async fn nothing_is_hedged_that_was_not_declared_safe_or_is_beyond_the_budget() {
    for policy in ["delay: 20ms, methods: [/a/Safe]", "delay: 20ms", "delay: 20ms, methods: [/a/B], budgetPercent: 0"] {
        let (slow, saw) = answering("slow", 200, None).await;
        let (fast, _) = answering("fast", 200, Some(Duration::ZERO)).await;
        let agent = Agent::yaml("grpc", &[slow, fast], &hedging(policy));
        let mut client = agent.http2().await;
        for _ in 0..2 {
            let mut request = grpc("/a/B");
            request.headers_mut().insert("grpc-timeout", "300m".parse().unwrap());
            let _ = soon("call", client.call(request, message(b"x"))).await.unwrap();
        }
        saw.has_cancelled(1).await;
        assert_eq!(agent.metric(&["mesh_hedges_total"]), 0.0, "{policy}");
        assert_eq!(agent.metric(&["istio_requests_total", "response_flags=\"UT\""]), 1.0, "{policy}");
    }
}

/// A body that is longer than what is kept for repeating cannot be sent twice.
#[tokio::test]
async fn nothing_is_hedged_whose_beginning_is_gone() {
    let ((a, saw), (b, also)) = (answering("a", 200, Some(300 * MS)).await, answering("b", 200, Some(300 * MS)).await);
    let agent = Agent::yaml("grpc", &[a, b], &hedging("delay: 50ms, methods: [/a/Safe]"));
    let mut client = agent.http2().await;
    let answer = soon("call", client.call(grpc("/a/Safe"), message(&vec![0; 100 << 10]))).await.unwrap();
    assert_eq!(answer.head.status(), 200);
    assert_eq!(agent.metric(&["mesh_hedges_total"]), 0.0);
    assert_eq!(saw.attempts().len() + also.attempts().len(), 1);
}

/// The first attempt goes on beyond its `perTryTimeout`, and may win after all.
#[tokio::test]
async fn a_try_timeout_can_start_a_hedge_instead_of_ending_its_attempt() {
    let behave = |attempt: &str| (200, (attempt == "1").then_some(300 * MS));
    let ((a, saw), (b, also)) = (by_attempt("a", behave).await, by_attempt("b", behave).await);
    let policies = [
        rules("{route: [{destination: {host: echo}}], retries: {attempts: 1, perTryTimeout: 50ms, retryOn: 5xx}}"),
        hedging("hedgeOnPerTryTimeout: true, methods: [/a/Safe]"),
    ];
    let agent = Agent::yaml("grpc", &[a, b], &policies.concat());
    let mut client = agent.http2().await;
    let began = Instant::now();
    let answer = soon("call", client.call(grpc("/a/Safe"), message(b"x"))).await.unwrap();
    assert_eq!(answer.head.status(), 200);
    assert!(began.elapsed() >= 300 * MS);
    let (first, second) = if saw.attempts() == ["1"] { (saw, also) } else { (also, saw) };
    second.has_cancelled(1).await;
    assert_eq!((first.attempts(), second.attempts()), (vec!["1".to_owned()], vec!["2".to_owned()]));
    assert_eq!(first.cancelled.load(SeqCst), 0);
}

#[tokio::test]
async fn an_answer_that_would_be_repeated_does_not_win() {
    let behave = |attempt: &str| if attempt == "1" { (200, Some(300 * MS)) } else { (503, Some(Duration::ZERO)) };
    let ((a, saw), (b, also)) = (by_attempt("a", behave).await, by_attempt("b", behave).await);
    let policies = [
        rules("{route: [{destination: {host: echo}}], retries: {attempts: 1, retryOn: 5xx}}"),
        hedging("delay: 50ms, methods: [/a/Safe]"),
    ];
    let agent = Agent::yaml("grpc", &[a, b], &policies.concat());
    let mut client = agent.http2().await;
    let answer = soon("call", client.call(grpc("/a/Safe"), message(b"x"))).await.unwrap();
    assert_eq!(answer.head.status(), 200);
    assert_eq!(saw.attempts().len() + also.attempts().len(), 2);
}

/// Where the time of the whole request ends, the endpoint that kept it waiting is to blame.
#[tokio::test]
async fn whole_timeouts_eject() {
    let (slow, saw) = answering("slow", 200, None).await;
    let policies = [
        rules("{route: [{destination: {host: echo}}], timeout: 100ms}"),
        destination("outlierDetection: {consecutive5xxErrors: 1, maxEjectionPercent: 100}"),
    ];
    let agent = Agent::yaml("grpc", &[slow, echo("good").await], &policies.concat());
    let mut client = agent.http2().await;
    for _ in 0..6 {
        let _ = soon("call", client.call(grpc("/a/B"), message(b"x"))).await.unwrap();
    }
    assert_eq!(saw.attempts(), ["1"], "in turn it would be three");
    assert_eq!(agent.metric(&["istio_requests_total", "response_flags=\"UT\""]), 1.0);
}

const BOTH_LIMITS: &str = "{route: [{destination: {host: echo}}], timeout: 350ms, \
    retries: {attempts: 9, perTryTimeout: 100ms, retryOn: 5xx}}";

/// While an attempt's own limit is nearer nobody waits for the request's; after it somebody does.
#[tokio::test]
async fn the_whole_limit_holds_over_attempts_with_limits_of_their_own() {
    let (slow, saw) = answering("slow", 200, None).await;
    let agent = Agent::yaml("grpc", &[slow], &rules(BOTH_LIMITS));
    let mut client = agent.http2().await;
    let _ = soon("call", client.call(grpc("/a/B"), message(b"x"))).await.unwrap();
    let attempts = saw.attempts().len();
    assert!((2..=4).contains(&attempts), "{attempts} in 350 ms of 100 each");
    assert_eq!(agent.metric(&["istio_requests_total", "response_flags=\"UT\""]), 1.0);
}

/// The attempt's limit is met with the head of its answer; the request's goes on over the body.
#[tokio::test]
async fn the_whole_limit_holds_over_an_answers_body() {
    let stalls = endpoint(|_, mut connection| async move {
        let mut held = Vec::new();
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            held.push(respond.send_response(Response::new(()), false).unwrap());
        }
    });
    let agent = Agent::yaml("grpc", &[stalls.await], &rules(BOTH_LIMITS));
    let mut client = agent.http2().await;
    let began = Instant::now();
    assert!(soon("call", client.call(grpc("/a/B"), message(b"x"))).await.is_err(), "its stream is reset");
    assert!(began.elapsed() >= 350 * MS);
    assert_eq!(agent.metric(&["istio_requests_total", "response_flags=\"UT\""]), 1.0);
}

#[tokio::test]
async fn the_meshs_policy_holds_where_no_destination_rule_speaks() {
    let (broken, saw) = answering("broken", 503, Some(Duration::ZERO)).await;
    let mesh = "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata:\n  mesh: |-\n    \
                defaultTrafficPolicy: {outlierDetection: {consecutive5xxErrors: 1, maxEjectionPercent: 100}}\n";
    let agent = Agent::yaml("grpc", &[broken, echo("good").await], mesh);
    let mut client = agent.http2().await;
    for _ in 0..6 {
        let _ = soon("call", client.call(grpc("/a/B"), message(b"x"))).await.unwrap();
    }
    assert_eq!(saw.attempts().len(), 1, "in turn it would be three");
}

/// Retries stay where the hash sends them (SEMANTICS §3), unless the policy says otherwise.
#[tokio::test]
async fn with_a_hash_a_retry_asks_the_same_endpoint() {
    for (previous, hashed, same) in
        [("", true, true), (", retryIgnorePreviousHosts: true", true, false), ("", false, false)]
    {
        let (a, saw) = answering("a", 503, Some(Duration::ZERO)).await;
        let (b, also) = answering("b", 503, Some(Duration::ZERO)).await;
        let retries = format!("{{attempts: 1, retryOn: 5xx, backoff: 1ms{previous}}}");
        let mut policies = rules(&format!("{{route: [{{destination: {{host: echo}}}}], retries: {retries}}}"));
        if hashed {
            policies += &destination("loadBalancer: {consistentHash: {httpHeaderName: x-user}}");
        }
        let agent = Agent::yaml("grpc", &[a, b], &policies);
        let mut client = agent.http2().await;
        let mut request = grpc("/a/B");
        request.headers_mut().insert("x-user", "jason".parse().unwrap());
        let answer = soon("call", client.call(request, message(b"x"))).await.unwrap();
        assert_eq!(answer.head.status(), 503);
        let (one, other) = (saw.attempts().len(), also.attempts().len());
        assert_eq!((one + other, one == 1), (2, !same), "{previous} {hashed}");
    }
}

#[tokio::test]
async fn a_rate_limits_header_fields_are_on_its_429() {
    let policy = "---\napiVersion: undermesh.dev/v1alpha1\nkind: RequestPolicy\nmetadata: {name: r, namespace: default}\n\
                  spec: {hosts: [echo], rateLimit: {maxTokens: 1, fillInterval: 3600s, responseHeaders: {x-limit: '1'}}}\n";
    let agent = Agent::yaml("http", &[echo("a").await], policy);
    let mut client = agent.http2().await;
    let request = || http::Request::get("http://echo.default/").body(()).unwrap();
    let admitted = soon("first", client.call(request(), Bytes::new())).await.unwrap();
    assert_eq!((admitted.head.status(), admitted.head.headers().get("x-limit")), (200.try_into().unwrap(), None));
    let limited = soon("second", client.call(request(), Bytes::new())).await.unwrap();
    assert_eq!((limited.head.status().as_u16(), &*limited.body), (429, &b"local_rate_limited"[..]));
    assert_eq!(limited.head.headers()["x-limit"], "1");
    // The tokens stay while the rule does, and go with it.
    agent.workers.forget_tokens(&agent.shared.snapshot.load());
    assert_eq!(soon("third", client.call(request(), Bytes::new())).await.unwrap().head.status(), 429);
    agent.workers.forget_tokens(&mesh_agent::snapshot::Snapshot::default());
    assert_eq!(soon("fourth", client.call(request(), Bytes::new())).await.unwrap().head.status(), 200);
}

#[tokio::test]
async fn local_errors_are_envoys_text_and_say_more_beside_it() {
    let agent = Agent::yaml(
        "http",
        &[support::refusing()],
        &rules("{route: [{destination: {host: echo}}], retries: {attempts: 0}}"),
    );
    let mut client = agent.http2().await;
    let request = http::Request::get("http://echo.default/").body(()).unwrap();
    let answer = soon("call", client.call(request, Bytes::new())).await.unwrap();
    let text = "upstream connect error or disconnect/reset before headers. reset reason: remote connection failure, \
                transport failure reason: delayed connect error: Connection refused";
    assert_eq!((answer.head.status().as_u16(), std::str::from_utf8(&answer.body).unwrap()), (503, text));
    let error = answer.head.headers()["x-undermesh-error"].to_str().unwrap();
    assert!(error.contains("echo.default.svc.cluster.local:80, endpoint 127.0.0.1:"), "{error}");
    let answer = soon("call", client.call(grpc("/a/B"), message(b"x"))).await.unwrap();
    let said = answer.head.headers()["grpc-message"].to_str().unwrap();
    assert!(said.starts_with(text) && said.contains("endpoint 127.0.0.1:"), "{said}");
    assert!(!answer.head.headers().contains_key("x-undermesh-error"));
}

/// Echoes the request's body and ends with two trailers; keeps the request's fields.
async fn grpc_server() -> (SocketAddr, Arc<Mutex<HeaderMap>>) {
    let got = Arc::new(Mutex::new(HeaderMap::new()));
    let kept = Arc::clone(&got);
    let addr = endpoint(move |_, mut connection| {
        let kept = Arc::clone(&kept);
        async move {
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                *kept.lock().unwrap() = request.headers().clone();
                tokio::spawn(async move {
                    let head = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
                    let mut send = respond.send_response(head, false).unwrap();
                    let mut body = request.into_body();
                    while let Some(Ok(data)) = body.data().await {
                        let _ = body.flow_control().release_capacity(data.len());
                        support::send_all(&mut send, data, false).await;
                    }
                    let mut trailers = trailers("0");
                    trailers.insert("grpc-message", "ok".parse().unwrap());
                    let _ = send.send_trailers(trailers);
                });
            }
        }
    })
    .await;
    (addr, got)
}

/// Asks as a browser does, over HTTP/1.1; the answer's head in lower case and its body, chunks joined.
async fn browser(agent: &Agent, kind: &str, body: &[u8]) -> (String, Vec<u8>) {
    let mut client = TcpStream::connect(agent.addr).await.unwrap();
    let head = format!(
        "POST /a/B HTTP/1.1\r\nHost: echo.default\r\nOrigin: https://shop.example\r\nContent-Type: {kind}\r\nAccept: {kind}\r\n\
         X-Grpc-Web: 1\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    client.write_all(head.as_bytes()).await.unwrap();
    client.write_all(body).await.unwrap();
    let mut answer = Vec::new();
    soon("answer", client.read_to_end(&mut answer)).await.unwrap();
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").expect("a head") + 4;
    let head = String::from_utf8(answer[..end].to_vec()).unwrap().to_ascii_lowercase();
    if !head.contains("transfer-encoding: chunked") {
        return (head, answer[end..].to_vec());
    }
    let (mut rest, mut whole) = (&answer[end..], Vec::new());
    loop {
        let line = rest.windows(2).position(|bytes| bytes == b"\r\n").expect("a chunk's length");
        let length = usize::from_str_radix(std::str::from_utf8(&rest[..line]).unwrap(), 16).unwrap();
        whole.extend_from_slice(&rest[line + 2..][..length]);
        rest = &rest[line + 2 + length + 2..];
        if length == 0 {
            return (head, whole);
        }
    }
}

/// The bytes of PROTOCOL-WEB.md: a message frame, then a frame of trailers with its high bit set.
#[tokio::test]
async fn browsers_reach_grpc_servers() {
    const ALLOW: &str = "corsPolicy: {allowOrigins: [{exact: 'https://shop.example'}], exposeHeaders: [grpc-status]}";
    let request = message(&[1, 2, 3]);
    // In whichever order a map keeps them.
    let lines: [&[u8]; 2] = [b"grpc-status:0\r\ngrpc-message:ok\r\n", b"grpc-message:ok\r\ngrpc-status:0\r\n"];
    let ends = lines.map(|lines| [&request[..], &[0x80, 0, 0, 0, 32], lines].concat());
    for port in ["grpc-web", "grpc"] {
        let (server, got) = grpc_server().await;
        let agent =
            Agent::yaml(port, &[server], &rules(&format!("{{route: [{{destination: {{host: echo}}}}], {ALLOW}}}")));
        let (head, body) = browser(&agent, "application/grpc-web+proto", &request).await;
        assert!(
            head.starts_with("http/1.1 200") && head.contains("content-type: application/grpc-web+proto\r\n"),
            "{head}"
        );
        assert!(head.contains("access-control-allow-origin: https://shop.example\r\n"), "{head}");
        assert!(ends.contains(&body), "{port}: {body:?}");
        {
            let got = got.lock().unwrap();
            assert_eq!(
                (&got["content-type"], &got["te"]),
                (&"application/grpc".parse().unwrap(), &"trailers".parse().unwrap())
            );
            assert!(!got.contains_key("content-length"));
        }
        // [0, 0, 0, 0, 3, 1, 2, 3] as text; each piece of the answer is padded by itself.
        let (head, body) = browser(&agent, "application/grpc-web-text", b"AAAAAAMBAgM=").await;
        assert!(head.contains("content-type: application/grpc-web-text+proto\r\n"), "{head}");
        let text = String::from_utf8(body).unwrap();
        let last = [
            "gAAAACBncnBjLXN0YXR1czowDQpncnBjLW1lc3NhZ2U6b2sNCg==",
            "gAAAACBncnBjLW1lc3NhZ2U6b2sNCmdycGMtc3RhdHVzOjANCg==",
        ];
        assert!(last.map(|last| format!("AAAAAAMBAgM={last}")).contains(&text), "{text}");
        assert_eq!(agent.metric(&["istio_requests_total", "grpc_response_status=\"0\"", "code=\"200\""]), 2.0);
    }
}

/// On other ports the endpoint may speak gRPC-Web itself.
#[tokio::test]
async fn grpc_web_is_left_alone_on_http_ports() {
    let (server, got) = grpc_server().await;
    let agent = Agent::yaml("http2", &[server], "");
    let (_, body) = browser(&agent, "application/grpc-web+proto", &message(b"x")).await;
    assert_eq!(got.lock().unwrap()["content-type"], "application/grpc-web+proto");
    assert_eq!(body, message(b"x"));
}

#[tokio::test]
async fn browsers_understand_local_errors() {
    for (endpoints, rule) in [
        (vec![], "{route: [{destination: {host: echo}}]}"),
        (vec![], "{route: [{destination: {host: echo}}], fault: {abort: {httpStatus: 503, percentage: {value: 100}}}}"),
        (vec![support::refusing()], "{route: [{destination: {host: echo}}], retries: {attempts: 0}}"),
    ] {
        let agent = Agent::yaml("grpc-web", &endpoints, &rules(rule));
        let (head, body) = browser(&agent, "application/grpc-web+proto", &message(b"x")).await;
        assert!(head.starts_with("http/1.1 200") && head.contains("grpc-status: 14\r\n"), "{head}");
        assert!(head.contains("content-type: application/grpc-web+proto\r\n") && body.is_empty(), "{head} {body:?}");
    }
}
