//! `mesh-agent workloads`.

use super::client::Client;
use super::output::{self, Format, Paint, Style};
use super::table::{Cell, Table};
use crate::admin::view::Workload;
use anyhow::Result;

pub(super) fn run(client: &Client, format: Format) -> Result<()> {
    let rows: Vec<Workload> = client.read("/workloads")?;
    output::print(format, &rows, |paint| draw(&rows, paint))
}

pub(super) fn draw(rows: &[Workload], paint: Paint) -> String {
    let mut table = Table::new(&["WORKLOAD", "OWNER", "NODE", "ADDRESS", "MESH", "REASON"]);
    for row in rows {
        let style = match row.mesh.as_str() {
            "enrolled" => Style::Good,
            "outside" => Style::Warn,
            _ => Style::Plain,
        };
        table.row(vec![
            row.name.as_str().into(),
            row.owner.as_str().into(),
            row.node.as_str().into(),
            row.addresses.join(",").into(),
            Cell::styled(row.mesh.as_str(), style),
            row.reason.as_str().into(),
        ]);
    }
    table.render(paint)
}
