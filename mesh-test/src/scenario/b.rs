//! Scenario B: Bookinfo. Versions, canaries, sessions, mirrors; the YAML is Istio's own.

use super::check::Checks;
use super::stage::{Stage, count, ours, said, version_of};
use super::{Scenario, Step};
use crate::lab::Pod;
use crate::manifest::Manifest;
use crate::prometheus::Sample;
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const NS: &str = "default";
const REVIEWS: &str = "http://reviews:9080/reviews/0";
const PAGE: &str = "http://productpage:9080/productpage";
/// Requests of a split: enough that 90/10 and 80/20 are told apart with certainty.
const MANY: u64 = 1000;
/// Prometheus asks every second here.
const SCRAPED_WITHIN: Duration = Duration::from_secs(20);

pub(super) const BOOKINFO: Scenario = Scenario {
    id: "B",
    title: "Bookinfo: versions, canaries, sessions, mirrors",
    nodes: 1,
    set_up,
    steps: &[
        Step {
            id: "B1",
            title: "The app is in the mesh",
            lesson: "Nothing was restarted or injected: a label on the namespace, and the agent of the node serves its pods. \
                     `mesh-agent status` names each of them.",
            waits_for: None,
            act: in_the_mesh,
        },
        Step {
            id: "B2",
            title: "Mistakes on purpose",
            lesson: "`mesh-agent analyze` names object and field, says what is wrong and what to do, in Istio's codes where \
                     Istio has one. What is wrong with one object leaves the others alone.",
            waits_for: None,
            act: mistakes,
        },
        Step {
            id: "B3a",
            title: "Without a route: every version in turn",
            lesson: "A Service selects all versions of reviews, so the stars come and go with every reload of the page.",
            waits_for: None,
            act: unrouted,
        },
        Step {
            id: "B3b",
            title: "All to v3",
            lesson: "A DestinationRule names subsets of a Service's pods by label, a VirtualService sends requests to them.",
            waits_for: None,
            act: all_v3,
        },
        Step {
            id: "B3c",
            title: "Canaries: 90/10, 80/20, 50/50",
            lesson: "Each request is drawn by weight, whatever connection it comes on. Bounds are mean ± 3 σ of a binomial draw.",
            waits_for: None,
            act: canaries,
        },
        Step {
            id: "B3d",
            title: "One user sees the new version",
            lesson: "A match on the header end-user comes before the route for everyone else. productpage sets that header \
                     for whoever is signed in and hands it on.",
            waits_for: None,
            act: one_user,
        },
        Step {
            id: "B3e",
            title: "A cookie chooses the version",
            lesson: "Regular expressions match the whole value (RE2). The first route that matches wins.",
            waits_for: None,
            act: by_cookie,
        },
        Step {
            id: "B3f",
            title: "Faults for one user",
            lesson: "An abort for jason alone: the page still comes and says what is missing. Nobody else notices.",
            waits_for: None,
            act: faults_for_one,
        },
        Step {
            id: "B4",
            title: "From outside",
            lesson: "Istio's Gateway with a VirtualService, then the same by the Gateway API: the five paths of the page, and \
                     404 for anything else.",
            waits_for: None,
            act: ingress,
        },
        Step {
            id: "B5",
            title: "Mirrors",
            lesson: "Copies of live requests go to v2; callers never see its answers, not even when it is broken.",
            waits_for: None,
            act: mirrors,
        },
        Step {
            id: "B6",
            title: "Queries people type",
            lesson: "A real Prometheus with deploy/prometheus scrapes the agent: Istio's names and labels, one count per request.",
            waits_for: None,
            act: queries,
        },
    ],
};

fn set_up(stage: &Stage) -> Result<()> {
    stage.sample("bookinfo/platform/kube/bookinfo.yaml")?;
    stage.lab.pod("client").namespace(NS).label("app", "client").start()?;
    stage.enrol(NS)
}

fn in_the_mesh(stage: &Stage, checks: &mut Checks) -> Result<()> {
    let status = stage.lab.agent(0).ask(&["status"])?;
    let mut pods: Vec<_> = stage.lab.all_pods().iter().map(|pod| format!("{NS}/{}", pod.name())).collect();
    let listed = status["pods"]["in_mesh"].as_array().into_iter().flatten();
    let mut listed: Vec<String> = listed.filter_map(|pod| pod.as_str().map(str::to_owned)).collect();
    pods.sort();
    listed.sort();
    let text = |pods: &[String]| format!("{}: {}", pods.len(), pods.join(" "));
    checks.holds(pods == listed, "`status` lists every pod in the mesh", text(&pods), text(&listed));
    checks.equal("errors and warnings of its configuration", &Vec::<String>::new(), &stage.diagnostics()?);
    let page = stage.get(&stage.client(NS)?, PAGE, &[])?;
    checks.equal("GET /productpage", &200, &page.status);
    let whole = page.body.contains("William Shakespeare") && page.body.contains("Reviews served by: reviews-v");
    checks.holds(whole, "the page shows details and reviews", "both", if whole { "both" } else { &page.body });
    Ok(())
}

fn mistakes(stage: &Stage, checks: &mut Checks) -> Result<()> {
    stage.ours("broken.yaml")?;
    let rows = stage.findings()?;
    let named: Vec<String> = rows
        .iter()
        .map(|row| ["code", "object", "field"].map(|key| row[key].as_str().unwrap_or_default()).join(" "))
        .collect();
    let expected = [
        "IST0101 Gateway.networking.istio.io default/nobody spec.selector",
        "IST0101 VirtualService default/no-such-subset spec.http[0].route[0].destination.subset",
        // Both sides of a conflict are named, as by Istio.
        "IST0109 VirtualService default/ratings-one spec.hosts[0]",
        "IST0109 VirtualService default/ratings-two spec.hosts[0]",
        "IST0118 Service default/unnamed spec.ports[0].name",
    ];
    for one in expected {
        let found = named.iter().any(|row| row == one);
        checks.holds(found, "`analyze` names", one, if found { one.to_owned() } else { named.join("; ") });
    }
    let others: Vec<&String> = named.iter().filter(|row| !expected.contains(&row.as_str())).collect();
    checks.holds(others.is_empty(), "and nothing else", "nothing", format!("{others:?}"));
    let told = |row: &&serde_json::Value| {
        !row["message"].as_str().unwrap_or_default().is_empty() && !row["fix"].as_str().unwrap_or_default().is_empty()
    };
    checks.equal("findings that say what is wrong and what to do", &rows.len(), &rows.iter().filter(told).count());
    let page = stage.get(&stage.client(NS)?, PAGE, &[])?;
    checks.equal("GET /productpage meanwhile", &200, &page.status);
    Ok(())
}

fn ingress(stage: &Stage, checks: &mut Checks) -> Result<()> {
    let istio = stage.ingress()?;
    stage.sample("bookinfo/networking/bookinfo-gateway.yaml")?;
    paths(stage, checks, "Istio's Gateway", istio)?;
    stage.reset()?;
    stage.sample("bookinfo/gateway-api/bookinfo-gateway.yaml")?;
    stage.enrol(NS)?;
    paths(stage, checks, "the Gateway API's", "http://bookinfo-gateway-istio.default")
}

fn paths(stage: &Stage, checks: &mut Checks, whose: &str, gateway: &str) -> Result<()> {
    let outsider = stage.outsider()?;
    for (path, expected) in [
        ("/productpage", "200 by productpage"),
        ("/productpage?u=normal", "200 by productpage"),
        ("/static/bookinfo.css", "200 by productpage"),
        ("/login", "302 by productpage"),
        ("/logout", "302 by productpage"),
        ("/api/v1/products", "200 by productpage"),
        ("/api/v1/products/0", "200 by productpage"),
        ("/", "404 by the gateway"),
        ("/productpage/x", "404 by the gateway"),
        ("/health", "404 by the gateway"),
        ("/api/v1", "404 by the gateway"),
    ] {
        let came = stage.answer(&outsider, gateway, "bookinfo.example.com", path)?;
        checks.equal(&format!("{whose}: {path}"), &expected.to_owned(), &came);
    }
    Ok(())
}

fn unrouted(stage: &Stage, checks: &mut Checks) -> Result<()> {
    let client = stage.client(NS)?;
    let seen = stage.versions(&client, REVIEWS, 300, &[])?;
    let all = ["v1", "v2", "v3"].iter().all(|version| seen.get(*version).is_some_and(|count| *count >= 30));
    let total: u64 = seen.values().sum();
    checks.holds(
        all && seen.len() == 3 && total == 300,
        "300 requests to reviews",
        "v1, v2 and v3, none below a tenth, no failure",
        shown(&seen),
    );
    // A reload a time, as a person would, until all were seen. A version that was slow once is asked again only when
    // the balancer has forgotten that (`balance/state.rs`: the peak decays within seconds).
    let mut colours = BTreeMap::new();
    let deadline = Instant::now() + Duration::from_secs(60);
    while colours.len() < 3 && Instant::now() < deadline {
        for page in stage.fetch(&client, PAGE, &["--count", "20"])? {
            let colour = ["black", "red"].into_iter().find(|colour| page.body.contains(&format!("color:{colour}")));
            *colours.entry(colour.unwrap_or("none").to_owned()).or_insert(0_u64) += 1;
        }
        std::thread::sleep(Duration::from_millis(300));
    }
    checks.holds(colours.len() == 3, "stars on pages within a minute", "none, black and red", shown(&colours));
    Ok(())
}

fn all_v3(stage: &Stage, checks: &mut Checks) -> Result<()> {
    let client = subsets(stage)?;
    stage.sample("bookinfo/networking/virtual-service-reviews-v3.yaml")?;
    split(stage, &client, checks, "100 % v3", 300, &[("v3", 1.0)])?;
    let pages = stage.fetch(&client, PAGE, &["--count", "10"])?;
    let red = pages.iter().filter(|page| page.body.contains("color:red")).count();
    checks.equal("pages with red stars, of 10", &10, &red);
    Ok(())
}

fn canaries(stage: &Stage, checks: &mut Checks) -> Result<()> {
    let client = subsets(stage)?;
    for (file, shares) in [
        ("90-10", [("v1", 0.9), ("v2", 0.1)]),
        ("80-20", [("v1", 0.8), ("v2", 0.2)]),
        ("50-v3", [("v1", 0.5), ("v3", 0.5)]),
    ] {
        stage.sample(&format!("bookinfo/networking/virtual-service-reviews-{file}.yaml"))?;
        split(stage, &client, checks, &format!("virtual-service-reviews-{file}.yaml"), MANY, &shares)?;
    }
    Ok(())
}

fn one_user(stage: &Stage, checks: &mut Checks) -> Result<()> {
    let client = subsets(stage)?;
    stage.sample("bookinfo/networking/virtual-service-reviews-jason-v2-v3.yaml")?;
    let mut to = |who: &str, args: &[&str], version: &str| -> Result<()> {
        checks.shares(who, 100, &[(version, 1.0)], || stage.versions(&client, REVIEWS, 100, args))
    };
    to("end-user: jason", &["--header", "end-user=jason"], "v2")?;
    to("end-user: Jason (values are case-sensitive)", &["--header", "end-user=Jason"], "v3")?;
    to("nobody", &[], "v3")?;
    let login = stage.get(
        &client,
        "http://productpage:9080/login",
        &["--method", "POST", "--data", "username=jason&passwd=x"],
    )?;
    let cookie = login.header("set-cookie").split(';').next().unwrap_or_default().to_owned();
    let pages = stage.fetch(&client, PAGE, &["--count", "10", "--header", &format!("cookie={cookie}")])?;
    let black = pages.iter().filter(|page| page.body.contains("color:black") && page.body.contains("jason")).count();
    checks.equal("jason signs in: pages with black stars, of 10", &10, &black);
    Ok(())
}

fn by_cookie(stage: &Stage, checks: &mut Checks) -> Result<()> {
    let client = subsets(stage)?;
    stage.ours("reviews-cookie-burr.yaml")?;
    for (cookie, version) in [
        ("user=burr", "v3"),
        ("theme=dark; lang=en;user=burr", "v3"),
        ("user=burr; theme=dark", "v3"),
        ("user=burrito", "v1"),
        ("superuser=burr", "v1"),
    ] {
        let header = format!("cookie={cookie}");
        checks.shares(&format!("cookie: {cookie}"), 50, &[(version, 1.0)], || {
            stage.versions(&client, REVIEWS, 50, &["--header", &header])
        })?;
    }
    checks.shares("no cookie", 50, &[("v1", 1.0)], || stage.versions(&client, REVIEWS, 50, &[]))
}

fn faults_for_one(stage: &Stage, checks: &mut Checks) -> Result<()> {
    let client = subsets(stage)?;
    stage.sample("bookinfo/networking/virtual-service-all-v1.yaml")?;
    stage.sample("bookinfo/networking/virtual-service-reviews-test-v2.yaml")?;
    stage.sample("bookinfo/networking/virtual-service-ratings-test-abort.yaml")?;
    let before = stage.metrics()?;
    let page = stage.get(&client, PAGE, &["--header", "cookie=user=jason"])?;
    let said = page.body.contains("Ratings service is currently unavailable");
    checks.holds(
        said,
        "jason's page",
        "Ratings service is currently unavailable",
        if said { "it says so" } else { &page.body },
    );
    let flagged = stage.metrics_when(|now| now.requests_since(&before, &[("response_flags", "FI")]) == 1)?;
    checks.equal(
        "requests counted with flag FI",
        &1,
        &flagged.requests_since(&before, &[("response_flags", "FI"), ("response_code", "500")]),
    );
    let other = stage.get(&client, PAGE, &["--header", "cookie=user=anne"])?;
    let fine = other.status == 200 && !other.body.contains("unavailable");
    checks.holds(fine, "anne's page", "nothing is missing", if fine { "nothing is missing" } else { &other.body });
    Ok(())
}

fn mirrors(stage: &Stage, checks: &mut Checks) -> Result<()> {
    let client = subsets(stage)?;
    let v2 = stage.lab.pods_of(NS, "reviews-v2").pop().context("reviews v2 has no pod")?;
    stage.ours("reviews-mirror.yaml")?;
    let copies = |checks: &mut Checks, what: &str, p: f64| -> Result<()> {
        checks.shares(what, MANY, &[("copied", p), ("not", 1.0 - p)], || {
            let before = stage.served(&client, &v2)?;
            let seen = stage.versions(&client, REVIEWS, MANY, &[])?;
            ensure!(seen == BTreeMap::from([("v1".to_owned(), MANY)]), "callers saw {}", shown(&seen));
            let copied = stage.served(&client, &v2)? - before;
            let counts = [("copied".to_owned(), copied), ("not".to_owned(), MANY.saturating_sub(copied))];
            Ok(counts.into_iter().filter(|(_, count)| *count > 0).collect())
        })
    };
    copies(checks, "mirror 100 %: callers see v1 only, v2 gets copies", 1.0)?;
    let text = std::fs::read_to_string(ours("reviews-mirror.yaml"))?;
    let mut tenth = Manifest::default();
    tenth.add(&text.replace("value: 100", "value: 10"), "reviews-mirror.yaml at 10 %");
    stage.apply(tenth)?;
    copies(checks, "mirror 10 %", 0.1)?;
    stage.ours("reviews-mirror.yaml")?;
    v2.freeze()?;
    let replies = stage.fetch(&client, REVIEWS, &["--count", "100", "--concurrency", "4"]);
    v2.thaw()?;
    let replies = replies?;
    let seen = count(&replies, |reply| if reply.status == 200 { version_of(reply.pod()) } else { said(reply) });
    checks.equal("the mirror hangs: callers see", &BTreeMap::from([("v1".to_owned(), 100)]), &seen);
    let slowest = replies.iter().map(|reply| reply.elapsed_ms).fold(0.0, f64::max);
    checks.within("the mirror hangs: slowest answer", (0.0, 1000.0), slowest, " ms");
    Ok(())
}

/// Bookinfo's subsets, and the client.
fn queries(stage: &Stage, checks: &mut Checks) -> Result<()> {
    let prometheus = stage.prometheus()?;
    let client = stage.client(NS)?;
    let query = |version: &str| {
        format!(
            "istio_requests_total{{destination_service=\"reviews.default.svc.cluster.local\", \
             destination_version=\"{version}\", reporter=\"source\", response_code=\"200\"}}"
        )
    };
    let total = |samples: &[Sample]| samples.iter().map(|sample| sample.value).sum::<f64>() as u64;
    let before: Vec<u64> =
        ["v1", "v2", "v3"].iter().map(|v| Ok(total(&prometheus.query(&query(v))?))).collect::<Result<_>>()?;
    let seen = stage.versions(&client, REVIEWS, 300, &[])?;
    for (version, before) in ["v1", "v2", "v3"].into_iter().zip(before) {
        let sent = seen.get(version).copied().unwrap_or(0);
        let counted = prometheus.query_until(&query(version), SCRAPED_WITHIN, |now| total(now) >= before + sent)?;
        checks.equal(&format!("requests that {version} answered"), &sent, &(total(&counted) - before));
    }
    // A rate takes two scrapes that differ.
    let rate = "rate(istio_requests_total{destination_service=~\"productpage.*\", response_code=\"200\"}[5m])";
    let deadline = Instant::now() + SCRAPED_WITHIN;
    let mut grows = false;
    while !grows && Instant::now() < deadline {
        stage.fetch(&client, PAGE, &["--count", "5"])?;
        std::thread::sleep(Duration::from_millis(500));
        grows = prometheus.query(rate)?.iter().any(|sample| sample.value > 0.0);
    }
    checks.holds(grows, rate, "above zero", if grows { "above zero" } else { "nothing" });
    Ok(())
}

fn subsets(stage: &Stage) -> Result<Pod> {
    stage.sample("bookinfo/networking/destination-rule-all.yaml")?;
    stage.client(NS)
}

fn split(stage: &Stage, client: &Pod, checks: &mut Checks, what: &str, n: u64, shares: &[(&str, f64)]) -> Result<()> {
    checks.shares(what, n, shares, || stage.versions(client, REVIEWS, n, &[]))
}

fn shown(counts: &BTreeMap<String, u64>) -> String {
    counts.iter().map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(", ")
}
