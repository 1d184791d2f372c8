//! Which cluster, and with whose rights: as kubectl decides it.

use kube::Config;
use kube::config::{KubeConfigOptions, Kubeconfig};
use std::path::{Path, PathBuf};

/// Where a cluster's agents are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// `None`: `$KUBECONFIG`, `~/.kube/config`, or the pod's service account.
    pub kubeconfig: Option<PathBuf>,
    /// `None`: the kubeconfig's current context.
    pub context: Option<String>,
    /// The namespace of the agents.
    pub namespace: String,
}

/// # Errors
/// A text that names the file where one was given: it is not there, or does not say how to reach a cluster.
pub async fn config(kubeconfig: Option<&Path>, context: Option<&str>) -> Result<Config, String> {
    let options = KubeConfigOptions { context: context.map(str::to_owned), ..KubeConfigOptions::default() };
    match (kubeconfig, context) {
        (Some(path), _) => {
            let read = Kubeconfig::read_from(path).map_err(|error| format!("{}: {error}", path.display()))?;
            Config::from_custom_kubeconfig(read, &options).await.map_err(|error| error.to_string())
        }
        // A context is a kubeconfig's: a pod's service account has none.
        (None, Some(_)) => Config::from_kubeconfig(&options).await.map_err(|error| error.to_string()),
        (None, None) => Config::infer().await.map_err(|error| error.to_string()),
    }
}
