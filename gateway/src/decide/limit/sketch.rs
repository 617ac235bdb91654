//! A sketch of all buckets in fixed memory: who asks little passes by it alone.
//!
//! [`ROWS`] rows of cells; a key has one cell in each row, and shares each with others. A cell is a bucket: the moment
//! at which it will be full again (GCRA). A key's level is the lowest of its cells. While that stays below half a bucket,
//! the key passes by raising them; beyond it the exact bucket decides ([`super`]), and raises them too.
//!
//! After the count-min sketch with conservative update (Cormode and Muthukrishnan 2005; Estan and Varghese 2002),
//! with levels that drain instead of counts that are reset.
//!
//! # Invariants
//!
//! - A key's level in the sketch is never below its true one: collisions make it seem heavier, and races don't make it
//!   seem lighter.
//! - Who shares all cells with others is at worst taken for somebody who has used half a bucket: no collision alone
//!   leads to a refusal.
//!
//! # How races are told
//!
//! Every pass changes the cell of the first row, last of all, by a compare-and-swap from what was read first of all. So
//! of two passes of one key the second sees the first in every row, or is tried again.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{AcqRel, Acquire};

/// Cells of a key.
const ROWS: usize = 4;

/// Bits of a hash that name a cell in a row.
const BITS: u32 = 16;

/// See the module. 2 MiB, however many keys there are.
pub struct Sketch {
    cells: Box<[AtomicU64]>,
    /// Cells in a row, less one. A power of two, less one.
    mask: u64,
    interval: u64,
    /// Nanoseconds of a bucket that the sketch gives out: whole tokens, at most half of them.
    threshold: u64,
}

impl Sketch {
    /// A sketch of buckets of `burst` tokens, one every `interval` nanoseconds. `None` for buckets so small that
    /// half of one is less than a token: then every key needs its own.
    pub fn new(interval: u64, burst: u32) -> Option<Self> {
        Self::with_rows_of(1 << BITS, interval, burst)
    }

    /// With `cells` in each row, a power of two of at most 2^16.
    pub(super) fn with_rows_of(cells: usize, interval: u64, burst: u32) -> Option<Self> {
        let threshold = interval.checked_mul(u64::from(burst / 2)).filter(|threshold| *threshold > 0)?;
        let cells: Box<[AtomicU64]> = (0..ROWS * cells).map(|_| AtomicU64::new(0)).collect();
        Some(Self { mask: (cells.len() / ROWS - 1) as u64, cells, interval, threshold })
    }

    /// Takes a token of the key with this hash at `now`, if the sketch alone may give it. Returns when the bucket is
    /// full again.
    pub fn take(&self, hash: u64, now: u64) -> Option<u64> {
        self.update(hash, |level| self.gives(level, now)).1
    }

    /// What [`Self::take`] would return.
    pub fn peek(&self, hash: u64, now: u64) -> Option<u64> {
        self.gives(self.level(&self.places(hash)).0, now)
    }

    /// When the key's bucket is full again, as far as the sketch may be believed: never more than half a bucket away.
    pub fn at_most_half(&self, level: u64, now: u64) -> u64 {
        level.min(now.saturating_add(self.threshold))
    }

    /// The key's level, as the sketch has it.
    pub fn read(&self, hash: u64) -> u64 {
        self.level(&self.places(hash)).0
    }

    /// Lets the exact bucket of a key decide until `until`, however little it asks.
    pub fn hold(&self, hash: u64, until: u64) {
        let held = until.saturating_add(self.threshold);
        self.update(hash, |level| Some(level.max(held)));
    }

    /// Shows `decide` the key's level, and raises it to what that returns. Again where the key passed elsewhere
    /// meanwhile. Returns the level that was last shown, and what was returned for it.
    pub fn update(&self, hash: u64, mut decide: impl FnMut(u64) -> Option<u64>) -> (u64, Option<u64>) {
        let places = self.places(hash);
        loop {
            let (level, first) = self.level(&places);
            let Some(raised) = decide(level) else { return (level, None) };
            for &place in &places[1..] {
                let cell = &self.cells[place];
                if cell.load(Acquire) < raised {
                    cell.fetch_max(raised, AcqRel);
                }
            }
            // It must change, so that whoever has read it before must read again: one more nanosecond at least.
            let last = raised.max(first.saturating_add(1));
            if self.cells[places[0]].compare_exchange(first, last, AcqRel, Acquire).is_ok() {
                return (level, Some(raised));
            }
        }
    }

    fn gives(&self, level: u64, now: u64) -> Option<u64> {
        let full_at = level.max(now).saturating_add(self.interval);
        (full_at - now <= self.threshold).then_some(full_at)
    }

    /// The lowest of the cells, and the first one, which is read before the others.
    fn level(&self, places: &[usize; ROWS]) -> (u64, u64) {
        let first = self.cells[places[0]].load(Acquire);
        let level = places[1..].iter().map(|&place| self.cells[place].load(Acquire)).fold(first, u64::min);
        (level, first)
    }

    /// Sixteen bits of the hash for each row, which four make use of all.
    fn places(&self, hash: u64) -> [usize; ROWS] {
        let width = self.mask as usize + 1;
        std::array::from_fn(|row| row * width + (hash >> (BITS * row as u32) & self.mask) as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_bucket_passes_by_the_sketch_and_returns_with_time() {
        let sketch = Sketch::new(10, 7).unwrap();

        let now: Vec<_> = (0..4).map(|_| sketch.take(7, 100)).collect();

        assert_eq!(now, [Some(110), Some(120), Some(130), None]);
        assert_eq!((sketch.take(7, 109), sketch.take(7, 110)), (None, Some(140)));
    }

    #[test]
    fn a_key_counts_for_itself_while_one_of_its_cells_is_its_own() {
        let sketch = Sketch::new(10, 4).unwrap();
        let (a, shares_three) = (0x0001_0001_0001_0001, 0x0001_0001_0001_0002);
        while sketch.take(a, 100).is_some() {}

        assert_eq!(sketch.take(shares_three, 100), Some(110));
    }

    #[test]
    fn buckets_of_one_token_have_no_sketch() {
        assert!(Sketch::new(10, 1).is_none());
    }

    #[test]
    fn held_keys_are_left_to_their_exact_bucket_and_let_go_in_time() {
        let sketch = Sketch::new(10, 4).unwrap();

        sketch.hold(7, 1_000);

        assert_eq!((sketch.take(7, 500), sketch.take(7, 1_000)), (None, None));
        assert!(sketch.take(7, 1_100).is_some());
    }
}
