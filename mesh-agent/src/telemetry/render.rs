//! Families of metrics from the counters, at scrape time.

use super::histogram::BOUNDS_MS;
use super::labels::{ConnectError, RetryReason};
use super::metrics::Shared;
use super::series::PortSeries;
use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A sample of someone who need not know Prometheus (the kernel's counters).
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// `undermesh_kernel_…`; rows of one name form one metric and need the same kind.
    pub name: String,
    pub help: String,
    pub kind: RowKind,
    pub labels: Vec<(&'static str, String)>,
    pub value: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowKind {
    Counter,
    Gauge,
}

pub(super) fn text(shared: &Shared, ports: &[Arc<PortSeries>], rows: Vec<Row>) -> String {
    // The overflow's series appear from the first request or connection that did not fit.
    let overflown = ports.iter().chain((!is_unused(&shared.overflow)).then_some(&shared.overflow));
    let ports: Vec<&PortSeries> = overflown.map(|port| &**port).collect();
    let mut families = vec![
        family(
            "undermesh_build_info",
            "The agent's version.",
            MetricType::GAUGE,
            vec![gauge(labels(&[("version", env!("CARGO_PKG_VERSION"))]), 1.0)],
        ),
        plain("undermesh_metric_series", "Series in use, of undermesh_metric_series_budget.", shared.budget.used()),
        plain("undermesh_metric_series_budget", "Series there may be.", shared.budget.limit),
        requests(shared, &ports),
        durations(&ports),
    ];
    let [opened, closed] = [0, 1].map(|i: usize| shared.captured.get(i).map_or(0, |c| c.load(Relaxed)));
    families.extend(connections(
        "undermesh_captured_connections",
        "Connections taken from pods",
        &[(vec![], opened, closed)],
    ));
    let upstream: Vec<_> =
        ports.iter().map(|p| (port_labels(p), p.opened.load(Relaxed), p.closed.load(Relaxed))).collect();
    families.extend(connections("undermesh_upstream_connections", "Connections to endpoints", &upstream));
    families.push(per_port("undermesh_received_bytes_total", "Bytes from clients.", &ports, |p| &p.received));
    families.push(per_port("undermesh_sent_bytes_total", "Bytes to clients.", &ports, |p| &p.sent));
    families.push(by_reason(
        "undermesh_connection_errors_total",
        "Connections to endpoints that failed, by reason.",
        &ports,
        |port| ConnectError::ALL.iter().map(|r| r.label()).zip(&port.errors).collect(),
    ));
    families.push(by_reason("undermesh_retries_total", "Requests sent again, by what allowed it.", &ports, |port| {
        RetryReason::ALL.iter().map(|r| r.label()).zip(&port.retries).collect()
    }));
    families.extend(foreign(rows));
    families.extend(shared.collectors.gather());
    encode(&families)
}

fn requests(shared: &Shared, ports: &[&PortSeries]) -> MetricFamily {
    let mut metrics = Vec::new();
    for port in ports {
        for (addr, series) in port.endpoints() {
            let endpoint = addr.map_or_else(|| "none".to_owned(), |addr| addr.to_string());
            for node in series.nodes() {
                let mut labels = port_labels(port);
                labels.push(label("endpoint", &endpoint));
                labels.push(label("response_code", &node.codes.status().to_string()));
                let grpc = node.codes.grpc_status().map(|code| code.to_string()).unwrap_or_default();
                labels.push(label("grpc_response_status", &grpc));
                labels.push(label("response_flags", &node.codes.flags().to_string()));
                metrics.push(counter(labels, node.requests()));
            }
        }
    }
    let overflow = shared.overflow_requests.load(Relaxed);
    if overflow > 0 {
        const NAMES: [&str; 6] = [
            "destination_service",
            "destination_port",
            "endpoint",
            "response_code",
            "grpc_response_status",
            "response_flags",
        ];
        metrics.push(counter(labels(&NAMES.map(|name| (name, "overflow"))), overflow));
    }
    let help =
        "Requests by destination, endpoint and how they ended; \"overflow\" holds those beyond the series budget.";
    family("undermesh_requests_total", help, MetricType::COUNTER, metrics)
}

fn durations(ports: &[&PortSeries]) -> MetricFamily {
    let metric = |port: &&PortSeries| {
        let (cumulative, count, sum) = port.durations.read();
        let bucket = |(bound, count): (&f64, &u64)| {
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(*bound);
            bucket.set_cumulative_count(*count);
            bucket
        };
        let mut histogram = Histogram::default();
        histogram.set_bucket(BOUNDS_MS.iter().zip(&cumulative).map(bucket).collect());
        histogram.set_sample_count(count);
        histogram.set_sample_sum(sum);
        let mut metric = Metric::from_label(port_labels(port));
        metric.set_histogram(histogram);
        metric
    };
    let help = "From the request's head to the end of the response.";
    let metrics = ports.iter().map(metric).collect();
    family("undermesh_request_duration_milliseconds", help, MetricType::HISTOGRAM, metrics)
}

/// `…_opened_total`, `…_closed_total` and their difference `…_active`.
fn connections(name: &str, what: &str, of: &[(Vec<LabelPair>, u64, u64)]) -> [MetricFamily; 3] {
    let each = |value: fn(u64, u64) -> u64, make: fn(Vec<LabelPair>, u64) -> Metric| {
        of.iter().map(|(labels, opened, closed)| make(labels.clone(), value(*opened, *closed))).collect()
    };
    // The two counters are read one after the other: a connection may close in between.
    let active = each(|opened, closed| opened.saturating_sub(closed), |labels, n| gauge(labels, n as f64));
    [
        family(
            &format!("{name}_opened_total"),
            &format!("{what}, opened."),
            MetricType::COUNTER,
            each(|opened, _| opened, counter),
        ),
        family(
            &format!("{name}_closed_total"),
            &format!("{what}, closed."),
            MetricType::COUNTER,
            each(|_, closed| closed, counter),
        ),
        family(&format!("{name}_active"), &format!("{what}, open now."), MetricType::GAUGE, active),
    ]
}

fn per_port(name: &str, help: &str, ports: &[&PortSeries], of: fn(&PortSeries) -> &AtomicU64) -> MetricFamily {
    let metrics = ports.iter().map(|port| counter(port_labels(port), of(port).load(Relaxed))).collect();
    family(name, help, MetricType::COUNTER, metrics)
}

/// Only the reasons that occurred: a mesh without failures shows none.
fn by_reason<'a>(
    name: &str,
    help: &str,
    ports: &[&'a PortSeries],
    of: impl Fn(&'a PortSeries) -> Vec<(&'static str, &'a AtomicU64)>,
) -> MetricFamily {
    let mut metrics = Vec::new();
    for port in ports {
        for (reason, count) in of(port) {
            let count = count.load(Relaxed);
            if count > 0 {
                let mut labels = port_labels(port);
                labels.push(label("reason", reason));
                metrics.push(counter(labels, count));
            }
        }
    }
    family(name, help, MetricType::COUNTER, metrics)
}

fn foreign(rows: Vec<Row>) -> Vec<MetricFamily> {
    let mut families: BTreeMap<String, MetricFamily> = BTreeMap::new();
    for row in rows {
        let pairs: Vec<_> = row.labels.iter().map(|(name, value)| label(name, value)).collect();
        let (kind, metric) = match row.kind {
            RowKind::Counter => {
                let mut counter = Counter::default();
                counter.set_value(row.value);
                let mut metric = Metric::from_label(pairs);
                metric.set_counter(counter);
                (MetricType::COUNTER, metric)
            }
            RowKind::Gauge => (MetricType::GAUGE, gauge(pairs, row.value)),
        };
        let family = families.entry(row.name.clone()).or_insert_with(|| family(&row.name, &row.help, kind, vec![]));
        if family.get_field_type() == kind {
            family.mut_metric().push(metric);
        } else {
            tracing::warn!(name = row.name, "metric row left out: its name has rows of another kind");
        }
    }
    families.into_values().collect()
}

/// Family by family, so that one that cannot be written does not take the others with it.
fn encode(families: &[MetricFamily]) -> String {
    let encoder = prometheus::TextEncoder::new();
    let mut text = String::new();
    for family in families.iter().filter(|family| !family.get_metric().is_empty()) {
        let before = text.len();
        if let Err(error) = encoder.encode_utf8(std::slice::from_ref(family), &mut text) {
            text.truncate(before);
            tracing::warn!(name = family.name(), %error, "metric left out of the scrape");
        }
    }
    text
}

fn is_unused(port: &PortSeries) -> bool {
    let counters = [&port.opened, &port.closed, &port.received, &port.sent];
    let counters = counters.into_iter().chain(&port.errors).chain(&port.retries);
    port.durations.read().1 == 0 && counters.into_iter().all(|c| c.load(Relaxed) == 0)
}

fn family(name: &str, help: &str, kind: MetricType, metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family.set_metric(metrics);
    family
}

fn plain(name: &str, help: &str, value: usize) -> MetricFamily {
    family(name, help, MetricType::GAUGE, vec![gauge(vec![], value as f64)])
}

fn counter(labels: Vec<LabelPair>, value: u64) -> Metric {
    let mut counter = Counter::default();
    counter.set_value(value as f64);
    let mut metric = Metric::from_label(labels);
    metric.set_counter(counter);
    metric
}

fn gauge(labels: Vec<LabelPair>, value: f64) -> Metric {
    let mut gauge = Gauge::default();
    gauge.set_value(value);
    let mut metric = Metric::from_label(labels);
    metric.set_gauge(gauge);
    metric
}

fn port_labels(port: &PortSeries) -> Vec<LabelPair> {
    labels(&[("destination_service", &port.host), ("destination_port", &port.port.to_string())])
}

fn labels(pairs: &[(&str, &str)]) -> Vec<LabelPair> {
    pairs.iter().map(|(name, value)| label(name, value)).collect()
}

fn label(name: &str, value: &str) -> LabelPair {
    let mut pair = LabelPair::default();
    pair.set_name(name.to_owned());
    pair.set_value(value.to_owned());
    pair
}
