//! One batch to a collector: find it, connect, send, read what it says of it.

use super::otlp;
use super::span::Span;
use super::zipkin;
use crate::snapshot::tracing::{Collector, Formats, Protocol};
use crate::snapshot::{EndpointHealth, ServiceName, Snapshot};
use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, TE};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri, Version};
use http_body_util::{BodyExt, Collected, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Nothing that a collector answers is longer.
const LONGEST_ANSWER: usize = 64 << 10;

/// Why a batch was not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum PostError {
    /// It may be taken later.
    #[error("{0}")]
    Failed(String),
    /// It will not be.
    #[error("{0}")]
    Refused(String),
}

/// The way to one collector; its connection is kept.
pub(super) struct Poster {
    collector: Arc<Collector>,
    snapshot: Arc<ArcSwap<Snapshot>>,
    link: Option<Link>,
}

enum Link {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl Poster {
    pub(super) fn new(collector: Arc<Collector>, snapshot: Arc<ArcSwap<Snapshot>>) -> Self {
        Self { collector, snapshot, link: None }
    }

    /// Sends a batch; the number of spans that the collector took the batch without.
    ///
    /// # Errors
    /// `PostError`, whose text says what happened and where.
    pub(super) async fn post(&mut self, spans: &[Span]) -> Result<u64, PostError> {
        let body = encode(&self.collector.protocol, spans)?;
        let collector = Arc::clone(&self.collector);
        let slow = |what| PostError::Failed(format!("{what} took longer than {:?}", collector.timeout));
        let link = match self.link.take().filter(Link::is_open) {
            Some(link) => link,
            None => timeout(collector.timeout, connect(&collector, &self.snapshot))
                .await
                .map_err(|_| slow("connecting"))?
                .map_err(|error| PostError::Failed(format!("no connection: {error}")))?,
        };
        let mut link = link;
        let answer = timeout(collector.timeout, link.send(request(&collector, body)?))
            .await
            .map_err(|_| slow("the answer"))?
            .map_err(|error| PostError::Failed(format!("no answer: {error}")))?;
        let (parts, body) = answer.into_parts();
        let body = timeout(collector.timeout, Limited::new(body, LONGEST_ANSWER).collect())
            .await
            .map_err(|_| slow("the answer's end"))?
            .map_err(|error| PostError::Failed(format!("half an answer: {error}")))?;
        self.link = Some(link);
        judge(&collector.protocol, parts.status, &parts.headers, body)
    }
}

impl Link {
    fn is_open(&self) -> bool {
        match self {
            Self::Http1(send) => !send.is_closed(),
            Self::Http2(send) => !send.is_closed(),
        }
    }

    async fn send(&mut self, request: Request<Full<Bytes>>) -> hyper::Result<Response<Incoming>> {
        match self {
            Self::Http1(send) => {
                send.ready().await?;
                send.send_request(request).await
            }
            Self::Http2(send) => {
                send.ready().await?;
                send.send_request(request).await
            }
        }
    }
}

fn encode(protocol: &Protocol, spans: &[Span]) -> Result<Vec<u8>, PostError> {
    match protocol {
        Protocol::Zipkin { .. } => zipkin::encode(spans).map_err(|error| PostError::Refused(error.to_string())),
        Protocol::OtlpGrpc => Ok(otlp::framed(&otlp::encode(spans))),
        Protocol::OtlpHttp { .. } => Ok(otlp::encode(spans)),
    }
}

async fn connect(collector: &Collector, snapshot: &ArcSwap<Snapshot>) -> io::Result<Link> {
    let addresses = match endpoints(&snapshot.load(), &collector.host, collector.port) {
        Some(endpoints) => endpoints,
        None => tokio::net::lookup_host((&*collector.host, collector.port)).await?.collect(),
    };
    let mut stream = Err(io::Error::new(io::ErrorKind::NotFound, "it has no ready endpoint"));
    for address in addresses {
        stream = TcpStream::connect(address).await;
        if stream.is_ok() {
            break;
        }
    }
    let stream = stream?;
    stream.set_nodelay(true)?;
    let io = TokioIo::new(stream);
    if collector.protocol == Protocol::OtlpGrpc {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        let (send, driver) = builder.timer(TokioTimer::new()).handshake(io).await.map_err(io::Error::other)?;
        tokio::spawn(async move { driver.await.unwrap_or_else(|error| ended(&error)) });
        return Ok(Link::Http2(send));
    }
    let (send, driver) = http1::handshake(io).await.map_err(io::Error::other)?;
    tokio::spawn(async move { driver.await.unwrap_or_else(|error| ended(&error)) });
    Ok(Link::Http1(send))
}

fn ended(error: &hyper::Error) {
    tracing::debug!(%error, "connection to a collector of spans ended");
}

/// The ready endpoints of a Service of the mesh, in an order of their own each time; `None`: no Service has the name.
/// `zipkin.istio-system`, with or without what DNS would add.
fn endpoints(snapshot: &Snapshot, host: &str, port: u16) -> Option<Vec<SocketAddr>> {
    let domain = &snapshot.mesh().cluster_domain;
    let host = host.trim_end_matches('.');
    let short = host.strip_suffix(&**domain).map_or(host, |rest| rest.trim_end_matches('.'));
    let (name, namespace) = short.strip_suffix(".svc").unwrap_or(short).split_once('.')?;
    let service = snapshot.service(&ServiceName::new(namespace, name))?;
    let port = service.ports.iter().find(|known| known.port == port)?;
    let ready = port.endpoints.endpoints.iter().filter(|endpoint| endpoint.health == EndpointHealth::Ready);
    let mut ready: Vec<SocketAddr> = ready.map(|endpoint| endpoint.addr.addr()).collect();
    fastrand::shuffle(&mut ready);
    Some(ready)
}

fn request(collector: &Collector, body: Vec<u8>) -> Result<Request<Full<Bytes>>, PostError> {
    let (path, content_type) = match &collector.protocol {
        Protocol::Zipkin { path } => (&**path, "application/json"),
        Protocol::OtlpGrpc => (otlp::METHOD, "application/grpc"),
        Protocol::OtlpHttp { path } => (&**path, "application/x-protobuf"),
    };
    let authority = format!("{}:{}", collector.host, collector.port);
    let refused = |error: http::Error| PostError::Refused(format!("{authority}{path} is no address: {error}"));
    let mut request = Request::post(path).body(Full::new(body.into())).map_err(refused)?;
    let headers = request.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    for (name, value) in &collector.headers {
        headers.insert(name, value.clone());
    }
    if collector.protocol == Protocol::OtlpGrpc {
        // "Te" → "te" "trailers": some servers refuse calls without (gRPC over HTTP/2, "Requests").
        headers.insert(TE, HeaderValue::from_static("trailers"));
        let uri = Uri::builder().scheme("http").authority(authority.as_str()).path_and_query(path).build();
        *request.uri_mut() = uri.map_err(refused)?;
        *request.version_mut() = Version::HTTP_2;
    } else {
        headers.insert(HOST, HeaderValue::from_str(&authority).map_err(|error| refused(error.into()))?);
    }
    Ok(request)
}

/// A collector at a URL, for a development machine: `http://HOST:PORT[/PATH]`. Zipkin's, or (`otlp`) OTLP over gRPC, over
/// HTTP where there is a path.
///
/// # Errors
/// What is wrong with the URL.
pub fn of_url(url: &str, otlp: bool) -> Result<Collector, String> {
    let uri: Uri = url.parse().map_err(|error| format!("{error}: expected http://HOST:PORT"))?;
    let (Some("http"), Some(host)) = (uri.scheme_str(), uri.host()) else {
        return Err("expected http://HOST:PORT; TLS is not spoken to collectors".to_owned());
    };
    let path = Some(uri.path()).filter(|path| *path != "/");
    let (protocol, port) = match (otlp, path) {
        (true, None) => (Protocol::OtlpGrpc, 4317),
        (true, Some(path)) => (Protocol::OtlpHttp { path: path.into() }, 4318),
        (false, path) => (Protocol::Zipkin { path: path.unwrap_or("/api/v2/spans").into() }, 9411),
    };
    Ok(Collector {
        name: if otlp { "otlp" } else { "zipkin" }.into(),
        host: host.trim_start_matches('[').trim_end_matches(']').into(),
        port: uri.port_u16().unwrap_or(port),
        protocol,
        timeout: Duration::from_secs(10),
        headers: Vec::new(),
        formats: Formats { w3c: otlp, b3: !otlp, b3_single: false },
        longest_path: None,
    })
}

/// What an answer says (OTLP specification, "Failures"; Zipkin answers 202).
fn judge(
    protocol: &Protocol,
    status: StatusCode,
    headers: &HeaderMap,
    body: Collected<Bytes>,
) -> Result<u64, PostError> {
    if !status.is_success() {
        let text = format!("answered {status}");
        let later = matches!(status.as_u16(), 408 | 429 | 502..=504);
        return Err(if later { PostError::Failed(text) } else { PostError::Refused(text) });
    }
    let grpc = *protocol == Protocol::OtlpGrpc;
    if grpc {
        // In the head where there is no message, else in the trailers.
        let of = |fields: &HeaderMap| crate::grpc::status_in(fields);
        match of(headers).or_else(|| body.trailers().and_then(of)) {
            Some(0) => {}
            // Cancelled, deadline, exhausted, aborted, out of range, unavailable, data loss.
            Some(code @ (1 | 4 | 8 | 10 | 11 | 14 | 15)) => {
                return Err(PostError::Failed(format!("answered gRPC status {code}")));
            }
            Some(code) => return Err(PostError::Refused(format!("answered gRPC status {code}"))),
            None => return Err(PostError::Failed("answered no gRPC status".into())),
        }
    }
    if matches!(protocol, Protocol::Zipkin { .. }) {
        return Ok(0);
    }
    let body = body.to_bytes();
    let message = if grpc { body.get(5..).unwrap_or_default() } else { &body };
    let Some((count, why)) = otlp::rejected(message) else { return Ok(0) };
    tracing::warn!(count, why, "a collector did not take spans of a batch");
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::EndpointAddr;
    use crate::snapshot::{Endpoint, EndpointSet, Locality, PortKey, Service, ServicePort};

    fn collector(host: &str, protocol: Protocol) -> Collector {
        Collector {
            name: "test".into(),
            host: host.into(),
            port: 9411,
            protocol,
            timeout: Duration::from_secs(5),
            headers: vec![(http::HeaderName::from_static("x-token"), HeaderValue::from_static("secret"))],
            formats: Formats::default(),
            longest_path: None,
        }
    }

    fn snapshot(health: EndpointHealth) -> Snapshot {
        let name = ServiceName::new("istio-system", "zipkin");
        let mut service = Service::new(name.clone(), "zipkin.istio-system.svc.cluster.local");
        let mut port = ServicePort {
            port: 9411,
            key: PortKey::new(name, 9411),
            name: "http".into(),
            protocol: crate::snapshot::Protocol::Http,
            lb: crate::snapshot::LbPolicy::Default,
            endpoints: Arc::default(),
        };
        let endpoint = |last| Endpoint {
            addr: EndpointAddr::new(([10, 0, 0, last], 9411).into()),
            weight: 1,
            health,
            workload: None,
            locality: Locality::default(),
        };
        port.endpoints = Arc::new(EndpointSet { endpoints: vec![endpoint(1), endpoint(2)] });
        service.ports.push(Arc::new(port));
        let mut snapshot = Snapshot::default();
        snapshot.insert_service(Arc::new(service));
        snapshot
    }

    #[test]
    fn services_are_found_by_any_of_their_names() {
        let ready = snapshot(EndpointHealth::Ready);
        for host in [
            "zipkin.istio-system",
            "zipkin.istio-system.svc",
            "zipkin.istio-system.svc.cluster.local",
            "zipkin.istio-system.svc.cluster.local.",
        ] {
            let mut found = endpoints(&ready, host, 9411).unwrap_or_default();
            found.sort();
            assert_eq!(found, ["10.0.0.1:9411".parse().unwrap(), "10.0.0.2:9411".parse().unwrap()], "{host}");
        }
        for host in ["zipkin", "zipkin.other", "zipkin.example.org", "127.0.0.1", ""] {
            assert_eq!(endpoints(&ready, host, 9411), None, "{host}: left to DNS");
        }
        assert_eq!(endpoints(&ready, "zipkin.istio-system", 80), None);
        let not_ready = snapshot(EndpointHealth::NotReady);
        assert_eq!(endpoints(&not_ready, "zipkin.istio-system", 9411), Some(Vec::new()), "DNS knows no better");
    }

    #[test]
    fn urls_of_collectors() {
        let of = |url, otlp| of_url(url, otlp).map(|found| (found.host.to_string(), found.port, found.protocol));
        let zipkin = Protocol::Zipkin { path: "/api/v2/spans".into() };
        assert_eq!(of("http://zipkin.istio-system", false), Ok(("zipkin.istio-system".into(), 9411, zipkin)));
        assert_eq!(of("http://[::1]:4317", true), Ok(("::1".into(), 4317, Protocol::OtlpGrpc)));
        let http = Protocol::OtlpHttp { path: "/v1/traces".into() };
        assert_eq!(of("http://127.0.0.1:9/v1/traces", true), Ok(("127.0.0.1".into(), 9, http)));
        for wrong in ["", "127.0.0.1:9411", "https://zipkin", "http://", "http://a b"] {
            assert!(of(wrong, false).is_err(), "{wrong}");
        }
    }

    #[test]
    fn requests_as_collectors_want_them() {
        let zipkin = collector("zipkin.istio-system", Protocol::Zipkin { path: "/api/v2/spans".into() });
        let made = request(&zipkin, b"[]".to_vec()).unwrap();
        assert_eq!(made.uri().path(), "/api/v2/spans");
        for (name, value) in
            [("host", "zipkin.istio-system:9411"), ("content-type", "application/json"), ("x-token", "secret")]
        {
            assert_eq!(made.headers()[name], value);
        }
        let grpc = request(&collector("otel.observability", Protocol::OtlpGrpc), Vec::new()).unwrap();
        assert_eq!(grpc.uri().to_string(), format!("http://otel.observability:9411{}", otlp::METHOD));
        let wrong = request(&collector("o", Protocol::OtlpHttp { path: "no path".into() }), Vec::new());
        assert!(matches!(wrong, Err(PostError::Refused(_))));
    }
}
