//! Which kinds there are: read, known but not read, unknown.

use serde::Serialize;
use std::fmt;

/// The kinds this version reads.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize)]
pub enum Kind {
    Namespace,
    Node,
    Pod,
    Service,
    Endpoints,
    EndpointSlice,
    Deployment,
    StatefulSet,
    ReplicaSet,
    DaemonSet,
    Job,
}

/// What a document's `apiVersion` and `kind` mean to us.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Recognised {
    Read(Kind),
    /// The kind is ours, this version of it is not. Holds the version we read.
    OtherVersion(Kind, &'static str),
    /// A traffic or security object that a later version will act on.
    Later(&'static str),
    /// Of no concern to a mesh: ConfigMap, ServiceAccount, RBAC, custom resource definitions…
    Harmless,
    Unknown,
}

const READ: &[(&str, &str, Kind)] = &[
    ("v1", "Namespace", Kind::Namespace),
    ("v1", "Node", Kind::Node),
    ("v1", "Pod", Kind::Pod),
    ("v1", "Service", Kind::Service),
    ("v1", "Endpoints", Kind::Endpoints),
    ("discovery.k8s.io/v1", "EndpointSlice", Kind::EndpointSlice),
    ("apps/v1", "Deployment", Kind::Deployment),
    ("apps/v1", "StatefulSet", Kind::StatefulSet),
    ("apps/v1", "ReplicaSet", Kind::ReplicaSet),
    ("apps/v1", "DaemonSet", Kind::DaemonSet),
    ("batch/v1", "Job", Kind::Job),
];

/// API groups whose objects change traffic, with whose they are.
const LATER: &[(&str, &str)] = &[
    ("networking.istio.io", "Istio traffic"),
    ("security.istio.io", "Istio security"),
    ("telemetry.istio.io", "Istio telemetry"),
    ("extensions.istio.io", "Istio extension"),
    ("install.istio.io", "Istio installation"),
    ("gateway.networking.k8s.io", "Gateway API"),
    ("gateway.networking.x-k8s.io", "Gateway API"),
];

/// API groups of Kubernetes and of usual neighbours that a mesh leaves alone.
const HARMLESS: &[&str] = &[
    "apps",
    "batch",
    "policy",
    "autoscaling",
    "rbac.authorization.k8s.io",
    "networking.k8s.io",
    "apiextensions.k8s.io",
    "apiregistration.k8s.io",
    "admissionregistration.k8s.io",
    "certificates.k8s.io",
    "coordination.k8s.io",
    "events.k8s.io",
    "node.k8s.io",
    "scheduling.k8s.io",
    "storage.k8s.io",
    "discovery.k8s.io",
    "extensions",
    "kustomize.config.k8s.io",
    "cert-manager.io",
    "certmanager.k8s.io",
    "spire.spiffe.io",
    "monitoring.coreos.com",
];

const HARMLESS_CORE: &[&str] = &[
    "ConfigMap",
    "Secret",
    "ServiceAccount",
    "PersistentVolume",
    "PersistentVolumeClaim",
    "LimitRange",
    "ResourceQuota",
    "ReplicationController",
    "PodTemplate",
    "Event",
    "Binding",
    "ComponentStatus",
];

impl Kind {
    pub const ALL: &[Self] = &[
        Self::Namespace,
        Self::Node,
        Self::Pod,
        Self::Service,
        Self::Endpoints,
        Self::EndpointSlice,
        Self::Deployment,
        Self::StatefulSet,
        Self::ReplicaSet,
        Self::DaemonSet,
        Self::Job,
    ];

    /// Namespaced kinds without a namespace stand in `default`, as kubectl has it.
    pub fn is_namespaced(self) -> bool {
        !matches!(self, Self::Namespace | Self::Node)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

pub(super) fn recognise(api_version: &str, kind: &str) -> Recognised {
    let group = api_version.rsplit_once('/').map_or("", |(group, _)| group);
    for (version, name, known) in READ {
        let read_group = version.rsplit_once('/').map_or("", |(group, _)| group);
        if *name == kind && read_group == group {
            return if *version == api_version {
                Recognised::Read(*known)
            } else {
                Recognised::OtherVersion(*known, version)
            };
        }
    }
    if let Some((_, family)) = LATER.iter().find(|(later, _)| *later == group) {
        return Recognised::Later(family);
    }
    if group.is_empty() {
        let core = api_version == "v1" && HARMLESS_CORE.contains(&kind);
        return if core { Recognised::Harmless } else { Recognised::Unknown };
    }
    if HARMLESS.contains(&group) { Recognised::Harmless } else { Recognised::Unknown }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_told_apart_by_group_and_version() {
        assert_eq!(recognise("v1", "Service"), Recognised::Read(Kind::Service));
        assert_eq!(recognise("serving.knative.dev/v1", "Service"), Recognised::Unknown);
        assert_eq!(
            recognise("discovery.k8s.io/v1beta1", "EndpointSlice"),
            Recognised::OtherVersion(Kind::EndpointSlice, "discovery.k8s.io/v1")
        );
        assert_eq!(recognise("networking.istio.io/v1", "VirtualService"), Recognised::Later("Istio traffic"));
        assert_eq!(recognise("v1", "ConfigMap"), Recognised::Harmless);
        assert_eq!(recognise("v1", "Sevrice"), Recognised::Unknown);
    }
}
