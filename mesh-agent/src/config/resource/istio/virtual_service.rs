//! VirtualService.

use super::super::Labels;
use super::super::fields::{Field, leaf, list, map, message, no};
use super::super::schema::object;
use super::wire::{DESTINATION, Destination, PERCENT, Percent, STRING_MATCH, Span, StringMatch};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::Arc;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct VirtualService {
    pub spec: Spec,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Spec {
    pub hosts: Vec<Arc<str>>,
    pub gateways: Vec<Arc<str>>,
    pub http: Vec<HttpRoute>,
    pub tls: Vec<TlsRoute>,
    pub tcp: Vec<TcpRoute>,
    pub export_to: Vec<Arc<str>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpRoute {
    pub name: Arc<str>,
    pub r#match: Vec<HttpMatch>,
    pub route: Vec<HttpDestination>,
    pub redirect: Option<Redirect>,
    pub direct_response: Option<DirectResponse>,
    pub delegate: Option<Delegate>,
    pub rewrite: Option<Rewrite>,
    pub timeout: Option<Span>,
    pub retries: Option<Retry>,
    pub fault: Option<Fault>,
    pub mirror: Option<Destination>,
    pub mirrors: Vec<Mirror>,
    pub mirror_percent: Option<u32>,
    pub mirror_percentage: Option<Percent>,
    pub cors_policy: Option<CorsPolicy>,
    pub headers: Option<Headers>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpMatch {
    pub name: Arc<str>,
    pub uri: Option<StringMatch>,
    pub scheme: Option<StringMatch>,
    pub method: Option<StringMatch>,
    pub authority: Option<StringMatch>,
    pub headers: BTreeMap<Arc<str>, StringMatch>,
    pub port: i64,
    pub source_labels: Labels,
    pub gateways: Vec<Arc<str>>,
    pub query_params: BTreeMap<Arc<str>, StringMatch>,
    pub ignore_uri_case: bool,
    pub without_headers: BTreeMap<Arc<str>, StringMatch>,
    pub source_namespace: Arc<str>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct HttpDestination {
    pub destination: Destination,
    pub weight: i64,
    pub headers: Option<Headers>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Headers {
    pub request: HeaderOperations,
    pub response: HeaderOperations,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct HeaderOperations {
    pub set: Labels,
    pub add: Labels,
    pub remove: Vec<Arc<str>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Redirect {
    pub uri: Arc<str>,
    pub authority: Arc<str>,
    pub port: Option<i64>,
    /// `FROM_PROTOCOL_DEFAULT`, `FROM_REQUEST_PORT`
    pub derive_port: Option<Arc<str>>,
    pub scheme: Arc<str>,
    pub redirect_code: i64,
    pub prefix_rewrite: Arc<str>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct DirectResponse {
    pub status: i64,
    pub body: Option<Body>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Body {
    pub string: Option<Arc<str>>,
    /// Base64.
    pub bytes: Option<Arc<str>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Delegate {
    pub name: Arc<str>,
    pub namespace: Arc<str>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Rewrite {
    pub uri: Arc<str>,
    pub authority: Arc<str>,
    pub uri_regex_rewrite: Option<RegexRewrite>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct RegexRewrite {
    pub r#match: Arc<str>,
    pub rewrite: Arc<str>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Retry {
    pub attempts: Option<i64>,
    pub per_try_timeout: Option<Span>,
    /// Comma-separated conditions and status codes.
    pub retry_on: Arc<str>,
    pub retry_remote_localities: Option<bool>,
    pub retry_ignore_previous_hosts: Option<bool>,
    pub backoff: Option<Span>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Fault {
    pub delay: Option<Delay>,
    pub abort: Option<Abort>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Delay {
    /// Deprecated: whole percents.
    pub percent: Option<i64>,
    pub percentage: Option<Percent>,
    pub fixed_delay: Option<Span>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Abort {
    pub http_status: Option<i64>,
    pub grpc_status: Option<Arc<str>>,
    pub percentage: Option<Percent>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Mirror {
    pub destination: Destination,
    pub percentage: Option<Percent>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct CorsPolicy {
    /// Deprecated: exact origins or `*`.
    pub allow_origin: Vec<Arc<str>>,
    pub allow_origins: Vec<StringMatch>,
    pub allow_methods: Vec<Arc<str>>,
    pub allow_headers: Vec<Arc<str>>,
    pub expose_headers: Vec<Arc<str>>,
    pub max_age: Option<Span>,
    pub allow_credentials: Option<bool>,
    /// `UNSPECIFIED`, `FORWARD`, `IGNORE`
    pub unmatched_preflights: Arc<str>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct TlsRoute {
    pub r#match: Vec<TlsMatch>,
    pub route: Vec<RouteDestination>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct TcpRoute {
    pub r#match: Vec<TcpMatch>,
    pub route: Vec<RouteDestination>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct TlsMatch {
    pub sni_hosts: Vec<Arc<str>>,
    pub destination_subnets: Vec<Arc<str>>,
    pub port: i64,
    pub source_labels: Labels,
    pub gateways: Vec<Arc<str>>,
    pub source_namespace: Arc<str>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct TcpMatch {
    pub destination_subnets: Vec<Arc<str>>,
    pub port: i64,
    pub source_labels: Labels,
    pub gateways: Vec<Arc<str>>,
    pub source_namespace: Arc<str>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct RouteDestination {
    pub destination: Destination,
    pub weight: i64,
}

pub(crate) const FIELDS: &[Field] = &object(&[
    leaf("hosts"),
    leaf("gateways"),
    list("http", HTTP),
    list("tls", &[list("match", TLS_MATCH), list("route", ROUTE)]),
    list("tcp", &[list("match", TCP_MATCH), list("route", ROUTE)]),
    leaf("exportTo"),
]);
const HTTP: &[Field] = &[
    leaf("name"),
    list("match", HTTP_MATCH),
    list("route", &[message("destination", DESTINATION), leaf("weight"), message("headers", HEADERS)]),
    message(
        "redirect",
        &[
            leaf("uri"),
            leaf("authority"),
            leaf("port"),
            leaf("derivePort"),
            leaf("scheme"),
            leaf("redirectCode"),
            leaf("prefixRewrite"),
        ],
    ),
    message("directResponse", &[leaf("status"), message("body", &[leaf("string"), leaf("bytes")])]),
    message("delegate", &[leaf("name"), leaf("namespace")]),
    message(
        "rewrite",
        &[leaf("uri"), leaf("authority"), message("uriRegexRewrite", &[leaf("match"), leaf("rewrite")])],
    ),
    leaf("timeout"),
    message("retries", RETRIES),
    message(
        "fault",
        &[
            message(
                "delay",
                &[
                    leaf("percent"),
                    message("percentage", PERCENT),
                    leaf("fixedDelay"),
                    no("exponentialDelay", "Istio has not implemented it either; write fixedDelay"),
                ],
            ),
            message(
                "abort",
                &[
                    leaf("httpStatus"),
                    leaf("grpcStatus"),
                    no("http2Error", "Istio has not implemented it either; write httpStatus or grpcStatus"),
                    message("percentage", PERCENT),
                ],
            ),
        ],
    ),
    message("mirror", DESTINATION),
    list("mirrors", &[message("destination", DESTINATION), message("percentage", PERCENT)]),
    leaf("mirrorPercent"),
    message("mirrorPercentage", PERCENT),
    message(
        "corsPolicy",
        &[
            leaf("allowOrigin"),
            list("allowOrigins", STRING_MATCH),
            leaf("allowMethods"),
            leaf("allowHeaders"),
            leaf("exposeHeaders"),
            leaf("maxAge"),
            leaf("allowCredentials"),
            leaf("unmatchedPreflights"),
        ],
    ),
    message("headers", HEADERS),
];
const HTTP_MATCH: &[Field] = &[
    leaf("name"),
    message("uri", STRING_MATCH),
    message("scheme", STRING_MATCH),
    message("method", STRING_MATCH),
    message("authority", STRING_MATCH),
    map("headers", STRING_MATCH),
    leaf("port"),
    leaf("sourceLabels"),
    leaf("gateways"),
    map("queryParams", STRING_MATCH),
    leaf("ignoreUriCase"),
    map("withoutHeaders", STRING_MATCH),
    leaf("sourceNamespace"),
    no("statPrefix", "routes have metrics by their own names"),
];
const TLS_MATCH: &[Field] = &[
    leaf("sniHosts"),
    leaf("destinationSubnets"),
    leaf("port"),
    leaf("sourceLabels"),
    leaf("gateways"),
    leaf("sourceNamespace"),
];
const TCP_MATCH: &[Field] = &[
    leaf("destinationSubnets"),
    leaf("port"),
    no("sourceSubnet", "Istio does not act on it either; write sourceLabels"),
    leaf("sourceLabels"),
    leaf("gateways"),
    leaf("sourceNamespace"),
];
const ROUTE: &[Field] = &[message("destination", DESTINATION), leaf("weight")];
const HEADERS: &[Field] = &[message("request", HEADER_OPERATIONS), message("response", HEADER_OPERATIONS)];
const HEADER_OPERATIONS: &[Field] = &[leaf("set"), leaf("add"), leaf("remove")];
pub(crate) const RETRIES: &[Field] = &[
    leaf("attempts"),
    leaf("perTryTimeout"),
    leaf("retryOn"),
    leaf("retryRemoteLocalities"),
    leaf("retryIgnorePreviousHosts"),
    leaf("backoff"),
];
