//! The handles: all metrics, those of a port, those of an endpoint.

use super::labels::{ConnectError, RetryReason};
use super::record::{Codes, Record};
use super::render::{self, Row};
use super::series::{Budget, EndpointSeries, PORT_SERIES, PortSeries, lock};
use crate::addr::EndpointAddr;
use crate::snapshot::{PortKey, Service, ServiceName, Snapshot};
use rustc_hash::FxHashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Series of `Metrics::new()`: a scrape of about 1 MB.
pub const DEFAULT_BUDGET: usize = 10_000;

/// Istio's name for traffic to destinations outside the mesh (SEMANTICS §7).
const PASSTHROUGH: &str = "PassthroughCluster";

/// All metrics of the agent. Clones share.
#[derive(Clone)]
pub struct Metrics(Arc<Shared>);

type RowSource = Box<dyn Fn() -> Vec<Row> + Send + Sync>;

pub(super) struct Shared {
    ports: Mutex<FxHashMap<PortKey, Arc<PortSeries>>>,
    pub(super) budget: Budget,
    /// Stands in for every port that does not fit.
    pub(super) overflow: Arc<PortSeries>,
    /// Requests whose own series does not fit.
    pub(super) overflow_requests: AtomicU64,
    pub(super) captured: [AtomicU64; 2],
    pub(super) collectors: prometheus::Registry,
    rows: Mutex<Vec<RowSource>>,
}

/// One service port; a worker keeps it beside its `Picker`.
#[derive(Clone)]
pub struct PortMetrics {
    shared: Arc<Shared>,
    port: Arc<PortSeries>,
}

/// One endpoint of a service port.
#[derive(Clone)]
pub struct EndpointMetrics {
    shared: Arc<Shared>,
    port: Arc<PortSeries>,
    /// `None`: the port did not fit the budget.
    series: Option<Arc<EndpointSeries>>,
}

impl Metrics {
    pub fn new() -> Self {
        Self::with_budget(DEFAULT_BUDGET)
    }

    /// At most `budget` series of requests and connections, the overflow's own not counted. Rows and collectors of
    /// others are theirs to bound.
    pub fn with_budget(budget: usize) -> Self {
        Self(Arc::new(Shared {
            ports: Mutex::default(),
            budget: Budget::new(budget),
            overflow: Arc::new(PortSeries::new("overflow".into(), 0)),
            overflow_requests: AtomicU64::new(0),
            captured: Default::default(),
            collectors: prometheus::Registry::new(),
            rows: Mutex::default(),
        }))
    }

    /// The handle of a port, made on first use. Takes a lock: keep the handle.
    pub fn port(&self, key: &PortKey, service: &Service) -> PortMetrics {
        self.handle(key, &service.host)
    }

    /// Connections and requests to destinations that are not in the mesh.
    pub fn passthrough(&self) -> PortMetrics {
        self.handle(&passthrough(), &PASSTHROUGH.into())
    }

    /// The agent accepted a captured connection.
    pub fn connection_opened(&self) {
        self.0.captured[0].fetch_add(1, Relaxed);
    }

    /// A captured connection has ended.
    pub fn connection_closed(&self) {
        self.0.captured[1].fetch_add(1, Relaxed);
    }

    /// Adds a collector of its owner's making; its families appear in `gather_text`.
    ///
    /// # Errors
    /// If it describes a metric that another one has already.
    pub fn register(&self, collector: Box<dyn prometheus::core::Collector>) -> prometheus::Result<()> {
        self.0.collectors.register(collector)
    }

    /// Adds a source of plain rows (the kernel's counters), asked at each scrape.
    pub fn add_rows(&self, source: impl Fn() -> Vec<Row> + Send + Sync + 'static) {
        lock(&self.0.rows).push(Box::new(source));
    }

    /// The Prometheus text format, version 0.0.4.
    pub fn gather_text(&self) -> String {
        let rows = lock(&self.0.rows).iter().flat_map(|source| source()).collect();
        render::text(&self.0, &self.0.sorted_ports(), rows)
    }

    /// Removes series of endpoints and ports that `snapshot` has not held for `grace`, unless a handle is still in
    /// use. Call it from the control thread about once a minute.
    pub fn sweep(&self, snapshot: &Snapshot, now: Instant, grace: Duration) {
        let expired = |since: Instant| now.saturating_duration_since(since) >= grace;
        lock(&self.0.ports).retain(|key, series| {
            let port = snapshot.port(key).map(|(_, port)| port);
            let exists = port.is_some() || *key == passthrough();
            // Addresses seen by the passthrough belong to no set: they age out as soon as no handle is left.
            let alive = |addr| port.as_ref().is_some_and(|p| p.endpoints.endpoints.iter().any(|e| e.addr == addr));
            let gone = series.sweep(exists, alive, expired, now, &self.0.budget);
            let keep = !gone || Arc::strong_count(series) > 1 || !series.endpoints().is_empty();
            if !keep {
                self.0.budget.give_back(PORT_SERIES);
            }
            keep
        });
    }

    /// Series in use, out of the budget.
    pub fn series(&self) -> usize {
        self.0.budget.used()
    }

    fn handle(&self, key: &PortKey, host: &Arc<str>) -> PortMetrics {
        let mut ports = lock(&self.0.ports);
        let port = match ports.get(key) {
            Some(port) => Arc::clone(port),
            None if self.0.budget.take(PORT_SERIES) => {
                let port = Arc::new(PortSeries::new(Arc::clone(host), key.port));
                ports.insert(key.clone(), Arc::clone(&port));
                port
            }
            None => Arc::clone(&self.0.overflow),
        };
        PortMetrics { shared: Arc::clone(&self.0), port }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Metrics({} of {} series)", self.0.budget.used(), self.0.budget.limit)
    }
}

impl Shared {
    fn sorted_ports(&self) -> Vec<Arc<PortSeries>> {
        let mut ports: Vec<_> = lock(&self.ports).values().cloned().collect();
        ports.sort_unstable_by(|a, b| (&a.host, a.port).cmp(&(&b.host, b.port)));
        ports
    }
}

impl PortMetrics {
    /// Takes a lock: keep the handle.
    pub fn endpoint(&self, addr: EndpointAddr) -> EndpointMetrics {
        self.series(Some(addr))
    }

    /// For requests that the agent answers itself (`endpoint="none"`).
    pub fn local(&self) -> EndpointMetrics {
        self.series(None)
    }

    /// A connection to an endpoint of this port was made.
    pub fn connection_opened(&self) {
        self.port.opened.fetch_add(1, Relaxed);
    }

    pub fn connection_closed(&self) {
        self.port.closed.fetch_add(1, Relaxed);
    }

    pub fn connection_error(&self, reason: ConnectError) {
        if let Some(counter) = self.port.errors.get(reason as usize) {
            counter.fetch_add(1, Relaxed);
        }
    }

    pub fn retry(&self, reason: RetryReason) {
        if let Some(counter) = self.port.retries.get(reason as usize) {
            counter.fetch_add(1, Relaxed);
        }
    }

    /// Bytes of an opaque connection: `received` from the client, `sent` to it.
    pub fn bytes(&self, received: u64, sent: u64) {
        self.port.bytes(received, sent);
    }

    fn series(&self, addr: Option<EndpointAddr>) -> EndpointMetrics {
        let fits = !Arc::ptr_eq(&self.port, &self.shared.overflow);
        let series = fits.then(|| self.port.endpoint(addr));
        EndpointMetrics { shared: Arc::clone(&self.shared), port: Arc::clone(&self.port), series }
    }
}

impl EndpointMetrics {
    /// Counts a request that has ended. Atomic additions only.
    pub fn request(&self, record: &Record) {
        self.port.observe(record);
        let counted = self.series.as_ref().is_some_and(|s| s.count(Codes::of(record), &self.shared.budget));
        if !counted {
            self.shared.overflow_requests.fetch_add(1, Relaxed);
        }
    }
}

fn passthrough() -> PortKey {
    PortKey::new(ServiceName::new("", PASSTHROUGH), 0)
}

#[cfg(test)]
mod tests;
