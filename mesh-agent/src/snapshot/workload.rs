//! Workloads: the pods we know, and which of them are in the mesh on this node.

use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

/// `namespace/name` of a Pod plus its UID, so that a pod recreated under its old name is another workload.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize)]
pub struct WorkloadKey {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    pub uid: Arc<str>,
}

impl fmt::Display for WorkloadKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Workload {
    pub key: WorkloadKey,
    /// The controller that made the pod: Deployment `reviews-v1`, not its ReplicaSet. A bare pod owns itself.
    pub owner: Owner,
    pub service_account: Arc<str>,
    pub node: Arc<str>,
    pub labels: BTreeMap<Arc<str>, Arc<str>>,
    /// Canonical addresses (`status.podIPs`).
    pub ips: Vec<IpAddr>,
    pub locality: Locality,
    pub enrolment: Enrolment,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Owner {
    /// `Deployment`, `StatefulSet`, `Pod`, …
    pub kind: Arc<str>,
    pub name: Arc<str>,
}

/// Whether this node's agent takes the pod's connections.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase", tag = "state")]
pub enum Enrolment {
    /// In the mesh, on this node, and its network namespace is known.
    Enrolled {
        netns: NetnsPlace,
    },
    /// In the mesh, served by another node's agent.
    Elsewhere,
    Outside {
        reason: OutsideReason,
    },
}

/// Where a pod's network namespace is found.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum NetnsPlace {
    /// `/run/netns/NAME`, as the pod's annotation says.
    Path(PathBuf),
    /// With the processes of the pod of this UID.
    Pod(Arc<str>),
}

impl fmt::Display for NetnsPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => path.display().fmt(f),
            Self::Pod(uid) => write!(f, "pod {uid}"),
        }
    }
}

impl Serialize for NetnsPlace {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

/// Why a pod is not in the mesh; `status` prints it, nothing is silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum OutsideReason {
    /// Its namespace has neither `istio-injection=enabled` nor `istio.io/dataplane-mode=ambient`.
    NamespaceNotLabelled,
    /// The pod's label or annotation opts out.
    OptedOut,
    /// It shares the node's network: there is no pod to tell apart.
    HostNetwork,
    /// Its network namespace is not known (yet).
    NoNetns,
    /// `Succeeded` or `Failed`.
    Finished,
}

impl fmt::Display for OutsideReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NamespaceNotLabelled => {
                "namespace is not labelled istio-injection=enabled or istio.io/dataplane-mode=ambient"
            }
            Self::OptedOut => "pod opts out by label or annotation",
            Self::HostNetwork => "hostNetwork: the pod shares the node's network",
            Self::NoNetns => "network namespace not known yet",
            Self::Finished => "pod has finished",
        })
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub struct Locality {
    pub region: Arc<str>,
    pub zone: Arc<str>,
    pub subzone: Arc<str>,
}

impl Locality {
    pub const REGION: &str = "topology.kubernetes.io/region";
    pub const ZONE: &str = "topology.kubernetes.io/zone";
    pub const SUBZONE: &str = "topology.istio.io/subzone";

    /// The level that a label is about; empty where it is not known.
    pub fn label(&self, key: &str) -> Option<&Arc<str>> {
        match key {
            Self::REGION => Some(&self.region),
            Self::ZONE => Some(&self.zone),
            Self::SUBZONE => Some(&self.subzone),
            _ => None,
        }
    }
}
