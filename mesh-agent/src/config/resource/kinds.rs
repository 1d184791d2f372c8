//! Which kinds there are: read, known but not read, unknown.

use serde::Serialize;
use std::fmt;

macro_rules! kinds {
    ($($kind:ident $name:literal $scope:ident [$($version:literal)*];)*) => {
        /// The kinds this version reads.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize)]
        pub enum Kind { $(#[serde(rename = $name)] $kind,)* }

        impl Kind {
            pub const ALL: &[Self] = &[$(Self::$kind,)*];

            /// Namespaced kinds without a namespace stand in `default`, as kubectl has it.
            pub fn is_namespaced(self) -> bool {
                match self { $(Self::$kind => matches!(Scope::$scope, Scope::Namespaced),)* }
            }

            /// As documents write `kind`; two families' kinds may share it.
            pub fn api_name(self) -> &'static str {
                self.name().split('.').next().unwrap_or_default()
            }

            /// `Service`; with its group where two families have a kind of that name.
            pub fn name(self) -> &'static str {
                match self { $(Self::$kind => $name,)* }
            }
        }

        /// Each version of a kind that is read; all versions of one kind mean the same. The first is the one to write.
        const READ: &[(Kind, &str, &[&str])] = &[$((Kind::$kind, $name, &[$($version,)*]),)*];
    };
}

enum Scope {
    Cluster,
    Namespaced,
}

kinds! {
    Namespace "Namespace" Cluster ["v1"];
    Node "Node" Cluster ["v1"];
    Pod "Pod" Namespaced ["v1"];
    Service "Service" Namespaced ["v1"];
    Endpoints "Endpoints" Namespaced ["v1"];
    EndpointSlice "EndpointSlice" Namespaced ["discovery.k8s.io/v1"];
    Deployment "Deployment" Namespaced ["apps/v1"];
    StatefulSet "StatefulSet" Namespaced ["apps/v1"];
    ReplicaSet "ReplicaSet" Namespaced ["apps/v1"];
    DaemonSet "DaemonSet" Namespaced ["apps/v1"];
    Job "Job" Namespaced ["batch/v1"];
    VirtualService "VirtualService" Namespaced ["networking.istio.io/v1" "networking.istio.io/v1beta1" "networking.istio.io/v1alpha3"];
    DestinationRule "DestinationRule" Namespaced ["networking.istio.io/v1" "networking.istio.io/v1beta1" "networking.istio.io/v1alpha3"];
    ServiceEntry "ServiceEntry" Namespaced ["networking.istio.io/v1" "networking.istio.io/v1beta1" "networking.istio.io/v1alpha3"];
    WorkloadEntry "WorkloadEntry" Namespaced ["networking.istio.io/v1" "networking.istio.io/v1beta1" "networking.istio.io/v1alpha3"];
    Sidecar "Sidecar" Namespaced ["networking.istio.io/v1" "networking.istio.io/v1beta1" "networking.istio.io/v1alpha3"];
    Telemetry "Telemetry" Namespaced ["telemetry.istio.io/v1" "telemetry.istio.io/v1alpha1"];
    ConfigMap "ConfigMap" Namespaced ["v1"];
    RequestPolicy "RequestPolicy" Namespaced ["undermesh.dev/v1alpha1"];
    IstioGateway "Gateway.networking.istio.io" Namespaced ["networking.istio.io/v1" "networking.istio.io/v1beta1" "networking.istio.io/v1alpha3"];
    GatewayClass "GatewayClass" Cluster ["gateway.networking.k8s.io/v1" "gateway.networking.k8s.io/v1beta1"];
    Gateway "Gateway.gateway.networking.k8s.io" Namespaced ["gateway.networking.k8s.io/v1" "gateway.networking.k8s.io/v1beta1"];
    HttpRoute "HTTPRoute" Namespaced ["gateway.networking.k8s.io/v1" "gateway.networking.k8s.io/v1beta1" "gateway.networking.k8s.io/v1alpha2"];
    GrpcRoute "GRPCRoute" Namespaced ["gateway.networking.k8s.io/v1" "gateway.networking.k8s.io/v1alpha2"];
    ReferenceGrant "ReferenceGrant" Namespaced ["gateway.networking.k8s.io/v1" "gateway.networking.k8s.io/v1beta1" "gateway.networking.k8s.io/v1alpha2"];
    Secret "Secret" Namespaced ["v1"];
}

/// What a document's `apiVersion` and `kind` mean to us.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Recognised {
    Read(Kind),
    /// The kind is ours, this version of it is not. Holds the version we read.
    OtherVersion(Kind, &'static str),
    /// A traffic or security object that a later version will act on.
    Later(&'static str),
    /// An object that no version will act on. Holds what to write instead.
    Never(&'static str),
    /// Of no concern to a mesh: ServiceAccount, RBAC, custom resource definitions…
    Harmless,
    Unknown,
}

const ENVOY_FILTER: &str =
    "for a rate limit write a RequestPolicy (undermesh.dev/v1alpha1); otherwise remove it: there is no Envoy to filter";

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
    /// As documents write it; the first one is preferred.
    pub fn versions(self) -> &'static [&'static str] {
        READ.iter().find(|(kind, ..)| *kind == self).map_or(&[], |(_, _, versions)| versions)
    }

    /// Of a family that is there for traffic only; Kubernetes' own kinds are not.
    pub fn is_traffic(self) -> bool {
        self.versions()
            .iter()
            .any(|v| ["istio.io/", "gateway.networking.k8s.io/", "undermesh.dev/"].iter().any(|g| v.contains(g)))
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

pub(super) fn recognise(api_version: &str, kind: &str) -> Recognised {
    let group = api_version.rsplit_once('/').map_or("", |(group, _)| group);
    for (known, name, versions) in READ {
        let name = name.split('.').next().unwrap_or(name);
        let same_group = |version: &&&str| version.rsplit_once('/').map_or("", |(group, _)| group) == group;
        if name == kind
            && let Some(preferred) = versions.iter().find(same_group)
        {
            return if versions.contains(&api_version) {
                Recognised::Read(*known)
            } else {
                Recognised::OtherVersion(*known, preferred)
            };
        }
    }
    if group == "networking.istio.io" && kind == "EnvoyFilter" {
        return Recognised::Never(ENVOY_FILTER);
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
        for version in ["v1", "v1beta1", "v1alpha3"] {
            let read = recognise(&format!("networking.istio.io/{version}"), "VirtualService");
            assert_eq!(read, Recognised::Read(Kind::VirtualService));
        }
        assert_eq!(recognise("networking.istio.io/v1", "Gateway"), Recognised::Read(Kind::IstioGateway));
        assert_eq!(recognise("networking.istio.io/v1", "ProxyConfig"), Recognised::Later("Istio traffic"));
        assert!(matches!(recognise("networking.istio.io/v1alpha3", "EnvoyFilter"), Recognised::Never(_)));
        assert_eq!(recognise("v1", "ServiceAccount"), Recognised::Harmless);
        assert_eq!(recognise("v1", "Sevrice"), Recognised::Unknown);
    }
}
