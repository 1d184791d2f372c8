//! Requests by route and by pod, for `mesh-agent top`: what Istio's labels do not tell apart.
//!
//! Kept beside Istio's series, not among them: nobody pays for them in a Prometheus. Each worker has cells of its own;
//! whoever looks takes rates as differences of two answers.

use super::cells::BOUNDS;
use rustc_hash::FxHashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Routes and pods that are told apart; what is beyond is counted in Istio's series only. All of them take 3 MiB on two
/// workers.
const MOST: usize = 8192;

/// What is counted together.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Of {
    /// A route's name, of the Service (`namespace/name`) that requests were for.
    Route { service: Arc<str>, route: Arc<str> },
    /// Requests that a pod (`namespace`, `name`) made.
    From(Arc<str>, Arc<str>),
    /// Requests that it was the last to be asked.
    To(Arc<str>, Arc<str>),
}

/// Since the agent's start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tallied {
    pub failures: u64,
    /// Durations by bucket, not cumulative: together all requests.
    pub buckets: [u64; BOUNDS.len() + 1],
}

/// One worker's part: it has one writer.
#[derive(Debug, Default)]
pub(super) struct Tally {
    failures: AtomicU64,
    buckets: [AtomicU64; BOUNDS.len() + 1],
}

#[derive(Debug, Default)]
pub(super) struct Tallies {
    known: Mutex<FxHashMap<Of, Vec<Option<Arc<Tally>>>>>,
}

impl Tally {
    /// The bucket of a duration in microseconds.
    pub(super) fn bucket(micros: u64) -> usize {
        BOUNDS.partition_point(|bound| *bound * 1e3 < micros as f64)
    }

    pub(super) fn count(&self, bucket: usize, failed: bool) {
        let add = |cell: &AtomicU64| cell.store(cell.load(Relaxed).wrapping_add(1), Relaxed);
        self.buckets.get(bucket).into_iter().for_each(add);
        if failed {
            add(&self.failures);
        }
    }
}

impl Tallies {
    /// `worker`'s part; one that nobody reads where there are too many.
    pub(super) fn of(&self, worker: usize, of: &Of) -> Arc<Tally> {
        let mut known = self.lock();
        if !known.contains_key(of) && known.len() >= MOST {
            return Arc::default();
        }
        let parts = known.entry(of.clone()).or_default();
        if parts.len() <= worker {
            parts.resize_with(worker + 1, || None);
        }
        match parts.get_mut(worker) {
            Some(part) => Arc::clone(part.get_or_insert_default()),
            None => Arc::default(),
        }
    }

    pub(super) fn read(&self) -> Vec<(Of, Tallied)> {
        let known = self.lock();
        known.iter().map(|(of, parts)| (of.clone(), Tallied::sum(parts.iter().flatten().map(|part| &**part)))).collect()
    }

    /// Drops what nobody counts under and `alive` does not know.
    pub(super) fn sweep(&self, alive: impl Fn(&Of) -> bool) {
        let held = |parts: &[Option<Arc<Tally>>]| parts.iter().flatten().any(|part| Arc::strong_count(part) > 1);
        self.lock().retain(|of, parts| held(parts) || alive(of));
    }

    /// Counters stay usable whatever panicked elsewhere.
    fn lock(&self) -> MutexGuard<'_, FxHashMap<Of, Vec<Option<Arc<Tally>>>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tallied {
    fn sum<'a>(parts: impl Iterator<Item = &'a Tally>) -> Self {
        parts.fold(Self::default(), |mut sum, part| {
            sum.failures += part.failures.load(Relaxed);
            sum.buckets.iter_mut().zip(&part.buckets).for_each(|(sum, count)| *sum += count.load(Relaxed));
            sum
        })
    }

    pub fn requests(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_parts_are_summed_and_what_has_gone_is_dropped() {
        let tallies = Tallies::default();
        let of = |name: &str| Of::To("shop".into(), name.into());
        let parts = [tallies.of(0, &of("db-0")), tallies.of(1, &of("db-0"))];
        parts[0].count(Tally::bucket(400), false);
        parts[1].count(Tally::bucket(400), true);
        parts[1].count(Tally::bucket(4_000_000_000), false);
        let all = tallies.read();
        assert_eq!((all.len(), all[0].1.requests(), all[0].1.failures), (1, 3, 1));
        assert_eq!((all[0].1.buckets[0], all[0].1.buckets[BOUNDS.len()]), (2, 1));
        tallies.sweep(|_| false);
        assert_eq!(tallies.read().len(), 1, "somebody counts under it");
        drop(parts);
        tallies.sweep(|of| matches!(of, Of::To(_, name) if &**name == "db-0"));
        assert_eq!(tallies.read().len(), 1, "the configuration knows it");
        tallies.sweep(|_| false);
        assert!(tallies.read().is_empty());
    }

    #[test]
    fn their_number_is_bounded() {
        let tallies = Tallies::default();
        for number in 0..MOST + 10 {
            tallies.of(0, &Of::From("shop".into(), number.to_string().into())).count(0, false);
        }
        assert_eq!(tallies.read().len(), MOST);
    }
}
