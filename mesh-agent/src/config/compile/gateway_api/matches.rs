//! Matches of a rule, and the order in which they are tried (SEMANTICS §11).

use super::super::index::Age;
use super::spec::Matches;
use crate::config::diagnostic::{Code, Diagnostic};
use crate::config::resource::gateway_api::{
    self as api, GrpcMatch, GrpcMethodMatch, HttpMatch, PathMatchType, ValueMatchType,
};
use crate::snapshot::route::{HeaderMatch, Matcher, PathMatch, Pattern, PatternError, QueryMatch, StringMatch};
use std::cmp::Reverse;
use std::sync::Arc;

/// Smaller is tried first: `Exact` before `PathPrefix` before `RegularExpression`, then the longer path, a method, more
/// headers, more query parameters, the older route, its name, the earlier rule and match.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in super::super) struct Rank {
    path: PathRank,
    length: Reverse<usize>,
    method: Reverse<bool>,
    headers: Reverse<usize>,
    query: Reverse<usize>,
    age: Age,
    rule: usize,
    index: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum PathRank {
    Exact,
    Prefix,
    Regex,
}

/// One match; `index` is its place in the rule, `None` where the rule has none.
pub(super) struct Match {
    pub(super) rank: Rank,
    pub(super) matcher: Matcher,
    pub(super) index: Option<usize>,
}

/// Every usable match of a rule; those with a bad regular expression are named and left out.
pub(super) fn matches(matches: &Matches<'_>, rule: usize, age: &Age, found: &mut Vec<Diagnostic>) -> Vec<Match> {
    let made: Vec<_> = match matches {
        Matches::Http([]) => vec![(None, Ok(Matcher::default()))],
        Matches::Grpc([]) => vec![(None, Ok(Matcher::default()))],
        Matches::Http(list) => list.iter().enumerate().map(|(i, m)| (Some(i), http(m))).collect(),
        Matches::Grpc(list) => list.iter().enumerate().map(|(i, m)| (Some(i), grpc(m))).collect(),
    };
    let mut usable = Vec::new();
    for (index, matcher) in made {
        match matcher {
            Ok(matcher) => {
                let rank = rank(&matcher, age, rule, index.unwrap_or_default());
                usable.push(Match { rank, matcher, index });
            }
            Err(BadRegex { field, source, error }) => {
                let message = format!("{source:?} is no RE2 regular expression; the match is left out ({error})");
                let field = format!("spec.rules[{rule}].matches[{}].{field}", index.unwrap_or_default());
                found.push(Diagnostic::error(Code::InvalidRegexp, message).field(field).fix("correct the expression"));
            }
        }
    }
    usable
}

struct BadRegex {
    field: String,
    source: Arc<str>,
    error: PatternError,
}

fn rank(matcher: &Matcher, age: &Age, rule: usize, index: usize) -> Rank {
    let (path, length) = match &matcher.path {
        Some(PathMatch::Exact { value, .. }) => (PathRank::Exact, value.len()),
        Some(PathMatch::SegmentPrefix(value) | PathMatch::Prefix { value, .. }) => (PathRank::Prefix, value.len()),
        Some(PathMatch::Regex(pattern)) => (PathRank::Regex, pattern.source().len()),
        // `/`, the default
        None => (PathRank::Prefix, 1),
    };
    Rank {
        path,
        length: Reverse(length),
        method: Reverse(matcher.method.is_some()),
        headers: Reverse(matcher.headers.len()),
        query: Reverse(matcher.query.len()),
        age: age.clone(),
        rule,
        index,
    }
}

fn http(m: &HttpMatch) -> Result<Matcher, BadRegex> {
    let value = &m.path.value;
    let path = match m.path.kind {
        PathMatchType::Exact => Some(PathMatch::Exact { value: Arc::clone(value), ignore_case: false }),
        // `/v2/` and `/v2` are one prefix; `/` is every path.
        PathMatchType::PathPrefix => match value.trim_end_matches('/') {
            "" => None,
            prefix => Some(PathMatch::SegmentPrefix(prefix.into())),
        },
        PathMatchType::RegularExpression => Some(PathMatch::Regex(pattern(value, || "path.value".into())?)),
    };
    let mut query: Vec<QueryMatch> = Vec::new();
    for (i, q) in m.query_params.iter().enumerate() {
        // Of several entries with one name the first counts (HTTPQueryParamMatch.name).
        if !query.iter().any(|known| known.name == q.name) {
            let value = string(q.kind, &q.value, || format!("queryParams[{i}].value"))?;
            query.push(QueryMatch { name: Arc::clone(&q.name), value });
        }
    }
    Ok(Matcher {
        path,
        method: m.method.clone().map(StringMatch::Exact),
        headers: headers(&m.headers)?,
        query,
        ..Matcher::default()
    })
}

/// gRPC's path is `/service/method` (gRPC over HTTP2, "Path").
fn grpc(m: &GrpcMatch) -> Result<Matcher, BadRegex> {
    let GrpcMethodMatch { kind, service, method } = &m.method;
    let exact = |value: String| PathMatch::Exact { value: value.into(), ignore_case: false };
    let path = match (kind, &**service, &**method) {
        (_, "", "") => None,
        (ValueMatchType::Exact, service, "") => Some(PathMatch::SegmentPrefix(format!("/{service}").into())),
        (ValueMatchType::Exact, "", method) => {
            let any_service = format!("/[^/]+/{}", regex::escape(method));
            Some(PathMatch::Regex(pattern(&any_service.into(), || "method.method".into())?))
        }
        (ValueMatchType::Exact, service, method) => Some(exact(format!("/{service}/{method}"))),
        (ValueMatchType::RegularExpression, service, method) => {
            let part = |text: &str| if text.is_empty() { "[^/]+".to_owned() } else { format!("(?:{text})") };
            let both = format!("/{}/{}", part(service), part(method));
            Some(PathMatch::Regex(pattern(&both.into(), || "method".into())?))
        }
    };
    Ok(Matcher { path, headers: headers(&m.headers)?, ..Matcher::default() })
}

/// Of several entries with one name the first counts (HTTPHeaderMatch.name).
fn headers(list: &[api::HeaderMatch]) -> Result<Vec<HeaderMatch>, BadRegex> {
    let mut headers: Vec<HeaderMatch> = Vec::new();
    for (i, h) in list.iter().enumerate() {
        if !headers.iter().any(|known| known.name == h.name) {
            let value = string(h.kind, &h.value, || format!("headers[{i}].value"))?;
            headers.push(HeaderMatch { name: h.name.clone(), value, invert: false });
        }
    }
    Ok(headers)
}

fn string(kind: ValueMatchType, value: &Arc<str>, field: impl FnOnce() -> String) -> Result<StringMatch, BadRegex> {
    Ok(match kind {
        ValueMatchType::Exact => StringMatch::Exact(Arc::clone(value)),
        ValueMatchType::RegularExpression => StringMatch::Regex(pattern(value, field)?),
    })
}

fn pattern(source: &Arc<str>, field: impl FnOnce() -> String) -> Result<Pattern, BadRegex> {
    Pattern::new(source).map_err(|error| BadRegex { field: field(), source: Arc::clone(source), error })
}
