//! Counters that live elsewhere (kernel maps) and are read when metrics are gathered.

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounterVec, IntGaugeVec, Opts};
use std::fmt;

type Read = dyn Fn() -> Vec<(String, u64)> + Send + Sync;

/// One family of counters or gauges with one label, or (label `""`) none.
pub struct External {
    name: String,
    help: String,
    label: Option<String>,
    /// Labels that are always the same.
    constant: Vec<(String, String)>,
    is_gauge: bool,
    desc: Desc,
    read: Box<Read>,
}

impl External {
    /// Counters. `read` gives label values with their totals; it is called on the thread that gathers.
    ///
    /// # Errors
    /// `name` or `label` is not allowed by prometheus.
    pub fn new(
        name: &str,
        help: &str,
        label: &str,
        read: impl Fn() -> Vec<(String, u64)> + Send + Sync + 'static,
    ) -> anyhow::Result<Self> {
        Self::family(name, help, label, false, Box::new(read))
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
        Self::family(name, help, label, true, Box::new(read))
    }

    /// A gauge that is always 1: its labels say it all.
    ///
    /// # Errors
    /// As [`External::new`].
    pub fn constant(name: &str, help: &str, labels: &[(&str, &str)]) -> anyhow::Result<Self> {
        let mut family = Self::family(name, help, "", true, Box::new(|| vec![(String::new(), 1)]))?;
        family.constant = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Ok(family)
    }

    fn family(name: &str, help: &str, label: &str, is_gauge: bool, read: Box<Read>) -> anyhow::Result<Self> {
        let label = (!label.is_empty()).then(|| label.to_owned());
        let desc = Desc::new(name.to_owned(), help.to_owned(), label.iter().cloned().collect(), Default::default())?;
        let (name, help) = (name.to_owned(), help.to_owned());
        Ok(Self { name, help, label, constant: Vec::new(), is_gauge, desc, read })
    }

    fn collect_as_is(&self) -> prometheus::Result<Vec<MetricFamily>> {
        let opts = Opts::new(&self.name, &self.help).const_labels(self.constant.iter().cloned().collect());
        let labels: Vec<&str> = self.label.iter().map(String::as_str).collect();
        let rows = (self.read)();
        let rows =
            rows.iter().map(|(label, value)| (self.label.iter().map(|_| label.as_str()).collect::<Vec<_>>(), *value));
        if self.is_gauge {
            let family = IntGaugeVec::new(opts, &labels)?;
            for (labels, value) in rows {
                family.get_metric_with_label_values(&labels)?.set(i64::try_from(value).unwrap_or(i64::MAX));
            }
            return Ok(family.collect());
        }
        let family = IntCounterVec::new(opts, &labels)?;
        for (labels, value) in rows {
            family.get_metric_with_label_values(&labels)?.inc_by(value);
        }
        Ok(family.collect())
    }
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
