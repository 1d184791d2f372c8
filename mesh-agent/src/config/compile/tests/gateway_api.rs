//! HTTPRoutes, GRPCRoutes and ReferenceGrants → decisions (SEMANTICS §11).

use super::routes::seen;
use super::*;
use crate::route::{Facts, Head, find};
use crate::snapshot::Client;
use crate::snapshot::route::{
    Action, Backend, BackendTo, Family, Forward, MESH, Mirror, PathRewrite, RedirectPort, RetryOn, Route, StringMatch,
};
use http::{HeaderMap, HeaderName, HeaderValue};
use std::time::Duration;

fn object(kind: &str, namespace: &str, name: &str, spec: &str) -> String {
    let version = if kind == "ReferenceGrant" { "v1beta1" } else { "v1" };
    format!(
        "---\napiVersion: gateway.networking.k8s.io/{version}\nkind: {kind}\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec:\n{spec}\n"
    )
}

/// A route of namespace shop for all ports of Service shop/cart.
fn cart_route(name: &str, rules: &str) -> String {
    let spec = format!("  parentRefs: [{{group: '', kind: Service, name: cart}}]\n  rules:\n{rules}");
    object("HTTPRoute", "shop", name, &spec)
}

fn service(namespace: &str, name: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {{clusterIP: None, ports: [{{name: http, port: 80}}, {{name: http-2, port: 81}}]}}\n"
    )
}

fn services() -> String {
    ["cart", "v1", "v2"].map(|name| service("shop", name)).concat() + &service("other", "far")
}

/// Diagnostics about objects of the Gateway API only.
fn world(yaml: &str) -> (Arc<Snapshot>, Vec<String>) {
    let (snapshot, diagnostics) = compile(settings(), resources(&(services() + yaml)));
    let ours = |d: &&Diagnostic| d.object.as_ref().is_some_and(|key| key.kind.is_traffic());
    (snapshot, diagnostics.iter().filter(ours).map(ToString::to_string).collect())
}

struct Ask<'a> {
    namespace: &'a str,
    port: u16,
    method: &'a str,
    target: &'a str,
    headers: &'a [(&'a str, &'a str)],
}

const GET: Ask<'_> = Ask { namespace: "shop", port: 80, method: "GET", target: "/", headers: &[] };

/// The route that takes a request to shop/cart; `Err` where nobody speaks about the port.
fn decide(snapshot: &Snapshot, ask: &Ask<'_>) -> Result<Option<Arc<Route>>, ()> {
    let mut headers = HeaderMap::new();
    for (name, value) in ask.headers {
        headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap());
    }
    let labels = BTreeMap::new();
    let client = Client { namespace: ask.namespace, labels: &labels };
    let host = snapshot.virtual_host(&client, "cart.shop.svc.cluster.local", ask.port).ok_or(())?;
    assert_eq!(host.family, Family::GatewayApi);
    let head = Head { method: ask.method, scheme: "http", authority: "cart", target: ask.target, headers: &headers };
    Ok(find(host, &Facts { port: ask.port, client, gateway: MESH }, &head).cloned())
}

fn forward(route: &Route) -> &Forward {
    match &route.action {
        Action::Forward(forward) => forward,
        other => panic!("not forwarded: {other:?}"),
    }
}

/// `v1.shop:80=90`, `RefNotPermitted 500=10`
fn backends(route: &Route) -> Vec<String> {
    let one = |b: &Backend| match &b.to {
        BackendTo::Service(to) => {
            let host = to.host.trim_end_matches(".svc.cluster.local");
            format!("{host}:{}={}", to.port.unwrap_or_default(), b.weight)
        }
        BackendTo::Refused { status, why } => format!("{why} {}={}", status.as_u16(), b.weight),
    };
    forward(route).backends.iter().map(one).collect()
}

fn taken(snapshot: &Snapshot, ask: &Ask<'_>) -> String {
    match decide(snapshot, ask) {
        Err(()) => "default".into(),
        Ok(None) => "404".into(),
        Ok(Some(route)) => route.rule.field.to_string(),
    }
}

#[test]
fn precedence_is_the_apis_whatever_the_order_written() {
    let rule = |matches: &str| format!("  - matches: [{matches}]\n    backendRefs: [{{name: v1, port: 80}}]\n");
    let rules = [
        "{path: {type: RegularExpression, value: '/r.*'}}",
        "{path: {value: /a}}",
        "{path: {value: /a/b}}",
        "{path: {type: Exact, value: /a/b}}",
        "{path: {value: /a/b}, method: POST}",
        "{path: {value: /a/b}, headers: [{name: x, value: '1'}]}",
        "{path: {value: /a/b}, headers: [{name: x, value: '1'}], queryParams: [{name: q, value: '1'}]}",
        "{path: {value: /a/b}, queryParams: [{name: q, value: '1'}]}",
        "{path: {value: /a/b/}, headers: [{name: x, type: RegularExpression, value: '2.*'}]}",
    ];
    let (snapshot, diagnostics) = world(&cart_route("r", &rules.map(rule).concat()));
    assert_eq!(diagnostics, [""; 0]);
    let one = [("x", "1")];
    for (target, method, headers, want) in [
        ("/a", "GET", &[][..], 1),
        ("/a/", "GET", &[], 1),
        ("/a/bc", "GET", &[], 1),
        ("/a/b", "GET", &one, 3),
        ("/a/b/c", "GET", &[], 2),
        ("/a/b/c", "POST", &one, 4),
        ("/a/b/c", "GET", &one, 5),
        ("/a/b/c?q=1", "GET", &one, 6),
        ("/a/b/c?q=1", "GET", &[], 7),
        ("/a/b/c", "GET", &[("X", "23")], 8),
        ("/rest", "GET", &[], 0),
    ] {
        let got = taken(&snapshot, &Ask { target, method, headers, ..GET });
        assert_eq!(got, format!("spec.rules[{want}].matches[0]"), "{method} {target} {headers:?}");
    }
    assert_eq!(taken(&snapshot, &Ask { target: "/other", ..GET }), "404", "the route replaces the default");
    assert_eq!(taken(&snapshot, &Ask { target: "/ab", ..GET }), "404", "a prefix is of whole segments");
}

#[test]
fn equal_matches_go_by_age_then_name() {
    let aged = |name: &str, at: &str, backend: &str| {
        cart_route(name, &format!("  - backendRefs: [{{name: {backend}, port: 80}}]\n"))
            .replace("namespace: shop}", &format!("namespace: shop, creationTimestamp: {at}}}"))
    };
    let (one, two) = ("'2026-01-01T00:00:00Z'", "'2026-01-02T00:00:00Z'");
    for (yaml, want) in [
        (aged("a", two, "v1") + &aged("b", one, "v2"), "v2.shop:80=1"),
        (aged("a", one, "v1") + &aged("b", one, "v2"), "v1.shop:80=1"),
        (aged("a", "null", "v1") + &aged("b", one, "v2"), "v2.shop:80=1"),
    ] {
        let (snapshot, _) = world(&yaml);
        assert_eq!(backends(&decide(&snapshot, &GET).unwrap().unwrap()), [want]);
    }
}

#[test]
fn a_consumers_route_beats_the_producers_for_its_own_clients() {
    let to = |namespace: &str, port: &str, backend: &str| {
        let spec = format!(
            "  parentRefs: [{{group: '', kind: Service, name: cart, namespace: shop{port}}}]\n  rules: [{{backendRefs: [{{name: {backend}, port: 80}}]}}]"
        );
        object("HTTPRoute", namespace, "r", &spec)
    };
    let (snapshot, diagnostics) = world(&(to("shop", "", "v1") + &to("other", ", port: 80", "far")));
    assert_eq!(diagnostics, [""; 0]);
    let got = |namespace, port| {
        let route = decide(&snapshot, &Ask { namespace, port, ..GET }).unwrap().unwrap();
        backends(&route).concat()
    };
    assert_eq!(got("shop", 80), "v1.shop:80=1");
    assert_eq!(got("third", 80), "v1.shop:80=1");
    assert_eq!(got("other", 80), "far.other:80=1");
    assert_eq!(got("other", 81), "v1.shop:80=1", "the consumer speaks for port 80 only");
}

#[test]
fn a_route_of_one_port_leaves_the_others_to_the_default() {
    let spec = "  parentRefs: [{group: '', kind: Service, name: cart, port: 80}, {group: '', kind: Service, name: cart, port: 82}]\n  rules: [{matches: [{path: {value: /a}}], backendRefs: [{name: v1, port: 80}]}]";
    let (snapshot, diagnostics) = world(&object("HTTPRoute", "shop", "r", spec));
    assert_eq!(diagnostics.len(), 1);
    assert!(diagnostics[0].contains("IST0101") && diagnostics[0].contains("parentRefs[1]"), "{diagnostics:?}");
    assert_eq!(taken(&snapshot, &Ask { target: "/a", ..GET }), "spec.rules[0].matches[0]");
    assert_eq!(taken(&snapshot, &GET), "404");
    assert_eq!(taken(&snapshot, &Ask { port: 81, ..GET }), "default");
}

#[test]
fn backends_and_what_becomes_of_bad_ones() {
    for (refs, want, said) in [
        (
            "[{name: v1, port: 80, weight: 90}, {name: v2, port: 81, weight: 10}]",
            &["v1.shop:80=90", "v2.shop:81=10"][..],
            "",
        ),
        ("[{name: v1, port: 80}, {name: v2, port: 80, weight: 0}]", &["v1.shop:80=1"], ""),
        ("[{name: v1, port: 80, weight: 0}]", &[], "weight 0"),
        ("[]", &[], "no backendRefs"),
        (
            "[{name: v1, port: 80}, {name: far, namespace: other, port: 80}]",
            &["v1.shop:80=1", "RefNotPermitted 500=1"],
            "UM0401",
        ),
        ("[{name: gone, port: 80}]", &["gone.shop:80=1"], "there is no Service shop/gone"),
        ("[{name: v1, port: 99}]", &["v1.shop:99=1"], "no TCP port 99"),
        ("[{name: v1}]", &["BackendNotFound 500=1"], "no port"),
        ("[{group: x, kind: Bucket, name: v1, port: 80}]", &["InvalidKind 500=1"], "Bucket"),
        ("[{group: networking.istio.io, kind: Hostname, name: Example.com, port: 443}]", &["example.com:443=1"], ""),
        (
            "[{name: v1, port: 80, filters: [{type: URLRewrite, urlRewrite: {hostname: h}}]}]",
            &["UnsupportedValue 500=1"],
            "UM0403",
        ),
    ] {
        let (snapshot, diagnostics) = world(&cart_route("r", &format!("  - backendRefs: {refs}\n")));
        assert_eq!(backends(&decide(&snapshot, &GET).unwrap().unwrap()), want, "{refs}");
        assert_eq!(diagnostics.is_empty(), said.is_empty(), "{refs} {diagnostics:?}");
        assert!(diagnostics.iter().all(|d| d.contains(said)), "{refs} {diagnostics:?}");
    }
}

#[test]
fn a_grant_lets_a_reference_out_and_its_end_shuts_it_in() {
    let route = cart_route("r", "  - backendRefs: [{name: far, namespace: other, port: 80}]\n");
    for (from, to, open) in [
        ("HTTPRoute, namespace: shop", "kind: Service", true),
        ("HTTPRoute, namespace: shop", "kind: Service, name: far", true),
        ("HTTPRoute, namespace: shop", "kind: Service, name: near", false),
        ("HTTPRoute, namespace: shop", "kind: Secret", false),
        ("GRPCRoute, namespace: shop", "kind: Service", false),
        ("HTTPRoute, namespace: third", "kind: Service", false),
    ] {
        let spec = format!("  from: [{{group: gateway.networking.k8s.io, kind: {from}}}]\n  to: [{{group: '', {to}}}]");
        let grant = object("ReferenceGrant", "other", "g", &spec);
        let want = |open: bool| [if open { "far.other:80=1" } else { "RefNotPermitted 500=1" }];
        let (snapshot, diagnostics) = world(&(route.clone() + &grant));
        assert_eq!(backends(&decide(&snapshot, &GET).unwrap().unwrap()), want(open), "{from} {to}");
        assert_eq!(diagnostics.is_empty(), open, "{diagnostics:?}");

        let mut compiler = Compiler::new(settings());
        let upsert = |yaml: &str| Changes { upserts: resources(yaml), ..Changes::default() };
        compiler.apply(upsert(&(services() + &route)));
        let update = compiler.apply(upsert(&grant));
        assert_eq!(update.is_change(), open);
        assert_eq!(backends(&decide(&update.snapshot, &GET).unwrap().unwrap()), want(open));
        let key = ObjectKey::new(Kind::ReferenceGrant, "other", "g");
        let update = compiler.apply(Changes { deletes: vec![key], ..Changes::default() });
        assert_eq!(backends(&decide(&update.snapshot, &GET).unwrap().unwrap()), want(false));
    }
}

#[test]
fn filters_are_carried_out_or_the_rule_answers_500() {
    let backend = "backendRefs: [{name: v1, port: 80, filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-b, value: b}]}}]}]";
    let rule = |filters: &str| {
        let (snapshot, diagnostics) = world(&cart_route("r", &format!("  - filters: [{filters}]\n    {backend}\n")));
        (decide(&snapshot, &GET).unwrap().unwrap(), diagnostics)
    };
    let (route, diagnostics) = rule(
        "{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: Host, value: h}, {name: a, value: '1'}], add: [{name: b, value: '2'}], remove: [c]}}, {type: URLRewrite, urlRewrite: {hostname: new, path: {type: ReplacePrefixMatch, replacePrefixMatch: /x}}}, {type: RequestMirror, requestMirror: {backendRef: {name: v2, port: 80}, percent: 10}}, {type: RequestMirror, requestMirror: {backendRef: {name: v1, port: 80}, fraction: {numerator: 1, denominator: 3}}}, {type: RequestMirror, requestMirror: {backendRef: {name: far, namespace: other, port: 80}}}",
    );
    assert_eq!(diagnostics.len(), 1);
    assert!(diagnostics[0].contains("RefNotPermitted") && diagnostics[0].contains("nothing is mirrored"));
    let request = route.headers.request.as_deref().unwrap();
    assert_eq!(request.authority.as_deref(), Some("h"));
    assert_eq!((request.set.len(), request.add.len(), request.remove.len()), (1, 1, 1));
    let to = forward(&route);
    let rewrite = to.rewrite.as_ref().unwrap();
    assert_eq!(rewrite.authority.as_deref(), Some("new"));
    assert_eq!(rewrite.path, Some(PathRewrite::SegmentPrefix("/x".into())));
    let shares: Vec<_> = to.mirrors.iter().map(|Mirror { to, share }| (&*to.host, *share)).collect();
    assert_eq!(shares, [("v2.shop.svc.cluster.local", 100_000), ("v1.shop.svc.cluster.local", 333_333)]);
    assert!(to.backends[0].headers.response.is_some() && to.backends[0].headers.request.is_none());

    for (filter, why) in [
        ("{type: ExtensionRef, extensionRef: {group: g, kind: k, name: n}}", "ExtensionRef"),
        ("{type: RequestMirror}", "missing"),
        ("{type: RequestRedirect, requestRedirect: {}}, {type: URLRewrite, urlRewrite: {}}", "exclude"),
    ] {
        let (route, diagnostics) = rule(filter);
        assert_eq!(backends(&route), ["UnsupportedValue 500=1"], "{filter}");
        assert!(diagnostics.len() == 1 && diagnostics[0].contains(why), "{diagnostics:?}");
    }
    let bad = "  - matches: [{path: {type: Exact, value: /a}}]\n    filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /x}}}]\n";
    let (snapshot, diagnostics) = world(&cart_route("r", bad));
    let route = decide(&snapshot, &Ask { target: "/a", ..GET }).unwrap().unwrap();
    assert_eq!(backends(&route), ["UnsupportedValue 500=1"]);
    assert!(diagnostics[0].contains("PathPrefix"), "{diagnostics:?}");
}

#[test]
fn redirects_and_cors() {
    let action = |filter: &str| {
        let (snapshot, diagnostics) = world(&cart_route("r", &format!("  - filters: [{filter}]\n")));
        (decide(&snapshot, &GET).unwrap().unwrap(), diagnostics)
    };
    for (fields, status, port) in [
        ("", 302, RedirectPort::FromRequest),
        ("scheme: https, statusCode: 301", 301, RedirectPort::FromScheme),
        ("scheme: https, port: 8443", 302, RedirectPort::Number(8443)),
    ] {
        let (route, diagnostics) = action(&format!("{{type: RequestRedirect, requestRedirect: {{{fields}}}}}"));
        let Action::Redirect(redirect) = &route.action else { panic!("{route:?}") };
        assert_eq!((redirect.status.as_u16(), redirect.port), (status, port), "{fields}");
        assert_eq!(diagnostics, [""; 0]);
    }
    let (route, _) = action(
        "{type: CORS, cors: {allowOrigins: ['https://a.b', 'https://*.c', '*'], allowMethods: ['*'], allowHeaders: ['*'], allowCredentials: true}}",
    );
    let cors = route.cors.as_deref().unwrap();
    let allows = |i: usize, origin: &str| match &cors.allow_origins[i] {
        StringMatch::Exact(value) => **value == *origin,
        StringMatch::Regex(pattern) => pattern.is_match(origin),
        other => panic!("{other:?}"),
    };
    assert!(allows(0, "https://a.b") && !allows(0, "https://aXb"));
    assert!(allows(1, "https://x.y.c") && !allows(1, "https://c") && !allows(1, "https://xdc"));
    assert_eq!(cors.allow_origins[2], StringMatch::Present);
    assert_eq!(cors.max_age, Some(Duration::from_secs(5)));
    assert!(cors.allow_any_header && cors.allow_methods.as_ref().unwrap().to_str().unwrap().contains("PATCH"));
}

#[test]
fn timeouts_and_retries() {
    let rule = |fields: &str| {
        let yaml = cart_route("r", &format!("  - {{backendRefs: [{{name: v1, port: 80}}], {fields}}}\n"));
        let route = decide(&world(&yaml).0, &GET).unwrap().unwrap();
        let Action::Forward(forward) = &route.action else { panic!("{route:?}") };
        let retry = forward.retry.as_ref().map(|r| (r.attempts, r.per_try_timeout, r.on.has(RetryOn::UNAVAILABLE)));
        (forward.timeout, retry)
    };
    let ms = |n| Some(Duration::from_millis(n));
    for (fields, timeout, retry) in [
        ("name: a", None, Some((2, None, false))),
        ("timeouts: {request: 1s}", ms(1000), Some((2, None, false))),
        ("timeouts: {request: 0s}", None, Some((2, None, false))),
        ("timeouts: {backendRequest: 500ms}", ms(500), Some((2, None, false))),
        ("timeouts: {request: 1s, backendRequest: 500ms}", ms(500), Some((2, None, false))),
        ("timeouts: {request: 1s, backendRequest: 500ms}, retry: {}", ms(1000), Some((2, ms(500), true))),
        (
            "timeouts: {request: 1s, backendRequest: 0s}, retry: {attempts: 4, codes: [500]}",
            ms(1000),
            Some((4, None, true)),
        ),
        ("retry: {attempts: 0}", None, None),
    ] {
        assert_eq!(rule(fields), (timeout, retry), "{fields}");
    }
    let yaml =
        cart_route("r", "  - {retry: {codes: [500, 503], backoff: 100ms}, backendRefs: [{name: v1, port: 80}]}\n");
    let route = decide(&world(&yaml).0, &GET).unwrap().unwrap();
    let retry = forward(&route).retry.as_ref().unwrap();
    assert_eq!((&retry.statuses[..], retry.backoff), (&[500, 503][..], Duration::from_millis(100)));
    assert!(retry.on.has(RetryOn::RETRIABLE_STATUS_CODES));
}

#[test]
fn grpc_methods_become_paths() {
    let rule = |matches: &str| format!("  - {{matches: [{matches}], backendRefs: [{{name: v1, port: 80}}]}}\n");
    let rules = [
        "{method: {service: shop.Cart, method: Add}}",
        "{method: {service: shop.Cart}}",
        "{method: {method: List}}",
        "{method: {type: RegularExpression, service: 'a.+', method: 'b|c'}}",
        "{headers: [{name: x, value: '1'}]}",
    ];
    let spec =
        format!("  parentRefs: [{{group: '', kind: Service, name: cart}}]\n  rules:\n{}", rules.map(rule).concat());
    let (snapshot, diagnostics) = world(&object("GRPCRoute", "shop", "g", &spec));
    assert_eq!(diagnostics, [""; 0]);
    for (target, headers, want) in [
        ("/shop.Cart/Add", &[][..], Some(0)),
        ("/shop.Cart/List", &[], Some(1)),
        ("/shop.CartX/Add", &[], None),
        ("/x/List", &[], Some(2)),
        ("/x/Listen", &[], None),
        ("/abc/c", &[], Some(3)),
        ("/abc/cc", &[], None),
        ("/any/thing", &[("x", "1")], Some(4)),
    ] {
        let want = want.map_or("404".into(), |n| format!("spec.rules[{n}].matches[0]"));
        assert_eq!(taken(&snapshot, &Ask { target, headers, method: "POST", ..GET }), want, "{target}");
    }
}

#[test]
fn a_bad_expression_costs_its_match_only() {
    let rule = "  - matches: [{path: {type: RegularExpression, value: '('}}, {path: {value: /a}}]\n    backendRefs: [{name: v1, port: 80}]\n";
    let (snapshot, diagnostics) = world(&cart_route("r", rule));
    assert_eq!(diagnostics.len(), 1);
    assert!(diagnostics[0].contains("IST0122") && diagnostics[0].contains("spec.rules[0].matches[0].path.value"));
    assert_eq!(taken(&snapshot, &Ask { target: "/a", ..GET }), "spec.rules[0].matches[1]");
    assert_eq!(taken(&snapshot, &GET), "404", "it must not become a catch-all");
}

#[test]
fn a_virtual_service_for_the_host_wins_and_the_route_says_so() {
    let rival = "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: vs, namespace: shop}\nspec: {hosts: [cart], http: [{route: [{destination: {host: v2}}]}]}\n";
    let route = cart_route("r", "  - backendRefs: [{name: v1, port: 80}]\n");
    let (snapshot, diagnostics) = world(&(route.clone() + rival));
    assert_eq!(seen(&snapshot, "shop", "cart.shop.svc.cluster.local").unwrap().family, Family::Istio);
    assert_eq!(diagnostics.len(), 1);
    assert!(diagnostics[0].contains("UM0404") && diagnostics[0].contains("VirtualService shop/vs"), "{diagnostics:?}");

    let mut compiler = Compiler::new(settings());
    compiler.apply(Changes { upserts: resources(&(services() + &route + rival)), ..Changes::default() });
    let key = ObjectKey::new(Kind::VirtualService, "shop", "vs");
    let update = compiler.apply(Changes { deletes: vec![key], ..Changes::default() });
    assert_eq!(seen(&update.snapshot, "shop", "cart.shop.svc.cluster.local").unwrap().family, Family::GatewayApi);
    assert!(compiler.diagnostics().all(|d| d.code != Code::RivalRoutes));
}
