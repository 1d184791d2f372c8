//! OpenTelemetry's protocol: messages of its own crate, with what gRPC puts in front of one.

use super::span::{Kind, Span};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span as Message, Status};
use prost::Message as _;
use std::collections::BTreeMap;
use std::time::UNIX_EPOCH;

/// The method of `opentelemetry.proto.collector.trace.v1.TraceService`.
pub(super) const METHOD: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

/// The body of a `POST /v1/traces`.
pub(super) fn encode(spans: &[Span]) -> Vec<u8> {
    request(spans).encode_to_vec()
}

/// A gRPC message: not compressed, its length, itself (gRPC over HTTP/2, "Length-Prefixed-Message").
pub(super) fn framed(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes();
    [&[0], &length[..], message].concat()
}

/// Spans that the collector did not want, and why: of a gRPC message (with its prefix) or an HTTP body.
pub(super) fn rejected(answer: &[u8]) -> Option<(u64, String)> {
    let partial = ExportTraceServiceResponse::decode(answer).ok()?.partial_success?;
    let count = u64::try_from(partial.rejected_spans).unwrap_or(0);
    (count > 0 || !partial.error_message.is_empty()).then_some((count, partial.error_message))
}

fn request(spans: &[Span]) -> ExportTraceServiceRequest {
    let mut by_service: BTreeMap<&str, Vec<Message>> = BTreeMap::new();
    for span in spans {
        by_service.entry(&span.service).or_default().push(message(span));
    }
    let resources = by_service.into_iter().map(|(service, spans)| ResourceSpans {
        resource: Some(Resource { attributes: vec![text("service.name", service)], ..Resource::default() }),
        scope_spans: vec![ScopeSpans {
            scope: Some(InstrumentationScope {
                name: "undermesh".into(),
                version: env!("CARGO_PKG_VERSION").into(),
                ..InstrumentationScope::default()
            }),
            spans,
            ..ScopeSpans::default()
        }],
        ..ResourceSpans::default()
    });
    ExportTraceServiceRequest { resource_spans: resources.collect() }
}

fn message(span: &Span) -> Message {
    let nanos = |duration: std::time::Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    let started = nanos(span.started.duration_since(UNIX_EPOCH).unwrap_or_default());
    Message {
        trace_id: span.trace.get().to_be_bytes().to_vec(),
        span_id: span.id.get().to_be_bytes().to_vec(),
        trace_state: span.state.clone(),
        parent_span_id: span.parent.map(|parent| parent.get().to_be_bytes().to_vec()).unwrap_or_default(),
        // Bit 0, as in `traceparent`: recorded. Others are not known.
        flags: 1,
        name: span.name.clone(),
        kind: match span.kind {
            Kind::Client => SpanKind::Client.into(),
            Kind::Server => SpanKind::Server.into(),
        },
        start_time_unix_nano: started,
        end_time_unix_nano: started.saturating_add(nanos(span.duration)),
        attributes: span.tags.iter().map(|(key, value)| text(key, value)).collect(),
        status: span.failed.then(|| Status { code: StatusCode::Error.into(), message: String::new() }),
        ..Message::default()
    }
}

fn text(key: &str, value: &str) -> KeyValue {
    let value = AnyValue { value: Some(Value::StringValue(value.to_owned())) };
    KeyValue { key: key.to_owned(), value: Some(value), ..KeyValue::default() }
}

#[cfg(test)]
mod tests {
    use super::super::context::{SpanId, TraceId};
    use super::*;
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTracePartialSuccess;
    use std::time::Duration;

    #[test]
    fn spans_stand_under_their_services() {
        let span = Span {
            trace: TraceId::new(0x0102).unwrap(),
            id: SpanId::new(0x0304).unwrap(),
            parent: None,
            kind: Kind::Server,
            name: "web.shop:80/*".into(),
            started: UNIX_EPOCH + Duration::from_nanos(1_000),
            duration: Duration::from_nanos(500),
            service: "web.shop".into(),
            local: None,
            peer: None,
            failed: true,
            debug: false,
            state: "vendor=1".into(),
            tags: vec![("http.method".into(), "GET".into())],
        };
        let client = Span { service: "shop.shop".into(), kind: Kind::Client, parent: SpanId::new(9), ..span.clone() };
        let framed = framed(&encode(&[span.clone(), client, span]));
        assert_eq!(framed[..5], [&[0], &(framed.len() as u32 - 5).to_be_bytes()[..]].concat());
        let read = ExportTraceServiceRequest::decode(&framed[5..]).unwrap();
        let of = |at: usize| (&read.resource_spans[at], &read.resource_spans[at].scope_spans[0].spans);
        let (resource, spans) = of(1);
        assert_eq!((read.resource_spans.len(), spans.len(), of(0).1.len()), (2, 2, 1));
        assert_eq!(resource.resource.as_ref().unwrap().attributes, [text("service.name", "web.shop")]);
        let server = &spans[0];
        assert_eq!((server.trace_id.len(), &server.trace_id[14..]), (16, &[1, 2][..]));
        assert_eq!((&server.span_id[..], &server.parent_span_id[..]), (&[0, 0, 0, 0, 0, 0, 3, 4][..], &[][..]));
        assert_eq!((server.start_time_unix_nano, server.end_time_unix_nano), (1_000, 1_500));
        assert_eq!((server.kind(), server.status.as_ref().unwrap().code()), (SpanKind::Server, StatusCode::Error));
        assert_eq!((&*server.trace_state, &server.attributes[..]), ("vendor=1", &[text("http.method", "GET")][..]));
        let client = &of(0).1[0];
        assert_eq!((client.kind(), client.parent_span_id[7]), (SpanKind::Client, 9));
    }

    #[test]
    fn a_collector_may_take_a_part() {
        let partial = ExportTracePartialSuccess { rejected_spans: 2, error_message: "too old".into() };
        let answer = ExportTraceServiceResponse { partial_success: Some(partial) }.encode_to_vec();
        assert_eq!(rejected(&answer), Some((2, "too old".into())));
        assert_eq!(rejected(&ExportTraceServiceResponse::default().encode_to_vec()), None);
        assert_eq!(rejected(b"junk"), None);
    }
}
