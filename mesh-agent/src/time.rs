//! Time as plain numbers, so that pure functions can take it as an argument.
//!
//! Place in the path: read once where a request begins and where it ends. Invariant: monotonic, never the wall clock.

mod alarm;

pub use alarm::{Alarm, Alarms};

use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// Nanoseconds since the process looked at its clock for the first time. Fits an atomic; 584 years until it wraps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Nanos(pub u64);

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

impl Nanos {
    pub fn now() -> Self {
        Self(as_nanos(START.elapsed()))
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

fn as_nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates() {
        let at = Nanos(5);
        assert_eq!(at.since(Nanos(9)), Duration::ZERO);
        assert_eq!(at.plus(Duration::from_nanos(7)), Nanos(12));
        assert_eq!(at.plus(Duration::MAX), Nanos(u64::MAX));
    }
}
