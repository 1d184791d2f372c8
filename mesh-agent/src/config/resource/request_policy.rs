//! RequestPolicy (`undermesh.dev/v1alpha1`): what no Istio or Gateway API object can say about the requests for a host:
//! local rate limits, hedging, ages of connections. It needs no VirtualService and changes no match.

use super::Labels;
use super::fields::{Field, leaf, list, message};
use super::istio::wire::{PERCENT, Percent, Span};
use super::schema::object;
use serde::Deserialize;
use std::sync::Arc;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct RequestPolicy {
    pub spec: Spec,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Spec {
    /// Services of the object's own namespace.
    pub target_refs: Vec<TargetRef>,
    /// As in a VirtualService: short names are Services of the object's own namespace.
    pub hosts: Vec<Arc<str>>,
    /// Names of the routes it holds for; empty: all of the host.
    pub routes: Vec<Arc<str>>,
    pub rate_limit: Option<RateLimit>,
    pub hedging: Option<Hedging>,
    pub connection: Option<Connection>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct TargetRef {
    pub group: Arc<str>,
    /// `Service`
    pub kind: Arc<str>,
    pub name: Arc<str>,
}

/// A token bucket for each source workload and host; for each route where `routes` names some.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RateLimit {
    pub max_tokens: u32,
    /// 1 where absent.
    pub tokens_per_fill: Option<u32>,
    /// At least 50 ms; 1 s where absent.
    pub fill_interval: Option<Span>,
    /// Of the requests, how many the limit holds for; all where absent.
    pub percentage: Option<Percent>,
    /// gRPC clients are told RESOURCE_EXHAUSTED (8) instead of UNAVAILABLE (14).
    pub resource_exhausted: bool,
    /// Added to the 429.
    pub response_headers: Labels,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Hedging {
    /// After this long without an answer another attempt is made.
    pub delay: Span,
    /// A `perTryTimeout` does not end its attempt but starts another one beside it.
    pub hedge_on_per_try_timeout: bool,
    /// All together; 2 where absent.
    pub max_attempts: Option<u32>,
    /// Of a hundred requests in flight, how many may be hedges; 10 where absent.
    pub budget_percent: Option<u32>,
    /// `GET`, `/package.Service/Method`; empty: GET and HEAD.
    pub methods: Vec<Arc<str>>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Connection {
    /// Connections to endpoints that are older are drained, with jitter, so that long-lived streams move on.
    pub max_age: Option<Span>,
}

pub(crate) const FIELDS: &[Field] = &object(&[
    list("targetRefs", &[leaf("group"), leaf("kind"), leaf("name")]),
    leaf("hosts"),
    leaf("routes"),
    message(
        "rateLimit",
        &[
            leaf("maxTokens"),
            leaf("tokensPerFill"),
            leaf("fillInterval"),
            message("percentage", PERCENT),
            leaf("resourceExhausted"),
            leaf("responseHeaders"),
        ],
    ),
    message(
        "hedging",
        &[leaf("delay"), leaf("hedgeOnPerTryTimeout"), leaf("maxAttempts"), leaf("budgetPercent"), leaf("methods")],
    ),
    message("connection", &[leaf("maxAge")]),
]);
