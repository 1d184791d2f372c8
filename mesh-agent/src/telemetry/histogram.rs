//! A histogram of durations: two atomic additions per sample.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Upper bounds in milliseconds: Istio's (SEMANTICS §10), so that its dashboards fit.
pub(super) const BOUNDS_MS: [f64; 19] =
    [0.5, 1., 5., 10., 25., 50., 100., 250., 500., 1e3, 2500., 5e3, 1e4, 3e4, 6e4, 3e5, 6e5, 1.8e6, 3.6e6];

/// The bounds in microseconds, for comparing without floating point.
const BOUNDS_US: [u64; 19] = {
    let mut bounds = [0; 19];
    let mut i = 0;
    while i < bounds.len() {
        bounds[i] = (BOUNDS_MS[i] * 1000.0) as u64;
        i += 1;
    }
    bounds
};

#[derive(Debug, Default)]
pub(super) struct Histogram {
    /// Not cumulative; the last one is beyond all bounds.
    buckets: [AtomicU64; BOUNDS_MS.len() + 1],
    /// 2⁶⁴ µs are 584,000 years of requests.
    sum_us: AtomicU64,
}

/// Series that one histogram makes: its bounds, `+Inf`, sum and count.
pub(super) const SERIES: usize = BOUNDS_MS.len() + 3;

impl Histogram {
    pub(super) fn observe(&self, duration: Duration) {
        let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        // From the start: most requests end within the first few bounds. A bound belongs to its bucket (`le`).
        let at = BOUNDS_US.iter().position(|bound| us <= *bound).unwrap_or(BOUNDS_US.len());
        if let Some(bucket) = self.buckets.get(at) {
            bucket.fetch_add(1, Relaxed);
        }
        self.sum_us.fetch_add(us, Relaxed);
    }

    /// Cumulative counts per bound, total count, sum in milliseconds. The count is that of the buckets read, so that
    /// the three agree even while samples arrive.
    pub(super) fn read(&self) -> ([u64; BOUNDS_MS.len()], u64, f64) {
        let mut cumulative = [0; BOUNDS_MS.len()];
        let mut count = 0;
        for (bucket, total) in self.buckets.iter().zip(&mut cumulative) {
            count += bucket.load(Relaxed);
            *total = count;
        }
        count += self.buckets[BOUNDS_MS.len()].load(Relaxed);
        (cumulative, count, self.sum_us.load(Relaxed) as f64 / 1000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_its_bucket() {
        let histogram = Histogram::default();
        for us in [0, 500, 501, 1000, 3_600_000_000, 3_600_000_001] {
            histogram.observe(Duration::from_micros(us));
        }
        let (cumulative, count, sum) = histogram.read();
        assert_eq!((cumulative[0], cumulative[1], cumulative[17], cumulative[18], count), (2, 4, 4, 5, 6));
        assert!((sum - 7_200_002.002).abs() < 0.01, "{sum}");
    }
}
