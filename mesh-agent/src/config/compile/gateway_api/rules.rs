//! Rules of one HTTPRoute or GRPCRoute → routes, whatever they are attached to.

use super::super::index::Age;
use super::backend::{self, Referrer};
use super::filters::{Filters, Invalid, filters};
use super::matches::{Match, Rank, matches};
use super::spec::{Rule, Spec};
use crate::config::diagnostic::{Code, Diagnostic};
use crate::config::resource::Resource;
use crate::config::resource::gateway_api::{GatewayDuration, HttpRetry, HttpTimeouts};
use crate::snapshot::route::{
    Action, Backend, BackendTo, Conditions, Forward, HeaderOps, PathMatch, RetryOn, RetryPolicy, Route, RuleRef,
};
use http::StatusCode;
use std::sync::Arc;
use std::time::Duration;

/// A route and its place among others of its host.
pub(in super::super) type Ranked = (Rank, Arc<Route>);

/// Every rule × match, with `conditions` on each.
///
/// `default_retry` holds where a rule says nothing.
pub(super) fn rules(
    r: &Resource,
    spec: &Spec<'_>,
    conditions: &Conditions,
    default_retry: Option<&Arc<RetryPolicy>>,
    referrer: &Referrer<'_>,
    found: &mut Vec<Diagnostic>,
) -> Vec<Ranked> {
    let age = Age::of(r);
    let mut routes = Vec::new();
    for (i, rule) in spec.rules.iter().enumerate() {
        let matches = matches(&rule.matches, i, &age, found);
        let (action, filters) = action(rule, i, &matches, default_retry, referrer, found);
        for Match { rank, matcher, index } in matches {
            let field = match index {
                Some(index) => format!("spec.rules[{i}].matches[{index}]"),
                None => format!("spec.rules[{i}]"),
            };
            let route = Route {
                name: format!("{}.{}.{i}", r.key.namespace, r.key.name).into(),
                rule: RuleRef { object: Some(r.key.clone()), field: field.into() },
                conditions: conditions.clone(),
                matcher,
                action: action.clone(),
                fault: None,
                cors: filters.cors.clone(),
                rate_limit: None,
                headers: filters.headers(),
            };
            routes.push((rank, Arc::new(route)));
        }
    }
    routes
}

fn action(
    rule: &Rule<'_>,
    i: usize,
    matches: &[Match],
    default_retry: Option<&Arc<RetryPolicy>>,
    referrer: &Referrer<'_>,
    found: &mut Vec<Diagnostic>,
) -> (Action, Filters) {
    let path = format!("spec.rules[{i}].filters");
    let made = filters(rule.filters, &path, referrer, found).and_then(|made| {
        let prefix = |m: &Match| matches!(m.matcher.path, None | Some(PathMatch::SegmentPrefix(_)));
        if made.needs_prefix && !matches.iter().all(prefix) {
            let message = "ReplacePrefixMatch needs a PathPrefix in every match of the rule".into();
            return Err(Invalid { field: String::new(), message, fix: "match by PathPrefix, or use ReplaceFullPath" });
        }
        Ok(made)
    });
    let mut made = match made {
        Ok(made) => made,
        Err(invalid) => {
            let message = format!("UnsupportedValue: {}; the rule answers 500", invalid.message);
            let field = format!("{path}{}", invalid.field);
            found.push(Diagnostic::error(Code::UnsupportedFilter, message).field(field).fix(invalid.fix));
            return (Action::Forward(refusing()), Filters::default());
        }
    };
    if let Some(redirect) = made.redirect.take() {
        return (Action::Redirect(redirect), made);
    }
    let backends = backend::backends(rule.backends, &format!("spec.rules[{i}].backendRefs"), referrer, found);
    if backends.is_empty() {
        let why = if rule.backends.is_empty() { "it has no backendRefs" } else { "all its backends have weight 0" };
        let message = format!("the rule answers 500: {why}");
        let diagnostic = Diagnostic::warning(Code::BadReference, message).field(format!("spec.rules[{i}].backendRefs"));
        found.push(diagnostic.fix("name a Service with a weight above 0"));
    }
    let (timeout, per_try) = timeouts(rule.timeouts, rule.retry.is_some());
    let retry = match rule.retry {
        Some(retry) => retry_policy(retry, per_try),
        None => default_retry.cloned(),
    };
    let forward = Forward {
        backends,
        rewrite: made.rewrite.take(),
        timeout,
        retry,
        mirrors: std::mem::take(&mut made.mirrors),
        hedge: None,
    };
    (Action::Forward(forward), made)
}

/// Answers 500 to everything.
fn refusing() -> Forward {
    let why = "UnsupportedValue".into();
    let to = BackendTo::Refused { status: StatusCode::INTERNAL_SERVER_ERROR, why };
    let backend = Backend { weight: 1, to, headers: HeaderOps::default(), mirrors: Vec::new() };
    Forward { backends: vec![backend], rewrite: None, timeout: None, retry: None, mirrors: Vec::new(), hedge: None }
}

/// For the whole, and for each try. Without a `retry` there is one try that the rule speaks of: `backendRequest`, which
/// is the shorter, bounds the whole.
fn timeouts(timeouts: HttpTimeouts, retries: bool) -> (Option<Duration>, Option<Duration>) {
    let request = timeouts.request.and_then(GatewayDuration::limit);
    let backend = timeouts.backend_request.and_then(GatewayDuration::limit);
    if retries { (request, backend) } else { (backend.or(request), None) }
}

/// `None`: `attempts: 0`.
fn retry_policy(retry: &HttpRetry, per_try_timeout: Option<Duration>) -> Option<Arc<RetryPolicy>> {
    let proven = RetryPolicy::proven();
    let attempts = retry.attempts.unwrap_or(proven.attempts);
    // Without codes `retriable-status-codes` is inert.
    let on = [
        RetryOn::CONNECT_FAILURE,
        RetryOn::REFUSED_STREAM,
        RetryOn::UNAVAILABLE,
        RetryOn::CANCELLED,
        RetryOn::RETRIABLE_STATUS_CODES,
    ];
    let policy = RetryPolicy {
        attempts,
        on: on.into_iter().fold(proven.on, RetryOn::with),
        statuses: retry.codes.clone(),
        per_try_timeout,
        backoff: retry.backoff.and_then(GatewayDuration::limit).unwrap_or(proven.backoff),
        ..proven
    };
    (attempts > 0).then(|| Arc::new(policy))
}
