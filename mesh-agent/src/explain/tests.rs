//! What is explained is what happens.

mod l4;

use super::*;
use crate::addr::OrigDst;
use crate::config::Changes;
use crate::config::compile::Settings;
use crate::config::resource::parse::parse;
use crate::error::Failure;
use crate::route::{self, Facts, Head};
use crate::snapshot::route::Action;
use proptest::prelude::*;
use std::path::Path;

/// Services and pods of one namespace and a half, with rules of every kind of condition.
const MESH: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio-injection: enabled}}
---
apiVersion: v1
kind: Namespace
metadata: {name: other, labels: {istio-injection: enabled}}
---
apiVersion: v1
kind: Pod
metadata: {name: web-0, namespace: shop, labels: {app: web, version: v1}, annotations: {undermesh.dev/netns: /n/web}}
status: {podIP: 10.0.0.1}
---
apiVersion: v1
kind: Pod
metadata: {name: guest-0, namespace: other, labels: {app: guest}, annotations: {undermesh.dev/netns: /n/guest}}
status: {podIP: 10.0.0.2}
---
apiVersion: v1
kind: Pod
metadata: {name: reviews-0, namespace: shop, labels: {app: reviews, version: v1}}
spec: {containers: [{name: c, ports: [{containerPort: 9080}]}]}
status: {podIP: 10.0.0.3, conditions: [{type: Ready, status: "True"}]}
---
apiVersion: v1
kind: Service
metadata: {name: reviews, namespace: shop}
spec: {clusterIP: 10.96.0.1, selector: {app: reviews}, ports: [{name: http, port: 9080}, {name: tcp-db, port: 5432}]}
---
apiVersion: v1
kind: Service
metadata: {name: nothing, namespace: shop}
spec: {clusterIP: 10.96.0.3, selector: {app: nobody}, ports: [{name: tcp, port: 5432}]}
---
apiVersion: v1
kind: Service
metadata: {name: empty, namespace: shop, annotations: {networking.istio.io/exportTo: "."}}
spec: {clusterIP: 10.96.0.2, selector: {app: nobody}, ports: [{name: http, port: 80}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews, namespace: shop}
spec:
  host: reviews
  trafficPolicy: {loadBalancer: {consistentHash: {httpHeaderName: x-user}}}
  subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews, namespace: shop}
spec:
  hosts: [reviews]
  http:
  - name: guests
    match: [{sourceNamespace: other, uri: {prefix: /a}}]
    fault: {abort: {httpStatus: 418, percentage: {value: 100}}}
    route: [{destination: {host: reviews}}]
  - name: jason
    match: [{headers: {end-user: {exact: jason}}}, {uri: {exact: /b}, method: {exact: POST}}]
    route: [{destination: {host: reviews, subset: v2}}]
  - name: moved
    match: [{uri: {regex: "/c+"}}]
    redirect: {uri: /d}
  - name: broken
    match: [{queryParams: {q: {exact: "1"}}}]
    route: [{destination: {host: reviews, subset: v9}}]
  - name: labelled
    match: [{sourceLabels: {version: v1}}]
    route: [{destination: {host: reviews, subset: v1}, weight: 90}, {destination: {host: nobody.shop.svc.cluster.local}, weight: 10}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: world, namespace: shop}
spec:
  hosts: ["*.example.com"]
  http: [{match: [{uri: {prefix: /a}}], directResponse: {status: 503}}, {route: [{destination: {host: empty}}]}]
---
# Known by name only: unknown addresses of port 80 are the agent's.
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: api, namespace: shop}
spec: {hosts: [api.example.org], resolution: STATIC, ports: [{number: 80, name: http, protocol: HTTP}], endpoints: [{address: 192.0.2.80}]}
"#;

struct Fixture {
    compiler: Compiler,
    snapshot: Arc<Snapshot>,
    registry: Arc<Registry>,
}

impl Fixture {
    fn new(text: &str) -> Self {
        let parsed = parse(&Arc::from(Path::new("mesh.yaml")), text);
        assert!(parsed.diagnostics.is_empty(), "{:?}", parsed.diagnostics);
        let upserts = parsed.resources.into_iter().map(Arc::new).collect();
        let mut compiler = Compiler::new(Settings { node: "".into(), cluster_domain: "cluster.local".into() });
        let snapshot = compiler.apply(Changes { upserts, ..Changes::default() }).snapshot;
        Self { compiler, snapshot, registry: Arc::default() }
    }

    fn world(&self) -> World<'_> {
        let Self { compiler, snapshot, registry } = self;
        World { snapshot, compiler, registry, trouble: &|_| None, live: true, now: Nanos(1) }
    }

    fn explain(&self, question: &Question) -> Explanation {
        explain(&self.world(), question).unwrap()
    }

    fn ask(&self, from: &str, url: &str, headers: &[(&str, &str)]) -> Explanation {
        let headers = headers.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        self.explain(&Question { from: from.into(), url: url.into(), headers, ..Question::default() })
    }
}

#[test]
fn near_misses_come_before_the_rule_that_holds() {
    let mesh = Fixture::new(MESH);
    let e = mesh.ask("web-0", "reviews:9080/", &[]);
    let why: Vec<&str> = e.near_misses.iter().map(|miss| &*miss.why).collect();
    assert_eq!(
        why,
        [
            "source namespace shop is not other",
            "header end-user is missing, wanted exactly jason",
            "path / is not exactly /b",
            "path / is not like /c+",
            "query parameter q is missing, wanted exactly 1",
        ]
    );
    let rule = e.rule.unwrap();
    assert_eq!((&*rule.reference.object, &*rule.matches), ("VirtualService shop/reviews", "source label version=v1"));
    assert_eq!(rule.reference.place, "mesh.yaml:49");
    assert_eq!(e.source.mesh, "enrolled");
    assert_eq!(e.verdict.outcome, Outcome::Forwarded);
    assert_eq!(e.backends.iter().map(|b| b.percent).collect::<Vec<_>>(), [90.0, 10.0]);
    assert!(e.backends[1].refusal.is_some() && e.notes.iter().any(|note| note.contains("10 %")), "{:?}", e.notes);
}

#[test]
fn refusals_say_what_the_client_gets_and_why() {
    let mesh = Fixture::new(MESH);
    for (from, url, headers, status, flag, why) in [
        ("guest-0", "reviews.shop:9080/a", &[][..], Some(418), Some("FI"), "aborts 100 %"),
        ("web-0", "reviews:9080/", &[("end-user", "jason")][..], Some(503), Some("UH"), "version=v2"),
        ("web-0", "reviews:9080/?q=1", &[][..], Some(503), Some("NC"), "defines subset v9"),
        ("guest-0", "reviews.shop:9080/", &[][..], Some(404), Some("NR"), "no rule of reviews.shop"),
        ("web-0", "http://a.example.com/a", &[][..], Some(503), None, "answers by itself"),
        ("web-0", "http://empty/", &[][..], Some(503), Some("UH"), "has no endpoints"),
    ] {
        let e = mesh.ask(from, url, headers);
        let v = &e.verdict;
        assert_eq!((v.outcome, v.status, v.flag.as_deref()), (Outcome::Refused, status, flag), "{url}: {v:?}");
        assert!(v.summary.contains(why), "{url}: {}", v.summary);
    }
    let moved = mesh.ask("web-0", "reviews:9080/cc", &[]).verdict;
    assert_eq!((moved.outcome, moved.status), (Outcome::Answered, Some(301)));
}

#[test]
fn what_hides_a_service_is_said() {
    let mesh = Fixture::new(MESH);
    let e = mesh.ask("guest-0", "http://empty.shop/", &[]);
    assert!(e.notes.iter().any(|note| note.contains("not exported to namespace other")), "{:?}", e.notes);
    let e = mesh.ask("web-0", "reviews:81/", &[]);
    assert!(e.notes.iter().any(|note| note.contains("has no port 81; it has 9080, 5432")), "{:?}", e.notes);
}

#[test]
fn opaque_ports_are_the_kernels_unless_somebody_wants_more() {
    let mesh = Fixture::new(MESH);
    let e = mesh.ask("web-0", "tcp://nothing:5432", &[]);
    assert_eq!((&*e.lookup.taken_by, e.rule.is_none()), ("kernel", true));
    assert_eq!((e.verdict.outcome, e.verdict.status), (Outcome::Refused, None), "bytes are not answered");
    assert!(e.verdict.summary.starts_with("connection reset, flag UH: "), "{}", e.verdict.summary);
    assert_eq!(e.backends[0].policy.as_ref().unwrap().balancer, "random");
    // A DestinationRule chooses by hash.
    let e = mesh.ask("web-0", "http://reviews:5432/", &[]);
    assert_eq!((&*e.lookup.taken_by, e.rule.is_none()), ("agent", true));
    assert!(e.notes.iter().any(|note| note.contains("declared tcp")), "{:?}", e.notes);
    assert_eq!(e.backends[0].policy.as_ref().unwrap().balancer, "ring-hash");
}

#[test]
fn the_hash_of_the_request_chooses() {
    let mesh = Fixture::new(MESH);
    let e = mesh.ask("web-0", "reviews:9080/", &[("x-user", "a")]);
    let policy = e.backends[0].policy.as_ref().unwrap();
    // Reference value of XXH64, seed 0.
    assert_eq!((policy.hash, policy.hash_key.as_deref()), (Some(0xd24e_c4f1_a98c_6e5b), Some("header x-user")));
    assert_eq!(e.backends[0].chosen, Some("10.0.0.3:9080".parse().unwrap()));
    assert_eq!(mesh.ask("web-0", "reviews:9080/", &[]).backends[0].chosen, None, "no key, no choice");
}

/// Scripts read these: a name that goes, or changes its type, breaks them.
#[test]
fn the_json_keeps_its_form() {
    let e = Fixture::new(MESH).ask("web-0", "reviews:9080/", &[("x-user", "a")]);
    let json = serde_json::to_value(&e).unwrap();
    let keys = |value: &serde_json::Value| -> Vec<String> { value.as_object().unwrap().keys().cloned().collect() };
    assert_eq!(
        keys(&json),
        [
            "backends",
            "filters",
            "lookup",
            "near_misses",
            "notes",
            "request",
            "retry",
            "rule",
            "source",
            "timeout_ms",
            "verdict"
        ]
    );
    assert_eq!(keys(&json["verdict"]), ["body", "details", "flag", "outcome", "status", "summary"]);
    assert_eq!(keys(&json["near_misses"][0]), ["field", "name", "object", "place", "why"]);
    assert_eq!(
        keys(&json["backends"][0]),
        ["chosen", "endpoints", "percent", "policy", "refusal", "sent", "subset", "to", "weight"]
    );
    assert_eq!(
        keys(&json["backends"][0]["endpoints"][0]),
        [
            "active",
            "address",
            "avoided",
            "ejected",
            "ejected_ms",
            "health",
            "latency_ms",
            "locality",
            "priority",
            "second",
            "weight",
            "workload"
        ]
    );
    assert_eq!(json["verdict"]["outcome"], "forwarded");
    assert_eq!(serde_json::from_value::<Explanation>(json).unwrap(), e, "what is written can be read");
}

#[test]
fn unknown_clients_are_answered_with_those_that_there_are() {
    let mesh = Fixture::new(MESH);
    let question = Question { from: "nobody".into(), url: "a".into(), ..Question::default() };
    let wrong = explain(&mesh.world(), &question).unwrap_err().to_string();
    assert!(wrong.contains("shop/web-0"), "{wrong}");
    let question = Question { gateway: Some("a/b".into()), url: "a".into(), ..Question::default() };
    assert!(explain(&mesh.world(), &question).unwrap_err().to_string().contains("a/b"));
}

/// What the data path does, in its own words: the rule it takes, or the failure it ends in.
fn data_path(mesh: &Fixture, question: &Question) -> (Option<(String, String)>, Option<u16>) {
    let asked = Asked::new(question).unwrap();
    let Found::Workload(workload) = source::find(&mesh.snapshot, &question.from).unwrap() else { unreachable!() };
    let client = Client { namespace: &workload.key.namespace, labels: &workload.labels };
    let address = dial::dial(&mesh.snapshot, &client, &asked, question).unwrap().address;
    let (destinations, source) = data_path_of(mesh, &workload);
    let wants = Wants::Original(OrigDst::new(address));
    let head = Head::of(&asked.parts);
    let status = |failure: &Failure| Some(failure.answer().status.as_u16());
    let routes = match destinations.routes(&source, &wants, head.authority) {
        Ok(routes) => routes,
        Err(failure) => return (None, status(&failure)),
    };
    let facts = Facts { port: routes.port, client, gateway: &routes.gateway };
    let Some(taken) = route::find(&routes.host, &facts, &head) else { return (None, status(&Failure::NoRoute)) };
    let object = taken.rule.object.as_ref().map(ToString::to_string).unwrap_or_default();
    let rule = Some((object, taken.rule.field.to_string()));
    if let Some(abort) = taken.fault.as_deref().and_then(|fault| fault.abort.as_ref()).filter(|a| a.share == 1_000_000)
    {
        return (rule, status(&Failure::FaultAbort(abort.with)));
    }
    let answer = match &taken.action {
        Action::Redirect(redirect) => Some(redirect.status.as_u16()),
        Action::Respond(direct) => Some(direct.status.as_u16()),
        Action::Forward(forward) => {
            let answers: Vec<_> = forward
                .backends
                .iter()
                .map(|to| {
                    let target = match &to.to {
                        crate::snapshot::route::BackendTo::Service(to) if to.host.is_empty() => {
                            Ok(routes.target.clone().unwrap())
                        }
                        crate::snapshot::route::BackendTo::Service(to) => {
                            destinations.backend(&source, &wants, to, routes.port)
                        }
                        crate::snapshot::route::BackendTo::Refused { status, .. } => {
                            Err(Failure::RefusedBackend(*status))
                        }
                    };
                    let ask = crate::balance::Ask { now: Nanos(1), ..Default::default() };
                    let mut rng = fastrand::Rng::with_seed(1);
                    let picked = target.and_then(|t| t.cluster.pick(&ask, &mut rng).map_err(|_| Failure::NoEndpoint));
                    picked.err().and_then(|failure| status(&failure))
                })
                .collect();
            // Forwarded where one of the destinations can be.
            if answers.contains(&None) { None } else { answers.first().copied().flatten() }
        }
    };
    (rule, answer)
}

fn data_path_of(mesh: &Fixture, workload: &Arc<Workload>) -> (Destinations, listen::Source) {
    let snapshot = Arc::new(ArcSwap::from(Arc::clone(&mesh.snapshot)));
    let source = listen::Source { workload: Some(Arc::clone(workload)), cookie: 7, dialer: Dialer::Host };
    (Destinations::new(snapshot, Arc::default(), Arc::default()), source)
}

fn any_question() -> impl Strategy<Value = Question> {
    let from = prop_oneof![Just("web-0"), Just("guest-0")];
    let host = prop_oneof![
        Just("reviews"),
        Just("reviews.shop"),
        Just("reviews.shop.svc.cluster.local"),
        Just("empty.shop"),
        Just("a.example.com"),
        Just("unknown.org"),
        Just("10.96.0.1"),
    ];
    let port = prop_oneof![Just(9080_u16), Just(80)];
    let path = prop_oneof![Just("/"), Just("/a"), Just("/b"), Just("/ccc"), Just("/x?q=1"), Just("/?q=2")];
    let method = prop_oneof![Just("GET"), Just("POST")];
    let user = prop_oneof![Just(None), Just(Some("jason")), Just(Some("burr"))];
    (from, host, port, path, method, user).prop_map(|(from, host, port, path, method, user)| Question {
        from: from.into(),
        url: format!("http://{host}:{port}{path}"),
        method: Some(method.into()),
        headers: user.map(|user| ("end-user".to_owned(), user.to_owned())).into_iter().collect(),
        ..Question::default()
    })
}

proptest! {
    #[test]
    fn the_answer_is_the_data_paths(question in any_question()) {
        let mesh = Fixture::new(MESH);
        let e = mesh.explain(&question);
        let (rule, status) = data_path(&mesh, &question);
        let explained = e.rule.map(|rule| (rule.reference.object, rule.reference.field));
        // What nobody takes never comes to the data path.
        if e.lookup.taken_by == "agent" {
            prop_assert_eq!(explained, rule);
            prop_assert_eq!(e.verdict.status, status, "{:?}", e.verdict);
        }
    }
}
