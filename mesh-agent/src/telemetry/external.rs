//! Numbers that live elsewhere (kernel maps) and are read when metrics are gathered.

use prometheus::core::{Collector, Desc};
use prometheus::proto::{Bucket, Histogram, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{CounterVec, GaugeVec, Opts};
use std::fmt;

type Read = dyn Fn() -> Vec<(Vec<String>, f64)> + Send + Sync;
type ReadBuckets = dyn Fn() -> Vec<(String, Buckets)> + Send + Sync;

/// What was observed, by bucket.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Buckets {
    /// Not cumulative; the last one has no bound.
    pub counts: Vec<u64>,
    pub sum: f64,
}

/// One family of counters, gauges or histograms.
pub struct External {
    name: String,
    help: String,
    labels: Vec<String>,
    /// Labels that are always the same.
    constant: Vec<(String, String)>,
    desc: Desc,
    values: Values,
}

enum Values {
    Counters(Box<Read>),
    Gauges(Box<Read>),
    /// With the buckets' upper bounds.
    Histograms(Vec<f64>, Box<ReadBuckets>),
}

impl External {
    /// Counters with one label, or (`""`) none. `read` gives label values with their totals; it is called on the thread
    /// that gathers.
    ///
    /// # Errors
    /// `name` or `label` is not allowed by prometheus.
    pub fn new(
        name: &str,
        help: &str,
        label: &str,
        read: impl Fn() -> Vec<(String, u64)> + Send + Sync + 'static,
    ) -> anyhow::Result<Self> {
        Self::family(name, help, &own(label), Values::Counters(Box::new(move || each(read()))))
    }

    /// Gauges: values that may fall.
    ///
    /// # Errors
    /// As [`External::new`].
    pub fn gauge(
        name: &str,
        help: &str,
        label: &str,
        read: impl Fn() -> Vec<(String, u64)> + Send + Sync + 'static,
    ) -> anyhow::Result<Self> {
        Self::family(name, help, &own(label), Values::Gauges(Box::new(move || each(read()))))
    }

    /// Counters or gauges with several labels. `read` gives the values of all of them.
    ///
    /// # Errors
    /// As [`External::new`].
    pub fn rows(
        name: &str,
        help: &str,
        labels: &[&str],
        is_gauge: bool,
        read: impl Fn() -> Vec<(Vec<String>, f64)> + Send + Sync + 'static,
    ) -> anyhow::Result<Self> {
        let read = Box::new(read);
        Self::family(name, help, labels, if is_gauge { Values::Gauges(read) } else { Values::Counters(read) })
    }

    /// Histograms with one label.
    ///
    /// # Errors
    /// As [`External::new`].
    pub fn histograms(
        name: &str,
        help: &str,
        label: &str,
        bounds: Vec<f64>,
        read: impl Fn() -> Vec<(String, Buckets)> + Send + Sync + 'static,
    ) -> anyhow::Result<Self> {
        Self::family(name, help, &own(label), Values::Histograms(bounds, Box::new(read)))
    }

    /// A gauge that is always 1: its labels say it all.
    ///
    /// # Errors
    /// As [`External::new`].
    pub fn constant(name: &str, help: &str, labels: &[(&str, &str)]) -> anyhow::Result<Self> {
        let mut family = Self::family(name, help, &[], Values::Gauges(Box::new(|| vec![(Vec::new(), 1.0)])))?;
        family.constant = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Ok(family)
    }

    fn family(name: &str, help: &str, labels: &[&str], values: Values) -> anyhow::Result<Self> {
        let labels: Vec<String> = labels.iter().map(|label| (*label).to_owned()).collect();
        let desc = Desc::new(name.to_owned(), help.to_owned(), labels.clone(), Default::default())?;
        let (name, help) = (name.to_owned(), help.to_owned());
        Ok(Self { name, help, labels, constant: Vec::new(), desc, values })
    }

    fn collect_as_is(&self) -> prometheus::Result<Vec<MetricFamily>> {
        let opts = Opts::new(&self.name, &self.help).const_labels(self.constant.iter().cloned().collect());
        let labels: Vec<&str> = self.labels.iter().map(String::as_str).collect();
        match &self.values {
            Values::Gauges(read) => {
                let family = GaugeVec::new(opts, &labels)?;
                for (values, value) in read() {
                    family.get_metric_with_label_values(&values)?.set(value);
                }
                Ok(family.collect())
            }
            Values::Counters(read) => {
                let family = CounterVec::new(opts, &labels)?;
                for (values, value) in read() {
                    family.get_metric_with_label_values(&values)?.inc_by(value);
                }
                Ok(family.collect())
            }
            Values::Histograms(bounds, read) => {
                let metric = |(value, buckets): &(String, Buckets)| {
                    let mut metric = Metric::from_label(self.labels.iter().map(|name| pair(name, value)).collect());
                    metric.set_histogram(histogram(bounds, buckets));
                    metric
                };
                let mut family = MetricFamily::default();
                family.set_name(self.name.clone());
                family.set_help(self.help.clone());
                family.set_field_type(MetricType::HISTOGRAM);
                family.set_metric(read().iter().map(metric).collect());
                Ok(vec![family])
            }
        }
    }
}

fn pair(name: &str, value: &str) -> LabelPair {
    let mut pair = LabelPair::default();
    pair.set_name(name.to_owned());
    pair.set_value(value.to_owned());
    pair
}

/// As prometheus has it: each bucket with all that are smaller; the one without a bound is the count.
fn histogram(bounds: &[f64], of: &Buckets) -> Histogram {
    let mut count = 0;
    let bucket = |(bound, counted): (&f64, &u64)| {
        count += counted;
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(*bound);
        bucket.set_cumulative_count(count);
        bucket
    };
    let mut histogram = Histogram::default();
    histogram.set_bucket(bounds.iter().zip(&of.counts).map(bucket).collect());
    histogram.set_sample_count(of.counts.iter().sum());
    histogram.set_sample_sum(of.sum);
    histogram
}

/// The empty name is none.
fn own(label: &str) -> Vec<&str> {
    if label.is_empty() { Vec::new() } else { vec![label] }
}

fn each(rows: Vec<(String, u64)>) -> Vec<(Vec<String>, f64)> {
    let values = |label: String| if label.is_empty() { Vec::new() } else { vec![label] };
    rows.into_iter().map(|(label, value)| (values(label), value as f64)).collect()
}

impl Collector for External {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.desc]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        // Names were checked when the description was made.
        self.collect_as_is().unwrap_or_default()
    }
}

impl fmt::Debug for External {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("External").field("name", &self.name).finish_non_exhaustive()
    }
}
