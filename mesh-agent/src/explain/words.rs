//! Compiled policies in the words of the objects they came from.

use crate::snapshot::policy::{
    ClientTlsMode, ConnectionPool, H2Upgrade, HashKey, LocalityPolicy, OutlierDetection, ProxyProtocol, TrafficPolicy,
};
use crate::snapshot::route::{AbortWith, HeaderChange, RetryOn};
use std::time::Duration;

/// Of a million → of a hundred.
pub(super) fn percent(share: u32) -> f64 {
    f64::from(share.min(1_000_000)) / 1e4
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

pub(super) fn time(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}

pub(super) fn abort(with: AbortWith) -> String {
    match with {
        AbortWith::Http(status) => format!("HTTP {}", status.as_u16()),
        AbortWith::Grpc(status) => format!("gRPC status {status}"),
    }
}

/// `set a: b, add c: d, remove e`
pub(super) fn change(change: &HeaderChange) -> String {
    let pairs = |verb: &'static str, pairs: &[(http::HeaderName, http::HeaderValue)]| -> Vec<String> {
        let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        pairs.iter().map(|(name, value)| format!("{verb} {name}: {}", text(value))).collect()
    };
    let mut all: Vec<String> = change.remove.iter().map(|name| format!("remove {name}")).collect();
    all.extend(pairs("set", &change.set));
    all.extend(pairs("add", &change.add));
    all.extend(change.authority.as_ref().map(|authority| format!("set host: {authority}")));
    all.join(", ")
}

/// `retryOn` as it is written.
pub(super) fn retry_on(on: RetryOn) -> Vec<String> {
    const NAMES: [(RetryOn, &str); 15] = [
        (RetryOn::PROVEN, "proven"),
        (RetryOn::FIVE_XX, "5xx"),
        (RetryOn::GATEWAY_ERROR, "gateway-error"),
        (RetryOn::RESET, "reset"),
        (RetryOn::RESET_BEFORE_REQUEST, "reset-before-request"),
        (RetryOn::CONNECT_FAILURE, "connect-failure"),
        (RetryOn::RETRIABLE_4XX, "retriable-4xx"),
        (RetryOn::REFUSED_STREAM, "refused-stream"),
        (RetryOn::RETRIABLE_STATUS_CODES, "retriable-status-codes"),
        (RetryOn::ENVOY_RATELIMITED, "envoy-ratelimited"),
        (RetryOn::CANCELLED, "cancelled"),
        (RetryOn::DEADLINE_EXCEEDED, "deadline-exceeded"),
        (RetryOn::INTERNAL, "internal"),
        (RetryOn::RESOURCE_EXHAUSTED, "resource-exhausted"),
        (RetryOn::UNAVAILABLE, "unavailable"),
    ];
    NAMES.iter().filter(|(condition, _)| on.has(*condition)).map(|(_, name)| (*name).to_owned()).collect()
}

pub(super) fn hash_key(key: &HashKey) -> String {
    match key {
        HashKey::Header(name) => format!("header {name}"),
        HashKey::Cookie { name, .. } => format!("cookie {name}"),
        HashKey::SourceIp => "source address".into(),
        HashKey::Query(name) => format!("query parameter {name}"),
    }
}

/// Whatever a policy says beside the balancer.
pub(super) fn settings(policy: &TrafficPolicy) -> Vec<String> {
    let mut all = pool(&policy.pool);
    all.extend(policy.outlier.as_deref().map(outlier));
    all.extend(policy.locality.as_deref().map(locality));
    all.extend(policy.warmup.map(|warmup| format!("slow start over {}", time(warmup.duration))));
    all.extend(
        policy.retry_budget.map(|budget| {
            format!("retry budget {} % of requests, at least {}", budget.percent, budget.min_concurrency)
        }),
    );
    all.extend(policy.tls.as_ref().map(|tls| match tls.mode {
        ClientTlsMode::Disable => "no TLS to endpoints".into(),
        ClientTlsMode::Simple => "TLS to endpoints (SIMPLE)".into(),
        ClientTlsMode::Mutual => "TLS to endpoints (MUTUAL)".into(),
        ClientTlsMode::IstioMutual => "TLS to endpoints (ISTIO_MUTUAL)".into(),
    }));
    all.extend(policy.proxy_protocol.map(|version| match version {
        ProxyProtocol::V1 => "PROXY protocol v1".into(),
        ProxyProtocol::V2 => "PROXY protocol v2".into(),
    }));
    all
}

fn pool(pool: &ConnectionPool) -> Vec<String> {
    let count = |what: &str, count: Option<u32>| count.map(|count| format!("at most {count} {what}"));
    let limit = |what: &str, limit: Option<Duration>| limit.map(|limit| format!("{what} {}", time(limit)));
    let upgrade = match pool.upgrade {
        H2Upgrade::Upgrade => Some("HTTP/2 to endpoints".to_owned()),
        H2Upgrade::DoNotUpgrade => Some("HTTP version of the client".to_owned()),
        H2Upgrade::Default => None,
    };
    [
        count("connections", pool.max_connections),
        count("waiting requests", pool.max_pending_requests),
        count("requests at one time", pool.max_requests),
        count("requests per connection", pool.max_requests_per_connection),
        count("retries at one time", pool.max_retries),
        count("streams per connection", pool.max_concurrent_streams),
        limit("connect timeout", pool.connect_timeout),
        limit("idle timeout", pool.idle_timeout),
        limit("TCP idle timeout", pool.tcp_idle_timeout),
        limit("connections live for", pool.max_connection_duration),
        upgrade,
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn outlier(outlier: &OutlierDetection) -> String {
    let errors = |count: u32, what: &str| (count > 0).then(|| format!("{count} {what}"));
    let causes: Vec<String> = [
        errors(outlier.consecutive_5xx, "5xx"),
        errors(outlier.consecutive_gateway, "gateway errors"),
        errors(outlier.consecutive_local_origin, "failed connections").filter(|_| outlier.split_local_origin),
    ]
    .into_iter()
    .flatten()
    .collect();
    let (base, most) = (time(outlier.base_ejection), outlier.max_ejection_percent);
    format!(
        "ejects an endpoint after {} in a row, for {base} and longer, at most {most} % of them",
        causes.join(" or ")
    )
}

fn locality(locality: &LocalityPolicy) -> String {
    match locality {
        LocalityPolicy::Off => "localities are equal".into(),
        LocalityPolicy::Failover { regions, .. } if regions.is_empty() => "closest locality first".into(),
        LocalityPolicy::Failover { regions, .. } => {
            let pairs: Vec<String> = regions.iter().map(|(from, to)| format!("{from} → {to}")).collect();
            format!("closest locality first, then {}", pairs.join(", "))
        }
        LocalityPolicy::Labels { keys, .. } => {
            let keys: Vec<&str> = keys.iter().map(|(key, _)| &**key).collect();
            format!("endpoints with the client's {} first", keys.join(", "))
        }
        LocalityPolicy::Distribute(rules) => {
            let rule = |from: &str, to: &[(std::sync::Arc<str>, u32)]| {
                let to: Vec<String> = to.iter().map(|(to, share)| format!("{share} % {to}")).collect();
                format!("{from} → {}", to.join(", "))
            };
            let rules: Vec<String> = rules.iter().map(|rules| rule(&rules.from, &rules.to)).collect();
            format!("localities by share: {}", rules.join("; "))
        }
    }
}

/// `region/zone/subzone` as far as it is known.
pub(super) fn place(locality: &crate::snapshot::Locality) -> String {
    let parts = [&locality.region, &locality.zone, &locality.subzone];
    let known = parts.iter().take_while(|part| !part.is_empty()).map(|part| &***part);
    known.collect::<Vec<_>>().join("/")
}

/// The word that a unit-like enum serialises to.
pub(super) fn word<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}
