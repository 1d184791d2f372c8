//! The agent's metrics: Istio's series, and a few families of its own in the prometheus crate's registry.

use super::External;
use super::exposition::{self, Format};
use super::labels::Who;
use super::store::Store;
use super::tally::{Of, Tallied, Tallies};
use crate::time::Nanos;
use prometheus::process_collector::ProcessCollector;
use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Everything the data path counts. Shared by all threads.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    store: Arc<Store>,
    tallies: Tallies,
    /// Recorders so far: each writes cells of its own.
    recorders: AtomicUsize,
    retries: IntCounter,
    hedges: IntCounter,
    active: IntGaugeVec,
    trouble: IntCounterVec,
}

/// Kinds of downstream connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionKind {
    Http1,
    Http2,
    Opaque,
}

/// What can go wrong with a connection before it has a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// EMFILE or ENFILE in accept; the reserve descriptor closed the connection.
    OutOfDescriptors,
    /// Any other error of accept.
    Accept,
    /// `Settings::max_connections` reached.
    TooManyConnections,
    /// A captured connection without an original destination.
    NoFlow,
    /// The client's first bytes never came or were not a protocol's.
    Detect,
    /// The client broke its protocol or closed in the middle.
    Client,
    /// No endpoint could be connected (opaque), or none may be.
    Upstream,
    /// A copy of a request came to nothing.
    Mirror,
}

impl ConnectionKind {
    fn label(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::Http2 => "http2",
            Self::Opaque => "opaque",
        }
    }
}

impl Trouble {
    fn label(self) -> &'static str {
        match self {
            Self::OutOfDescriptors => "out-of-descriptors",
            Self::Accept => "accept",
            Self::TooManyConnections => "too-many-connections",
            Self::NoFlow => "no-flow",
            Self::Detect => "detect",
            Self::Client => "client",
            Self::Upstream => "upstream",
            Self::Mirror => "mirror",
        }
    }
}

impl Metrics {
    /// `most`: Istio's series, as Prometheus counts them.
    ///
    /// # Errors
    /// None in practice: only two families of one name could fail.
    pub fn new(most: usize) -> anyhow::Result<Self> {
        let metrics = Self {
            registry: Registry::new(),
            store: Arc::new(Store::new(most)),
            tallies: Tallies::default(),
            recorders: AtomicUsize::new(0),
            retries: IntCounter::new("mesh_retries_total", "Attempts after the first one")?,
            hedges: IntCounter::new("mesh_hedges_total", "Attempts beside a slow one")?,
            active: IntGaugeVec::new(Opts::new("mesh_connections_active", "Open client connections"), &["protocol"])?,
            trouble: IntCounterVec::new(
                Opts::new("mesh_connection_errors_total", "Client connections that failed"),
                &["reason"],
            )?,
        };
        // The agent's own CPU, memory and files under the names that every board knows.
        metrics.registry.register(Box::new(ProcessCollector::for_self()))?;
        metrics.registry.register(Box::new(metrics.trouble.clone()))?;
        metrics.registry.register(Box::new(metrics.active.clone()))?;
        metrics.registry.register(Box::new(metrics.retries.clone()))?;
        metrics.registry.register(Box::new(metrics.hedges.clone()))?;
        for (at, name, help) in [
            (0, "mesh_metric_series", "Istio's series in use of the budget"),
            (1, "mesh_metric_series_limit", "The budget (--metric-series)"),
        ] {
            let store = Arc::clone(&metrics.store);
            let read = move || store.usage().get(at).map(|value| (String::new(), *value)).into_iter().collect();
            metrics.register(External::gauge(name, help, "", read)?)?;
        }
        let store = Arc::clone(&metrics.store);
        metrics.register(External::new(
            "mesh_metric_series_overflow_total",
            "How often a series was refused by the budget and counted under overflow",
            "",
            move || vec![(String::new(), store.usage()[2])],
        )?)?;
        Ok(metrics)
    }

    /// Adds a family whose values are read when somebody asks (kernel counters).
    ///
    /// # Errors
    /// The name is taken or not a metric name.
    pub fn register(&self, external: External) -> anyhow::Result<()> {
        Ok(self.registry.register(Box::new(external))?)
    }

    /// All families as text.
    pub fn gather(&self, format: Format) -> String {
        exposition::write(format, &self.registry.gather(), &self.store)
    }

    /// Requests by route and by pod.
    pub fn tallies(&self) -> Vec<(Of, Tallied)> {
        self.tallies.read()
    }

    pub(super) fn tally(&self) -> &Tallies {
        &self.tallies
    }

    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    /// The number of a new recorder.
    pub(super) fn recorder(&self) -> usize {
        self.recorders.fetch_add(1, Relaxed)
    }

    pub fn trouble(&self, what: Trouble) {
        self.trouble.with_label_values(&[what.label()]).inc();
    }

    pub fn retried(&self) {
        self.retries.inc();
    }

    pub fn hedged(&self) {
        self.hedges.inc();
    }

    /// Counts a connection until the guard is dropped.
    pub fn connection(&self, kind: ConnectionKind) -> ActiveConnection {
        let gauge = self.active.with_label_values(&[kind.label()]);
        gauge.inc();
        ActiveConnection { gauge }
    }

    /// Drops the series of what has gone. `alive` says whether the configuration knows it; call it once a minute or so.
    pub fn sweep(&self, now: Nanos, alive: impl Fn(&Who) -> bool, counted: impl Fn(&Of) -> bool) {
        self.store.sweep(now, alive);
        self.tallies.sweep(counted);
    }
}

/// An open client connection.
#[derive(Debug)]
pub struct ActiveConnection {
    gauge: IntGauge,
}

impl Drop for ActiveConnection {
    fn drop(&mut self) {
        self.gauge.dec();
    }
}
