//! Values as proto-JSON writes them.

use super::super::Labels;
use super::super::fields::{Field, leaf};
use serde::{Deserialize, Deserializer};
use std::sync::Arc;
use std::time::Duration;

/// `1.5s`, `100ms`, `1h30m`: a `google.protobuf.Duration` as Kubernetes takes it (Go's `time.ParseDuration`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

/// `istio.networking.v1alpha3.StringMatch`: one of them; none means presence.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct StringMatch {
    pub exact: Option<Arc<str>>,
    pub prefix: Option<Arc<str>>,
    pub regex: Option<Arc<str>>,
}

/// `Percent`: of a hundred.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Percent {
    pub value: f64,
}

/// `PortSelector`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct PortSelector {
    pub number: i64,
}

/// `Destination`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Destination {
    pub host: Arc<str>,
    pub subset: Arc<str>,
    pub port: Option<PortSelector>,
}

/// `WorkloadSelector`; the newer `type.v1beta1` form spells its labels `matchLabels`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct WorkloadSelector {
    #[serde(alias = "matchLabels")]
    pub labels: Labels,
}

pub(crate) const STRING_MATCH: &[Field] = &[leaf("exact"), leaf("prefix"), leaf("regex")];
pub(crate) const PERCENT: &[Field] = &[leaf("value")];
pub(crate) const PORT: &[Field] = &[leaf("number")];
pub(crate) const DESTINATION: &[Field] = &[leaf("host"), leaf("subset"), super::super::fields::message("port", PORT)];

impl Span {
    /// # Errors
    /// What is wrong with the text, for the object's author.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no duration: write a number with a unit, such as 1.5s, 100ms or 1h");
        if text == "0" {
            return Ok(Self::default());
        }
        let (mut rest, mut seconds) = (text, 0.0);
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
            let (number, tail) = rest.split_at(digits);
            let unit = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
            let (unit, tail) = tail.split_at(unit);
            let scale = match unit {
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                "us" | "µs" => 1e-6,
                "ns" => 1e-9,
                _ => return Err(wrong()),
            };
            seconds += number.parse::<f64>().map_err(|_| wrong())? * scale;
            rest = tail;
        }
        let span = (!text.is_empty()).then(|| Duration::try_from_secs_f64(seconds).ok()).flatten();
        // Binary fractions: 0.1 s is not 99.999999 ms.
        span.map(|d| Self(Duration::from_nanos(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)))).ok_or_else(wrong)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_as_go_and_proto_json_write_them() {
        for (text, millis) in [
            ("1s", 1000),
            ("1.5s", 1500),
            ("100ms", 100),
            ("1h", 3_600_000),
            ("1m30s", 90_000),
            ("0s", 0),
            ("0", 0),
            (".5s", 500),
        ] {
            assert_eq!(Span::parse(text), Ok(Span(Duration::from_millis(millis))), "{text}");
        }
        for text in ["", "1", "s", "-1s", "1 s", "1d", "1..2s", "1e5s", "9999999999999999999999999h"] {
            assert!(Span::parse(text).is_err(), "{text}");
        }
    }
}
