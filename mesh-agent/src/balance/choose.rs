//! The policies as pure functions of indices: who is a candidate, how loaded two of them are, and the dice come in as
//! arguments. Each gives up with `None` after a bounded number of draws; the caller then scans (`best_of`).

use fastrand::Rng;

/// Draws per choice before giving up on luck. With half of the endpoints out, one choice in 256 needs the scan.
const DRAWS: usize = 8;

/// The candidates `0..len`, in the order of one weighted cycle if their weights differ (`table::cycle`).
#[derive(Clone, Copy, Debug)]
pub(super) struct Field<'a> {
    pub(super) len: usize,
    pub(super) table: Option<&'a [u32]>,
}

impl Field<'_> {
    /// Whose turn it is.
    fn turn(self, turn: u64) -> Option<usize> {
        match self.table {
            None => turn.checked_rem(self.len as u64).map(|i| i as usize),
            Some(table) => {
                let at = turn.checked_rem(table.len() as u64)?;
                table.get(at as usize).map(|i| *i as usize)
            }
        }
    }

    /// A draw in proportion to weight.
    fn draw(self, rng: &mut Rng) -> Option<usize> {
        let slots = self.table.map_or(self.len, <[u32]>::len);
        if slots == 0 { None } else { self.turn(rng.u64(..slots as u64)) }
    }
}

/// The next eligible one in turn. `next` hands out each turn once (to all workers together), so that a skipped
/// endpoint's turns are spread over all the others instead of falling to its neighbour.
pub(super) fn round_robin(
    field: Field<'_>,
    mut next: impl FnMut() -> u64,
    eligible: impl Fn(usize) -> bool,
) -> Option<usize> {
    let cycle = field.table.map_or(field.len, <[u32]>::len);
    (0..cycle.min(256)).find_map(|_| field.turn(next()).filter(|i| eligible(*i)))
}

/// Any eligible one, by weight.
pub(super) fn random(field: Field<'_>, rng: &mut Rng, eligible: impl Fn(usize) -> bool) -> Option<usize> {
    (0..DRAWS).find_map(|_| field.draw(rng).filter(|i| eligible(*i)))
}

/// Draws two by weight and lets `first_wins(a, b, rng)` decide between them. Two choices instead of a full comparison:
/// O(1), and workers that see the same loads at the same time do not all run to the same endpoint.
pub(super) fn two_choices(
    field: Field<'_>,
    rng: &mut Rng,
    eligible: impl Fn(usize) -> bool,
    first_wins: impl Fn(usize, usize, &mut Rng) -> bool,
) -> Option<usize> {
    let a = random(field, rng, &eligible)?;
    // With equal weights the second is another one. With weights it may be the first again: only then does each
    // endpoint keep exactly its share when all loads are alike (p² + Σ 2·p·q·½ = p).
    let other = |b: usize| eligible(b) && (field.table.is_some() || b != a);
    match random(field, rng, other) {
        Some(b) if b != a && !first_wins(a, b, rng) => Some(b),
        _ => Some(a),
    }
}

/// Least request: of two with equal weights the one with fewer active requests, the first drawn on a tie.
///
/// With unequal weights (they already shaped the draw) `a` wins with probability ∝ 1/(active + 1), so that an
/// endpoint's rate goes with weight/(active + 1), as Envoy's does (SEMANTICS §5). Example: 1 and 3 active → 4/(2+4) = ⅔.
pub(super) fn fewer_active(a: u32, b: u32, weighted: bool, rng: &mut Rng) -> bool {
    if weighted {
        let (a, b) = (f64::from(a) + 1.0, f64::from(b) + 1.0);
        rng.f64() * (a + b) < b
    } else {
        a <= b
    }
}

/// Peak EWMA: what one more request would wait, latency × (active + 1), in nanoseconds.
///
/// An endpoint of unknown latency costs nothing while it is idle and a second per request while it is not: it is tried
/// at once, by one request at a time, and no crowd falls on a replica that has just started.
pub(super) fn ewma_cost(latency_nanos: f32, active: u32) -> f32 {
    const UNKNOWN_NANOS: f32 = 1e9;
    let latency = match (latency_nanos > 0.0, active) {
        (true, _) => latency_nanos,
        (false, 0) => 0.0,
        (false, _) => UNKNOWN_NANOS,
    };
    latency * (active as f32 + 1.0)
}

/// One of the best rank (lowest number), each with equal probability: a single pass with a reservoir of one.
pub(super) fn best_of(len: usize, rng: &mut Rng, rank: impl Fn(usize) -> u8) -> Option<usize> {
    let mut best: Option<(u8, usize)> = None;
    let mut ties = 0u64;
    for i in 0..len {
        let rank = rank(i);
        match best {
            Some((r, _)) if rank > r => {}
            Some((r, _)) if rank == r => {
                ties += 1;
                if rng.u64(..ties) == 0 {
                    best = Some((rank, i));
                }
            }
            _ => {
                ties = 1;
                best = Some((rank, i));
            }
        }
    }
    best.map(|(_, i)| i)
}

#[cfg(test)]
mod tests {
    use super::*;
    use fastrand::Rng;
    use proptest::prelude::*;

    const fn plain(len: usize) -> Field<'static> {
        Field { len, table: None }
    }

    #[test]
    fn nobody_to_choose_from() {
        let mut rng = Rng::with_seed(1);
        for field in [plain(0), Field { len: 0, table: Some(&[]) }] {
            assert_eq!(round_robin(field, || 3, |_| true), None);
            assert_eq!(random(field, &mut rng, |_| true), None);
            assert_eq!(two_choices(field, &mut rng, |_| true, |_, _, _| true), None);
        }
        assert_eq!(best_of(0, &mut rng, |_| 0), None);
    }

    #[test]
    fn a_skipped_endpoint_leaves_its_turns_to_all_others() {
        let mut turn = 0;
        let mut counts = [0; 4];
        for _ in 0..300 {
            let next = || {
                turn += 1;
                turn - 1
            };
            counts[round_robin(plain(4), next, |i| i != 1).unwrap()] += 1;
        }
        assert_eq!(counts, [100, 0, 100, 100]);
    }

    #[test]
    fn two_choices_prefer_the_better_and_keep_shares_on_ties() {
        let mut rng = Rng::with_seed(2);
        let load = [9, 0, 9, 9];
        let mut counts = [0u32; 4];
        for _ in 0..4000 {
            let first = |a: usize, b: usize, _: &mut Rng| load[a] <= load[b];
            counts[two_choices(plain(4), &mut rng, |_| true, first).unwrap()] += 1;
        }
        // The idle one wins every pair it is in: 1 - C(3,2)/C(4,2) = ½.
        assert!((1900..2100).contains(&counts[1]), "{counts:?}");

        let table = super::super::table::cycle(&[8, 1, 1]).unwrap();
        let weighted = Field { len: 3, table: Some(&table) };
        let mut counts = [0u32; 3];
        for _ in 0..10_000 {
            let first = |_: usize, _: usize, rng: &mut Rng| fewer_active(0, 0, true, rng);
            counts[two_choices(weighted, &mut rng, |_| true, first).unwrap()] += 1;
        }
        assert!((7800..8200).contains(&counts[0]), "{counts:?}");
    }

    #[test]
    fn weighted_least_request_follows_the_example() {
        let mut rng = Rng::with_seed(3);
        let wins = (0..30_000).filter(|_| fewer_active(1, 3, true, &mut rng)).count();
        assert!((19_500..20_500).contains(&wins), "{wins}");
        assert!(fewer_active(1, 1, false, &mut rng) && !fewer_active(2, 1, false, &mut rng));
    }

    #[test]
    fn an_unknown_endpoint_is_tried_by_one_request() {
        assert!(ewma_cost(0.0, 0) < ewma_cost(1.0, 0));
        assert!(ewma_cost(0.0, 1) > ewma_cost(1e6, 100));
    }

    proptest! {
        #[test]
        fn choices_are_eligible(len in 1usize..40, out in prop::collection::vec(any::<bool>(), 40), seed: u64) {
            let eligible = |i: usize| !out[i];
            let mut rng = Rng::with_seed(seed);
            let mut turn = seed % 1000;
            let next = || { turn += 1; turn };
            let by_turn = round_robin(plain(len), next, eligible);
            prop_assert_eq!(by_turn.is_some(), (0..len).any(eligible));
            let chosen = [by_turn, random(plain(len), &mut rng, eligible),
                two_choices(plain(len), &mut rng, eligible, |a, b, _| a < b)];
            prop_assert!(chosen.iter().flatten().all(|i| *i < len && eligible(*i)));
            let best = best_of(len, &mut rng, |i| u8::from(out[i])).unwrap();
            prop_assert_eq!(eligible(best), (0..len).any(eligible));
        }
    }
}
