//! How many bytes all shadow copies together may hold.
//!
//! # Invariants
//!
//! - Bytes are reserved before they are held, so the sum never passes the limit.
//! - A [`Held`] gives back what it took when it is dropped, however a copy ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The bytes that copies on all cores share. Relaxed atomics: nothing is ordered by them.
#[derive(Debug)]
pub struct ByteBudget {
    limit: AtomicU64,
    held: AtomicU64,
}

impl ByteBudget {
    /// A budget of `limit` bytes. What doesn't fit is refused, and the copy it was for is dropped and counted.
    pub fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self { limit: AtomicU64::new(limit), held: AtomicU64::new(0) })
    }

    /// Changes the limit. What is held already stays, even if it is more.
    pub fn set_limit(&self, limit: u64) {
        self.limit.store(limit, Relaxed);
    }

    /// Bytes held right now.
    pub fn held(&self) -> u64 {
        self.held.load(Relaxed)
    }

    /// A reservation of nothing yet.
    pub fn open(self: &Arc<Self>) -> Held {
        Held { budget: Arc::clone(self), bytes: 0 }
    }

    fn take(&self, bytes: u64) -> bool {
        let limit = self.limit.load(Relaxed);
        let fits = |held: u64| held.checked_add(bytes).filter(|&sum| sum <= limit);
        self.held.fetch_update(Relaxed, Relaxed, fits).is_ok()
    }
}

/// Bytes that were reserved; given back when dropped.
#[derive(Debug)]
pub struct Held {
    budget: Arc<ByteBudget>,
    bytes: u64,
}

impl Held {
    /// Reserves `bytes` more; false if they don't fit, and then nothing was reserved.
    #[must_use]
    pub fn grow(&mut self, bytes: u64) -> bool {
        let fits = self.budget.take(bytes);
        if fits {
            self.bytes += bytes;
        }
        fits
    }

    /// Gives back everything.
    pub fn clear(&mut self) {
        self.budget.held.fetch_sub(self.bytes, Relaxed);
        self.bytes = 0;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_never_passes_the_limit_and_returns_to_zero() {
        let budget = ByteBudget::new(10);
        let mut first = budget.open();
        let mut second = budget.open();

        let taken = [first.grow(6), second.grow(5), second.grow(4), first.grow(1)];

        assert_eq!(taken, [true, false, true, false]);
        assert_eq!(budget.held(), 10);
        drop(first);
        assert_eq!(budget.held(), 4);
        drop(second);
        assert_eq!(budget.held(), 0);
    }

    #[test]
    fn a_smaller_limit_refuses_new_bytes_and_keeps_the_old() {
        let budget = ByteBudget::new(10);
        let mut held = budget.open();
        assert!(held.grow(8));

        budget.set_limit(5);

        assert!(!held.grow(1));
        assert_eq!(budget.held(), 8);
    }

    #[test]
    fn an_absurd_reservation_is_refused_instead_of_wrapping() {
        let budget = ByteBudget::new(u64::MAX);
        let mut held = budget.open();
        assert!(held.grow(1));

        assert!(!held.grow(u64::MAX));

        assert_eq!(budget.held(), 1);
    }
}
