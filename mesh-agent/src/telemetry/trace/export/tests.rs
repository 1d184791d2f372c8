//! Against collectors of our own, over real sockets.

use super::super::context::{SpanId, TraceId};
use super::super::span::Kind;
use super::*;
use crate::snapshot::tracing::{Formats, Protocol};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message as _;
use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener};
use std::sync::Mutex;
use std::time::SystemTime;

/// What a collector got, in order.
type Got = Arc<Mutex<Vec<Bytes>>>;

/// Answers the first requests with these statuses, all others with 202; a gRPC call with status 0.
fn collector(http2: bool, first: Vec<StatusCode>) -> (SocketAddr, Got) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let (addr, got) = (listener.local_addr().unwrap(), Got::default());
    let (taken, first) = (Arc::clone(&got), Arc::new(Mutex::new(first.into_iter())));
    thread::spawn(move || {
        Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                let (taken, first) = (Arc::clone(&taken), Arc::clone(&first));
                let service = service_fn(move |request: Request<Incoming>| {
                    let (taken, first) = (Arc::clone(&taken), Arc::clone(&first));
                    async move {
                        let body = request.into_body().collect().await.unwrap().to_bytes();
                        taken.lock().unwrap().push(body);
                        let trailers =
                            HeaderMap::from_iter([(crate::grpc::GRPC_STATUS, HeaderValue::from_static("0"))]);
                        let mut answer = Response::new(
                            Full::new(Bytes::from_static(&[0; 5]))
                                .with_trailers(async move { Some(Ok::<_, Infallible>(trailers)) }),
                        );
                        let ok = if http2 { StatusCode::OK } else { StatusCode::ACCEPTED };
                        *answer.status_mut() = first.lock().unwrap().next().unwrap_or(ok);
                        Ok::<_, Infallible>(answer)
                    }
                });
                let io = TokioIo::new(stream);
                tokio::spawn(async move {
                    if http2 {
                        drop(http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await);
                    } else {
                        drop(http1::Builder::new().serve_connection(io, service).await);
                    }
                });
            }
        });
    });
    (addr, got)
}

fn exporter(addr: SocketAddr, protocol: Protocol) -> (Exporter, Arc<Counts>) {
    let collector = Collector {
        name: "test".into(),
        host: addr.ip().to_string().into(),
        port: addr.port(),
        protocol,
        timeout: Duration::from_secs(60),
        headers: Vec::new(),
        formats: Formats::default(),
        longest_path: None,
    };
    let counts = Arc::new(Counts::default());
    (Exporter::start(Arc::new(collector), Arc::default(), Arc::clone(&counts)).unwrap(), counts)
}

fn zipkin() -> Protocol {
    Protocol::Zipkin { path: "/api/v2/spans".into() }
}

fn span(id: u64) -> Span {
    Span {
        trace: TraceId::new(1).unwrap(),
        id: SpanId::new(id).unwrap(),
        parent: None,
        kind: Kind::Client,
        name: "web.shop:80/*".into(),
        started: SystemTime::now(),
        duration: Duration::from_millis(1),
        service: "shop.shop".into(),
        local: None,
        peer: None,
        failed: false,
        debug: false,
        state: String::new(),
        tags: Vec::new(),
    }
}

/// Waits for a condition; a busy machine has a minute.
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(std::time::Instant::now() < deadline, "not within a minute: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

fn spans_of(bodies: &[Bytes]) -> usize {
    bodies.iter().map(|body| serde_json::from_slice::<Vec<serde_json::Value>>(body).unwrap().len()).sum()
}

#[test]
fn zipkin_gets_batches() {
    let (addr, got) = collector(false, Vec::new());
    let (exporter, counts) = exporter(addr, zipkin());
    (1..=1000).for_each(|id| exporter.take(1, move |spans| spans.push(span(id))));
    until("1000 spans", || counts.sent.load(Relaxed) == 1000);
    let got = got.lock().unwrap();
    assert_eq!(spans_of(&got), 1000);
    assert!(got.len() < 20, "{} batches", got.len());
    assert_eq!(counts.dropped.load(Relaxed), 0);
}

#[test]
fn opentelemetry_gets_grpc_messages() {
    let (addr, got) = collector(true, Vec::new());
    let (exporter, counts) = exporter(addr, Protocol::OtlpGrpc);
    exporter.take(1, move |spans| spans.push(span(7)));
    until("the span", || counts.sent.load(Relaxed) == 1);
    let got = got.lock().unwrap();
    let request = ExportTraceServiceRequest::decode(&got[0][5..]).unwrap();
    assert_eq!(request.resource_spans[0].scope_spans[0].spans[0].span_id, 7_u64.to_be_bytes());
}

#[test]
fn a_collector_in_trouble_gets_the_batch_again_one_that_refuses_does_not() {
    let (addr, got) = collector(false, vec![StatusCode::SERVICE_UNAVAILABLE, StatusCode::TOO_MANY_REQUESTS]);
    let (exporter, counts) = exporter(addr, zipkin());
    exporter.take(1, move |spans| spans.push(span(1)));
    until("the span", || counts.sent.load(Relaxed) == 1);
    assert_eq!((spans_of(&got.lock().unwrap()), counts.dropped.load(Relaxed)), (3, 0));

    let (addr, got) = collector(false, vec![StatusCode::BAD_REQUEST]);
    let (exporter, counts) = self::exporter(addr, zipkin());
    exporter.take(1, move |spans| spans.push(span(1)));
    until("the refusal", || counts.dropped.load(Relaxed) == 1);
    exporter.take(1, move |spans| spans.push(span(2)));
    until("the next span", || counts.sent.load(Relaxed) == 1);
    assert_eq!(spans_of(&got.lock().unwrap()), 2);
}

#[test]
fn a_collector_that_stalls_costs_spans_and_nothing_else() {
    // The kernel accepts for it; nobody reads.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (exporter, counts) = exporter(listener.local_addr().unwrap(), zipkin());
    let sent = 3 * (QUEUE + BATCH) as u64;
    // From the caller's thread: it comes to an end although no span does.
    (1..=sent).for_each(|id| exporter.take(1, move |spans| spans.push(span(id))));
    let (dropped, kept) = (counts.dropped.load(Relaxed), counts.sent.load(Relaxed));
    let held = sent - dropped;
    assert!((QUEUE as u64..=(QUEUE + BATCH) as u64).contains(&held), "{held} held");
    assert_eq!(kept, 0);
}

#[test]
fn nobody_there_costs_the_batch_after_its_last_try() {
    let addr = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (exporter, counts) = exporter(addr, zipkin());
    exporter.take(1, move |spans| spans.push(span(1)));
    until("the drop", || counts.dropped.load(Relaxed) == 1);
    assert_eq!(counts.sent.load(Relaxed), 0);
}
