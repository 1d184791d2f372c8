//! A request in the terms of Envoy's attributes, for expressions of users (envoy docs "Attributes", Istio's peers).
//!
//! Made at the end of a request and only where an expression asks.

use super::{Record, canonical_revision, canonical_service};
use crate::snapshot::Workload;
use crate::snapshot::cel::Expression;
use cel::{Context, Value};
use http::header::{AsHeaderName, HOST, REFERER, USER_AGENT};
use http::{HeaderMap, Method, Uri, Version, request};
use serde::Serialize;
use std::cell::OnceCell;
use std::collections::BTreeMap;

/// Longest label value that an expression makes, bytes.
const LONGEST: usize = 128;

/// A request's head, kept while expressions may ask for it, or its spans.
#[derive(Clone, Debug)]
pub struct Head {
    pub(super) method: Method,
    pub(super) uri: Uri,
    pub(super) version: Version,
    pub(super) fields: HeaderMap,
}

/// Of one request, made when first asked for.
pub(super) struct Attributes<'a> {
    record: &'a Record,
    context: OnceCell<Context<'static, 'static>>,
}

#[derive(Serialize)]
struct Request<'a> {
    method: &'a str,
    path: &'a str,
    url_path: &'a str,
    query: &'a str,
    host: &'a str,
    scheme: &'a str,
    protocol: &'a str,
    useragent: &'a str,
    referer: &'a str,
    id: &'a str,
    headers: BTreeMap<&'a str, &'a str>,
    /// Milliseconds: CEL's durations are not there.
    duration: i64,
    size: i64,
    total_size: i64,
}

#[derive(Serialize)]
struct Response<'a> {
    code: i64,
    code_details: &'a str,
    flags: String,
    grpc_status: Option<i64>,
    size: i64,
    total_size: i64,
}

#[derive(Serialize)]
struct Peer<'a> {
    name: &'a str,
    namespace: &'a str,
    workload: &'a str,
    app: &'a str,
    version: &'a str,
    service: &'a str,
    revision: &'a str,
    labels: BTreeMap<&'a str, &'a str>,
}

#[derive(Serialize)]
struct Xds<'a> {
    cluster_name: &'a str,
    route_name: &'a str,
}

#[derive(Serialize)]
struct Connection {
    mtls: bool,
}

impl Head {
    pub fn of(parts: &request::Parts) -> Self {
        let request::Parts { method, uri, version, headers, .. } = parts;
        Self { method: method.clone(), uri: uri.clone(), version: *version, fields: headers.clone() }
    }

    fn field(&self, name: impl AsHeaderName) -> &str {
        self.fields.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

impl<'a> Attributes<'a> {
    pub(super) fn of(record: &'a Record) -> Self {
        Self { record, context: OnceCell::new() }
    }

    /// Whether a filter lets the request through; what it cannot be asked does not pass (Envoy's CEL filter).
    pub(super) fn pass(&self, filter: &Expression) -> bool {
        matches!(filter.evaluate(self.context()), Some(Value::Bool(true)))
    }

    /// What an expression makes a label of; `unknown` where it fails (Istio).
    pub(super) fn label(&self, expression: &Expression) -> String {
        let text = match expression.evaluate(self.context()) {
            Some(Value::String(text)) => text.as_str().to_owned(),
            Some(Value::Int(number)) => number.to_string(),
            Some(Value::UInt(number)) => number.to_string(),
            Some(Value::Bool(truth)) => truth.to_string(),
            Some(Value::Float(number)) => number.to_string(),
            _ => return "unknown".into(),
        };
        let clean = text.chars().map(|c| if c.is_control() { '_' } else { c });
        let mut left = LONGEST;
        clean.take_while(|c| left.checked_sub(c.len_utf8()).map(|rest| left = rest).is_some()).collect()
    }

    fn context(&self) -> &Context<'static, 'static> {
        self.context.get_or_init(|| {
            let (record, mut context) = (self.record, Context::default());
            // Strings, numbers and maps of strings: nothing that could not be said.
            if let Some(head) = &record.head {
                let _ = context.add_variable("request", request(record, head));
            }
            let _ = context.add_variable("response", response(record));
            for (name, workload) in
                [("downstream_peer", &record.series.caller), ("upstream_peer", &record.series.endpoint)]
            {
                let _ = workload.as_deref().map(|workload| context.add_variable(name, peer(workload)));
            }
            let cluster = record.series.callee.cluster();
            let route = record.route.as_ref().map_or("", |route| &*route.name);
            let _ = context.add_variable("xds", Xds { cluster_name: cluster, route_name: route });
            let _ = context.add_variable("connection", Connection { mtls: false });
            context
        })
    }
}

fn request<'a>(record: &Record, head: &'a Head) -> Request<'a> {
    let target = head.uri.path_and_query();
    let size = record.received();
    Request {
        method: head.method.as_str(),
        path: target.map_or("", |target| target.as_str()),
        url_path: head.uri.path(),
        query: head.uri.query().unwrap_or_default(),
        host: head.uri.authority().map_or_else(|| head.field(HOST), |authority| authority.as_str()),
        scheme: head.uri.scheme_str().unwrap_or("http"),
        protocol: match head.version {
            Version::HTTP_2 => "HTTP/2",
            Version::HTTP_10 => "HTTP/1.0",
            _ => "HTTP/1.1",
        },
        useragent: head.field(USER_AGENT),
        referer: head.field(REFERER),
        id: head.field("x-request-id"),
        headers: head.fields.iter().filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?))).collect(),
        duration: number(u64::try_from(record.elapsed().as_millis()).unwrap_or(u64::MAX)),
        size: number(size),
        total_size: number(size + record.request_head),
    }
}

fn response(record: &Record) -> Response<'_> {
    Response {
        code: record.code.map_or(0, |code| i64::from(code.as_u16())),
        code_details: record.details,
        flags: record.flags.to_string(),
        grpc_status: record.grpc_status.map(i64::from),
        size: number(record.response.bytes()),
        total_size: number(record.response.bytes() + record.response_head),
    }
}

fn peer(workload: &Workload) -> Peer<'_> {
    let label = |name: &str| workload.labels.get(name).map_or("", |value| value);
    Peer {
        name: &workload.key.name,
        namespace: &workload.key.namespace,
        workload: &workload.owner.name,
        app: label("app"),
        version: label("version"),
        service: canonical_service(workload),
        revision: canonical_revision(workload),
        labels: workload.labels.iter().map(|(name, value)| (&**name, &**value)).collect(),
    }
}

/// Whole numbers in expressions are signed: `response.size > 10`.
fn number(of: u64) -> i64 {
    i64::try_from(of).unwrap_or(i64::MAX)
}
