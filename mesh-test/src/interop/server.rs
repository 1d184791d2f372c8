//! The server: echoes metadata, replies as asked, counts bidirectional calls that were cancelled.

use super::pb::interop_server::{Interop, InteropServer};
use super::pb::{Reply, Request};
use super::{ECHO, ECHO_BIN, LANGUAGE, LARGEST};
use anyhow::{Context, Result};
use serde_json::json;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_stream::{Stream, StreamExt};
use tonic::metadata::MetadataMap;
use tonic::{Code, Response, Status, Streaming};

/// Answers until SIGTERM, then lets calls finish and prints a summary.
pub(super) async fn serve(address: SocketAddr, name: String) -> Result<()> {
    let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
    print(&json!({"ready": listener.local_addr()?.port()}))?;
    let stats = Arc::new(Stats::default());
    let service = InteropServer::new(Server { name: name.clone(), stats: stats.clone() })
        .max_decoding_message_size(LARGEST)
        .max_encoding_message_size(LARGEST);
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let (stopping, mut stopped) = mpsc::channel::<()>(1);
    let serving = tonic::transport::Server::builder().add_service(service).serve_with_incoming_shutdown(
        TcpListenerStream::new(listener),
        async move {
            tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
            drop(stopping);
        },
    );
    tokio::select! {
        result = serving => result?,
        // Calls get five seconds to finish, as in the other languages' servers.
        () = async { stopped.recv().await; tokio::time::sleep(Duration::from_secs(5)).await } => {}
    }
    let (calls, cancelled) = (stats.calls.load(Ordering::Relaxed), stats.cancelled.load(Ordering::Relaxed));
    print(&json!({"name": name, "language": LANGUAGE, "calls": calls, "cancelled": cancelled}))
}

/// One JSON line to standard output.
pub(super) fn print(value: &serde_json::Value) -> Result<()> {
    use std::io::Write;
    Ok(writeln!(std::io::stdout(), "{value}")?)
}

#[derive(Default)]
struct Stats {
    calls: AtomicU64,
    cancelled: AtomicU64,
}

struct Server {
    name: String,
    stats: Arc<Stats>,
}

struct Call {
    name: String,
    stats: Arc<Stats>,
    deadline: Option<Instant>,
    echo: MetadataMap,
    trailer: MetadataMap,
}

impl Call {
    fn reply(&self, request: &Request, bytes: usize, messages: u32) -> Reply {
        let left = self.deadline.map(|d| d.saturating_duration_since(Instant::now()).as_millis().max(1));
        Reply {
            payload: vec![0; request.reply_bytes as usize],
            pod: self.name.clone(),
            language: LANGUAGE.to_owned(),
            received_bytes: bytes as u64,
            received_messages: messages,
            deadline_ms: left.map_or(0, |ms| u64::try_from(ms).unwrap_or(u64::MAX)),
        }
    }

    /// The status that `request` asks for; trailers ride on it.
    fn failure(&self, request: &Request) -> Result<(), Status> {
        if request.fail_code == 0 {
            return Ok(());
        }
        let code = Code::from_i32(i32::try_from(request.fail_code).unwrap_or(2));
        Err(Status::with_metadata(code, request.fail_message.clone(), self.trailer.clone()))
    }

    fn response<T>(&self, body: T) -> Response<T> {
        Response::from_parts(self.echo.clone(), body, tonic::Extensions::default())
    }
}

impl Server {
    fn begin(&self, metadata: &MetadataMap) -> Call {
        self.stats.calls.fetch_add(1, Ordering::Relaxed);
        let (mut echo, mut trailer) = (MetadataMap::new(), MetadataMap::new());
        if let Some(value) = metadata.get(ECHO) {
            echo.insert(ECHO, value.clone());
        }
        if let Some(value) = metadata.get_bin(ECHO_BIN) {
            // tonic has no trailers beside a good status: they travel with the headers as well as on errors.
            echo.insert_bin(ECHO_BIN, value.clone());
            trailer.insert_bin(ECHO_BIN, value.clone());
        }
        let timeout = metadata.get("grpc-timeout").and_then(|v| v.to_str().ok()).and_then(timeout);
        let deadline = timeout.map(|t| Instant::now() + t);
        Call { name: self.name.clone(), stats: self.stats.clone(), deadline, echo, trailer }
    }
}

type Replies = Pin<Box<dyn Stream<Item = Result<Reply, Status>> + Send>>;

#[tonic::async_trait]
impl Interop for Server {
    type ServerStreamStream = Replies;
    type BidiStreamStream = Replies;

    async fn unary(&self, request: tonic::Request<Request>) -> Result<Response<Reply>, Status> {
        let call = self.begin(request.metadata());
        let request = request.into_inner();
        wait(&request).await;
        call.failure(&request)?;
        Ok(call.response(call.reply(&request, request.payload.len(), 1)))
    }

    async fn server_stream(&self, request: tonic::Request<Request>) -> Result<Response<Replies>, Status> {
        let call = self.begin(request.metadata());
        let request = request.into_inner();
        wait(&request).await;
        let (send, receive) = mpsc::channel(8);
        let response = call.response(stream(receive));
        tokio::spawn(async move {
            for _ in 0..request.replies {
                let reply = call.reply(&request, request.payload.len(), 1);
                if send.send(Ok(reply)).await.is_err() {
                    return;
                }
            }
            if let Err(status) = call.failure(&request) {
                // Fails when the client has gone: nobody to tell.
                let _ = send.send(Err(status)).await;
            }
        });
        Ok(response)
    }

    async fn client_stream(&self, requests: tonic::Request<Streaming<Request>>) -> Result<Response<Reply>, Status> {
        let call = self.begin(requests.metadata());
        let mut requests = requests.into_inner();
        let (mut last, mut bytes, mut messages) = (Request::default(), 0, 0);
        while let Some(request) = requests.message().await? {
            bytes += request.payload.len();
            messages += 1;
            last = request;
        }
        call.failure(&last)?;
        Ok(call.response(call.reply(&last, bytes, messages)))
    }

    async fn bidi_stream(&self, requests: tonic::Request<Streaming<Request>>) -> Result<Response<Replies>, Status> {
        let call = self.begin(requests.metadata());
        let requests = requests.into_inner();
        let (send, receive) = mpsc::channel(8);
        let response = call.response(stream(receive));
        tokio::spawn(async move {
            tokio::select! {
                biased;
                // tonic drops the replies when the call is reset, whatever it is doing.
                () = send.closed() => drop(call.stats.cancelled.fetch_add(1, Ordering::Relaxed)),
                () = answer(&call, requests, &send) => {}
            }
        });
        Ok(response)
    }
}

/// Obeys the requests of one call, until they end or one asks for a failure.
async fn answer(call: &Call, mut requests: Streaming<Request>, send: &mpsc::Sender<Result<Reply, Status>>) {
    let (mut bytes, mut messages) = (0, 0);
    while let Some(request) = requests.next().await {
        // The client's reset; how it is told is the caller's to see.
        let Ok(request) = request else { return send.closed().await };
        bytes += request.payload.len();
        messages += 1;
        wait(&request).await;
        for _ in 0..request.replies {
            if send.send(Ok(call.reply(&request, bytes, messages))).await.is_err() {
                return send.closed().await;
            }
        }
        if let Err(status) = call.failure(&request) {
            // Fails when the client has gone: nobody to tell.
            return drop(send.send(Err(status)).await);
        }
    }
}

fn stream(receive: mpsc::Receiver<Result<Reply, Status>>) -> Replies {
    Box::pin(ReceiverStream::new(receive))
}

async fn wait(request: &Request) {
    tokio::time::sleep(Duration::from_millis(request.delay_ms.into())).await;
}

/// `grpc-timeout`: at most eight digits and a unit (gRPC over HTTP/2, "Requests").
fn timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let amount = digits.parse::<u64>().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(amount * 3_600),
        "M" => Duration::from_secs(amount * 60),
        "S" => Duration::from_secs(amount),
        "m" => Duration::from_millis(amount),
        "u" => Duration::from_micros(amount),
        "n" => Duration::from_nanos(amount),
        _ => return None,
    })
}
