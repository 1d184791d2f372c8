//! Injected faults (SEMANTICS §6 "Fault"): delay first, then abort, each drawn by itself.

use crate::snapshot::route::{AbortWith, Fault};
use std::time::Duration;

/// What happens to one request. The delay comes before the route's timeout begins; an abort is never retried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drawn {
    pub delay: Option<Duration>,
    pub abort: Option<AbortWith>,
}

pub fn draw(fault: &Fault, rng: &mut fastrand::Rng) -> Drawn {
    let mut drawn = |share: u32| share >= 1_000_000 || (share > 0 && rng.u32(..1_000_000) < share);
    Drawn {
        delay: fault.delay.as_ref().filter(|delay| drawn(delay.share)).map(|delay| delay.fixed),
        abort: fault.abort.as_ref().filter(|abort| drawn(abort.share)).map(|abort| abort.with),
    }
}
