//! `mesh-agent connections`.

use super::client::Client;
use super::output::{self, Format, Paint};
use super::table::{Cell, Table};
use crate::admin::view::ConnectionList;
use anyhow::Result;

pub(super) fn run(client: &Client, format: Format) -> Result<()> {
    let list: ConnectionList = client.read("/connections")?;
    output::print(format, &list, |paint| draw(&list, paint))
}

pub(super) fn draw(list: &ConnectionList, paint: Paint) -> String {
    let headers =
        ["ID", "SOURCE", "CLIENT", "DESTINATION", "PROTOCOL", "AGE", "REQUESTS", "STREAMS", "RECEIVED", "SENT"];
    let mut table = Table::new(&headers);
    for row in &list.connections {
        table.row(vec![
            Cell::number(&row.id),
            row.source.as_deref().unwrap_or("-").into(),
            row.client.to_string().into(),
            row.destination.as_str().into(),
            row.protocol.as_str().into(),
            Cell::number(&format!("{} s", row.age_seconds)),
            Cell::number(&row.requests),
            Cell::number(&row.streams),
            Cell::number(&row.received_bytes),
            Cell::number(&row.sent_bytes),
        ]);
    }
    let mut text = table.render(paint);
    let more = list.counts.open.saturating_sub(list.connections.len());
    if more > 0 {
        text.push_str(&format!("and {more} younger ones\n"));
    }
    text
}
