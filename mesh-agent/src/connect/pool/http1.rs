//! HTTP/1.1: one request per connection at a time.

use super::{Way, Wire};
use crate::connect::Permit;
use crate::connect::limits::{Limits, Open, Word};
use crate::error::ConnectError;
use crate::http1::{self, Idle, Sender};
use crate::time::Nanos;
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// One worker's connections from one source to one endpoint.
#[derive(Debug)]
pub(super) struct Pool {
    pub(super) idle: Rc<Idle>,
    longest_idle: Duration,
    limited: Option<Limited>,
}

#[derive(Debug)]
struct Limited {
    limits: Arc<Limits>,
    open: Arc<Open>,
    /// Requests that wait for a connection: nobody overtakes them.
    sleeping: Cell<u32>,
}

impl Pool {
    pub(super) fn new(way: Way<'_>) -> Self {
        let limits = way.upstream.limits(way.source);
        let limited = limits.map(|limits| Limited { limits, open: Arc::default(), sleeping: Cell::new(0) });
        let idle = Idle::new(
            limited.as_ref().map(|limited| Arc::clone(&limited.open)),
            way.upstream.policy.pool.max_requests_per_connection,
            way.upstream.settings.max_connection_age,
        );
        Self { idle: Rc::new(idle), longest_idle: way.upstream.settings.http1_idle, limited }
    }

    /// A connection without a request on it; it goes back to the pool by itself.
    pub(super) async fn sender(&self, way: Way<'_>) -> Result<Sender, ConnectError> {
        match &self.limited {
            Some(limited) => self.within(limited, way).await,
            None => match self.idle.take() {
                Some(sender) => Ok(sender),
                // Boxed, as below: rare, and larger than all else that a request keeps.
                None => Box::pin(self.open(way, None)).await,
            },
        }
    }

    pub(super) fn sweep(&self, now: Nanos) {
        self.idle.sweep(now, self.longest_idle);
    }

    /// Whether it must be kept: it holds connections, or some will come back to it.
    pub(super) fn is_needed(self: &Rc<Self>) -> bool {
        !self.idle.is_empty() || Rc::strong_count(self) > 1 || Rc::weak_count(&self.idle) > 0
    }

    /// Envoy's `conn_pool_base`: a ready connection; else a place in the queue, and a new connection where one more is
    /// allowed; else whatever comes free first.
    async fn within(&self, limited: &Limited, way: Way<'_>) -> Result<Sender, ConnectError> {
        let ready = if limited.sleeping.get() == 0 { self.idle.take() } else { None };
        let sender = match ready {
            Some(sender) => sender,
            None => Box::pin(self.queued(limited, way)).await?,
        };
        match limited.limits.request(None) {
            Ok(request) => Ok(sender.with(Some(request))),
            Err(overflow) => {
                self.idle.put(sender);
                Err(overflow)
            }
        }
    }

    async fn open(&self, way: Way<'_>, permit: Option<Permit>) -> Result<Sender, ConnectError> {
        let socket = way.dial(Some(Wire::Http1), permit).await?;
        let link = Arc::clone(socket.link());
        Ok(http1::connect(socket, &self.idle).await?.over(link))
    }

    async fn queued(&self, limited: &Limited, way: Way<'_>) -> Result<Sender, ConnectError> {
        let (limits, open) = (&limited.limits, &limited.open);
        let _pending = limits.pending()?;
        // Whatever is free while somebody sleeps was freed for the sleeper.
        let mut look = limited.sleeping.get() == 0;
        let mut freed = false;
        loop {
            // Listens before it looks: what comes free in between ends the sleep at once.
            let mut word = Word::new(limits, open);
            look |= word.listen();
            if look {
                if let Some(sender) = self.idle.take_settling() {
                    if freed {
                        // The place that woke us is somebody else's then.
                        limits.freed.notify_one();
                    }
                    match sender.ready().await {
                        Some(sender) => return Ok(sender),
                        None => continue,
                    }
                }
                if let Some(permit) = limits.pooled(open) {
                    return self.open(way, Some(permit)).await;
                }
            }
            let _sleeping = Sleeping::new(&limited.sleeping);
            freed = word.heard().await;
            look = true;
        }
    }
}

/// A request that waits for a connection.
struct Sleeping<'a>(&'a Cell<u32>);

impl<'a> Sleeping<'a> {
    fn new(count: &'a Cell<u32>) -> Self {
        count.set(count.get() + 1);
        Self(count)
    }
}

impl Drop for Sleeping<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}
