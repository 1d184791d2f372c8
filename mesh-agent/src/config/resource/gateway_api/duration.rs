//! `Duration` of the Gateway API (GEP-2257): `1h30m`, `500ms`, `0s`.

use serde::Deserialize;
use serde::de::{Deserializer, Error};
use std::borrow::Cow;
use std::time::Duration;

/// `^([0-9]{1,5}(h|m|s|ms)){1,4}$`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GatewayDuration(pub Duration);

impl GatewayDuration {
    /// `None` for zero, which means "none" wherever the API has a duration.
    pub fn limit(self) -> Option<Duration> {
        (!self.0.is_zero()).then_some(self.0)
    }

    fn parse(text: &str) -> Option<Self> {
        let (mut rest, mut total, mut parts) = (text, Duration::ZERO, 0);
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).filter(|n| (1..=5).contains(n))?;
            let (number, tail) = rest.split_at(digits);
            let unit = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
            let (unit, tail) = tail.split_at(unit);
            let milliseconds = match unit {
                "h" => 3_600_000,
                "m" => 60_000,
                "s" => 1_000,
                "ms" => 1,
                _ => return None,
            };
            total += Duration::from_millis(number.parse::<u64>().ok()? * milliseconds);
            rest = tail;
            parts += 1;
        }
        (1..=4).contains(&parts).then_some(Self(total))
    }
}

impl<'de> Deserialize<'de> for GatewayDuration {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(d)?;
        Self::parse(&text)
            .ok_or_else(|| D::Error::custom(format!("{text:?} is no duration such as 1h30m, 10s or 500ms")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_of_gep_2257() {
        let parse = |text| GatewayDuration::parse(text).map(|d| d.0.as_millis());
        for (text, want) in [
            ("0s", Some(0)),
            ("1h", Some(3_600_000)),
            ("1h30m", Some(5_400_000)),
            ("10s500ms", Some(10_500)),
            ("99999h", Some(359_996_400_000)),
            ("1s1s1s1s", Some(4_000)),
            ("1s1s1s1s1s", None),
            ("100000s", None),
            ("", None),
            ("1", None),
            ("s", None),
            ("1.5s", None),
            ("-1s", None),
            ("1 s", None),
            ("1us", None),
        ] {
            assert_eq!(parse(text), want, "{text}");
        }
        assert_eq!(GatewayDuration(Duration::ZERO).limit(), None);
    }
}
