//! Requests as they pass, for whoever looks: `mesh-agent tap`.
//!
//! Place in the path: the exchange asks its [`Looker`] whether somebody looks, which is one relaxed load. Where somebody does,
//! filters judge a request's head before anything of it is kept, and its end before anything is told. What passes goes
//! into the tap's bounded channel. Invariant: no worker waits for whoever looks; what finds the channel full is counted.

mod filter;
mod seen;

pub use filter::{TapQuestion, WrongTap};
pub use seen::{Asked, Seen};

use super::Series;
use super::access_log::Ended;
use crate::connections::Connection;
use crate::snapshot::Workload;
use arc_swap::{ArcSwap, Cache};
use filter::Filter;
use http::header::HOST;
use http::{HeaderValue, Method, Uri, Version, request};
use smallvec::SmallVec;
use std::cell::RefCell;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use tokio::sync::mpsc;

/// Taps that may be open at once.
pub const MOST_TAPS: usize = 8;
/// Requests that wait for whoever looks, of each tap: some 2 MiB of the longest.
const WAITING: usize = 1024;

/// All open taps of the agent.
#[derive(Debug, Default)]
pub struct Taps {
    on: AtomicBool,
    open: Arc<ArcSwap<Open>>,
}

type Open = Vec<Arc<Tap>>;

/// One worker's way to them.
#[derive(Debug)]
pub struct Looker {
    taps: Arc<Taps>,
    /// As the worker saw them last.
    open: RefCell<Cache<Arc<ArcSwap<Open>>, Arc<Open>>>,
}

/// What a worker knows of a tap.
#[derive(Debug)]
struct Tap {
    filter: Filter,
    send: mpsc::Sender<Box<Seen>>,
    dropped: AtomicU64,
}

/// The looker's end of a tap, which is open until this is dropped.
#[derive(Debug)]
pub struct Watching {
    taps: Arc<Taps>,
    tap: Arc<Tap>,
    receive: mpsc::Receiver<Box<Seen>>,
}

/// A request or opaque connection that some tap may want to see, while it lasts. What it has of the request is shared
/// with it, nothing copied.
#[derive(Debug)]
pub struct Tapped {
    taps: SmallVec<[Arc<Tap>; 1]>,
    client: SocketAddr,
    connection: Arc<Connection>,
    endpoint: Option<SocketAddr>,
    /// `None`: an opaque connection.
    head: Option<Head>,
}

/// A request as the client sent it.
#[derive(Debug)]
struct Head {
    method: Method,
    uri: Uri,
    version: Version,
    /// Where the target names no authority.
    host: Option<HeaderValue>,
}

impl Taps {
    /// Opens a tap.
    ///
    /// # Errors
    /// The question makes no sense, or there are [`MOST_TAPS`] already.
    pub fn open(self: &Arc<Self>, question: &TapQuestion) -> Result<Watching, WrongTap> {
        let filter = Filter::new(question)?;
        let (send, receive) = mpsc::channel(WAITING);
        let tap = Arc::new(Tap { filter, send, dropped: AtomicU64::new(0) });
        // Taps are opened and closed on the control thread alone: nobody comes between.
        let mut open = self.open.load_full();
        if open.len() >= MOST_TAPS {
            return Err(WrongTap::TooMany);
        }
        Arc::make_mut(&mut open).push(Arc::clone(&tap));
        self.open.store(open);
        self.on.store(true, Relaxed);
        Ok(Watching { taps: Arc::clone(self), tap, receive })
    }

    /// Taps that are open.
    pub fn count(&self) -> usize {
        self.open.load().len()
    }

    fn close(&self, tap: &Arc<Tap>) {
        let mut open = self.open.load_full();
        Arc::make_mut(&mut open).retain(|other| !Arc::ptr_eq(other, tap));
        self.on.store(!open.is_empty(), Relaxed);
        self.open.store(open);
    }
}

impl Looker {
    pub fn new(taps: Arc<Taps>) -> Self {
        let open = Cache::new(Arc::clone(&taps.open)).into();
        Self { taps, open }
    }

    /// Lets go of taps that are closed; called once a second.
    pub fn sweep(&self) {
        self.open.borrow_mut().load();
    }

    /// Of a request that begins; `None`: nobody looks, or not at what its head says.
    pub fn request(
        &self,
        caller: Option<&Arc<Workload>>,
        parts: &request::Parts,
        client: SocketAddr,
        connection: &Arc<Connection>,
    ) -> Option<Box<Tapped>> {
        let mut tapped = self.tapped(client, connection, |filter| filter.wants_request(caller, parts))?;
        tapped.head = Some(Head {
            method: parts.method.clone(),
            uri: parts.uri.clone(),
            version: parts.version,
            host: if parts.uri.authority().is_none() { parts.headers.get(HOST).cloned() } else { None },
        });
        Some(tapped)
    }

    /// Of an opaque connection that begins.
    pub fn connection(
        &self,
        caller: Option<&Arc<Workload>>,
        client: SocketAddr,
        connection: &Arc<Connection>,
    ) -> Option<Box<Tapped>> {
        self.tapped(client, connection, |filter| filter.wants_connection(caller))
    }

    fn tapped(
        &self,
        client: SocketAddr,
        connection: &Arc<Connection>,
        wants: impl Fn(&Filter) -> bool,
    ) -> Option<Box<Tapped>> {
        if !self.taps.on.load(Relaxed) {
            return None;
        }
        let mut open = self.open.borrow_mut();
        let open = open.load();
        let taps: SmallVec<[_; 1]> = open.iter().filter(|tap| wants(&tap.filter)).cloned().collect();
        if taps.is_empty() {
            return None;
        }
        Some(Box::new(Tapped { taps, client, connection: Arc::clone(connection), endpoint: None, head: None }))
    }
}

impl Tapped {
    /// The endpoint that was asked last, or whose answer counts.
    pub fn asks(&mut self, endpoint: SocketAddr) {
        self.endpoint = Some(endpoint);
    }

    /// Tells every tap that still wants it. `trace`: of a recorded request.
    pub(super) fn end(&self, series: &Series, grpc: bool, trace: Option<u128>, ended: &Ended<'_>) {
        let wanted = self.taps.iter().filter(|tap| tap.filter.wants_end(series, ended));
        let mut seen = None;
        for tap in wanted {
            let seen = seen.get_or_insert_with(|| Seen::new(self, series, grpc, trace, ended));
            if tap.send.try_send(Box::new(seen.clone())).is_err() {
                tap.dropped.fetch_add(1, Relaxed);
            }
        }
    }
}

impl Watching {
    /// Waits for requests and appends them, `most` at most; false: there will be none.
    pub async fn next(&mut self, into: &mut Vec<Box<Seen>>, most: usize) -> bool {
        self.receive.recv_many(into, most).await > 0
    }

    /// Requests that were to be shown and were not: whoever looks was too slow.
    pub fn dropped(&self) -> u64 {
        self.tap.dropped.load(Relaxed)
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.taps.close(&self.tap);
    }
}
