//! DestinationRule.

use super::super::Labels;
use super::super::fields::{Field, leaf, list, message, no};
use super::super::schema::object;
use super::wire::{PORT, PortSelector, Span, WorkloadSelector};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::Arc;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct DestinationRule {
    pub spec: Spec,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Spec {
    pub host: Arc<str>,
    pub traffic_policy: Option<TrafficPolicy>,
    pub subsets: Vec<Subset>,
    pub export_to: Vec<Arc<str>>,
    pub workload_selector: Option<WorkloadSelector>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Subset {
    pub name: Arc<str>,
    pub labels: Labels,
    pub traffic_policy: Option<TrafficPolicy>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct TrafficPolicy {
    pub load_balancer: Option<LoadBalancer>,
    pub connection_pool: Option<ConnectionPool>,
    pub outlier_detection: Option<OutlierDetection>,
    pub tls: Option<ClientTls>,
    pub port_level_settings: Vec<PortPolicy>,
    pub proxy_protocol: Option<ProxyProtocol>,
    pub retry_budget: Option<RetryBudget>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PortPolicy {
    pub port: PortSelector,
    pub load_balancer: Option<LoadBalancer>,
    pub connection_pool: Option<ConnectionPool>,
    pub outlier_detection: Option<OutlierDetection>,
    pub tls: Option<ClientTls>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct LoadBalancer {
    /// `UNSPECIFIED`, `LEAST_CONN`, `RANDOM`, `PASSTHROUGH`, `ROUND_ROBIN`, `LEAST_REQUEST`
    pub simple: Option<Arc<str>>,
    pub consistent_hash: Option<ConsistentHash>,
    pub locality_lb_setting: Option<LocalitySetting>,
    pub warmup_duration_secs: Option<Span>,
    pub warmup: Option<Warmup>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ConsistentHash {
    pub http_header_name: Option<Arc<str>>,
    pub http_cookie: Option<Cookie>,
    pub use_source_ip: Option<bool>,
    pub http_query_parameter_name: Option<Arc<str>>,
    pub ring_hash: Option<RingHash>,
    pub maglev: Option<Maglev>,
    /// Deprecated: `ringHash.minimumRingSize`.
    pub minimum_ring_size: Option<u64>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Cookie {
    pub name: Arc<str>,
    pub path: Arc<str>,
    pub ttl: Option<Span>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RingHash {
    pub minimum_ring_size: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Maglev {
    pub table_size: Option<u64>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct LocalitySetting {
    pub distribute: Vec<Distribute>,
    pub failover: Vec<Failover>,
    pub failover_priority: Vec<Arc<str>>,
    pub enabled: Option<bool>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Distribute {
    pub from: Arc<str>,
    pub to: BTreeMap<Arc<str>, u32>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Failover {
    pub from: Arc<str>,
    pub to: Arc<str>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Warmup {
    pub duration: Span,
    pub minimum_percent: Option<f64>,
    pub aggression: Option<f64>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ConnectionPool {
    pub tcp: TcpPool,
    pub http: HttpPool,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct TcpPool {
    pub max_connections: i64,
    pub connect_timeout: Option<Span>,
    pub tcp_keepalive: Option<TcpKeepalive>,
    pub max_connection_duration: Option<Span>,
    pub idle_timeout: Option<Span>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub struct TcpKeepalive {
    pub probes: Option<u32>,
    pub time: Option<Span>,
    pub interval: Option<Span>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpPool {
    pub http1_max_pending_requests: i64,
    pub http2_max_requests: i64,
    pub max_requests_per_connection: i64,
    pub max_retries: i64,
    pub idle_timeout: Option<Span>,
    /// `DEFAULT`, `UPGRADE`, `DO_NOT_UPGRADE`
    pub h2_upgrade_policy: Arc<str>,
    pub use_client_protocol: bool,
    pub max_concurrent_streams: i64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct OutlierDetection {
    /// Deprecated: `consecutiveGatewayErrors` counts in its place.
    pub consecutive_errors: Option<i64>,
    pub split_external_local_origin_errors: bool,
    pub consecutive_local_origin_failures: Option<u32>,
    pub consecutive_gateway_errors: Option<u32>,
    #[serde(rename = "consecutive5xxErrors")]
    pub consecutive_5xx_errors: Option<u32>,
    pub interval: Option<Span>,
    pub base_ejection_time: Option<Span>,
    pub max_ejection_percent: i64,
    pub min_health_percent: i64,
    pub outlier_detection_http_error_codes: Vec<i64>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ClientTls {
    /// `DISABLE`, `SIMPLE`, `MUTUAL`, `ISTIO_MUTUAL`
    pub mode: Arc<str>,
    pub client_certificate: Arc<str>,
    pub private_key: Arc<str>,
    pub ca_certificates: Arc<str>,
    pub credential_name: Arc<str>,
    pub subject_alt_names: Vec<Arc<str>>,
    pub sni: Arc<str>,
    pub insecure_skip_verify: Option<bool>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ProxyProtocol {
    /// `V1`, `V2`
    pub version: Arc<str>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RetryBudget {
    pub percent: Option<f64>,
    pub min_retry_concurrency: Option<u32>,
}

pub(crate) const FIELDS: &[Field] = &object(&[
    leaf("host"),
    message("trafficPolicy", TRAFFIC_POLICY),
    list("subsets", &[leaf("name"), leaf("labels"), message("trafficPolicy", TRAFFIC_POLICY)]),
    leaf("exportTo"),
    message("workloadSelector", &[leaf("matchLabels")]),
]);
const TRAFFIC_POLICY: &[Field] = &[
    message("loadBalancer", LOAD_BALANCER),
    message("connectionPool", CONNECTION_POOL),
    message("outlierDetection", OUTLIER_DETECTION),
    message("tls", CLIENT_TLS),
    list(
        "portLevelSettings",
        &[
            message("port", PORT),
            message("loadBalancer", LOAD_BALANCER),
            message("connectionPool", CONNECTION_POOL),
            message("outlierDetection", OUTLIER_DETECTION),
            message("tls", CLIENT_TLS),
        ],
    ),
    no("tunnel", "connections are not tunnelled through a proxy by CONNECT"),
    message("proxyProtocol", &[leaf("version")]),
    message(
        "retryBudget",
        &[
            leaf("percent"),
            leaf("minRetryConcurrency"),
            no("budgetInterval", "the budget is a share of the requests under way, not of an interval"),
        ],
    ),
];
const LOAD_BALANCER: &[Field] = &[
    leaf("simple"),
    message(
        "consistentHash",
        &[
            leaf("httpHeaderName"),
            message(
                "httpCookie",
                &[
                    leaf("name"),
                    leaf("path"),
                    leaf("ttl"),
                    no("attributes", "the cookie that is made has Path, Max-Age and HttpOnly only"),
                ],
            ),
            leaf("useSourceIp"),
            leaf("httpQueryParameterName"),
            message("ringHash", &[leaf("minimumRingSize")]),
            message("maglev", &[leaf("tableSize")]),
            leaf("minimumRingSize"),
        ],
    ),
    message("localityLbSetting", LOCALITY),
    no("zoneAwareLbSetting", "write localityLbSetting"),
    leaf("warmupDurationSecs"),
    message("warmup", &[leaf("duration"), leaf("minimumPercent"), leaf("aggression")]),
];
pub(crate) const LOCALITY: &[Field] = &[
    list("distribute", &[leaf("from"), leaf("to")]),
    list("failover", &[leaf("from"), leaf("to")]),
    leaf("failoverPriority"),
    leaf("enabled"),
];
pub(crate) const CONNECTION_POOL: &[Field] = &[
    message(
        "tcp",
        &[
            leaf("maxConnections"),
            leaf("connectTimeout"),
            message("tcpKeepalive", &[leaf("probes"), leaf("time"), leaf("interval")]),
            leaf("maxConnectionDuration"),
            leaf("idleTimeout"),
        ],
    ),
    message(
        "http",
        &[
            leaf("http1MaxPendingRequests"),
            leaf("http2MaxRequests"),
            leaf("maxRequestsPerConnection"),
            leaf("maxRetries"),
            leaf("idleTimeout"),
            leaf("h2UpgradePolicy"),
            leaf("useClientProtocol"),
            leaf("maxConcurrentStreams"),
            no(
                "http2KeepAlive",
                "gRPC servers answer pings with GOAWAY; write tcp.tcpKeepalive, which finds dead peers",
            ),
        ],
    ),
];
pub(crate) const OUTLIER_DETECTION: &[Field] = &[
    leaf("consecutiveErrors"),
    leaf("splitExternalLocalOriginErrors"),
    leaf("consecutiveLocalOriginFailures"),
    leaf("consecutiveGatewayErrors"),
    leaf("consecutive5xxErrors"),
    leaf("interval"),
    leaf("baseEjectionTime"),
    leaf("maxEjectionPercent"),
    leaf("minHealthPercent"),
    leaf("outlierDetectionHttpErrorCodes"),
];
const CLIENT_TLS: &[Field] = &[
    leaf("mode"),
    leaf("clientCertificate"),
    leaf("privateKey"),
    leaf("caCertificates"),
    leaf("credentialName"),
    leaf("subjectAltNames"),
    leaf("sni"),
    leaf("insecureSkipVerify"),
    no("caCrl", "certificate revocation lists are not read"),
];
