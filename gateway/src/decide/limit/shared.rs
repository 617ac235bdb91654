//! What a limit that is shared with other gateways has to tell them: tokens that were taken and not yet told.
//!
//! # Invariants
//!
//! - At most [`KEYS`] keys wait to be told. Tokens of further ones are decided here alone, and counted.
//! - All gateways name a key the same, and nobody who doesn't know a process's dice can tell where it keeps one.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rand::Rng;
use sha2::{Digest as _, Sha256};

/// Keys that wait to be told.
pub const KEYS: usize = 65_536;

/// Parts of what waits, so that cores seldom wait for each other.
const SHARDS: usize = 16;

/// See the module.
pub struct Shared {
    name: String,
    spread: Spread,
    waiting: [Mutex<HashMap<u64, u32>>; SHARDS],
    untold: AtomicU64,
    /// Tokens of one key that are worth telling at once.
    many: u32,
    /// Tokens of one key that are kept for later, at most: a whole bucket says everything.
    most: u32,
}

impl Shared {
    /// Nothing to tell yet, for the limit `name` with buckets of `burst` tokens.
    pub fn new(name: &str, burst: u32, dice: &mut impl Rng) -> Self {
        Self {
            name: name.to_owned(),
            spread: Spread::new(dice),
            waiting: Default::default(),
            untold: AtomicU64::new(0),
            many: (burst / 8).max(4),
            most: burst.max(1),
        }
    }

    /// The hash of a key's values by which this process keeps it.
    pub fn hash<'a>(&self, values: impl Iterator<Item = Option<crate::decide::key::Value<'a>>>) -> u64 {
        let mut hash = Sha256::new();
        for value in values {
            let bytes = value.as_ref().map_or(&[][..], |value| value.as_bytes());
            hash.update((bytes.len() as u64).to_be_bytes()); // So that values can't run into each other.
            hash.update(bytes);
        }
        let digest = hash.finalize();
        self.spread.out(u64::from_be_bytes(digest[..8].try_into().expect("eight bytes are eight bytes")))
    }

    /// Remembers that a token was taken. True when the others should hear of this key soon.
    pub fn took(&self, hash: u64) -> bool {
        let mut waiting = self.waiting(hash);
        let room = waiting.len() < KEYS / SHARDS || waiting.contains_key(&hash);
        if !room {
            self.untold.fetch_add(1, Relaxed);
            return false;
        }
        let tokens = waiting.entry(hash).or_default();
        *tokens = tokens.saturating_add(1);
        *tokens == self.many
    }

    /// Takes out everything that waits to be told: how this process keeps each key, and its tokens.
    pub fn take_all(&self) -> Vec<(u64, u32)> {
        let shards = self.waiting.iter();
        shards.flat_map(|shard| std::mem::take(&mut *shard.lock().unwrap_or_else(PoisonError::into_inner))).collect()
    }

    /// Puts back what couldn't be told.
    pub fn put_back(&self, hash: u64, tokens: u32) {
        let mut waiting = self.waiting(hash);
        if waiting.len() < KEYS / SHARDS || waiting.contains_key(&hash) {
            let sum = waiting.entry(hash).or_default();
            *sum = sum.saturating_add(tokens).min(self.most);
        } else {
            self.untold.fetch_add(u64::from(tokens), Relaxed);
        }
    }

    /// Tokens of a key that wait to be told.
    pub fn untold_of(&self, hash: u64) -> u32 {
        self.waiting(hash).get(&hash).copied().unwrap_or(0)
    }

    /// Tokens that were never told because too many keys waited, since this was asked last.
    pub fn lost(&self) -> u64 {
        self.untold.swap(0, Relaxed)
    }

    /// How all gateways name a key.
    pub fn name_of(&self, hash: u64) -> String {
        format!("tidegate:limit:{}:{:016x}", self.name, self.spread.back(hash))
    }

    fn waiting(&self, hash: u64) -> MutexGuard<'_, HashMap<u64, u32>> {
        self.waiting[hash as usize % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A permutation of 64-bit numbers that only this process knows: hashes that everybody can compute would let somebody
/// crowd a map.
struct Spread {
    odd: [u64; 2],
    inverse: [u64; 2],
}

impl Spread {
    fn new(dice: &mut impl Rng) -> Self {
        let odd: [u64; 2] = std::array::from_fn(|_| dice.random::<u64>() | 1);
        Self { odd, inverse: odd.map(inverse) }
    }

    fn out(&self, number: u64) -> u64 {
        number.wrapping_mul(self.odd[0]).swap_bytes().wrapping_mul(self.odd[1])
    }

    fn back(&self, number: u64) -> u64 {
        number.wrapping_mul(self.inverse[1]).swap_bytes().wrapping_mul(self.inverse[0])
    }
}

/// What undoes multiplying by an odd number, by Newton's iteration: each step doubles the bits that are right.
fn inverse(odd: u64) -> u64 {
    (0..6).fold(odd, |guess, _| guess.wrapping_mul(2_u64.wrapping_sub(odd.wrapping_mul(guess))))
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    fn shared(seed: u64) -> Shared {
        Shared::new("api", 100, &mut StdRng::seed_from_u64(seed))
    }

    #[test]
    fn two_gateways_name_a_key_the_same_and_keep_it_differently() {
        let (one, other) = (shared(1), shared(2));
        let (here, there) = (one.hash(std::iter::once(None)), other.hash(std::iter::once(None)));

        assert_ne!(here, there);
        assert_eq!(one.name_of(here), other.name_of(there));
        assert_ne!(one.name_of(here), one.name_of(here + 1));
    }

    #[test]
    fn what_could_not_be_told_is_told_later_and_never_more_than_a_bucket() {
        let shared = shared(1);
        assert!((0..3).all(|_| !shared.took(7)), "three of a hundred can wait");

        let told = shared.take_all();
        shared.put_back(7, 3);
        shared.put_back(7, 1_000);

        assert_eq!((told, shared.untold_of(7)), (vec![(7, 3)], 100));
    }

    #[test]
    fn keys_that_wait_are_bounded_and_what_is_lost_is_counted() {
        let shared = shared(1);
        for hash in 0..2 * KEYS as u64 {
            shared.took(hash);
        }

        assert_eq!(shared.take_all().len(), KEYS);
        assert_eq!((shared.lost(), shared.lost()), (KEYS as u64, 0));
    }
}
