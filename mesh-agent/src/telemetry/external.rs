//! Counters that live elsewhere (kernel maps) and are read when metrics are gathered.

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounterVec, Opts};
use std::fmt;

type Read = dyn Fn() -> Vec<(String, u64)> + Send + Sync;

/// One counter family with one label.
pub struct External {
    name: String,
    help: String,
    label: String,
    desc: Desc,
    read: Box<Read>,
}

impl External {
    /// `read` gives label values with their totals; it is called on the thread that gathers.
    ///
    /// # Errors
    /// `name` or `label` is not allowed by prometheus.
    pub fn new(
        name: &str,
        help: &str,
        label: &str,
        read: impl Fn() -> Vec<(String, u64)> + Send + Sync + 'static,
    ) -> anyhow::Result<Self> {
        let desc = Desc::new(name.to_owned(), help.to_owned(), vec![label.to_owned()], Default::default())?;
        Ok(Self { name: name.to_owned(), help: help.to_owned(), label: label.to_owned(), desc, read: Box::new(read) })
    }
}

impl Collector for External {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.desc]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let Ok(family) = IntCounterVec::new(Opts::new(&self.name, &self.help), &[&self.label]) else {
            return Vec::new();
        };
        for (value, total) in (self.read)() {
            family.with_label_values(&[&value]).inc_by(total);
        }
        family.collect()
    }
}

impl fmt::Debug for External {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("External").field("name", &self.name).finish_non_exhaustive()
    }
}
