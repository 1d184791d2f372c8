//! GRPCRoute (v1, v1alpha2: equal meaning).

use super::{BackendRef, Filter, HeaderMatch, ParentRef, SessionPersistence, ValueMatchType};
use serde::Deserialize;
use std::sync::Arc;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct GrpcRoute {
    pub spec: GrpcRouteSpec,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct GrpcRouteSpec {
    pub parent_refs: Vec<ParentRef>,
    pub hostnames: Vec<Arc<str>>,
    pub rules: Vec<GrpcRule>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct GrpcRule {
    pub name: Arc<str>,
    pub matches: Vec<GrpcMatch>,
    pub filters: Vec<Filter>,
    pub backend_refs: Vec<BackendRef>,
    pub session_persistence: Option<SessionPersistence>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct GrpcMatch {
    pub method: GrpcMethodMatch,
    pub headers: Vec<HeaderMatch>,
}

/// Empty `service` and `method`: every call.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct GrpcMethodMatch {
    #[serde(rename = "type")]
    pub kind: ValueMatchType,
    /// `shop.Cart`
    pub service: Arc<str>,
    pub method: Arc<str>,
}
