//! What a step promised and what came, and the statistics behind promises about shares.

use std::collections::BTreeMap;
use std::fmt::{Debug, Write as _};

use anyhow::Result;
use serde::Serialize;

/// A row of the table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Check {
    pub(super) what: String,
    pub(super) expected: String,
    pub(super) came: String,
    pub(super) ok: bool,
}

/// The rows of one step.
#[derive(Debug, Default)]
pub(super) struct Checks(pub(super) Vec<Check>);

impl Checks {
    pub(super) fn holds(&mut self, ok: bool, what: &str, expected: impl Into<String>, came: impl Into<String>) {
        self.0.push(Check { what: what.to_owned(), expected: expected.into(), came: came.into(), ok });
    }

    pub(super) fn equal<T: PartialEq + Debug>(&mut self, what: &str, expected: &T, came: &T) {
        self.holds(expected == came, what, plain(expected), plain(came));
    }

    /// A local answer: Envoy's words first, then ours (which service, which endpoint).
    pub(super) fn begins(&mut self, what: &str, expected: &str, came: &str) {
        self.holds(came.starts_with(expected), what, format!("{expected} …"), came);
    }

    /// A number between two others, both included.
    pub(super) fn within(&mut self, what: &str, (low, high): (f64, f64), came: f64, unit: &str) {
        self.holds(
            (low..=high).contains(&came),
            what,
            format!("{}–{}{unit}", short(low), short(high)),
            short(came) + unit,
        );
    }

    /// `draw` makes `n` independent choices and counts them; each name's count must be within 3 σ of n·p.
    ///
    /// A fair draw misses that once in 370 (two-sided normal tail). So that a row means something, a draw that misses
    /// is repeated once, and both are shown: fair ones miss twice in 137,000; a share that is wrong by 6 σ misses twice
    /// in 997 of 1,000. A name with p = 0 must never come, one with p = 1 always.
    pub(super) fn shares(
        &mut self,
        what: &str,
        n: u64,
        shares: &[(&str, f64)],
        mut draw: impl FnMut() -> Result<BTreeMap<String, u64>>,
    ) -> Result<()> {
        let mut expected = String::new();
        for (name, p) in shares {
            let (low, high) = bounds(n, *p);
            let range = if low == high { format!("{low}") } else { format!("{low}–{high}") };
            let _ = write!(expected, "{}{name} {range}", if expected.is_empty() { "" } else { ", " });
        }
        let mut came = Vec::new();
        let mut ok = false;
        // What is certain is not drawn again: a single stray answer is one too many.
        let chance = shares.iter().any(|(_, p)| *p > 0.0 && *p < 1.0);
        while !ok && came.len() < if chance { 2 } else { 1 } {
            let counts = draw()?;
            ok = fits(n, shares, &counts);
            came.push(counts.iter().map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(", "));
            if !certain(shares, &counts) {
                break;
            }
        }
        self.holds(ok, what, format!("of {n}: {expected}"), came.join("; again: "));
        Ok(())
    }
}

/// Smallest and largest count of `n` draws of probability `p` within 3 σ of the mean, σ² = n·p·(1−p).
///
/// `bounds(1000, 0.9)`: mean 900, σ 9.49 → 872–928.
pub(super) fn bounds(n: u64, p: f64) -> (u64, u64) {
    let (mean, sigma) = (n as f64 * p, (n as f64 * p * (1.0 - p)).sqrt());
    ((mean - 3.0 * sigma).ceil().max(0.0) as u64, ((mean + 3.0 * sigma).floor() as u64).min(n))
}

fn fits(n: u64, shares: &[(&str, f64)], counts: &BTreeMap<String, u64>) -> bool {
    let all_named = counts.keys().all(|name| shares.iter().any(|(share, _)| share == name));
    let within = |(name, p): &(&str, f64)| {
        let (low, high) = bounds(n, *p);
        (low..=high).contains(&counts.get(*name).copied().unwrap_or(0))
    };
    all_named && counts.values().sum::<u64>() == n && shares.iter().all(within)
}

/// Nothing came that can never come.
fn certain(shares: &[(&str, f64)], counts: &BTreeMap<String, u64>) -> bool {
    counts.iter().all(|(name, count)| *count == 0 || shares.iter().any(|(share, p)| share == name && *p > 0.0))
}

/// Debug output without the quotes of a lone string.
fn plain<T: Debug>(value: &T) -> String {
    let text = format!("{value:?}");
    text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).map_or(text.clone(), str::to_owned)
}

/// Up to two digits after the point, none where they are zero.
pub(super) fn short(number: f64) -> String {
    let text = format!("{number:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draws(of: &[&[(&str, u64)]]) -> impl FnMut() -> Result<BTreeMap<String, u64>> {
        let mut left: Vec<BTreeMap<String, u64>> = of
            .iter()
            .rev()
            .map(|draw| draw.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect())
            .collect();
        move || left.pop().ok_or_else(|| anyhow::anyhow!("drawn too often"))
    }

    fn ok(n: u64, shares: &[(&str, f64)], of: &[&[(&str, u64)]]) -> bool {
        let mut checks = Checks::default();
        checks.shares("split", n, shares, draws(of)).unwrap();
        checks.0[0].ok
    }

    #[test]
    fn bounds_follow_from_n_and_p() {
        assert_eq!(bounds(1000, 0.9), (872, 928));
        assert_eq!(bounds(1000, 0.5), (453, 547));
        assert_eq!(bounds(1000, 1.0), (1000, 1000));
        assert_eq!(bounds(1000, 0.0), (0, 0));
    }

    #[test]
    fn a_miss_is_drawn_again_once_and_a_wrong_share_fails() {
        let half = [("v1", 0.5), ("v3", 0.5)];
        assert!(ok(1000, &half, &[&[("v1", 500), ("v3", 500)]]));
        assert!(ok(1000, &half, &[&[("v1", 560), ("v3", 440)], &[("v1", 510), ("v3", 490)]]));
        assert!(!ok(1000, &half, &[&[("v1", 560), ("v3", 440)], &[("v1", 559), ("v3", 441)]]));
    }

    #[test]
    fn what_cannot_come_fails_at_once() {
        assert!(!ok(10, &[("v3", 1.0)], &[&[("v1", 1), ("v3", 9)]]), "a stray answer");
        assert!(!ok(10, &[("v1", 0.5), ("v3", 0.5)], &[&[("v1", 5), ("v2", 1), ("v3", 4)]]), "an unnamed answer");
        assert!(!ok(10, &[("v3", 1.0)], &[&[("v3", 9)]]), "a lost answer");
    }
}
