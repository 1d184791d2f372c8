//! `mesh-agent routes WORKLOAD`, and `services` and `endpoints` as a workload sees them.

use super::client::Client;
use super::explain::{Files, world_of};
use super::output::{self, Format, Paint, Style};
use super::table::{Cell, Table};
use crate::explain::seen::{EndpointRow, Look, RouteRow, ServiceRow, What, look};
use anyhow::{Result, bail};
use clap::Args;
use serde::de::DeserializeOwned;
use std::sync::Arc;

#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct RoutesArgs {
    /// Whose: POD, NAMESPACE/POD, [NAMESPACE/]deploy/NAME, [NAMESPACE/]LABEL=VALUE, or NAMESPACE/ for some pod of it
    #[arg(default_value = "default/")]
    pub workload: String,
    /// Only hosts that contain this
    #[arg(long)]
    pub host: Option<String>,
    #[command(flatten)]
    pub files: Files,
}

#[derive(Debug, Args)]
pub struct ServicesArgs {
    /// As this workload sees them (exportTo, Sidecar, subsets); all as they are configured if left out
    pub workload: Option<String>,
    #[command(flatten)]
    pub files: Files,
}

const AFTER_HELP: &str = "\
Each row is a rule that may take the workload's requests, in the order in which they are tried. Rules that cannot hold
for it (of another port, gateway, source namespace or label) are left out; `mesh-agent explain` says of one request
which row takes it.

Examples:
  mesh-agent routes deploy/productpage-v1
  mesh-agent routes shop/web-7d9c --host reviews -o json
  mesh-agent routes -f ./mesh.d shop/                  some pod of namespace shop, of files";

pub(super) fn run(client: &Client, format: Format, args: &RoutesArgs) -> Result<()> {
    let mut rows: Vec<RouteRow> = seen(client, &args.files, &args.workload, What::Routes)?;
    if let Some(host) = &args.host {
        rows.retain(|row| row.host.contains(&**host));
        if rows.is_empty() {
            bail!("{} sees no host that contains `{host}`", args.workload);
        }
    }
    output::print(format, &rows, |paint| draw_routes(&rows, paint))
}

pub(super) fn services(client: &Client, format: Format, args: &ServicesArgs, workload: &str) -> Result<()> {
    let rows: Vec<ServiceRow> = seen(client, &args.files, workload, What::Services)?;
    output::print(format, &rows, |paint| draw_services(&rows, paint))
}

pub(super) fn endpoints(
    client: &Client,
    format: Format,
    files: &Files,
    workload: &str,
    of: Option<&str>,
) -> Result<()> {
    let mut rows: Vec<EndpointRow> = seen(client, files, workload, What::Endpoints)?;
    if let Some(of) = of {
        rows.retain(|row| super::endpoints::matches(port(&row.service), of));
    }
    output::print(format, &rows, |paint| draw_endpoints(&rows, paint))
}

/// `shop/web:80/v1` → `shop/web:80`
fn port(cluster: &str) -> &str {
    cluster.match_indices('/').nth(1).and_then(|(at, _)| cluster.get(..at)).unwrap_or(cluster)
}

/// What a workload sees, of files or of the running agent.
pub(super) fn seen<T: DeserializeOwned>(client: &Client, files: &Files, workload: &str, what: What) -> Result<Vec<T>> {
    let asked = Look { from: workload.to_owned(), what };
    if files.files.is_empty() {
        return Ok(client.ask("/seen", &serde_json::to_string(&asked)?)?);
    }
    let world = files.load()?;
    let seen = look(&world_of(&world, &Arc::default()), &asked)?;
    Ok(serde_json::from_value(serde_json::to_value(&seen)?)?)
}

fn draw_routes(rows: &[RouteRow], paint: Paint) -> String {
    let mut table = Table::new(&["HOST", "PORT", "MATCH", "TO", "RULE"]);
    for row in rows {
        let (object, field) = (&row.reference.object, &row.reference.field);
        table.row(vec![
            row.host.as_str().into(),
            Cell::number(&row.port),
            row.matches.as_str().into(),
            row.to.as_str().into(),
            if object.is_empty() { Cell::styled("-", Style::Dim) } else { format!("{object} {field}").into() },
        ]);
    }
    table.render(paint)
}

fn draw_services(rows: &[ServiceRow], paint: Paint) -> String {
    let mut table = Table::new(&["SERVICE", "HOST", "ADDRESS", "PORT", "PROTOCOL", "SUBSETS", "DESTINATION RULES"]);
    let dash = |list: &[String]| if list.is_empty() { "-".to_owned() } else { list.join(",") };
    for row in rows {
        let rules: Vec<String> = row.rules.iter().map(|rule| rule.object.replace("DestinationRule ", "")).collect();
        table.row(vec![
            row.service.as_str().into(),
            row.host.as_str().into(),
            dash(&row.addresses).into(),
            Cell::number(&row.port),
            row.protocol.as_str().into(),
            dash(&row.subsets).into(),
            dash(&rules).into(),
        ]);
    }
    table.render(paint)
}

fn draw_endpoints(rows: &[EndpointRow], paint: Paint) -> String {
    let mut table = Table::new(&[
        "SERVICE", "ENDPOINT", "WORKLOAD", "LOCALITY", "WEIGHT", "HEALTH", "PRIORITY", "ACTIVE", "LATENCY",
    ]);
    for EndpointRow { service, endpoint } in rows {
        table.row(vec![
            service.as_str().into(),
            endpoint.address.to_string().into(),
            endpoint.workload.as_deref().unwrap_or("-").into(),
            if endpoint.locality.is_empty() { "-" } else { endpoint.locality.as_str() }.into(),
            Cell::number(&endpoint.weight),
            super::explain::health(endpoint),
            Cell::number(&endpoint.priority.map_or_else(|| "-".into(), |priority| priority.to_string())),
            Cell::number(&endpoint.active),
            Cell::number(&endpoint.latency_ms.map_or_else(|| "-".into(), |ms| format!("{ms:.2} ms"))),
        ]);
    }
    table.render(paint)
}
