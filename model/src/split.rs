//! Who gets which arm: weighted rendezvous hashing, and an even spread for the unknown.
//!
//! For a person's key and each arm a number `u` in (0, 1) is drawn from a hash, and the arm
//! with the lowest `−ln(u) / weight` wins. An arm's score depends on that arm alone.
//!
//! # Invariants
//!
//! - Raising an arm's weight only lowers its own scores: people move onto it, nobody off it,
//!   and nobody between two others.
//! - Equal salt, label, weight and key give an equal choice on every gateway and in every
//!   version: the hash and its seeds are part of the format (the test vectors hold them).
//! - Another salt makes an independent choice.

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Seeds every hash that gateways must agree on: "tidegate" in ASCII. Changing it moves everybody.
pub const SEED: u64 = u64::from_be_bytes(*b"tidegate");

/// `2^64 / φ`, odd: its multiples modulo 2^64 spread as evenly as any sequence can (a Weyl sequence).
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// What an arm's scores are drawn from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArmSeed(u64);

impl ArmSeed {
    /// The seed of the arm `label` (`shop/v1`) in an experiment with `salt`.
    pub fn new(salt: &str, label: &str) -> Self {
        Self(xxh3_64_with_seed(label.as_bytes(), xxh3_64_with_seed(salt.as_bytes(), SEED)))
    }

    /// How far `key` is from this arm; the nearest arm wins. Infinite for a weight of 0.
    pub fn score(self, key: &[u8], weight: u32) -> f64 {
        -unit(xxh3_64_with_seed(key, self.0)).ln() / f64::from(weight)
    }
}

/// The arm that `key` belongs to, among arms with their weights. `None` when none has weight.
pub fn rendezvous(arms: impl Iterator<Item = (ArmSeed, u32)>, key: &[u8]) -> Option<usize> {
    arms.enumerate()
        .filter(|&(_, (_, weight))| weight > 0)
        .map(|(index, (seed, weight))| (index, seed.score(key, weight)))
        .min_by(|a, b| a.1.total_cmp(&b.1))
        .map(|(index, _)| index)
}

/// Spreads the `turn`-th request evenly over `0..total`: any run of consecutive turns
/// reaches each part in proportion to its size, within a few requests.
pub fn spread(turn: u64, total: u64) -> u64 {
    ((u128::from(turn.wrapping_mul(GOLDEN)) * u128::from(total)) >> 64) as u64
}

/// The upper 53 bits of `hash` as a number strictly between 0 and 1.
fn unit(hash: u64) -> f64 {
    ((hash >> 11) as f64 + 0.5) / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn arms(salt: &str, weights: &[u32]) -> Vec<(ArmSeed, u32)> {
        weights.iter().enumerate().map(|(i, &w)| (ArmSeed::new(salt, &format!("shop/v{i}")), w)).collect()
    }

    fn choose(salt: &str, weights: &[u32], key: &str) -> Option<usize> {
        rendezvous(arms(salt, weights).into_iter(), key.as_bytes())
    }

    /// Changing one of these moves people off their arms at the next upgrade.
    #[test]
    fn choices_are_the_same_in_every_version() {
        let seeds = ["", "checkout-2026"].map(|salt| ArmSeed::new(salt, "shop/v1").0);
        let chosen: String = (0..64)
            .map(|n| choose("checkout-2026", &[50, 30, 20], &format!("person-{n}")).unwrap().to_string())
            .collect();
        let turns: Vec<u64> = (0..8).map(|turn| spread(turn, 100)).collect();

        assert_eq!(seeds, [799_270_328_180_490_309, 10_092_264_154_052_330_187]);
        assert_eq!(chosen, "0202010021121201101201102001201000020101001022002011110100102020");
        assert_eq!(turns, [0, 61, 23, 85, 47, 9, 70, 32]);
    }

    #[test]
    fn shares_of_people_follow_the_weights() {
        let counts = (0..100_000).fold([0u32; 2], |mut counts, n| {
            counts[choose("checkout", &[95, 5], &format!("person-{n}")).unwrap()] += 1;
            counts
        });

        assert!((4_800..5_200).contains(&counts[1]), "{counts:?}");
    }

    #[test]
    fn another_salt_chooses_independently() {
        let both = (0..10_000)
            .map(|n| format!("person-{n}"))
            .filter(|key| choose("a", &[50, 50], key) == Some(0) && choose("b", &[50, 50], key) == Some(0))
            .count();

        assert!((2_300..2_700).contains(&both), "{both}");
    }

    #[test]
    fn nobody_is_chosen_for_an_arm_without_weight() {
        assert_eq!(choose("s", &[0, 0], "x"), None);
        assert!((0..1_000).all(|n| choose("s", &[0, 1], &n.to_string()) == Some(1)));
    }

    #[test]
    fn an_even_spread_is_within_five_hundredths_of_a_point_after_100_000_turns() {
        let hits = (0..100_000).filter(|&turn| spread(turn, 100) >= 95).count();

        assert!((4_950..=5_050).contains(&hits), "{hits}");
    }

    proptest! {
        #[test]
        fn raising_a_weight_moves_nobody_off_that_arm_nor_between_others(
            weights in prop::collection::vec(0u32..1_000, 2..6), raised in 0usize..6, by in 1u32..100_000, key: String,
        ) {
            let raised = raised % weights.len();
            let mut more = weights.clone();
            more[raised] += by;

            let before = choose("salt", &weights, &key);
            let after = choose("salt", &more, &key);

            prop_assert!(after == before || after == Some(raised), "{before:?} -> {after:?}");
        }

        #[test]
        fn removing_an_arm_moves_only_its_own_people(weights in prop::collection::vec(1u32..1_000, 2..6), gone in 0usize..6, key: String) {
            let gone = gone % weights.len();
            let mut fewer = weights.clone();
            fewer[gone] = 0;

            let before = choose("salt", &weights, &key);
            let after = choose("salt", &fewer, &key);

            prop_assert!(before == Some(gone) || after == before);
        }
    }
}
