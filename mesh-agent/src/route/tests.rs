use super::*;
use crate::config::resource::ObjectKey;
use crate::snapshot::route::*;
use http::{HeaderName, HeaderValue, Request, StatusCode};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::time::Duration;

fn rule(field: &str) -> RuleRef {
    RuleRef { object: None::<ObjectKey>, field: field.into() }
}

fn backend(host: &str, weight: u32) -> Backend {
    let to = BackendTo::Service(Destination { host: host.into(), port: None, subset: None });
    Backend { weight, to, headers: HeaderOps::default(), mirrors: Vec::new() }
}

fn forward(backends: Vec<Backend>) -> Forward {
    Forward { backends, rewrite: None, timeout: None, retry: None, mirrors: Vec::new(), hedge: None }
}

fn route(name: &str, matcher: Matcher) -> Route {
    Route {
        name: name.into(),
        rule: rule(name),
        conditions: Conditions { gateways: vec![MESH.into()], ..Conditions::default() },
        matcher,
        action: Action::Forward(forward(vec![backend("a", 1)])),
        fault: None,
        cors: None,
        rate_limit: None,
        headers: HeaderOps::default(),
    }
}

fn host(routes: Vec<Route>) -> VirtualHost {
    VirtualHost {
        host: "a".into(),
        family: Family::Istio,
        namespace: "shop".into(),
        export: Visibility::Public,
        ports: Vec::new(),
        routes: routes.into_iter().map(Arc::new).collect(),
    }
}

fn path(path: PathMatch) -> Matcher {
    Matcher { path: Some(path), ..Matcher::default() }
}

fn exact(value: &str) -> PathMatch {
    PathMatch::Exact { value: value.into(), ignore_case: false }
}

fn prefix(value: &str) -> PathMatch {
    PathMatch::Prefix { value: value.into(), ignore_case: false }
}

fn under(value: &str) -> PathMatch {
    PathMatch::SegmentPrefix(value.into())
}

fn header(name: &'static str, value: StringMatch) -> HeaderMatch {
    HeaderMatch { name: HeaderName::from_static(name), value, invert: false }
}

fn is(value: &str) -> StringMatch {
    StringMatch::Exact(value.into())
}

fn like(value: &str) -> StringMatch {
    StringMatch::Regex(Pattern::new(value).unwrap())
}

static NO_LABELS: BTreeMap<Arc<str>, Arc<str>> = BTreeMap::new();

fn facts() -> Facts<'static> {
    Facts { port: 80, client: Client { namespace: "shop", labels: &NO_LABELS }, gateway: MESH }
}

fn get(uri: &str) -> request::Parts {
    Request::get(uri).header("host", "a:80").body(()).unwrap().into_parts().0
}

fn with(uri: &str, headers: &[(&'static str, &str)]) -> request::Parts {
    let mut parts = get(uri);
    for (name, value) in headers {
        parts.headers.append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
    }
    parts
}

fn takes(matcher: Matcher, parts: &request::Parts) -> bool {
    check(&route("r", matcher), &facts(), &Head::of(parts)).is_ok()
}

#[test]
fn paths() {
    let no_case = |value: &str| PathMatch::Prefix { value: value.into(), ignore_case: true };
    let regex = |value: &str| PathMatch::Regex(Pattern::new(value).unwrap());
    for (wanted, uri, want) in [
        (exact("/v2"), "/v2", true),
        (exact("/v2"), "/v2?a=b", true),
        (exact("/v2"), "/v2/", false),
        (exact("/v2"), "/V2", false),
        (PathMatch::Exact { value: "/v2".into(), ignore_case: true }, "/V2", true),
        (prefix("/v2"), "/v2x", true),
        (prefix("/v2"), "/v", false),
        (prefix("/v2?"), "/v2?a", false),
        (no_case("/V2"), "/v2/x", true),
        (under("/v2"), "/v2", true),
        (under("/v2"), "/v2/", true),
        (under("/v2"), "/v2/x", true),
        (under("/v2"), "/v2x", false),
        (under("/v2/"), "/v2", true),
        (under("/"), "/x", true),
        (regex("/v[0-9]+"), "/v22", true),
        (regex("/v[0-9]+"), "/v22?x=1", true),
        (regex("/v[0-9]+"), "/v22/x", false),
        (regex("/v"), "/a/v", false),
    ] {
        assert_eq!(takes(path(wanted.clone()), &get(uri)), want, "{wanted} {uri}");
    }
    assert_eq!(path_of("/a#b?c"), "/a");
    assert_eq!(path_of("/a?b#c"), "/a");
}

#[test]
fn headers_join_and_invert() {
    let one = |wanted: HeaderMatch| Matcher { headers: vec![wanted], ..Matcher::default() };
    let not =
        |wanted: HeaderMatch| Matcher { headers: vec![HeaderMatch { invert: true, ..wanted }], ..Matcher::default() };
    let none = get("/");
    let foo = with("/", &[("x", "foo")]);
    let two = with("/", &[("x", "foo"), ("x", "bar")]);
    for (matcher, want) in [
        (one(header("x", is("foo"))), [false, true, false]),
        (one(header("x", is("foo,bar"))), [false, false, true]),
        (one(header("x", StringMatch::Prefix("foo".into()))), [false, true, true]),
        (one(header("x", StringMatch::Prefix("".into()))), [false, true, true]),
        (one(header("x", like(".*bar"))), [false, false, true]),
        (one(header("x", StringMatch::Present)), [false, true, true]),
        (not(header("x", StringMatch::Present)), [true, false, false]),
        (not(header("x", is("foo"))), [true, false, true]),
        (not(header("x", is(""))), [false, true, true]),
        (not(header("x", like("f.*"))), [true, false, false]),
    ] {
        let got = [&none, &foo, &two].map(|parts| takes(matcher.clone(), parts));
        assert_eq!(got, want, "{matcher:?}");
    }
    let mut bytes = get("/");
    bytes.headers.insert("x", HeaderValue::from_bytes(b"\xff").unwrap());
    assert!(!takes(one(header("x", like(".*"))), &bytes), "RE2 reads UTF-8");
    assert!(takes(one(header("x", StringMatch::Present)), &bytes));
}

#[test]
fn queries_and_pseudo_headers() {
    let query =
        |name: &str, value| Matcher { query: vec![QueryMatch { name: name.into(), value }], ..Matcher::default() };
    for (matcher, uri, want) in [
        (query("a", is("1")), "/?a=1&a=2", true),
        (query("a", is("2")), "/?a=1&a=2", false),
        (query("a", StringMatch::Present), "/?b&a", true),
        (query("a", is("")), "/?a=", true),
        (query("a", StringMatch::Present), "/?aa=1", false),
        (query("a", like("[0-9]+")), "/?x=y&a=42", true),
        (query("a", StringMatch::Present), "/a", false),
        (query("a", is("x%20y")), "/?a=x%20y", true),
        (query("a", is("x=y")), "/?a=x=y", true),
    ] {
        assert_eq!(takes(matcher.clone(), &get(uri)), want, "{matcher:?} {uri}");
    }
    let authority = |value: &str| Matcher { authority: Some(is(value)), ..Matcher::default() };
    assert!(takes(authority("a:80"), &get("/")), "with the port that was sent");
    assert!(!takes(authority("a"), &get("/")));
    assert!(takes(authority("b"), &get("https://b/x")), "an absolute target goes before Host");
    let scheme = |value: &str| Matcher { scheme: Some(is(value)), ..Matcher::default() };
    assert!(takes(scheme("http"), &get("/")) && takes(scheme("https"), &get("https://b/x")));
    let method = |value: &str| Matcher { method: Some(is(value)), ..Matcher::default() };
    assert!(takes(method("GET"), &get("/")) && !takes(method("get"), &get("/")));
}

#[test]
fn the_first_that_holds_wins_and_the_others_say_why_not() {
    let labels = BTreeMap::from([("app".into(), "web".into())]);
    let client = Client { namespace: "shop", labels: &labels };
    let facts = Facts { client, ..facts() };
    let parts = with("/v1/x?q=1", &[("user", "burr")]);
    let head = Head::of(&parts);
    let mut by_port = route("port", Matcher::default());
    by_port.conditions.port = Some(81);
    let mut by_gateway = route("gateway", Matcher::default());
    by_gateway.conditions.gateways = vec!["infra/edge".into()];
    let mut by_namespace = route("namespace", Matcher::default());
    by_namespace.conditions.source_namespace = Some("prod".into());
    let mut by_label = route("label", Matcher::default());
    by_label.conditions.source_labels = vec![("app".into(), "web".into()), ("version".into(), "v2".into())];
    let by_path = route("path", path(exact("/v2")));
    let by_header = route("header", Matcher { headers: vec![header("user", is("jason"))], ..Matcher::default() });
    let missing = HeaderMatch { invert: true, ..header("none", is("")) };
    let by_absence = route("absence", Matcher { headers: vec![missing], ..Matcher::default() });
    let query = QueryMatch { name: "q".into(), value: like("[a-z]") };
    let by_query = route("query", Matcher { query: vec![query], ..Matcher::default() });
    let all = [by_port, by_gateway, by_namespace, by_label, by_path, by_header, by_absence, by_query];
    let why: Vec<String> = all.iter().map(|r| check(r, &facts, &head).unwrap_err().to_string()).collect();
    assert_eq!(
        why,
        [
            "port 80 is not 81",
            "gateway mesh is not among infra/edge",
            "source namespace shop is not prod",
            "the source has no label version=v2",
            "path /v1/x is not exactly /v2",
            "header user: burr is not exactly jason",
            "header none is missing, which is exactly ",
            "query parameter q=1 is not like [a-z]",
        ]
    );
    let mut routes: Vec<Route> = all.into_iter().collect();
    assert!(find(&host(Vec::new()), &facts, &head).is_none());
    routes.extend([route("first", path(prefix("/v1"))), route("second", Matcher::default())]);
    assert_eq!(&*find(&host(routes), &facts, &head).unwrap().name, "first");
    let json = serde_json::to_value(check(&route("r", path(exact("/v2"))), &facts, &head).unwrap_err()).unwrap();
    assert_eq!(json["condition"], "path");
}

#[test]
fn paths_are_rewritten() {
    let naive = |to: &str| PathRewrite::Prefix(to.into());
    let segments = |to: &str| PathRewrite::SegmentPrefix(to.into());
    let full = |to: &str| PathRewrite::Full(to.into());
    let regex = |pattern: &str, to: &str| PathRewrite::Regex {
        pattern: Pattern::new_unanchored(pattern).unwrap(),
        replacement: to.into(),
    };
    let like = |pattern: &str| PathMatch::Regex(Pattern::new(pattern).unwrap());
    for (rewrite, matched, target, want) in [
        (naive("/"), Some(prefix("/foo")), "/foo/bar", "//bar"),
        (naive("/v2"), Some(prefix("/foo")), "/foo/bar?a=/foo", "/v2/bar?a=/foo"),
        (naive("/v2"), Some(exact("/foo")), "/foo?a", "/v2?a"),
        (naive("/v2"), Some(like("/f.*")), "/foo/bar?a", "/v2?a"),
        (naive("/v2"), None, "/foo", "/v2foo"),
        (naive("/x"), Some(PathMatch::Prefix { value: "/FOO".into(), ignore_case: true }), "/foo/a", "/x/a"),
        (segments("/xyz"), Some(under("/foo")), "/foo/bar", "/xyz/bar"),
        (segments("/xyz/"), Some(under("/foo")), "/foo/bar", "/xyz/bar"),
        (segments("/xyz"), Some(under("/foo/")), "/foo/bar", "/xyz/bar"),
        (segments("/xyz"), Some(under("/foo")), "/foo", "/xyz"),
        (segments("/xyz"), Some(under("/foo")), "/foo/", "/xyz/"),
        (segments("/"), Some(under("/foo")), "/foo/bar?q", "/bar?q"),
        (segments("/"), Some(under("/foo")), "/foo", "/"),
        (segments(""), Some(under("/foo")), "/foo/", "/"),
        (segments("/xyz"), Some(under("/")), "/foo", "/xyz/foo"),
        (segments("/xyz"), None, "/foo", "/xyz/foo"),
        (full("/one"), Some(prefix("/")), "/a/b?c=d", "/one?c=d"),
        (full("/one?x=1"), None, "/a?c=d", "/one?x=1"),
        (regex("^/service/([^/]+)(/.*)$", r"\2/instance/\1"), None, "/service/foo/v1/api?q", "/v1/api/instance/foo?q"),
        (regex("o", "0"), None, "/foo?foo", "/f00?foo"),
        (regex("x", "0"), None, "/foo", "/foo"),
        (regex("^/", ""), None, "/foo", "/foo"),
        (naive("/ä b"), Some(prefix("/foo")), "/foo", "/%C3%A4%20b"),
    ] {
        assert_eq!(rewrite::path(&rewrite, matched.as_ref(), target), want, "{rewrite:?} {target}");
    }
}

fn change(set: &[(&'static str, &str)], add: &[(&'static str, &str)], remove: &[&'static str]) -> Arc<HeaderChange> {
    let pairs = |pairs: &[(&'static str, &str)]| {
        pairs.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_str(v).unwrap())).collect()
    };
    let remove = remove.iter().map(|name| HeaderName::from_static(name)).collect();
    Arc::new(HeaderChange { remove, set: pairs(set), add: pairs(add), authority: None })
}

fn values<'h>(headers: &'h HeaderMap, name: &str) -> Vec<&'h str> {
    headers.get_all(name).iter().map(|v| v.to_str().unwrap()).collect()
}

#[test]
fn header_operations_keep_envoys_order() {
    let mut by_route = route("r", Matcher::default());
    by_route.headers.request = Some(change(&[("x", "route")], &[("y", "route")], &["gone"]));
    by_route.headers.response = Some(change(&[("z", "route")], &[], &[]));
    let mut of_backend = backend("a", 1);
    of_backend.headers.request = Some(change(&[("x", "backend")], &[("y", "backend")], &["y"]));
    let run = |forward: &Forward| {
        let mut parts = with("/", &[("gone", "1"), ("y", "client")]);
        rewrite::request(&mut parts, &by_route, forward, &forward.backends[0]).unwrap();
        parts.headers
    };
    // One destination: removals first, then the route's values, then the destination's.
    let single = run(&forward(vec![of_backend.clone()]));
    assert_eq!((values(&single, "x"), values(&single, "y")), (vec!["backend"], vec!["route", "backend"]));
    assert!(!single.contains_key("gone"));
    // Several: the weighted cluster's first, then the route's.
    let weighted = run(&forward(vec![of_backend, backend("b", 1)]));
    assert_eq!((values(&weighted, "x"), values(&weighted, "y")), (vec!["route"], vec!["backend", "route"]));
    let mut fields = HeaderMap::new();
    rewrite::response(&mut fields, &by_route, None);
    assert_eq!(values(&fields, "z"), ["route"]);
}

#[test]
fn authority_and_original_path() {
    let mut by_route = route("r", path(prefix("/foo")));
    by_route.headers.request =
        Some(Arc::new(HeaderChange { authority: Some("by.header".into()), ..HeaderChange::default() }));
    let rewritten = |authority: Option<&str>| Forward {
        rewrite: Some(Rewrite { path: Some(PathRewrite::Prefix("/bar".into())), authority: authority.map(Arc::from) }),
        ..forward(vec![backend("a", 1)])
    };
    let run = |mut parts: request::Parts, forward: &Forward| {
        rewrite::request(&mut parts, &by_route, forward, &forward.backends[0]).unwrap();
        parts
    };
    let h1 = run(get("/foo/x?q=1"), &rewritten(Some("by.rewrite")));
    assert_eq!((values(&h1.headers, "host"), h1.uri.to_string()), (vec!["by.rewrite"], "/bar/x?q=1".to_owned()));
    assert_eq!(values(&h1.headers, "x-envoy-original-path"), ["/foo/x?q=1"]);
    let h2 = run(get("http://a:80/foo"), &rewritten(None));
    assert_eq!(h2.uri.to_string(), "http://by.header/bar");
    let mut bad = get("/foo");
    let broken = rewritten(Some("b a d"));
    assert!(rewrite::request(&mut bad, &by_route, &broken, &broken.backends[0]).is_err());
}

#[test]
fn redirects_say_where_to() {
    let base = Redirect {
        status: StatusCode::MOVED_PERMANENTLY,
        scheme: None,
        authority: None,
        port: RedirectPort::Keep,
        path: None,
    };
    let https = Redirect { scheme: Some("https".into()), ..base.clone() };
    let to = |host: &str| Redirect { authority: Some(host.into()), ..base.clone() };
    let port = |port| Redirect { port, ..base.clone() };
    let full = |path: &str| Redirect { path: Some(PathRewrite::Full(path.into())), ..base.clone() };
    let prefixed = Redirect { path: Some(PathRewrite::Prefix("/v2".into())), ..base.clone() };
    for (redirect, uri, want) in [
        (base.clone(), "http://a:8080/x?q", "http://a:8080/x?q"),
        (https.clone(), "http://a:80/x", "https://a/x"),
        (https.clone(), "http://a:8080/x", "https://a:8080/x"),
        (Redirect { port: RedirectPort::FromScheme, ..https }, "http://a:8080/x", "https://a/x"),
        (to("b"), "http://a:8080/x", "http://b/x"),
        (port(RedirectPort::Number(8443)), "http://a:8080/x", "http://a:8443/x"),
        (port(RedirectPort::Number(80)), "http://a:8080/x", "http://a/x"),
        (port(RedirectPort::FromRequest), "http://a/x", "http://a:9080/x"),
        (full("/new"), "http://a/x?q=1", "http://a/new?q=1"),
        (full("/new?z=1"), "http://a/x?q=1", "http://a/new?z=1"),
        (prefixed, "http://a/v1/x?q", "http://a/v2/x?q"),
        (base.clone(), "http://[::1]:80/x", "http://[::1]:80/x"),
    ] {
        let parts = get(uri);
        let facts = Facts { port: 9080, ..facts() };
        let got = redirect::location(&redirect, Some(&prefix("/v1")), &facts, &Head::of(&parts));
        assert_eq!(got.unwrap(), want, "{redirect:?} {uri}");
    }
}

fn cors() -> Cors {
    Cors {
        allow_origins: vec![is("https://a.com"), like(r"https://.*\.b\.com")],
        allow_methods: Some(HeaderValue::from_static("GET,POST")),
        allow_headers: Some(HeaderValue::from_static("x-a")),
        allow_any_header: false,
        expose_headers: Some(HeaderValue::from_static("x-b")),
        max_age: Some(Duration::from_secs(3600)),
        allow_credentials: true,
        forward_unmatched_preflights: true,
    }
}

#[test]
fn cors_answers_preflights_and_opens_responses() {
    let preflight = |origin: &str, method: &str| {
        let mut parts = with("/", &[("origin", origin), ("access-control-request-method", "PUT")]);
        parts.method = method.parse().unwrap();
        parts.headers.insert("access-control-request-headers", HeaderValue::from_static("x-c"));
        parts
    };
    let asked = preflight("https://x.b.com", "OPTIONS");
    let fields = cors::preflight(&cors(), &Head::of(&asked)).unwrap();
    for (name, want) in [
        ("access-control-allow-origin", "https://x.b.com"),
        ("access-control-allow-methods", "GET,POST"),
        ("access-control-allow-headers", "x-a"),
        ("access-control-max-age", "3600"),
        ("access-control-allow-credentials", "true"),
    ] {
        assert_eq!(values(&fields, name), [want], "{name}");
    }
    let any = Cors { allow_any_header: true, ..cors() };
    assert_eq!(values(&cors::preflight(&any, &Head::of(&asked)).unwrap(), "access-control-allow-headers"), ["x-c"]);
    let stranger = preflight("https://evil.com", "OPTIONS");
    assert_eq!(cors::preflight(&cors(), &Head::of(&stranger)), None, "goes to the endpoint");
    let ignore = Cors { forward_unmatched_preflights: false, ..cors() };
    let refused = cors::preflight(&ignore, &Head::of(&stranger)).unwrap();
    assert!(!refused.contains_key("access-control-allow-origin"), "answered without permission");
    assert_eq!(values(&refused, "access-control-allow-methods"), ["GET,POST"], "as Envoy 1.40 does");
    assert_eq!(cors::preflight(&cors(), &Head::of(&preflight("https://a.com", "GET"))), None);

    let origin = cors::allowed_origin(&cors(), &asked.headers).unwrap();
    let mut response = HeaderMap::new();
    response.insert("access-control-allow-origin", HeaderValue::from_static("*"));
    cors::response(&cors(), origin, &mut response);
    assert_eq!(values(&response, "access-control-allow-origin"), ["https://x.b.com"], "overwrites");
    assert_eq!(values(&response, "access-control-expose-headers"), ["x-b"]);
    assert_eq!(cors::allowed_origin(&cors(), &stranger.headers), None);
    let everybody = Cors { allow_origins: vec![is("*")], ..cors() };
    assert!(cors::allowed_origin(&everybody, &stranger.headers).is_some());
}

/// 100,000 draws: a share lies within 5 standard deviations (a false alarm in 1.7 million runs; the seed is fixed anyway).
#[test]
fn weights_are_kept() {
    let mut rng = fastrand::Rng::with_seed(7);
    let draws = 100_000_u32;
    let near = |count: u32, share: f64| {
        let deviation = (f64::from(draws) * share * (1.0 - share)).sqrt();
        (f64::from(count) - f64::from(draws) * share).abs() <= 5.0 * deviation
    };
    let split = forward(vec![backend("a", 80), backend("b", 15), backend("c", 5)]);
    let mut counts = BTreeMap::<String, u32>::new();
    for _ in 0..draws {
        let chosen = split::backend(&split, &mut rng).unwrap();
        let BackendTo::Service(to) = &chosen.to else { unreachable!() };
        *counts.entry(to.host.to_string()).or_default() += 1;
    }
    assert!(near(counts["a"], 0.80) && near(counts["b"], 0.15) && near(counts["c"], 0.05), "{counts:?}");
    assert!(split::backend(&forward(Vec::new()), &mut rng).is_none());

    let to = |host: &str| Destination { host: host.into(), port: None, subset: None };
    let mirror = |host: &str, share| Mirror { to: to(host), share };
    let mirrored = Forward {
        mirrors: vec![mirror("all", 1_000_000), mirror("none", 0), mirror("tenth", 100_000)],
        ..forward(vec![backend("a", 1)])
    };
    let mut counts = BTreeMap::<&str, u32>::new();
    for _ in 0..draws {
        for to in split::mirrors(&mirrored, &mirrored.backends[0], &mut rng) {
            *counts.entry(&to.host).or_default() += 1;
        }
    }
    assert!(counts["all"] == draws && !counts.contains_key("none") && near(counts["tenth"], 0.1), "{counts:?}");
}

fn any_path() -> impl Strategy<Value = String> {
    prop_oneof!["(/[a-z]{0,3}){0,3}(\\?[a-z=&]{0,6})?", "\\PC{0,12}", Just(String::new()), Just("*".to_owned())]
}

fn any_match() -> impl Strategy<Value = Option<PathMatch>> {
    prop_oneof![
        Just(None),
        any_path().prop_map(|t| Some(exact(&t))),
        (any_path(), any::<bool>()).prop_map(|(t, c)| Some(PathMatch::Prefix { value: t.into(), ignore_case: c })),
        any_path().prop_map(|t| Some(under(&t))),
        Just(Some(PathMatch::Regex(Pattern::new("/.*").unwrap()))),
    ]
}

proptest! {
    /// Whatever a rule and a client say, the result is a target that the `http` crate takes.
    #[test]
    fn rewrites_always_make_a_target(target in any_path(), to in "\\PC{0,8}", matched in any_match(), kind in 0..4) {
        let rewrite = match kind {
            0 => PathRewrite::Prefix(to.into()),
            1 => PathRewrite::SegmentPrefix(to.into()),
            2 => PathRewrite::Full(to.into()),
            _ => PathRewrite::Regex { pattern: Pattern::new_unanchored("[a-z]+").unwrap(), replacement: to.into() },
        };
        let rewritten = rewrite::path(&rewrite, matched.as_ref(), &target);
        if rewritten != target {
            prop_assert!(rewritten.starts_with('/') || rewritten == "*");
            prop_assert!(rewritten.parse::<http::uri::PathAndQuery>().is_ok(), "{rewritten}");
        }
    }

    /// A route that takes a request takes it whatever other header fields come in whatever order.
    #[test]
    fn order_of_unrelated_fields_does_not_matter(names in proptest::collection::vec("[b-z]{1,4}", 0..8), at in 0_usize..8) {
        let mut parts = get("/v1");
        for (i, name) in names.iter().enumerate() {
            if i == at {
                parts.headers.append("a", HeaderValue::from_static("1"));
            }
            parts.headers.append(HeaderName::try_from(name).unwrap(), HeaderValue::from_static("x"));
        }
        if at >= names.len() {
            parts.headers.append("a", HeaderValue::from_static("1"));
        }
        let matcher = Matcher { headers: vec![header("a", is("1"))], ..Matcher::default() };
        prop_assert!(takes(matcher, &parts));
    }
}

/// What the `nth` rule wants, out of every kind that a glance knows and some that it does not.
fn nth_matcher(nth: usize) -> Matcher {
    let value = |text: &str| Arc::<str>::from(text);
    let header = |name: &'static str, value, invert| HeaderMatch { name: HeaderName::from_static(name), value, invert };
    let prefix = |text: &str, ignore_case| PathMatch::Prefix { value: value(text), ignore_case };
    let starts = |text: &str| StringMatch::Prefix(value(text));
    let like = |text: &str| Pattern::new(text).unwrap();
    let paths = [
        None,
        Some(PathMatch::Exact { value: value("/a"), ignore_case: false }),
        Some(PathMatch::Exact { value: value("/long/path/9"), ignore_case: false }),
        Some(prefix("/long/pa", false)),
        Some(prefix("/LONG", true)),
        Some(prefix("", false)),
        Some(PathMatch::SegmentPrefix(value("/long/"))),
        Some(PathMatch::Regex(like("/long/pas*.*"))),
    ];
    let headers = [
        vec![],
        vec![header("x-a", starts("v"), false)],
        vec![header("x-b", starts("v"), true), header("x-c", starts("v"), false)],
        vec![header("x-a", StringMatch::Exact(value("v,w")), false)],
        vec![header("x-a", StringMatch::Exact(value("")), false), header("x-b", StringMatch::Present, false)],
        vec![header("x-c", StringMatch::Regex(like("v+,?w*")), false)],
        vec![header("x-c", StringMatch::Regex(like("(?i)V.*")), false)],
    ];
    let headers = headers[nth / paths.len() % headers.len()].clone();
    Matcher { path: paths[nth % paths.len()].clone(), headers, ..Matcher::default() }
}

proptest::proptest! {
    #[test]
    fn a_glance_never_hides_the_route_that_would_be_found(
        rules in proptest::collection::vec(0_usize..56, 0..12),
        path in "(/|/a|/long|/long/path/9|/long/pass|/LONG/x|/longer)(\\?q)?",
        sent in proptest::collection::vec((0_usize..3, "[vw]{0,2}"), 0..3),
    ) {
        let host = host(rules.iter().map(|nth| route("r", nth_matcher(*nth))).collect());
        let mut headers = HeaderMap::new();
        for (name, value) in &sent {
            headers.append(["x-a", "x-b", "x-c"][*name], value.parse().unwrap());
        }
        let head = Head { method: "GET", scheme: "http", authority: "a", target: &path, headers: &headers };
        let one_by_one = host.routes.iter().position(|route| check(route, &facts(), &head).is_ok());
        let found = find(&host, &facts(), &head).map(Arc::as_ptr);
        proptest::prop_assert_eq!(found, one_by_one.map(|nth| Arc::as_ptr(&host.routes[nth])));
    }
}
