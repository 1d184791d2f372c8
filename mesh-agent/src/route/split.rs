//! Which backend of several, and which mirrors.

use crate::snapshot::route::{Backend, Destination, Forward};

/// A backend by weight: its share is weight ÷ sum. `None` where the route has none left.
pub fn backend<'f>(forward: &'f Forward, rng: &mut fastrand::Rng) -> Option<&'f Backend> {
    weighted(&forward.backends, rng)
}

/// One of several by weight.
pub fn weighted<'f>(backends: &'f [Backend], rng: &mut fastrand::Rng) -> Option<&'f Backend> {
    if let [only] = backends {
        return Some(only);
    }
    let total: u64 = backends.iter().map(|backend| u64::from(backend.weight)).sum();
    if total == 0 {
        return None;
    }
    // 0 ≤ draw < total: with weights 90 and 10, 0..=89 is the first, 90..=99 the second.
    let mut draw = rng.u64(..total);
    backends.iter().find(|backend| {
        let weight = u64::from(backend.weight);
        let chosen = draw < weight;
        draw = draw.saturating_sub(weight);
        chosen
    })
}

/// Who gets a copy of this request: each mirror of the route and of the backend drawn by itself.
pub fn mirrors<'f>(
    forward: &'f Forward,
    backend: &'f Backend,
    rng: &mut fastrand::Rng,
) -> impl Iterator<Item = &'f Destination> {
    let all = forward.mirrors.iter().chain(&backend.mirrors);
    all.filter(move |mirror| drawn(mirror.share, rng)).map(|mirror| &mirror.to)
}

/// True for `share` of a million.
fn drawn(share: u32, rng: &mut fastrand::Rng) -> bool {
    share >= 1_000_000 || (share > 0 && rng.u32(..1_000_000) < share)
}
