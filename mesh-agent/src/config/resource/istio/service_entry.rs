//! ServiceEntry and WorkloadEntry.

use super::super::Labels;
use super::super::fields::{Field, leaf, list, message, no};
use super::super::schema::{META, object};
use super::wire::WorkloadSelector;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::Arc;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ServiceEntry {
    pub spec: Spec,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Spec {
    pub hosts: Vec<Arc<str>>,
    pub addresses: Vec<Arc<str>>,
    pub ports: Vec<Port>,
    /// `MESH_EXTERNAL` (default), `MESH_INTERNAL`
    pub location: Arc<str>,
    /// `NONE` (default), `STATIC`, `DNS`, `DNS_ROUND_ROBIN`, `DYNAMIC_DNS`
    pub resolution: Arc<str>,
    pub endpoints: Vec<WorkloadEntrySpec>,
    pub workload_selector: Option<WorkloadSelector>,
    pub export_to: Vec<Arc<str>>,
    pub subject_alt_names: Vec<Arc<str>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Port {
    pub number: i64,
    pub protocol: Arc<str>,
    pub name: Arc<str>,
    pub target_port: i64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct WorkloadEntry {
    pub spec: WorkloadEntrySpec,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct WorkloadEntrySpec {
    /// IP address, or a name where the ServiceEntry's resolution is by DNS.
    pub address: Arc<str>,
    /// By the ServiceEntry port's name.
    pub ports: BTreeMap<Arc<str>, i64>,
    pub labels: Labels,
    /// `region/zone/subzone`
    pub locality: Arc<str>,
    pub weight: Option<u32>,
    pub service_account: Arc<str>,
}

const WORKLOAD: &[Field] = &[
    leaf("address"),
    leaf("ports"),
    leaf("labels"),
    no("network", "all endpoints are taken to be reachable directly"),
    leaf("locality"),
    leaf("weight"),
    leaf("serviceAccount"),
];
pub(crate) const FIELDS: &[Field] = &object(&[
    leaf("hosts"),
    leaf("addresses"),
    list("ports", &[leaf("number"), leaf("protocol"), leaf("name"), leaf("targetPort")]),
    leaf("location"),
    leaf("resolution"),
    list("endpoints", WORKLOAD),
    message("workloadSelector", &[leaf("labels")]),
    leaf("exportTo"),
    leaf("subjectAltNames"),
]);
pub(crate) const WORKLOAD_ENTRY_FIELDS: &[Field] =
    &[leaf("apiVersion"), leaf("kind"), META, message("spec", WORKLOAD), leaf("status")];
