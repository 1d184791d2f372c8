//! What the cluster is told of its objects, when this agent is the one that tells.

use super::{ConfigFrom, Options};
use crate::config::compile::Compiler;
use crate::config::{Diagnostic, Severity};
use crate::status::{Complaint, Facts, Writer, WriterOptions};
use std::time::{Duration, Instant};
use tokio::time::sleep_until;

/// Changes that come together are judged together: it looks at every object.
const QUIET: Duration = Duration::from_secs(1);

pub(super) struct Report {
    /// `None`: the objects are files, or the agent belongs to no DaemonSet.
    writer: Option<Writer>,
    due: Option<Instant>,
}

impl Report {
    /// An agent without a namespace of its own has no place for a Lease, and tells nothing.
    pub(super) async fn start(options: &Options) -> Self {
        let writer = match (&options.config, &options.owner) {
            (ConfigFrom::Cluster(kubeconfig), Some(owner)) => {
                let options = WriterOptions {
                    kubeconfig: kubeconfig.clone(),
                    namespace: owner.namespace.clone(),
                    identity: options.node.clone(),
                };
                let writer = Writer::start(options).await;
                writer.inspect_err(|error| tracing::warn!(error, "statuses and Events are not written")).ok()
            }
            _ => None,
        };
        Self { writer, due: None }
    }

    pub(super) fn is_leading(&self) -> bool {
        self.writer.as_ref().is_some_and(Writer::is_leading)
    }

    /// The objects changed.
    pub(super) fn changed(&mut self) {
        if self.is_leading() {
            self.due.get_or_insert_with(|| Instant::now() + QUIET);
        }
    }

    /// Waits until there is something to judge. True: this agent has just begun, or ceased, to be the writer.
    pub(super) async fn next(&mut self) -> bool {
        let Some(writer) = &mut self.writer else { return std::future::pending().await };
        match self.due {
            Some(due) => tokio::select! {
                () = writer.turn() => true,
                () = sleep_until(due.into()) => false,
            },
            None => {
                writer.turn().await;
                true
            }
        }
    }

    /// Judges everything anew.
    pub(super) fn tell<'a>(&mut self, compiler: &Compiler, findings: impl Iterator<Item = &'a Diagnostic>) {
        self.due = None;
        if let Some(writer) = self.writer.as_ref().filter(|writer| writer.is_leading()) {
            writer.tell(Facts { statuses: compiler.statuses(), complaints: complaints(compiler, findings) });
        }
    }
}

/// Errors of objects, each once.
fn complaints<'a>(compiler: &Compiler, findings: impl Iterator<Item = &'a Diagnostic>) -> Vec<Complaint> {
    let errors = findings.filter(|finding| finding.severity == Severity::Error);
    let mut complaints: Vec<Complaint> = errors
        .filter_map(|finding| {
            let key = finding.object.clone()?;
            let fix = if finding.fix.is_empty() { String::new() } else { format!("; {}", finding.fix) };
            let field = if finding.field.is_empty() { String::new() } else { format!("{}: ", finding.field) };
            let note = format!("{} {field}{}{fix}", finding.code.id(), finding.message);
            Some(Complaint { uid: compiler.uid(&key).unwrap_or_default(), code: finding.code, note, key })
        })
        .collect();
    complaints.sort();
    complaints.dedup();
    complaints
}
