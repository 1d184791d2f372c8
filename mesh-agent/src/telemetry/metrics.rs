//! The metric families.

use super::External;
use super::peers::{CodeLabels, Labels, MOST_SERIES, Peer, Peers};
use crate::time::Nanos;
use prometheus::core::Collector;
use prometheus::{
    HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};
use rustc_hash::FxHashMap;
use std::sync::Arc;

/// Upper bounds of latency buckets, milliseconds (Istio's, SEMANTICS §10), finer below one millisecond.
const BUCKETS: [f64; 18] = [
    0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0, 10_000.0, 60_000.0,
    600_000.0,
];

/// Everything the data path counts. Shared by all threads.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    pub(super) duration: HistogramVec,
    pub(super) request_bytes: IntCounterVec,
    pub(super) response_bytes: IntCounterVec,
    pub(super) tcp_opened: IntCounterVec,
    pub(super) tcp_closed: IntCounterVec,
    pub(super) tcp_sent: IntCounterVec,
    pub(super) tcp_received: IntCounterVec,
    pub(super) retries: IntCounter,
    hedges: IntCounter,
    active: IntGaugeVec,
    trouble: IntCounterVec,
    overflow: IntCounter,
    peers: Peers,
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
    /// # Errors
    /// None in practice: only two families of one name could fail.
    pub fn new() -> anyhow::Result<Self> {
        const PEER: [&str; 4] = ["source_namespace", "source_workload", "destination_service", "endpoint"];
        let counters = |name: &str, help: &str, labels: &[&str]| IntCounterVec::new(Opts::new(name, help), labels);
        let with = |more: &[&'static str]| [&PEER[..], more].concat();
        let metrics = Self {
            registry: Registry::new(),
            requests: counters(
                "undermesh_requests_total",
                "HTTP and gRPC requests at their end; code 0: no answer was sent",
                &with(&["code", "grpc_status", "response_flags"]),
            )?,
            duration: HistogramVec::new(
                HistogramOpts::new("undermesh_request_duration_milliseconds", "From request head to response end")
                    .buckets(BUCKETS.to_vec()),
                &PEER,
            )?,
            request_bytes: counters("undermesh_request_body_bytes_total", "Body bytes sent to endpoints", &PEER)?,
            response_bytes: counters("undermesh_response_body_bytes_total", "Body bytes from endpoints", &PEER)?,
            tcp_opened: counters("undermesh_tcp_connections_opened_total", "Opaque connections", &PEER)?,
            tcp_closed: counters("undermesh_tcp_connections_closed_total", "Opaque connections ended", &PEER)?,
            tcp_sent: counters("undermesh_tcp_sent_bytes_total", "Opaque bytes to clients", &PEER)?,
            tcp_received: counters("undermesh_tcp_received_bytes_total", "Opaque bytes from clients", &PEER)?,
            retries: IntCounter::new("undermesh_retries_total", "Attempts after the first one")?,
            hedges: IntCounter::new("undermesh_hedges_total", "Attempts beside a slow one")?,
            active: IntGaugeVec::new(
                Opts::new("undermesh_connections_active", "Open client connections"),
                &["protocol"],
            )?,
            trouble: counters("undermesh_connection_errors_total", "Client connections that failed", &["reason"])?,
            overflow: IntCounter::new("undermesh_metric_series_overflow_total", "Series refused by the budget")?,
            peers: Peers::new(MOST_SERIES),
        };
        for family in [
            &metrics.requests,
            &metrics.request_bytes,
            &metrics.response_bytes,
            &metrics.tcp_opened,
            &metrics.tcp_closed,
            &metrics.tcp_sent,
            &metrics.tcp_received,
            &metrics.trouble,
        ] {
            metrics.registry.register(Box::new(family.clone()))?;
        }
        metrics.registry.register(Box::new(metrics.duration.clone()))?;
        metrics.registry.register(Box::new(metrics.active.clone()))?;
        metrics.registry.register(Box::new(metrics.retries.clone()))?;
        metrics.registry.register(Box::new(metrics.hedges.clone()))?;
        metrics.registry.register(Box::new(metrics.overflow.clone()))?;
        Ok(metrics)
    }

    /// Adds a family whose values are read when somebody asks (kernel counters).
    ///
    /// # Errors
    /// The name is taken or not a metric name.
    pub fn register(&self, external: External) -> anyhow::Result<()> {
        Ok(self.registry.register(Box::new(external))?)
    }

    /// All families in prometheus' text format.
    pub fn gather_text(&self) -> String {
        TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap_or_default()
    }

    /// What ended at each endpoint since the start, for `mesh-agent endpoints`: by (destination_service, endpoint).
    pub fn endpoint_totals(&self) -> FxHashMap<(String, String), Totals> {
        let mut totals: FxHashMap<_, Totals> = FxHashMap::default();
        for metric in self.requests.collect().iter().flat_map(|family| family.get_metric()) {
            let label = |name: &str| metric.get_label().iter().find(|l| l.name() == name).map_or("", |l| l.value());
            let count = metric.get_counter().get_value() as u64;
            let total =
                totals.entry((label("destination_service").to_owned(), label("endpoint").to_owned())).or_default();
            total.requests += count;
            total.failures +=
                if is_failure(label("code"), label("grpc_status"), label("response_flags")) { count } else { 0 };
        }
        totals
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

    /// Drops the series of endpoints that have gone. `alive` is told `destination_service` and `endpoint`; call it once a
    /// minute or so.
    pub fn sweep(&self, now: Nanos, alive: impl Fn(&str, &str) -> bool) {
        for peer in self.peers.sweep(now, alive) {
            let labels = peer.values();
            // A family without a series under these labels says so: HTTP and opaque ones are apart.
            let _ = self.duration.remove_label_values(&labels);
            for family in [
                &self.request_bytes,
                &self.response_bytes,
                &self.tcp_opened,
                &self.tcp_closed,
                &self.tcp_sent,
                &self.tcp_received,
            ] {
                let _ = family.remove_label_values(&labels);
            }
            for codes in peer.codes().iter() {
                let _ = self.requests.remove_label_values(&peer.with(codes));
            }
        }
    }

    /// The label set to count under: its own, or that of overflow.
    pub(super) fn peer(&self, labels: Labels) -> Arc<Peer> {
        self.peers.admit(labels).unwrap_or_else(|overflow| {
            self.overflow.inc();
            overflow
        })
    }

    /// The counter of requests that ended with these codes.
    pub(super) fn requests(&self, peer: &Arc<Peer>, codes: &CodeLabels) -> IntCounter {
        if self.peers.admit_codes(peer, codes) {
            return self.requests.with_label_values(&peer.with(codes));
        }
        self.overflow.inc();
        self.requests.with_label_values(&Peers::overflow_codes())
    }
}

/// Requests that ended at one endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub requests: u64,
    /// Those for which the endpoint is to blame.
    pub failures: u64,
}

/// The endpoint is to blame: 5xx; no answer although the client waited; or gRPC INTERNAL, UNAVAILABLE, DATA_LOSS.
fn is_failure(code: &str, grpc_status: &str, flags: &str) -> bool {
    code.starts_with('5') || (code == "0" && flags != "DC") || matches!(grpc_status, "13" | "14" | "15")
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

#[cfg(test)]
mod tests {
    use super::is_failure;

    #[test]
    fn a_client_that_leaves_is_nobodys_failure() {
        assert!(is_failure("503", "", "UF") && is_failure("200", "14", "-") && is_failure("0", "", "UC"));
        assert!(!is_failure("0", "", "DC") && !is_failure("200", "5", "-") && !is_failure("404", "", "-"));
    }
}
