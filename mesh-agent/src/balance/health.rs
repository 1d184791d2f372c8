//! Passive health of one endpoint: what its connect failures tell.
//!
//! One failure puts an endpoint aside for a second, each further one in a row for twice as long, up to 30 s. When the
//! time is over one request (the probe) tries it again; the others go on avoiding it until the probe has an answer.
//! Example without jitter: failures at 0 s, 1 s, 3 s, 7 s → avoided until 1 s, 3 s, 7 s, 15 s.

use std::time::Duration;

/// First time-out; doubles with each failed probe.
const BASE: Duration = Duration::from_secs(1);
const MAX: Duration = Duration::from_secs(30);
/// A probe without an answer for this long (its connection blackholed, its task gone) lets the next one through.
const PROBE: Duration = Duration::from_secs(10);

/// Fits one atomic word, so that readers never see half a change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Health {
    /// Consecutive failures, saturating at 255.
    pub(super) failures: u8,
    /// A request is on its way to find out.
    pub(super) probing: bool,
    /// Milliseconds since the registry's epoch; meaningful while `failures > 0`.
    pub(super) until_ms: u64,
}

impl Health {
    pub(super) fn pack(self) -> u64 {
        // 55 bits of milliseconds are a million years.
        self.until_ms << 9 | u64::from(self.probing) << 8 | u64::from(self.failures)
    }

    pub(super) fn unpack(word: u64) -> Self {
        Self { failures: (word & 0xff) as u8, probing: word & 0x100 != 0, until_ms: word >> 9 }
    }

    /// Choose another one if there is any.
    pub(super) fn is_avoided(self, now_ms: u64) -> bool {
        self.failures > 0 && now_ms < self.until_ms
    }

    /// The time-out is over: one request may probe.
    pub(super) fn wants_probe(self, now_ms: u64) -> bool {
        self.failures > 0 && now_ms >= self.until_ms
    }

    /// The state while a probe is out.
    pub(super) fn probed(self, now_ms: u64) -> Self {
        Self { probing: true, until_ms: now_ms + millis(PROBE), ..self }
    }

    /// A connection could not be made. `jitter` in 0.0..=1.0 stretches the time-out by up to a quarter, so that nodes
    /// do not probe in step.
    pub(super) fn failed(self, now_ms: u64, jitter: f64) -> Self {
        // Connects that were under way together fail together: they are one failure.
        if self.is_avoided(now_ms) && !self.probing {
            return self;
        }
        let doublings = u32::from(self.failures.min(5));
        let wait = (BASE * 2u32.pow(doublings)).min(MAX).mul_f64(1.0 + jitter.clamp(0.0, 1.0) / 4.0);
        Self { failures: self.failures.saturating_add(1), probing: false, until_ms: now_ms + millis(wait) }
    }
}

fn millis(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX >> 9)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn backs_off_exponentially_to_thirty_seconds() {
        let mut health = Health::default();
        let mut now = 0;
        let mut waits = Vec::new();
        for _ in 0..8 {
            health = health.failed(now, 0.0);
            waits.push(health.until_ms - now);
            assert!(health.is_avoided(now) && health.is_avoided(health.until_ms - 1));
            now = health.until_ms;
            assert!(health.wants_probe(now));
        }
        assert_eq!(waits, [1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000]);
    }

    #[test]
    fn failures_of_one_moment_count_once() {
        let one = Health::default().failed(100, 0.0);
        assert_eq!(one.failed(101, 0.0).failed(500, 1.0), one);
    }

    #[test]
    fn a_probe_keeps_the_others_away_and_its_failure_escalates() {
        let down = Health::default().failed(0, 0.0);
        let probing = down.probed(1000);
        assert!(probing.is_avoided(1001) && !probing.wants_probe(1001));
        let again = probing.failed(1200, 0.0);
        assert_eq!(again, Health { failures: 2, probing: false, until_ms: 3200 });
        assert!(probing.wants_probe(11_000), "a lost probe is replaced");
    }

    #[test]
    fn jitter_stretches_by_a_quarter_at_most() {
        assert_eq!(Health::default().failed(0, 1.0).until_ms, 1250);
        assert_eq!(Health::default().failed(0, 0.5).until_ms, 1125);
    }

    proptest! {
        #[test]
        fn packs_without_loss(failures: u8, probing: bool, until_ms in 0u64..1 << 54) {
            let health = Health { failures, probing, until_ms };
            prop_assert_eq!(Health::unpack(health.pack()), health);
        }
    }
}
