//! What each node knows of itself, node by node.

use super::Cluster;
use crate::admin::view::{ConnectionList, Diagnostic, Endpoint, Workload};
use crate::cli::output::{self, Format, Paint, Style};
use crate::cli::{connections, diagnostics, endpoints, workloads};
use anyhow::{Result, bail};
use serde::Serialize;
use std::collections::BTreeMap;
use std::process::ExitCode;

#[derive(Serialize)]
struct OnNode<T> {
    node: String,
    #[serde(flatten)]
    of: T,
}

/// Pods of the cluster, each as its own node's agent sees it.
pub(super) fn workloads(cluster: &Cluster, format: Format) -> Result<ExitCode> {
    let (heard, code) = cluster.heard::<Vec<Workload>>("/workloads")?;
    let rows = merged(heard.into_iter().map(|(member, rows)| (member.node.as_str(), rows)));
    output::print(format, &rows, |paint| workloads::draw(&rows, paint))?;
    Ok(code)
}

/// Every agent knows all pods; whether a pod is in the mesh, its own.
fn merged<'a>(answers: impl Iterator<Item = (&'a str, Vec<Workload>)>) -> Vec<Workload> {
    let mut pods: BTreeMap<String, (bool, Workload)> = BTreeMap::new();
    for (node, rows) in answers {
        for row in rows {
            let own = row.node == node;
            if own || !pods.contains_key(&row.name) {
                pods.insert(row.name.clone(), (own, row));
            }
        }
    }
    let unheard = |(own, mut row): (bool, Workload)| {
        if !own && row.mesh == "elsewhere" {
            row.reason = "its node's agent does not say".into();
        }
        row
    };
    pods.into_values().map(unheard).collect()
}

pub(super) fn connections(cluster: &Cluster, format: Format) -> Result<ExitCode> {
    let (heard, code) = cluster.heard::<ConnectionList>("/connections")?;
    let nodes: Vec<_> = heard.into_iter().map(|(m, of)| OnNode { node: m.node.clone(), of }).collect();
    output::print(format, &nodes, |paint| sections(nodes.iter(), paint, connections::draw))?;
    Ok(code)
}

pub(super) fn endpoints(cluster: &Cluster, format: Format, service: Option<&str>) -> Result<ExitCode> {
    let (heard, code) = cluster.heard::<Vec<Endpoint>>("/endpoints")?;
    let wanted = |row: &Endpoint| service.is_none_or(|wanted| endpoints::matches(&row.service, wanted));
    let nodes: Vec<(&str, Vec<Endpoint>)> =
        heard.into_iter().map(|(m, rows)| (&*m.node, rows.into_iter().filter(wanted).collect())).collect();
    if let Some(service) = service.filter(|_| nodes.iter().all(|(_, rows)| rows.is_empty())) {
        bail!("{service} has no endpoints here, or is not known; `mesh-agent services` lists what is");
    }
    let on = |node: &str, of: &Endpoint| OnNode { node: node.into(), of: of.clone() };
    let flat: Vec<_> = nodes.iter().flat_map(|(node, rows)| rows.iter().map(|row| on(node, row))).collect();
    output::print(format, &flat, |paint| {
        let sections = nodes.iter().map(|(node, rows)| heading(node, paint) + &endpoints::draw(rows, paint));
        sections.collect::<Vec<_>>().join("\n")
    })?;
    Ok(code)
}

/// Each finding once, with the nodes whose agents have it where that is not all.
pub(super) fn diagnostics(cluster: &Cluster, format: Format) -> Result<ExitCode> {
    let (heard, code) = cluster.heard::<Vec<Diagnostic>>("/diagnostics")?;
    let rows = once(heard.into_iter().map(|(member, rows)| (member.node.clone(), rows)).collect());
    output::print(format, &rows, |paint| diagnostics::draw(&rows, paint))?;
    Ok(code)
}

fn once(answers: Vec<(String, Vec<Diagnostic>)>) -> Vec<Diagnostic> {
    let all = answers.len();
    let mut found: Vec<(Diagnostic, Vec<String>)> = Vec::new();
    for (node, rows) in answers {
        for row in rows {
            match found.iter_mut().find(|(known, _)| *known == row) {
                Some((_, nodes)) => nodes.push(node.clone()),
                None => found.push((row, vec![node.clone()])),
            }
        }
    }
    let told = |(mut row, nodes): (Diagnostic, Vec<String>)| {
        if nodes.len() < all {
            row.message = format!("{} (on {})", row.message, nodes.join(", "));
        }
        row
    };
    found.into_iter().map(told).collect()
}

fn sections<'a, T: 'a>(
    nodes: impl Iterator<Item = &'a OnNode<T>>,
    paint: Paint,
    draw: impl Fn(&T, Paint) -> String,
) -> String {
    nodes.map(|node| heading(&node.node, paint) + &draw(&node.of, paint)).collect::<Vec<_>>().join("\n")
}

fn heading(node: &str, paint: Paint) -> String {
    format!("{}\n", paint.text(&format!("node {node}"), Style::Bold))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, node: &str, mesh: &str) -> Workload {
        Workload {
            name: name.into(),
            owner: "Deployment/a".into(),
            node: node.into(),
            service_account: "default".into(),
            addresses: Vec::new(),
            mesh: mesh.into(),
            reason: String::new(),
        }
    }

    #[test]
    fn a_pod_is_what_its_own_nodes_agent_says() {
        let n1 = vec![pod("d/a", "n1", "enrolled"), pod("d/b", "n2", "elsewhere"), pod("d/c", "n3", "elsewhere")];
        let n2 = vec![pod("d/a", "n1", "elsewhere"), pod("d/b", "n2", "outside"), pod("d/c", "n3", "elsewhere")];
        let rows = merged([("n1", n1), ("n2", n2)].into_iter());
        let said: Vec<_> = rows.iter().map(|row| (&*row.name, &*row.mesh, row.reason.is_empty())).collect();
        assert_eq!(said, [("d/a", "enrolled", true), ("d/b", "outside", true), ("d/c", "elsewhere", false)]);
    }

    #[test]
    fn a_finding_of_all_is_told_once_and_of_some_with_their_names() {
        let finding = |message: &str| Diagnostic {
            severity: "error".into(),
            code: "UM0100".into(),
            file: String::new(),
            object: "Service d/a".into(),
            field: String::new(),
            message: message.into(),
            fix: String::new(),
        };
        let answers = vec![("n1".to_owned(), vec![finding("x"), finding("y")]), ("n2".to_owned(), vec![finding("x")])];
        let messages: Vec<_> = once(answers).into_iter().map(|row| row.message).collect();
        assert_eq!(messages, ["x", "y (on n1)"]);
    }
}
