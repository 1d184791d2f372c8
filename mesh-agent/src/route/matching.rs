//! The conditions of one route (SEMANTICS §2 and §3).

use super::{Facts, Head};
use crate::snapshot::route::{Conditions, HeaderMatch, Matcher, PathMatch, QueryMatch, StringMatch};
use http::{HeaderMap, HeaderName};
use ipnet::IpNet;
use serde::{Serialize, Serializer};
use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

/// The first condition that does not hold: what the route wants and what the request has.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "condition")]
pub enum Mismatch<'a> {
    Port {
        wanted: u16,
        found: u16,
    },
    Gateway {
        wanted: &'a [Arc<str>],
        found: &'a str,
    },
    SourceNamespace {
        wanted: &'a str,
        found: &'a str,
    },
    SourceLabel {
        name: &'a str,
        wanted: &'a str,
        found: Option<&'a str>,
    },
    Path {
        wanted: &'a PathMatch,
        found: &'a str,
    },
    Scheme {
        wanted: &'a StringMatch,
        found: &'a str,
    },
    Method {
        wanted: &'a StringMatch,
        found: &'a str,
    },
    Authority {
        wanted: &'a StringMatch,
        found: &'a str,
    },
    Header {
        wanted: &'a HeaderMatch,
        #[serde(serialize_with = "lossy")]
        found: Option<Cow<'a, [u8]>>,
    },
    Query {
        wanted: &'a QueryMatch,
        found: Option<&'a str>,
    },
    /// Of the connection's original destination.
    Subnet {
        wanted: &'a [IpNet],
        found: Option<IpAddr>,
    },
    /// In the connection's ClientHello.
    ServerName {
        wanted: &'a [Arc<str>],
        found: &'a str,
    },
}

/// What the connection and its source must be.
pub(super) fn conditions<'a>(wanted: &'a Conditions, facts: &Facts<'a>) -> Result<(), Mismatch<'a>> {
    if let Some(port) = wanted.port
        && port != facts.port
    {
        return Err(Mismatch::Port { wanted: port, found: facts.port });
    }
    if !wanted.gateways.iter().any(|gateway| **gateway == *facts.gateway) {
        return Err(Mismatch::Gateway { wanted: &wanted.gateways, found: facts.gateway });
    }
    if let Some(namespace) = &wanted.source_namespace
        && **namespace != *facts.client.namespace
    {
        return Err(Mismatch::SourceNamespace { wanted: namespace, found: facts.client.namespace });
    }
    for (name, value) in &wanted.source_labels {
        let found = facts.client.labels.get(name).map(|found| &**found);
        if found != Some(&**value) {
            return Err(Mismatch::SourceLabel { name, wanted: value, found });
        }
    }
    Ok(())
}

/// What the request must be.
pub(super) fn matcher<'a>(wanted: &'a Matcher, head: &Head<'a>) -> Result<(), Mismatch<'a>> {
    if let Some(wanted) = &wanted.path
        && !path(wanted, head.path())
    {
        return Err(Mismatch::Path { wanted, found: head.path() });
    }
    if let Some(wanted) = &wanted.method
        && !text(wanted, head.method.as_bytes())
    {
        return Err(Mismatch::Method { wanted, found: head.method });
    }
    if let Some(wanted) = &wanted.scheme
        && !text(wanted, head.scheme.as_bytes())
    {
        return Err(Mismatch::Scheme { wanted, found: head.scheme });
    }
    if let Some(wanted) = &wanted.authority
        && !text(wanted, head.authority.as_bytes())
    {
        return Err(Mismatch::Authority { wanted, found: head.authority });
    }
    for wanted in &wanted.headers {
        let value = joined(head.headers, &wanted.name);
        if !header(wanted, value.as_deref()) {
            return Err(Mismatch::Header { wanted, found: value });
        }
    }
    for wanted in &wanted.query {
        let found = query_value(head.target, &wanted.name);
        if !found.is_some_and(|value| text(&wanted.value, value.as_bytes())) {
            return Err(Mismatch::Query { wanted, found });
        }
    }
    Ok(())
}

/// Length of the part of `path` that `wanted` matches, if it does: what a prefix rewrite replaces.
pub(super) fn matched_length(wanted: &PathMatch, path: &str) -> Option<usize> {
    let starts = |prefix: &str, ignore_case: bool| match path.as_bytes().get(..prefix.len()) {
        Some(start) if ignore_case => start.eq_ignore_ascii_case(prefix.as_bytes()),
        Some(start) => start == prefix.as_bytes(),
        None => false,
    };
    match wanted {
        PathMatch::Exact { value, ignore_case } => {
            (value.len() == path.len() && starts(value, *ignore_case)).then_some(path.len())
        }
        PathMatch::Prefix { value, ignore_case } => starts(value, *ignore_case).then_some(value.len()),
        PathMatch::SegmentPrefix(value) => {
            let prefix = value.trim_end_matches('/');
            let whole = matches!(path.as_bytes().get(prefix.len()), None | Some(b'/'));
            (whole && starts(prefix, false)).then_some(prefix.len())
        }
        PathMatch::Regex(pattern) => pattern.is_match(path).then_some(path.len()),
    }
}

fn path(wanted: &PathMatch, path: &str) -> bool {
    matched_length(wanted, path).is_some()
}

/// A missing header does not match; with `invert` it counts as empty, and `Present` means absent (SEMANTICS §2.4).
fn header(wanted: &HeaderMatch, value: Option<&[u8]>) -> bool {
    match (&wanted.value, wanted.invert) {
        (StringMatch::Present, invert) => value.is_some() != invert,
        (wanted, true) => !text(wanted, value.unwrap_or_default()),
        (wanted, false) => value.is_some_and(|value| text(wanted, value)),
    }
}

/// A regular expression never matches what is not UTF-8, as RE2 does not.
pub(super) fn text(wanted: &StringMatch, found: &[u8]) -> bool {
    match wanted {
        StringMatch::Exact(value) => value.as_bytes() == found,
        StringMatch::Prefix(value) => found.starts_with(value.as_bytes()),
        StringMatch::Regex(pattern) => std::str::from_utf8(found).is_ok_and(|found| pattern.is_match(found)),
        StringMatch::Present => true,
    }
}

/// Repeated header fields joined with `,` (RFC 9110 §5.3, without the space, as Envoy does).
fn joined<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<Cow<'a, [u8]>> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?.as_bytes();
    let mut value = Cow::Borrowed(first);
    for next in values {
        let value = value.to_mut();
        value.push(b',');
        value.extend_from_slice(next.as_bytes());
    }
    Some(value)
}

fn lossy<S: Serializer>(value: &Option<Cow<'_, [u8]>>, serializer: S) -> Result<S::Ok, S::Error> {
    value.as_deref().map(String::from_utf8_lossy).serialize(serializer)
}

/// The first value of a query parameter, as written; `a` and `a=` are empty values.
pub(super) fn query_value<'a>(target: &'a str, name: &str) -> Option<&'a str> {
    let (_, query) = target.split_once('?')?;
    let query = query.split_once('#').map_or(query, |(query, _)| query);
    query
        .split('&')
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .find(|(key, _)| *key == name)
        .map(|(_, v)| v)
}

impl fmt::Display for Mismatch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port { wanted, found } => write!(f, "port {found} is not {wanted}"),
            Self::Gateway { wanted, found } => write!(f, "gateway {found} is not among {}", wanted.join(", ")),
            Self::SourceNamespace { wanted, found } => write!(f, "source namespace {found} is not {wanted}"),
            Self::SourceLabel { name, wanted, found: Some(found) } => {
                write!(f, "source label {name} is {found}, not {wanted}")
            }
            Self::SourceLabel { name, wanted, found: None } => write!(f, "the source has no label {name}={wanted}"),
            Self::Path { wanted, found } => write!(f, "path {found} is not {}", wanted),
            Self::Scheme { wanted, found } => write!(f, "scheme {found} is not {}", wanted),
            Self::Method { wanted, found } => write!(f, "method {found} is not {}", wanted),
            Self::Authority { wanted, found } => write!(f, "authority {found} is not {}", wanted),
            Self::Header { wanted, found } => {
                let name = &wanted.name;
                match (found.as_deref().map(String::from_utf8_lossy), wanted.invert) {
                    (Some(found), true) => write!(f, "header {name}: {found} is {}, and must not", wanted.value),
                    (None, true) => write!(f, "header {name} is missing, which is {}", wanted.value),
                    (Some(found), false) => write!(f, "header {name}: {found} is not {}", wanted.value),
                    (None, false) => write!(f, "header {name} is missing, wanted {}", wanted.value),
                }
            }
            Self::Subnet { wanted, found } => {
                match found {
                    Some(found) => write!(f, "address {found} is not in ")?,
                    None => f.write_str("the address is not known, wanted one in ")?,
                }
                let wanted: Vec<String> = wanted.iter().map(ToString::to_string).collect();
                f.write_str(&wanted.join(", "))
            }
            Self::ServerName { wanted, found } => write!(f, "SNI {found} is not {}", wanted.join(" or ")),
            Self::Query { wanted, found: Some(found) } => {
                write!(f, "query parameter {}={found} is not {}", wanted.name, wanted.value)
            }
            Self::Query { wanted, found: None } => {
                write!(f, "query parameter {} is missing, wanted {}", wanted.name, wanted.value)
            }
        }
    }
}

/// In words, for `explain`.
impl fmt::Display for PathMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PathMatch::Exact { value, .. } => write!(f, "exactly {value}"),
            PathMatch::Prefix { value, .. } => write!(f, "prefixed {value}"),
            PathMatch::SegmentPrefix(value) => write!(f, "under {value}"),
            PathMatch::Regex(pattern) => write!(f, "like {}", pattern.source()),
        }
    }
}

/// In words, for `explain`.
impl fmt::Display for StringMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StringMatch::Exact(value) => write!(f, "exactly {value}"),
            StringMatch::Prefix(value) => write!(f, "prefixed {value}"),
            StringMatch::Regex(pattern) => write!(f, "like {}", pattern.source()),
            StringMatch::Present => f.write_str("present"),
        }
    }
}
