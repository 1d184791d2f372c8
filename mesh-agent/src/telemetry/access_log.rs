//! One line for each request, and for each opaque connection that passes the agent.
//!
//! Place in the path: the exchange asks its worker's [`Logger`] for an [`Entry`], which is off nearly always: one branch.
//! What the entry has learnt by the end of its `Record` is noted in the worker's batch; full batches go through a channel
//! to one thread, which makes lines of them. Invariant: nothing here waits for the file; lines that find too many bytes
//! under way are dropped and counted.

mod address;
mod batch;
mod blocks;
mod entry;
mod escape;
mod kinds;
mod render;
mod sink;
mod texts;
mod time;

pub use entry::{Connected, Entry};
pub use render::cluster;

use crate::error::Flags;
use crate::net::TcpInfo;
use crate::snapshot::access_log::{AccessLogSettings, Format};
use crate::time::{Nanos, WallClock};
use arc_swap::{ArcSwapOption, Cache};
use batch::Batch;
use entry::{Begun, Known};
use kinds::Kinds;
use sink::Sink;
use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Requests under way whose memory is kept, of each worker.
const SPARE: usize = 256;

/// The access log of the agent: where it goes and what it says may change while it runs.
#[derive(Debug, Default)]
pub struct AccessLog {
    on: AtomicBool,
    /// Where no Telemetry object speaks.
    default: AtomicBool,
    active: Arc<ArcSwapOption<Active>>,
    dropped: Arc<AtomicU64>,
}

/// What is in force.
#[derive(Debug)]
struct Active {
    format: Arc<Format>,
    sink: Arc<Sink>,
}

/// What is in force, as a worker saw it last.
type Seen = Cache<Arc<ArcSwapOption<Active>>, Option<Arc<Active>>>;

/// One worker's way to the access log.
#[derive(Debug)]
pub struct Logger {
    log: Arc<AccessLog>,
    active: RefCell<Seen>,
    draft: RefCell<Option<Rc<Draft>>>,
    wall: Cell<WallClock>,
}

/// What one worker writes while one configuration is in force; its entries share it without counting across threads.
#[derive(Debug)]
struct Draft {
    active: Arc<Active>,
    /// Something else is in force: nobody looks after what is gathered here.
    closed: Cell<bool>,
    gathered: RefCell<Gathered>,
    /// Of requests that ended: the last one's memory is the nearest.
    #[expect(clippy::vec_box, reason = "they go to the next request by pointer")]
    spare: RefCell<Vec<Box<Known>>>,
}

#[derive(Debug)]
struct Gathered {
    kinds: Kinds,
    batch: Batch,
}

/// The end of a request or connection; the rest is in its [`Entry`].
#[derive(Clone, Debug)]
pub struct Ended<'a> {
    pub how: How<'a>,
    pub duration: Duration,
    /// From the request's head to the response's.
    pub answered: Option<Duration>,
    /// The part of it that endpoints took.
    pub upstream: Option<Duration>,
    /// Body bytes, from the client's point of view: `sent` went to it.
    pub received: u64,
    pub sent: u64,
    /// The connection to the endpoint, where somebody looks at it.
    pub tcp: Option<TcpInfo>,
}

/// How it ended, as many others do.
#[derive(Clone, Debug, PartialEq)]
pub struct How<'a> {
    /// `None` where nothing was sent to the client.
    pub code: Option<u16>,
    pub grpc_status: Option<u8>,
    pub flags: Flags,
    /// Empty where there are none.
    pub details: Cow<'a, str>,
    pub attempts: u32,
    /// The route's name.
    pub route: Option<Cow<'a, str>>,
}

impl Ended<'_> {
    /// To be kept.
    pub fn kept(&self) -> Ended<'static> {
        let Self { how, duration, answered, upstream, received, sent, tcp } = self;
        Ended {
            how: how.kept(),
            duration: *duration,
            answered: *answered,
            upstream: *upstream,
            received: *received,
            sent: *sent,
            tcp: *tcp,
        }
    }
}

impl How<'_> {
    fn kept(&self) -> How<'static> {
        let Self { code, grpc_status, flags, details, attempts, route } = self;
        How {
            code: *code,
            grpc_status: *grpc_status,
            flags: *flags,
            details: details.to_string().into(),
            attempts: *attempts,
            route: route.as_ref().map(|route| route.to_string().into()),
        }
    }
}

impl AccessLog {
    /// Puts settings in force; `forced`: the command line's file, whatever the settings say. `-` is standard output, where
    /// lines go that only Telemetry objects want (`wanted`).
    pub fn set(&self, settings: &AccessLogSettings, forced: Option<&str>, wanted: bool) {
        let file = forced.or(settings.file.as_deref());
        self.default.store(file.is_some(), Relaxed);
        let Some(file) = file.or(wanted.then_some("-")) else {
            self.on.store(false, Relaxed);
            return self.active.store(None);
        };
        let now = self.active.load_full();
        let same = now.as_ref().filter(|active| active.sink.is_to(file));
        if same.is_some_and(|active| active.format == settings.format) {
            return;
        }
        let sink = match same {
            Some(active) => Arc::clone(&active.sink),
            None => match Sink::start(file, Arc::clone(&self.dropped)) {
                Ok(sink) => Arc::new(sink),
                Err(error) => return tracing::error!(%error, file, "no thread for the access log: it stays as it is"),
            },
        };
        self.active.store(Some(Arc::new(Active { format: Arc::clone(&settings.format), sink })));
        self.on.store(true, Relaxed);
    }

    /// Opens the file anew: it was moved away (SIGUSR1).
    pub fn reopen(&self) {
        if let Some(active) = &*self.active.load() {
            active.sink.reopen();
        }
    }

    /// Lines that found too many under way, or could not be written.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }

    /// Waits until everything handed over so far is written, at most for `limit`; false where that was too short.
    pub fn flushed(&self, limit: Duration) -> bool {
        self.active.load_full().is_none_or(|active| active.sink.flushed(limit))
    }
}

impl Logger {
    pub fn new(log: Arc<AccessLog>) -> Self {
        let active = Cache::new(Arc::clone(&log.active)).into();
        Self { log, active, draft: RefCell::default(), wall: Cell::new(WallClock::now()) }
    }

    pub fn is_on(&self) -> bool {
        self.log.on.load(Relaxed)
    }

    /// Whether requests are logged of which no Telemetry object speaks.
    pub fn is_default(&self) -> bool {
        self.log.default.load(Relaxed)
    }

    /// The entry of a request or connection that began at `started`; `None` while the log is off.
    pub fn entry(&self, client: SocketAddr, local: SocketAddr, connection: u64, started: Nanos) -> Option<Entry> {
        if !self.is_on() {
            return None;
        }
        let started = self.wall.get().at(started);
        Some(Entry::new(self.draft()?, Begun { client, local, connection, started }))
    }

    /// Hands over what was gathered; called once a second. What is left when the worker ends goes with its last holder.
    pub fn flush(&self) {
        self.wall.set(WallClock::now());
        if let Some(draft) = self.draft() {
            draft.hand_over();
        }
    }

    /// Of what is in force; what no longer is, is let go.
    fn draft(&self) -> Option<Rc<Draft>> {
        let mut seen = self.active.borrow_mut();
        let active = seen.load().as_ref();
        let mut draft = self.draft.borrow_mut();
        if draft.as_ref().map(|draft| Arc::as_ptr(&draft.active)) != active.map(Arc::as_ptr) {
            if let Some(former) = draft.take() {
                former.closed.set(true);
                former.hand_over();
            }
            *draft = active.map(|active| Rc::new(Draft::new(Arc::clone(active))));
        }
        draft.clone()
    }
}

impl Draft {
    fn new(active: Arc<Active>) -> Self {
        let gathered = Gathered { kinds: Kinds::new(), batch: Batch::new(&active.format) };
        Self { active, closed: Cell::new(false), gathered: gathered.into(), spare: RefCell::default() }
    }

    fn line(&self, known: &Known, ended: &Ended<'_>) {
        let Gathered { kinds, batch } = &mut *self.gathered.borrow_mut();
        let template = kinds.note(known, &ended.how, batch);
        batch.push(template, known, ended);
        if batch.is_full() || self.closed.get() {
            self.active.sink.take(batch.take());
        }
    }

    fn spare(&self) -> Option<Box<Known>> {
        self.spare.borrow_mut().pop()
    }

    fn keep(&self, known: Box<Known>) {
        let mut spare = self.spare.borrow_mut();
        if spare.len() < SPARE {
            spare.push(known);
        }
    }

    fn hand_over(&self) {
        let Gathered { batch, .. } = &mut *self.gathered.borrow_mut();
        if batch.len() > 0 {
            self.active.sink.take(batch.take());
        }
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        self.hand_over();
    }
}

#[cfg(test)]
mod tests;
