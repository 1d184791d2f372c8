//! Compiled DestinationRules: how connections to a Service's endpoints are chosen, limited, watched and secured.
//!
//! Place in the path: `config::compile` resolves inheritance (SEMANTICS §5), so that `balance` and `connect` read one
//! flat [`TrafficPolicy`] per (Service port, subset).

use super::route::{RuleRef, Visibility};
use crate::identity::{Certificate, TrustAnchors};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// The DestinationRules of one namespace for one host, merged.
#[derive(Debug, PartialEq, Serialize)]
pub struct DestinationPolicy {
    /// FQDN or `*.suffix`.
    pub host: Arc<str>,
    pub namespace: Arc<str>,
    pub export: Visibility,
    /// `workloadSelector`: only for clients with these labels; empty: for all.
    pub selector: BTreeMap<Arc<str>, Arc<str>>,
    pub rules: Vec<RuleRef>,
    pub policies: PortPolicies,
    pub subsets: Vec<Subset>,
}

#[derive(Debug, PartialEq, Serialize)]
pub struct Subset {
    pub name: Arc<str>,
    /// All of them on an endpoint's workload.
    pub labels: BTreeMap<Arc<str>, Arc<str>>,
    pub policies: PortPolicies,
    pub rule: RuleRef,
}

/// The policy of every port: of the ports that have their own, and of all others.
#[derive(Debug, Default, PartialEq, Serialize)]
pub struct PortPolicies {
    pub base: Arc<TrafficPolicy>,
    pub ports: Vec<(u16, Arc<TrafficPolicy>)>,
}

impl PortPolicies {
    pub fn of(&self, port: u16) -> &Arc<TrafficPolicy> {
        self.ports.iter().find(|(number, _)| *number == port).map_or(&self.base, |(_, policy)| policy)
    }
}

/// Everything flat; `Default` is what holds without any DestinationRule.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct TrafficPolicy {
    pub balancer: Balancer,
    /// `None`: the Service's `trafficDistribution`, else the mesh's default.
    pub locality: Option<Arc<LocalityPolicy>>,
    pub warmup: Option<Warmup>,
    pub pool: ConnectionPool,
    pub outlier: Option<Arc<OutlierDetection>>,
    pub retry_budget: Option<RetryBudget>,
    pub tls: Option<Arc<ClientTls>>,
    pub proxy_protocol: Option<ProxyProtocol>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Balancer {
    /// The agent's default (`balance::default_policy`), or the Service's annotation.
    #[default]
    Default,
    RoundRobin,
    LeastRequest,
    Random,
    PeakEwma,
    /// To the original destination.
    Passthrough,
    ConsistentHash(Arc<ConsistentHash>),
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ConsistentHash {
    pub key: HashKey,
    pub table: HashTable,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum HashKey {
    /// Lower case.
    Header(Arc<str>),
    Cookie {
        name: Arc<str>,
        path: Option<Arc<str>>,
        /// `None`: never made by us; zero: a session cookie.
        ttl: Option<Duration>,
    },
    SourceIp,
    /// First value of the parameter.
    Query(Arc<str>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum HashTable {
    Ring {
        minimum_size: u64,
    },
    /// Slots; a prime.
    Maglev {
        table_size: u64,
    },
}

/// `localityLbSetting`, `trafficDistribution`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum LocalityPolicy {
    Off,
    /// By closeness; `to` of each listed region before all others.
    Failover {
        regions: Vec<(Arc<str>, Arc<str>)>,
        /// `trafficDistribution`: without outlier detection too.
        always: bool,
    },
    /// `failoverPriority`: label names, with the value that is wanted where one is given.
    Labels {
        keys: Vec<(Arc<str>, Option<Arc<str>>)>,
        always: bool,
    },
    /// The first one whose `from` the client's locality matches.
    Distribute(Vec<Distribution>),
}

/// `distribute[]`; patterns as `region/zone/*`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Distribution {
    pub from: Arc<str>,
    /// Pattern and share of a hundred.
    pub to: Vec<(Arc<str>, u32)>,
}

/// Slow start (`warmup`).
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Warmup {
    pub duration: Duration,
    /// Of a hundred.
    pub minimum_percent: f64,
    pub aggression: f64,
}

/// `None` everywhere: unlimited, or the agent's own setting.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ConnectionPool {
    pub max_connections: Option<u32>,
    pub connect_timeout: Option<Duration>,
    pub tcp_keepalive: Option<TcpKeepalive>,
    pub max_connection_duration: Option<Duration>,
    pub tcp_idle_timeout: Option<Duration>,
    pub max_pending_requests: Option<u32>,
    pub max_requests: Option<u32>,
    pub max_requests_per_connection: Option<u32>,
    /// Retries at one time.
    pub max_retries: Option<u32>,
    pub idle_timeout: Option<Duration>,
    pub upgrade: H2Upgrade,
    pub use_client_protocol: bool,
    /// SETTINGS_MAX_CONCURRENT_STREAMS that is respected even if the endpoint allows more.
    pub max_concurrent_streams: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct TcpKeepalive {
    pub probes: Option<u32>,
    pub time: Option<Duration>,
    pub interval: Option<Duration>,
}

/// `h2UpgradePolicy`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum H2Upgrade {
    #[default]
    Default,
    Upgrade,
    DoNotUpgrade,
}

/// SEMANTICS §5 "Outlier detection"; counts of 0 are off.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OutlierDetection {
    pub consecutive_5xx: u32,
    pub consecutive_gateway: u32,
    /// `splitExternalLocalOriginErrors`
    pub split_local_origin: bool,
    pub consecutive_local_origin: u32,
    pub interval: Duration,
    pub base_ejection: Duration,
    pub max_ejection: Duration,
    pub max_ejection_percent: u32,
    pub min_health_percent: u32,
    /// In place of 5xx.
    pub http_errors: Option<Vec<u16>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct RetryBudget {
    pub percent: f64,
    pub min_concurrency: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClientTls {
    pub mode: ClientTlsMode,
    pub sni: Option<Arc<str>>,
    pub subject_alt_names: Vec<Arc<str>>,
    /// Name of a Secret; what is in it stands below. It goes before the files.
    pub credential: Option<Arc<str>>,
    pub identity: Option<Arc<Certificate>>,
    pub anchors: Option<Arc<TrustAnchors>>,
    pub ca_certificates: Option<Arc<str>>,
    pub client_certificate: Option<Arc<str>>,
    pub private_key: Option<Arc<str>>,
    pub insecure_skip_verify: bool,
    pub rule: RuleRef,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClientTlsMode {
    Disable,
    Simple,
    Mutual,
    IstioMutual,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum ProxyProtocol {
    V1,
    V2,
}

impl Default for RetryBudget {
    /// Envoy's defaults.
    fn default() -> Self {
        Self { percent: 20.0, min_concurrency: 3 }
    }
}

impl Default for OutlierDetection {
    /// What `outlierDetection: {}` means.
    fn default() -> Self {
        Self {
            consecutive_5xx: 5,
            consecutive_gateway: 0,
            split_local_origin: false,
            consecutive_local_origin: 5,
            interval: Duration::from_secs(10),
            base_ejection: Duration::from_secs(30),
            max_ejection: Duration::from_secs(300),
            max_ejection_percent: 10,
            min_health_percent: 0,
            http_errors: None,
        }
    }
}
