//! Telemetry (istio/api `telemetry/v1alpha1/telemetry.proto`).

use super::super::fields::{Field, leaf, list, map, message, no};
use super::super::mesh_config::tracing::{CUSTOM_TAGS, CustomTag};
use super::super::schema::object;
use super::wire::WorkloadSelector;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::Arc;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Telemetry {
    pub spec: Spec,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Spec {
    pub selector: Option<WorkloadSelector>,
    pub target_refs: Vec<TargetRef>,
    /// The older spelling of one `targetRefs`.
    pub target_ref: Option<TargetRef>,
    pub tracing: Vec<Tracing>,
    pub metrics: Vec<Metrics>,
    pub access_logging: Vec<AccessLogging>,
}

/// `PolicyTargetReference`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct TargetRef {
    pub group: Arc<str>,
    pub kind: Arc<str>,
    pub name: Arc<str>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Provider {
    pub name: Arc<str>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Tracing {
    #[serde(rename = "match")]
    pub matched: Match,
    pub providers: Vec<Provider>,
    pub random_sampling_percentage: Option<f64>,
    pub disable_span_reporting: Option<bool>,
    pub custom_tags: BTreeMap<Arc<str>, CustomTag>,
    pub use_request_id_for_trace_sampling: Option<bool>,
    pub enable_istio_tags: Option<bool>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Metrics {
    pub providers: Vec<Provider>,
    pub overrides: Vec<Override>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Override {
    #[serde(rename = "match")]
    pub matched: Match,
    pub disabled: Option<bool>,
    pub tag_overrides: BTreeMap<Arc<str>, TagOverride>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Match {
    /// `ALL_METRICS`, `REQUEST_COUNT`, …
    pub metric: Arc<str>,
    pub custom_metric: Arc<str>,
    /// `CLIENT_AND_SERVER`, `CLIENT`, `SERVER`
    pub mode: Arc<str>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct TagOverride {
    /// `UPSERT`, `REMOVE`
    pub operation: Arc<str>,
    pub value: Arc<str>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct AccessLogging {
    #[serde(rename = "match")]
    pub matched: Match,
    pub providers: Vec<Provider>,
    pub disabled: Option<bool>,
    pub filter: Option<Filter>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Filter {
    pub expression: Arc<str>,
}

const TARGET: &[Field] = &[leaf("group"), leaf("kind"), leaf("name"), no("namespace", "always the object's own")];
const PROVIDERS: &[Field] = &[leaf("name")];
pub(crate) const FIELDS: &[Field] = &object(&[
    message("selector", &[leaf("matchLabels")]),
    message("targetRef", TARGET),
    list("targetRefs", TARGET),
    list(
        "tracing",
        &[
            message("match", &[leaf("mode")]),
            list("providers", PROVIDERS),
            leaf("randomSamplingPercentage"),
            leaf("disableSpanReporting"),
            map("customTags", CUSTOM_TAGS),
            leaf("useRequestIdForTraceSampling"),
            leaf("enableIstioTags"),
            no("disableContextPropagation", "contexts are passed on, whoever reports spans"),
        ],
    ),
    list(
        "metrics",
        &[
            list("providers", PROVIDERS),
            list(
                "overrides",
                &[
                    message("match", &[leaf("metric"), leaf("mode"), leaf("customMetric")]),
                    leaf("disabled"),
                    map("tagOverrides", &[leaf("operation"), leaf("value")]),
                ],
            ),
            no("reportingInterval", "TCP bytes are reported every 5 s"),
        ],
    ),
    list(
        "accessLogging",
        &[
            message("match", &[leaf("mode")]),
            list("providers", PROVIDERS),
            leaf("disabled"),
            message("filter", &[leaf("expression")]),
        ],
    ),
]);
