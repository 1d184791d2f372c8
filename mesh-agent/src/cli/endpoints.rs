//! `mesh-agent endpoints [SERVICE]`.

use super::client::Client;
use super::explain::Files;
use super::output::{self, Format, Paint, Style};
use super::table::{Cell, Table};
use crate::admin::view::Endpoint;
use anyhow::{Result, bail};
use clap::Args;

#[derive(Debug, Args)]
pub struct EndpointsArgs {
    /// SERVICE, NAMESPACE/SERVICE or NAMESPACE/SERVICE:PORT; all services if left out
    pub service: Option<String>,
    /// As this workload sees them, subsets one by one: POD, NAMESPACE/POD, [NAMESPACE/]deploy/NAME, …
    #[arg(long, short = 's', value_name = "WORKLOAD")]
    pub from: Option<String>,
    #[command(flatten)]
    pub files: Files,
}

pub(super) fn run(client: &Client, format: Format, args: &EndpointsArgs) -> Result<()> {
    if args.from.is_some() || !args.files.files.is_empty() {
        let from = args.from.as_deref().unwrap_or("default/");
        return super::routes::endpoints(client, format, &args.files, from, args.service.as_deref());
    }
    let mut rows: Vec<Endpoint> = client.read("/endpoints")?;
    if let Some(wanted) = &args.service {
        rows.retain(|row| matches(&row.service, wanted));
        if rows.is_empty() {
            bail!("{wanted} has no endpoints here, or is not known; `mesh-agent services` lists what is");
        }
    }
    output::print(format, &rows, |paint| draw(&rows, paint))
}

/// `reviews`, `default/reviews` and `default/reviews:9080` all name `default/reviews:9080`.
pub(super) fn matches(key: &str, wanted: &str) -> bool {
    let service = key.rsplit_once(':').map_or(key, |(service, _)| service);
    let name = service.split_once('/').map_or(service, |(_, name)| name);
    [key, service, name].contains(&wanted)
}

pub(super) fn draw(rows: &[Endpoint], paint: Paint) -> String {
    let mut table = Table::new(&[
        "SERVICE",
        "ENDPOINT",
        "WORKLOAD",
        "LOCALITY",
        "WEIGHT",
        "HEALTH",
        "EJECTIONS",
        "ACTIVE",
        "REQUESTS",
        "FAILURES",
        "LATENCY",
    ]);
    for row in rows {
        let service = row.subset.as_ref().map_or_else(|| row.service.clone(), |s| format!("{}/{s}", row.service));
        table.row(vec![
            service.into(),
            row.addr.to_string().into(),
            row.workload.as_deref().unwrap_or("-").into(),
            if row.locality.is_empty() { "-" } else { &row.locality }.into(),
            Cell::number(&row.weight),
            health(row),
            Cell::number(&row.ejections),
            Cell::number(&row.active),
            Cell::number(&row.requests),
            Cell::number(&row.failures),
            Cell::number(&row.latency_ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.2} ms"))),
        ]);
    }
    table.render(paint)
}

fn health(row: &Endpoint) -> Cell {
    match row.health.as_str() {
        "ready" if row.ejected => Cell::styled(format!("ejected {:.1} s", row.ejected_ms as f64 / 1000.0), Style::Bad),
        "ready" if row.avoided => Cell::styled("avoided", Style::Bad),
        "ready" => Cell::styled("ready", Style::Good),
        other => Cell::styled(other, Style::Warn),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_named_in_three_ways() {
        let key = "default/reviews:9080";
        for wanted in ["reviews", "default/reviews", "default/reviews:9080"] {
            assert!(matches(key, wanted), "{wanted}");
        }
        for wanted in ["review", "default", "other/reviews", "default/reviews:80", ""] {
            assert!(!matches(key, wanted), "{wanted}");
        }
    }

    #[test]
    fn an_endpoint_in_trouble_says_so() {
        let avoided = Endpoint {
            service: "default/reviews:9080".into(),
            subset: None,
            addr: "10.0.0.1:9080".parse().expect("address"),
            workload: None,
            locality: "eu/a".into(),
            weight: 1,
            health: "ready".into(),
            avoided: true,
            ejected: false,
            ejected_ms: 0,
            ejections: 0,
            active: 2,
            requests: 10,
            failures: 3,
            latency_ms: Some(1.234),
        };
        let ejected =
            Endpoint { subset: Some("v3".into()), ejected: true, ejected_ms: 2500, ejections: 7, ..avoided.clone() };
        let text = draw(&[avoided, ejected], Paint::off());
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[1].contains("avoided") && lines[1].contains("1.23 ms") && lines[1].contains("eu/a"), "{text}");
        assert!(lines[2].contains("reviews:9080/v3") && lines[2].contains("ejected 2.5 s"), "{text}");
    }
}
