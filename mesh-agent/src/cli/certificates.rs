//! `mesh-agent certificates [WORKLOAD]`.

use super::client::Client;
use super::explain::Files;
use super::output::{self, Format, Paint, Style};
use super::table::{Cell, Table};
use crate::explain::certificates::{CertificateRow, Role};
use crate::explain::seen::What;
use crate::identity::Standing;
use anyhow::Result;
use clap::Args;

#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct CertificatesArgs {
    /// Whose: POD, NAMESPACE/POD, [NAMESPACE/]deploy/NAME, …; of all Gateways and DestinationRules if left out
    pub workload: Option<String>,
    #[command(flatten)]
    pub files: Files,
}

const AFTER_HELP: &str = "\
What a workload proves itself with, and whom it believes: the server certificates of a gateway, the client certificates
and CAs of DestinationRules for Services it may call. Private keys are never shown. -o json has every field: issuer,
serial number, dates, fingerprint, the object and file that ask for it.

Examples:
  mesh-agent certificates                             all of this node's configuration
  mesh-agent certificates shop/edge-7d9c
  mesh-agent certificates -o json | jq '.[] | select(.certificate.days_left < 14)'
  mesh-agent certificates -f ./mesh.d                 of files, without an agent";

pub(super) fn run(client: &Client, format: Format, args: &CertificatesArgs) -> Result<()> {
    let workload = args.workload.as_deref().unwrap_or_default();
    let rows: Vec<CertificateRow> = super::routes::seen(client, &args.files, workload, What::Certificates)?;
    output::print(format, &rows, |paint| draw(&rows, paint))
}

fn draw(rows: &[CertificateRow], paint: Paint) -> String {
    let mut table =
        Table::new(&["ROLE", "USED FOR", "NAMES", "ISSUER", "SERIAL", "KEY", "NOT AFTER", "DAYS", "STATE", "FROM"]);
    let dash = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
    for row in rows.iter().filter(|row| row.role != Role::MeshIdentity || row.certificate.is_some()) {
        let facts = row.certificate.as_ref();
        let of = |field: fn(&crate::identity::Facts) -> String| facts.map_or_else(|| "-".to_owned(), field);
        table.row(vec![
            role(row.role).into(),
            dash(&few(&row.used_for)).into(),
            of(|facts| if facts.names.is_empty() { facts.subject.clone() } else { few(&facts.names) }).into(),
            of(|facts| facts.issuer.clone()).into(),
            of(|facts| facts.serial.clone()).into(),
            of(|facts| facts.key.clone()).into(),
            of(|facts| facts.not_after.clone()).into(),
            Cell::number(&of(|facts| facts.days_left.to_string())),
            state(row),
            dash(&[&*row.origin, &*row.reference.object].join(" ").trim().replace("  ", " ")).into(),
        ]);
    }
    let mut text = table.render(paint);
    for row in rows.iter().filter(|row| row.role == Role::MeshIdentity && row.certificate.is_none()) {
        text.push_str(&format!("{}\n", row.note));
    }
    text
}

fn state(row: &CertificateRow) -> Cell {
    let (word, style) = match row.certificate.as_ref().map(|facts| facts.standing) {
        Some(Standing::Valid) => ("valid", Style::Good),
        Some(Standing::Expiring) => ("expiring", Style::Warn),
        Some(Standing::Expired) => ("expired", Style::Bad),
        Some(Standing::NotYetValid) => ("not yet valid", Style::Bad),
        None if row.broken => (&*row.note, Style::Bad),
        None => (&*row.note, Style::Dim),
    };
    Cell::styled(word, style)
}

fn role(role: Role) -> &'static str {
    match role {
        Role::MeshIdentity => "mesh identity",
        Role::Server => "server",
        Role::Client => "client",
        Role::Intermediate => "intermediate",
        Role::ClientCa => "CA of clients",
        Role::ServerCa => "CA of servers",
    }
}

/// The first two, and how many more there are.
fn few(names: &[String]) -> String {
    let shown = names.iter().take(2).map(String::as_str).collect::<Vec<_>>().join(",");
    if names.len() > 2 { format!("{shown} +{}", names.len() - 2) } else { shown }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::explain::view::Reference;
    use crate::identity::Facts;

    #[test]
    fn what_needs_attention_is_coloured_and_what_is_missing_is_said() {
        let facts = |standing, days_left| Facts {
            subject: "CN=edge".into(),
            names: ["a", "b", "c"].map(|name| format!("DNS:{name}.example")).to_vec(),
            issuer: "CN=ca".into(),
            serial: "0a:ff".into(),
            not_before: "2026-01-01T00:00:00Z".into(),
            not_after: "2026-03-01T00:00:00Z".into(),
            days_left,
            standing,
            key: "ECDSA P-256".into(),
            fingerprint: "00".into(),
        };
        let row = |role, certificate, note: &str| CertificateRow {
            role,
            used_for: vec![":443 a.example".into()],
            origin: "Secret shop/edge".into(),
            reference: Reference { object: "Gateway shop/edge".into(), field: String::new(), place: String::new() },
            broken: !note.is_empty(),
            note: note.into(),
            certificate,
        };
        let none = CertificateRow { broken: false, ..row(Role::MeshIdentity, None, "no mesh identity: plain text") };
        let rows = [
            none,
            row(Role::Server, Some(facts(Standing::Expiring, 3)), ""),
            row(Role::Client, Some(facts(Standing::Expired, -2)), ""),
            row(Role::ServerCa, None, "has no usable ca.crt"),
        ];
        let text = draw(&rows, Paint::on());
        assert!(text.contains("\u{1b}[33mexpiring\u{1b}[0m") && text.contains("\u{1b}[31mexpired\u{1b}[0m"), "{text}");
        assert!(text.contains("DNS:a.example,DNS:b.example +1") && text.contains("0a:ff"), "{text}");
        assert!(text.contains("\u{1b}[31mhas no usable ca.crt\u{1b}[0m"), "{text}");
        assert!(text.ends_with("no mesh identity: plain text\n") && !text.contains("mesh identity  "), "{text}");
    }
}
