//! What a rule does with the requests it takes: forward, redirect, answer; header operations; mirrors.

use super::Rule;
use super::policy;
use crate::config::diagnostic::{Code, Diagnostic};
use crate::config::resource::istio::virtual_service::{self as wire, HeaderOperations, Headers, HttpMatch, HttpRoute};
use crate::config::resource::istio::wire::{Destination as WireDestination, Percent};
use crate::snapshot::route::{
    Action, Backend, BackendTo, Conditions, Destination, DirectResponse, Forward, HeaderChange, HeaderOps, Matcher,
    Mirror, PathMatch, PathRewrite, Pattern, Redirect, RedirectPort, Rewrite, Route, RuleRef,
};
use base64::Engine as _;
use http::{HeaderName, HeaderValue, StatusCode};
use std::sync::Arc;

/// Envoy's limit for a direct response's body.
const MAX_BODY: usize = 1 << 20;
/// Of a million.
const ALL: u32 = 1_000_000;

pub(super) fn route(
    http: &HttpRoute,
    one: &HttpMatch,
    (conditions, mut matcher): (Conditions, Matcher),
    name: Arc<str>,
    reference: RuleRef,
    rule: &mut Rule<'_>,
) -> Route {
    // A rewrite or redirect of the prefix needs one: without a path match it is `/`.
    let prefixed = http.rewrite.as_ref().is_some_and(|r| !r.uri.is_empty())
        || http.redirect.as_ref().is_some_and(|r| !r.prefix_rewrite.is_empty());
    if prefixed && matcher.path.is_none() {
        matcher.path = Some(PathMatch::Prefix { value: "/".into(), ignore_case: one.ignore_uri_case });
    }
    let given = [http.redirect.is_some(), http.direct_response.is_some(), !http.route.is_empty()];
    if given.iter().filter(|given| **given).count() > 1 {
        let fix = "keep one of route, redirect and directResponse";
        rule.error(
            "",
            "more than one of route, redirect and directResponse; redirect counts before directResponse before route",
            fix,
        );
    }
    let action = if let Some(redirect) = &http.redirect {
        self::redirect(redirect, rule)
    } else if let Some(response) = &http.direct_response {
        direct_response(response, rule)
    } else {
        Action::Forward(forward(http, &conditions, &matcher, rule))
    };
    Route {
        name,
        rule: reference,
        conditions,
        matcher,
        action,
        fault: http.fault.as_ref().and_then(|fault| policy::fault(fault, rule)),
        cors: http.cors_policy.as_ref().and_then(|cors| policy::cors(cors, rule)),
        rate_limit: None,
        headers: http.headers.as_ref().map(|h| header_ops(h, "headers", rule)).unwrap_or_default(),
    }
}

fn forward(http: &HttpRoute, _: &Conditions, matcher: &Matcher, rule: &mut Rule<'_>) -> Forward {
    if http.route.is_empty() {
        rule.error("route", "no destination; requests are answered 503", "add route, redirect or directResponse");
    }
    let several = http.route.len() > 1;
    let mut backends = Vec::new();
    for (i, one) in http.route.iter().enumerate() {
        let at = format!("route[{i}]");
        // "If there is only one destination in a rule, the weight value is assumed to be 100."
        let Some(weight) = weight(one.weight, several, &at, rule) else { continue };
        let headers = one.headers.as_ref().map(|h| header_ops(h, &format!("{at}.headers"), rule)).unwrap_or_default();
        let to = backend(&one.destination, &format!("{at}.destination"), rule);
        backends.push(Backend { weight, to, headers, mirrors: Vec::new() });
    }
    if several && backends.is_empty() {
        rule.error("route", "all weights are 0; requests are answered 503", "give a destination a weight above 0");
    }
    Forward {
        backends,
        rewrite: http.rewrite.as_ref().and_then(|rewrite| self::rewrite(rewrite, matcher, rule)),
        timeout: http.timeout.map(|t| t.0).filter(|t| !t.is_zero()),
        retry: match &http.retries {
            Some(retries) => policy::retry_in_rule(retries, rule),
            None => rule.defaults.retry.clone(),
        },
        mirrors: mirrors(http, rule),
        hedge: None,
    }
}

/// A destination's share; none where it has none.
pub(super) fn weight(weight: i64, several: bool, at: &str, rule: &mut Rule<'_>) -> Option<u32> {
    if !several {
        return Some(1);
    }
    let share = u32::try_from(weight).ok();
    if share.is_none() {
        let field = format!("{at}.weight");
        rule.error(&field, format!("{weight} is no weight; the destination gets nothing"), "write a number from 0 up");
    }
    share.filter(|share| *share > 0)
}

pub(super) fn backend(to: &WireDestination, at: &str, rule: &mut Rule<'_>) -> BackendTo {
    match destination(to, at, rule) {
        Some(destination) => BackendTo::Service(destination),
        None => BackendTo::Refused { status: StatusCode::INTERNAL_SERVER_ERROR, why: "invalid destination".into() },
    }
}

fn destination(to: &WireDestination, at: &str, rule: &mut Rule<'_>) -> Option<Destination> {
    if to.host.is_empty() || to.host.contains(['*', '/', ' ']) {
        let message = format!("{:?} is not a host that requests can be sent to", &*to.host);
        rule.error(&format!("{at}.host"), message, "write a Service's name, or the host of a ServiceEntry");
        return None;
    }
    let number = to.port.map_or(0, |port| port.number);
    let port = u16::try_from(number);
    if port.is_err() {
        let message = format!("{number} is not a port number");
        rule.error(&format!("{at}.port.number"), message, "write a number from 1 to 65535");
        return None;
    }
    Some(Destination {
        host: rule.fqdn(&to.host),
        port: port.ok().filter(|port| *port != 0),
        subset: (!to.subset.is_empty()).then(|| Arc::clone(&to.subset)),
    })
}

fn mirrors(http: &HttpRoute, rule: &mut Rule<'_>) -> Vec<Mirror> {
    let mut found = Vec::new();
    if let Some(to) = &http.mirror {
        let old = http.mirror_percent.map(|n| Percent { value: n.into() });
        let percent = http.mirror_percentage.or(old);
        let share = percent.map_or(Some(ALL), |percent| share(percent, "mirrorPercentage", rule));
        let to = destination(to, "mirror", rule);
        found.extend(to.zip(share).map(|(to, share)| Mirror { to, share }));
    }
    for (i, one) in http.mirrors.iter().enumerate() {
        let share = one.percentage.map_or(Some(ALL), |p| share(p, &format!("mirrors[{i}].percentage"), rule));
        let to = destination(&one.destination, &format!("mirrors[{i}].destination"), rule);
        found.extend(to.zip(share).map(|(to, share)| Mirror { to, share }));
    }
    found.retain(|mirror| mirror.share > 0);
    found
}

/// Of a million, rounded down (SEMANTICS §3 "Mirror").
pub(super) fn share(percent: Percent, at: &str, rule: &mut Rule<'_>) -> Option<u32> {
    if !(0.0..=100.0).contains(&percent.value) {
        let message = format!("{} is not a percentage; it has no effect", percent.value);
        rule.error(&format!("{at}.value"), message, "write a number from 0 to 100");
        return None;
    }
    // 0.0–1,000,000.0: fits.
    Some((percent.value * 10_000.0).floor() as u32)
}

fn rewrite(rewrite: &wire::Rewrite, matcher: &Matcher, rule: &mut Rule<'_>) -> Option<Rewrite> {
    let path = match &rewrite.uri_regex_rewrite {
        Some(regex) => {
            let pattern = Pattern::new_unanchored(&regex.r#match);
            let checked = pattern.and_then(|pattern| {
                pattern.check_replacement(&regex.rewrite)?;
                Ok(PathRewrite::Regex { pattern, replacement: Arc::clone(&regex.rewrite) })
            });
            let fix = "correct match (RE2 syntax) and rewrite (\\1 is the first group)";
            checked
                .map_err(|error| {
                    let diagnostic =
                        Diagnostic::error(Code::InvalidRegexp, format!("{error}; the path is not rewritten"));
                    rule.say(diagnostic, "rewrite.uriRegexRewrite", fix);
                })
                .ok()
        }
        None if rewrite.uri.is_empty() => None,
        None => Some(match &matcher.path {
            Some(PathMatch::Prefix { .. } | PathMatch::SegmentPrefix(_)) | None => {
                PathRewrite::Prefix(Arc::clone(&rewrite.uri))
            }
            Some(PathMatch::Exact { .. } | PathMatch::Regex(_)) => PathRewrite::Full(Arc::clone(&rewrite.uri)),
        }),
    };
    let authority = (!rewrite.authority.is_empty()).then(|| Arc::clone(&rewrite.authority));
    (path.is_some() || authority.is_some()).then_some(Rewrite { path, authority })
}

fn redirect(redirect: &wire::Redirect, rule: &mut Rule<'_>) -> Action {
    let status = match redirect.redirect_code {
        0 => StatusCode::MOVED_PERMANENTLY,
        301 | 302 | 303 | 307 | 308 => status(redirect.redirect_code).unwrap_or(StatusCode::MOVED_PERMANENTLY),
        other => {
            let message = format!("{other} is no status of a redirect; 301 is sent");
            rule.error("redirect.redirectCode", message, "write 301, 302, 303, 307 or 308");
            StatusCode::MOVED_PERMANENTLY
        }
    };
    let port = match (redirect.port.filter(|n| *n != 0), redirect.derive_port.as_deref()) {
        (Some(number), _) => match u16::try_from(number) {
            Ok(port) => RedirectPort::Number(port),
            Err(_) => {
                let message = format!("{number} is not a port number; the request's is kept");
                rule.error("redirect.port", message, "write a number from 1 to 65535");
                RedirectPort::Keep
            }
        },
        (None, Some("FROM_REQUEST_PORT")) => RedirectPort::FromRequest,
        (None, Some("FROM_PROTOCOL_DEFAULT")) => RedirectPort::FromScheme,
        (None, Some(other)) => {
            let fix = "write FROM_PROTOCOL_DEFAULT or FROM_REQUEST_PORT";
            rule.error("redirect.derivePort", format!("{other:?} is not one we know; the port is kept"), fix);
            RedirectPort::Keep
        }
        (None, None) => RedirectPort::Keep,
    };
    let some = |text: &Arc<str>| (!text.is_empty()).then(|| Arc::clone(text));
    let whole = some(&redirect.uri).map(PathRewrite::Full);
    let path = some(&redirect.prefix_rewrite).map(PathRewrite::Prefix).or(whole);
    Action::Redirect(Redirect {
        status,
        scheme: some(&redirect.scheme),
        authority: some(&redirect.authority),
        port,
        path,
    })
}

fn direct_response(response: &wire::DirectResponse, rule: &mut Rule<'_>) -> Action {
    let status = status(response.status).unwrap_or_else(|| {
        let message = format!("{} is not an HTTP status; 500 is sent", response.status);
        rule.error("directResponse.status", message, "write a number from 200 to 599");
        StatusCode::INTERNAL_SERVER_ERROR
    });
    let mut body = match response.body.as_ref().map(|b| (&b.string, &b.bytes)) {
        Some((Some(text), _)) => bytes::Bytes::copy_from_slice(text.as_bytes()),
        Some((None, Some(encoded))) => match base64::engine::general_purpose::STANDARD.decode(encoded.as_bytes()) {
            Ok(bytes) => bytes.into(),
            Err(error) => {
                let message = format!("not base64 ({error}); the body is left out");
                rule.error("directResponse.body.bytes", message, "encode the bytes as base64, or write string");
                bytes::Bytes::new()
            }
        },
        _ => bytes::Bytes::new(),
    };
    if body.len() > MAX_BODY {
        let message = format!("{} bytes are more than {MAX_BODY}; the body is cut", body.len());
        rule.error("directResponse.body", message, "send less, or forward to a Service");
        body.truncate(MAX_BODY);
    }
    Action::Respond(DirectResponse { status, body })
}

pub(super) fn status(code: i64) -> Option<StatusCode> {
    let code = u16::try_from(code).ok().filter(|code| (200..600).contains(code))?;
    StatusCode::from_u16(code).ok()
}

fn header_ops(headers: &Headers, at: &str, rule: &mut Rule<'_>) -> HeaderOps {
    HeaderOps {
        request: change(&headers.request, &format!("{at}.request"), true, rule),
        response: change(&headers.response, &format!("{at}.response"), false, rule),
    }
}

fn change(ops: &HeaderOperations, at: &str, request: bool, rule: &mut Rule<'_>) -> Option<Arc<HeaderChange>> {
    let mut out = HeaderChange::default();
    // `set` counts before `add` (SEMANTICS §3 "Header ops").
    for (list, pairs) in [("set", &ops.set), ("add", &ops.add)] {
        for (name, value) in pairs {
            let field = format!("{at}.{list}[{name}]");
            if name.eq_ignore_ascii_case("host") || &**name == ":authority" {
                if request {
                    out.authority.get_or_insert_with(|| Arc::clone(value));
                } else {
                    rule.warning(&field, "a response has no authority; it has no effect", "remove it");
                }
                continue;
            }
            let Some(pair) = name.parse::<HeaderName>().ok().zip(value.parse::<HeaderValue>().ok()) else {
                let fix = "write a header's name (no pseudo header) and a value without control characters";
                rule.error(&field, "not a header that can be set; it is left out", fix);
                continue;
            };
            if list == "set" { out.set.push(pair) } else { out.add.push(pair) }
        }
    }
    for (i, name) in ops.remove.iter().enumerate() {
        match name.parse::<HeaderName>() {
            Ok(name) if name != http::header::HOST => out.remove.push(name),
            _ => rule.error(
                &format!("{at}.remove[{i}]"),
                format!("{name:?} is not a header that can be removed"),
                "write a header's name; pseudo headers and host stay",
            ),
        }
    }
    (out != HeaderChange::default()).then(|| Arc::new(out))
}
