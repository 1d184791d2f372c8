//! `HTTPMatchRequest` → what is known before the request, and what is asked of it.

use super::Rule;
use crate::config::compile::names::gateway;
use crate::config::diagnostic::{Code, Diagnostic};
use crate::config::resource::Labels;
use crate::config::resource::istio::virtual_service::HttpMatch;
use crate::config::resource::istio::wire;
use crate::snapshot::route::{Conditions, HeaderMatch, Matcher, PathMatch, Pattern, QueryMatch, StringMatch};
use http::HeaderName;
use std::collections::BTreeMap;
use std::sync::Arc;

/// None where some part cannot be read: the match would hold for requests it was not meant for.
pub(super) fn matcher(m: &HttpMatch, at: &str, rule: &mut Rule<'_>) -> Option<(Conditions, Matcher)> {
    let mut reader = Reader { rule, at, good: true };
    let path = m.uri.as_ref().and_then(|uri| reader.path(uri, m.ignore_uri_case));
    let scheme = m.scheme.as_ref().and_then(|s| reader.string(s, "scheme"));
    let method = m.method.as_ref().and_then(|s| reader.string(s, "method"));
    let authority = m.authority.as_ref().and_then(|s| reader.string(s, "authority"));
    let mut headers = reader.headers(&m.headers, "headers", false);
    headers.extend(reader.headers(&m.without_headers, "withoutHeaders", true));
    let mut query = Vec::new();
    for (name, value) in &m.query_params {
        let value = reader.string(value, &format!("queryParams[{name}]"));
        query.extend(value.map(|value| QueryMatch { name: Arc::clone(name), value }));
    }
    let port = reader.port(m.port);
    let good = reader.good;
    let conditions = conditions(port, &m.source_namespace, &m.source_labels, &m.gateways, rule);
    // A match's own gateways make labels and namespace irrelevant (SEMANTICS §3 "Applicability").
    let conditions = if m.gateways.is_empty() {
        conditions
    } else {
        Conditions { source_namespace: None, source_labels: Vec::new(), ..conditions }
    };
    good.then_some((conditions, Matcher { path, scheme, method, authority, headers, query }))
}

pub(super) fn conditions(
    port: Option<u16>,
    source_namespace: &Arc<str>,
    source_labels: &Labels,
    gateways: &[Arc<str>],
    rule: &Rule<'_>,
) -> Conditions {
    let own: Vec<Arc<str>> = gateways.iter().map(|name| gateway(name, &rule.key.namespace)).collect();
    Conditions {
        port,
        source_namespace: (!source_namespace.is_empty()).then(|| Arc::clone(source_namespace)),
        source_labels: source_labels.iter().map(|(k, v)| (Arc::clone(k), Arc::clone(v))).collect(),
        gateways: if own.is_empty() { rule.gateways.to_vec() } else { own },
    }
}

/// `StringMatch` anywhere; none where it cannot be read, with the reason.
pub(super) fn string(m: &wire::StringMatch) -> Result<StringMatch, (Code, String)> {
    match (&m.exact, &m.prefix, &m.regex) {
        (None, None, None) => Ok(StringMatch::Present),
        (Some(value), None, None) => Ok(StringMatch::Exact(Arc::clone(value))),
        (None, Some(value), None) => Ok(StringMatch::Prefix(Arc::clone(value))),
        (None, None, Some(regex)) if &**regex == "*" => Ok(StringMatch::Present),
        (None, None, Some(regex)) => {
            Pattern::new(regex).map(StringMatch::Regex).map_err(|e| (Code::InvalidRegexp, e.to_string()))
        }
        _ => Err((Code::SchemaValidationError, "more than one of exact, prefix and regex".into())),
    }
}

struct Reader<'r, 'a> {
    rule: &'r mut Rule<'a>,
    at: &'r str,
    good: bool,
}

impl Reader<'_, '_> {
    fn bad(&mut self, code: Code, field: &str, why: &str, fix: &str) {
        let dot = if self.at.is_empty() { "" } else { "." };
        let diagnostic = Diagnostic::error(code, format!("{why}; the match is left out"));
        self.rule.say(diagnostic, &format!("{}{dot}{field}", self.at), fix);
        self.good = false;
    }

    fn string(&mut self, m: &wire::StringMatch, field: &str) -> Option<StringMatch> {
        let fix = "write one of exact, prefix or regex (RE2 syntax)";
        string(m).map_err(|(code, why)| self.bad(code, field, &why, fix)).ok()
    }

    fn path(&mut self, uri: &wire::StringMatch, ignore_case: bool) -> Option<PathMatch> {
        Some(match self.string(uri, "uri")? {
            StringMatch::Exact(value) => PathMatch::Exact { value, ignore_case },
            StringMatch::Prefix(value) => PathMatch::Prefix { value, ignore_case },
            StringMatch::Regex(pattern) => PathMatch::Regex(pattern),
            // Every request has a path.
            StringMatch::Present => return None,
        })
    }

    fn headers(&mut self, map: &BTreeMap<Arc<str>, wire::StringMatch>, list: &str, invert: bool) -> Vec<HeaderMatch> {
        let mut found = Vec::new();
        for (name, value) in map {
            let field = format!("{list}[{name}]");
            if matches!(&**name, "uri" | "scheme" | "method" | "authority") {
                let message = format!("a header named {name} is not looked at here");
                let diagnostic = Diagnostic::warning(Code::SchemaWarning, message);
                let dot = if self.at.is_empty() { "" } else { "." };
                self.rule.say(
                    diagnostic,
                    &format!("{}{dot}{field}", self.at),
                    format!("write the field {name} of the match"),
                );
                continue;
            }
            if name.starts_with('@') {
                self.bad(
                    Code::JwtClaimBasedRoutingWithoutRequestAuthN,
                    &field,
                    "nothing here validates a JWT (no RequestAuthentication is acted on): its claims are not known",
                    "match on a header instead",
                );
                continue;
            }
            let Ok(header) = name.parse::<HeaderName>() else {
                self.bad(
                    Code::SchemaValidationError,
                    &field,
                    "not a header's name",
                    "write letters, digits and dashes",
                );
                continue;
            };
            found.extend(self.string(value, &field).map(|value| HeaderMatch { name: header, value, invert }));
        }
        found
    }

    fn port(&mut self, number: i64) -> Option<u16> {
        if number == 0 {
            return None;
        }
        let port = u16::try_from(number).ok();
        if port.is_none() {
            self.bad(
                Code::SchemaValidationError,
                "port",
                &format!("{number} is not a port number"),
                "write a number from 1 to 65535",
            );
        }
        port
    }
}
