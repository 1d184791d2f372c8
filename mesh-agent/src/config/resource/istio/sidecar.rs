//! Sidecar.

use super::super::fields::{Field, leaf, list, message, no};
use super::super::schema::object;
use super::wire::WorkloadSelector;
use serde::Deserialize;
use std::sync::Arc;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Sidecar {
    pub spec: Spec,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Spec {
    pub workload_selector: Option<WorkloadSelector>,
    pub egress: Vec<Egress>,
    pub outbound_traffic_policy: Option<OutboundTrafficPolicy>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Egress {
    pub port: Option<Port>,
    pub hosts: Vec<Arc<str>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Port {
    pub number: i64,
    pub protocol: Arc<str>,
    pub name: Arc<str>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct OutboundTrafficPolicy {
    /// `REGISTRY_ONLY`, `ALLOW_ANY`
    pub mode: Arc<str>,
}

pub(crate) const FIELDS: &[Field] = &object(&[
    message("workloadSelector", &[leaf("labels")]),
    no("ingress", "inbound traffic is not taken over yet"),
    list(
        "egress",
        &[
            message("port", &[leaf("number"), leaf("protocol"), leaf("name"), no("targetPort", "deprecated")]),
            no("bind", "connections are taken at connect(), whatever their address"),
            no("captureMode", "connections are taken at connect(), not by iptables"),
            leaf("hosts"),
        ],
    ),
    no("inboundConnectionPool", "inbound traffic is not taken over yet"),
    message("outboundTrafficPolicy", &[leaf("mode"), no("egressProxy", "unknown destinations go direct, or nowhere")]),
]);
