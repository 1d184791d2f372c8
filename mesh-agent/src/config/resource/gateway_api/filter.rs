//! Filters of rules and of backends.

use super::BackendRef;
use super::value::{header_name, header_names, header_value, percent, redirect_status};
use http::{HeaderName, HeaderValue, StatusCode};
use serde::Deserialize;
use std::sync::Arc;

/// `filters[]`: a union whose `type` says which field counts.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Filter {
    #[serde(rename = "type")]
    pub kind: Arc<str>,
    pub request_header_modifier: Option<HeaderModifier>,
    pub response_header_modifier: Option<HeaderModifier>,
    pub request_mirror: Option<RequestMirror>,
    pub request_redirect: Option<RequestRedirect>,
    pub url_rewrite: Option<UrlRewrite>,
    pub cors: Option<CorsFilter>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct HeaderModifier {
    pub set: Vec<HeaderPair>,
    pub add: Vec<HeaderPair>,
    #[serde(deserialize_with = "header_names")]
    pub remove: Vec<HeaderName>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct HeaderPair {
    #[serde(deserialize_with = "header_name")]
    pub name: HeaderName,
    #[serde(deserialize_with = "header_value")]
    pub value: HeaderValue,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RequestMirror {
    pub backend_ref: BackendRef,
    /// Of a hundred; `None` with `fraction` `None`: all.
    #[serde(default, deserialize_with = "percent")]
    pub percent: Option<u32>,
    pub fraction: Option<Fraction>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Fraction {
    pub numerator: u32,
    #[serde(default = "hundred")]
    pub denominator: u32,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RequestRedirect {
    pub scheme: Option<Arc<str>>,
    pub hostname: Option<Arc<str>>,
    pub path: Option<PathModifier>,
    pub port: Option<u16>,
    #[serde(default = "found", deserialize_with = "redirect_status")]
    pub status_code: StatusCode,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct UrlRewrite {
    pub hostname: Option<Arc<str>>,
    pub path: Option<PathModifier>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PathModifier {
    #[serde(rename = "type")]
    pub kind: PathModifierType,
    #[serde(default)]
    pub replace_full_path: Arc<str>,
    #[serde(default)]
    pub replace_prefix_match: Arc<str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum PathModifierType {
    ReplaceFullPath,
    ReplacePrefixMatch,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct CorsFilter {
    /// `https://a.example`, `https://*.example`, `*`
    pub allow_origins: Vec<Arc<str>>,
    pub allow_credentials: bool,
    pub allow_methods: Vec<Arc<str>>,
    pub allow_headers: Vec<Arc<str>>,
    pub expose_headers: Vec<Arc<str>>,
    /// Seconds.
    pub max_age: u32,
}

impl Default for CorsFilter {
    fn default() -> Self {
        Self {
            allow_origins: Vec::new(),
            allow_credentials: false,
            allow_methods: Vec::new(),
            allow_headers: Vec::new(),
            expose_headers: Vec::new(),
            max_age: 5,
        }
    }
}

fn found() -> StatusCode {
    StatusCode::FOUND
}

fn hundred() -> u32 {
    100
}
