//! `mesh-agent services`.

use super::client::Client;
use super::output::{self, Format, Paint, Style};
use super::routes::ServicesArgs;
use super::table::{Cell, Table};
use crate::admin::view::Service;
use anyhow::Result;

pub(super) fn run(client: &Client, format: Format, args: &ServicesArgs) -> Result<()> {
    if args.workload.is_some() || !args.files.files.is_empty() {
        return super::routes::services(client, format, args, args.workload.as_deref().unwrap_or("default/"));
    }
    let rows: Vec<Service> = client.read("/services")?;
    output::print(format, &rows, |paint| draw(&rows, paint))
}

fn draw(rows: &[Service], paint: Paint) -> String {
    let mut table = Table::new(&["SERVICE", "ADDRESS", "PORT", "NAME", "PROTOCOL", "BALANCED BY", "POLICY", "READY"]);
    for service in rows {
        let address = match (service.headless, service.addresses.is_empty()) {
            (true, _) => "headless".to_owned(),
            (false, true) => "-".to_owned(),
            (false, false) => service.addresses.join(","),
        };
        for port in &service.ports {
            let total = port.ready + port.draining + port.not_ready;
            let style = match port.ready {
                0 => Style::Bad,
                ready if ready < total => Style::Warn,
                _ => Style::Good,
            };
            table.row(vec![
                service.name.as_str().into(),
                address.as_str().into(),
                Cell::number(&port.port),
                port.name.as_str().into(),
                port.protocol.as_str().into(),
                port.balanced_by.as_str().into(),
                port.policy.as_str().into(),
                Cell::styled(format!("{}/{total}", port.ready), style),
            ]);
        }
    }
    table.render(paint)
}
