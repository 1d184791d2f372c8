//! What a route changes in the requests it takes and the responses it gives (SEMANTICS §3 "Rewrite", "Header ops").

use super::matching::matched_length;
use super::path_of;
use crate::error::Failure;
use crate::snapshot::route::{Backend, Forward, HeaderChange, HeaderOps, PathMatch, PathRewrite, Route};
use http::header::{HOST, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, Uri, request};
use std::borrow::Cow;
use std::fmt::Write as _;

/// Where Envoy keeps the path before the rewrite.
pub const ORIGINAL_PATH: HeaderName = HeaderName::from_static("x-envoy-original-path");

const BAD_AUTHORITY: Failure = Failure::BadRequest("the route rewrites the authority to something malformed");
const BAD_TARGET: Failure = Failure::BadRequest("the route rewrites the target to something malformed");

/// Makes a request what `backend` shall get: header operations, then authority, then path (Envoy's order).
///
/// # Errors
/// The rewritten target or authority is no URI.
pub fn request(parts: &mut request::Parts, route: &Route, forward: &Forward, backend: &Backend) -> Result<(), Failure> {
    apply(&mut parts.headers, route, forward, backend, |ops| ops.request.as_deref());
    let rewrite = forward.rewrite.as_ref();
    let set_by = |ops: &'_ HeaderOps| ops.request.as_ref().and_then(|change| change.authority.clone());
    let authority = rewrite.and_then(|rewrite| rewrite.authority.clone());
    if let Some(authority) = authority.or_else(|| set_by(&route.headers)).or_else(|| set_by(&backend.headers)) {
        set_authority(parts, &authority)?;
    }
    if let Some(rewrite) = rewrite.and_then(|rewrite| rewrite.path.as_ref()) {
        let original = parts.uri.path_and_query().map_or("", PathAndQuery::as_str);
        let target = path(rewrite, route.matcher.path.as_ref(), original).into_owned();
        if let Ok(original) = HeaderValue::try_from(original) {
            parts.headers.insert(ORIGINAL_PATH, original);
        }
        set_target(parts, &target)?;
    }
    Ok(())
}

/// Whether [`request()`] has anything to do.
pub fn changes(route: &Route, forward: &Forward, backend: &Backend) -> bool {
    forward.rewrite.is_some() || route.headers.request.is_some() || backend.headers.request.is_some()
}

/// Changes a response's header fields; `backend`: who was asked, `None` for an answer of ours.
pub fn response(headers: &mut HeaderMap, route: &Route, forward: Option<(&Forward, &Backend)>) {
    match forward {
        Some((forward, backend)) => apply(headers, route, forward, backend, |ops| ops.response.as_deref()),
        None => {
            if let Some(change) = &route.headers.response {
                apply_one(headers, change);
            }
        }
    }
}

/// One place's operations: removals, then values that replace, then values that are added.
pub fn apply_one(headers: &mut HeaderMap, change: &HeaderChange) {
    remove(headers, change);
    write(headers, change);
}

/// `target` (path and query) after a rewrite; `matched`: what the route's path had to be (`None`: anything).
///
/// Always a path: what a URI cannot hold is percent-encoded, and a missing `/` put in front (RFC 9112 §3.2.1).
pub fn path<'t>(rewrite: &PathRewrite, matched: Option<&PathMatch>, target: &'t str) -> Cow<'t, str> {
    let old = path_of(target);
    let query = target.get(old.len()..).unwrap_or_default();
    // A match without a path is Istio's prefix `/`.
    let length = matched.map_or(usize::from(old.starts_with('/')), |m| matched_length(m, old).unwrap_or(0));
    let rest = old.get(length..).unwrap_or_default();
    let new = match rewrite {
        PathRewrite::Prefix(prefix) => Cow::Owned(format!("{prefix}{rest}")),
        PathRewrite::SegmentPrefix(prefix) => {
            // `/foo/` and `/foo` are one prefix, `/xyz/` and `/xyz` one replacement (Gateway API HTTPPathModifier).
            let rest = if matched.is_none() { old } else { rest };
            Cow::Owned(format!("{}{rest}", prefix.trim_end_matches('/')))
        }
        // A query of its own takes the place of the request's.
        PathRewrite::Full(full) if full.contains('?') => return Cow::Owned(as_target(full.to_string())),
        PathRewrite::Full(full) => Cow::Owned(full.to_string()),
        PathRewrite::Regex { pattern, replacement } => pattern.replace_all(old, replacement),
    };
    match new {
        Cow::Borrowed(_) => Cow::Borrowed(target),
        Cow::Owned(mut new) => {
            new.push_str(query);
            Cow::Owned(as_target(new))
        }
    }
}

/// Sets `:authority` or `Host`, whichever the request has.
///
/// # Errors
/// `authority` is none.
pub fn set_authority(parts: &mut request::Parts, authority: &str) -> Result<(), Failure> {
    let authority = Authority::try_from(authority).map_err(|_| BAD_AUTHORITY)?;
    let value = HeaderValue::try_from(authority.as_str()).map_err(|_| BAD_AUTHORITY)?;
    if parts.uri.authority().is_some() {
        let mut uri = std::mem::take(&mut parts.uri).into_parts();
        uri.authority = Some(authority);
        parts.uri = Uri::from_parts(uri).map_err(|_| BAD_AUTHORITY)?;
        if let Some(host) = parts.headers.get_mut(HOST) {
            *host = value;
        }
    } else {
        parts.headers.insert(HOST, value);
    }
    Ok(())
}

fn set_target(parts: &mut request::Parts, target: &str) -> Result<(), Failure> {
    let mut uri = std::mem::take(&mut parts.uri).into_parts();
    uri.path_and_query = Some(PathAndQuery::try_from(target).map_err(|_| BAD_TARGET)?);
    parts.uri = Uri::from_parts(uri).map_err(|_| BAD_TARGET)?;
    Ok(())
}

/// Among several backends the backend's operations come first, then the route's; a single one's are Istio's merged
/// list: removals of both, then the route's values, then the backend's.
fn apply(
    headers: &mut HeaderMap,
    route: &Route,
    forward: &Forward,
    backend: &Backend,
    of: impl Fn(&HeaderOps) -> Option<&HeaderChange>,
) {
    let (route, backend) = (of(&route.headers), of(&backend.headers));
    if forward.backends.len() > 1 {
        [backend, route].into_iter().flatten().for_each(|change| apply_one(headers, change));
    } else {
        let changes = || [route, backend].into_iter().flatten();
        changes().for_each(|change| remove(headers, change));
        changes().for_each(|change| write(headers, change));
    }
}

fn remove(headers: &mut HeaderMap, change: &HeaderChange) {
    for name in &change.remove {
        headers.remove(name);
    }
}

fn write(headers: &mut HeaderMap, change: &HeaderChange) {
    for (name, value) in &change.set {
        headers.insert(name, value.clone());
    }
    for (name, value) in &change.add {
        headers.append(name, value.clone());
    }
}

/// What a request target may hold stays (RFC 3986 §3.3, and what servers take beyond it); the rest is encoded.
fn as_target(text: String) -> String {
    let slash = if text.starts_with('/') || text == "*" { "" } else { "/" };
    let allowed = |b: u8| matches!(b, b'!' | b'$'..=b';' | b'=' | b'?'..=b'_' | b'a'..=b'z' | b'|' | b'~');
    if slash.is_empty() && (text.bytes().all(allowed) || text.parse::<PathAndQuery>().is_ok()) {
        return text;
    }
    let mut target = String::with_capacity(text.len() + 8);
    target.push_str(slash);
    for byte in text.bytes() {
        if allowed(byte) {
            target.push(char::from(byte));
        } else {
            // Writing to a String does not fail.
            let _ = write!(target, "%{byte:02X}");
        }
    }
    target
}
