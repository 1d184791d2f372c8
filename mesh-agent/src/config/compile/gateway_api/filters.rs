//! Filters of rules and of backends.

use super::backend::{self, Referrer};
use crate::config::diagnostic::Diagnostic;
use crate::config::resource::gateway_api::{
    CorsFilter, Filter, HeaderModifier, PathModifier, PathModifierType, RequestMirror, RequestRedirect, UrlRewrite,
};
use crate::snapshot::route::{
    Cors, HeaderChange, HeaderOps, Mirror, PathRewrite, Pattern, Redirect, RedirectPort, Rewrite, StringMatch,
};
use http::HeaderValue;
use http::header::HOST;
use std::sync::Arc;
use std::time::Duration;

/// What a list of filters comes to.
#[derive(Debug, Default)]
pub(super) struct Filters {
    request: HeaderChange,
    response: HeaderChange,
    pub(super) mirrors: Vec<Mirror>,
    pub(super) redirect: Option<Redirect>,
    pub(super) rewrite: Option<Rewrite>,
    pub(super) cors: Option<Arc<Cors>>,
    /// A prefix is replaced: every match must be a prefix.
    pub(super) needs_prefix: bool,
}

/// A filter that cannot be carried out. Its rule (or backend) answers 500: to leave it out would change what the rule
/// means (HTTPRouteFilter: "must not be skipped").
#[derive(Debug)]
pub(super) struct Invalid {
    /// Below the list's own path: `[1]`
    pub(super) field: String,
    pub(super) message: String,
    pub(super) fix: &'static str,
}

impl Filters {
    pub(super) fn headers(&self) -> HeaderOps {
        let some = |change: &HeaderChange| (*change != HeaderChange::default()).then(|| Arc::new(change.clone()));
        HeaderOps { request: some(&self.request), response: some(&self.response) }
    }
}

/// `path` is the list's, for findings: `spec.rules[0].filters`.
pub(super) fn filters(
    list: &[Filter],
    path: &str,
    referrer: &Referrer<'_>,
    found: &mut Vec<Diagnostic>,
) -> Result<Filters, Invalid> {
    let mut made = Filters::default();
    for (i, filter) in list.iter().enumerate() {
        let invalid = |message: String, fix| Invalid { field: format!("[{i}]"), message, fix };
        let done = match &*filter.kind {
            "RequestHeaderModifier" => {
                filter.request_header_modifier.as_ref().map(|m| change(m, true, &mut made.request))
            }
            "ResponseHeaderModifier" => {
                filter.response_header_modifier.as_ref().map(|m| change(m, false, &mut made.response))
            }
            "RequestMirror" => filter.request_mirror.as_ref().map(|m| {
                let field = format!("{path}[{i}].requestMirror.backendRef");
                made.mirrors.extend(mirror(m, &field, referrer, found));
            }),
            "RequestRedirect" => filter.request_redirect.as_ref().map(|r| {
                made.needs_prefix |= replaces_prefix(r.path.as_ref());
                made.redirect = Some(redirect(r));
            }),
            "URLRewrite" => filter.url_rewrite.as_ref().map(|r| {
                made.needs_prefix |= replaces_prefix(r.path.as_ref());
                made.rewrite = Some(rewrite(r));
            }),
            "CORS" => filter.cors.as_ref().map(|c| made.cors = Some(Arc::new(cors(c)))),
            kind => {
                let fix = "use a filter of the Gateway API's core, or a VirtualService";
                return Err(invalid(format!("filters of type {kind:?} are not supported"), fix));
            }
        };
        if done.is_none() {
            let message = format!("type is {:?}, but the field of that type is missing", &*filter.kind);
            return Err(invalid(message, "add the field, or correct the type"));
        }
    }
    if made.redirect.is_some() && made.rewrite.is_some() {
        return Err(Invalid {
            field: String::new(),
            message: "RequestRedirect and URLRewrite exclude each other".into(),
            fix: "keep one of them",
        });
    }
    Ok(made)
}

fn change(modifier: &HeaderModifier, of_request: bool, into: &mut HeaderChange) {
    into.remove.extend(modifier.remove.iter().cloned());
    for (pairs, ops) in [(&modifier.set, &mut into.set), (&modifier.add, &mut into.add)] {
        for pair in pairs {
            // `Host` is rewritten, not added to; `set` goes before `add`.
            if of_request && pair.name == HOST {
                let host = String::from_utf8_lossy(pair.value.as_bytes());
                into.authority.get_or_insert_with(|| host.into());
            } else {
                ops.push((pair.name.clone(), pair.value.clone()));
            }
        }
    }
}

/// `None`, and a finding, where the mirror's backend cannot be used: requests go their way without it.
fn mirror(m: &RequestMirror, field: &str, referrer: &Referrer<'_>, found: &mut Vec<Diagnostic>) -> Option<Mirror> {
    let share = match (m.percent, m.fraction) {
        (Some(percent), _) => percent * 10_000,
        (None, Some(fraction)) => {
            let millionths = u64::from(fraction.numerator) * 1_000_000 / u64::from(fraction.denominator.max(1));
            u32::try_from(millionths.min(1_000_000)).unwrap_or(1_000_000)
        }
        (None, None) => 1_000_000,
    };
    match backend::destination(&m.backend_ref, referrer) {
        Ok(to) => Some(Mirror { to, share }),
        Err(refusal) => {
            found.push(refusal.diagnostic("nothing is mirrored").field(field));
            None
        }
    }
}

fn replaces_prefix(path: Option<&PathModifier>) -> bool {
    path.is_some_and(|path| path.kind == PathModifierType::ReplacePrefixMatch)
}

fn path(path: &PathModifier) -> PathRewrite {
    match path.kind {
        PathModifierType::ReplaceFullPath => PathRewrite::Full(Arc::clone(&path.replace_full_path)),
        PathModifierType::ReplacePrefixMatch => PathRewrite::SegmentPrefix(Arc::clone(&path.replace_prefix_match)),
    }
}

fn redirect(r: &RequestRedirect) -> Redirect {
    Redirect {
        status: r.status_code,
        scheme: r.scheme.clone(),
        authority: r.hostname.clone(),
        // HTTPRequestRedirectFilter.port: that of the scheme where one is given, else the listener's.
        port: match (r.port, &r.scheme) {
            (Some(port), _) => RedirectPort::Number(port),
            (None, Some(_)) => RedirectPort::FromScheme,
            (None, None) => RedirectPort::FromRequest,
        },
        path: r.path.as_ref().map(path),
    }
}

fn rewrite(r: &UrlRewrite) -> Rewrite {
    Rewrite { path: r.path.as_ref().map(path), authority: r.hostname.clone() }
}

fn cors(c: &CorsFilter) -> Cors {
    let any = |list: &[Arc<str>]| list.iter().any(|value| &**value == "*");
    let joined = |list: &[Arc<str>]| HeaderValue::try_from(list.join(",")).ok().filter(|_| !list.is_empty());
    let methods = if any(&c.allow_methods) {
        // `*` is no wildcard for requests with credentials (Fetch standard §3.3.3), so all are spelled out.
        Some(HeaderValue::from_static("GET,HEAD,POST,PUT,DELETE,CONNECT,OPTIONS,TRACE,PATCH"))
    } else {
        joined(&c.allow_methods)
    };
    Cors {
        allow_origins: c.allow_origins.iter().map(origin).collect(),
        allow_methods: methods,
        allow_headers: joined(&c.allow_headers),
        allow_any_header: any(&c.allow_headers),
        expose_headers: joined(&c.expose_headers),
        max_age: Some(Duration::from_secs(c.max_age.into())),
        allow_credentials: c.allow_credentials,
        forward_unmatched_preflights: false,
    }
}

/// `https://a.example`, `https://*.example` (any number of labels), `*`
fn origin(text: &Arc<str>) -> StringMatch {
    if &**text == "*" {
        return StringMatch::Present;
    }
    let parts: Vec<String> = text.split('*').map(regex::escape).collect();
    match Pattern::new(&parts.join(".+")) {
        Ok(pattern) if parts.len() > 1 => StringMatch::Regex(pattern),
        _ => StringMatch::Exact(Arc::clone(text)),
    }
}
