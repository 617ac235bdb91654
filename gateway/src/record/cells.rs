//! Counters that many cores may count on at once without waiting for each other.
//!
//! A [`Row`] holds all numbers of one labelled thing (a route's arm, an endpoint). Each thread counts in its own
//! lane of the row; reading adds the lanes up. The histogram of the `prometheus` crate does four atomic operations on
//! cache lines that all cores share; `benches/record.rs` shows the difference.
//!
//! # Invariants
//!
//! - A histogram's count is the sum of its buckets, so the two never disagree within one reading.
//! - Counting takes no lock. A thread allocates its lane of a row once, at its first count.

use std::cell::Cell;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Lanes of a row. Threads beyond this number share lanes, which costs speed and no counts.
pub(super) const LANES: usize = 16;

/// Upper bounds of every duration histogram, in nanoseconds; the last bucket, without bound, follows.
pub const BOUNDS_NANOS: [u64; 17] = [
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
    30_000_000_000,
];

/// Slots that one histogram takes: its buckets, the one without bound, and the sum in nanoseconds.
pub(super) const HISTOGRAM_SLOTS: usize = BOUNDS_NANOS.len() + 2;

/// All numbers of one labelled thing: `N` counters and `G` gauges.
#[derive(Debug)]
pub(super) struct Row<const N: usize, const G: usize> {
    lanes: [OnceLock<Box<[AtomicU64; N]>>; LANES],
    gauges: [AtomicI64; G],
}

impl<const N: usize, const G: usize> Default for Row<N, G> {
    fn default() -> Self {
        Self { lanes: [const { OnceLock::new() }; LANES], gauges: [const { AtomicI64::new(0) }; G] }
    }
}

impl<const N: usize, const G: usize> Row<N, G> {
    /// Adds `n` to the counter at `slot`.
    pub fn add(&self, slot: usize, n: u64) {
        self.lane()[slot].fetch_add(n, Relaxed);
    }

    /// Takes one duration into the histogram that begins at `slot`.
    pub fn observe(&self, slot: usize, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_NANOS.iter().filter(|bound| nanos > **bound).count();

        let lane = self.lane();
        lane[slot + bucket].fetch_add(1, Relaxed);
        lane[slot + HISTOGRAM_SLOTS - 1].fetch_add(nanos, Relaxed);
    }

    /// Every counter, lanes added up. Wraps, so that [`Level`] may count down in another lane than up.
    pub fn totals(&self) -> [u64; N] {
        let mut totals = [0_u64; N];
        for lane in self.lanes.iter().filter_map(OnceLock::get) {
            for (total, cell) in totals.iter_mut().zip(lane.iter()) {
                *total = total.wrapping_add(cell.load(Relaxed));
            }
        }
        totals
    }

    /// The gauge at `slot`.
    pub fn gauge(&self, slot: usize) -> &AtomicI64 {
        &self.gauges[slot]
    }

    fn lane(&self) -> &[AtomicU64; N] {
        self.lanes[lane_of_this_thread()].get_or_init(|| Box::new([const { AtomicU64::new(0) }; N]))
    }
}

/// A level that goes up and down from any thread, kept in one counter of a row.
#[derive(Clone, Debug)]
pub struct Level<const N: usize, const G: usize> {
    row: Arc<Row<N, G>>,
    slot: usize,
}

impl<const N: usize, const G: usize> Level<N, G> {
    pub(super) fn new(row: &Arc<Row<N, G>>, slot: usize) -> Self {
        Self { row: Arc::clone(row), slot }
    }

    /// One more.
    pub fn inc(&self) {
        self.row.add(self.slot, 1);
    }

    /// One less.
    pub fn dec(&self) {
        self.row.add(self.slot, u64::MAX); // Adding 2⁶⁴ − 1 subtracts one; the sum over the lanes wraps back.
    }
}

/// The lane that this thread counts in. Threads get lanes in the order of their first count.
pub(super) fn lane_of_this_thread() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static LANE: Cell<usize> = const { Cell::new(usize::MAX) };
    }

    LANE.with(|lane| {
        if lane.get() == usize::MAX {
            lane.set(NEXT.fetch_add(1, Relaxed) % LANES);
        }
        lane.get()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_from_many_threads_add_up() {
        let row = Arc::new(Row::<2, 0>::default());

        std::thread::scope(|scope| {
            for _ in 0..LANES + 4 {
                scope.spawn(|| (0..1_000).for_each(|_| row.add(1, 2)));
            }
        });

        assert_eq!(row.totals(), [0, 2_000 * (LANES as u64 + 4)]);
    }

    #[test]
    fn level_that_rises_on_one_thread_and_falls_on_another_ends_where_it_began() {
        let row = Arc::new(Row::<1, 0>::default());
        let level = Level::new(&row, 0);

        std::thread::scope(|scope| scope.spawn(|| (0..5).for_each(|_| level.inc())).join()).unwrap();
        std::thread::scope(|scope| scope.spawn(|| (0..4).for_each(|_| level.dec())).join()).unwrap();

        assert_eq!(row.totals(), [1]);
    }

    #[test]
    fn duration_on_a_bound_belongs_to_the_bucket_below_it() {
        let row = Row::<HISTOGRAM_SLOTS, 0>::default();

        row.observe(0, Duration::from_nanos(BOUNDS_NANOS[3]));
        row.observe(0, Duration::from_nanos(BOUNDS_NANOS[3] + 1));
        row.observe(0, Duration::from_secs(3_600));

        let totals = row.totals();
        assert_eq!((totals[3], totals[4], totals[BOUNDS_NANOS.len()]), (1, 1, 1));
        assert_eq!(totals[HISTOGRAM_SLOTS - 1], 2 * BOUNDS_NANOS[3] + 1 + 3_600_000_000_000);
    }
}
