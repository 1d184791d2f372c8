//! Objects of the Gateway API (`gateway.networking.k8s.io`, field names of release 1.5).
//!
//! What the API's own validation refuses (a status of 700, a weight below 0) is refused here: such an object never
//! gets into a cluster. What the API leaves to the implementation (kinds, filter types) is kept as text for `compile`.

mod duration;
pub(crate) mod fields;
mod filter;
mod gateway;
mod grant;
mod grpc_route;
mod http_route;
mod value;

pub use duration::GatewayDuration;
pub use filter::{
    CorsFilter, Filter, Fraction, HeaderModifier, HeaderPair, PathModifier, PathModifierType, RequestMirror,
    RequestRedirect, UrlRewrite,
};
pub use gateway::{
    AllowedRoutes, CertificateRef, ClientValidation, ClientValidationMode, FromNamespaces, FrontendTls, Gateway,
    GatewayClass, GatewayClassSpec, GatewaySpec, GatewayTls, LabelSelector, Listener, ListenerTls, Operator,
    PortValidation, Requirement, RouteKind, RouteNamespaces, TlsMode,
};
pub use grant::{GrantFrom, GrantSpec, GrantTo, ReferenceGrant};
pub use grpc_route::{GrpcMatch, GrpcMethodMatch, GrpcRoute, GrpcRouteSpec, GrpcRule};
pub use http_route::{
    HttpMatch, HttpPathMatch, HttpRetry, HttpRoute, HttpRouteSpec, HttpRule, HttpTimeouts, PathMatchType,
};

use serde::Deserialize;
use std::sync::Arc;
use value::header_name;

/// `gateway.networking.k8s.io`
pub const GROUP: &str = "gateway.networking.k8s.io";

/// `parentRefs[]`: what a route attaches to.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ParentRef {
    #[serde(default = "gateway_group")]
    pub group: Arc<str>,
    #[serde(default = "gateway_kind")]
    pub kind: Arc<str>,
    /// `None`: the route's.
    pub namespace: Option<Arc<str>>,
    pub name: Arc<str>,
    /// A listener of a Gateway.
    pub section_name: Option<Arc<str>>,
    pub port: Option<u16>,
}

/// `backendRefs[]`, and `requestMirror.backendRef` (which has neither weight nor filters).
#[derive(Clone, Debug, Deserialize)]
pub struct BackendRef {
    #[serde(default)]
    pub group: Arc<str>,
    #[serde(default = "service_kind")]
    pub kind: Arc<str>,
    /// `None`: the route's.
    pub namespace: Option<Arc<str>>,
    pub name: Arc<str>,
    pub port: Option<u16>,
    #[serde(default = "one")]
    pub weight: u32,
    #[serde(default)]
    pub filters: Vec<Filter>,
}

/// `headers[]` and `queryParams[]` of a match.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum ValueMatchType {
    #[default]
    Exact,
    RegularExpression,
}

#[derive(Clone, Debug, Deserialize)]
pub struct HeaderMatch {
    #[serde(default, rename = "type")]
    pub kind: ValueMatchType,
    #[serde(deserialize_with = "header_name")]
    pub name: http::HeaderName,
    pub value: Arc<str>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct QueryMatch {
    #[serde(default, rename = "type")]
    pub kind: ValueMatchType,
    pub name: Arc<str>,
    pub value: Arc<str>,
}

/// `sessionPersistence`: read so that it can be named; nothing acts on it yet.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct SessionPersistence {}

fn gateway_group() -> Arc<str> {
    GROUP.into()
}

fn gateway_kind() -> Arc<str> {
    "Gateway".into()
}

fn service_kind() -> Arc<str> {
    "Service".into()
}

fn one() -> u32 {
    1
}
