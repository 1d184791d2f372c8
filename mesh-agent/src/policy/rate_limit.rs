//! Local rate limit: token buckets that refill continuously, as Envoy's do.
//!
//! A bucket is one atomic number, the time at which it will be full again (the "theoretical arrival time" of GCRA,
//! ITU-T I.371): no lock, no timer, nothing to do while nobody asks.

use crate::snapshot::WorkloadKey;
use crate::snapshot::route::{RateLimit, RuleRef};
use crate::time::Nanos;
use arc_swap::ArcSwap;
use rustc_hash::FxHashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Full when it is made.
#[derive(Debug, Default)]
pub struct Bucket {
    /// Nanoseconds; in the past: full.
    full_at: AtomicU64,
}

/// Every bucket of the agent. Outside the snapshot: a changed limit goes on with the tokens that are left.
#[derive(Debug, Default)]
pub struct Buckets(ArcSwap<FxHashMap<Key, Arc<Bucket>>>);

/// The rule, what of it is counted together, and who is limited: a workload, or everybody who is none.
type Key = (RuleRef, Arc<str>, Option<WorkloadKey>);

impl Bucket {
    /// Takes one token, if there is one.
    ///
    /// `max_tokens: 4`, `tokens_per_fill: 2`, `fill_interval: 1s`: four at once, then one every 500 ms.
    pub fn take(&self, limit: &RateLimit, now: Nanos) -> bool {
        let interval = u64::try_from(limit.fill_interval.as_nanos()).unwrap_or(u64::MAX);
        let per_token = interval / u64::from(limit.tokens_per_fill.max(1));
        let whole = per_token.saturating_mul(u64::from(limit.max_tokens));
        let taken = |full_at: u64| {
            // A smaller limit than before must not make its callers wait for the old one's debt.
            let full_at = full_at.clamp(now.0, now.0.saturating_add(whole)).saturating_add(per_token);
            (full_at.saturating_sub(now.0) <= whole).then_some(full_at)
        };
        self.full_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken).is_ok()
    }
}

impl Buckets {
    /// Whether `limit` lets a request of `source` pass.
    pub fn admit(&self, limit: &RateLimit, source: Option<&WorkloadKey>, now: Nanos, rng: &mut fastrand::Rng) -> bool {
        let held = limit.share >= 1_000_000 || rng.u32(..1_000_000) < limit.share;
        !held || self.bucket(limit, source).take(limit, now)
    }

    /// A read of one map, except for a source's first request under a rule.
    fn bucket(&self, limit: &RateLimit, source: Option<&WorkloadKey>) -> Arc<Bucket> {
        let key = (limit.rule.clone(), Arc::clone(&limit.scope), source.cloned());
        if let Some(bucket) = self.0.load().get(&key) {
            return Arc::clone(bucket);
        }
        // Of several first requests at one time one makes the bucket that all find.
        self.0.rcu(|buckets| {
            let mut buckets = FxHashMap::clone(buckets);
            buckets.entry(key.clone()).or_default();
            buckets
        });
        self.0.load().get(&key).map_or_else(Arc::default, Arc::clone)
    }

    /// Forgets the buckets of rules that are gone; called when the configuration changes.
    pub fn retain(&self, keep: impl Fn(&RuleRef, &str, Option<&WorkloadKey>) -> bool) {
        self.0.rcu(|buckets| {
            let mut buckets = FxHashMap::clone(buckets);
            buckets.retain(|(rule, scope, source), _| keep(rule, scope, source.as_ref()));
            buckets
        });
    }

    pub fn len(&self) -> usize {
        self.0.load().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
