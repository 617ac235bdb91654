//! Which of the last requests failed: a ring of bits.
//!
//! # Invariants
//!
//! - While none of the last requests failed, a success writes nothing.
//! - The count of failures is read off the bits, so it can't drift from them.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU32, AtomicU64};

use tidegate_model::desired::FailureRate;

const WORDS: usize = FailureRate::MAX_OF.div_ceil(64) as usize;

/// The outcomes of the last `of` requests.
///
/// Cores that write at once may lose an outcome to each other; the window is a
/// statistic. It never counts a failure that didn't happen.
#[derive(Debug, Default)]
pub(super) struct Window {
    bits: [AtomicU64; WORDS],
    /// Where the next outcome goes, modulo `of`.
    position: AtomicU64,
    /// From this position on, no failure is left in the window.
    clean_from: AtomicU64,
    /// The size that the bits were written with.
    of: AtomicU32,
}

impl Window {
    /// Takes a success in.
    pub fn good(&self, of: u32) {
        if self.position.load(Relaxed) >= self.clean_from.load(Relaxed) {
            return; // No failure to push out.
        }
        let (word, bit) = self.advance(self.resized(of)).1;
        if word.load(Relaxed) & bit != 0 {
            word.fetch_and(!bit, Relaxed);
        }
    }

    /// Takes a failure in. Returns how many of the last `of` requests failed, this one included.
    pub fn failed(&self, of: u32) -> u32 {
        let of = self.resized(of);
        let (position, (word, bit)) = self.advance(of);
        word.fetch_or(bit, Relaxed);
        self.clean_from.fetch_max(position + u64::from(of) + 1, Relaxed);
        self.bits.iter().map(|word| word.load(Relaxed).count_ones()).sum()
    }

    /// Forgets everything.
    pub fn clear(&self) {
        for word in &self.bits {
            word.store(0, Relaxed);
        }
        self.clean_from.store(0, Relaxed);
    }

    /// The size within our bounds. A size that a new configuration changed starts an empty window.
    fn resized(&self, of: u32) -> u32 {
        let of = of.clamp(1, FailureRate::MAX_OF);
        if self.of.load(Relaxed) != of && self.of.swap(of, Relaxed) != of {
            self.clear();
        }
        of
    }

    fn advance(&self, of: u32) -> (u64, (&AtomicU64, u64)) {
        let position = self.position.fetch_add(1, Relaxed);
        let slot = (position % u64::from(of)) as usize;
        (position, (&self.bits[slot / 64], 1 << (slot % 64)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_window_counts_what_a_list_of_the_last_requests_counts(
            of in 1u32..=130,
            outcomes in prop::collection::vec(any::<bool>(), 0..600),
        ) {
            let window = Window::default();
            let mut last = VecDeque::new();

            for failed in outcomes {
                last.push_back(failed);
                if last.len() > of as usize {
                    last.pop_front();
                }
                if failed {
                    let expected = last.iter().filter(|failed| **failed).count();
                    prop_assert_eq!(window.failed(of) as usize, expected);
                } else {
                    window.good(of);
                }
            }
        }
    }

    #[test]
    fn successes_of_a_clean_window_write_nothing() {
        let window = Window::default();

        for _ in 0..100 {
            window.good(20);
        }

        assert_eq!(window.position.load(Relaxed), 0);
    }

    #[test]
    fn a_window_of_another_size_starts_empty() {
        let window = Window::default();
        for _ in 0..10 {
            window.failed(20);
        }

        assert_eq!(window.failed(30), 1);
    }
}
