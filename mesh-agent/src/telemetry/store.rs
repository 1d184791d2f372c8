//! Istio's series: which label sets there are, within a budget, until what they are about has gone.
//!
//! Prometheus keeps a series for ever once it was seen, and users pay for each. So their number is bounded; what is
//! beyond is counted under `overflow`, and the series of workloads that are gone end.

use super::cells::{BOUNDS, Buckets, Count, Counter, Histogram, Total};
use super::labels::{Reporter, Who, overflow_codes, overflow_peers};
use crate::time::Nanos;
use rustc_hash::FxHashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Time series of one agent unless `--metric-series` says otherwise, as Prometheus counts them: a histogram is one for
/// each bucket, and two.
pub const MOST_SERIES: usize = 10_000;
/// Long enough for whoever scrapes to have seen the last value.
const KEPT: Duration = Duration::from_secs(600);
/// Series of a histogram.
const OF_HISTOGRAM: usize = BOUNDS.len() + 3;

macro_rules! families {
    ($($family:ident: $kind:ident = $name:literal, $help:literal;)*) => {
        /// One of Istio's metrics.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Family {
            $(#[doc = $help] $family,)*
        }

        impl Family {
            pub const ALL: &'static [Self] = &[$(Self::$family,)*];

            /// Counters without their `_total`, as OpenMetrics names families.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$family => $name,)*
                }
            }

            pub(super) fn help(self) -> &'static str {
                match self {
                    $(Self::$family => $help,)*
                }
            }

            pub fn is_histogram(self) -> bool {
                match self {
                    $(Self::$family => families!(@ $kind),)*
                }
            }
        }
    };
    (@ counter) => { false };
    (@ histogram) => { true };
}

families! {
    Requests: counter = "istio_requests", "HTTP and gRPC requests at their end; response_code 0: no answer was sent";
    Duration: histogram = "istio_request_duration_milliseconds", "From the request's head to the response's end";
    RequestBytes: histogram = "istio_request_bytes", "Bytes of requests, heads included";
    ResponseBytes: histogram = "istio_response_bytes", "Bytes of responses, heads included";
    RequestMessages: counter = "istio_request_messages", "gRPC messages from clients";
    ResponseMessages: counter = "istio_response_messages", "gRPC messages from servers";
    TcpOpened: counter = "istio_tcp_connections_opened", "Opaque connections";
    TcpClosed: counter = "istio_tcp_connections_closed", "Opaque connections that ended";
    TcpSent: counter = "istio_tcp_sent_bytes", "Opaque bytes to clients";
    TcpReceived: counter = "istio_tcp_received_bytes", "Opaque bytes from clients";
}

impl Family {
    /// Its labels end with how a request ended (`Some(true)`), how a connection did, or with who took part.
    fn codes(self) -> Option<bool> {
        match self {
            Self::Requests | Self::Duration | Self::RequestBytes | Self::ResponseBytes => Some(true),
            Self::RequestMessages | Self::ResponseMessages => None,
            Self::TcpOpened | Self::TcpClosed | Self::TcpSent | Self::TcpReceived => Some(false),
        }
    }

    fn cost(self) -> usize {
        if self.is_histogram() { OF_HISTOGRAM } else { 1 }
    }
}

/// All series. Locked when one is looked up or all are read; nobody who counts waits for it.
#[derive(Debug)]
pub(super) struct Store {
    known: Mutex<Known>,
    most: usize,
    refused: AtomicU64,
}

#[derive(Debug, Default)]
struct Known {
    series: FxHashMap<(Family, Arc<str>), Series>,
    /// Of the budget.
    used: usize,
    /// By destinations that only the network named.
    strangers: usize,
}

#[derive(Debug)]
struct Series {
    parts: Parts,
    /// `None`: overflow's.
    who: Option<Arc<Who>>,
    /// Nobody counts under it, and what it is about has gone.
    idle: Option<Nanos>,
}

/// By worker.
#[derive(Debug)]
enum Parts {
    Counter(Vec<Option<Arc<Count>>>),
    Histogram(Vec<Option<Arc<Buckets>>>),
}

/// What a series comes to.
pub(super) enum Value {
    Counter(u64),
    Histogram(Box<Total>),
}

impl Store {
    pub(super) fn new(most: usize) -> Self {
        Self { known: Mutex::default(), most, refused: AtomicU64::new(0) }
    }

    /// `worker`'s part of a counter under these labels, or under overflow's.
    pub(super) fn counter(&self, family: Family, worker: usize, reporter: Reporter, labels: &Labels) -> Counter {
        let mut known = self.lock();
        match &mut self.admitted(&mut known, family, reporter, labels).parts {
            Parts::Counter(parts) => Counter(Arc::clone(part(parts, worker))),
            // Families are of one kind each.
            Parts::Histogram(_) => Counter(Arc::default()),
        }
    }

    pub(super) fn histogram(&self, family: Family, worker: usize, reporter: Reporter, labels: &Labels) -> Histogram {
        let mut known = self.lock();
        match &mut self.admitted(&mut known, family, reporter, labels).parts {
            Parts::Histogram(parts) => Histogram(Arc::clone(part(parts, worker))),
            Parts::Counter(_) => Histogram(Arc::default()),
        }
    }

    fn admitted<'a>(
        &self,
        known: &'a mut Known,
        family: Family,
        reporter: Reporter,
        labels: &Labels,
    ) -> &'a mut Series {
        let mut key = (family, Arc::clone(&labels.text));
        let mut who = Some(Arc::clone(&labels.who));
        if !known.series.contains_key(&key) {
            let stranger = labels.who.callee.undeclared;
            if known.has_room(family, stranger, self.most) {
                known.used += family.cost();
                known.strangers += if stranger { family.cost() } else { 0 };
            } else {
                self.refused.fetch_add(1, Relaxed);
                key.1 = overflow(family, reporter).into();
                who = None;
            }
        }
        known.series.entry(key).or_insert_with(|| Series { parts: Parts::of(family), who, idle: None })
    }

    /// Every series in order of family and labels.
    pub(super) fn read(&self, mut each: impl FnMut(Family, &str, Value)) {
        let known = self.lock();
        let mut all: Vec<_> = known.series.iter().collect();
        all.sort_unstable_by_key(|(key, _)| *key);
        all.into_iter().for_each(|((family, labels), series)| each(*family, labels, series.parts.value()));
    }

    /// Every series that says who it is about: all but overflow's.
    pub(super) fn read_known(&self, mut each: impl FnMut(Family, &Who, &str, Value)) {
        for ((family, labels), series) in &self.lock().series {
            if let Some(who) = &series.who {
                each(*family, who, labels, series.parts.value());
            }
        }
    }

    /// Drops what nobody counts under and `alive` has not known for long enough.
    pub(super) fn sweep(&self, now: Nanos, alive: impl Fn(&Who) -> bool) {
        let known = &mut *self.lock();
        known.series.retain(|(family, _), series| {
            let Some(who) = &series.who else { return true };
            if series.parts.is_held() || alive(who) {
                series.idle = None;
                return true;
            }
            let stays = now.since(*series.idle.get_or_insert(now)) < KEPT;
            if !stays {
                known.used = known.used.saturating_sub(family.cost());
                if who.callee.undeclared {
                    known.strangers = known.strangers.saturating_sub(family.cost());
                }
            }
            stays
        });
    }

    /// Series in use of the budget, the budget, and how often it refused one.
    pub(super) fn usage(&self) -> [u64; 3] {
        [self.lock().used as u64, self.most as u64, self.refused.load(Relaxed)]
    }

    /// Counters stay usable whatever panicked elsewhere.
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Labels as they are written, and what they are about.
#[derive(Clone, Debug)]
pub(super) struct Labels {
    pub(super) text: Arc<str>,
    pub(super) who: Arc<Who>,
}

impl Known {
    /// Of 10,000: overflow's own 146 are set aside; strangers have 1,000; histograms end at 7,500, so that requests are
    /// still counted by who, whom and code for 2,300 label sets more.
    fn has_room(&self, family: Family, stranger: bool, most: usize) -> bool {
        let reserved: usize = Family::ALL.iter().map(|family| family.cost() * Reporter::ALL.len()).sum();
        let open = most.saturating_sub(reserved);
        let limit = if family.is_histogram() { open.min(most / 4 * 3) } else { open };
        self.used + family.cost() <= limit && (!stranger || self.strangers + family.cost() <= most / 10)
    }
}

impl Parts {
    fn of(family: Family) -> Self {
        if family.is_histogram() { Self::Histogram(Vec::new()) } else { Self::Counter(Vec::new()) }
    }

    fn value(&self) -> Value {
        match self {
            Self::Counter(parts) => Value::Counter(parts.iter().flatten().map(|part| part.value()).sum()),
            Self::Histogram(parts) => {
                let mut total = Box::<Total>::default();
                parts.iter().flatten().for_each(|part| total.add(part));
                Value::Histogram(total)
            }
        }
    }

    fn is_held(&self) -> bool {
        match self {
            Self::Counter(parts) => parts.iter().flatten().any(|part| Arc::strong_count(part) > 1),
            Self::Histogram(parts) => parts.iter().flatten().any(|part| Arc::strong_count(part) > 1),
        }
    }
}

fn part<T: Default>(parts: &mut Vec<Option<Arc<T>>>, worker: usize) -> &Arc<T> {
    if parts.len() <= worker {
        parts.resize_with(worker + 1, || None);
    }
    parts[worker].get_or_insert_default()
}

fn overflow(family: Family, reporter: Reporter) -> String {
    let peers = overflow_peers(reporter);
    family.codes().map_or_else(|| peers.clone(), |http| overflow_codes(&peers, http))
}

#[cfg(test)]
mod tests;
