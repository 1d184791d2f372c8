//! Policies of a rule: retries, fault injection, CORS.

use super::Rule;
use super::action::{share, status};
use super::matcher::string;
use crate::config::diagnostic::{Code, Diagnostic};
use crate::config::resource::istio::virtual_service as wire;
use crate::snapshot::route::{AbortWith, Cors, Fault, FaultAbort, FaultDelay, RetryOn, RetryPolicy, StringMatch};
use http::HeaderValue;
use std::sync::Arc;
use std::time::Duration;

/// Envoy's base interval as Istio sets it.
const BACKOFF: Duration = Duration::from_millis(25);

const CONDITIONS: &[(&str, RetryOn)] = &[
    ("5xx", RetryOn::FIVE_XX),
    ("gateway-error", RetryOn::GATEWAY_ERROR),
    ("reset", RetryOn::RESET),
    ("reset-before-request", RetryOn::RESET_BEFORE_REQUEST),
    ("connect-failure", RetryOn::CONNECT_FAILURE),
    ("retriable-4xx", RetryOn::RETRIABLE_4XX),
    ("refused-stream", RetryOn::REFUSED_STREAM),
    ("retriable-status-codes", RetryOn::RETRIABLE_STATUS_CODES),
    ("envoy-ratelimited", RetryOn::ENVOY_RATELIMITED),
    ("cancelled", RetryOn::CANCELLED),
    ("deadline-exceeded", RetryOn::DEADLINE_EXCEEDED),
    ("internal", RetryOn::INTERNAL),
    ("resource-exhausted", RetryOn::RESOURCE_EXHAUSTED),
    ("unavailable", RetryOn::UNAVAILABLE),
];

pub(super) fn retry_in_rule(retries: &wire::Retry, rule: &mut Rule<'_>) -> Option<Arc<RetryPolicy>> {
    let mut found = Vec::new();
    let policy = retry(retries, &mut found);
    for (field, diagnostic, fix) in found {
        rule.say(diagnostic, &format!("retries.{field}"), fix);
    }
    policy.map(Arc::new)
}

/// `HTTPRetry`; none: nothing is repeated. Findings: field below it, what, fix.
pub(in crate::config::compile) fn retry(
    retries: &wire::Retry,
    found: &mut Vec<(&'static str, Diagnostic, &'static str)>,
) -> Option<RetryPolicy> {
    let invalid = |message: String| Diagnostic::error(Code::SchemaValidationError, message);
    let attempts = match retries.attempts {
        Some(n) if (1..=i64::from(u32::MAX)).contains(&n) => n as u32,
        Some(0) => return None,
        Some(n) => {
            found.push((
                "attempts",
                invalid(format!("{n} is no number of retries; nothing is repeated")),
                "write 0 or more",
            ));
            return None;
        }
        None => {
            let message = "attempts is not given, which means 0: nothing is repeated";
            let diagnostic = Diagnostic::warning(Code::SchemaWarning, message);
            found.push(("attempts", diagnostic, "write the number of retries, or 0 to say that this is meant"));
            return None;
        }
    };
    let mut on = RetryOn::default();
    let mut statuses = Vec::new();
    for word in retries.retry_on.split(',').map(str::trim).filter(|word| !word.is_empty()) {
        let known = CONDITIONS.iter().find(|(name, _)| *name == word);
        let code = word.parse::<u16>().ok().filter(|code| (100..600).contains(code));
        match (known, code, word) {
            (Some((_, condition)), ..) => on = on.with(*condition),
            (_, Some(code), _) => {
                on = on.with(RetryOn::RETRIABLE_STATUS_CODES);
                statuses.push(code);
            }
            // Conditions without which nothing here can be configured.
            (.., "retriable-headers" | "http3-post-connect-failure") => {
                let diagnostic = Diagnostic::info(Code::NotSupported, format!("{word} never holds here"));
                found.push(("retryOn", diagnostic, "remove it"));
            }
            _ => {
                let diagnostic = invalid(format!("{word:?} is no condition for a retry; it is left out"));
                found.push((
                    "retryOn",
                    diagnostic,
                    "write conditions such as 5xx, reset, connect-failure, unavailable, or status codes",
                ));
            }
        }
    }
    statuses.sort_unstable();
    statuses.dedup();
    if retries.retry_on.trim().is_empty() {
        on = RetryOn::PROVEN;
    }
    Some(RetryPolicy {
        attempts,
        on,
        statuses,
        per_try_timeout: retries.per_try_timeout.map(|t| t.0).filter(|t| !t.is_zero()),
        backoff: retries.backoff.map(|t| t.0).filter(|t| !t.is_zero()).unwrap_or(BACKOFF),
        avoid_previous: retries.retry_ignore_previous_hosts,
        remote_localities: retries.retry_remote_localities.unwrap_or(false),
    })
}

pub(super) fn fault(fault: &wire::Fault, rule: &mut Rule<'_>) -> Option<Arc<Fault>> {
    let delay = fault.delay.as_ref().and_then(|delay| {
        let old = delay.percent.map(|n| crate::config::resource::istio::wire::Percent { value: n as f64 });
        let percent = delay.percentage.or(old);
        let share = percent.map_or(Some(0), |p| share(p, "fault.delay.percentage", rule))?;
        if percent.is_none() {
            never("fault.delay", rule);
        }
        let fixed = delay.fixed_delay.map(|t| t.0).filter(|t| !t.is_zero());
        if fixed.is_none() {
            rule.error("fault.delay.fixedDelay", "no delay; the fault has no effect", "write a time such as 5s");
        }
        Some(FaultDelay { fixed: fixed?, share }).filter(|delay| delay.share > 0)
    });
    let abort = fault.abort.as_ref().and_then(|abort| {
        let share = abort.percentage.map_or(Some(0), |p| share(p, "fault.abort.percentage", rule))?;
        if abort.percentage.is_none() {
            never("fault.abort", rule);
        }
        let with = match (abort.http_status, abort.grpc_status.as_deref()) {
            (Some(code), None) => status(code).map(AbortWith::Http),
            (None, Some(name)) => grpc_status(name).map(AbortWith::Grpc),
            _ => None,
        };
        if with.is_none() {
            let fix = "write httpStatus (200 to 599) or grpcStatus (a name such as UNAVAILABLE)";
            rule.error("fault.abort", "no usable status; the fault has no effect", fix);
        }
        Some(FaultAbort { with: with?, share }).filter(|abort| abort.share > 0)
    });
    (delay.is_some() || abort.is_some()).then(|| Arc::new(Fault { delay, abort }))
}

/// SEMANTICS §6 "Fault": without a percentage never.
fn never(at: &str, rule: &mut Rule<'_>) {
    rule.warning(
        &format!("{at}.percentage"),
        "no percentage: the fault never happens",
        "write percentage: {value: 100}",
    );
}

/// google.rpc.Code by name, upper case with underscores; or its number.
fn grpc_status(name: &str) -> Option<u8> {
    const NAMES: [&str; 17] = [
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    ];
    let number = name.parse::<u8>().ok().filter(|n| *n <= 16);
    number.or_else(|| NAMES.iter().zip(0..).find(|(known, _)| **known == name).map(|(_, n)| n))
}

pub(super) fn cors(cors: &wire::CorsPolicy, rule: &mut Rule<'_>) -> Option<Arc<Cors>> {
    let any = |origin: StringMatch| match origin {
        StringMatch::Exact(text) if &*text == "*" => StringMatch::Present,
        other => other,
    };
    let mut allow_origins: Vec<StringMatch> =
        cors.allow_origin.iter().map(|o| any(StringMatch::Exact(Arc::clone(o)))).collect();
    for (i, origin) in cors.allow_origins.iter().enumerate() {
        match string(origin) {
            Ok(origin) => allow_origins.push(any(origin)),
            Err((_, why)) => {
                let fix = "write one of exact, prefix or regex (RE2 syntax)";
                rule.error(&format!("corsPolicy.allowOrigins[{i}]"), format!("{why}; the origin is left out"), fix);
            }
        }
    }
    let mut joined = |list: &[Arc<str>], field: &str| {
        if list.is_empty() {
            return None;
        }
        let text = list.join(",");
        let value = HeaderValue::from_str(&text).ok();
        if value.is_none() {
            let message = format!("{text:?} cannot be sent as a header's value; it is left out");
            rule.error(&format!("corsPolicy.{field}"), message, "write names without control characters");
        }
        value
    };
    let allow_methods = joined(&cors.allow_methods, "allowMethods");
    let allow_headers = joined(&cors.allow_headers, "allowHeaders");
    let expose_headers = joined(&cors.expose_headers, "exposeHeaders");
    let forward_unmatched_preflights = match &*cors.unmatched_preflights {
        "" | "UNSPECIFIED" | "FORWARD" => true,
        "IGNORE" => false,
        other => {
            let message = format!("{other:?} is not one we know; FORWARD is used");
            rule.error("corsPolicy.unmatchedPreflights", message, "write FORWARD or IGNORE");
            true
        }
    };
    Some(Arc::new(Cors {
        allow_origins,
        allow_methods,
        allow_headers,
        allow_any_header: cors.allow_headers.iter().any(|h| &**h == "*"),
        expose_headers,
        max_age: cors.max_age.map(|t| t.0),
        allow_credentials: cors.allow_credentials.unwrap_or(false),
        forward_unmatched_preflights,
    }))
}
