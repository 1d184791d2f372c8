//! Routes through the whole path: which rule takes a request, and what its endpoint gets.

mod support;

use bytes::Bytes;
use std::collections::BTreeSet;
use std::sync::Arc;
use support::scripted::Scripted;
use support::{Agent, Client, WEB, Whole, ask, captured, compiled, grpc, message, object, service, soon};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A match, the requests that it takes, and those that it does not.
type Case = (&'static str, &'static [&'static str], &'static [&'static str]);

const MATCHES: &[Case] = &[
    ("uri: {exact: /a}", &["GET /a", "PUT /a?q=1"], &["GET /a/", "GET /A"]),
    ("uri: {prefix: /a}", &["GET /a", "GET /ab"], &["GET /b/a"]),
    ("uri: {regex: '/v[0-9]+'}", &["GET /v12?x"], &["GET /v", "GET /v1/x"]),
    ("uri: {exact: /a}, ignoreUriCase: true", &["GET /A"], &["GET /b"]),
    ("scheme: {exact: http}", &["GET /"], &["GET https://echo.default/"]),
    ("scheme: {prefix: https}", &["GET https://echo.default/"], &["GET /"]),
    ("method: {exact: PUT}", &["PUT /"], &["GET /", "PUTT /"]),
    ("method: {regex: 'P.*T'}", &["PUT /", "POST /"], &["PATCH /"]),
    ("authority: {exact: echo.default}", &["GET /"], &["GET http://echo/", "GET http://echo.default:80/"]),
    ("authority: {regex: 'echo.*:80'}", &["GET http://echo.default:80/"], &["GET /"]),
    ("headers: {x-t: {exact: one}}", &["GET / | x-t: one"], &["GET / | x-t: One", "GET /"]),
    ("headers: {X-T: {prefix: o}}", &["GET / | x-t: one"], &["GET / | x-t: two", "GET /"]),
    ("headers: {x-t: {regex: 'a,b'}}", &["GET / | x-t: a | x-t: b"], &["GET / | x-t: a", "GET /"]),
    ("headers: {x-t: {}}", &["GET / | x-t: any"], &["GET /"]),
    ("withoutHeaders: {x-t: {exact: one}}", &["GET /", "GET / | x-t: two"], &["GET / | x-t: one"]),
    ("withoutHeaders: {x-t: {}}", &["GET /"], &["GET / | x-t: any"]),
    ("queryParams: {v: {exact: '1'}}", &["GET /?v=1", "GET /?x&v=1&v=2"], &["GET /?v=2&v=1", "GET /"]),
    ("queryParams: {v: {prefix: a}}", &["GET /?v=abc"], &["GET /?v=b", "GET /"]),
    ("queryParams: {v: {regex: '[a-z]+'}}", &["GET /?v=abc"], &["GET /?v=a1", "GET /"]),
    ("queryParams: {v: {}}", &["GET /?v", "GET /?v=1"], &["GET /?vv=1", "GET /"]),
    ("port: 80", &["GET /"], &[]),
    ("port: 81", &[], &["GET /"]),
    ("gateways: [mesh]", &["GET /"], &[]),
    ("gateways: [edge]", &[], &["GET /"]),
    ("sourceNamespace: shop", &["GET /"], &[]),
    ("sourceNamespace: default", &[], &["GET /"]),
    ("sourceLabels: {app: web, tier: front}", &["GET /"], &[]),
    ("sourceLabels: {app: web, tier: back}", &[], &["GET /"]),
    // All of one match, any of several.
    ("uri: {prefix: /a}, method: {exact: PUT}", &["PUT /a"], &["GET /a", "PUT /b"]),
    ("uri: {exact: /a}}, {method: {exact: PUT}", &["GET /a", "PUT /b"], &["GET /b"]),
];

async fn client(addr: std::net::SocketAddr) -> Client {
    Client::connect(addr, h2::client::Builder::new()).await
}

async fn get(client: &mut Client, what: &str) -> Whole {
    soon(what, client.call(ask(what), Bytes::new())).await.unwrap()
}

#[tokio::test]
async fn every_kind_of_match_takes_what_it_should_and_nothing_else() {
    let world = |generation, case: &str| {
        let rules = format!(
            "{{hosts: [echo], http: [{{match: [{{{case}}}], directResponse: {{status: 299}}}}, {{directResponse: {{status: 298}}}}]}}"
        );
        let mut snapshot = compiled("http", &[], &format!("{WEB}{}", object("VirtualService", "v", &rules)));
        snapshot.generation = generation;
        snapshot
    };
    let agent = Agent::of(world(1, "uri: {exact: /}"), mesh_agent::settings::Settings::default());
    let (addr, _listening) = captured(&agent, "web");
    let mut client = client(addr).await;
    for (generation, (case, takes, leaves)) in (2..).zip(MATCHES) {
        agent.shared.snapshot.store(Arc::new(world(generation, case)));
        for (asks, status) in [(takes, 299), (leaves, 298)] {
            for what in *asks {
                assert_eq!(get(&mut client, what).await.head.status(), status, "{case}: {what}");
            }
        }
    }
}

/// What a request became: status, who answered, and the target that the endpoint saw.
async fn came(client: &mut Client, backends: &[&Scripted], what: &str) -> String {
    let mark = format!("{}-{}", backends.iter().map(|backend| backend.seen().len()).sum::<usize>(), what.len());
    let answer = get(client, &format!("{what} | x-ask: {mark}")).await;
    let who = answer.head.headers().get("x-endpoint").map_or("-", |name| name.to_str().unwrap());
    let saw = backends.iter().flat_map(|backend| backend.seen()).find(|seen| seen.header("x-ask") == mark);
    let target = saw.map_or("-".to_owned(), |seen| {
        format!("{}{}", seen.head.uri().authority().map_or("", |host| host.as_str()), seen.path())
    });
    format!("{} {who} {target}", answer.head.status().as_u16())
}

const HTTP_ROUTE: &str = "
  parentRefs: [{group: '', kind: Service, name: echo}]
  rules:
  - matches: [{path: {type: Exact, value: /exact}}, {path: {type: RegularExpression, value: '/v[0-9]+'}}]
    backendRefs: [{name: a, port: 80}]
  - matches: [{path: {value: /b}, method: PUT}, {headers: [{name: x-t, value: b}]}, {queryParams: [{name: q, value: b}]}]
    backendRefs: [{name: b, port: 80}]
  - matches: [{path: {value: /b}}]
    backendRefs: [{name: a, port: 80}]
  - matches: [{path: {value: /prefix}}]
    filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}]
    backendRefs: [{name: a, port: 80}]
  - matches: [{path: {value: /full}}]
    filters: [{type: URLRewrite, urlRewrite: {hostname: other.example, path: {type: ReplaceFullPath, replaceFullPath: /whole}}}]
    backendRefs: [{name: a, port: 80}]
  - matches: [{path: {value: /moved}}]
    filters: [{type: RequestRedirect, requestRedirect: {hostname: new.example, statusCode: 301}}]
  - matches: [{path: {value: /gone}}]
    backendRefs: [{name: nobody, port: 80}]
  - matches: [{path: {value: /none}}]
    backendRefs: []
  - matches: [{path: {value: /backends}}]
    filters: [{type: RequestHeaderModifier, requestHeaderModifier: {add: [{name: x-t-rule, value: r}]}}]
    backendRefs:
    - {name: a, port: 80, filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-t-backend, value: a}]}}]}
    - name: b
      port: 80
      filters:
      - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-t-backend, value: b}], remove: [x-t-gone]}}
      - {type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-t-answer, value: b}]}}
  - matches: [{path: {value: /short}}]
    timeouts: {request: 100ms}
    backendRefs: [{name: a, port: 80}]
  - matches: [{path: {value: /again}}]
    retry: {codes: [500], attempts: 1, backoff: 1ms}
    backendRefs: [{name: a, port: 80}]
  - matches: [{path: {value: /cors}}]
    filters: [{type: CORS, cors: {allowOrigins: ['https://shop.example'], allowMethods: [PUT]}}]
    backendRefs: [{name: a, port: 80}]
";

#[tokio::test]
async fn an_http_route_of_a_service_does_what_it_says() {
    let (a, b) = (Scripted::start("a").await, Scripted::start("b").await);
    let world = service("a", "http", &[a.addr]) + &service("b", "http", &[b.addr]);
    let agent = Agent::yaml("http", &[], &(world + &object("HTTPRoute", "r", HTTP_ROUTE)));
    let mut client = agent.http2().await;
    for (what, expected) in [
        ("GET /exact", "200 a echo.default/exact"),
        ("GET /exact/", "404 - -"),
        ("GET /v1", "200 a echo.default/v1"),
        ("PUT /b/x", "200 b echo.default/b/x"),
        ("GET /b/x", "200 a echo.default/b/x"),
        ("GET /bb", "404 - -"),
        ("GET / | x-t: b", "200 b echo.default/"),
        ("GET /?q=b", "200 b echo.default/?q=b"),
        ("GET /prefix/x?q=1", "200 a echo.default/x?q=1"),
        ("GET /prefix", "200 a echo.default/"),
        ("GET /full/x?q=1", "200 a other.example/whole?q=1"),
        ("GET /moved", "301 - -"),
        ("GET /gone", "500 - -"),
        ("GET /none", "500 - -"),
        ("GET /short", "200 a echo.default/short"),
        ("GET /short | x-do: hold", "504 - echo.default/short"),
        ("GET /again | x-do: status=500", "200 a echo.default/again"),
        ("GET /short | x-do: status=500", "500 a echo.default/short"),
    ] {
        assert_eq!(came(&mut client, &[&a, &b], what).await, expected, "{what}");
    }
    assert_eq!(get(&mut client, "GET /moved/x?q").await.head.headers()["location"], "http://new.example/moved/x?q");

    // Drawn by weight: both are asked soon.
    let mut answers = BTreeSet::new();
    while answers.len() < 2 {
        let head = get(&mut client, "GET /backends | x-t-gone: 1").await.head;
        let field = |name: &str| head.headers().get(name).map_or("", |value| value.to_str().unwrap()).to_owned();
        answers.insert((field("x-endpoint"), field("x-t-answer")));
    }
    assert_eq!(answers, BTreeSet::from([("a", ""), ("b", "b")].map(|(a, b)| (a.to_owned(), b.to_owned()))));
    for (backend, name, gone) in [(&a, "a", "1"), (&b, "b", "")] {
        let request = backend.seen().into_iter().find(|seen| seen.path() == "/backends").expect("was asked");
        assert_eq!(["x-t-rule", "x-t-backend", "x-t-gone"].map(|field| request.header(field)), ["r", name, gone]);
    }

    let preflight = "OPTIONS /cors | origin: https://shop.example | access-control-request-method: PUT";
    let allowed = get(&mut client, preflight).await;
    assert_eq!(allowed.head.headers()["access-control-allow-origin"], "https://shop.example");
    assert!(a.seen().iter().all(|seen| seen.path() != "/cors"), "a preflight is answered here");
}

const GRPC_ROUTE: &str = "
  parentRefs: [{group: '', kind: Service, name: echo}]
  rules:
  - matches: [{method: {service: shop.Cart, method: Add}}]
    filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-t-answer, value: rule}]}}]
    backendRefs: [{name: a, port: 80}]
  - matches: [{method: {service: shop.Cart}}, {headers: [{name: x-t, value: b}]}]
    backendRefs:
    - {name: b, port: 80, filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-t-backend, value: b}]}}]}
  - matches: [{method: {method: Ping}}, {method: {type: RegularExpression, service: 'shop[.]S.*', method: 'Get.*'}}]
    backendRefs: [{name: a, port: 80}]
";

#[tokio::test]
async fn a_grpc_route_of_a_service_does_what_it_says() {
    let (a, b) = (Scripted::start("a").await, Scripted::start("b").await);
    let world = service("a", "grpc", &[a.addr]) + &service("b", "grpc", &[b.addr]);
    let agent = Agent::yaml("grpc", &[], &(world + &object("GRPCRoute", "r", GRPC_ROUTE)));
    let mut client = agent.http2().await;
    for (path, mark, expected) in [
        ("/shop.Cart/Add", "", "a 0"),
        ("/shop.Cart/Remove", "", "b 0"),
        ("/any.Other/Ping", "", "a 0"),
        ("/shop.Stock/GetAll", "", "a 0"),
        ("/shop.Stock/Put", "", "- 12"),
        ("/shop.Stock/Put", "b", "b 0"),
    ] {
        let mut request = grpc(path);
        request.headers_mut().insert("x-t", mark.parse().unwrap());
        let answer = soon(path, client.call(request, message(b"x"))).await.unwrap();
        let who = answer.head.headers().get("x-endpoint").map_or("-", |name| name.to_str().unwrap());
        let fields = answer.trailers.as_ref().unwrap_or(answer.head.headers());
        assert_eq!(format!("{who} {}", fields["grpc-status"].to_str().unwrap()), expected, "{path} {mark}");
        assert_eq!(answer.head.headers().contains_key("x-t-answer"), path == "/shop.Cart/Add");
    }
    assert!(b.seen().iter().all(|seen| seen.header("x-t-backend") == "b"));
}

/// Of 400 requests a quarter: mean 100, σ 8.7; beyond 5 σ once in 1.7 million runs.
#[tokio::test]
async fn mirrors_get_their_share_and_whole_bodies_and_nobody_waits_for_them() {
    let route = |percent: &str| {
        format!(
            "{{parentRefs: [{{group: '', kind: Service, name: echo}}], rules: [{{backendRefs: [{{name: a, port: 80}}], filters: \
             [{{type: RequestMirror, requestMirror: {{backendRef: {{name: b, port: 80}}, {percent}}}}}]}}]}}"
        )
    };
    let rules = "{hosts: [echo], http: [{route: [{destination: {host: a}}], mirrors: [{destination: {host: b}, percentage: \
                 {value: 25}}, {destination: {host: dead}}]}]}";
    for policy in [
        object("VirtualService", "v", rules),
        object("HTTPRoute", "r", &route("percent: 25")),
        object("HTTPRoute", "r", &route("fraction: {numerator: 1, denominator: 4}")),
    ] {
        let (a, b) = (Scripted::start("a").await, Scripted::start("b").await);
        let world = service("a", "http", &[a.addr]) + &service("b", "http", &[b.addr]);
        let world = world + &service("dead", "http", &[support::refusing()]) + &policy;
        let agent = Agent::yaml("http", &[], &world);
        let mut client = agent.http2().await;
        for _ in 0..400 {
            // Mirrors that never answer change nothing for who asks.
            let answer = soon("call", client.call(ask("POST / | x-do: "), Bytes::from_static(b"body"))).await.unwrap();
            assert_eq!(
                (answer.head.status().as_u16(), &answer.head.headers()["x-endpoint"]),
                (200, &"a".parse().unwrap())
            );
        }
        b.has(57).await;
        assert!(b.seen().len() <= 143, "{}: {policy}", b.seen().len());
        assert_eq!(a.seen().len(), 400);
    }
}

/// A rule's time limit is for answers, not for what an upgrade becomes.
#[tokio::test]
async fn a_websocket_goes_where_its_rule_says_and_outlives_the_rules_timeout() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let chat = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
        assert!(head.starts_with("get /ws/room http/1.1\r\n") && head.contains("x-t-rule: chat\r\n"), "{head}");
        let switch = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        stream.write_all(switch).await.unwrap();
        let (mut read, mut write) = stream.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
    });
    let rules = "{hosts: [echo], http: [{match: [{uri: {prefix: /chat}, headers: {upgrade: {exact: websocket}}}], rewrite: \
                 {uri: /ws}, timeout: 200ms, headers: {request: {set: {x-t-rule: chat}}}, route: [{destination: {host: chat}}]}]}";
    let world = service("chat", "http", &[chat]) + &object("VirtualService", "v", rules);
    let agent = Agent::yaml("http", &[], &world);
    let mut client = TcpStream::connect(agent.addr).await.unwrap();
    let ask = b"GET /chat/room HTTP/1.1\r\nHost: echo.default\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    client.write_all(ask).await.unwrap();
    let mut head = Vec::new();
    soon("101", async {
        while !head.ends_with(b"\r\n\r\n") {
            head.push(client.read_u8().await.unwrap());
        }
    })
    .await;
    assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
    for _ in 0..4 {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        client.write_all(b"frames").await.unwrap();
        let mut back = [0; 6];
        soon("echo", client.read_exact(&mut back)).await.unwrap();
        assert_eq!(&back, b"frames");
    }
}

/// The client's protocol goes on by default; `h2UpgradePolicy: UPGRADE` makes it HTTP/2 (SEMANTICS §5, §7).
#[tokio::test]
async fn an_upgrade_policy_decides_what_endpoints_are_spoken_to_in() {
    let ask = b"GET / HTTP/1.1\r\nHost: echo.default\r\nConnection: close\r\n\r\n";
    for (policy, understood) in [("DO_NOT_UPGRADE", 0), ("UPGRADE", 1)] {
        // Speaks HTTP/2 only.
        let a = Scripted::start("a").await;
        let rule =
            format!("{{host: echo, trafficPolicy: {{connectionPool: {{http: {{h2UpgradePolicy: {policy}}}}}}}}}");
        let agent = Agent::yaml("http", &[a.addr], &object("DestinationRule", "d", &rule));
        let mut client = TcpStream::connect(agent.addr).await.unwrap();
        client.write_all(ask).await.unwrap();
        let mut answer = String::new();
        soon(policy, client.read_to_string(&mut answer)).await.unwrap();
        assert_eq!(a.seen().len(), understood, "{policy}: {answer}");
        assert_eq!(answer.starts_with("HTTP/1.1 200"), understood == 1, "{policy}: {answer}");
    }
}
