//! Whether the agent that is told to end was uninstalled, or is only replaced.
//!
//! Whoever deletes the DaemonSet (`mesh-agent uninstall`, `helm uninstall`, `kubectl delete`) deletes it before its pods,
//! so the pods can ask. Invariant: without an answer nothing is removed.

use kube::api::{Api, DynamicObject};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Client, Config};
use std::str::FromStr;
use std::time::Duration;

/// An API server that is asked by an ending agent has this long.
const LIMIT: Duration = Duration::from_secs(3);

/// The DaemonSet an agent belongs to: `NAMESPACE/NAME`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    pub namespace: String,
    pub name: String,
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

/// The DaemonSet is deleted, or being deleted. Its service account and roles may be gone already: an agent that may not
/// ask any more is uninstalled, too.
pub async fn is_gone(owner: &Owner) -> bool {
    let asked = async {
        let client = Client::try_from(Config::infer().await.ok()?).ok()?;
        let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("apps", "v1", "DaemonSet"));
        let api: Api<DynamicObject> = Api::namespaced_with(client, &owner.namespace, &kind);
        Some(match api.get(&owner.name).await {
            Ok(found) => found.metadata.deletion_timestamp.is_some(),
            Err(kube::Error::Api(status)) => matches!(status.code, 401 | 403 | 404),
            Err(_) => false,
        })
    };
    tokio::time::timeout(LIMIT, asked).await.ok().flatten().unwrap_or(false)
}
