//! Where spans go and which there are: `extensionProviders`, `defaultProviders`, `defaultConfig.tracing`.

use super::super::fields::{Field, leaf, list, map, message, no};
use super::super::istio::wire::Span;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::Arc;

/// `ProxyConfig`, as far as it is no sidecar's.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ProxyConfig {
    pub tracing: Option<ProxyTracing>,
}

/// `Tracing` of `mesh/v1alpha1/proxy.proto`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ProxyTracing {
    pub zipkin: Option<Address>,
    /// Percent.
    pub sampling: Option<f64>,
    pub max_path_tag_length: Option<usize>,
    pub custom_tags: BTreeMap<Arc<str>, CustomTag>,
    pub enable_istio_tags: Option<bool>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Address {
    /// `HOST:PORT`
    pub address: String,
}

/// One of three. Telemetry has the same.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct CustomTag {
    pub literal: Option<Literal>,
    pub environment: Option<Named>,
    pub header: Option<Named>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Literal {
    pub value: Arc<str>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Named {
    pub name: String,
    pub default_value: Option<Arc<str>>,
}

/// By name, for `defaultProviders` and Telemetry.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ExtensionProvider {
    pub name: Arc<str>,
    pub zipkin: Option<Zipkin>,
    pub opentelemetry: Option<OpenTelemetry>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Zipkin {
    /// `[NAMESPACE/]HOST`
    pub service: String,
    pub port: u16,
    pub path: Option<Arc<str>>,
    pub max_tag_length: Option<usize>,
    pub trace_context_option: String,
    pub timeout: Option<Span>,
    pub headers: Vec<Header>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct OpenTelemetry {
    /// `[NAMESPACE/]HOST`
    pub service: String,
    pub port: u16,
    pub max_tag_length: Option<usize>,
    /// Absent: gRPC.
    pub http: Option<HttpService>,
    pub grpc: Option<GrpcService>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct HttpService {
    pub path: Option<Arc<str>>,
    pub timeout: Option<Span>,
    pub headers: Vec<Header>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct GrpcService {
    pub timeout: Option<Span>,
    pub initial_metadata: Vec<Header>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Header {
    pub name: String,
    pub value: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct DefaultProviders {
    pub tracing: Vec<Arc<str>>,
}

const NO_SIDECAR: &str = "the value was a sidecar's own environment; there is none: write the value, or a header";
const OLD: &str = "name the collector in extensionProviders (zipkin or opentelemetry)";

pub(crate) const CUSTOM_TAGS: &[Field] = &[
    message("literal", &[leaf("value")]),
    message("environment", &[no("name", NO_SIDECAR), leaf("defaultValue")]),
    message("header", &[leaf("name"), leaf("defaultValue")]),
    no("formatter", "Envoy's formatters have no counterpart in spans here"),
];

pub(super) const PROXY_CONFIG: &[Field] = &[message(
    "tracing",
    &[
        message("zipkin", &[leaf("address")]),
        leaf("sampling"),
        leaf("maxPathTagLength"),
        map("customTags", CUSTOM_TAGS),
        leaf("enableIstioTags"),
        no("lightstep", OLD),
        no("datadog", OLD),
        no("stackdriver", OLD),
        no("openCensusAgent", OLD),
        no("tlsSettings", "spans go to the collector in the clear, or to a local one that speaks TLS onwards"),
    ],
)];

const HEADERS: &[Field] = &[leaf("name"), leaf("value"), no("envName", NO_SIDECAR)];

pub(super) const PROVIDERS: &[Field] = &[
    leaf("name"),
    message(
        "zipkin",
        &[
            leaf("service"),
            leaf("port"),
            leaf("path"),
            leaf("maxTagLength"),
            leaf("traceContextOption"),
            leaf("timeout"),
            list("headers", HEADERS),
            no("enable64bitTraceId", "traces that begin here have ids of 128 bits, which every Zipkin takes"),
        ],
    ),
    message(
        "opentelemetry",
        &[
            leaf("service"),
            leaf("port"),
            leaf("maxTagLength"),
            message("http", &[leaf("path"), leaf("timeout"), list("headers", HEADERS)]),
            message("grpc", &[leaf("timeout"), list("initialMetadata", HEADERS)]),
            no("resourceDetectors", "spans name the workload that they are of"),
            no("dynatraceSampler", "requests are sampled by percentage"),
        ],
    ),
];
