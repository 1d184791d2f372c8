//! One worker's connections to endpoints.

use super::Dialer;
use super::dial::Living;
use crate::addr::EndpointAddr;
use crate::error::ConnectError;
use crate::http1;
use crate::http2;
use crate::settings::Settings;
use crate::time::Nanos;
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
}

/// Source (its netns cookie; 0 for the agent's own) and endpoint.
type Key = (u64, EndpointAddr);

/// `None` until the attempt has ended.
type Connecting = watch::Receiver<Option<Result<(), ConnectError>>>;

#[derive(Debug, Default)]
struct Http2Pool {
    connections: RefCell<Vec<Rc<http2::Connection>>>,
    /// A connection being made: everybody who needs one waits for this one.
    connecting: RefCell<Option<Connecting>>,
}

impl Pools {
    pub fn new(settings: Arc<Settings>, ledger: Arc<http2::Ledger>) -> Self {
        Self { http1: RefCell::default(), http2: RefCell::default(), sources: RefCell::default(), settings, ledger }
    }

    /// A connection with room for one more call; the caller must start it before it awaits anything.
    ///
    /// # Errors
    /// No connection could be made, or there are `max_connections_per_endpoint` and all are full.
    pub async fn http2(
        self: &Rc<Self>,
        source: u64,
        dialer: &Dialer,
        to: EndpointAddr,
    ) -> Result<Rc<http2::Connection>, ConnectError> {
        let pool = self.pool(&self.http2, (source, to), dialer);
        loop {
            if let Some(connection) = pool.with_room(&self.settings) {
                return Ok(connection);
            }
            let mut done = self.connecting(&pool, dialer, to)?;
            let result = done.wait_for(Option::is_some).await;
            match result.as_deref() {
                Ok(Some(Err(error))) => return Err(error.clone()),
                // Made, and perhaps full already: look again.
                Ok(_) => {}
                // The connecting task is gone without a word: the worker is ending.
                Err(_) => return Err(ConnectError::Handshake),
            }
        }
    }

    /// A connection without a request on it, and where it goes afterwards. `reused`: it may be a stale one.
    ///
    /// # Errors
    /// No connection could be made.
    pub async fn http1(
        &self,
        source: u64,
        dialer: &Dialer,
        to: EndpointAddr,
    ) -> Result<(http1::Sender, Rc<http1::Idle>), ConnectError> {
        let idle = self.pool(&self.http1, (source, to), dialer);
        if let Some(sender) = idle.take() {
            return Ok((sender, idle));
        }
        let stream = dialer.connect(to, &self.settings).await?;
        Ok((http1::connect(stream).await?, idle))
    }

    /// Takes over a connected socket that was opened before it was known what the client speaks.
    pub async fn adopt(&self, source: u64, dialer: &Dialer, to: EndpointAddr, wire: Wire, stream: TcpStream) {
        match wire {
            Wire::Http1 => {
                let idle = self.pool(&self.http1, (source, to), dialer);
                if let Ok(sender) = http1::connect(stream).await {
                    idle.put(sender);
                    // The connection's own task must run once before it is ready.
                    tokio::task::yield_now().await;
                }
            }
            Wire::Http2 => {
                let pool = self.pool(&self.http2, (source, to), dialer);
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
        self.http1.borrow_mut().retain(|(source, _), idle| {
            if !sources.contains_key(source) {
                return false;
            }
            let left = idle.sweep(now, self.settings.http1_idle);
            left || Rc::strong_count(idle) > 1
        });
        self.http2.borrow_mut().retain(|(source, _), pool| {
            if !sources.contains_key(source) {
                return false;
            }
            let mut connections = pool.connections.borrow_mut();
            connections
                .retain(|c| !c.is_closed() && (c.active() > 0 || now.since(c.idle_since()) < self.settings.http2_idle));
            !connections.is_empty() || Rc::strong_count(pool) > 1
        });
    }

    /// The pool of `pools` for a source and an endpoint.
    fn pool<P: Default>(&self, pools: &RefCell<FxHashMap<Key, Rc<P>>>, key: Key, dialer: &Dialer) -> Rc<P> {
        if let Some(pool) = pools.borrow().get(&key) {
            return Rc::clone(pool);
        }
        self.sources.borrow_mut().insert(key.0, dialer.living());
        Rc::clone(pools.borrow_mut().entry(key).or_default())
    }

    /// Joins the connection being made, or starts one in a task of its own: a request that is cancelled meanwhile must
    /// not take the connection from those who wait for it too.
    fn connecting(
        self: &Rc<Self>,
        pool: &Rc<Http2Pool>,
        dialer: &Dialer,
        to: EndpointAddr,
    ) -> Result<Connecting, ConnectError> {
        if let Some(running) = &*pool.connecting.borrow() {
            return Ok(running.clone());
        }
        if pool.connections.borrow().len() >= self.settings.max_connections_per_endpoint {
            return Err(ConnectError::Overflow);
        }
        let (done, receiver) = watch::channel(None);
        *pool.connecting.borrow_mut() = Some(receiver.clone());
        let (pools, pool, dialer) = (Rc::clone(self), Rc::clone(pool), dialer.clone());
        tokio::task::spawn_local(async move {
            let result = async {
                let stream = dialer.connect(to, &pools.settings).await?;
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

impl Http2Pool {
    /// The first connection with room: the fewest connections that carry the load.
    fn with_room(&self, settings: &Settings) -> Option<Rc<http2::Connection>> {
        let mut connections = self.connections.borrow_mut();
        let mut index = 0;
        while let Some(connection) = connections.get(index) {
            if connection.has_room() && !too_old(connection, settings) {
                return Some(Rc::clone(connection));
            }
            if connection.is_closed() || too_old(connection, settings) {
                // Its calls go on: each holds what it needs.
                connections.swap_remove(index);
            } else {
                index += 1;
            }
        }
        None
    }
}

fn too_old(connection: &http2::Connection, settings: &Settings) -> bool {
    settings.max_connection_age.is_some_and(|age| Nanos::now().since(connection.opened()) > age)
}

#[cfg(test)]
mod tests {
    use super::super::OpenSocket;
    use super::*;
    use std::os::fd::OwnedFd;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::task::LocalSet;

    /// As the keeper's, in this namespace.
    fn pod() -> Dialer {
        let open: OpenSocket = Arc::new(|_| {
            Box::pin(async {
                let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
                Ok(OwnedFd::from(socket))
            })
        });
        Dialer::Pod(open)
    }

    /// The endpoint's end of a connection that lies idle in its pool.
    async fn pooled(pools: &Rc<Pools>, listener: &TcpListener, source: u64, dialer: &Dialer, wire: Wire) -> TcpStream {
        let to = EndpointAddr::new(listener.local_addr().unwrap());
        let pool = async {
            match wire {
                Wire::Http1 => {
                    let (sender, idle) = pools.http1(source, dialer, to).await.unwrap();
                    idle.put(sender);
                }
                Wire::Http2 => drop(pools.http2(source, dialer, to).await.unwrap()),
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
    async fn idle_connections_go_with_their_pod() {
        LocalSet::new()
            .run_until(async {
                for wire in [Wire::Http1, Wire::Http2] {
                    let pools = Rc::new(Pools::new(Arc::default(), Arc::new(http2::Ledger::new(1 << 20))));
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
