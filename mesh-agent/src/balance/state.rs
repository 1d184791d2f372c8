//! What the workers have learnt about one endpoint of one service port.

use super::ewma::Ewma;
use super::health::Health;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// A failed answer counts as one of this latency at least: an endpoint that fails fast must not look fast.
const FAILURE_LATENCY: Duration = Duration::from_secs(1);

/// Three atomic words; all orderings are relaxed because each word is meaningful alone.
#[derive(Debug)]
pub struct EndpointState {
    active: AtomicU32,
    health: AtomicU64,
    latency: AtomicU64,
    epoch: Instant,
    /// Source of the back-off's jitter.
    seed: u64,
}

impl EndpointState {
    pub(super) fn new(epoch: Instant, seed: u64) -> Self {
        Self { active: AtomicU32::new(0), health: AtomicU64::new(0), latency: AtomicU64::new(0), epoch, seed }
    }

    /// Counts a request (or opaque connection) as active until the guard is dropped.
    pub fn begin(self: &Arc<Self>, now: Instant) -> Active {
        Active::new(Arc::clone(self), now)
    }

    /// No connection could be made (refused, timed out, unreachable): the endpoint is avoided for 1 s, 2 s, … 30 s.
    pub fn on_connect_failure(&self, now: Instant) {
        let now_ms = self.millis(now);
        // A failure repeated within the same avoidance changes nothing; the loop ends with the first store that holds.
        let _ = self.health.fetch_update(Relaxed, Relaxed, |word| {
            let health = Health::unpack(word);
            let jitter = unit(self.seed ^ u64::from(health.failures));
            Some(health.failed(now_ms, jitter).pack())
        });
    }

    /// A connection was made, or a request answered: everything held against the endpoint is forgotten.
    pub fn on_success(&self) {
        // The load keeps the cache line shared between workers while all is well.
        if self.health.load(Relaxed) != 0 {
            self.health.store(0, Relaxed);
        }
    }

    pub fn active(&self) -> u32 {
        self.active.load(Relaxed)
    }

    pub fn consecutive_failures(&self) -> u8 {
        Health::unpack(self.health.load(Relaxed)).failures
    }

    /// Set aside after connect failures; chosen only if there is nothing better.
    pub fn is_avoided(&self, now: Instant) -> bool {
        Health::unpack(self.health.load(Relaxed)).is_avoided(self.millis(now))
    }

    /// The latency estimate as of `now`; zero while nothing is known.
    pub fn latency(&self, now: Instant) -> Duration {
        Duration::from_nanos(self.latency_nanos(self.millis(now)) as u64)
    }

    pub(super) fn health(&self) -> Health {
        Health::unpack(self.health.load(Relaxed))
    }

    pub(super) fn latency_nanos(&self, now_ms: u64) -> f32 {
        Ewma::unpack(self.latency.load(Relaxed)).read(now_ms)
    }

    /// Takes the one ticket of a probe; false if another request has it.
    pub(super) fn claim_probe(&self, now_ms: u64) -> bool {
        let word = self.health.load(Relaxed);
        let health = Health::unpack(word);
        health.wants_probe(now_ms)
            && self.health.compare_exchange(word, health.probed(now_ms).pack(), Relaxed, Relaxed).is_ok()
    }

    pub(super) fn millis(&self, now: Instant) -> u64 {
        millis_since(self.epoch, now)
    }

    fn sample(&self, latency: Duration, now: Instant) {
        let now_ms = self.millis(now);
        let _ = self
            .latency
            .fetch_update(Relaxed, Relaxed, |word| Some(Ewma::unpack(word).sampled(latency, now_ms).pack()));
    }
}

/// One request (or opaque connection) under way. Its end is its drop.
#[derive(Debug)]
pub struct Active {
    state: Arc<EndpointState>,
    begun: Instant,
    sampled: bool,
}

impl Active {
    pub(super) fn new(state: Arc<EndpointState>, now: Instant) -> Self {
        state.active.fetch_add(1, Relaxed);
        Self { state, begun: now, sampled: false }
    }

    pub fn state(&self) -> &Arc<EndpointState> {
        &self.state
    }

    /// The response's head is here. Its delay is the latency sample; the body may go on for hours (server streaming)
    /// and says nothing about the endpoint's speed. `ok` = the endpoint did not fail (no 5xx, UNAVAILABLE, reset).
    pub fn responded(&mut self, now: Instant, ok: bool) {
        if !self.sampled {
            self.sampled = true;
            let latency = now.saturating_duration_since(self.begun);
            self.state.sample(if ok { latency } else { latency.max(FAILURE_LATENCY) }, now);
        }
    }

    /// The end of a request that had no separate `responded`.
    pub fn finish(mut self, now: Instant, ok: bool) {
        self.responded(now, ok);
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.state.active.fetch_sub(1, Relaxed);
        if !self.sampled {
            // Given up without an answer: the wait is a lower bound of the latency, so it may only raise the estimate.
            let now = Instant::now();
            let waited = now.saturating_duration_since(self.begun);
            if waited > self.state.latency(now) {
                self.state.sample(waited, now);
            }
        }
    }
}

pub(super) fn millis_since(epoch: Instant, now: Instant) -> u64 {
    now.saturating_duration_since(epoch).as_millis() as u64
}

/// A number in 0.0..1.0 from a seed (SplitMix64's finalizer).
fn unit(seed: u64) -> f64 {
    let z = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> (Arc<EndpointState>, Instant) {
        let epoch = Instant::now();
        (Arc::new(EndpointState::new(epoch, 7)), epoch)
    }

    #[test]
    fn counts_active_until_the_guard_goes() {
        let (state, t) = state();
        let one = state.begin(t);
        let two = state.begin(t);
        assert_eq!(state.active(), 2);
        one.finish(t + Duration::from_millis(5), true);
        assert_eq!(state.active(), 1);
        drop(two);
        assert_eq!(state.active(), 0);
    }

    #[test]
    fn latency_is_taken_at_the_response_head_once() {
        let (state, t) = state();
        let mut stream = state.begin(t);
        stream.responded(t + Duration::from_millis(4), true);
        stream.finish(t + Duration::from_secs(3600), true);
        assert_eq!(state.latency(t + Duration::from_millis(4)), Duration::from_millis(4));
    }

    #[test]
    fn a_fast_failure_is_slow() {
        let (state, t) = state();
        state.begin(t).finish(t + Duration::from_micros(50), false);
        assert_eq!(state.latency(t), FAILURE_LATENCY);
    }

    #[test]
    fn a_cancelled_request_raises_the_estimate_but_never_lowers_it() {
        let (state, t) = state();
        let now = Instant::now();
        state.begin(now).finish(now + Duration::from_secs(20), true);
        drop(state.begin(now));
        assert!(state.latency(now) > Duration::from_secs(19));
        let (other, _) = self::state();
        drop(other.begin(t.checked_sub(Duration::from_secs(2)).unwrap_or(t)));
        assert!(other.latency(Instant::now()) > Duration::ZERO);
    }

    #[test]
    fn one_probe_at_a_time_and_success_forgives() {
        let (state, t) = state();
        state.on_connect_failure(t);
        assert!(state.is_avoided(t) && !state.claim_probe(0));
        let later = t + Duration::from_secs(2);
        assert!(!state.is_avoided(later));
        assert!(state.claim_probe(2000) && !state.claim_probe(2000));
        assert!(state.is_avoided(later));
        state.on_success();
        assert_eq!((state.is_avoided(later), state.consecutive_failures()), (false, 0));
    }

    #[test]
    fn jitter_spreads_over_the_unit_interval() {
        let drawn: Vec<f64> = (0..1000).map(unit).collect();
        assert!(drawn.iter().all(|x| (0.0..1.0).contains(x)));
        let mean = drawn.iter().sum::<f64>() / 1000.0;
        assert!((0.45..0.55).contains(&mean), "{mean}");
    }
}
