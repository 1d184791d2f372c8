//! HTTP/2: many calls per connection.

use super::{Pools, Way, Wire};
use crate::body::Body;
use crate::connect::limits::{Limits, Open, Word};
use crate::connect::upstream::Target;
use crate::connect::{Carries, Link, Permit, Upstream};
use crate::costs;
use crate::error::{ConnectError, UpstreamError};
use crate::http2::{self, Call, Connection};
use crate::time::Nanos;
use http::Request;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use tokio::sync::watch;

/// One worker's connections from one source to one endpoint.
#[derive(Debug)]
pub(super) struct Pool {
    pub(super) connections: RefCell<Vec<Rc<Connection>>>,
    /// A connection being made: everybody who needs one waits for this one.
    connecting: RefCell<Option<Connecting>>,
    limited: Option<(Arc<Limits>, Arc<Open>)>,
    upstream: Arc<Upstream>,
}

/// `None` until the attempt has ended.
type Connecting = watch::Receiver<Option<Result<(), ConnectError>>>;

/// A connection with room for one call, and the place among the running requests that the call takes.
#[derive(Debug)]
pub struct Http2Lease {
    connection: Rc<Connection>,
    request: Option<Permit>,
}

impl Http2Lease {
    /// The connection itself.
    pub fn link(&self) -> Option<&Arc<Link>> {
        self.connection.link()
    }

    /// Starts the call.
    ///
    /// # Errors
    /// Nothing was sent; the body comes back untouched.
    pub fn send(self, request: Request<()>, body: Body) -> Result<Call, (UpstreamError, Body)> {
        self.connection.send(request, body, self.request)
    }
}

impl Pool {
    pub(super) fn new(way: Way<'_>) -> Self {
        Self {
            connections: RefCell::default(),
            connecting: RefCell::default(),
            limited: way.upstream.limits(way.source).map(|limits| (limits, Arc::default())),
            upstream: Arc::clone(way.upstream),
        }
    }

    /// A connection with room for one more call, if there is one.
    pub(super) fn ready(&self) -> Result<Option<Http2Lease>, ConnectError> {
        let Some(connection) = self.with_room() else { return Ok(None) };
        let request = self.limited.as_ref().map(|(limits, open)| limits.request(Some(open))).transpose()?;
        Ok(Some(Http2Lease { connection, request }))
    }

    /// Waits for a connection with room for one more call. The first call opens one, and so does each that finds all full; calls
    /// that come meanwhile wait with it.
    pub(super) async fn lease(self: &Rc<Self>, pools: &Pools, way: Way<'_>) -> Result<Http2Lease, ConnectError> {
        let (mut pending, mut listening) = (None, None);
        loop {
            if let Some(lease) = self.ready()? {
                return Ok(lease);
            }
            if let Some((limits, open)) = &self.limited {
                if listening.is_none() {
                    // What comes free from now on is heard; what came free since the look above is found by the next.
                    listening.insert(Word::new(limits, open)).listen();
                    continue;
                }
                if pending.is_none() {
                    pending = Some(limits.pending()?);
                }
            }
            match (self.connecting(pools, way)?, listening.take()) {
                (Some(connecting), _) => made(connecting, way).await?,
                (None, Some(word)) => {
                    word.heard().await;
                }
                (None, None) => return Err(ConnectError::Overflow),
            }
        }
    }

    /// Takes in a connection that was made elsewhere.
    pub(super) fn adopt(&self, connection: Rc<Connection>) {
        self.connections.borrow_mut().push(connection);
    }

    pub(super) fn sweep(&self, now: Nanos) {
        let idle = self.upstream.settings.http2_idle;
        let mut connections = self.connections.borrow_mut();
        connections.retain(|c| {
            !c.is_closed() && !c.is_too_old(|| now) && (c.active() > 0 || now.since(c.idle_since()) < idle)
        });
    }

    /// Whether it must be kept: it holds connections, or somebody waits for one.
    pub(super) fn is_needed(self: &Rc<Self>) -> bool {
        !self.connections.borrow().is_empty() || Rc::strong_count(self) > 1
    }

    /// The first connection with room: the fewest connections that carry the load.
    fn with_room(&self) -> Option<Rc<Connection>> {
        let pool = &self.upstream.policy.pool;
        let streams =
            pool.max_concurrent_streams.map_or(usize::MAX, |most| usize::try_from(most).unwrap_or(usize::MAX));
        let used_up =
            |c: &Connection| pool.max_requests_per_connection.is_some_and(|most| c.calls() >= u64::from(most));
        let mut connections = self.connections.borrow_mut();
        let mut index = 0;
        while let Some(connection) = connections.get(index) {
            if connection.is_closed() || connection.is_too_old(Nanos::now) || used_up(connection) {
                // Its calls go on: each holds what it needs. After the last one it says GOAWAY and closes.
                connections.swap_remove(index);
            } else if connection.active() < streams && connection.has_room() {
                return Some(Rc::clone(connection));
            } else {
                index += 1;
            }
        }
        None
    }

    /// Joins the connection being made, or starts one in a task of its own: a request that is cancelled meanwhile must
    /// not take the connection from those who wait for it too. `None`: there are as many as are allowed.
    fn connecting(self: &Rc<Self>, pools: &Pools, way: Way<'_>) -> Result<Option<Connecting>, ConnectError> {
        if let Some(running) = &*self.connecting.borrow() {
            return Ok(Some(running.clone()));
        }
        let permit = match &self.limited {
            Some((limits, open)) => match limits.pooled(open) {
                None => return Ok(None),
                permit => permit,
            },
            None => None,
        };
        let settings = Arc::clone(&way.upstream.settings);
        if self.connections.borrow().len() >= settings.max_connections_per_endpoint {
            return Err(ConnectError::Overflow);
        }
        let (done, receiver) = watch::channel(None);
        *self.connecting.borrow_mut() = Some(receiver.clone());
        let (pool, dialer, ledger) = (Rc::clone(self), way.dialer.clone(), Arc::clone(&pools.ledger));
        let target = Target { to: way.to, carries: Carries::Http2, wire: Some(Wire::Http2), ends: way.ends };
        costs::spawn(async move {
            let result = async {
                let socket = pool.upstream.dial(&dialer, target, settings.connect_timeout, permit).await?;
                let link = Arc::clone(socket.link());
                let connection = http2::connect(socket, &settings, &ledger).await?;
                connection.set_link(link);
                Ok(connection)
            }
            .await;
            *pool.connecting.borrow_mut() = None;
            let result = result.map(|connection| pool.adopt(connection));
            done.send_replace(Some(result));
        });
        Ok(Some(receiver))
    }
}

/// Waits for a connection that is being made, as long as the request's own patience lasts.
async fn made(mut connecting: Connecting, way: Way<'_>) -> Result<(), ConnectError> {
    let limit = way.upstream.settings.connect_limit(way.others);
    let made = tokio::time::timeout(limit, connecting.wait_for(Option::is_some)).await;
    match made.map_err(|_| ConnectError::Timeout(limit))?.as_deref() {
        Ok(Some(Err(error))) => Err(error.clone()),
        // Made, and perhaps full already: look again.
        Ok(_) => Ok(()),
        // The connecting task is gone without a word: the worker is ending.
        Err(_) => Err(ConnectError::Handshake),
    }
}
