//! Time as plain numbers, so that pure functions can take it as an argument.
//!
//! Place in the path: read where a request begins, is sent, is answered and ends. Invariant: monotonic; the wall clock is for showing only.

mod alarm;

pub use alarm::{Alarm, Alarms, Due};

use rustix::time::{ClockId, clock_gettime};
use std::time::{Duration, SystemTime};

/// Nanoseconds of `CLOCK_MONOTONIC`. Fits an atomic; 584 years until it wraps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Nanos(pub u64);

impl Nanos {
    pub fn now() -> Self {
        let now = clock_gettime(ClockId::Monotonic);
        // Never negative: the clock begins with the machine.
        Self(now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned())
    }

    /// Zero where `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    #[must_use]
    pub fn plus(self, by: Duration) -> Self {
        Self(self.0.saturating_add(as_nanos(by)))
    }
}

/// What the wall clock says of [`Nanos`], without a look at it for each: they drift apart by less than its own error in
/// the second for which one of these is kept.
#[derive(Clone, Copy, Debug)]
pub struct WallClock {
    at: Nanos,
    /// Nanoseconds since 1970.
    wall: u64,
}

impl WallClock {
    pub fn now() -> Self {
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self { at: Nanos::now(), wall: as_nanos(wall) }
    }

    /// Nanoseconds since 1970.
    pub fn at(&self, moment: Nanos) -> u64 {
        // Either may be the later one, and neither is near the end of its numbers.
        self.wall.wrapping_add(moment.0).wrapping_sub(self.at.0)
    }
}

/// `age` ± 10 % (gRFC A9, "random jitter of +/-10%"), so that connections opened together do not end together:
/// `random` 0 makes 60 s 54 s, 1 makes it 66 s. Ages come from users' durations, which end at 584 years: no overflow.
pub fn jittered(age: Duration, random: f64) -> Duration {
    age.mul_f64(0.9 + 0.2 * random)
}

fn as_nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wall_clock_is_known_before_and_after() {
        let clock = WallClock { at: Nanos(5_000), wall: 1_000_000_000 };
        assert_eq!([4_000, 5_000, 6_500].map(|at| clock.at(Nanos(at))), [999_999_000, 1_000_000_000, 1_000_001_500]);
    }

    #[test]
    fn arithmetic_saturates() {
        let at = Nanos(5);
        assert_eq!(at.since(Nanos(9)), Duration::ZERO);
        assert_eq!(at.plus(Duration::from_nanos(7)), Nanos(12));
        assert_eq!(at.plus(Duration::MAX), Nanos(u64::MAX));
    }

    #[test]
    fn ages_differ_by_a_tenth_either_way() {
        let age = Duration::from_secs(60);
        let millis = [0.0, 0.5, 1.0].map(|random| jittered(age, random).as_millis());
        assert_eq!(millis, [54_000, 60_000, 66_000]);
        assert_eq!(jittered(Duration::ZERO, 1.0), Duration::ZERO);
        // The longest that anybody can write.
        assert!(jittered(Duration::from_nanos(u64::MAX), 1.0) > Duration::from_nanos(u64::MAX));
    }
}
