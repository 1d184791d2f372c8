//! VirtualServices and DestinationRules → snapshot.

use super::*;
use crate::snapshot::Client;
use crate::snapshot::policy::{Balancer, HashKey, HashTable, LocalityPolicy};
use crate::snapshot::route::{
    AbortWith, Action, BackendTo, Forward, PathMatch, PathRewrite, RetryOn, Route, StringMatch, VirtualHost, Visibility,
};
use std::time::Duration;

pub(super) fn seen(snapshot: &Snapshot, namespace: &str, host: &str) -> Option<Arc<VirtualHost>> {
    let labels = BTreeMap::new();
    snapshot.virtual_host(&Client { namespace, labels: &labels }, host, 80).cloned()
}

fn virtual_service(name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}, namespace: shop}}\nspec:\n{spec}\n"
    )
}

fn destination_rule(name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: {name}, namespace: shop}}\nspec:\n{spec}\n"
    )
}

fn routes(yaml: &str, host: &str) -> (Vec<Arc<Route>>, Vec<String>) {
    let (snapshot, diagnostics) = compiled(yaml);
    let found = seen(&snapshot, "shop", &format!("{host}.shop.svc.cluster.local"));
    (found.map(|v| v.routes.to_vec()).unwrap_or_default(), diagnostics)
}

fn forward(route: &Route) -> &Forward {
    match &route.action {
        Action::Forward(forward) => forward,
        other => panic!("not forwarded: {other:?}"),
    }
}

/// `host:port/subset=weight`
fn backends(route: &Route) -> Vec<String> {
    let one = |b: &crate::snapshot::route::Backend| match &b.to {
        BackendTo::Service(to) => {
            let host = to.host.trim_end_matches(".svc.cluster.local");
            let port = to.port.map(|p| format!(":{p}")).unwrap_or_default();
            let subset = to.subset.as_ref().map(|s| format!("/{s}")).unwrap_or_default();
            format!("{host}{port}{subset}={}", b.weight)
        }
        BackendTo::Refused { status, .. } => format!("{}={}", status.as_u16(), b.weight),
    };
    forward(route).backends.iter().map(one).collect()
}

#[test]
fn matches_weights_and_order() {
    let yaml = virtual_service(
        "reviews",
        "  hosts: [reviews]
  http:
  - name: test
    match:
    - name: jason
      headers: {end-user: {exact: jason}, cookie: {regex: '^(.*?;)?(user=burr)(;.*)?$'}}
      uri: {prefix: /v}
      ignoreUriCase: true
      port: 9080
      sourceLabels: {app: page}
      sourceNamespace: shop
    - withoutHeaders: {x-old: {}}
      queryParams: {q: {exact: '1'}}
      method: {exact: GET}
      gateways: [mesh, g]
    route: [{destination: {host: reviews, subset: v2}, weight: 7}]
  - route:
    - {destination: {host: reviews, subset: v1, port: {number: 9080}}, weight: 75}
    - {destination: {host: reviews.prod.svc.cluster.local}, weight: 25}
    - {destination: {host: never}, weight: 0}
  - route: [{destination: {host: unreachable}}]",
    );
    let (routes, diagnostics) = routes(&yaml, "reviews");
    assert_eq!(diagnostics, [""; 0]);
    assert_eq!(routes.len(), 3, "nothing after the catch-all");
    let first = &routes[0];
    assert_eq!((&*first.name, &*first.rule.field), ("test.jason", "spec.http[0].match[0]"));
    assert_eq!((first.conditions.port, first.conditions.source_namespace.as_deref()), (Some(9080), Some("shop")));
    assert_eq!(first.conditions.source_labels.len(), 1);
    assert_eq!(first.matcher.path, Some(PathMatch::Prefix { value: "/v".into(), ignore_case: true }));
    assert!(
        matches!(&first.matcher.headers[0].value, StringMatch::Regex(p) if p.is_match("a; user=burr;x") || p.is_match("user=burr"))
    );
    assert_eq!(backends(first), ["reviews.shop/v2=1"], "a single weight is not looked at");
    let second = &routes[1];
    assert_eq!(second.conditions.gateways, ["mesh".into(), "shop/g".into()]);
    assert!(second.matcher.headers[0].invert && second.matcher.headers[0].value == StringMatch::Present);
    assert_eq!(backends(&routes[2]), ["reviews.shop:9080/v1=75", "reviews.prod=25"]);
    assert_eq!(forward(&routes[2]).retry.as_ref().unwrap().on, RetryOn::PROVEN);
}

#[test]
fn actions_and_policies() {
    let yaml = virtual_service(
        "a",
        "  hosts: [a]
  http:
  - match: [{uri: {prefix: /old}}]
    rewrite: {uri: /new, authority: b.example}
    timeout: 1.5s
    retries: {attempts: 10, retryOn: '5xx, 409,unavailable', perTryTimeout: 100ms, retryIgnorePreviousHosts: false}
    fault: {delay: {percentage: {value: 0.1}, fixedDelay: 5s}, abort: {grpcStatus: UNAVAILABLE, percentage: {value: 80}}}
    mirror: {host: b, subset: v2}
    mirrorPercentage: {value: 10}
    mirrors: [{destination: {host: c}, percentage: {value: 0}}]
    headers: {request: {set: {x-a: '1', Host: z}, remove: [x-b]}, response: {add: {x-c: '2'}}}
    corsPolicy: {allowOrigins: [{exact: '*'}], allowMethods: [GET, POST], maxAge: 24h, unmatchedPreflights: IGNORE}
    route: [{destination: {host: a}, headers: {request: {add: {x-d: '3'}}}}]
  - match: [{uri: {exact: /here}}]
    redirect: {uri: /there, authority: c.example, redirectCode: 302, derivePort: FROM_REQUEST_PORT}
  - match: [{uri: {regex: '/x/.*'}}]
    rewrite: {uriRegexRewrite: {match: '/x/(.*)', rewrite: '/y/\\1'}}
    retries: {attempts: 0}
    timeout: 0s
    route: [{destination: {host: a}}]
  - directResponse: {status: 503, body: {string: down}}",
    );
    let (routes, diagnostics) = routes(&yaml, "a");
    assert_eq!(diagnostics, [""; 0]);
    let first = forward(&routes[0]);
    let rewrite = first.rewrite.as_ref().unwrap();
    assert_eq!(rewrite.path, Some(PathRewrite::Prefix("/new".into())));
    assert_eq!(first.timeout, Some(Duration::from_millis(1500)));
    let retry = first.retry.as_ref().unwrap();
    assert_eq!((retry.attempts, &retry.statuses[..], retry.avoid_previous), (10, &[409][..], Some(false)));
    assert!(retry.on.has(RetryOn::FIVE_XX) && retry.on.has(RetryOn::UNAVAILABLE) && !retry.on.has(RetryOn::PROVEN));
    let fault = routes[0].fault.as_ref().unwrap();
    assert_eq!(fault.delay.as_ref().unwrap().share, 1000);
    assert_eq!(fault.abort.as_ref().unwrap().with, AbortWith::Grpc(14));
    assert_eq!(first.mirrors.len(), 1);
    assert_eq!(first.mirrors[0].share, 100_000);
    let request = routes[0].headers.request.as_ref().unwrap();
    assert_eq!((request.authority.as_deref(), request.set.len(), request.remove.len()), (Some("z"), 1, 1));
    let cors = routes[0].cors.as_ref().unwrap();
    assert_eq!(cors.allow_origins, [StringMatch::Present]);
    assert_eq!(cors.allow_methods.as_ref().unwrap(), "GET,POST");
    assert!(!cors.forward_unmatched_preflights);
    let Action::Redirect(redirect) = &routes[1].action else { panic!("no redirect") };
    assert_eq!((redirect.status.as_u16(), redirect.path.clone()), (302, Some(PathRewrite::Full("/there".into()))));
    let third = forward(&routes[2]);
    assert!(third.retry.is_none() && third.timeout.is_none());
    assert!(matches!(&third.rewrite.as_ref().unwrap().path, Some(PathRewrite::Regex { .. })));
    assert!(matches!(&routes[3].action, Action::Respond(r) if r.body == "down"));
}

#[test]
fn mistakes_take_out_what_they_must_and_no_more() {
    let yaml = virtual_service(
        "a",
        "  hosts: [a, 'b.*.c']
  http:
  - match: [{uri: {regex: '(?=x)'}}, {uri: {exact: /a, prefix: /b}}]
    route: [{destination: {host: first}}]
  - match: [{uri: {prefix: /a}}]
    retries: {attempts: 3, retryOn: '5xx,sometimes'}
    fault: {abort: {httpStatus: 500}}
    route: [{destination: {host: 'a/b'}, weight: 1}, {destination: {host: b}, weight: -1}, {destination: {host: c}, weight: 1}]
  - match: [{headers: {uri: {exact: x}}}]
    redirect: {redirectCode: 200}",
    );
    let (routes, diagnostics) = routes(&yaml, "a");
    assert_eq!(routes.len(), 2, "a rule that loses all its matches is no catch-all");
    assert_eq!(backends(&routes[0]), ["500=1", "c.shop=1"]);
    assert_eq!(routes[0].fault, None);
    let said: Vec<_> = diagnostics.iter().map(|d| d.split(": ").next().unwrap()).collect();
    assert_eq!(
        said,
        [
            "error IST0106 t.yaml:2 VirtualService shop/a spec.hosts[1]",
            "error IST0122 t.yaml:2 VirtualService shop/a spec.http[0].match[0].uri",
            "error IST0106 t.yaml:2 VirtualService shop/a spec.http[0].match[1].uri",
            "error IST0106 t.yaml:2 VirtualService shop/a spec.http[1].route[0].destination.host",
            "error IST0106 t.yaml:2 VirtualService shop/a spec.http[1].route[1].weight",
            "error IST0106 t.yaml:2 VirtualService shop/a spec.http[1].retries.retryOn",
            "warning IST0133 t.yaml:2 VirtualService shop/a spec.http[1].fault.abort.percentage",
            "warning IST0133 t.yaml:2 VirtualService shop/a spec.http[2].match[0].headers[uri]",
            "error IST0106 t.yaml:2 VirtualService shop/a spec.http[2].redirect.redirectCode",
        ]
    );
}

#[test]
fn the_oldest_visible_virtual_service_of_a_host_counts() {
    let one = |namespace: &str, name: &str, at: &str, export: &str| {
        format!(
            "---\napiVersion: networking.istio.io/v1beta1\nkind: VirtualService\nmetadata: {{name: {name}, namespace: {namespace}, creationTimestamp: '{at}'}}\nspec: {{hosts: [a.shop.svc.cluster.local], exportTo: [{export}], http: [{{name: {name}, route: [{{destination: {{host: b}}}}]}}]}}\n"
        )
    };
    let yaml = [
        one("shop", "old", "2025-01-01T00:00:00Z", "'*'"),
        one("shop", "new", "2026-01-01T00:00:00Z", "'*'"),
        one("front", "own", "2026-01-01T00:00:00Z", "."),
        one("shop", "for-back", "2026-01-01T00:00:00Z", "back"),
        one("shop", "nobody", "2020-01-01T00:00:00Z", "'~'"),
    ]
    .concat();
    let (snapshot, _) = compiled(&yaml);
    let name = |client: &str| seen(&snapshot, client, "a.shop.svc.cluster.local").map(|v| v.routes[0].name.to_string());
    assert_eq!(name("shop").as_deref(), Some("old"));
    assert_eq!(name("front").as_deref(), Some("own"));
    assert_eq!(name("back").as_deref(), Some("for-back"));
}

#[test]
fn delegates_stand_in_for_their_roots_rules() {
    let root = virtual_service(
        "root",
        "  hosts: [a]
  gateways: [mesh, g]
  http:
  - name: r
    match: [{uri: {prefix: /shop}}]
    delegate: {name: inner, namespace: team}
    timeout: 2s
    rewrite: {uri: /}
  - delegate: {name: missing}
  - route: [{destination: {host: a}}]",
    );
    let inner = "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: inner, namespace: team}\nspec:\n  http:\n  - {name: d, match: [{uri: {exact: /shop/cart}}], timeout: 5s, route: [{destination: {host: cart}}]}\n  - {match: [{uri: {prefix: /other}}], route: [{destination: {host: other}}]}\n  - {match: [{headers: {x: {exact: y}}}], route: [{destination: {host: x}}]}\n";
    let (routes, diagnostics) = routes(&format!("{root}{inner}"), "a");
    let names: Vec<_> = routes.iter().map(|r| (&*r.name, backends(r)[0].clone(), forward(r).timeout)).collect();
    assert_eq!(
        names,
        [
            ("r-d", "cart.team=1".to_owned(), Some(Duration::from_secs(5))),
            ("r", "x.team=1".to_owned(), Some(Duration::from_secs(2))),
            ("", "a.shop=1".to_owned(), None),
        ]
    );
    assert_eq!(routes[1].matcher.path, Some(PathMatch::Prefix { value: "/shop".into(), ignore_case: false }));
    assert_eq!(routes[0].rule.object.as_ref().unwrap().to_string(), "VirtualService team/inner");
    assert_eq!(diagnostics.len(), 2, "{diagnostics:?}");
    assert!(diagnostics.iter().any(|d| d.contains("VirtualService team/inner spec.http[1].match")));
    assert!(diagnostics.iter().any(|d| d.contains("IST0101") && d.contains("spec.http[1].delegate")));
}

#[test]
fn a_changed_delegate_changes_its_roots_hosts_only() {
    let root = virtual_service("root", "  hosts: [a]\n  http: [{delegate: {name: inner}}]");
    let inner = |to: &str| virtual_service("inner", &format!("  http: [{{route: [{{destination: {{host: {to}}}}}]}}]"));
    let other = virtual_service("other", "  hosts: [b]\n  http: [{route: [{destination: {host: b}}]}]");
    let mut compiler = Compiler::new(settings());
    let all = resources(&format!("{root}{}{other}", inner("x")));
    let before = compiler.apply(Changes { upserts: all, ..Changes::default() }).snapshot;
    let update = compiler.apply(Changes { upserts: resources(&inner("y")), ..Changes::default() });
    assert_eq!(update.touched_hosts, ["a.shop.svc.cluster.local".into()]);
    let of = |s: &Snapshot, host: &str| seen(s, "shop", &format!("{host}.shop.svc.cluster.local")).unwrap();
    assert_eq!(backends(&of(&update.snapshot, "a").routes[0]), ["y.shop=1"]);
    assert!(Arc::ptr_eq(&of(&before, "b"), &of(&update.snapshot, "b")));
    assert_eq!(update.snapshot.generation, 2);
    let deletes = vec![ObjectKey::new(Kind::VirtualService, "shop", "inner")];
    let update = compiler.apply(Changes { deletes, ..Changes::default() });
    assert!(seen(&update.snapshot, "shop", "a.shop.svc.cluster.local").is_none());
}

#[test]
fn opaque_routes() {
    let yaml = virtual_service(
        "db",
        "  hosts: [db, '*.example.com']
  tcp:
  - match: [{port: 3306, sourceLabels: {app: x}, destinationSubnets: [10.0.0.0/8]}]
    route: [{destination: {host: db, subset: v2}}]
  - route: [{destination: {host: db}, weight: 1}, {destination: {host: db2}, weight: 3}]
  tls:
  - match: [{port: 443, sniHosts: [a.example.com, other.org]}]
    route: [{destination: {host: egress}}]",
    );
    let (snapshot, diagnostics) = compiled(&yaml);
    assert_eq!(diagnostics.len(), 1, "{diagnostics:?}");
    assert!(diagnostics[0].contains("sniHosts[1]"));
    assert!(seen(&snapshot, "shop", "db.shop.svc.cluster.local").is_none(), "no rule for HTTP");
    let labels = BTreeMap::new();
    let client = Client { namespace: "shop", labels: &labels };
    let found = snapshot.l4_host(&client, "db.shop.svc.cluster.local", 5432).unwrap();
    assert_eq!((found.routes.tcp.len(), found.routes.tls.len()), (2, 1));
    assert_eq!(found.routes.tcp[0].subnets[0].to_string(), "10.0.0.0/8");
    assert_eq!(found.routes.tcp[1].backends.iter().map(|b| b.weight).collect::<Vec<_>>(), [1, 3]);
    let found = snapshot.l4_host(&client, "a.example.com", 443).unwrap();
    assert_eq!(&*found.routes.tls[0].sni[0], "a.example.com");
}

#[test]
fn destination_rules_inherit_block_by_block_and_ports_start_anew() {
    let yaml = destination_rule(
        "a",
        "  host: a
  trafficPolicy:
    loadBalancer: {simple: ROUND_ROBIN, warmup: {duration: 30s}, localityLbSetting: {failoverPriority: [zone=a, rack]}}
    connectionPool: {tcp: {maxConnections: 1, connectTimeout: 2s}, http: {http1MaxPendingRequests: 1, maxRequestsPerConnection: 1}}
    outlierDetection: {consecutive5xxErrors: 0, baseEjectionTime: 10m}
    retryBudget: {percent: 50}
    portLevelSettings: [{port: {number: 81}, connectionPool: {tcp: {maxConnections: 9}}}]
  subsets:
  - {name: v1, labels: {version: v1}}
  - name: v2
    labels: {version: v2}
    trafficPolicy:
      loadBalancer: {consistentHash: {httpCookie: {name: sid, ttl: 0s}, maglev: {tableSize: 11}}}
      portLevelSettings: [{port: {number: 82}, tls: {mode: SIMPLE, sni: x}}]",
    );
    let (snapshot, diagnostics) = compiled(&yaml);
    assert_eq!(diagnostics, [""; 0]);
    let policy = &snapshot.destination_policies_of("a.shop.svc.cluster.local")[0];
    let base = policy.policies.of(80);
    assert_eq!(base.balancer, Balancer::RoundRobin);
    assert!(matches!(base.locality.as_deref(), Some(LocalityPolicy::Labels { keys, .. }) if keys.len() == 2));
    let outlier = base.outlier.as_ref().unwrap();
    assert_eq!((outlier.consecutive_5xx, outlier.max_ejection), (0, Duration::from_secs(600)));
    let own = policy.policies.of(81);
    assert_eq!((own.pool.max_connections, own.pool.max_pending_requests), (Some(9), None));
    assert!(own.outlier.is_none() && own.balancer == Balancer::Default);
    assert!(own.retry_budget.is_some(), "not among the blocks that a port replaces");
    let subset = |name: &str| policy.subsets.iter().find(|s| &*s.name == name).unwrap();
    assert_eq!(subset("v1").policies.of(80), base);
    let v2 = subset("v2").policies.of(80);
    assert_eq!(v2.pool, base.pool);
    let Balancer::ConsistentHash(hash) = &v2.balancer else { panic!("{:?}", v2.balancer) };
    assert_eq!(hash.table, HashTable::Maglev { table_size: 11 });
    assert!(matches!(&hash.key, HashKey::Cookie { ttl: Some(ttl), .. } if ttl.is_zero()));
    let port = subset("v2").policies.of(82);
    assert!(port.tls.is_some() && port.pool.max_connections.is_none());
    assert_eq!(subset("v2").policies.of(81).pool.max_connections, Some(9));
}

#[test]
fn destination_rules_of_one_host_are_merged_in_order_of_age() {
    let one = |name: &str, at: &str, spec: &str| {
        format!(
            "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: {name}, namespace: shop, creationTimestamp: '{at}'}}\nspec: {{host: a, {spec}}}\n"
        )
    };
    let yaml = [
        one(
            "young",
            "2026-01-01T00:00:00Z",
            "trafficPolicy: {loadBalancer: {simple: RANDOM}}, subsets: [{name: v1, labels: {v: '9'}}, {name: v2}]",
        ),
        one("old", "2025-01-01T00:00:00Z", "subsets: [{name: v1, labels: {v: '1'}}]"),
        one(
            "mine",
            "2026-01-01T00:00:00Z",
            "workloadSelector: {matchLabels: {app: x}}, trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}",
        ),
    ]
    .concat();
    let (snapshot, diagnostics) = compiled(&yaml);
    let found = snapshot.destination_policies_of("a.shop.svc.cluster.local");
    assert_eq!(found.len(), 2);
    assert_eq!(found[0].subsets.iter().map(|s| (&*s.name, s.labels.len())).collect::<Vec<_>>(), [("v1", 1), ("v2", 0)]);
    assert_eq!(&*found[0].subsets[0].labels["v"], "1");
    assert_eq!(found[0].policies.base.balancer, Balancer::Random);
    assert_eq!(found[1].export, Visibility::Private);
    assert_eq!(diagnostics.len(), 1, "{diagnostics:?}");
    assert!(diagnostics[0].contains("DestinationRule shop/young spec.subsets[0].name"));
}
