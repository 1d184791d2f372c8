//! Metrics as text: prometheus' format 0.0.4 and OpenMetrics 1.0, which adds exemplars. Pure.
//!
//! The prometheus crate knows the first only, and gathers by copying every label of every series. Istio's series are
//! kept as they are written, so a scrape copies each line once; what little the crate keeps is written from its
//! families in either format.

use super::cells::{BOUNDS, Exemplar, Total};
use super::store::{Family, Store, Value};
use prometheus::proto::{Metric, MetricFamily, MetricType};
use std::fmt::Write as _;
use std::time::UNIX_EPOCH;

/// What the scraper understands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    #[default]
    Text,
    OpenMetrics,
}

impl Format {
    /// Of an `Accept` header: OpenMetrics where it is named and not refused (`q=0`).
    pub fn of(accept: &str) -> Self {
        let named = accept.split(',').map(str::trim).find(|range| range.starts_with("application/openmetrics-text"));
        let refused = |range: &str| {
            let weight = range.split(';').find_map(|part| part.trim().strip_prefix("q="));
            weight.is_some_and(|weight| weight.trim().parse() == Ok(0.0))
        };
        if named.is_some_and(|range| !refused(range)) { Self::OpenMetrics } else { Self::Text }
    }

    pub fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// `name`: of a counter without `_total`, which is part of the family's name in the older format only.
    fn head(self, name: &str, kind: &str, help: &str, out: &mut String) {
        let suffix = if self == Self::Text && kind == "counter" { "_total" } else { "" };
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        let _ = write!(out, "# HELP {name}{suffix} {help}\n# TYPE {name}{suffix} {kind}\n");
    }
}

/// Writes everything, the store's series last. Writing to a String does not fail.
pub(super) fn write(format: Format, families: &[MetricFamily], store: &Store) -> String {
    let mut out = String::with_capacity(64 << 10);
    families.iter().for_each(|family| of_crate(format, family, &mut out));
    let mut last = None;
    store.read(|family, labels, value| {
        if last != Some(family) {
            let kind = if family.is_histogram() { "histogram" } else { "counter" };
            format.head(family.name(), kind, family.help(), &mut out);
            last = Some(family);
        }
        match value {
            Value::Counter(count) => {
                let _ = writeln!(out, "{}_total{{{labels}}} {count}", family.name());
            }
            Value::Histogram(total) => histogram(format, family, labels, &total, &mut out),
        }
    });
    if format == Format::OpenMetrics {
        out.push_str("# EOF\n");
    }
    out
}

fn histogram(format: Format, family: Family, labels: &str, total: &Total, out: &mut String) {
    let (name, mut sum) = (family.name(), 0);
    for (at, count) in total.counts.iter().enumerate() {
        sum += count;
        let _ = write!(out, "{name}_bucket{{{labels},le=\"");
        let _ = match BOUNDS.get(at) {
            // OpenMetrics wants floats: `1.0`.
            Some(bound) if format == Format::OpenMetrics => write!(out, "{bound:?}"),
            Some(bound) => write!(out, "{bound}"),
            None => write!(out, "+Inf"),
        };
        let _ = write!(out, "\"}} {sum}");
        if let Some(exemplar) = total.exemplar.filter(|exemplar| format == Format::OpenMetrics && exemplar.bucket == at)
        {
            write_exemplar(&exemplar, out);
        }
        out.push('\n');
    }
    let _ = writeln!(out, "{name}_sum{{{labels}}} {}", thousandths(total.thousandths));
    let _ = writeln!(out, "{name}_count{{{labels}}} {sum}");
}

fn write_exemplar(exemplar: &Exemplar, out: &mut String) {
    let at = exemplar.at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (trace, value) = (exemplar.trace, thousandths(exemplar.thousandths));
    let _ = write!(out, " # {{trace_id=\"{trace:032x}\"}} {value} {}.{:03}", at.as_secs(), at.subsec_millis());
}

/// 1500 is `1.5`.
fn thousandths(value: u64) -> String {
    match value % 1000 {
        0 => (value / 1000).to_string(),
        rest => format!("{}.{rest:03}", value / 1000).trim_end_matches('0').to_owned(),
    }
}

/// A family of the prometheus crate: counters, gauges, histograms.
fn of_crate(format: Format, family: &MetricFamily, out: &mut String) {
    let (kind, name) = match family.get_field_type() {
        MetricType::COUNTER => ("counter", family.name().strip_suffix("_total").unwrap_or(family.name())),
        MetricType::HISTOGRAM => ("histogram", family.name()),
        // The agent has no summaries.
        MetricType::GAUGE | MetricType::SUMMARY | MetricType::UNTYPED => ("gauge", family.name()),
    };
    format.head(name, kind, family.help(), out);
    for metric in family.get_metric() {
        let labels = labels(metric);
        let _ = match kind {
            "counter" => writeln!(out, "{name}_total{} {}", braced(&labels), metric.get_counter().get_value()),
            "gauge" => writeln!(out, "{name}{} {}", braced(&labels), metric.get_gauge().get_value()),
            _ => {
                let histogram = metric.get_histogram();
                let comma = if labels.is_empty() { "" } else { "," };
                for bucket in histogram.get_bucket() {
                    let (bound, count) = (bucket.upper_bound(), bucket.cumulative_count());
                    let _ = writeln!(out, "{name}_bucket{{{labels}{comma}le=\"{bound:?}\"}} {count}");
                }
                let count = histogram.get_sample_count();
                let _ = writeln!(out, "{name}_bucket{{{labels}{comma}le=\"+Inf\"}} {count}");
                let _ = writeln!(out, "{name}_sum{} {}", braced(&labels), histogram.get_sample_sum());
                writeln!(out, "{name}_count{} {count}", braced(&labels))
            }
        };
    }
}

fn labels(metric: &Metric) -> String {
    let mut text = String::new();
    metric.get_label().iter().for_each(|pair| super::labels::label(&mut text, pair.name(), pair.value()));
    text
}

fn braced(labels: &str) -> String {
    if labels.is_empty() { String::new() } else { format!("{{{labels}}}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::store::Labels;
    use crate::telemetry::{Callee, Reporter, Who};
    use prometheus::core::Collector as _;

    #[test]
    fn formats_are_what_the_scraper_accepts() {
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1";
        assert_eq!(Format::of(prometheus), Format::OpenMetrics);
        for older in ["", "*/*", "text/plain", "text/plain, application/openmetrics-text; q=0"] {
            assert_eq!(Format::of(older), Format::Text, "{older}");
        }
    }

    #[test]
    fn both_formats_say_the_same_and_one_has_exemplars() {
        let store = Store::new(1_000);
        let callee = Callee::undeclared("x", None).into();
        let labels = Labels { text: "reporter=\"source\"".into(), who: Who::new(None, None, &callee).into() };
        store.counter(Family::Requests, 0, Reporter::Source, &labels).add(2);
        let duration = store.histogram(Family::Duration, 0, Reporter::Source, &labels);
        duration.observe(700, None);
        duration.observe(2_500, Some(0xabc));
        let own = prometheus::IntCounterVec::new(prometheus::Opts::new("mesh_a_total", "A."), &["why"]).unwrap();
        own.with_label_values(&["a\"b"]).inc();
        let families = own.collect();
        let (text, open) = (write(Format::Text, &families, &store), write(Format::OpenMetrics, &families, &store));
        for (format, part) in [
            (&text, "# TYPE mesh_a_total counter\nmesh_a_total{why=\"a\\\"b\"} 1\n"),
            (&text, "# TYPE istio_requests_total counter\nistio_requests_total{reporter=\"source\"} 2\n"),
            (&text, "istio_request_duration_milliseconds_bucket{reporter=\"source\",le=\"1\"} 1\n"),
            (&text, "istio_request_duration_milliseconds_bucket{reporter=\"source\",le=\"+Inf\"} 2\n"),
            (&text, "istio_request_duration_milliseconds_sum{reporter=\"source\"} 3.2\n"),
            (&open, "# TYPE mesh_a counter\nmesh_a_total{why=\"a\\\"b\"} 1\n"),
            (&open, "# TYPE istio_requests counter\nistio_requests_total{reporter=\"source\"} 2\n"),
            (&open, "le=\"5.0\"} 2 # {trace_id=\"00000000000000000000000000000abc\"} 2.5 "),
            (&open, "istio_request_duration_milliseconds_count{reporter=\"source\"} 2\n# EOF\n"),
        ] {
            assert!(format.contains(part), "{part}\n{format}");
        }
        assert!(!text.contains("trace_id") && !text.contains("EOF"), "{text}");
    }

    #[test]
    fn thousandths_are_written_as_short_as_they_can_be() {
        for (value, text) in [(0, "0"), (1_000, "1"), (1_500, "1.5"), (1, "0.001"), (12_340, "12.34")] {
            assert_eq!(thousandths(value), text);
        }
    }
}
