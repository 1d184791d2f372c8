//! What a load came to: counts per replica, errors by code, latencies.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Longest latency told apart, in µs; a longer one counts as this.
const LATENCY_LIMIT_US: u64 = 600_000_000;

/// Running counts of one stretch of a load.
#[derive(Debug, Clone)]
pub struct Tally {
    ok: u64,
    failed: u64,
    messages: u64,
    replicas: BTreeMap<String, u64>,
    errors: BTreeMap<String, ErrorCount>,
    latency: Histogram<u64>,
}

/// Errors of one code.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorCount {
    pub count: u64,
    /// The last message seen with this code.
    pub message: String,
}

/// A tally as it is printed. `connections_opened` and `in_flight` are of the moment, all else of the stretch.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub elapsed_ms: u64,
    /// Calls that ended: `ok + failed`.
    pub calls: u64,
    pub ok: u64,
    pub failed: u64,
    /// Messages received (streams have several a call).
    pub messages: u64,
    /// Successful calls by the pod that answered.
    pub replicas: BTreeMap<String, u64>,
    pub errors: BTreeMap<String, ErrorCount>,
    pub p50_us: u64,
    pub p99_us: u64,
    pub max_us: u64,
    pub in_flight: u64,
    pub connections_opened: u64,
}

impl Tally {
    /// Counts a call that `replica` answered with `messages` messages.
    pub fn success(&mut self, replica: &str, messages: u64, latency: Duration) {
        self.ok += 1;
        self.messages += messages;
        match self.replicas.get_mut(replica) {
            Some(count) => *count += 1,
            None => drop(self.replicas.insert(replica.to_owned(), 1)),
        }
        self.record(latency);
    }

    /// Counts a call that failed with `code`.
    pub fn failure(&mut self, code: &str, message: &str, latency: Duration) {
        self.failed += 1;
        let error = self.errors.entry(code.to_owned()).or_default();
        error.count += 1;
        message.clone_into(&mut error.message);
        self.record(latency);
    }

    /// The counts over a stretch that took `elapsed`.
    pub fn report(&self, elapsed: Duration, in_flight: u64, connections_opened: u64) -> Report {
        Report {
            elapsed_ms: u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
            calls: self.ok + self.failed,
            ok: self.ok,
            failed: self.failed,
            messages: self.messages,
            replicas: self.replicas.clone(),
            errors: self.errors.clone(),
            p50_us: self.latency.value_at_quantile(0.5),
            p99_us: self.latency.value_at_quantile(0.99),
            max_us: self.latency.max(),
            in_flight,
            connections_opened,
        }
    }

    /// Adds `other` and empties it, keeping its memory.
    pub fn absorb(&mut self, other: &mut Self) {
        self.ok += std::mem::take(&mut other.ok);
        self.failed += std::mem::take(&mut other.failed);
        self.messages += std::mem::take(&mut other.messages);
        for (replica, count) in std::mem::take(&mut other.replicas) {
            *self.replicas.entry(replica).or_default() += count;
        }
        for (code, error) in std::mem::take(&mut other.errors) {
            let sum = self.errors.entry(code).or_default();
            sum.count += error.count;
            sum.message = error.message;
        }
        // Both have the same bounds, so adding cannot fail.
        let _ = self.latency.add(&other.latency);
        other.latency.reset();
    }

    fn record(&mut self, latency: Duration) {
        self.latency.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
    }
}

impl Default for Tally {
    fn default() -> Self {
        let latency = Histogram::new_with_bounds(1, LATENCY_LIMIT_US, 3)
            .unwrap_or_else(|error| unreachable!("constant bounds are valid: {error}"));
        Self { ok: 0, failed: 0, messages: 0, replicas: BTreeMap::new(), errors: BTreeMap::new(), latency }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretches_add_up_to_the_total() {
        let (mut total, mut stretch) = (Tally::default(), Tally::default());
        for round in 0..3_u64 {
            stretch.success("a", 1, Duration::from_micros(100));
            stretch.success("b", 2, Duration::from_micros(300));
            stretch.failure("Unavailable", &format!("round {round}"), Duration::from_millis(5));
            assert_eq!(stretch.report(Duration::ZERO, 0, 0).calls, 3);
            total.absorb(&mut stretch);
            assert_eq!(stretch.report(Duration::ZERO, 0, 0), Report::default());
        }
        let report = total.report(Duration::from_secs(1), 1, 2);
        assert_eq!((report.ok, report.failed, report.messages, report.calls), (6, 3, 9, 9));
        assert_eq!(report.replicas, BTreeMap::from([("a".to_owned(), 3), ("b".to_owned(), 3)]));
        assert_eq!(report.errors["Unavailable"], ErrorCount { count: 3, message: "round 2".to_owned() });
        assert!((295..=305).contains(&report.p50_us), "{}", report.p50_us);
        assert!(report.max_us >= 5_000, "{}", report.max_us);
    }
}
