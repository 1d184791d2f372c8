//! The agent's metrics as a scenario reads them: by the labels people query.

use crate::net::Netns;
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

/// Where every agent serves them, in its node's namespace.
const ADDRESS: &str = "127.0.0.1:15090";
const REQUESTS: &str = "istio_requests_total";

/// Counts by name and labels.
#[derive(Clone, Debug, Default)]
pub(super) struct Metrics(BTreeMap<(String, Labels), f64>);

type Labels = BTreeMap<String, String>;

impl Metrics {
    pub(super) fn scrape(node: &Netns) -> Result<Self> {
        let text = node.run(|| -> Result<String> {
            let mut stream = TcpStream::connect(ADDRESS).with_context(|| format!("no metrics at {ADDRESS}"))?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            stream.write_all(b"GET /metrics HTTP/1.0\r\nhost: localhost\r\n\r\n")?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            ensure!(text.contains(" 200 "), "{ADDRESS}/metrics: {}", text.lines().next().unwrap_or_default());
            Ok(text)
        })??;
        Ok(Self::parse(&text))
    }

    /// Prometheus' text format; what is no sample (headers, comments) is passed over.
    fn parse(text: &str) -> Self {
        let mut all = Self::default();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((series, value)) = line.rsplit_once(' ') else { continue };
            let Ok(value) = value.trim().parse() else { continue };
            let (name, rest) = series.split_once('{').unwrap_or((series, ""));
            let labels = rest.trim_end_matches('}').split("\",").filter_map(|pair| {
                let (key, value) = pair.split_once("=\"")?;
                Some((key.trim().to_owned(), value.trim_end_matches('"').to_owned()))
            });
            all.0.insert((name.to_owned(), labels.collect()), value);
        }
        all
    }

    pub(super) fn add(&mut self, other: &Self) {
        for (series, value) in &other.0 {
            *self.0.entry(series.clone()).or_default() += value;
        }
    }

    /// Requests that ended since `before`, as callers saw them, with these labels (all of them).
    pub(super) fn requests_since(&self, before: &Self, labels: &[(&str, &str)]) -> u64 {
        self.since(before, REQUESTS, &[&[("reporter", "source")], labels].concat())
    }

    /// What a counter grew by since `before`, over all series with these labels.
    pub(super) fn since(&self, before: &Self, name: &str, labels: &[(&str, &str)]) -> u64 {
        (self.sum(name, labels) - before.sum(name, labels)).round() as u64
    }

    /// A counter, over all series with these labels.
    pub(super) fn total(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        self.sum(name, labels).round() as u64
    }

    /// Which of `names` some series with these labels has not, or has nothing in.
    pub(super) fn without(&self, name: &str, labels: &[(&str, &str)], names: &[&str]) -> Vec<String> {
        let fits = |of: &Labels| labels.iter().all(|(key, value)| of.get(*key).is_some_and(|found| found == value));
        let series: Vec<_> = self.0.keys().filter(|(known, of)| known == name && fits(of)).collect();
        let lacks = |label: &&&str| series.iter().any(|(_, of)| of.get(**label).is_none_or(String::is_empty));
        names.iter().filter(lacks).map(|name| (*name).to_owned()).collect()
    }

    fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let fits = |of: &Labels| labels.iter().all(|(key, value)| of.get(*key).is_some_and(|found| found == value));
        self.0.iter().filter(|((known, of), _)| known == name && fits(of)).map(|(_, value)| value).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_summed_by_any_of_their_labels() {
        let before = Metrics::parse("istio_requests_total{reporter=\"source\",response_code=\"200\"} 5\n");
        let after = Metrics::parse(
            "HTTP/1.0 200 OK\n\n# TYPE istio_requests_total counter\n\
             istio_requests_total{reporter=\"source\",response_code=\"200\",source_app=\"a\",response_flags=\"-\"} 7\n\
             istio_requests_total{reporter=\"destination\",response_code=\"503\",response_flags=\"UO\"} 9\n\
             istio_requests_total{reporter=\"source\",response_code=\"503\",source_app=\"a\",response_flags=\"UO\"} 2\n\
             istio_requests_total{reporter=\"source\",response_code=\"503\",source_app=\"b\",response_flags=\"UO,URX\"} 1\n\
             mesh_retries_total 4\n\
             other_total{reporter=\"source\",response_code=\"503\"} 9\n",
        );
        assert_eq!(after.requests_since(&before, &[("response_code", "503")]), 3);
        assert_eq!(after.requests_since(&before, &[("response_code", "503"), ("response_flags", "UO")]), 2);
        assert_eq!(after.requests_since(&before, &[]), 5);
    }
}
