//! `Location` of a redirect (SEMANTICS §3 "Redirect", §11).

use super::{Facts, Head, rewrite};
use crate::snapshot::route::{PathMatch, Redirect, RedirectPort};
use crate::snapshot::without_port;
use http::HeaderValue;

/// `scheme://host[:port]path`; `matched`: what the route's path had to be. `None` where the request's own parts make no
/// header value.
pub fn location(
    redirect: &Redirect,
    matched: Option<&PathMatch>,
    facts: &Facts<'_>,
    head: &Head<'_>,
) -> Option<HeaderValue> {
    let scheme = redirect.scheme.as_deref().unwrap_or(head.scheme);
    let port = match redirect.port {
        RedirectPort::Keep | RedirectPort::FromScheme => None,
        RedirectPort::Number(port) => Some(port),
        RedirectPort::FromRequest => Some(facts.port),
    };
    let host = match &redirect.authority {
        Some(host) => host,
        None if redirect.port == RedirectPort::Keep => kept(head, scheme),
        None => without_port(head.authority),
    };
    let port =
        port.filter(|port| Some(*port) != default_port(scheme)).map(|port| format!(":{port}")).unwrap_or_default();
    let target = redirect.path.as_ref().map(|path| rewrite::path(path, matched, head.target));
    let target = target.as_deref().unwrap_or(head.target);
    HeaderValue::try_from(format!("{scheme}://{host}{port}{target}")).ok()
}

/// The request's host; its port goes where it was its scheme's and the scheme changes: `http://a:80/` → `https://a/`.
fn kept<'a>(head: &Head<'a>, scheme: &str) -> &'a str {
    let host = without_port(head.authority);
    let port =
        head.authority.get(host.len()..).and_then(|port| port.strip_prefix(':')).and_then(|port| port.parse().ok());
    if scheme != head.scheme && port.is_some() && port == default_port(head.scheme) { host } else { head.authority }
}

fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    }
}
