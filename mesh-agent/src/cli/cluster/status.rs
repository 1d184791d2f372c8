//! `mesh-agent status` of all nodes.

use super::Cluster;
use crate::admin::view::Status;
use crate::cli::client::ClientError;
use crate::cli::output::{self, Format, Paint, Style};
use crate::cli::table::{Cell, Table};
use crate::fleet::Member;
use anyhow::Result;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::ExitCode;

#[derive(Serialize)]
struct ClusterStatus {
    server: String,
    /// Nodes that shall have an agent, where that may be read.
    wanted: Option<i32>,
    /// Every one answers, is ready, and has what most have.
    in_order: bool,
    agents: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    node: String,
    pod: String,
    ready: bool,
    /// Why it does not answer, is not ready, or has other objects than most; empty where all is well.
    trouble: String,
    /// `None` where it does not answer.
    status: Option<Status>,
}

pub(super) fn run(cluster: &Cluster, format: Format) -> Result<ExitCode> {
    let status = judge(&cluster.fleet.server, cluster.fleet.wanted, cluster.all::<Status>("/status"));
    output::print(format, &status, |paint| draw(&status, paint))?;
    Ok(if status.in_order { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn judge(server: &str, wanted: Option<i32>, answers: Vec<(&Member, Result<Status, ClientError>)>) -> ClusterStatus {
    let rows = answers.into_iter().map(|(member, answer)| {
        let (trouble, status) = match answer {
            Ok(status) => (String::new(), Some(status)),
            // The row says which agent it is.
            Err(ClientError::Silent { source, .. }) => (format!("does not answer: {source}"), None),
            Err(error) => (format!("does not answer: {error}"), None),
        };
        Row { node: member.node.clone(), pod: member.pod.clone(), ready: member.ready, trouble, status }
    });
    let mut agents: Vec<Row> = rows.collect();
    let skew = Skew::of(&agents);
    for row in &mut agents {
        if let Some(status) = &row.status {
            row.trouble = skew.trouble(row.ready, status);
        }
    }
    let enough = wanted.is_none_or(|wanted| usize::try_from(wanted).is_ok_and(|wanted| agents.len() >= wanted));
    let in_order = enough && agents.iter().all(|row| row.trouble.is_empty());
    ClusterStatus { server: server.into(), wanted, in_order, agents }
}

/// What most agents have in force. Generations are each agent's own count: they are not compared.
struct Skew {
    objects: Option<String>,
    newest: u64,
}

impl Skew {
    fn of(rows: &[Row]) -> Self {
        let clusters = || rows.iter().filter_map(|row| row.status.as_ref()?.config.cluster.as_ref());
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        clusters().for_each(|cluster| *counts.entry(&cluster.objects).or_default() += 1);
        let most = counts.into_iter().max_by_key(|(_, count)| *count);
        Self {
            objects: most.map(|(objects, _)| objects.to_owned()),
            newest: clusters().map(|cluster| cluster.resource_version).max().unwrap_or(0),
        }
    }

    fn trouble(&self, ready: bool, status: &Status) -> String {
        let mut said = Vec::new();
        if status.draining {
            said.push("stopping".to_owned());
        } else if !ready {
            said.push("not ready".to_owned());
        }
        if let Some(cluster) = &status.config.cluster {
            if cluster.state != "in-sync" {
                said.push(format!("{} the API server: {}", cluster.state, cluster.reason));
            }
            if self.objects.as_ref().is_some_and(|most| *most != cluster.objects) {
                let behind = self.newest.saturating_sub(cluster.resource_version);
                said.push(format!("other objects than most agents (resourceVersion {behind} behind)"));
            }
        }
        said.join("; ")
    }
}

fn draw(status: &ClusterStatus, paint: Paint) -> String {
    let mut out = String::new();
    let there = status.agents.len();
    let wanted = status.wanted.map_or_else(|| there.to_string(), |wanted| wanted.to_string());
    let well = status.agents.iter().filter(|row| row.trouble.is_empty()).count();
    let style = if status.in_order { Style::Good } else { Style::Bad };
    // Writing to a String does not fail.
    let _ = writeln!(out, "{} {}", paint.text("cluster", Style::Bold), status.server);
    let _ = writeln!(
        out,
        "{}  {}\n",
        paint.text("agents", Style::Bold),
        paint.text(&format!("{well} of {wanted} in order"), style)
    );
    let mut table = Table::new(&[
        "NODE",
        "READY",
        "VERSION",
        "GENERATION",
        "RESOURCEVERSION",
        "OBJECTS",
        "KERNEL",
        "PODS",
        "REASON",
    ]);
    for row in &status.agents {
        let Some(agent) = &row.status else {
            let none = || Cell::from("-");
            let no = Cell::styled("no", Style::Bad);
            let why = Cell::styled(row.trouble.as_str(), Style::Bad);
            table.row(vec![row.node.as_str().into(), no, none(), none(), none(), none(), none(), none(), why]);
            continue;
        };
        let cluster = agent.config.cluster.clone().unwrap_or_default();
        let ready = if row.ready { Cell::styled("yes", Style::Good) } else { Cell::styled("no", Style::Bad) };
        table.row(vec![
            row.node.as_str().into(),
            ready,
            agent.version.as_str().into(),
            Cell::number(&agent.config.generation),
            Cell::number(&cluster.resource_version),
            cluster.objects.into(),
            agent.kernel.tier.as_str().into(),
            format!("{} in, {} out", agent.pods.in_mesh.len(), agent.pods.outside.len()).into(),
            Cell::styled(row.trouble.as_str(), Style::Bad),
        ]);
    }
    out.push_str(&table.render(paint));
    let pods = status.agents.iter().filter_map(|row| Some((row, &row.status.as_ref()?.pods)));
    let mut table = Table::new(&["POD", "NODE", "MESH", "REASON"]);
    let mut any = false;
    for (row, pods) in pods {
        let within = pods.in_mesh.iter().map(|pod| (pod, Cell::styled("in", Style::Good), ""));
        let outside = pods.outside.iter().map(|o| (&o.pod, Cell::styled("outside", Style::Warn), o.reason.as_str()));
        for (pod, mesh, reason) in within.chain(outside) {
            any = true;
            table.row(vec![pod.as_str().into(), row.node.as_str().into(), mesh, reason.into()]);
        }
    }
    if any {
        let _ = write!(out, "\n{}", table.render(paint));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::view::{Cluster, ConfigStatus, OutsidePod, Pods};

    fn row(node: &str, ready: bool, objects: &str, version: u64) -> Row {
        let cluster = Cluster {
            state: "in-sync".into(),
            objects: objects.into(),
            resource_version: version,
            ..Cluster::default()
        };
        let outside = vec![OutsidePod { pod: "d/b".into(), reason: "hostNetwork".into() }];
        let status = Status {
            config: ConfigStatus { cluster: Some(cluster), ..ConfigStatus::default() },
            pods: Pods { in_mesh: vec![format!("d/{node}")], outside, elsewhere: 0 },
            ..Status::default()
        };
        Row { node: node.into(), pod: "p".into(), ready, trouble: String::new(), status: Some(status) }
    }

    #[test]
    fn who_lags_is_named_against_what_most_have() {
        let rows = [row("n1", true, "aa", 10), row("n2", true, "aa", 12), row("n3", false, "bb", 9)];
        let skew = Skew::of(&rows);
        let said: Vec<_> = rows.iter().map(|row| skew.trouble(row.ready, row.status.as_ref().unwrap())).collect();
        assert_eq!(said, ["", "", "not ready; other objects than most agents (resourceVersion 3 behind)"]);
    }

    #[test]
    fn a_silent_agent_is_a_row_with_its_reason() {
        let mut silent = row("n2", false, "", 0);
        silent.status = None;
        silent.trouble = "does not answer: its pod does not run: ImagePullBackOff".into();
        let agents = vec![row("n1", true, "aa", 1), silent];
        let status = ClusterStatus { server: "https://s".into(), wanted: Some(3), in_order: false, agents };
        let text = draw(&status, Paint::off());
        for needle in ["1 of 3 in order", "ImagePullBackOff", "1 in, 1 out", "hostNetwork"] {
            assert!(text.contains(needle), "{needle} in {text}");
        }
    }
}
