//! Objects to and from an API server, and the wait for what they do.

use crate::fleet;
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams};
use kube::core::{ApiResource, DynamicObject as Object, GroupVersionKind};
use kube::{Client, ResourceExt};
use serde_yaml_ng::Value;
use std::fmt;
use std::path::Path;

/// Owner of the fields that are set (server-side apply).
const MANAGER: &str = "undermesh";

pub struct Cluster {
    pub(super) client: Client,
    /// Its address.
    pub server: String,
}

/// What became of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    Created,
    Configured,
    Unchanged,
    Deleted,
    Absent,
    /// Somebody's objects hang on it.
    Kept,
}

/// How far a DaemonSet is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Nodes that shall have a pod.
    pub wanted: i64,
    /// Of those, with a pod of the current template that is ready.
    pub ready: i64,
    /// The controller has seen the current template.
    pub observed: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    #[error("no way to a cluster: {0}")]
    Config(String),
    #[error("{object}: {source}")]
    Api { object: String, source: kube::Error },
    #[error("not an object: {0}")]
    NotAnObject(#[from] serde_json::Error),
}

impl Cluster {
    /// By a kubeconfig's context; `None`: as kubectl finds it.
    ///
    /// # Errors
    /// Without a usable kubeconfig. Nothing is asked yet.
    pub async fn of(kubeconfig: Option<&Path>, context: Option<&str>) -> Result<Self, ClusterError> {
        let config = fleet::config(kubeconfig, context).await.map_err(ClusterError::Config)?;
        let server = config.cluster_url.to_string();
        let client = Client::try_from(config).map_err(|error| ClusterError::Config(error.to_string()))?;
        Ok(Self { client, server })
    }

    /// Server-side apply: fields that others set and we do not name stay.
    ///
    /// # Errors
    /// What the server says, with the object's name.
    pub async fn apply(&self, object: &Value) -> Result<Done, ClusterError> {
        let (api, object) = self.api(object)?;
        let name = object.name_any();
        let failed = |source| ClusterError::Api { object: label(&object), source };
        let before = api.get_opt(&name).await.map_err(failed)?;
        let after =
            api.patch(&name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(&object)).await.map_err(failed)?;
        Ok(match before {
            None => Done::Created,
            Some(before) if before.resource_version() == after.resource_version() => Done::Unchanged,
            Some(_) => Done::Configured,
        })
    }

    /// # Errors
    /// What the server says; that the object is not there is none.
    pub async fn delete(&self, object: &Value) -> Result<Done, ClusterError> {
        let (api, object) = self.api(object)?;
        match api.delete(&object.name_any(), &DeleteParams::background()).await {
            Ok(_) => Ok(Done::Deleted),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(Done::Absent),
            Err(source) => Err(ClusterError::Api { object: label(&object), source }),
        }
    }

    /// # Errors
    /// What the server says.
    pub async fn exists(&self, object: &Value) -> Result<bool, ClusterError> {
        let (api, object) = self.api(object)?;
        let found = api.get_opt(&object.name_any()).await;
        Ok(found.map_err(|source| ClusterError::Api { object: label(&object), source })?.is_some())
    }

    /// Whether it is the definition of a kind of which there are objects.
    ///
    /// # Errors
    /// What the server says.
    pub async fn is_used(&self, object: &Value) -> Result<bool, ClusterError> {
        if object.get("kind").and_then(Value::as_str) != Some("CustomResourceDefinition")
            || !self.exists(object).await?
        {
            return Ok(false);
        }
        let spec = serde_json::to_value(object.get("spec"))?;
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        let kind = GroupVersionKind::gvk(
            &text(&spec["group"]),
            &text(&spec["versions"][0]["name"]),
            &text(&spec["names"]["kind"]),
        );
        let kind = ApiResource::from_gvk_with_plural(&kind, &text(&spec["names"]["plural"]));
        let api: Api<DynamicObject> = Api::all_with(self.client.clone(), &kind);
        let some = api.list(&kube::api::ListParams::default().limit(1)).await;
        Ok(!some.map_err(|source| ClusterError::Api { object: kind.plural, source })?.items.is_empty())
    }

    /// Pods of the agent that are there, those that are ending too.
    ///
    /// # Errors
    /// What the server says.
    pub async fn pods(&self, namespace: &str) -> Result<usize, ClusterError> {
        let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("", "v1", "Pod"));
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, &kind);
        let ours = kube::api::ListParams::default().labels(&format!("app.kubernetes.io/name={}", super::NAME));
        let pods = api.list(&ours).await.map_err(|source| ClusterError::Api { object: "pods".into(), source })?;
        Ok(pods.items.len())
    }

    /// # Errors
    /// What the server says.
    pub async fn progress(&self, namespace: &str) -> Result<Progress, ClusterError> {
        let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("apps", "v1", "DaemonSet"));
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, &kind);
        let set = api.get(super::NAME).await;
        let set = set.map_err(|source| ClusterError::Api { object: "DaemonSet".into(), source })?;
        let number = |field: &str| set.data["status"][field].as_i64().unwrap_or(0);
        Ok(Progress {
            wanted: number("desiredNumberScheduled"),
            ready: number("numberReady").min(number("updatedNumberScheduled")),
            observed: set.metadata.generation == Some(number("observedGeneration")),
        })
    }

    fn api(&self, object: &Value) -> Result<(Api<DynamicObject>, Object), ClusterError> {
        let object: Object = serde_json::from_value(serde_json::to_value(object)?)?;
        let types = object.types.clone().unwrap_or_default();
        let (group, version) = types.api_version.rsplit_once('/').unwrap_or(("", &types.api_version));
        let kind = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, &types.kind));
        let api = match object.namespace() {
            Some(namespace) => Api::namespaced_with(self.client.clone(), &namespace, &kind),
            None => Api::all_with(self.client.clone(), &kind),
        };
        Ok((api, object))
    }
}

impl Progress {
    /// Every node's agent is of the current template and ready. A cluster without nodes never is.
    pub fn is_done(&self) -> bool {
        self.observed && self.wanted > 0 && self.ready >= self.wanted
    }
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Padded: a column of them.
        f.pad(match self {
            Self::Created => "created",
            Self::Configured => "configured",
            Self::Unchanged => "unchanged",
            Self::Deleted => "deleted",
            Self::Absent => "not there",
            Self::Kept => "kept",
        })
    }
}

fn label(object: &Object) -> String {
    let kind = object.types.as_ref().map_or("object", |types| &types.kind);
    format!("{kind} {}", object.name_any())
}
