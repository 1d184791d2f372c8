//! The accept loop.

use super::{Accepted, Origin, Source, Wants};
use crate::addr::ClientAddr;
use crate::connections::{Captured, Connection, Connections, Listed};
use crate::telemetry::{Metrics, Trouble};
use socket2::SockRef;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};

/// Pause after an error that would only repeat itself at once.
const PAUSE: Duration = Duration::from_millis(20);
const EMFILE: i32 = 24;
const ENFILE: i32 = 23;

/// Open connections of the whole agent.
#[derive(Debug)]
pub struct Limits {
    open: AtomicUsize,
    most: usize,
    listed: Arc<Connections>,
}

/// Counts a connection as open, for the agent and for the worker that serves it.
#[derive(Debug)]
pub struct OpenGuard {
    limits: Arc<Limits>,
    worker: Option<Arc<AtomicUsize>>,
    listed: Option<Listed>,
}

impl Limits {
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { open: AtomicUsize::new(0), most, listed: Arc::default() })
    }

    pub fn open(&self) -> usize {
        self.open.load(Relaxed)
    }

    /// The connections that are open.
    pub fn listed(&self) -> &Connections {
        &self.listed
    }

    fn admit(self: &Arc<Self>) -> Option<OpenGuard> {
        let guard = OpenGuard { limits: Arc::clone(self), worker: None, listed: None };
        (self.open.fetch_add(1, Relaxed) < self.most).then_some(guard)
    }
}

impl OpenGuard {
    /// Counts the connection on a worker as well.
    #[must_use]
    pub fn on(mut self, worker: &Arc<AtomicUsize>) -> Self {
        worker.fetch_add(1, Relaxed);
        self.worker = Some(Arc::clone(worker));
        self
    }

    fn list(&mut self, client: ClientAddr, wants: &Wants, source: &Source, captured: Option<Captured>) {
        let destination = match wants {
            Wants::Original(dst) => dst.to_string(),
            Wants::Port(key) => key.to_string(),
            Wants::Gateway { port, .. } => format!("gateway port {port}"),
        };
        let source = source.workload.as_ref().map(|workload| workload.key.to_string());
        self.listed = Some(self.limits.listed.enter(client, source, destination, captured));
    }

    /// What is shown of the connection; `None` before its destination was known.
    pub fn connection(&self) -> Option<&Arc<Connection>> {
        self.listed.as_ref().map(|listed| &listed.connection)
    }
}

impl Drop for OpenGuard {
    fn drop(&mut self) {
        self.limits.open.fetch_sub(1, Relaxed);
        if let Some(worker) = &self.worker {
            worker.fetch_sub(1, Relaxed);
        }
    }
}

/// Accepts for ever and hands each connection to `dispatch`. Ends when the future is dropped.
///
/// # Errors
/// The listener cannot be registered with the runtime.
pub async fn run(
    listener: std::net::TcpListener,
    origin: &Origin,
    limits: &Arc<Limits>,
    metrics: &Metrics,
    dispatch: impl Fn(Accepted),
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    let mut reserve = Reserve::new();
    loop {
        match listener.accept().await {
            Ok((stream, client)) => {
                if let Err(trouble) = admit(stream, ClientAddr::new(client), origin, limits, &dispatch) {
                    metrics.trouble(trouble);
                }
            }
            Err(error) if matches!(error.raw_os_error(), Some(EMFILE | ENFILE)) => {
                metrics.trouble(Trouble::OutOfDescriptors);
                tracing::warn!(%error, "out of file descriptors: a connection was reset");
                reserve.shed(&listener).await;
                tokio::time::sleep(PAUSE).await;
            }
            // The client was gone before we looked: nothing to serve, nothing wrong here (accept(2)).
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                metrics.trouble(Trouble::Accept);
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

fn admit(
    stream: TcpStream,
    client: ClientAddr,
    origin: &Origin,
    limits: &Arc<Limits>,
    dispatch: &impl Fn(Accepted),
) -> Result<(), Trouble> {
    let Some(mut guard) = limits.admit() else {
        reset(&stream);
        return Err(Trouble::TooManyConnections);
    };
    let local = stream.local_addr().map_err(|_| Trouble::Accept)?;
    let Some((wants, source)) = origin.resolve(client, local) else {
        tracing::debug!(%client, "captured connection without a flow entry");
        reset(&stream);
        return Err(Trouble::NoFlow);
    };
    guard.list(client, &wants, &source, origin.captured(client, local));
    let _ = stream.set_nodelay(true);
    let stream = stream.into_std().map_err(|_| Trouble::Accept)?;
    dispatch(Accepted { stream, client, wants, source, guard });
    Ok(())
}

fn reset(stream: &TcpStream) {
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

/// A descriptor kept for the moment there is no other: given up to accept and reset the waiting connection, so that
/// its client learns at once instead of hanging in the backlog.
#[derive(Debug)]
struct Reserve(Option<File>);

impl Reserve {
    fn new() -> Self {
        Self(File::open("/dev/null").ok())
    }

    async fn shed(&mut self, listener: &TcpListener) {
        drop(self.0.take());
        let waiting = tokio::time::timeout(Duration::from_millis(1), listener.accept()).await;
        if let Ok(Ok((stream, _))) = waiting {
            reset(&stream);
        }
        self.0 = File::open("/dev/null").ok();
    }
}
