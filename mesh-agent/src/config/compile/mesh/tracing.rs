//! What MeshConfig says of tracing.

use super::error;
use crate::config::diagnostic::{Code, Diagnostic};
use crate::config::resource::istio::wire::Span;
use crate::config::resource::mesh_config::MeshConfig;
use crate::config::resource::mesh_config::tracing::{CustomTag as Written, ExtensionProvider, Header, ProxyTracing};
use crate::snapshot::tracing::{Collector, CustomTag, Formats, Protocol, Rate, TagValue, Tracing, TracingSettings};
use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Where a provider names none.
const TIMEOUT: Duration = Duration::from_secs(10);
const ZIPKIN_PATH: &str = "/api/v2/spans";
const OTLP_PATH: &str = "/v1/traces";

const B3: Formats = Formats { w3c: false, b3: true, b3_single: false };
const W3C: Formats = Formats { w3c: true, b3: false, b3_single: false };

type Found<'a> = &'a mut Vec<Diagnostic>;

pub(super) fn settings(config: &MeshConfig, found: Found<'_>) -> TracingSettings {
    let mut providers = BTreeMap::new();
    for (i, provider) in config.extension_providers.iter().enumerate() {
        if let Some(collector) = collector(provider, &format!("extensionProviders[{i}]"), found) {
            providers.insert(Arc::clone(&provider.name), Arc::new(collector));
        }
    }
    let written = config.default_config.tracing.clone().unwrap_or_default();
    let named = config.default_providers.tracing.first();
    let collector = match named {
        _ if config.enable_tracing == Some(false) => None,
        Some(name) => {
            let known = providers.get(name).cloned();
            if known.is_none() {
                let message = format!("{name:?} is no extension provider that takes spans; none are sent");
                found.push(error(
                    "defaultProviders.tracing",
                    message,
                    "name one of extensionProviders with zipkin or opentelemetry",
                ));
            }
            known
        }
        None => written.zipkin.as_ref().and_then(|zipkin| of_address(&zipkin.address, found)).map(Arc::new),
    };
    let mut default = Tracing { collector, ..Tracing::default() };
    proxy_tracing(&written, &mut default, found);
    if let Some(longest) = default.collector.as_ref().and_then(|collector| collector.longest_path) {
        default.longest_path = longest;
    }
    TracingSettings { default: Arc::new(default), providers }
}

/// `defaultConfig.tracing`
fn proxy_tracing(written: &ProxyTracing, tracing: &mut Tracing, found: Found<'_>) {
    if let Some(percent) = written.sampling {
        match Rate::of_percent(percent) {
            Some(rate) => tracing.rate = rate,
            None => {
                let message = format!("{percent} is no percentage; 1 is used");
                found.push(error("defaultConfig.tracing.sampling", message, "write a number from 0 to 100"));
            }
        }
    }
    tracing.longest_path = written.max_path_tag_length.unwrap_or(Tracing::LONGEST_PATH);
    tracing.istio_tags = written.enable_istio_tags.unwrap_or(true);
    tracing.tags = tags(&written.custom_tags, "data.mesh: defaultConfig.tracing.customTags", found);
}

/// `customTags`, of MeshConfig and of Telemetry. `at`: where they stand.
pub(in crate::config::compile) fn tags(
    written: &BTreeMap<Arc<str>, Written>,
    at: &str,
    found: Found<'_>,
) -> Vec<CustomTag> {
    let mut tags = Vec::new();
    for (tag, written) in written {
        let mut wrong = |message: String, fix: &str| {
            let diagnostic = Diagnostic::error(Code::SchemaValidationError, message);
            found.push(diagnostic.field(format!("{at}[{tag}]")).fix(fix));
        };
        let value = match written {
            Written { literal: Some(literal), .. } => Some(TagValue::Literal(Arc::clone(&literal.value))),
            Written { header: Some(header), .. } => match header.name.parse() {
                Ok(name) => Some(TagValue::Header { name, default: header.default_value.clone() }),
                Err(_) => {
                    let message = format!("{:?} is no header's name; the tag is left out", header.name);
                    wrong(message, "write the name of a header of the request");
                    None
                }
            },
            // A sidecar's environment is nowhere; what stands in for it holds.
            Written { environment: Some(environment), .. } => environment.default_value.clone().map(TagValue::Literal),
            Written { literal: None, header: None, environment: None } => {
                wrong("a tag without a value; it is left out".into(), "write literal, header or environment");
                None
            }
        };
        tags.extend(value.map(|value| CustomTag { name: Arc::clone(tag), value }));
    }
    tags
}

/// `None`: a provider of something else, or (which is said) one that cannot be used.
fn collector(provider: &ExtensionProvider, at: &str, found: Found<'_>) -> Option<Collector> {
    let (kind, service, port) = match (&provider.zipkin, &provider.opentelemetry) {
        (Some(zipkin), _) => ("zipkin", &zipkin.service, zipkin.port),
        (None, Some(otel)) => ("opentelemetry", &otel.service, otel.port),
        (None, None) => return None,
    };
    let at = format!("{at}.{kind}");
    // `NAMESPACE/HOST` chooses among Services of one host.
    let host: Arc<str> = service.rsplit('/').next().unwrap_or_default().into();
    if host.is_empty() || port == 0 {
        let message = format!("provider {:?} lacks its service or port; it takes no spans", provider.name);
        found.push(error(&at, message, "write service: HOST and port: NUMBER"));
        return None;
    }
    let plain = Collector {
        name: Arc::clone(&provider.name),
        host,
        port,
        protocol: Protocol::OtlpGrpc,
        timeout: TIMEOUT,
        headers: Vec::new(),
        formats: W3C,
        longest_path: None,
    };
    let timeout = |written: Option<Span>| written.map_or(TIMEOUT, |span| span.0);
    Some(match (&provider.zipkin, &provider.opentelemetry) {
        (Some(zipkin), _) => Collector {
            protocol: Protocol::Zipkin { path: path(zipkin.path.as_ref(), ZIPKIN_PATH, &at, found) },
            timeout: timeout(zipkin.timeout),
            headers: headers(&zipkin.headers, &format!("{at}.headers"), found),
            formats: match &*zipkin.trace_context_option {
                "" | "USE_B3" => B3,
                "USE_B3_WITH_W3C_PROPAGATION" => B3.and(W3C),
                other => {
                    let message = format!("{other:?} is not one we know; USE_B3 is used");
                    let fix = "write USE_B3 or USE_B3_WITH_W3C_PROPAGATION";
                    found.push(error(&format!("{at}.traceContextOption"), message, fix));
                    B3
                }
            },
            longest_path: zipkin.max_tag_length,
            ..plain
        },
        (None, Some(otel)) => match (&otel.http, &otel.grpc) {
            (Some(http), _) => Collector {
                protocol: Protocol::OtlpHttp { path: path(http.path.as_ref(), OTLP_PATH, &at, found) },
                timeout: timeout(http.timeout),
                headers: headers(&http.headers, &format!("{at}.http.headers"), found),
                longest_path: otel.max_tag_length,
                ..plain
            },
            (None, Some(grpc)) => Collector {
                timeout: timeout(grpc.timeout),
                headers: headers(&grpc.initial_metadata, &format!("{at}.grpc.initialMetadata"), found),
                longest_path: otel.max_tag_length,
                ..plain
            },
            (None, None) => Collector { longest_path: otel.max_tag_length, ..plain },
        },
        (None, None) => return None,
    })
}

/// `defaultConfig.tracing.zipkin.address`
fn of_address(address: &str, found: Found<'_>) -> Option<Collector> {
    if address.is_empty() {
        return None;
    }
    let parsed = zipkin(address);
    if parsed.is_none() {
        let message = format!("{address:?} is no address; no spans are sent");
        found.push(error("defaultConfig.tracing.zipkin.address", message, "write HOST:PORT"));
    }
    parsed
}

/// A Zipkin at `HOST:PORT`.
fn zipkin(address: &str) -> Option<Collector> {
    let (host, port) = address.rsplit_once(':')?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    Some(Collector {
        name: "zipkin".into(),
        host: Some(host).filter(|host| !host.is_empty())?.into(),
        port: port.parse().ok().filter(|port| *port != 0)?,
        protocol: Protocol::Zipkin { path: ZIPKIN_PATH.into() },
        timeout: TIMEOUT,
        headers: Vec::new(),
        formats: B3,
        longest_path: None,
    })
}

fn path(written: Option<&Arc<str>>, default: &str, at: &str, found: Found<'_>) -> Arc<str> {
    let Some(path) = written.filter(|path| !path.is_empty()) else { return default.into() };
    if path.starts_with('/') && PathAndQuery::try_from(&**path).is_ok() {
        return Arc::clone(path);
    }
    found.push(error(&format!("{at}.path"), format!("{path:?} is no path; {default} is used"), "write /PATH"));
    default.into()
}

fn headers(written: &[Header], at: &str, found: Found<'_>) -> Vec<(HeaderName, HeaderValue)> {
    let mut headers = Vec::new();
    for (i, header) in written.iter().enumerate() {
        let name = header.name.parse::<HeaderName>().ok();
        let value = header.value.as_deref().and_then(|value| HeaderValue::from_str(value).ok());
        match name.zip(value) {
            Some((name, mut value)) => {
                value.set_sensitive(true);
                headers.push((name, value));
            }
            None => {
                let message = format!("header {:?} cannot be sent; it is left out", header.name);
                found.push(error(&format!("{at}[{i}]"), message, "write a header's name and its value"));
            }
        }
    }
    headers
}
