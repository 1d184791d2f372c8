//! `mesh-agent diagnostics`: one paragraph per finding, worst first.

use super::client::Client;
use super::output::{self, Format, Paint, Style};
use crate::admin::view::Diagnostic;
use anyhow::Result;
use std::fmt::Write as _;

pub(super) fn run(client: &Client, format: Format) -> Result<()> {
    let rows: Vec<Diagnostic> = client.read("/diagnostics")?;
    output::print(format, &rows, |paint| draw(&rows, paint))
}

pub(super) fn draw(rows: &[Diagnostic], paint: Paint) -> String {
    if rows.is_empty() {
        return format!("{}\n", paint.text("nothing to complain about", Style::Good));
    }
    let mut out = String::new();
    for row in rows {
        let style = match row.severity.as_str() {
            "error" => Style::Bad,
            "warning" => Style::Warn,
            _ => Style::Dim,
        };
        let place: Vec<&str> = [&row.file, &row.object, &row.field]
            .into_iter()
            .map(String::as_str)
            .filter(|part| !part.is_empty())
            .collect();
        let _ = writeln!(out, "{} {} {}", paint.text(&row.severity, style), row.code, place.join(" · "));
        let _ = writeln!(out, "  {}", row.message);
        if !row.fix.is_empty() {
            let _ = writeln!(out, "  fix: {}", row.fix);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_names_file_object_field_and_fix() {
        let finding = Diagnostic {
            severity: "error".into(),
            code: "UM0111".into(),
            file: "mesh.yaml".into(),
            object: "Service default/web".into(),
            field: "spec.ports[0].port".into(),
            message: "99999 is not a port".into(),
            fix: "use a number from 1 to 65535".into(),
        };
        assert_eq!(
            draw(&[finding], Paint::off()),
            "error UM0111 mesh.yaml · Service default/web · spec.ports[0].port\n  99999 is not a port\n  fix: use a number from 1 to 65535\n"
        );
        assert_eq!(draw(&[], Paint::off()), "nothing to complain about\n");
    }
}
