//! Numbers with one writer each: a worker adds, whoever scrapes reads.
//!
//! Each worker has cells of its own for each series; a scrape sums them. So adding is a load and a store, never a
//! locked instruction, and no cache line moves between cores but when somebody scrapes.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

/// Upper bounds of Istio's buckets (SEMANTICS §10): milliseconds and bytes alike; above them is `+Inf`.
pub(super) const BOUNDS: [f64; 19] = [
    0.5,
    1.0,
    5.0,
    10.0,
    25.0,
    50.0,
    100.0,
    250.0,
    500.0,
    1000.0,
    2500.0,
    5000.0,
    10_000.0,
    30_000.0,
    60_000.0,
    300_000.0,
    600_000.0,
    1_800_000.0,
    3_600_000.0,
];

/// One worker's part of a counter.
#[derive(Debug, Default)]
pub(super) struct Count(AtomicU64);

/// One worker's part of a histogram.
#[derive(Debug, Default)]
pub(super) struct Buckets {
    /// The last is `+Inf`'s. Not cumulative.
    counts: [AtomicU64; BOUNDS.len() + 1],
    /// In thousandths: sums of durations stay exact to the microsecond.
    sum: AtomicU64,
    /// Locked for sampled requests only.
    exemplar: Mutex<Option<Exemplar>>,
}

/// A request that can be looked up in a trace (OpenMetrics "Exemplars").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Exemplar {
    /// The bucket it fell into.
    pub(super) bucket: usize,
    pub(super) thousandths: u64,
    pub(super) trace: u128,
    pub(super) at: SystemTime,
}

/// The sum of all workers' parts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Total {
    pub(super) counts: [u64; BOUNDS.len() + 1],
    pub(super) thousandths: u64,
    /// The latest.
    pub(super) exemplar: Option<Exemplar>,
}

/// A handle to count under. Not to be shared by threads: an update is not one step.
#[derive(Clone, Debug)]
pub(super) struct Counter(pub(super) Arc<Count>);

#[derive(Clone, Debug)]
pub(super) struct Histogram(pub(super) Arc<Buckets>);

impl Count {
    pub(super) fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

impl Counter {
    pub(super) fn add(&self, count: u64) {
        add(&self.0.0, count);
    }
}

impl Histogram {
    /// `thousandths` of the unit: 1500 is 1.5 ms. `trace`: of a sampled request.
    pub(super) fn observe(&self, thousandths: u64, trace: Option<u128>) {
        let at = BOUNDS.partition_point(|bound| *bound * 1e3 < thousandths as f64);
        if let Some(bucket) = self.0.counts.get(at) {
            add(bucket, 1);
        }
        add(&self.0.sum, thousandths);
        if let Some(trace) = trace {
            let exemplar = Exemplar { bucket: at, thousandths, trace, at: SystemTime::now() };
            *self.0.exemplar.lock().unwrap_or_else(PoisonError::into_inner) = Some(exemplar);
        }
    }
}

impl Total {
    pub(super) fn add(&mut self, part: &Buckets) {
        self.counts.iter_mut().zip(&part.counts).for_each(|(sum, count)| *sum += count.load(Relaxed));
        self.thousandths = self.thousandths.wrapping_add(part.sum.load(Relaxed));
        let exemplar = *part.exemplar.lock().unwrap_or_else(PoisonError::into_inner);
        self.exemplar = [self.exemplar, exemplar].into_iter().flatten().max_by_key(|exemplar| exemplar.at);
    }
}

fn add(to: &AtomicU64, count: u64) {
    to.store(to.load(Relaxed).wrapping_add(count), Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_fall_into_the_bucket_whose_bound_they_do_not_exceed() {
        let histogram = Histogram(Arc::default());
        for thousandths in [0, 500, 501, 1_000, 3_600_000_000, 3_600_000_001] {
            histogram.observe(thousandths, (thousandths == 501).then_some(7));
        }
        let mut total = Total::default();
        total.add(&histogram.0);
        assert_eq!((total.counts[0], total.counts[1], total.counts[18], total.counts[19]), (2, 2, 1, 1));
        assert_eq!(total.thousandths, 2_001 + 7_200_000_001);
        let exemplar = total.exemplar.unwrap();
        assert_eq!((exemplar.bucket, exemplar.thousandths, exemplar.trace), (1, 501, 7));
    }
}
