//! What holds for the whole mesh (Istio's MeshConfig).

use super::OutboundPolicy;
use super::access_log::AccessLogSettings;
use super::policy::{LocalityPolicy, TrafficPolicy};
use super::route::{RetryOn, RetryPolicy};
use super::tracing::TracingSettings;
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MeshSettings {
    /// Objects of this namespace hold for all others (`rootNamespace`).
    pub root_namespace: Arc<str>,
    pub cluster_domain: Arc<str>,
    /// `outboundTrafficPolicy`
    pub outbound: OutboundPolicy,
    /// `defaultHttpRetryPolicy`: where no rule says anything; `None`: `attempts: 0`.
    pub retry: Option<Arc<RetryPolicy>>,
    /// `localityLbSetting`: where neither a DestinationRule nor the Service says anything.
    pub locality: Arc<LocalityPolicy>,
    /// `defaultTrafficPolicy`: where no DestinationRule speaks.
    pub policy: Arc<TrafficPolicy>,
    /// `accessLogFile`, `accessLogFormat`, `accessLogEncoding`
    pub access_log: AccessLogSettings,
    /// `enableTracing`, `defaultConfig.tracing`, `defaultProviders.tracing`, `extensionProviders`
    pub tracing: TracingSettings,
}

impl Default for MeshSettings {
    fn default() -> Self {
        Self {
            root_namespace: "istio-system".into(),
            cluster_domain: "cluster.local".into(),
            outbound: OutboundPolicy::AllowAny,
            retry: Some(Arc::new(RetryPolicy::proven())),
            // Istio enables failover everywhere; it takes effect where outlier detection does.
            locality: Arc::new(LocalityPolicy::Failover { regions: Vec::new(), always: false }),
            policy: Arc::default(),
            access_log: AccessLogSettings::default(),
            tracing: TracingSettings::default(),
        }
    }
}

impl RetryPolicy {
    /// The default: twice, and only with proof that the endpoint did not process the request (DESIGN, invariant 12).
    pub fn proven() -> Self {
        Self {
            attempts: 2,
            on: RetryOn::PROVEN,
            statuses: Vec::new(),
            per_try_timeout: None,
            backoff: Duration::from_millis(25),
            avoid_previous: None,
            remote_localities: false,
        }
    }
}
