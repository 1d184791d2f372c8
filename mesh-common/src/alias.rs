//! Weighted choice in one map lookup: Walker's alias method with Vose's construction.
//!
//! Each slot is visited with equal probability; it keeps a coin's threshold and the endpoint that takes what the slot's
//! own endpoint leaves. Example: weights 3 and 1 → two slots of mean 2. Slot 1 (weight 1) keeps 1/2 and gives 1/2 to
//! endpoint 0; slot 0 is all endpoint 0's: 1/2 + 1/4 = 3/4 for endpoint 0.

/// Which slot to look at, from 32 random bits. `slots` must not be 0.
///
/// Multiplication instead of a remainder (D. Lemire, "Fast Random Integer Generation in an Interval"): the bias is at
/// most `slots / 2^32`.
#[inline(always)]
pub const fn slot(slots: u32, random: u32) -> u32 {
    ((random as u64 * slots as u64) >> 32) as u32
}

/// Whether the slot's own endpoint is taken, from another 32 random bits.
#[inline(always)]
pub const fn keeps(threshold: u32, coin: u32) -> bool {
    coin <= threshold
}

/// One slot before addresses are filled in.
#[cfg(any(test, feature = "user"))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Slot {
    /// Index of the endpoint that takes the rest.
    pub alias: u32,
    /// The own endpoint is taken with probability `(threshold + 1) / 2^32`.
    pub threshold: u32,
}

/// One slot per weight, in the order given; a weight of 0 counts as 1 (an endpoint in the set may be chosen).
#[cfg(any(test, feature = "user"))]
pub fn table(weights: &[u32]) -> alloc::vec::Vec<Slot> {
    use alloc::vec::Vec;
    let count = weights.len() as u128;
    let total: u128 = weights.iter().map(|w| u128::from((*w).max(1))).sum();
    // Shares scaled so that a full slot is exactly `total`: no rounding until the threshold.
    let mut shares: Vec<u128> = weights.iter().map(|w| u128::from((*w).max(1)) * count).collect();
    let mut slots: Vec<Slot> = (0..weights.len() as u32).map(|own| Slot { alias: own, threshold: u32::MAX }).collect();
    let (mut small, mut large): (Vec<usize>, Vec<usize>) = (0..weights.len()).partition(|i| shares[*i] < total);
    while let (Some(poor), Some(&rich)) = (small.pop(), large.last()) {
        // share / total of 2^32, minus one because `keeps` is inclusive. Shares are > 0, so this does not underflow.
        let scaled = ((shares[poor] << 32).div_ceil(total)).max(1) - 1;
        slots[poor] = Slot { alias: rich as u32, threshold: scaled.min(u128::from(u32::MAX)) as u32 };
        shares[rich] -= total - shares[poor];
        if shares[rich] < total {
            large.pop();
            small.push(rich);
        }
    }
    slots
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    /// Exact probability of each endpoint, in units of 1 / (slots × 2^32).
    fn probability(slots: &[Slot]) -> Vec<u128> {
        let mut shares = std::vec![0_u128; slots.len()];
        for (own, slot) in slots.iter().enumerate() {
            let kept = u128::from(slot.threshold) + 1;
            shares[own] += kept;
            shares[slot.alias as usize] += (1 << 32) - kept;
        }
        shares
    }

    #[test]
    fn three_to_one() {
        let slots = table(&[3, 1]);
        assert_eq!(slots, [Slot { alias: 0, threshold: u32::MAX }, Slot { alias: 0, threshold: (1 << 31) - 1 }]);
        assert_eq!(probability(&slots), [3 << 31, 1 << 31]);
    }

    #[test]
    fn empty_and_single() {
        assert!(table(&[]).is_empty());
        assert_eq!(table(&[7]), [Slot { alias: 0, threshold: u32::MAX }]);
    }

    proptest! {
        #[test]
        fn shares_follow_weights(weights in prop::collection::vec(1_u32..=u32::MAX, 1..64)) {
            let slots = table(&weights);
            let total: u128 = weights.iter().map(|w| u128::from(*w)).sum();
            let units = (weights.len() as u128) << 32;
            for (weight, share) in weights.iter().zip(probability(&slots)) {
                let wanted = u128::from(*weight) * units / total;
                // Each slot's threshold is rounded up by less than one unit.
                prop_assert!(share.abs_diff(wanted) <= weights.len() as u128 + 1, "{share} {wanted}");
            }
        }

        #[test]
        fn slot_is_in_range(slots in 1_u32.., random in any::<u32>()) {
            prop_assert!(slot(slots, random) < slots);
        }
    }
}
