//! `mesh-bench floor`: the plainest HTTP/2 proxy that hyper makes, the floor that every real proxy is measured against.
//!
//! No retries, no metrics, no discovery: one upstream connection per worker and endpoint, endpoints in turn. Its thread
//! models are the benchmark behind ours: `per-core` runs one single-threaded runtime per worker and gives each accepted
//! connection to one of them for life; `stealing` runs one runtime that moves tasks between workers.

use anyhow::{Context, Result, bail};
use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;

#[derive(clap::Args)]
pub(super) struct Args {
    /// gRPC here
    #[arg(long)]
    listen: SocketAddr,
    /// Endpoints, in turn
    #[arg(long, required = true, value_delimiter = ',')]
    endpoint: Vec<SocketAddr>,
    /// Opaque TCP here
    #[arg(long, requires = "tcp_endpoint")]
    tcp: Option<SocketAddr>,
    /// Endpoints of opaque TCP, in turn
    #[arg(long, value_delimiter = ',')]
    tcp_endpoint: Vec<SocketAddr>,
    #[arg(long, default_value_t = 1)]
    workers: usize,
    #[arg(long, value_enum, default_value = "per-core")]
    threads: Threads,
}

#[derive(Clone, Copy, clap::ValueEnum, PartialEq, Eq, Debug)]
pub(super) enum Threads {
    /// One single-threaded runtime per worker
    PerCore,
    /// One runtime whose workers steal tasks from one another
    Stealing,
}

/// Eight streams with hyper's 2 MiB of window each, in messages of 133 bytes that count as 256: 126,144 × 123 B ≈ 15 MiB.
const CONNECTION_WINDOW: u32 = 64 << 20;

type Upstreams = Arc<Vec<SendRequest<Incoming>>>;

/// Serves until killed.
pub(super) fn run(args: &Args) -> Result<()> {
    match args.threads {
        Threads::Stealing => {
            let runtime = Builder::new_multi_thread().worker_threads(args.workers).enable_all().build()?;
            runtime.block_on(async {
                let upstreams = connect(&args.endpoint).await?;
                accept(args, |socket| {
                    tokio::spawn(serve(socket, upstreams.clone()));
                })
                .await
            })
        }
        Threads::PerCore => {
            let mut workers = (1..args.workers).map(|_| worker(args.endpoint.clone())).collect::<Result<Vec<_>>>()?;
            let runtime = single()?;
            let (own, mut sockets) = mpsc::unbounded_channel();
            workers.push(own);
            runtime.block_on(async {
                let upstreams = connect(&args.endpoint).await?;
                tokio::spawn(async move {
                    while let Some(socket) = sockets.recv().await {
                        tokio::spawn(serve(socket, upstreams.clone()));
                    }
                });
                let next = AtomicUsize::new(0);
                accept(args, |socket| {
                    let at = next.fetch_add(1, Ordering::Relaxed) % workers.len();
                    // A worker whose endpoints could not be reached has gone; its connection is dropped.
                    drop(workers[at].send(socket));
                })
                .await
            })
        }
    }
}

/// A further worker: a thread with a runtime and upstream connections of its own.
fn worker(endpoints: Vec<SocketAddr>) -> Result<mpsc::UnboundedSender<TcpStream>> {
    let (give, mut sockets) = mpsc::unbounded_channel::<TcpStream>();
    let runtime = single()?;
    std::thread::spawn(move || {
        runtime.block_on(async {
            let Ok(upstreams) = connect(&endpoints).await else { return };
            while let Some(socket) = sockets.recv().await {
                // The socket is registered with the runtime that accepted it; move it to this one's.
                let Ok(socket) = socket.into_std().and_then(TcpStream::from_std) else { continue };
                tokio::spawn(serve(socket, upstreams.clone()));
            }
        });
    });
    Ok(give)
}

fn single() -> Result<Runtime> {
    Builder::new_current_thread().enable_all().build().context("runtime")
}

async fn accept(args: &Args, mut serve: impl FnMut(TcpStream)) -> Result<()> {
    if let Some(address) = args.tcp {
        let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
        tokio::spawn(accept_tcp(listener, args.tcp_endpoint.clone()));
    }
    let listener = TcpListener::bind(args.listen).await.with_context(|| format!("cannot listen on {}", args.listen))?;
    super::announce("ready")?;
    loop {
        let (socket, _) = listener.accept().await?;
        socket.set_nodelay(true)?;
        serve(socket);
    }
}

async fn connect(endpoints: &[SocketAddr]) -> Result<Upstreams> {
    let mut upstreams = Vec::new();
    for endpoint in endpoints {
        let socket = TcpStream::connect(endpoint).await.with_context(|| format!("cannot connect to {endpoint}"))?;
        socket.set_nodelay(true)?;
        // hyper's connections end with ENHANCE_YOUR_CALM when more small DATA frames wait than half of this window stands
        // for, and on a slow machine they do (h2's `data_frame_budget`, which hyper does not pass on).
        let (send, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
            .initial_connection_window_size(CONNECTION_WINDOW)
            .handshake(TokioIo::new(socket))
            .await?;
        tokio::spawn(connection);
        upstreams.push(send);
    }
    if upstreams.is_empty() {
        bail!("no endpoint");
    }
    Ok(Arc::new(upstreams))
}

async fn serve(socket: TcpStream, upstreams: Upstreams) {
    let next = AtomicUsize::new(0);
    let service = service_fn(|request| {
        let at = next.fetch_add(1, Ordering::Relaxed) % upstreams.len();
        forward(request, upstreams[at].clone())
    });
    let serving = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    // The load generator closes its connections when it has measured; that is no error.
    drop(serving.serve_connection(TokioIo::new(socket), service).await);
}

async fn forward(
    mut request: Request<Incoming>,
    mut upstream: SendRequest<Incoming>,
) -> Result<Response<Incoming>, hyper::Error> {
    // hyper's client wants scheme and authority in the URI; the server gives them for HTTP/2.
    if request.uri().authority().is_none() {
        *request.uri_mut() = Uri::from_static("http://floor/");
    }
    upstream.send_request(request).await
}

async fn accept_tcp(listener: TcpListener, endpoints: Vec<SocketAddr>) {
    let mut turn = endpoints.iter().cycle();
    while let (Ok((mut near, _)), Some(endpoint)) = (listener.accept().await, turn.next()) {
        let endpoint = *endpoint;
        tokio::spawn(async move {
            let Ok(mut far) = TcpStream::connect(endpoint).await else { return };
            // Latency is measured: Nagle off on both sides. A reset while copying ends both.
            if near.set_nodelay(true).is_ok() && far.set_nodelay(true).is_ok() {
                drop(tokio::io::copy_bidirectional(&mut near, &mut far).await);
            }
        });
    }
}
