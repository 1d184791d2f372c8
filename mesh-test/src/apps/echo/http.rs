//! HTTP echo: any path answers 200 with what came in; a few of httpbin's and helloworld's paths do what they do there.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{ConnectInfo, Path, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{any, get};
use futures_util::{StreamExt as _, stream};
use http_body_util::BodyExt as _;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use serde::Serialize;
use tokio::sync::mpsc;
use tonic::codegen::Service as _;
use tonic::service::Routes;
use tonic::transport::server::TcpConnectInfo;

use crate::apps::SERVED_BY;
use crate::apps::listen::Connection;
use crate::apps::pod::Pod;

const DELAY_LIMIT: Duration = Duration::from_secs(300);
const BYTES_LIMIT: u64 = 1 << 30;
const STREAM_LIMIT: u64 = 100_000;
const CHUNK: Bytes = Bytes::from_static(&[b'.'; 16 * 1024]);

/// Answers HTTP/1.1 and HTTP/2 with prior knowledge; gRPC requests go to `routes`.
#[derive(Debug, Clone)]
pub(super) struct Server {
    router: Router,
}

impl Server {
    pub(super) fn new(pod: &Pod, routes: Routes) -> Self {
        let plain = Router::new()
            .route("/hello", get(hello))
            .route("/status/{code}", any(status))
            .route("/delay/{seconds}", any(delay))
            .route("/bytes/{count}", get(bytes))
            .route("/stream/{count}", get(stream_lines))
            .route("/echo", any(mirror))
            .fallback(echo)
            .with_state(pod.clone());
        let grpc = routes.into_axum_router();
        let pod = pod.clone();
        let router = Router::new().fallback(move |request: Request| {
            let (mut plain, mut grpc) = (plain.clone(), grpc.clone());
            let name = HeaderValue::from_str(&pod.name);
            let pod = pod.clone();
            async move {
                if is_grpc(&request) {
                    return grpc.call(request).await;
                }
                pod.count_call();
                let mut answer = plain.call(request).await;
                if let (Ok(answer), Ok(name)) = (&mut answer, name) {
                    answer.headers_mut().insert(SERVED_BY, name);
                }
                answer
            }
        });
        Self { router }
    }

    /// Serves until `connections` ends; then GOAWAY or `connection: close`, and `drain` for requests in flight.
    pub(super) async fn serve(self, mut connections: mpsc::Receiver<Connection>, drain: Duration) {
        let graceful = GracefulShutdown::new();
        let mut builder = Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new());
        builder.http2().timer(TokioTimer::new());
        while let Some(connection) = connections.recv().await {
            let (local, peer) = (connection.local, connection.peer);
            let router =
                self.router.clone().layer(axum::middleware::map_request(move |mut request: Request| async move {
                    request.extensions_mut().insert(ConnectInfo(peer));
                    // What tonic's own server would have put there.
                    let info = TcpConnectInfo { local_addr: Some(local), remote_addr: Some(peer) };
                    request.extensions_mut().insert(info);
                    request
                }));
            let serving =
                builder.serve_connection(TokioIo::new(connection), TowerToHyperService::new(router)).into_owned();
            let watched = graceful.watch(serving);
            // A connection that breaks is its client's business.
            tokio::spawn(async move { drop(watched.await) });
        }
        let _ = tokio::time::timeout(drain, graceful.shutdown()).await;
    }
}

/// The echo of a request, with httpbin's field names where it has them.
#[derive(Debug, Serialize)]
struct Echo {
    pod: String,
    namespace: String,
    labels: BTreeMap<String, String>,
    method: String,
    url: String,
    path: String,
    args: BTreeMap<String, String>,
    http: String,
    headers: BTreeMap<String, String>,
    origin: String,
    body_bytes: u64,
}

async fn echo(
    State(pod): State<Pod>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
) -> Result<Json<Echo>, StatusCode> {
    let (head, mut body) = request.into_parts();
    let mut body_bytes = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| StatusCode::BAD_REQUEST)?;
        body_bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
    }
    let mut headers: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in &head.headers {
        let value = String::from_utf8_lossy(value.as_bytes());
        headers
            .entry(name.to_string())
            .and_modify(|all| {
                all.push(',');
                all.push_str(&value);
            })
            .or_insert_with(|| value.to_string());
    }
    // HTTP/2 has the host in :authority only.
    if let Some(authority) = head.uri.authority() {
        headers.entry("host".to_owned()).or_insert_with(|| authority.to_string());
    }
    let args = head.uri.query().unwrap_or("").split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key.to_owned(), value.to_owned())
    });
    Ok(Json(Echo {
        pod: pod.name.to_string(),
        namespace: pod.namespace.to_string(),
        labels: (*pod.labels).clone(),
        method: head.method.to_string(),
        args: args.collect(),
        url: head.uri.to_string(),
        path: head.uri.path().to_owned(),
        http: format!("{:?}", head.version),
        headers,
        origin: peer.ip().to_string(),
        body_bytes,
    }))
}

/// helloworld's answer, word for word: its walk-throughs match on it.
async fn hello(State(pod): State<Pod>) -> String {
    let version = pod.labels.get("version").map_or("unknown", String::as_str);
    format!("Hello version: {version}, instance: {}\n", pod.name)
}

async fn status(Path(code): Path<u16>) -> StatusCode {
    // 1xx is not an answer; hyper would refuse to send it as one.
    StatusCode::from_u16(code).ok().filter(|code| !code.is_informational()).unwrap_or(StatusCode::BAD_REQUEST)
}

async fn delay(
    Path(seconds): Path<f64>,
    state: State<Pod>,
    peer: ConnectInfo<SocketAddr>,
    request: Request,
) -> Result<Json<Echo>, StatusCode> {
    let wait = Duration::try_from_secs_f64(seconds).map_err(|_| StatusCode::BAD_REQUEST)?;
    tokio::time::sleep(wait.min(DELAY_LIMIT)).await;
    echo(state, peer, request).await
}

async fn bytes(Path(count): Path<u64>) -> Response {
    if count > BYTES_LIMIT {
        return StatusCode::BAD_REQUEST.into_response();
    }
    let chunks = stream::unfold(count, |left| async move {
        let size = usize::try_from(left).map_or(CHUNK.len(), |left| left.min(CHUNK.len()));
        (size > 0).then(|| (Ok::<_, std::convert::Infallible>(CHUNK.slice(..size)), left - size as u64))
    });
    (
        [(header::CONTENT_TYPE, "application/octet-stream".to_owned()), (header::CONTENT_LENGTH, count.to_string())],
        Body::from_stream(chunks),
    )
        .into_response()
}

async fn stream_lines(Path(count): Path<u64>, State(pod): State<Pod>) -> Response {
    if count > STREAM_LIMIT {
        return StatusCode::BAD_REQUEST.into_response();
    }
    let lines = stream::iter(0..count).then(move |id| {
        let line = format!("{}\n", serde_json::json!({ "id": id, "pod": &*pod.name }));
        // A turn of the runtime between lines makes each one a write of its own.
        async move {
            tokio::task::yield_now().await;
            Ok::<_, std::convert::Infallible>(line)
        }
    });
    ([(header::CONTENT_TYPE, "application/json")], Body::from_stream(lines)).into_response()
}

/// The body comes back as it arrives, with its trailers.
async fn mirror(request: Request) -> Response {
    let kind = request.headers().get(header::CONTENT_TYPE).cloned();
    let mut response = Response::new(request.into_body());
    if let Some(kind) = kind {
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
    }
    response
}

fn is_grpc(request: &Request) -> bool {
    let kind = request.headers().get(header::CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}
