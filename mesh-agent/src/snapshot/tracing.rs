//! Which requests are traced and where their spans go (MeshConfig, Telemetry `spec.tracing`).

use super::telemetry;
use super::{Snapshot, Workload};
use crate::telemetry::Reporter;
use http::{HeaderName, HeaderValue};
use serde::{Serialize, Serializer};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// What MeshConfig says.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct TracingSettings {
    /// Where no Telemetry speaks.
    pub default: Arc<Tracing>,
    /// `extensionProviders` that take spans, by name.
    pub providers: BTreeMap<Arc<str>, Arc<Collector>>,
}

/// What holds for one workload.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Tracing {
    /// `None`: no spans; contexts pass by as they are.
    pub collector: Option<Arc<Collector>>,
    /// Of requests that nobody decided about before.
    pub rate: Rate,
    pub tags: Vec<CustomTag>,
    /// Longest path in a span's `http.url`, bytes (`maxPathTagLength`, `maxTagLength`).
    pub longest_path: usize,
    /// `istio.canonical_service` and its like (`enableIstioTags`).
    pub istio_tags: bool,
    /// Requests are drawn by their id, so that agents agree (`useRequestIdForTraceSampling`).
    pub draw_by_id: bool,
    /// `disableSpanReporting` says no.
    pub report: bool,
}

/// A share of requests, in hundredths of a percent: Istio's finest step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Rate(u32);

/// A server that takes spans.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Collector {
    /// Of its provider.
    pub name: Arc<str>,
    /// A Service's, or one that DNS knows.
    pub host: Arc<str>,
    pub port: u16,
    pub protocol: Protocol,
    /// For connecting and for an answer, each.
    pub timeout: Duration,
    #[serde(serialize_with = "names_only")]
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// In which a request's context is sent on, beside those that it came in.
    pub formats: Formats,
    /// `maxTagLength`; `None`: as the rest of the mesh has it.
    pub longest_path: Option<usize>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// JSON, version 2.
    Zipkin {
        path: Arc<str>,
    },
    OtlpGrpc,
    OtlpHttp {
        path: Arc<str>,
    },
}

/// Families of header fields that carry a trace's context.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Formats {
    pub w3c: bool,
    pub b3: bool,
    pub b3_single: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CustomTag {
    pub name: Arc<str>,
    pub value: TagValue,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum TagValue {
    Literal(Arc<str>),
    /// Of the request; without it the default, and without that no tag.
    Header {
        #[serde(serialize_with = "header_name")]
        name: HeaderName,
        default: Option<Arc<str>>,
    },
}

impl Rate {
    pub const NONE: Self = Self(0);
    /// Istio's `PILOT_TRACE_SAMPLING`: 1 %.
    pub const DEFAULT: Self = Self(100);
    pub const ALL: Self = Self(10_000);

    /// `None`: not from 0 to 100.
    pub fn of_percent(percent: f64) -> Option<Self> {
        (0.0..=100.0).contains(&percent).then(|| Self((percent * 100.0).round() as u32))
    }

    /// Whether a request that drew this number, below 10,000, is among them.
    pub fn takes(self, draw: u32) -> bool {
        draw < self.0
    }
}

impl Snapshot {
    /// What holds for a caller: the MeshConfig's word, and what Telemetry objects say, the nearest last. `None`: it is no
    /// pod.
    pub fn tracing(&self, workload: Option<&Workload>) -> Tracing {
        let mesh = &self.mesh().tracing;
        let said = self.telemetry(workload).flat_map(|telemetry| &telemetry.tracing);
        let said = said.filter(|tracing| tracing.mode.covers(Reporter::Source));
        said.fold((*mesh.default).clone(), |all, tracing| all.overridden(tracing, &mesh.providers))
    }
}

impl Tracing {
    fn overridden(mut self, by: &telemetry::Tracing, providers: &BTreeMap<Arc<str>, Arc<Collector>>) -> Self {
        if let Some(name) = &by.provider {
            self.collector = providers.get(name).cloned();
            let longest = self.collector.as_ref().and_then(|collector| collector.longest_path);
            self.longest_path = longest.unwrap_or(self.longest_path);
        }
        self.rate = by.sampling.unwrap_or(self.rate);
        if !by.tags.is_empty() {
            self.tags.clone_from(&by.tags);
        }
        self.istio_tags = by.istio_tags.unwrap_or(self.istio_tags);
        self.draw_by_id = by.draw_by_id.unwrap_or(self.draw_by_id);
        self.report = by.disabled.map_or(self.report, |disabled| !disabled);
        self
    }

    /// Where its spans go.
    pub fn reports_to(&self) -> Option<&Arc<Collector>> {
        self.collector.as_ref().filter(|_| self.report)
    }

    /// Envoy's `max_path_tag_length`.
    pub const LONGEST_PATH: usize = 256;
}

impl Default for Tracing {
    fn default() -> Self {
        Self {
            collector: None,
            rate: Rate::DEFAULT,
            tags: Vec::new(),
            longest_path: Self::LONGEST_PATH,
            istio_tags: true,
            draw_by_id: true,
            report: true,
        }
    }
}

impl Formats {
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self { w3c: self.w3c || other.w3c, b3: self.b3 || other.b3, b3_single: self.b3_single || other.b3_single }
    }
}

/// Values may be secrets.
fn names_only<S: Serializer>(headers: &[(HeaderName, HeaderValue)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(headers.iter().map(|(name, _)| name.as_str()))
}

fn header_name<S: Serializer>(name: &HeaderName, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(name.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_percentages() {
        assert_eq!(Rate::of_percent(1.0), Some(Rate::DEFAULT));
        assert_eq!(Rate::of_percent(100.0), Some(Rate::ALL));
        assert_eq!(Rate::of_percent(0.01), Some(Rate(1)));
        for wrong in [-0.1, 100.1, f64::NAN, f64::INFINITY] {
            assert_eq!(Rate::of_percent(wrong), None, "{wrong}");
        }
    }
}
