//! Scenario D: Sock Shop's resilience, step by step: faults, retries, delays, circuit breakers, ejections.

use super::access_log::AccessLog;
use super::c::{NS, set_up};
use super::check::Checks;
use super::stage::{Stage, count, said};
use super::{Scenario, Step, fortio};
use crate::apps::fetch::Reply;
use anyhow::Result;
use std::collections::BTreeMap;

const CARTS: &str = "http://carts/carts/1/items";
const SERVICE: &str = "carts.sock-shop.svc.cluster.local";

pub(super) const RESILIENCE: Scenario = Scenario {
    id: "D",
    title: "Sock Shop: resilience",
    nodes: 1,
    set_up,
    steps: &[
        Step {
            id: "D1",
            title: "Four of five calls to carts fail",
            lesson: "A fault is injected on the caller's side: the request never reaches carts. Its flag is FI.",
            waits_for: None,
            act: aborts,
        },
        Step {
            id: "D2",
            title: "Retries hide it",
            lesson: "An injected abort is not retried by its own route, so the retry stands one hop earlier. One hop with 10 \
                     retries lets 0.8^11 = 8.6 % through; a second hop that retries brings that below one in a million.",
            waits_for: None,
            act: retries,
        },
        Step {
            id: "D3",
            title: "Slow calls are cut off",
            lesson: "Every second call to carts takes 5 s; who calls the front-end waits 1 s and gets 504 with flag UT.",
            waits_for: None,
            act: timeouts,
        },
        Step {
            id: "D4",
            title: "The circuit breaker, measured by fortio",
            lesson: "One connection and one waiting request: two callers fit, of four some are turned away at once (UO). \
                     fortio's counts, the agent's and its access log's must be the same.",
            waits_for: None,
            act: breaker,
        },
        Step {
            id: "D5",
            title: "A failing replica is ejected, and for longer each time",
            lesson: "Five 5xx in a row eject an endpoint for baseEjectionTime × times ejected; it comes back by itself.",
            waits_for: None,
            act: ejection,
        },
        Step {
            id: "D6",
            title: "A rate limit",
            lesson: "Istio needs an EnvoyFilter for this; here it is an object of its own: so many tokens a second, the rest \
                     gets 429 with flag RL.",
            waits_for: None,
            act: rate_limit,
        },
    ],
};

fn aborts(stage: &Stage, checks: &mut Checks) -> Result<()> {
    let client = stage.client(NS)?;
    stage.ours("carts-abort-80.yaml")?;
    let mut failed = 0;
    let before = stage.metrics()?;
    checks.shares("abort 80 %", 1000, &[("503", 0.8), ("200", 0.2)], || {
        let seen = statuses(&stage.fetch(&client, CARTS, &["--count", "1000", "--concurrency", "8"])?);
        failed += seen.get("503").copied().unwrap_or(0);
        Ok(seen)
    })?;
    let flagged = [("response_flags", "FI"), ("response_code", "503")];
    let after = stage.metrics_when(|now| now.requests_since(&before, &flagged) == failed)?;
    checks.equal("requests counted as 503 with flag FI", &failed, &after.requests_since(&before, &flagged));
    Ok(())
}

fn retries(stage: &Stage, checks: &mut Checks) -> Result<()> {
    let client = stage.client(NS)?;
    stage.ours("carts-abort-80.yaml")?;
    stage.ours("retry-front-end.yaml")?;
    let through = 0.8_f64.powi(11);
    checks.shares(
        "one hop retries: client → front-end (10 retries) → carts",
        400,
        &[("200", 1.0 - through), ("500", through)],
        || Ok(statuses(&stage.fetch(&client, "http://front-end/cart", &["--count", "400", "--concurrency", "16"])?)),
    )?;
    stage.ours("retry-orders.yaml")?;
    let replies = stage.fetch(&client, "http://front-end/orders", &["--count", "200", "--concurrency", "16"])?;
    let good = replies.iter().filter(|reply| reply.status == 200).count() as f64;
    let share = 100.0 * good / replies.len() as f64;
    checks.within("two hops retry: client → front-end (10) → orders (10) → carts: success", (99.0, 100.0), share, " %");
    Ok(())
}

fn timeouts(stage: &Stage, checks: &mut Checks) -> Result<()> {
    let client = stage.client(NS)?;
    stage.ours("carts-delay-50.yaml")?;
    let before = stage.metrics()?;
    let (mut late, mut replies) = (0, Vec::new());
    checks.shares("timeout 1 s over a delay of 5 s for half", 60, &[("504", 0.5), ("200", 0.5)], || {
        let now = stage.fetch(&client, "http://front-end/cart", &["--count", "60", "--concurrency", "15"])?;
        late += now.iter().filter(|reply| reply.status == 504).count() as u64;
        replies.extend(now.clone());
        Ok(statuses(&now))
    })?;
    let slow =
        |status: u16| replies.iter().filter(move |reply: &&Reply| reply.status == status).map(|reply| reply.elapsed_ms);
    let (quickest, slowest) = (slow(504).fold(f64::MAX, f64::min), slow(504).fold(0.0, f64::max));
    checks.within("quickest 504", (1000.0, 1500.0), quickest, " ms");
    checks.within("slowest 504", (1000.0, 1500.0), slowest, " ms");
    checks.within("slowest 200", (0.0, 1000.0), slow(200).fold(0.0, f64::max), " ms");
    let body = replies.iter().find(|reply| reply.status == 504).map_or("", |reply| reply.body.as_str());
    checks.begins("body of a 504", "upstream request timeout", body);
    let flagged = [("response_flags", "UT"), ("response_code", "504")];
    let after = stage.metrics_when(|now| now.requests_since(&before, &flagged) == late)?;
    checks.equal("requests counted as 504 with flag UT", &late, &after.requests_since(&before, &flagged));
    Ok(())
}

fn breaker(stage: &Stage, checks: &mut Checks) -> Result<()> {
    let client = stage.client(NS)?;
    stage.ours("carts-circuit-breaker.yaml")?;
    let mut log = AccessLog::start(stage)?;
    for (callers, requests, what) in [(2, 20, "mostly 200"), (4, 40, "a visible share of 503")] {
        let before = stage.metrics()?;
        let codes = fortio::load(stage, &client, CARTS, callers, requests)?;
        let of = |code: &str| codes.get(code).copied().unwrap_or(0);
        let (good, refused) = (of("200"), of("503"));
        let all = good + refused == requests;
        let kept = if callers == 2 { good * 2 > requests } else { refused * 10 >= requests && good > 0 };
        let command = format!("fortio load -c {callers} -qps 0 -n {requests}");
        let promise = if callers == 2 { "more than half 200, the rest 503" } else { "at least 10 % 503, the rest 200" };
        checks.holds(all && kept, &format!("{command}: {what}"), promise, format!("{codes:?}"));
        let overflow = [("response_code", "503"), ("response_flags", "UO"), ("destination_service", SERVICE)];
        let fine = [("response_code", "200"), ("destination_service", SERVICE)];
        let same = |now: &super::metrics::Metrics| {
            (now.requests_since(&before, &fine), now.requests_since(&before, &overflow))
        };
        let after = stage.metrics_when(|now| same(now) == (good, refused))?;
        checks.equal(
            &format!("{command}: the agent's counts of 200 and of 503 with UO"),
            &(good, refused),
            &same(&after),
        );
        let lines = log.next(requests, &format!("outbound|80||{SERVICE}"))?;
        let logged = |code: u64, flags: &str| {
            lines.iter().filter(|l| l["response_code"] == code && l["response_flags"] == flags).count() as u64
        };
        checks.equal(
            &format!("{command}: the access log's lines of 200, of 503 with UO, and all"),
            &(good, refused, requests),
            &(logged(200, "-"), logged(503, "UO"), lines.len() as u64),
        );
    }
    let replies = stage.fetch(&client, CARTS, &["--count", "80", "--concurrency", "8"])?;
    let refused: Vec<_> = replies.iter().filter(|reply| reply.status == 503).collect();
    let marked = refused.iter().filter(|reply| reply.header("x-envoy-overloaded") == "true").count();
    checks.holds(
        !refused.is_empty() && marked == refused.len(),
        "503s with x-envoy-overloaded: true",
        "all of them, at least one",
        format!("{marked} of {}", refused.len()),
    );
    let body = refused.first().map_or("", |reply| reply.body.as_str());
    checks.begins(
        "body of such a 503",
        "upstream connect error or disconnect/reset before headers. reset reason: overflow",
        body,
    );
    Ok(())
}

fn ejection(stage: &Stage, checks: &mut Checks) -> Result<()> {
    let client = stage.client(NS)?;
    stage.ours("carts-outlier.yaml")?;
    let bad = stage.lab.pod("carts-bad").namespace(NS).label("app", "carts").label("version", "v1").port("http", 80);
    let bad = bad.app(&["demo", "--service", "carts", "--fail", "500"]).start()?;
    stage.in_force()?;
    let replies = stage.fetch(&client, CARTS, &["--count", "450", "--pause-ms", "20"]);
    let rows = stage.lab.agent(0).ask(&["endpoints", "carts"]);
    bad.delete()?;
    let runs = runs_of_failures(&replies?);
    let rows = rows?;
    let rows = rows.as_array().into_iter().flatten().filter(|row| row["workload"] == "sock-shop/carts-bad");
    let ejections: Vec<_> = rows.map(|row| row["ejections"].as_u64().unwrap_or_default()).collect();
    checks.equal(
        "ejections that `mesh-agent endpoints` shows, by IPv4 and IPv6",
        &vec![runs.len() as u64; 2],
        &ejections,
    );
    let shown: Vec<_> = runs.iter().map(|run| format!("{} at {:.1}–{:.1} s", run.count, run.from, run.to)).collect();
    let five = runs.len() >= 3 && runs.iter().take(3).all(|run| run.count == 5);
    checks.holds(five, "failures before each ejection", "5, three times", shown.join(", "));
    for (number, times) in [(1, 2.0), (2, 4.0)] {
        let gap = match (runs.get(number - 1), runs.get(number)) {
            (Some(before), Some(after)) => after.from - before.to,
            _ => 0.0,
        };
        // Back at the next tick of 0.5 s, then at the next request of a client that pauses 20 ms.
        checks.within(&format!("ejection {number} lasts"), (times, times + 1.0), gap, " s");
    }
    Ok(())
}

/// Failures with less than a second between them; times in seconds.
struct Run {
    count: usize,
    from: f64,
    to: f64,
}

fn runs_of_failures(replies: &[Reply]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for reply in replies.iter().filter(|reply| reply.status != 200) {
        let at = reply.at_ms / 1000.0;
        match runs.last_mut() {
            Some(run) if at - run.to < 1.0 => {
                run.count += 1;
                run.to = at;
            }
            _ => runs.push(Run { count: 1, from: at, to: at }),
        }
    }
    runs
}

fn rate_limit(stage: &Stage, checks: &mut Checks) -> Result<()> {
    let client = stage.client(NS)?;
    stage.ours("carts-rate-limit.yaml")?;
    let before = stage.metrics()?;
    let replies = stage.fetch(&client, CARTS, &["--count", "50"])?;
    // The bucket of 10 is full; 50 requests take less than the 60 s of a fill.
    checks.equal(
        "50 requests in one go",
        &BTreeMap::from([("200".to_owned(), 10), ("429".to_owned(), 40)]),
        &statuses(&replies),
    );
    let last = replies.last().map_or("", |reply| reply.body.as_str());
    checks.begins("body of a 429", "local_rate_limited", last);
    let flagged = [("response_flags", "RL"), ("response_code", "429")];
    let after = stage.metrics_when(|now| now.requests_since(&before, &flagged) == 40)?;
    checks.equal("requests counted as 429 with flag RL", &40, &after.requests_since(&before, &flagged));
    Ok(())
}

fn statuses(replies: &[Reply]) -> BTreeMap<String, u64> {
    count(replies, said)
}
