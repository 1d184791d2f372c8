//! Zipkin's JSON, version 2 (openzipkin/zipkin-api `zipkin2-api.yaml`).

use super::context::trace_hex;
use super::span::{Kind, Span};
use serde::{Serialize, Serializer};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::UNIX_EPOCH;

/// The body of a `POST /api/v2/spans`.
///
/// # Errors
/// None in practice: there is nothing in it that is no JSON.
pub(super) fn encode(spans: &[Span]) -> serde_json::Result<Vec<u8>> {
    serde_json::to_vec(&spans.iter().map(View::of).collect::<Vec<_>>())
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct View<'a> {
    trace_id: String,
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent_id: Option<String>,
    kind: &'static str,
    name: &'a str,
    /// Microseconds since 1970, and how many of them.
    timestamp: u64,
    duration: u64,
    local_endpoint: Endpoint<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    remote_endpoint: Option<Endpoint<'a>>,
    #[serde(serialize_with = "tags")]
    tags: &'a Span,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    debug: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Endpoint<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    service_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ipv4: Option<Ipv4Addr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ipv6: Option<Ipv6Addr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
}

impl<'a> View<'a> {
    fn of(span: &'a Span) -> Self {
        let since = span.started.duration_since(UNIX_EPOCH).unwrap_or_default();
        let micros = |duration: std::time::Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        Self {
            trace_id: trace_hex(span.trace),
            id: format!("{:016x}", span.id),
            parent_id: span.parent.map(|parent| format!("{parent:016x}")),
            kind: match span.kind {
                Kind::Client => "CLIENT",
                Kind::Server => "SERVER",
            },
            name: &span.name,
            timestamp: micros(since),
            // "Durations of less than a microsecond are rounded up."
            duration: micros(span.duration).max(1),
            local_endpoint: Endpoint::of(Some(&span.service), span.local),
            remote_endpoint: span.peer.map(|peer| Endpoint::of(None, Some(peer))),
            tags: span,
            debug: span.debug,
        }
    }
}

impl<'a> Endpoint<'a> {
    fn of(service_name: Option<&'a str>, addr: Option<SocketAddr>) -> Self {
        let (ipv4, ipv6) = match addr.map(|addr| addr.ip()) {
            Some(IpAddr::V4(ip)) => (Some(ip), None),
            Some(IpAddr::V6(ip)) => (None, Some(ip)),
            None => (None, None),
        };
        Self { service_name, ipv4, ipv6, port: addr.map(|addr| addr.port()).filter(|port| *port != 0) }
    }
}

/// `error` is a tag here, as Zipkin's pages show it.
fn tags<S: Serializer>(span: &&Span, serializer: S) -> Result<S::Ok, S::Error> {
    let failed = span.failed.then_some(("error", "true"));
    serializer.collect_map(span.tags.iter().map(|(key, value)| (&**key, &**value)).chain(failed))
}

#[cfg(test)]
mod tests {
    use super::super::context::{SpanId, TraceId};
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_span_of_each_side() {
        let client = Span {
            trace: TraceId::new(0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736).unwrap(),
            id: SpanId::new(0x00f0_67aa_0ba9_02b7).unwrap(),
            parent: SpanId::new(7),
            kind: Kind::Client,
            name: "reviews.default.svc.cluster.local:9080/*".into(),
            started: UNIX_EPOCH + Duration::from_micros(1_502_787_600_000_001),
            duration: Duration::from_nanos(15_500),
            service: "productpage.default".into(),
            local: Some("10.0.0.1:0".parse().unwrap()),
            peer: Some("[fd00::1]:9080".parse().unwrap()),
            failed: true,
            debug: false,
            state: "a=b".into(),
            tags: vec![("component".into(), "proxy".into()), ("quote".into(), "\"\n".into())],
        };
        let server = Span {
            trace: TraceId::new(0xa3ce_929d_0e0e_4736).unwrap(),
            parent: None,
            kind: Kind::Server,
            duration: Duration::ZERO,
            peer: None,
            failed: false,
            debug: true,
            tags: Vec::new(),
            ..client.clone()
        };
        assert_eq!(
            String::from_utf8(encode(&[client, server]).unwrap()).unwrap(),
            concat!(
                r#"[{"traceId":"4bf92f3577b34da6a3ce929d0e0e4736","id":"00f067aa0ba902b7","parentId":"0000000000000007","#,
                r#""kind":"CLIENT","name":"reviews.default.svc.cluster.local:9080/*","timestamp":1502787600000001,"#,
                r#""duration":15,"localEndpoint":{"serviceName":"productpage.default","ipv4":"10.0.0.1"},"#,
                r#""remoteEndpoint":{"ipv6":"fd00::1","port":9080},"#,
                r#""tags":{"component":"proxy","quote":"\"\n","error":"true"}},"#,
                r#"{"traceId":"a3ce929d0e0e4736","id":"00f067aa0ba902b7","kind":"SERVER","#,
                r#""name":"reviews.default.svc.cluster.local:9080/*","timestamp":1502787600000001,"duration":1,"#,
                r#""localEndpoint":{"serviceName":"productpage.default","ipv4":"10.0.0.1"},"tags":{},"debug":true}]"#,
            )
        );
    }
}
