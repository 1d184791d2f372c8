//! One kind of call to one target over a fixed number of connections, without any balancing of its own.

use std::fmt::Display;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use tonic::transport::{Channel, Endpoint};

use super::{grpc, http, tcp};
use crate::apps::dial::{Dialer, split_target};
use crate::apps::pod::key_value;
use crate::apps::proto::pingpong::PingRequest;

/// What the client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    Grpc,
    /// HTTP/1.1 with keep-alive; one request at a time on a connection.
    Http,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// One line, one line back; one at a time on a connection.
    Tcp,
}

/// The four gRPC call kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Method {
    Unary,
    ServerStream,
    ClientStream,
    Bidi,
}

/// What to call and how; shared by `mesh-app call` and `mesh-app load`.
#[derive(Debug, Clone, Args)]
pub struct CallArgs {
    /// host:port; an IPv6 address stands in brackets.
    #[arg(long)]
    pub target: String,
    #[arg(long, value_enum, default_value = "grpc")]
    pub kind: Kind,
    /// gRPC: which call of pingpong.v1.PingPong.
    #[arg(long, value_enum, default_value = "unary")]
    pub method: Method,
    /// HTTP: the path. GET, or POST when there is a payload.
    #[arg(long, default_value = "/")]
    pub path: String,
    /// The message, or the line of TCP.
    #[arg(long, default_value = "ping")]
    pub message: String,
    /// Bytes of payload in each request.
    #[arg(long, default_value_t = 0)]
    pub bytes: usize,
    /// gRPC: bytes of payload in each answer.
    #[arg(long, default_value_t = 0)]
    pub reply_bytes: u32,
    /// gRPC streams: messages in each direction that streams.
    #[arg(long, default_value_t = 1)]
    pub messages: u32,
    /// gRPC: milliseconds the server waits before each answer.
    #[arg(long, default_value_t = 0)]
    pub delay_ms: u32,
    /// gRPC: status code the server is asked to end with.
    #[arg(long, default_value_t = 0)]
    pub fail_code: u32,
    /// A metadata entry or header, KEY=VALUE; repeat for more.
    #[arg(long = "metadata", value_parser = key_value)]
    pub metadata: Vec<(String, String)>,
    /// Milliseconds a call may take; sent as grpc-timeout by gRPC.
    #[arg(long, default_value_t = 5_000)]
    pub timeout_ms: u64,
    /// A connection of its own for each call.
    #[arg(long)]
    pub reconnect: bool,
    /// Milliseconds after which calls get new connections; those under way end on the old ones.
    #[arg(long, conflicts_with = "reconnect")]
    pub renew_ms: Option<u64>,
    /// Names to look up before the system's, in the form of /etc/hosts.
    #[arg(long)]
    pub hosts: Option<PathBuf>,
}

/// A successful call.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The pod that answered, as far as the answer says; else the target.
    pub replica: String,
    /// Messages received.
    pub messages: u64,
    /// The last message, as JSON.
    pub last: serde_json::Value,
}

/// A failed call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// gRPC: the status code's name; HTTP: the status, or `Connect`, `Broken`, `Timeout`; TCP: one of these three.
    pub code: String,
    pub message: String,
}

impl Failure {
    pub(super) fn new(code: &str, message: impl Display) -> Self {
        Self { code: code.to_owned(), message: format!("{message}") }
    }
}

/// Calls one target. Connections are opened by the first call that needs them, and again when they are lost.
#[derive(Debug)]
pub struct Client {
    args: CallArgs,
    host: String,
    port: u16,
    dialer: Dialer,
    connections: Mutex<Connections>,
    next: AtomicUsize,
}

#[derive(Debug)]
struct Connections {
    since: Instant,
    all: Vec<Arc<Connection>>,
}

#[derive(Debug)]
enum Connection {
    Grpc(Channel),
    Http(http::One),
    Http2(http::Shared),
    Tcp(tcp::One),
}

impl Client {
    /// A client with `connections` connections (at least one), none of them open yet.
    ///
    /// # Errors
    /// The target is not host:port, a hosts file is wrong, the path or a metadata entry is not allowed.
    pub fn new(args: CallArgs, connections: usize) -> anyhow::Result<Arc<Self>> {
        let (host, port) = split_target(&args.target)?;
        let (host, dialer) = (host.to_owned(), Dialer::new(args.hosts.as_deref(), Some(args.timeout()))?);
        match args.kind {
            Kind::Grpc => drop(grpc::request(&args, PingRequest::default())?),
            Kind::Http | Kind::Http2 => drop(http::request(&args)?),
            Kind::Tcp => {}
        }
        let connections = Mutex::new(Connections::new(&args, &dialer, connections.max(1))?);
        Ok(Arc::new(Self { args, host, port, dialer, connections, next: AtomicUsize::new(0) }))
    }

    /// Connections opened so far.
    pub fn opened(&self) -> u64 {
        self.dialer.opened()
    }

    /// One call, on the next connection in turn.
    ///
    /// # Errors
    /// The call failed; the code says how.
    pub async fn call(&self) -> Result<Answer, Failure> {
        let connection = &*self.connection().map_err(|error| Failure::new("Connect", error))?;
        let limit = self.args.timeout();
        let call = async {
            match connection {
                Connection::Grpc(channel) => grpc::call(channel.clone(), &self.args).await,
                Connection::Http(one) => one.call(&self.args, &self.dialer, &self.host, self.port).await,
                Connection::Http2(shared) => shared.call(&self.args, &self.dialer, &self.host, self.port).await,
                Connection::Tcp(one) => one.call(&self.args, &self.dialer, &self.host, self.port).await,
            }
        };
        // gRPC ends a call by itself at its deadline; the spare time lets that answer arrive first.
        let grace = if self.args.kind == Kind::Grpc { Duration::from_millis(500) } else { Duration::ZERO };
        tokio::time::timeout(limit + grace, call)
            .await
            .unwrap_or_else(|_| Err(Failure::new("Timeout", format!("no answer in {:?}", limit + grace))))
    }

    /// The one whose turn it is.
    fn connection(&self) -> anyhow::Result<Arc<Connection>> {
        if self.args.reconnect {
            return Ok(Arc::new(Connection::new(&self.args, &self.dialer)?));
        }
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        if self.args.renew_ms.is_some_and(|age| connections.since.elapsed() >= Duration::from_millis(age)) {
            *connections = Connections::new(&self.args, &self.dialer, connections.all.len())?;
        }
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % connections.all.len();
        connections.all.get(turn).cloned().context("there is no connection")
    }
}

impl Connections {
    fn new(args: &CallArgs, dialer: &Dialer, count: usize) -> anyhow::Result<Self> {
        let all = (0..count).map(|_| Connection::new(args, dialer).map(Arc::new)).collect::<anyhow::Result<_>>()?;
        Ok(Self { since: Instant::now(), all })
    }
}

impl CallArgs {
    pub(super) fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }
}

impl Connection {
    fn new(args: &CallArgs, dialer: &Dialer) -> anyhow::Result<Self> {
        Ok(match args.kind {
            Kind::Grpc => {
                let endpoint = Endpoint::from_shared(format!("http://{}", args.target))
                    .with_context(|| format!("`{}` is not a gRPC target", args.target))?
                    .initial_stream_window_size(1 << 20)
                    .initial_connection_window_size(4 << 20);
                Self::Grpc(endpoint.connect_with_connector_lazy(dialer.clone()))
            }
            Kind::Http => Self::Http(http::One::default()),
            Kind::Http2 => Self::Http2(http::Shared::default()),
            Kind::Tcp => Self::Tcp(tcp::One::default()),
        })
    }
}
