//! Which route takes a request, and what it does to it.
//!
//! Place in the path: `proxy/exchange.rs` asks [`find`] with the virtual host the snapshot gave, then `rewrite`,
//! `redirect`, `cors` and `split` with the route found. `explain` asks [`check`], the very function of the data path.
//! Invariant: pure; no allocation where nothing changes.

pub mod cors;
pub mod l4;
mod matching;
pub mod redirect;
pub mod rewrite;
pub mod split;

pub use matching::Mismatch;

use crate::snapshot::Client;
use crate::snapshot::route::{Route, VirtualHost};
use http::header::HOST;
use http::{HeaderMap, request};
use std::sync::Arc;

/// A request's head, as matching reads it.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    pub method: &'a str,
    /// `http`, unless the client said otherwise.
    pub scheme: &'a str,
    /// `:authority` or `Host` as sent, with the port if there was one.
    pub authority: &'a str,
    /// Path and query.
    pub target: &'a str,
    pub headers: &'a HeaderMap,
}

/// What is known of a request before it is read (SEMANTICS §3 "Static match fields").
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// Of the Service or listener.
    pub port: u16,
    pub client: Client<'a>,
    /// `namespace/name` of the gateway, or `snapshot::route::MESH`.
    pub gateway: &'a str,
}

impl<'a> Head<'a> {
    /// HTTP/2 has its target in pseudo header fields; HTTP/1.1 in the request line and `Host` (RFC 9112 §3.2).
    pub fn of(parts: &'a request::Parts) -> Self {
        let uri = &parts.uri;
        let host = || parts.headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        Self {
            method: parts.method.as_str(),
            scheme: uri.scheme_str().unwrap_or_else(|| forwarded_scheme(&parts.headers)),
            authority: uri.authority().map_or_else(host, |authority| authority.as_str()),
            target: uri.path_and_query().map_or("", |target| target.as_str()),
            headers: &parts.headers,
        }
    }

    /// The path without query and fragment.
    pub fn path(&self) -> &'a str {
        path_of(self.target)
    }
}

/// The first route whose conditions all hold.
pub fn find<'v>(host: &'v VirtualHost, facts: &Facts<'_>, head: &Head<'_>) -> Option<&'v Arc<Route>> {
    host.routes.candidates(head.path(), head.headers).find(|route| check(route, facts, head).is_ok())
}

/// Whether `route` takes the request; else the first condition that does not hold.
///
/// # Errors
/// The near miss, for `explain`.
pub fn check<'a>(route: &'a Route, facts: &Facts<'a>, head: &Head<'a>) -> Result<(), Mismatch<'a>> {
    matching::conditions(&route.conditions, facts)?;
    matching::matcher(&route.matcher, head)
}

/// HTTP/1.1 names no scheme; a gateway that terminated TLS says so in `x-forwarded-proto`.
fn forwarded_scheme(headers: &HeaderMap) -> &'static str {
    let https = headers.get("x-forwarded-proto").is_some_and(|proto| proto.as_bytes().eq_ignore_ascii_case(b"https"));
    if https { "https" } else { "http" }
}

/// Cut at the first `?` or `#`, whichever comes first (SEMANTICS §2.3).
fn path_of(target: &str) -> &str {
    target.find(['?', '#']).and_then(|end| target.get(..end)).unwrap_or(target)
}

#[cfg(test)]
mod tests;
