//! One worker's connections to endpoints.

use super::dial::Living;
use super::{Carries, Dialer, Limits, Permit, Upstream, Upstreams};
use crate::addr::EndpointAddr;
use crate::body::Body;
use crate::error::{ConnectError, UpstreamError};
use crate::http1;
use crate::http2;
use crate::settings::Settings;
use crate::snapshot::ClusterKey;
use crate::snapshot::policy::TrafficPolicy;
use crate::time::Nanos;
use http::Request;
use rustc_hash::FxHashMap;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio::sync::watch;

/// What a pooled connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Wire {
    Http1,
    Http2,
}

/// All pools of a worker.
#[derive(Debug)]
pub struct Pools {
    http1: RefCell<FxHashMap<Key, Rc<http1::Idle>>>,
    http2: RefCell<FxHashMap<Key, Rc<Http2Pool>>>,
    /// Sources that have a pool.
    sources: RefCell<FxHashMap<u64, Living>>,
    settings: Arc<Settings>,
    ledger: Arc<http2::Ledger>,
    upstreams: Arc<Upstreams>,
}

/// Source (its netns cookie; 0 for the agent's own), upstream and endpoint.
type Key = (u64, u64, EndpointAddr);

/// From whom to whom, and how.
#[derive(Clone, Copy, Debug)]
pub struct Way<'a> {
    /// The source pod's netns cookie; 0 for the agent's own.
    pub source: u64,
    pub dialer: &'a Dialer,
    pub upstream: &'a Upstream,
    pub to: EndpointAddr,
    /// Another endpoint could be asked instead: `Settings::connect_patience` holds.
    pub others: bool,
}

/// A connection with room for one call, and the place among the running requests that the call takes.
#[derive(Debug)]
pub struct Http2Lease {
    connection: Rc<http2::Connection>,
    request: Option<Permit>,
}

/// A connection for opaque bytes. `permit` is to be kept as long as the connection.
#[derive(Debug)]
pub struct Opaque {
    pub stream: TcpStream,
    pub permit: Option<Permit>,
}

/// `None` until the attempt has ended.
type Connecting = watch::Receiver<Option<Result<(), ConnectError>>>;

#[derive(Debug, Default)]
struct Http2Pool {
    connections: RefCell<Vec<Rc<http2::Connection>>>,
    /// A connection being made: everybody who needs one waits for this one.
    connecting: RefCell<Option<Connecting>>,
}

impl Pools {
    pub fn new(settings: Arc<Settings>, ledger: Arc<http2::Ledger>, upstreams: Arc<Upstreams>) -> Self {
        let (http1, http2, sources) = Default::default();
        Self { http1, http2, sources, settings, ledger, upstreams }
    }

    /// How a cluster's connections are made under a policy. To be kept beside the cluster, as long as it is used.
    pub fn upstream(&self, key: &ClusterKey, policy: &Arc<TrafficPolicy>) -> Arc<Upstream> {
        self.upstreams.upstream(key, policy)
    }

    /// The right to repeat a request, to be kept while the repetition runs.
    ///
    /// # Errors
    /// `Overflow`: as many retries run as the policy allows; the former failure stands, with flag UO.
    pub fn retry(&self, way: Way<'_>) -> Result<Option<Permit>, ConnectError> {
        way.limits().map(|limits| limits.retry()).transpose()
    }

    /// A connection for bytes of an unknown protocol.
    ///
    /// # Errors
    /// No connection could be made, or there are as many as the policy allows.
    pub async fn opaque(&self, way: Way<'_>) -> Result<Opaque, ConnectError> {
        let permit = way.limits().map(|limits| limits.connection(false)).transpose()?;
        let stream = self.dial(way).await?;
        Ok(Opaque { stream, permit })
    }

    /// A connection with room for one more call; the caller must start it before it awaits anything.
    ///
    /// # Errors
    /// No connection could be made in time (then one goes on being made, for those who come later), or there are
    /// `max_connections_per_endpoint` and all are full.
    pub async fn http2(self: &Rc<Self>, way: Way<'_>) -> Result<Http2Lease, ConnectError> {
        let pool = self.pool(&self.http2, way);
        loop {
            if let Some(connection) = pool.with_room(Nanos::now()) {
                let request = way.limits().map(|limits| limits.request()).transpose()?;
                return Ok(Http2Lease { connection, request });
            }
            let mut done = self.connecting(&pool, way)?;
            let limit = self.settings.connect_limit(way.others);
            let made = tokio::time::timeout(limit, done.wait_for(Option::is_some)).await;
            let result = made.map_err(|_| ConnectError::Timeout(limit))?;
            match result.as_deref() {
                Ok(Some(Err(error))) => return Err(error.clone()),
                // Made, and perhaps full already: look again.
                Ok(_) => {}
                // The connecting task is gone without a word: the worker is ending.
                Err(_) => return Err(ConnectError::Handshake),
            }
        }
    }

    /// A connection without a request on it; it goes back to the pool by itself.
    ///
    /// # Errors
    /// No connection could be made.
    pub async fn http1(&self, way: Way<'_>) -> Result<http1::Sender, ConnectError> {
        let idle = self.pool(&self.http1, way);
        let limits = way.limits();
        let sender = match idle.take() {
            Some(sender) => sender,
            None => {
                let _pending = limits.as_ref().map(|limits| limits.pending()).transpose()?;
                http1::connect(self.dial(way).await?, &idle).await?
            }
        };
        let request = limits.map(|limits| limits.request()).transpose()?;
        Ok(sender.with(request))
    }

    /// Takes over a connected socket that was opened before it was known what the client speaks.
    pub async fn adopt(&self, way: Way<'_>, wire: Wire, opened: Opaque) {
        let stream = opened.stream;
        match wire {
            Wire::Http1 => {
                let idle = self.pool(&self.http1, way);
                if let Ok(sender) = http1::connect(stream, &idle).await {
                    idle.put(sender);
                    // The connection's own task must run once before it is ready.
                    tokio::task::yield_now().await;
                }
            }
            Wire::Http2 => {
                let pool = self.pool(&self.http2, way);
                if let Ok(connection) = http2::connect(stream, &self.settings, &self.ledger).await {
                    pool.connections.borrow_mut().push(connection);
                }
            }
        }
    }

    /// Closes what was idle for too long, and what belongs to a pod that has left: an idle socket would keep its network
    /// namespace alive. Called once a second.
    pub fn sweep(&self, now: Nanos) {
        let mut sources = self.sources.borrow_mut();
        sources.retain(|_, source| source.lives());
        self.http1.borrow_mut().retain(|(source, ..), idle| {
            if !sources.contains_key(source) {
                return false;
            }
            let left = idle.sweep(now, self.settings.http1_idle);
            // A connection with a request comes back to where it was taken.
            left || Rc::strong_count(idle) > 1 || Rc::weak_count(idle) > 0
        });
        self.http2.borrow_mut().retain(|(source, ..), pool| {
            if !sources.contains_key(source) {
                return false;
            }
            let mut connections = pool.connections.borrow_mut();
            connections.retain(|c| {
                !c.is_closed()
                    && !c.is_too_old(now)
                    && (c.active() > 0 || now.since(c.idle_since()) < self.settings.http2_idle)
            });
            !connections.is_empty() || Rc::strong_count(pool) > 1
        });
    }

    async fn dial(&self, way: Way<'_>) -> Result<TcpStream, ConnectError> {
        way.dialer.connect(way.to, Carries::Any, self.settings.connect_limit(way.others), &self.settings).await
    }

    /// The pool of `pools` for a way.
    fn pool<P: Default>(&self, pools: &RefCell<FxHashMap<Key, Rc<P>>>, way: Way<'_>) -> Rc<P> {
        let key = (way.source, way.upstream.id, way.to);
        if let Some(pool) = pools.borrow().get(&key) {
            return Rc::clone(pool);
        }
        self.sources.borrow_mut().insert(way.source, way.dialer.living());
        Rc::clone(pools.borrow_mut().entry(key).or_default())
    }

    /// Joins the connection being made, or starts one in a task of its own: a request that is cancelled meanwhile must
    /// not take the connection from those who wait for it too.
    fn connecting(self: &Rc<Self>, pool: &Rc<Http2Pool>, way: Way<'_>) -> Result<Connecting, ConnectError> {
        if let Some(running) = &*pool.connecting.borrow() {
            return Ok(running.clone());
        }
        if pool.connections.borrow().len() >= self.settings.max_connections_per_endpoint {
            return Err(ConnectError::Overflow);
        }
        let (done, receiver) = watch::channel(None);
        *pool.connecting.borrow_mut() = Some(receiver.clone());
        let (pools, pool, dialer) = (Rc::clone(self), Rc::clone(pool), way.dialer.clone());
        let to = way.to;
        tokio::task::spawn_local(async move {
            let result = async {
                let stream =
                    dialer.connect(to, Carries::Http2, pools.settings.connect_timeout, &pools.settings).await?;
                http2::connect(stream, &pools.settings, &pools.ledger).await
            }
            .await;
            *pool.connecting.borrow_mut() = None;
            let result = result.map(|connection| pool.connections.borrow_mut().push(connection));
            done.send_replace(Some(result));
        });
        Ok(receiver)
    }
}

impl Way<'_> {
    fn limits(&self) -> Option<Arc<Limits>> {
        self.upstream.limits(self.source)
    }
}

impl Http2Lease {
    /// Starts the call.
    ///
    /// # Errors
    /// Nothing was sent; the body comes back untouched.
    pub fn send(self, request: Request<()>, body: Body) -> Result<http2::Call, (UpstreamError, Body)> {
        self.connection.send(request, body, self.request)
    }
}

impl Http2Pool {
    /// The first connection with room: the fewest connections that carry the load.
    fn with_room(&self, now: Nanos) -> Option<Rc<http2::Connection>> {
        let mut connections = self.connections.borrow_mut();
        let mut index = 0;
        while let Some(connection) = connections.get(index) {
            if connection.is_closed() || connection.is_too_old(now) {
                // Its calls go on: each holds what it needs. After the last one it says GOAWAY and closes.
                connections.swap_remove(index);
            } else if connection.has_room() {
                return Some(Rc::clone(connection));
            } else {
                index += 1;
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::super::OpenSocket;
    use super::*;
    use crate::snapshot::{PortKey, ServiceName};
    use std::os::fd::OwnedFd;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::task::LocalSet;

    /// As the keeper's, in this namespace.
    fn pod() -> Dialer {
        let open: OpenSocket = Arc::new(|_, _| {
            Box::pin(async {
                let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
                Ok(OwnedFd::from(socket))
            })
        });
        Dialer::Pod(open)
    }

    /// The endpoint's end of a connection that lies idle in its pool.
    async fn pooled(pools: &Rc<Pools>, listener: &TcpListener, source: u64, dialer: &Dialer, wire: Wire) -> TcpStream {
        let key = PortKey::new(ServiceName::new("shop", "cart"), 80).into();
        let upstream = pools.upstream(&key, &Arc::default());
        let to = EndpointAddr::new(listener.local_addr().unwrap());
        let way = Way { source, dialer, upstream: &upstream, to, others: false };
        let pool = async {
            match wire {
                Wire::Http1 => {
                    let sender = pools.http1(way).await.unwrap();
                    pools.pool(&pools.http1, way).put(sender);
                }
                Wire::Http2 => drop(pools.http2(way).await.unwrap()),
            }
        };
        let accept = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            if wire == Wire::Http2 {
                // An empty SETTINGS frame: the server speaks first (RFC 9113 §3.4).
                stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
            }
            stream
        };
        tokio::join!(accept, pool).0
    }

    async fn closes(stream: &mut TcpStream) -> bool {
        let to_end = async {
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest).await;
        };
        tokio::time::timeout(Duration::from_millis(200), to_end).await.is_ok()
    }

    #[tokio::test]
    async fn a_pool_stays_while_a_request_of_it_runs() {
        LocalSet::new()
            .run_until(async {
                let pools = Rc::new(Pools::new(Arc::default(), Arc::new(http2::Ledger::new(1 << 20)), Arc::default()));
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                let to = EndpointAddr::new(listener.local_addr().unwrap());
                let upstream =
                    pools.upstream(&PortKey::new(ServiceName::new("shop", "cart"), 80).into(), &Arc::default());
                let way = Way { source: 0, dialer: &Dialer::Host, upstream: &upstream, to, others: false };
                let running = pools.http1(way).await.unwrap();
                pools.sweep(Nanos::now());
                assert_eq!(pools.http1.borrow().len(), 1, "the connection would not find back");
                drop(running);
                pools.sweep(Nanos::now());
                assert!(pools.http1.borrow().is_empty());
            })
            .await;
    }

    #[tokio::test]
    async fn idle_connections_go_with_their_pod() {
        LocalSet::new()
            .run_until(async {
                for wire in [Wire::Http1, Wire::Http2] {
                    let pools =
                        Rc::new(Pools::new(Arc::default(), Arc::new(http2::Ledger::new(1 << 20)), Arc::default()));
                    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                    let (leaving, staying) = (pod(), pod());
                    let mut gone = pooled(&pools, &listener, 7, &leaving, wire).await;
                    let mut kept = pooled(&pools, &listener, 8, &staying, wire).await;
                    let mut own = pooled(&pools, &listener, 0, &Dialer::Host, wire).await;
                    let connection = leaving.clone();
                    drop(leaving);
                    pools.sweep(Nanos::now());
                    assert!(!closes(&mut gone).await, "{wire:?}: a connection of the pod may still use it");
                    drop(connection);
                    pools.sweep(Nanos::now());
                    assert!(closes(&mut gone).await, "{wire:?}");
                    assert!(!closes(&mut kept).await && !closes(&mut own).await, "{wire:?}: others stay");
                }
            })
            .await;
    }
}
