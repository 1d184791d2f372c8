//! HTTPRoute (v1, v1beta1, v1alpha2: equal meaning).

use super::value::statuses;
use super::{BackendRef, Filter, GatewayDuration, HeaderMatch, ParentRef, QueryMatch, SessionPersistence};
use serde::Deserialize;
use std::sync::Arc;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct HttpRoute {
    pub spec: HttpRouteSpec,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpRouteSpec {
    pub parent_refs: Vec<ParentRef>,
    pub hostnames: Vec<Arc<str>>,
    pub rules: Vec<HttpRule>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpRule {
    pub name: Arc<str>,
    pub matches: Vec<HttpMatch>,
    pub filters: Vec<Filter>,
    pub backend_refs: Vec<BackendRef>,
    pub timeouts: HttpTimeouts,
    pub retry: Option<HttpRetry>,
    pub session_persistence: Option<SessionPersistence>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpMatch {
    pub path: HttpPathMatch,
    pub headers: Vec<HeaderMatch>,
    pub query_params: Vec<QueryMatch>,
    pub method: Option<Arc<str>>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct HttpPathMatch {
    #[serde(rename = "type")]
    pub kind: PathMatchType,
    pub value: Arc<str>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum PathMatchType {
    Exact,
    #[default]
    PathPrefix,
    RegularExpression,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpTimeouts {
    pub request: Option<GatewayDuration>,
    pub backend_request: Option<GatewayDuration>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct HttpRetry {
    #[serde(deserialize_with = "statuses")]
    pub codes: Vec<u16>,
    pub attempts: Option<u32>,
    pub backoff: Option<GatewayDuration>,
}

impl Default for HttpRouteSpec {
    /// A route without rules is one rule that matches everything (the CRD's default).
    fn default() -> Self {
        Self { parent_refs: Vec::new(), hostnames: Vec::new(), rules: vec![HttpRule::default()] }
    }
}

impl Default for HttpPathMatch {
    fn default() -> Self {
        Self { kind: PathMatchType::PathPrefix, value: "/".into() }
    }
}
