//! Whether the agent that is told to end was uninstalled, or is only replaced.
//!
//! Whoever deletes the DaemonSet (`mesh-agent uninstall`, `helm uninstall`, `kubectl delete`) may delete the agent's right
//! to ask in the same breath, so the agent watches while it runs: a watch that is open outlives the role it was allowed
//! by. Invariant: only proof removes anything: the API server says that this very DaemonSet does not exist, or is being
//! deleted. A refusal (401, 403), silence, and a page of something in between prove nothing.

use super::cluster::{Cluster, ClusterError};
use futures_util::StreamExt;
use k8s_openapi::api::apps::v1::DaemonSet;
use kube::Client;
use kube::api::Api;
use kube::core::{PartialObjectMeta, Status};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::watch_object;
use std::path::Path;
use std::pin::pin;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::task::JoinHandle;

/// An API server that is asked by an ending agent has this long.
const LIMIT: Duration = Duration::from_secs(3);

/// The DaemonSet an agent belongs to: `NAMESPACE/NAME`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    pub namespace: String,
    pub name: String,
}

/// A watch of the DaemonSet; it ends when this is dropped.
#[derive(Debug)]
pub struct OwnerWatch {
    sets: Api<DaemonSet>,
    name: String,
    /// What the watch said last.
    gone: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl FromStr for Owner {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() => {
                Ok(Self { namespace: namespace.into(), name: name.into() })
            }
            _ => Err("expected NAMESPACE/NAME of a DaemonSet".into()),
        }
    }
}

impl OwnerWatch {
    /// # Errors
    /// Without a usable kubeconfig or service account. That the server does not answer is none.
    pub async fn start(owner: &Owner, kubeconfig: Option<&Path>) -> Result<Self, ClusterError> {
        Ok(Self::with(Cluster::of(kubeconfig, None).await?.client, owner))
    }

    /// Asks. Without an answer that proves something, what the watch has seen counts.
    pub async fn is_gone(&self) -> bool {
        self.is_gone_within(LIMIT).await
    }

    /// Without asking.
    pub fn has_seen_it_go(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }

    fn with(client: Client, owner: &Owner) -> Self {
        let gone = Arc::new(AtomicBool::new(false));
        let metadata = Api::namespaced(client.clone(), &owner.namespace);
        let task = tokio::spawn(follow(metadata, owner.name.clone(), Arc::clone(&gone)));
        Self { sets: Api::namespaced(client, &owner.namespace), name: owner.name.clone(), gone, task }
    }

    async fn is_gone_within(&self, limit: Duration) -> bool {
        match tokio::time::timeout(limit, self.sets.get_metadata(&self.name)).await {
            Ok(Ok(found)) => found.metadata.deletion_timestamp.is_some(),
            Ok(Err(kube::Error::Api(status))) if is_absence(&status, &self.name) => true,
            Ok(Err(_)) | Err(_) => self.has_seen_it_go(),
        }
    }
}

impl Drop for OwnerWatch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn follow(sets: Api<PartialObjectMeta<DaemonSet>>, name: String, gone: Arc<AtomicBool>) {
    let mut states = pin!(watch_object(sets, &name).default_backoff());
    while let Some(state) = states.next().await {
        match state {
            Ok(found) => {
                let is_gone = found.is_none_or(|set| set.metadata.deletion_timestamp.is_some());
                gone.store(is_gone, Ordering::Relaxed);
            }
            // Most often: the server is away, which the source of objects says already.
            Err(error) => tracing::debug!(%error, "the agent's DaemonSet cannot be watched"),
        }
    }
}

/// The API server's own 404 about this DaemonSet. A proxy's, or one of a server without the API group, has no reason.
fn is_absence(status: &Status, name: &str) -> bool {
    status.code == 404
        && status.reason == "NotFound"
        && status.details.as_ref().is_some_and(|details| details.name == name && details.kind == "daemonsets")
}

#[cfg(test)]
#[path = "owner_tests.rs"]
mod tests;
