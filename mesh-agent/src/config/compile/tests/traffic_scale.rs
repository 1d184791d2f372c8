//! Traffic objects in numbers: what one change costs, and what a thousand broken ones do to healthy ones.

use super::*;
use std::time::Instant;

const HEALTHY: &str = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: web, namespace: healthy}
spec:
  hosts: [web]
  http:
  - match: [{headers: {end-user: {exact: jason}}, uri: {prefix: /a}}]
    route: [{destination: {host: web, subset: v2}}]
  - route: [{destination: {host: web, subset: v1}, weight: 90}, {destination: {host: web, subset: v2}, weight: 10}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: web, namespace: healthy}
spec: {host: web, subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]}
";

/// Right objects and, for each, places where one wrong value is put: `@` marks the value that is there before.
const TEMPLATES: &[(&str, &[(&str, &str)])] = &[
    (
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: NAME, namespace: broken}\nspec:\n  hosts: [NAME.example.com]\n  http:\n  - name: one\n    match: [{uri: {regex: '/x'}, headers: {h: {exact: v}}, port: 80}]\n    timeout: 5s\n    retries: {attempts: 2, retryOn: 5xx}\n    fault: {abort: {httpStatus: 503, percentage: {value: 10}}}\n    corsPolicy: {allowOrigins: [{exact: a}], unmatchedPreflights: FORWARD}\n    headers: {request: {set: {x-a: b}}}\n    rewrite: {uriRegexRewrite: {match: '/x', rewrite: /y}}\n    route: [{destination: {host: a, port: {number: 80}}, weight: 1}, {destination: {host: b}, weight: 2}]\n",
        &[
            ("regex: '/x'", "regex: '('"),
            ("regex: '/x'", "regex: '(?=a)'"),
            ("regex: '/x'", "regex: '/x', prefix: /"),
            ("{exact: v}", "{exakt: v}"),
            ("{exact: v}", "{exact: 7}"),
            ("port: 80}]", "port: 99999}]"),
            ("port: 80}]", "port: eighty}]"),
            ("timeout: 5s", "timeout: 5"),
            ("timeout: 5s", "timeout: soon"),
            ("timeout: 5s", "timeot: 5s"),
            ("attempts: 2", "attempts: -2"),
            ("retryOn: 5xx", "retryOn: sometimes"),
            ("httpStatus: 503", "httpStatus: 9999"),
            ("httpStatus: 503", "grpcStatus: NOPE"),
            ("value: 10", "value: 101"),
            ("unmatchedPreflights: FORWARD", "unmatchedPreflights: MAYBE"),
            ("x-a: b", "'x a': b"),
            ("match: '/x', rewrite: /y", "match: '[', rewrite: /y"),
            ("match: '/x', rewrite: /y", "match: '/x', rewrite: '\\7'"),
            ("host: a,", "host: 'a/b',"),
            ("number: 80}}, weight", "number: -1}}, weight"),
            ("weight: 1}", "weight: -1}"),
            ("hosts: [NAME.example.com]", "hosts: ['a.*']"),
            ("name: one", "delegate: {name: gone}"),
        ],
    ),
    (
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: NAME, namespace: broken}\nspec:\n  host: NAME.example.com\n  trafficPolicy:\n    loadBalancer: {simple: ROUND_ROBIN}\n    connectionPool: {tcp: {maxConnections: 1}, http: {h2UpgradePolicy: UPGRADE}}\n    outlierDetection: {maxEjectionPercent: 10, interval: 1s}\n    tls: {mode: DISABLE}\n    portLevelSettings: [{port: {number: 80}}]\n  subsets: [{name: v1, labels: {a: b}}]\n",
        &[
            ("simple: ROUND_ROBIN", "simple: FASTEST"),
            ("simple: ROUND_ROBIN", "consistentHash: {}"),
            ("simple: ROUND_ROBIN", "consistentHash: {useSourceIp: true, maglev: {tableSize: 4}}"),
            ("maxConnections: 1", "maxConnections: -1"),
            ("maxConnections: 1", "maxConnections: many"),
            ("h2UpgradePolicy: UPGRADE", "h2UpgradePolicy: LATER"),
            ("maxEjectionPercent: 10", "maxEjectionPercent: 110"),
            ("interval: 1s", "interval: 1 s"),
            ("mode: DISABLE", "mode: SOME"),
            ("mode: DISABLE", "mode: MUTUAL"),
            ("number: 80", "number: 0"),
            ("{name: v1, labels: {a: b}}", "{name: v1}, {name: v1}"),
            ("{name: v1, labels: {a: b}}", "{labels: {a: b}}"),
        ],
    ),
    (
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: NAME, namespace: broken}\nspec:\n  hosts: [NAME.example.com]\n  addresses: [10.9.9.9]\n  ports: [{number: 80, name: http, protocol: HTTP}]\n  resolution: STATIC\n  location: MESH_EXTERNAL\n  endpoints: [{address: 10.1.1.1}]\n",
        &[
            ("hosts: [NAME.example.com]", "hosts: []"),
            ("hosts: [NAME.example.com]", "hosts: ['a b']"),
            ("10.9.9.9", "10.9.9"),
            ("number: 80", "number: 0"),
            ("protocol: HTTP", "protocol: SMOKE"),
            ("resolution: STATIC", "resolution: MAGIC"),
            ("location: MESH_EXTERNAL", "location: MARS"),
            ("address: 10.1.1.1", "address: nowhere"),
            ("endpoints: [{address: 10.1.1.1}]", "endpoints: []"),
        ],
    ),
    (
        "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {name: NAME, namespace: broken}\nspec:\n  egress: [{port: {number: 80}, hosts: [./*]}]\n  outboundTrafficPolicy: {mode: ALLOW_ANY}\n",
        &[("./*", "everything"), ("number: 80", "number: 80000"), ("mode: ALLOW_ANY", "mode: SOME")],
    ),
    (
        "apiVersion: undermesh.dev/v1alpha1\nkind: RequestPolicy\nmetadata: {name: NAME, namespace: broken}\nspec:\n  hosts: [NAME.example.com]\n  rateLimit: {maxTokens: 1, fillInterval: 1s}\n  hedging: {delay: 1s, maxAttempts: 2}\n",
        &[
            ("maxTokens: 1", "maxTokens: 0"),
            ("fillInterval: 1s", "fillInterval: 1ms"),
            ("maxAttempts: 2", "maxAttempts: 1"),
            ("delay: 1s", "delay: 0s"),
            ("hosts: [NAME.example.com]", "hosts: [web.healthy.svc.cluster.local]"),
        ],
    ),
];

/// About objects of `broken` only.
fn judged(text: &str) -> (Arc<Snapshot>, Vec<Diagnostic>) {
    let parsed = parse(&Path::new("broken.yaml").into(), text);
    let mut compiler = Compiler::new(settings());
    let upserts = parsed.resources.into_iter().map(Arc::new).collect();
    let snapshot = compiler.apply(Changes { upserts, ..Changes::default() }).snapshot;
    let compiled = compiler.diagnostics().cloned().chain(compiler.analysis());
    (snapshot, parsed.diagnostics.into_iter().chain(compiled).collect())
}

#[test]
fn every_wrong_value_is_named_and_a_thousand_of_them_leave_healthy_objects_alone() {
    let (healthy, said) = judged(HEALTHY);
    // The names of what the objects route to are not in this file.
    let missing =
        |d: &Diagnostic| matches!(d.code, Code::ReferencedResourceNotFound | Code::UnknownDestinationRuleHost);
    assert!(said.iter().all(missing), "{said:?}");
    let invalid = |d: &&Diagnostic| !missing(d) || d.field.ends_with("delegate");
    let mut mutants = Vec::new();
    for (template, mistakes) in TEMPLATES {
        let (_, said) = judged(template);
        assert_eq!(said.iter().filter(invalid).count(), 0, "{template}: {said:?}");
        for (right, wrong) in *mistakes {
            assert!(template.contains(right), "{right} is not in {template}");
            let text = template.replacen(right, wrong, 1);
            let (_, said) = judged(&text);
            let named =
                said.iter().filter(invalid).any(|d| d.severity != crate::config::Severity::Info && !d.fix.is_empty());
            assert!(named, "{wrong}: {said:?}\n{text}");
            mutants.push(text);
        }
    }
    let many: Vec<String> = (0..1000).map(|n| mutants[n % mutants.len()].replace("NAME", &format!("m{n}"))).collect();
    let all = format!("{}\n---\n{HEALTHY}", many.join("\n---\n"));
    let (snapshot, said) = judged(&all);
    let host = "web.healthy.svc.cluster.local";
    assert_eq!(snapshot.virtual_hosts_of(host), healthy.virtual_hosts_of(host));
    assert_eq!(snapshot.destination_policies_of(host), healthy.destination_policies_of(host));
    for (n, text) in many.iter().enumerate() {
        let name = format!("m{n}");
        let named = said.iter().any(|d| d.object.as_ref().is_some_and(|o| *o.name == *name));
        assert!(named, "nothing is said of {name}: {text}");
    }
}

#[test]
fn one_changed_rule_touches_its_own_host_whatever_their_number() {
    let rule = |n: usize, to: usize| {
        let matches: String = (0..4)
            .map(|m| format!("  - match: [{{uri: {{prefix: /{m}}}}}]\n    route: [{{destination: {{host: s{to}, subset: v{m}}}}}]\n"))
            .collect();
        format!(
            "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: v{n}, namespace: shop}}\nspec:\n  hosts: [s{n}]\n  http:\n{matches}  - route: [{{destination: {{host: s{to}}}}}]\n"
        )
    };
    let mut per_change = Vec::new();
    for services in [100, 10_000] {
        let mut compiler = Compiler::new(settings());
        let all: String = (0..services).map(|n| rule(n, n)).collect();
        compiler.apply(Changes { upserts: resources(&all), ..Changes::default() });
        let changed: Vec<_> = (0..50).map(|n| resources(&rule(n, n + 1))).collect();
        let start = Instant::now();
        for (n, upserts) in changed.into_iter().enumerate() {
            let update = compiler.apply(Changes { upserts, ..Changes::default() });
            assert_eq!(update.touched_hosts, [Arc::from(format!("s{n}.shop.svc.cluster.local"))]);
        }
        per_change.push(start.elapsed() / 50);
    }
    println!("one changed VirtualService of 5 rules: {per_change:?} at 100 and 10,000 services");
    // Flat but for what deeper maps cost; anything linear would be a hundred times.
    assert!(per_change[1] < per_change[0] * 10, "{per_change:?}");
}
