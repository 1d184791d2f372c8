//! MeshConfig (istio/api `mesh/v1alpha1/config.proto`): the YAML under the key `mesh` of the ConfigMap `istio` in
//! `istio-system`.

pub(crate) mod tracing;

use super::fields::{Field, leaf, list, message};
use super::istio::destination_rule::{
    CONNECTION_POOL, ConnectionPool, LOCALITY, LocalitySetting, OUTLIER_DETECTION, OutlierDetection,
};
use super::istio::sidecar::OutboundTrafficPolicy;
use super::istio::virtual_service::{RETRIES, Retry};
use serde::Deserialize;
use serde_yaml_ng::Value;
use std::sync::Arc;
use tracing::{DefaultProviders, ExtensionProvider, PROVIDERS, PROXY_CONFIG, ProxyConfig};

/// Any ConfigMap; only the mesh's is looked into.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ConfigMap {
    pub data: Data,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Data {
    pub mesh: Option<Value>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct MeshConfig {
    pub root_namespace: Arc<str>,
    pub outbound_traffic_policy: Option<OutboundTrafficPolicy>,
    pub default_http_retry_policy: Option<Retry>,
    pub locality_lb_setting: Option<LocalitySetting>,
    pub default_traffic_policy: DefaultTrafficPolicy,
    pub access_log_file: Option<Arc<str>>,
    pub access_log_format: Arc<str>,
    pub access_log_encoding: Arc<str>,
    pub enable_tracing: Option<bool>,
    pub default_config: ProxyConfig,
    pub extension_providers: Vec<ExtensionProvider>,
    pub default_providers: DefaultProviders,
    pub default_service_export_to: Vec<Arc<str>>,
    pub default_virtual_service_export_to: Vec<Arc<str>>,
    pub default_destination_rule_export_to: Vec<Arc<str>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct DefaultTrafficPolicy {
    pub connection_pool: Option<ConnectionPool>,
    pub outlier_detection: Option<OutlierDetection>,
}

/// What is acted on; everything else in a MeshConfig is named once, as information.
pub(crate) const FIELDS: &[Field] = &[
    leaf("rootNamespace"),
    message("outboundTrafficPolicy", &[leaf("mode")]),
    message("defaultHttpRetryPolicy", RETRIES),
    message("localityLbSetting", LOCALITY),
    message(
        "defaultTrafficPolicy",
        &[message("connectionPool", CONNECTION_POOL), message("outlierDetection", OUTLIER_DETECTION)],
    ),
    leaf("accessLogFile"),
    leaf("accessLogFormat"),
    leaf("accessLogEncoding"),
    leaf("enableTracing"),
    message("defaultConfig", PROXY_CONFIG),
    list("extensionProviders", PROVIDERS),
    message("defaultProviders", &[leaf("tracing")]),
    leaf("defaultServiceExportTo"),
    leaf("defaultVirtualServiceExportTo"),
    leaf("defaultDestinationRuleExportTo"),
];
