//! Installing the agent on a cluster: the Helm chart's own templates, rendered here and applied by the API server.
//!
//! Place: beside the agent; a person's laptop runs it. Invariant: there is one source of manifests, `deploy/helm`;
//! `mesh-agent install`, `helm install` and `kubectl apply -k` make the same objects.

mod cluster;
mod owner;
mod render;
mod values;

pub use cluster::{Cluster, ClusterError, Done, Progress};
pub use owner::{Owner, OwnerWatch};
pub use values::{Profile, Values, ValuesError};

use serde_yaml_ng::Value;

/// Where it is installed unless told otherwise.
pub const NAMESPACE: &str = "undermesh-system";
/// Name of the DaemonSet and of what belongs to it.
pub const NAME: &str = "undermesh";

const TEMPLATES: &[(&str, &str)] = &[
    ("requestpolicies.yaml", include_str!("../../../deploy/helm/undermesh/templates/requestpolicies.yaml")),
    ("rbac.yaml", include_str!("../../../deploy/helm/undermesh/templates/rbac.yaml")),
    ("daemonset.yaml", include_str!("../../../deploy/helm/undermesh/templates/daemonset.yaml")),
];

/// Kinds that are somebody else's, for clusters that have none yet.
const DEFINITIONS: &[(&str, &str)] = &[
    ("gateway-api.yaml", include_str!("../../../deploy/crds/gateway-api.yaml")),
    ("istio.yaml", include_str!("../../../deploy/crds/istio.yaml")),
];

/// The namespace, which Helm makes itself (`--create-namespace`). Its label lets the agents be on the host's network.
const OWN_NAMESPACE: &str = "\
apiVersion: v1
kind: Namespace
metadata:
  name: {{ .Release.Namespace }}
  labels:
    app.kubernetes.io/name: undermesh
    pod-security.kubernetes.io/enforce: privileged
";

#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    #[error("{template}: {source}")]
    Template { template: &'static str, source: render::TemplateError },
    #[error("{template}: not YAML: {source}")]
    Yaml { template: &'static str, source: serde_yaml_ng::Error },
}

/// Every object, in the order in which they are applied.
///
/// # Errors
/// When a value makes a template's text malformed.
pub fn objects(values: &Values, namespace: &str) -> Result<Vec<Value>, ManifestError> {
    let mut objects = Vec::new();
    for (template, text) in [("namespace.yaml", OWN_NAMESPACE)].iter().chain(TEMPLATES).copied() {
        let text =
            render::render(text, values, namespace).map_err(|source| ManifestError::Template { template, source })?;
        documents(template, &text, &mut objects)?;
    }
    Ok(objects)
}

/// The definitions of the Gateway API's and Istio's kinds.
///
/// # Errors
/// None that a user can cause: a test reads them.
pub fn definitions() -> Result<Vec<Value>, ManifestError> {
    let mut objects = Vec::new();
    DEFINITIONS.iter().try_for_each(|(file, text)| documents(file, text, &mut objects))?;
    Ok(objects)
}

fn documents(template: &'static str, text: &str, into: &mut Vec<Value>) -> Result<(), ManifestError> {
    for document in serde_yaml_ng::Deserializer::from_str(text) {
        let object = serde::Deserialize::deserialize(document);
        into.push(object.map_err(|source| ManifestError::Yaml { template, source })?);
    }
    Ok(())
}

/// Objects as one text for `kubectl apply`.
///
/// # Errors
/// None that a user can cause: what was read can be written.
pub fn manifest(objects: &[Value]) -> Result<String, ManifestError> {
    let mut all = String::new();
    for object in objects {
        let text = serde_yaml_ng::to_string(object);
        let text = text.map_err(|source| ManifestError::Yaml { template: "objects", source })?;
        all.push_str("---\n");
        all.push_str(&text);
    }
    Ok(all)
}

#[cfg(test)]
mod tests;
