//! `mesh-agent analyze`: what is wrong with a configuration, before it is in force or while it is.

use super::client::Client;
use super::diagnostics;
use super::output::{self, Format};
use crate::admin::view::Diagnostic;
use crate::app::diagnostic_rows;
use crate::config::compile::{Compiler, Settings};
use crate::config::resource::parse::field_line;
use crate::config::source::FileSource;
use crate::config::{Code, Severity};
use anyhow::Result;
use clap::{Args, ValueEnum};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct AnalyzeArgs {
    /// Files and folders of Kubernetes YAML or JSON, taken together; none: ask the running agent
    #[arg(value_name = "FILE|DIR")]
    pub paths: Vec<PathBuf>,
    /// Least severity that makes the exit code 1
    #[arg(long, value_enum, value_name = "SEVERITY", default_value_t)]
    pub fail_on: FailOn,
    /// Domain of Services' DNS names (offline)
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local")]
    pub cluster_domain: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum FailOn {
    /// A part is not in force
    #[default]
    Error,
    /// In force, but probably not what was meant
    Warning,
    /// Worth knowing
    Info,
    Never,
}

const AFTER_HELP: &str = "\
Each finding says where (file and line, object, field), what is wrong, and what to do. Codes IST… are Istio's (see
istio.io/latest/docs/reference/config/analysis), UM… are ours. Give it everything that belongs together: a
VirtualService by itself names Services that are not there.

Examples:
  mesh-agent analyze ./mesh.d                          a folder, before it is put in force
  mesh-agent analyze app.yaml routes.yaml -o json      for scripts
  mesh-agent analyze ./mesh.d --fail-on warning        in CI
  mesh-agent analyze                                   what the running agent has in force

Exit codes: 0 nothing at or above --fail-on, 1 findings, 2 wrong usage or nothing that can be read, 3 no agent to ask.";

pub(super) fn run(client: &Client, format: Format, args: &AnalyzeArgs) -> Result<ExitCode> {
    let (rows, readable) = if args.paths.is_empty() {
        (client.read("/diagnostics")?, true)
    } else {
        offline(&args.paths, &args.cluster_domain)
    };
    output::print(format, &rows, |paint| diagnostics::draw(&rows, paint) + &summary(&rows))?;
    Ok(exit_code(&rows, readable, args.fail_on))
}

/// Findings of files, and whether all of them could be read.
fn offline(paths: &[PathBuf], cluster_domain: &str) -> (Vec<Diagnostic>, bool) {
    let scan = FileSource::new(paths.to_vec()).scan();
    let mut compiler = Compiler::new(Settings { node: "".into(), cluster_domain: cluster_domain.into() });
    compiler.apply(scan.changes);
    let compiled = compiler.diagnostics().cloned().chain(compiler.analysis());
    let mut texts: HashMap<Arc<Path>, String> = HashMap::new();
    let mut found = scan.diagnostics;
    let readable = !found.iter().any(|d| d.code == Code::Unreadable);
    for mut finding in compiled {
        if let (Some(file), Some(line)) = (&finding.file, finding.line) {
            // Read once more: objects do not keep their text.
            let text =
                texts.entry(Arc::clone(file)).or_insert_with(|| std::fs::read_to_string(file).unwrap_or_default());
            finding.line = Some(field_line(text, line, &finding.field).unwrap_or(line));
        }
        found.push(finding);
    }
    (diagnostic_rows(found.iter()), readable)
}

fn exit_code(rows: &[Diagnostic], readable: bool, fail_on: FailOn) -> ExitCode {
    let worst =
        |severities: &[Severity]| rows.iter().any(|row| severities.iter().any(|s| s.to_string() == row.severity));
    let failed = match fail_on {
        FailOn::Error => worst(&[Severity::Error]),
        FailOn::Warning => worst(&[Severity::Error, Severity::Warning]),
        FailOn::Info => !rows.is_empty(),
        FailOn::Never => false,
    };
    match (readable, failed) {
        (false, _) => ExitCode::from(2),
        (true, true) => ExitCode::from(1),
        (true, false) => ExitCode::SUCCESS,
    }
}

fn summary(rows: &[Diagnostic]) -> String {
    let count = |severity: Severity| rows.iter().filter(|row| row.severity == severity.to_string()).count();
    if rows.is_empty() {
        return String::new();
    }
    let (errors, warnings, infos) = (count(Severity::Error), count(Severity::Warning), count(Severity::Info));
    format!("{errors} errors, {warnings} warnings, {infos} infos\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_judged_as_a_whole_and_fields_have_their_lines() {
        let dir = tempfile::tempdir().unwrap();
        let service = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {clusterIP: 10.96.0.1, ports: [{name: http, port: 80}]}\n";
        let routes = "# routes\n---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata:\n  name: v\nspec:\n  hosts:\n  - a\n  http:\n  - route:\n    - destination:\n        host: a\n        subset: v9\n    timeout: 1s\n";
        std::fs::write(dir.path().join("a.yaml"), service).unwrap();
        std::fs::write(dir.path().join("b.yaml"), routes).unwrap();
        let (rows, readable) = offline(&[dir.path().to_owned()], "cluster.local");
        assert!(readable);
        let missing: Vec<_> = rows.iter().filter(|row| row.severity == "error").collect();
        assert_eq!(missing.len(), 1, "{rows:?}");
        assert_eq!((&*missing[0].code, &*missing[0].field), ("IST0101", "spec.http[0].route[0].destination.subset"));
        assert!(missing[0].file.ends_with("b.yaml:14"), "{}", missing[0].file);
        let (alone, _) = offline(&[dir.path().join("b.yaml")], "cluster.local");
        assert!(alone.iter().any(|row| row.field.ends_with("destination.host")));
    }

    #[test]
    fn exit_codes() {
        let row = |severity: &str| Diagnostic {
            severity: severity.into(),
            code: String::new(),
            file: String::new(),
            object: String::new(),
            field: String::new(),
            message: String::new(),
            fix: String::new(),
        };
        let code = |severity: &str, fail_on| exit_code(&[row(severity)], true, fail_on);
        assert_eq!(code("warning", FailOn::Error), ExitCode::SUCCESS);
        assert_eq!(code("warning", FailOn::Warning), ExitCode::from(1));
        assert_eq!(code("error", FailOn::Warning), ExitCode::from(1));
        assert_eq!(code("info", FailOn::Info), ExitCode::from(1));
        assert_eq!(code("error", FailOn::Never), ExitCode::SUCCESS);
        let (rows, readable) = offline(&[PathBuf::from("/nowhere/at/all")], "cluster.local");
        assert_eq!(exit_code(&rows, readable, FailOn::Never), ExitCode::from(2));
        assert_eq!(exit_code(&[], true, FailOn::Info), ExitCode::SUCCESS);
    }
}
