//! What is explained of connections is what happens to them.

use super::*;
use crate::kernel::{Taker, taker};
use crate::snapshot::Protocol;
use std::collections::BTreeSet;

const BYTES: &str = include_str!("../../../tests/goldens/bytes.yaml");

fn mesh() -> Fixture {
    Fixture::new(BYTES)
}

#[test]
fn the_kernels_the_agents_and_nobodys() {
    let mesh = mesh();
    for (from, url, taken_by, verdict) in [
        ("web-0", "tcp://cache:6379", "kernel", "forwarded to cache.shop.svc.cluster.local:6379, 2 endpoints"),
        ("web-0", "tcp://db:5432", "agent", "forwarded to db.shop.svc.cluster.local:5432 subset v1 (70 %)"),
        ("web-0", "tcp://peers:7000", "nobody", "left alone, it goes to 10.0.0.4:7000"),
        ("web-0", "tcp://192.0.2.9:5432", "nobody", "left alone, it goes to 192.0.2.9:5432: nobody declared"),
        ("web-0", "tcp://10.0.0.2:1", "nobody", "it is the own address of pod guests/guest-0"),
        ("web-0", "tcp://192.0.2.9:443", "agent", "forwarded to 192.0.2.9:443"),
        ("guest-0", "tcp://192.0.2.9:5432", "agent", "connection reset, flag UH: nobody declared 192.0.2.9"),
        ("guest-0", "tcp://secure.shop:443", "agent", "connection reset, flag UH: nobody declared secure.shop"),
        // Withheld from guests: the kernel does not tell them from others.
        ("web-0", "tcp://extra:5432", "agent", "forwarded to extra.shop.svc.cluster.local:5432, 2 endpoints"),
        ("web-0", "tcp://empty:5432", "kernel", "connection reset, flag UH: "),
        ("web-0", "tcp://page:80", "agent", "HTTP 400, flag DPE: port 80 speaks HTTP"),
        ("web-0", "tcp://page:9000", "agent", "forwarded to page.shop.svc.cluster.local:9000"),
    ] {
        let e = mesh.ask(from, url, &[]);
        assert_eq!(e.lookup.taken_by, taken_by, "{url}: {}", e.verdict.summary);
        assert!(e.verdict.summary.contains(verdict), "{url}: {}", e.verdict.summary);
    }
}

#[test]
fn rules_near_misses_and_shares() {
    let mesh = mesh();
    let e = mesh.ask("web-0", "tcp://db:5432", &[]);
    let rule = e.rule.unwrap();
    assert_eq!((&*rule.reference.object, &*rule.reference.field), ("VirtualService shop/db", "spec.tcp[1].match[0]"));
    assert_eq!(rule.matches, "source label app=web");
    let why: Vec<&str> = e.near_misses.iter().map(|miss| &*miss.why).collect();
    assert_eq!(why, ["address 10.96.0.1 is not in 10.97.0.0/16", "port 5432 is not 5433"]);
    assert_eq!(e.backends.iter().map(|b| b.percent).collect::<Vec<_>>(), [70.0, 20.0, 10.0]);
    assert!(e.notes.iter().any(|note| note.starts_with("10 % of the connections")), "{:?}", e.notes);
    let e = mesh.ask("guest-0", "tcp://db.shop:5432", &[]);
    assert_eq!((e.verdict.flag.as_deref(), e.verdict.status), (Some("NC"), None), "{:?}", e.verdict);
    assert!(e.verdict.summary.contains("defines subset v9"), "{}", e.verdict.summary);
}

#[test]
fn the_name_in_the_hello_decides() {
    let mesh = mesh();
    let ask = |from: &str, url: &str, sni: Option<&str>| {
        let sni = sni.map(str::to_owned);
        mesh.explain(&Question { from: from.into(), url: url.into(), sni, ..Question::default() })
    };
    let field = |e: &Explanation| e.rule.as_ref().map(|rule| rule.reference.field.clone()).unwrap_or_default();
    let e = ask("web-0", "tls://secure:443", Some("A.secure.example"));
    assert_eq!((&*field(&e), e.backends[0].subset.as_deref()), ("spec.tls[1].match[0]", Some("v2")));
    assert!(e.near_misses[0].why.contains("more specific"), "{:?}", e.near_misses);
    let e = ask("web-0", "tls://secure:443", Some("b.secure.example"));
    assert_eq!(field(&e), "spec.tls[0].match[0]");
    assert_eq!(e.near_misses[0].why, "SNI b.secure.example is not a.secure.example");
    // A name of nobody's rule; and a port that is no place for tcp rules.
    let e = ask("web-0", "tls://secure:443", None);
    assert_eq!(field(&e), "");
    assert!(e.near_misses[2].why.contains("declared HTTP or TLS"), "{:?}", e.near_misses);
    assert_eq!(e.verdict.outcome, Outcome::Forwarded);
    // Known by name only.
    let e = ask("guest-0", "tls://192.0.2.9:443", Some("api.example"));
    assert!(e.verdict.summary.contains("api.example:443, 1 endpoint"), "{}", e.verdict.summary);
    let e = ask("guest-0", "tls://192.0.2.9:443", Some("other.example"));
    assert_eq!(e.verdict.flag.as_deref(), Some("UH"));
    let wrong = Question { url: "tcp://db:5432".into(), sni: Some("x".into()), ..Question::default() };
    assert!(explain(&mesh.world(), &wrong).unwrap_err().to_string().contains("TLS only"));
}

#[test]
fn gateways_forward_bytes() {
    let mesh = mesh();
    for (url, flag, field, verdict) in [
        ("tcp://any:5432", None, "spec.tcp[0].match[0]", "subset v1, 1 endpoint"),
        ("http://any:5432/", None, "spec.tcp[0].match[0]", "subset v1, 1 endpoint"),
        ("tcp://any:5433", Some("NR"), "", "no rule bound to shop/edge takes connections of port 5433"),
        ("tls://through.example", None, "spec.tls[0].match[0]", "secure.shop.svc.cluster.local:443"),
        ("https://other.example/", Some("NR"), "", "no server of port 443 is for the SNI other.example"),
        ("tcp://through.example:443", Some("NR"), "", "port 443 speaks TLS"),
        ("tcp://any:1", Some("NR"), "", "the gateway has no port 1; it has 443, 5432, 5433"),
    ] {
        let e = mesh.explain(&Question { gateway: Some("shop/edge".into()), url: url.into(), ..Question::default() });
        assert_eq!(e.verdict.flag.as_deref(), flag, "{url}: {}", e.verdict.summary);
        assert!(e.verdict.summary.contains(verdict), "{url}: {}", e.verdict.summary);
        assert_eq!(e.rule.map(|rule| rule.reference.field).unwrap_or_default(), field, "{url}");
    }
}

fn any_connection() -> impl Strategy<Value = Question> {
    let from = prop_oneof![Just("web-0"), Just("guest-0")];
    let scheme = prop_oneof![Just("tcp"), Just("tls"), Just("http")];
    let host = prop_oneof![
        Just("db.shop"),
        Just("cache.shop"),
        Just("extra.shop"),
        Just("secure.shop"),
        Just("empty.shop"),
        Just("page.shop"),
        Just("peers.shop"),
        Just("api.example"),
        Just("10.96.0.3"),
        Just("10.0.0.4"),
        Just("192.0.2.9"),
    ];
    let port = prop_oneof![Just(5432_u16), Just(443), Just(6379), Just(9000), Just(80), Just(7000)];
    let sni = prop_oneof![
        Just(None),
        Just(Some("a.secure.example")),
        Just(Some("b.secure.example")),
        Just(Some("api.example"))
    ];
    (from, scheme, host, port, sni).prop_map(|(from, scheme, host, port, sni)| Question {
        from: from.into(),
        url: format!("{scheme}://{host}:{port}"),
        sni: sni.filter(|_| scheme == "tls").map(str::to_owned),
        ..Question::default()
    })
}

/// Where the data path sends one connection, by many draws of its weights: `target`, or the flags of the log.
fn data_path(mesh: &Fixture, question: &Question) -> (Taker, BTreeSet<String>) {
    let asked = Asked::new(question).unwrap();
    let Found::Workload(workload) = source::find(&mesh.snapshot, &question.from).unwrap() else { unreachable!() };
    let client = Client { namespace: &workload.key.namespace, labels: &workload.labels };
    let address = dial::dial(&mesh.snapshot, &client, &asked, question).unwrap().address;
    let (destinations, source) = data_path_of(mesh, &workload);
    let wants = Wants::Original(OrigDst::new(address));
    let protocol = destinations.connection(&source, &wants).map(|target| target.protocol);
    let reads = asked.speaks == question::Speaks::Tls && !matches!(protocol, Ok(Protocol::Tcp));
    let sni = asked.sni.as_deref().filter(|_| reads && destinations.asks_for_name(&source, &wants));
    let taker = taker(&mesh.snapshot, &client, OrigDst::new(address));
    let nowhere = asked.speaks == question::Speaks::Tcp || !destinations.tells(address.port());
    if let Err(failure) = &protocol
        && nowhere
    {
        return (taker, [failure.closed().0.to_string()].into());
    }
    let draws = (0..200).map(|seed| {
        let mut rng = fastrand::Rng::with_seed(seed);
        let picked = destinations.opaque(&source, &wants, sni, &mut rng).and_then(|target| {
            let ask = crate::balance::Ask { now: Nanos(1), ..Default::default() };
            let picked = target.cluster.pick(&ask, &mut rng).map_err(|_| Failure::NoEndpoint);
            picked.map(|_| format!("{} {:?}", target.name, target.cluster.key().subset))
        });
        picked.unwrap_or_else(|failure| failure.closed().0.to_string())
    });
    (taker, draws.collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn what_is_explained_of_a_connection_is_the_data_paths(question in any_connection()) {
        let mesh = mesh();
        let e = mesh.explain(&question);
        let (taker, happened) = data_path(&mesh, &question);
        let word = match taker { Taker::Agent => "agent", Taker::Kernel => "kernel", Taker::Nobody => "nobody" };
        prop_assert_eq!(&*e.lookup.taken_by, word);
        if taker == Taker::Agent && e.lookup.opaque {
            let of = |b: &view::Backend| match &b.refusal {
                Some(refusal) => refusal.flag.clone().unwrap_or_default(),
                None => format!("{} {:?}", b.to, b.subset.as_deref()),
            };
            let mut said: BTreeSet<String> = e.backends.iter().map(of).collect();
            if said.is_empty() {
                said.insert(e.verdict.flag.clone().unwrap_or_default());
            }
            prop_assert_eq!(&said, &happened);
        }
        // The kernel knows weights only: where anybody's rule could hold, the agent decides.
        if taker == Taker::Kernel {
            prop_assert!(e.rule.is_none() && e.lookup.opaque);
            prop_assert!(happened.len() == 1, "{:?}", happened);
        }
    }
}
