//! Peak EWMA of a latency: rises at once, forgets slowly.
//!
//! The idea is Finagle's `PeakEwma` and tower's `load/peak_ewma.rs`: a sample above the estimate replaces it, a sample
//! below it pulls it down with weight `1 - e^(-dt/τ)`; reading decays it towards zero in the same way, so that an
//! endpoint which was slow once is tried again. τ = 10 s. Example: estimate 100 ms; 10 s later a sample of 10 ms gives
//! 100·e⁻¹ + 10·(1 - e⁻¹) = 36.8 + 6.3 = 43.1 ms.

use std::time::Duration;

/// Time in which a past peak loses 63 % of its weight.
const TAU_MS: f32 = 10_000.0;

/// Fits one atomic word. `nanos` is NaN-free and ≥ 0; 0 means "nothing known".
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Ewma {
    nanos: f32,
    /// Milliseconds since the registry's epoch, modulo 2³² (49 days: differences wrap correctly).
    at_ms: u32,
}

impl Ewma {
    pub(super) fn pack(self) -> u64 {
        u64::from(self.nanos.to_bits()) << 32 | u64::from(self.at_ms)
    }

    pub(super) fn unpack(word: u64) -> Self {
        Self { nanos: f32::from_bits((word >> 32) as u32), at_ms: word as u32 }
    }

    /// Nanoseconds as of `now_ms`.
    pub(super) fn read(self, now_ms: u64) -> f32 {
        if self.nanos == 0.0 { 0.0 } else { self.nanos * self.remains(now_ms) }
    }

    pub(super) fn sampled(self, sample: Duration, now_ms: u64) -> Self {
        let sample = sample.as_nanos() as f32;
        let remains = self.remains(now_ms);
        let nanos = if sample >= self.nanos { sample } else { self.nanos * remains + sample * (1.0 - remains) };
        Self { nanos, at_ms: now_ms as u32 }
    }

    /// `e^(-dt/τ)`. Clocks of two workers may be read in one order and stored in the other: a small negative `dt`
    /// counts as zero.
    fn remains(self, now_ms: u64) -> f32 {
        let dt = (now_ms as u32).wrapping_sub(self.at_ms);
        if dt == 0 || dt > u32::MAX / 2 { 1.0 } else { (-(dt as f32) / TAU_MS).exp() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: f32 = 1e6;

    #[test]
    fn peaks_at_once_and_forgets_slowly() {
        let slow = Ewma::default().sampled(Duration::from_millis(100), 0);
        assert_eq!(slow.read(0), 100.0 * MS);
        let later = slow.sampled(Duration::from_millis(10), 10_000);
        assert!((later.read(10_000) / MS - 43.1).abs() < 0.1, "{later:?}");
        assert!((slow.read(10_000) / MS - 36.8).abs() < 0.1);
    }

    #[test]
    fn the_clock_may_wrap_and_step_back() {
        let before = Ewma::default().sampled(Duration::from_millis(8), u64::from(u32::MAX));
        assert!((before.read(u64::from(u32::MAX) + 10_000) / MS - 2.94).abs() < 0.01);
        assert_eq!(before.read(u64::from(u32::MAX) - 5), 8.0 * MS);
    }

    proptest! {
        #[test]
        fn stays_between_zero_and_the_largest_sample(samples in prop::collection::vec((0u64..60_000_000_000, 0u64..100_000), 1..50)) {
            let (mut ewma, mut now, mut largest) = (Ewma::default(), 0, 0f32);
            for (nanos, wait) in samples {
                now += wait;
                largest = largest.max(nanos as f32);
                ewma = ewma.sampled(Duration::from_nanos(nanos), now);
                prop_assert_eq!(Ewma::unpack(ewma.pack()), ewma);
                let read = ewma.read(now);
                prop_assert!(read.is_finite() && (0.0..=largest).contains(&read));
            }
        }
    }
}
