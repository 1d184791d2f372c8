//! `mesh-agent endpoints [SERVICE]`.

use super::client::Client;
use super::output::{self, Format, Paint, Style};
use super::table::{Cell, Table};
use crate::admin::view::Endpoint;
use anyhow::{Result, bail};
use clap::Args;

#[derive(Debug, Args)]
pub struct EndpointsArgs {
    /// SERVICE, NAMESPACE/SERVICE or NAMESPACE/SERVICE:PORT; all services if left out
    pub service: Option<String>,
}

pub(super) fn run(client: &Client, format: Format, args: &EndpointsArgs) -> Result<()> {
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
fn matches(key: &str, wanted: &str) -> bool {
    let service = key.rsplit_once(':').map_or(key, |(service, _)| service);
    let name = service.split_once('/').map_or(service, |(_, name)| name);
    [key, service, name].contains(&wanted)
}

fn draw(rows: &[Endpoint], paint: Paint) -> String {
    let headers = ["SERVICE", "ENDPOINT", "WORKLOAD", "WEIGHT", "HEALTH", "ACTIVE", "REQUESTS", "FAILURES", "LATENCY"];
    let mut table = Table::new(&headers);
    for row in rows {
        let health = match (row.health.as_str(), row.avoided) {
            ("ready", true) => Cell::styled("avoided", Style::Bad),
            ("ready", false) => Cell::styled("ready", Style::Good),
            (other, _) => Cell::styled(other, Style::Warn),
        };
        table.row(vec![
            row.service.as_str().into(),
            row.addr.to_string().into(),
            row.workload.as_deref().unwrap_or("-").into(),
            Cell::number(&row.weight),
            health,
            Cell::number(&row.active),
            Cell::number(&row.requests),
            Cell::number(&row.failures),
            Cell::number(&row.latency_ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.2} ms"))),
        ]);
    }
    table.render(paint)
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
        let row = Endpoint {
            service: "default/reviews:9080".into(),
            addr: "10.0.0.1:9080".parse().expect("address"),
            workload: None,
            weight: 1,
            health: "ready".into(),
            avoided: true,
            active: 2,
            requests: 10,
            failures: 3,
            latency_ms: Some(1.234),
        };
        let text = draw(&[row], Paint::off());
        assert!(text.contains("avoided") && text.contains("1.23 ms"), "{text}");
    }
}
