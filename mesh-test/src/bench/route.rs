//! What a route decision costs: host → virtual host → first route that matches → backend by weight, with the functions
//! of the data path, for 10 to 10,000 services.
//!
//! Every request matches the last rule of its service only (the dearest). `warm`: the requests go to 100 of the services,
//! as the pods of one node do; the bar holds for it. `cold`: they go to all in a random order, so that beyond some
//! thousands of rules nearly every rule read is a miss of the processor's caches.

use anyhow::{Result, ensure};
use fastrand::Rng;
use http::{Request, request};
use mesh_agent::config::compile::{Settings, compile};
use mesh_agent::config::resource;
use mesh_agent::route::{self, Facts, Head, split};
use mesh_agent::snapshot::route::{Action, MESH};
use mesh_agent::snapshot::{Client, Snapshot, host_names};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// Services and rules of each.
const CELLS: [(usize, usize); 6] = [(10, 5), (100, 5), (1_000, 5), (10_000, 5), (10, 50), (1_000, 50)];
/// Services that a node's pods call.
const IN_USE: usize = 100;
const DECISIONS: usize = 100_000;
const ROUNDS: usize = 7;
/// Warm, with 5 rules, whatever the number of services.
const BAR_NS: f64 = 2_000.0;

/// Prints one line per cell.
///
/// # Errors
/// If a decision among 5 rules takes longer than the bar.
pub(super) fn run() -> Result<()> {
    super::announce("services  rules  warm ns  cold ns")?;
    let mut worst = 0.0_f64;
    for (services, rules) in CELLS {
        let snapshot = snapshot(services, rules)?;
        let warm = measure(&snapshot, services.min(IN_USE), services, rules)?;
        let cold = measure(&snapshot, services, services, rules)?;
        super::announce(&format!("{services:>8}  {rules:>5}  {warm:>7.0}  {cold:>7.0}"))?;
        if rules == 5 {
            worst = worst.max(warm);
        }
    }
    ensure!(worst <= BAR_NS, "a decision among 5 rules takes {worst:.0} ns, at most {BAR_NS:.0} are allowed");
    Ok(())
}

fn snapshot(services: usize, rules: usize) -> Result<Arc<Snapshot>> {
    let mut text = String::new();
    for service in 0..services {
        write!(
            text,
            "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: s{service}, namespace: bench}}\n\
             spec:\n  hosts: [s{service}]\n  http:\n"
        )?;
        for rule in 0..rules {
            // Paths, headers, a regex, a query; the last rule takes what is left.
            let matcher = match rule {
                last if last + 1 == rules => "{uri: {prefix: /}}".to_owned(),
                n if n % 4 == 0 => format!("{{uri: {{exact: /v{n}/items}}}}"),
                n if n % 4 == 1 => format!("{{uri: {{prefix: /api}}, headers: {{x-tier: {{exact: t{n}}}}}}}"),
                n if n % 4 == 2 => format!("{{headers: {{cookie: {{regex: \"^(.*?;)?(user=u{n})(;.*)?$\"}}}}}}"),
                n => format!("{{queryParams: {{v: {{exact: \"{n}\"}}}}}}"),
            };
            writeln!(
                text,
                "  - match: [{matcher}]\n    route:\n    - {{destination: {{host: s{service}, subset: v1}}, weight: 90}}\n    \
                 - {{destination: {{host: s{service}, subset: v2}}, weight: 10}}"
            )?;
        }
    }
    let file: Arc<Path> = Path::new("bench.yaml").into();
    let parsed = resource::parse::parse(&file, &text);
    ensure!(parsed.diagnostics.is_empty(), "{:?}", parsed.diagnostics.first());
    let settings = Settings { node: "".into(), cluster_domain: "cluster.local".into() };
    let (snapshot, _) = compile(settings, parsed.resources.into_iter().map(Arc::new));
    Ok(snapshot)
}

/// The median round of requests to `in_use` of the services.
fn measure(snapshot: &Snapshot, in_use: usize, services: usize, rules: usize) -> Result<f64> {
    let mut rng = Rng::with_seed(1);
    let authorities: Vec<String> =
        (0..services).step_by(services / in_use).map(|service| format!("s{service}:8080")).collect();
    let order: Vec<&str> = (0..DECISIONS).map(|_| &*authorities[rng.usize(..authorities.len())]).collect();
    let parts = request()?;
    let last = format!("spec.http[{}].match[0]", rules - 1);
    ensure!(decide(snapshot, order[0], &parts, &mut rng).is_some_and(|field| *field == *last), "not the last rule");
    let mut rounds = [0.0; ROUNDS];
    for round in &mut rounds {
        let begun = Instant::now();
        for authority in &order {
            black_box(decide(snapshot, authority, &parts, &mut rng));
        }
        *round = begun.elapsed().as_nanos() as f64 / DECISIONS as f64;
    }
    rounds.sort_by(f64::total_cmp);
    Ok(rounds[ROUNDS / 2])
}

/// The field of the rule that took the request.
fn decide<'s>(snapshot: &'s Snapshot, authority: &str, parts: &request::Parts, rng: &mut Rng) -> Option<&'s str> {
    let labels = BTreeMap::new();
    let client = Client { namespace: "bench", labels: &labels };
    let facts = Facts { port: 8080, client, gateway: MESH };
    let names = host_names(authority, client.namespace, "cluster.local");
    let host = names.iter().find_map(|name| snapshot.virtual_host(&client, name, facts.port))?;
    let route = route::find(host, &facts, &Head { authority, ..Head::of(parts) })?;
    if let Action::Forward(forward) = &route.action {
        black_box(split::backend(forward, rng));
    }
    Some(&route.rule.field)
}

/// What a browser's request through a front end looks like.
fn request() -> Result<request::Parts> {
    let request = Request::get("/api/v1/products/42?v=x&sort=price")
        .header("host", "s1:8080")
        .header("user-agent", "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36")
        .header("accept", "application/json")
        .header("cookie", "session=3b1f0c7e; theme=dark; user=somebody")
        .header("x-request-id", "6e1f3d2a-98a4-4c0f-9a55-1d1f1b8f8f11")
        .header("x-tier", "gold")
        .body(())?;
    Ok(request.into_parts().0)
}
