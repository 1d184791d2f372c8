//! Endpoints (`v1`) and EndpointSlice (`discovery.k8s.io/v1`).

use super::core::{ObjectReference, is_tcp};
use serde::Deserialize;
use std::sync::Arc;

/// The Service of the same name has these endpoints.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Endpoints {
    pub subsets: Vec<Subset>,
}

/// Every address × every port.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Subset {
    pub addresses: Vec<SubsetAddress>,
    pub not_ready_addresses: Vec<SubsetAddress>,
    pub ports: Vec<DiscoveryPort>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct SubsetAddress {
    pub ip: Arc<str>,
    pub node_name: Arc<str>,
    pub target_ref: Option<ObjectReference>,
}

/// A part of a Service's endpoints; the label `kubernetes.io/service-name` says whose.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointSlice {
    pub address_type: AddressType,
    #[serde(default)]
    pub endpoints: Vec<SliceEndpoint>,
    #[serde(default)]
    pub ports: Vec<DiscoveryPort>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum AddressType {
    IPv4,
    IPv6,
    #[serde(rename = "FQDN")]
    Fqdn,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct SliceEndpoint {
    /// All are the same endpoint; "clients may choose to only use the first".
    pub addresses: Vec<Arc<str>>,
    pub conditions: Conditions,
    pub node_name: Arc<str>,
    pub zone: Arc<str>,
    pub target_ref: Option<ObjectReference>,
}

/// "A nil value indicates an unknown state. In most cases consumers should interpret this unknown state as ready."
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Conditions {
    pub ready: Option<bool>,
    pub serving: Option<bool>,
    pub terminating: Option<bool>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct DiscoveryPort {
    /// The Service port's name.
    pub name: Arc<str>,
    /// The pod's port; none means every port.
    pub port: Option<i64>,
    pub protocol: Arc<str>,
}

impl DiscoveryPort {
    pub fn is_tcp(&self) -> bool {
        is_tcp(&self.protocol)
    }
}
