//! Telemetry → what is counted, logged and traced of which workloads (SEMANTICS §10 "Telemetry API").

use super::mesh::tracing::tags;
use crate::config::diagnostic::{Code, Diagnostic};
use crate::config::resource::Resource;
use crate::config::resource::istio::telemetry::{AccessLogging, Match, Override, Spec, Tracing as Traced};
use crate::snapshot::cel::Expression;
use crate::snapshot::route::RuleRef;
use crate::snapshot::telemetry::{Applies, Logging, MetricOverride, Mode, Telemetry, Tracing};
use crate::snapshot::tracing::Rate;
use crate::telemetry::Family;
use std::sync::Arc;

/// Tags one override may add: each costs every request.
const MOST_TAGS: usize = 16;

/// What is wrong with one part leaves the part out.
pub(super) fn compile(r: &Resource, spec: &Spec, found: &mut Vec<Diagnostic>) -> Telemetry {
    let mut metrics = Vec::new();
    for (i, of) in spec.metrics.iter().enumerate() {
        providers(&of.providers, &["prometheus"], &format!("spec.metrics[{i}]"), found);
        for (j, of) in of.overrides.iter().enumerate() {
            metrics.extend(metric(of, &format!("spec.metrics[{i}].overrides[{j}]"), found));
        }
    }
    let logging = spec.access_logging.iter().enumerate();
    let logging = logging.filter_map(|(i, of)| logged(of, &format!("spec.accessLogging[{i}]"), found)).collect();
    let tracing = spec.tracing.iter().enumerate();
    let tracing = tracing.filter_map(|(i, of)| traced(of, &format!("spec.tracing[{i}]"), found)).collect();
    Telemetry {
        rule: RuleRef { object: Some(r.key.clone()), field: "spec".into() },
        applies: applies(spec, found),
        metrics,
        access_logging: logging,
        tracing,
    }
}

fn applies(spec: &Spec, found: &mut Vec<Diagnostic>) -> Applies {
    let mut gateways = Vec::new();
    for (i, to) in spec.target_refs.iter().chain(&spec.target_ref).enumerate() {
        if &*to.kind == "Gateway" && &*to.group == "gateway.networking.k8s.io" {
            gateways.push(Arc::clone(&to.name));
        } else {
            let message = format!("{} {} is nothing that telemetry is taken of", to.kind, to.name);
            found.push(error(&format!("spec.targetRefs[{i}]"), message, "name a Gateway, or use selector"));
        }
    }
    let targeted = !spec.target_refs.is_empty() || spec.target_ref.is_some();
    match &spec.selector {
        _ if targeted => Applies::Gateways(gateways),
        Some(selector) if !selector.labels.is_empty() => Applies::Labels(selector.labels.clone()),
        _ => Applies::All,
    }
}

fn metric(of: &Override, at: &str, found: &mut Vec<Diagnostic>) -> Option<MetricOverride> {
    let family = match (&*of.matched.metric, &*of.matched.custom_metric) {
        ("" | "ALL_METRICS", "") => None,
        ("REQUEST_COUNT", _) => Some(Family::Requests),
        ("REQUEST_DURATION", _) => Some(Family::Duration),
        ("REQUEST_SIZE", _) => Some(Family::RequestBytes),
        ("RESPONSE_SIZE", _) => Some(Family::ResponseBytes),
        ("TCP_OPENED_CONNECTIONS", _) => Some(Family::TcpOpened),
        ("TCP_CLOSED_CONNECTIONS", _) => Some(Family::TcpClosed),
        ("TCP_SENT_BYTES", _) => Some(Family::TcpSent),
        ("TCP_RECEIVED_BYTES", _) => Some(Family::TcpReceived),
        ("GRPC_REQUEST_MESSAGES", _) => Some(Family::RequestMessages),
        ("GRPC_RESPONSE_MESSAGES", _) => Some(Family::ResponseMessages),
        (metric, custom) => {
            let message = format!("there is no metric {:?}", if custom.is_empty() { metric } else { custom });
            found.push(error(&format!("{at}.match"), message, "name one of Istio's, such as REQUEST_COUNT"));
            return None;
        }
    };
    let mut tags = Vec::new();
    for (name, tag) in &of.tag_overrides {
        let at = format!("{at}.tagOverrides[{name}]");
        match &*tag.operation {
            "REMOVE" => tags.push((Arc::clone(name), None)),
            "" | "UPSERT" if tags.len() >= MOST_TAGS => {
                let message = format!("more than {MOST_TAGS} tags; this one is left out");
                found.push(error(&at, message, "keep those that somebody asks for"));
            }
            "" | "UPSERT" if !is_label(name) => {
                let message = "no name of a label; the tag is left out".to_owned();
                found.push(error(&at, message, "write letters, digits and _, no digit first"));
            }
            "" | "UPSERT" => {
                let expression = expression(&tag.value, &format!("{at}.value"), found);
                tags.extend(expression.map(|e| (Arc::clone(name), Some(e))));
            }
            other => found.push(error(
                &format!("{at}.operation"),
                format!("{other:?} is not one we know; the tag stays as it is"),
                "write UPSERT or REMOVE",
            )),
        }
    }
    Some(MetricOverride { family, mode: mode(&of.matched, at, found)?, disabled: of.disabled, tags })
}

fn logged(of: &AccessLogging, at: &str, found: &mut Vec<Diagnostic>) -> Option<Logging> {
    let filter = match &of.filter {
        // A filter that cannot be read must not hide what it was to show.
        Some(filter) if !filter.expression.is_empty() => {
            expression(&filter.expression, &format!("{at}.filter.expression"), found)
        }
        _ => None,
    };
    if of.providers.is_empty() && of.disabled != Some(true) && filter.is_none() {
        let message = "without a provider, a filter or disabled it says nothing: it has no effect";
        let diagnostic = Diagnostic::warning(Code::InvalidTelemetryProvider, message);
        found.push(diagnostic.field(format!("{at}.providers")).fix("name a provider: [{name: envoy}]"));
    }
    Some(Logging {
        mode: mode(&of.matched, at, found)?,
        providers: of.providers.iter().map(|provider| Arc::clone(&provider.name)).collect(),
        disabled: of.disabled.unwrap_or(false),
        filter,
    })
}

fn traced(of: &Traced, at: &str, found: &mut Vec<Diagnostic>) -> Option<Tracing> {
    let sampling = of.random_sampling_percentage.and_then(|percent| {
        let rate = Rate::of_percent(percent);
        if rate.is_none() {
            let message = format!("{percent} is not from 0 to 100; the level above holds");
            found.push(error(&format!("{at}.randomSamplingPercentage"), message, "write a number from 0 to 100"));
        }
        rate
    });
    let tags = tags(&of.custom_tags, &format!("{at}.customTags"), found);
    Some(Tracing {
        mode: mode(&of.matched, at, found)?,
        provider: of.providers.first().map(|provider| Arc::clone(&provider.name)),
        sampling,
        disabled: of.disable_span_reporting,
        tags,
        draw_by_id: of.use_request_id_for_trace_sampling,
        istio_tags: of.enable_istio_tags,
    })
}

fn mode(matched: &Match, at: &str, found: &mut Vec<Diagnostic>) -> Option<Mode> {
    match &*matched.mode {
        "" | "CLIENT_AND_SERVER" => Some(Mode::Both),
        "CLIENT" => Some(Mode::Client),
        "SERVER" => Some(Mode::Server),
        other => {
            let message = format!("{other:?} is not one we know; the part is left out");
            found.push(error(&format!("{at}.match.mode"), message, "write CLIENT, SERVER or CLIENT_AND_SERVER"));
            None
        }
    }
}

fn providers(
    named: &[crate::config::resource::istio::telemetry::Provider],
    known: &[&str],
    at: &str,
    found: &mut Vec<Diagnostic>,
) {
    for (i, provider) in named.iter().enumerate().filter(|(_, provider)| !known.contains(&&*provider.name)) {
        let message = format!("{:?} takes no metrics here; they are Prometheus' to fetch", provider.name);
        let diagnostic = Diagnostic::info(Code::NotSupported, message).field(format!("{at}.providers[{i}]"));
        found.push(diagnostic.fix("none needed: what is said of metrics holds"));
    }
}

fn expression(source: &str, at: &str, found: &mut Vec<Diagnostic>) -> Option<Expression> {
    match Expression::parse(source) {
        Ok(expression) => Some(expression),
        Err(wrong) => {
            let fix = "write CEL over Envoy's attributes, such as response.code >= 400 or request.url_path";
            found.push(error(at, format!("{source:?}: {wrong}; it is left out"), fix));
            None
        }
    }
}

/// Prometheus' data model: `[a-zA-Z_][a-zA-Z0-9_]*`.
fn is_label(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_';
    name.chars().all(fits) && name.chars().next().is_some_and(|c| !c.is_ascii_digit()) && name != "le"
}

fn error(at: &str, message: String, fix: &str) -> Diagnostic {
    Diagnostic::error(Code::SchemaValidationError, message).field(at.to_owned()).fix(fix)
}
