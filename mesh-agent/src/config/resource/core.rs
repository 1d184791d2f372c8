//! Namespace, Node, Pod, Service (Kubernetes API `v1`). Only the fields we read; `schema` knows the rest by name.

use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

/// Labels, annotations and selectors.
pub type Labels = BTreeMap<Arc<str>, Arc<str>>;

/// `ObjectMeta`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Meta {
    pub name: Arc<str>,
    pub namespace: Arc<str>,
    pub uid: Arc<str>,
    /// Grows with each change of `spec`; 0 where nobody counts. Kept of what has a status of ours.
    pub generation: i64,
    pub labels: Labels,
    pub annotations: Labels,
    /// RFC 3339; none in hand-written files.
    #[serde(deserialize_with = "time")]
    pub creation_timestamp: Option<SystemTime>,
    #[serde(deserialize_with = "time")]
    pub deletion_timestamp: Option<SystemTime>,
    pub owner_references: Vec<OwnerReference>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct OwnerReference {
    pub kind: Arc<str>,
    pub name: Arc<str>,
    pub controller: bool,
}

/// Its labels (in [`Meta`]) are all that matters.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Namespace {}

/// Its topology labels (in [`Meta`]) are all that matters.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Node {}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Pod {
    pub spec: PodSpec,
    pub status: PodStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PodSpec {
    pub node_name: Arc<str>,
    pub service_account_name: Arc<str>,
    pub host_network: bool,
    pub containers: Vec<Container>,
    /// Native sidecars (`restartPolicy: Always`) may own ports too.
    pub init_containers: Vec<Container>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Container {
    pub name: Arc<str>,
    pub image: Arc<str>,
    pub ports: Vec<ContainerPort>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ContainerPort {
    pub name: Arc<str>,
    pub container_port: u16,
    /// `TCP` where empty.
    pub protocol: Arc<str>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PodStatus {
    /// `Pending`, `Running`, `Succeeded`, `Failed`, `Unknown`; empty in hand-written files.
    pub phase: Arc<str>,
    #[serde(rename = "podIP")]
    pub pod_ip: Arc<str>,
    #[serde(rename = "podIPs")]
    pub pod_ips: Vec<PodIp>,
    pub conditions: Vec<PodCondition>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct PodIp {
    pub ip: Arc<str>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct PodCondition {
    #[serde(rename = "type")]
    pub kind: Arc<str>,
    pub status: Arc<str>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Service {
    pub spec: ServiceSpec,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ServiceSpec {
    /// `ClusterIP` where empty.
    #[serde(rename = "type")]
    pub kind: Arc<str>,
    #[serde(rename = "clusterIP")]
    pub cluster_ip: Arc<str>,
    #[serde(rename = "clusterIPs")]
    pub cluster_ips: Vec<Arc<str>>,
    pub ip_families: Vec<Arc<str>>,
    pub selector: Labels,
    pub ports: Vec<ServicePort>,
    pub external_name: Arc<str>,
    pub session_affinity: Arc<str>,
    pub publish_not_ready_addresses: bool,
    pub traffic_distribution: Arc<str>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ServicePort {
    pub name: Arc<str>,
    /// Kept wide: a port of 70000 is a diagnostic about this port, not the loss of the Service.
    pub port: i64,
    pub target_port: Option<TargetPort>,
    /// `TCP` where empty.
    pub protocol: Arc<str>,
    pub app_protocol: Arc<str>,
}

/// `IntOrString`
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetPort {
    Number(i64),
    Name(Arc<str>),
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(default)]
pub struct ObjectReference {
    pub kind: Arc<str>,
    pub name: Arc<str>,
    pub namespace: Arc<str>,
}

impl ContainerPort {
    pub fn is_tcp(&self) -> bool {
        is_tcp(&self.protocol)
    }
}

impl ServicePort {
    pub fn is_tcp(&self) -> bool {
        is_tcp(&self.protocol)
    }
}

impl PodSpec {
    /// Ports of every container that may be running.
    pub fn ports(&self) -> impl Iterator<Item = &ContainerPort> {
        self.containers.iter().chain(&self.init_containers).flat_map(|container| &container.ports)
    }
}

impl<'de> Deserialize<'de> for TargetPort {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct IntOrString;
        impl serde::de::Visitor<'_> for IntOrString {
            type Value = TargetPort;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a port number or a port's name")
            }
            fn visit_i64<E>(self, n: i64) -> Result<TargetPort, E> {
                Ok(TargetPort::Number(n))
            }
            fn visit_u64<E>(self, n: u64) -> Result<TargetPort, E> {
                Ok(TargetPort::Number(i64::try_from(n).unwrap_or(i64::MAX)))
            }
            fn visit_str<E>(self, name: &str) -> Result<TargetPort, E> {
                Ok(TargetPort::Name(name.into()))
            }
        }
        d.deserialize_any(IntOrString)
    }
}

pub(crate) fn is_tcp(protocol: &str) -> bool {
    protocol.is_empty() || protocol == "TCP"
}

fn time<'de, D: Deserializer<'de>>(d: D) -> Result<Option<SystemTime>, D::Error> {
    let Some(text) = Option::<String>::deserialize(d)? else { return Ok(None) };
    humantime::parse_rfc3339_weak(&text)
        .map(Some)
        .map_err(|e| serde::de::Error::custom(format!("invalid value: {text:?} is no RFC 3339 time ({e})")))
}
