//! The agents of a cluster, as a laptop with a kubeconfig reaches them.
//!
//! Place: beside the agent, in the process of a subcommand. An agent's admin socket is a file of its node; it is asked as
//! `kubectl exec` would: `mesh-agent admin-pipe` in the agent's pod joins the exec's standard streams to the socket.
//! Invariants: no TCP port is opened anywhere; who may exec in the agents' namespace, and nobody else, may ask; an agent
//! that cannot be asked is a member with a reason, never left out.

mod access;
mod pipe;

pub use access::{Access, config};
pub use pipe::{Exchange, PipeError};

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt};
use std::collections::BTreeMap;
use std::fmt;

/// The agents that a cluster has, one for each node, in order of name.
pub struct Fleet {
    /// The API server's address.
    pub server: String,
    /// Nodes that shall have an agent; `None` where the user may not read the DaemonSet.
    pub wanted: Option<i32>,
    pub members: Vec<Member>,
}

/// One agent's pod.
#[derive(Clone)]
pub struct Member {
    pub node: String,
    pub pod: String,
    /// Its readiness probe holds.
    pub ready: bool,
    /// Why it cannot be asked.
    pub silent: Option<String>,
    api: Api<Pod>,
}

#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    #[error("no way to a cluster: {0}")]
    Config(String),
    #[error("the agents of {server} cannot be listed: {source}\n  it takes the right to list pods in {namespace}")]
    List { server: String, namespace: String, source: Box<kube::Error> },
    #[error(
        "no agent runs in namespace {namespace} of {server}\n  install them with `mesh-agent install`, or name theirs with --mesh-namespace"
    )]
    Nobody { server: String, namespace: String },
    #[error("node {node} has no agent; there are agents on {known}")]
    NoNode { node: String, known: String },
}

impl Fleet {
    /// Finds the pods of the DaemonSet. Call it on the runtime on which the members are asked.
    ///
    /// # Errors
    /// Without a usable kubeconfig, without the right to list pods, and where there are none.
    pub async fn find(access: &Access) -> Result<Self, FleetError> {
        let config = config(access.kubeconfig.as_deref(), access.context.as_deref()).await;
        let config = config.map_err(FleetError::Config)?;
        let server = config.cluster_url.to_string();
        let client = Client::try_from(config).map_err(|error| FleetError::Config(error.to_string()))?;
        let namespace = access.namespace.as_str();
        let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
        let ours = ListParams::default().labels(&format!("app.kubernetes.io/name={}", crate::install::NAME));
        let pods = api.list(&ours).await.map_err(|source| FleetError::List {
            server: server.clone(),
            namespace: namespace.into(),
            source: Box::new(source),
        })?;
        let set = Api::<DaemonSet>::namespaced(client, namespace).get(crate::install::NAME).await;
        let wanted = set.ok().and_then(|set| set.status).map(|status| status.desired_number_scheduled);
        let members = one_each(pods.items.iter().map(|pod| member(pod, &api)));
        if members.is_empty() {
            return Err(FleetError::Nobody { server, namespace: namespace.into() });
        }
        Ok(Self { server, wanted, members })
    }

    /// The agent of a node.
    ///
    /// # Errors
    /// There is none; the text names those that there are.
    pub fn on(&self, node: &str) -> Result<&Member, FleetError> {
        let found = self.members.iter().find(|member| member.node == node);
        found.ok_or_else(|| {
            let known: Vec<&str> = self.members.iter().map(|member| &*member.node).collect();
            FleetError::NoNode { node: node.into(), known: known.join(", ") }
        })
    }
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.node, self.pod)
    }
}

fn member(pod: &Pod, api: &Api<Pod>) -> Member {
    let status = pod.status.as_ref();
    let container = status.and_then(|status| status.container_statuses.as_ref()?.first());
    let running = container.and_then(|container| container.state.as_ref()?.running.as_ref()).is_some();
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
    let waits = || {
        let waiting = container?.state.as_ref()?.waiting.as_ref()?;
        Some(format!("{} {}", waiting.reason.as_deref()?, waiting.message.as_deref().unwrap_or_default()))
    };
    let phase = || status.and_then(|status| status.phase.clone()).unwrap_or_else(|| "no status".into());
    let silent = match (pod.metadata.deletion_timestamp.is_some(), running) {
        (true, _) => Some("its pod is ending".to_owned()),
        (false, true) => None,
        (false, false) => Some(format!("its pod does not run: {}", waits().unwrap_or_else(phase).trim_end())),
    };
    Member {
        node: node.unwrap_or_else(|| "(no node yet)".into()),
        pod: pod.name_any(),
        ready: container.is_some_and(|container| container.ready),
        silent,
        api: api.clone(),
    }
}

/// While one is replaced a node has two: the one that can be asked counts.
fn one_each(members: impl Iterator<Item = Member>) -> Vec<Member> {
    let mut nodes: BTreeMap<String, Member> = BTreeMap::new();
    for member in members {
        match nodes.get_mut(&member.node) {
            Some(known) if known.silent.is_some() && member.silent.is_none() => *known = member,
            Some(_) => {}
            None => drop(nodes.insert(member.node.clone(), member)),
        }
    }
    nodes.into_values().collect()
}

#[cfg(test)]
mod tests;
