//! Weighted order of a set's endpoints, computed once per set.
//!
//! Endpoint `i` of weight `w` is due at `(k + ½) / w` for k = 0, 1, …; the table is one cycle of all of them in the
//! order of their due times (earliest deadline first). Example: weights 3, 1 → due 0.17 0.5 0.83 and 0.5 → a a b a.
//! Stepping through it is a smooth weighted round robin; drawing a uniform index from it is a draw by weight in O(1).

use std::cmp::Ordering;

/// Cycles longer than this are scaled down; the error of a share is then at most `1/MAX_CYCLE` of the traffic (plus
/// one slot for each endpoint, which never gets less than one).
const MAX_CYCLE: u64 = 4096;

/// Indices into `weights`, or `None` where all weights are equal (the plain order does).
pub(super) fn cycle(weights: &[u32]) -> Option<Box<[u32]>> {
    let first = *weights.first()?;
    if weights.iter().all(|w| *w == first) {
        return None;
    }
    let weights: Vec<u64> = weights.iter().map(|w| u64::from((*w).max(1))).collect();
    let shares = scale(&weights);
    let mut due: Vec<(u64, u64, u32)> = Vec::with_capacity(shares.iter().sum::<u64>() as usize);
    for (index, share) in shares.iter().enumerate() {
        due.extend((0..*share).map(|k| (2 * k + 1, *share, index as u32)));
    }
    due.sort_unstable_by(|a, b| by_deadline(*a, *b));
    Some(due.into_iter().map(|(_, _, index)| index).collect())
}

/// `(2k+1)/share`, compared as fractions: exact, whatever the weights.
fn by_deadline((a, a_share, a_index): (u64, u64, u32), (b, b_share, b_index): (u64, u64, u32)) -> Ordering {
    (a * b_share).cmp(&(b * a_share)).then(a_index.cmp(&b_index))
}

fn scale(weights: &[u64]) -> Vec<u64> {
    let divisor = weights.iter().fold(0, |a, b| gcd(a, *b)).max(1);
    let total: u64 = weights.iter().map(|w| w / divisor).sum();
    if total <= MAX_CYCLE {
        return weights.iter().map(|w| w / divisor).collect();
    }
    // Rounds to the nearest slot: 4096 slots for weights 1,000,000 and 1 → 4096 and 1.
    weights.iter().map(|w| ((w / divisor * MAX_CYCLE + total / 2) / total).max(1)).collect()
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn equal_weights_need_no_table() {
        assert_eq!(cycle(&[]), None);
        assert_eq!(cycle(&[5, 5, 5]), None);
    }

    #[test]
    fn is_smooth() {
        assert_eq!(cycle(&[3, 1]).unwrap().as_ref(), [0, 0, 1, 0]);
        assert_eq!(cycle(&[10, 20]).unwrap().as_ref(), [1, 0, 1]);
        assert_eq!(cycle(&[5, 1, 1]).unwrap().as_ref(), [0, 0, 0, 1, 2, 0, 0]);
    }

    #[test]
    fn huge_weights_are_scaled_and_nobody_starves() {
        let table = cycle(&[u32::MAX, 1, u32::MAX / 2]).unwrap();
        assert!(table.len() <= MAX_CYCLE as usize + 3);
        let count = |i| table.iter().filter(|x| **x == i).count();
        assert_eq!(count(1), 1);
        assert!((count(0) as f64 / count(2) as f64 - 2.0).abs() < 0.01);
    }

    proptest! {
        #[test]
        fn one_cycle_holds_each_endpoint_in_proportion(weights in prop::collection::vec(1u32..50, 2..20)) {
            let Some(table) = cycle(&weights) else { return Ok(()) };
            let total: u32 = weights.iter().sum();
            for (i, w) in weights.iter().enumerate() {
                let count = table.iter().filter(|x| **x == i as u32).count();
                prop_assert_eq!(count * total as usize, *w as usize * table.len());
            }
        }
    }
}
