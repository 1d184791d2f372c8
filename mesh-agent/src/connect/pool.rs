//! One worker's connections to endpoints.

mod http1;
mod http2;

pub use http2::Http2Lease;

use super::dial::Living;
use super::link::{Attached, Link};
use super::upstream::Target;
use super::{Carries, Dialer, Ends, Peer, Permit, Socket, Stream, Upstream, Upstreams};
use crate::addr::EndpointAddr;
use crate::error::ConnectError;
use crate::snapshot::ClusterKey;
use crate::snapshot::policy::TrafficPolicy;
use crate::time::Nanos;
use rustc_hash::FxHashMap;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

/// What a pooled connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Wire {
    Http1,
    Http2,
}

/// All pools of a worker.
#[derive(Debug)]
pub struct Pools {
    http1: RefCell<FxHashMap<Key, Rc<http1::Pool>>>,
    http2: RefCell<FxHashMap<Key, Rc<http2::Pool>>>,
    /// Sources that have a pool.
    sources: RefCell<FxHashMap<u64, Living>>,
    ledger: Arc<crate::http2::Ledger>,
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
    pub upstream: &'a Arc<Upstream>,
    pub to: EndpointAddr,
    /// Whose connection it is, for `proxyProtocol`.
    pub ends: Option<Ends>,
    /// Another endpoint could be asked instead: `Settings::connect_patience` holds.
    pub others: bool,
}

/// A connection for opaque bytes. `permit` is to be kept as long as the connection.
#[derive(Debug)]
pub struct Opaque {
    // Before the stream: fields are dropped in their order.
    attached: Attached,
    pub stream: Stream,
    pub permit: Option<Permit>,
}

impl Pools {
    pub fn new(ledger: Arc<crate::http2::Ledger>, upstreams: Arc<Upstreams>) -> Self {
        let (http1, http2, sources) = Default::default();
        Self { http1, http2, sources, ledger, upstreams }
    }

    /// How a cluster's connections are made under a policy. To be kept beside the cluster, as long as it is used.
    pub fn upstream(&self, key: &ClusterKey, policy: &Arc<TrafficPolicy>) -> Arc<Upstream> {
        self.upstreams.upstream(key, policy, &Peer::default())
    }

    /// The right to repeat a request, to be kept while the repetition runs.
    ///
    /// # Errors
    /// `Overflow`: as many retries run as the policy allows; the former failure stands, with flag UO.
    pub fn retry(&self, way: Way<'_>) -> Result<Option<Permit>, ConnectError> {
        way.upstream.limits(way.source).map(|limits| limits.retry()).transpose()
    }

    /// A connection for bytes of an unknown protocol.
    ///
    /// # Errors
    /// No connection could be made, or there are as many as the policy allows.
    pub async fn opaque(&self, way: Way<'_>) -> Result<Opaque, ConnectError> {
        let permit = way.upstream.limits(way.source).map(|limits| limits.connection()).transpose()?;
        let (attached, stream, permit) = way.dial(None, permit).await?.into_parts();
        Ok(Opaque { attached, stream, permit })
    }

    /// A connection with room for one more call; the caller must start it before it awaits anything.
    ///
    /// # Errors
    /// No connection could be made in time (then one goes on being made, for those who come later), there are
    /// `max_connections_per_endpoint` and all are full, or a limit of the policy is reached.
    pub async fn http2(&self, way: &Way<'_>) -> Result<Http2Lease, ConnectError> {
        let pool = self.pool(&self.http2, *way, http2::Pool::new);
        match pool.ready()? {
            Some(lease) => Ok(lease),
            // Boxed: rare, and larger than all the rest of a request.
            None => Box::pin(pool.lease(self, *way)).await,
        }
    }

    /// A connection without a request on it; it goes back to the pool by itself.
    ///
    /// # Errors
    /// No connection could be made, or a limit of the policy is reached.
    pub async fn http1(&self, way: &Way<'_>) -> Result<crate::http1::Sender, ConnectError> {
        self.pool(&self.http1, *way, http1::Pool::new).sender(*way).await
    }

    /// Takes over a connected socket that was opened before it was known what the client speaks.
    pub async fn adopt(&self, way: Way<'_>, wire: Wire, opened: Opaque) {
        let socket = Socket::new(opened.attached, opened.stream, opened.permit);
        let link = Arc::clone(socket.link());
        match wire {
            Wire::Http1 => {
                let pool = self.pool(&self.http1, way, http1::Pool::new);
                if let Ok(sender) = crate::http1::connect(socket, &pool.idle).await {
                    pool.idle.put(sender.over(link));
                    // The connection's own task must run once before it is ready.
                    tokio::task::yield_now().await;
                }
            }
            Wire::Http2 => {
                let pool = self.pool(&self.http2, way, http2::Pool::new);
                if let Ok(connection) = crate::http2::connect(socket, &way.upstream.settings, &self.ledger).await {
                    connection.set_link(link);
                    pool.adopt(connection);
                }
            }
        }
    }

    /// Closes what was idle for too long, and what belongs to a pod that has left: an idle socket would keep its network
    /// namespace alive. Called once a second.
    pub fn sweep(&self, now: Nanos) {
        let mut sources = self.sources.borrow_mut();
        sources.retain(|_, source| source.lives());
        self.http1.borrow_mut().retain(|(source, ..), pool| {
            pool.sweep(now);
            sources.contains_key(source) && pool.is_needed()
        });
        self.http2.borrow_mut().retain(|(source, ..), pool| {
            pool.sweep(now);
            sources.contains_key(source) && pool.is_needed()
        });
    }

    /// The pool of `pools` for a way.
    fn pool<P>(&self, pools: &RefCell<FxHashMap<Key, Rc<P>>>, way: Way<'_>, make: impl FnOnce(Way<'_>) -> P) -> Rc<P> {
        if !way.upstream.shares() {
            // For one request, after which nothing leads back to it and the connection closes.
            return Rc::new(make(way));
        }
        let key = (way.source, way.upstream.id, way.to);
        if let Some(pool) = pools.borrow().get(&key) {
            return Rc::clone(pool);
        }
        self.sources.borrow_mut().insert(way.source, way.dialer.living());
        Rc::clone(pools.borrow_mut().entry(key).or_insert_with(|| Rc::new(make(way))))
    }
}

impl Opaque {
    pub fn link(&self) -> &Arc<Link> {
        self.attached.link()
    }
}

impl Way<'_> {
    async fn dial(self, wire: Option<Wire>, permit: Option<Permit>) -> Result<Socket, ConnectError> {
        let limit = self.upstream.settings.connect_limit(self.others);
        let target = Target { to: self.to, carries: Carries::Any, wire, ends: self.ends };
        self.upstream.dial(self.dialer, target, limit, permit).await
    }
}

#[cfg(test)]
mod tests;
