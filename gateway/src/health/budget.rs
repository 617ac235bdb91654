//! Bounds retries to a share of requests, so that a failing service isn't buried under them.
//!
//! # Invariants
//!
//! - Over any ten seconds, retries stay within the share of the requests counted
//!   in that time plus the floor, however many cores ask at once.
//! - Counting a request in is one relaxed add.

use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use tidegate_model::time::Timestamp;

/// Length of the sliding window, in seconds; one bucket each.
const WINDOW_SECONDS: u64 = 10;
/// Retries a second that are allowed with next to no traffic, so that a quiet service has retries too.
/// They may be taken at once: 30 in any ten seconds.
const FLOOR_PER_SECOND: u64 = 3;

/// Lets retries be at most a share of requests, with a small floor.
#[derive(Debug, Default)]
pub struct RetryBudget {
    percent: AtomicU32,
    requests: Buckets,
    retries: Buckets,
}

impl RetryBudget {
    /// `percent` of recent requests may be retries.
    pub fn new(percent: u32) -> Self {
        Self { percent: AtomicU32::new(percent), ..Self::default() }
    }

    /// Changes the share. What was counted stays, so that a reload doesn't refill the budget.
    pub fn set_percent(&self, percent: u32) {
        self.percent.store(percent, Relaxed);
    }

    /// Counts a request in.
    pub fn deposit(&self, now: Timestamp) {
        self.requests.add(second(now), Relaxed);
    }

    /// Whether one more retry may be made; takes it if so.
    pub fn withdraw(&self, now: Timestamp) -> bool {
        let second = second(now);
        let share = self.requests.sum(second, Relaxed) * u64::from(self.percent.load(Relaxed)) / 100;
        let allowed = share + FLOOR_PER_SECOND * WINDOW_SECONDS;
        if self.retries.sum(second, Relaxed) >= allowed {
            return false;
        }

        // Take first, look then: two cores at the border may both give up, but never both go over it.
        self.retries.add(second, SeqCst);
        let within = self.retries.sum(second, SeqCst) <= allowed;
        if !within {
            self.retries.take_back(second);
        }
        within
    }
}

fn second(now: Timestamp) -> u64 {
    now.as_nanos() / 1_000_000_000
}

/// Counts of the last seconds. Each bucket packs the second it counts (upper half) and the count.
#[derive(Debug, Default)]
struct Buckets([AtomicU64; WINDOW_SECONDS as usize]);

const COUNT: u64 = u32::MAX as u64;

impl Buckets {
    fn add(&self, second: u64, order: Ordering) {
        let bucket = self.bucket(second);
        let mut seen = bucket.load(Relaxed);
        loop {
            if seen >> 32 == second {
                bucket.fetch_add(1, order);
                return;
            }
            if seen >> 32 > second {
                return; // A caller whose clock reading is ten seconds old. Nobody needs it any more.
            }
            match bucket.compare_exchange_weak(seen, second << 32 | 1, order, Relaxed) {
                Ok(_) => return,
                Err(now) => seen = now,
            }
        }
    }

    fn take_back(&self, second: u64) {
        let one_less = |seen: u64| (seen >> 32 == second && seen & COUNT > 0).then(|| seen - 1);
        // Where the bucket has moved on, there is nothing to take back.
        let _ = self.bucket(second).fetch_update(SeqCst, Relaxed, one_less);
    }

    fn sum(&self, second: u64, order: Ordering) -> u64 {
        let oldest = (second + 1).saturating_sub(WINDOW_SECONDS);
        let seen = self.0.iter().map(|bucket| bucket.load(order));
        seen.filter(|seen| seen >> 32 >= oldest).map(|seen| seen & COUNT).sum()
    }

    fn bucket(&self, second: u64) -> &AtomicU64 {
        &self.0[(second % WINDOW_SECONDS) as usize]
    }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn at(millis: u64) -> Timestamp {
        Timestamp::ZERO + Duration::from_millis(millis)
    }

    fn taken(budget: &RetryBudget, now: Timestamp, asked: usize) -> usize {
        (0..asked).filter(|_| budget.withdraw(now)).count()
    }

    #[test]
    fn a_quiet_service_may_retry_three_times_a_second_and_no_more() {
        let budget = RetryBudget::new(20);

        assert_eq!(taken(&budget, at(0), 1_000), 30);
        assert_eq!(taken(&budget, at(9_999), 1_000), 0);
        assert_eq!(taken(&budget, at(10_000), 1_000), 30);
    }

    #[test]
    fn a_busy_service_may_retry_its_share_on_top_of_the_floor() {
        let budget = RetryBudget::new(20);
        for request in 0..10_000 {
            budget.deposit(at(request));
        }

        assert_eq!(taken(&budget, at(9_999), 10_000), 2_030);
    }

    #[test]
    fn a_share_that_is_changed_keeps_what_was_taken() {
        let budget = RetryBudget::new(0);
        for _ in 0..1_000 {
            budget.deposit(at(0));
        }
        assert_eq!(taken(&budget, at(0), 100), 30);

        budget.set_percent(10);

        assert_eq!(taken(&budget, at(0), 1_000), 100);
    }

    #[test]
    fn cores_that_ask_at_once_never_take_more_than_is_there() {
        let budget = RetryBudget::new(10);
        for _ in 0..1_000 {
            budget.deposit(at(500));
        }

        // Half of them are a second ahead, so that two buckets are written at once.
        let total: usize = thread::scope(|scope| {
            let budget = &budget;
            let ask = |millis| scope.spawn(move || taken(budget, at(millis), 1_000));
            let threads: Vec<_> = [500, 1_500, 500, 1_500].map(ask).into();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });

        assert!(total <= 130, "{total} were taken");
        assert!(total > 100, "{total} were taken: they starved each other");
    }

    proptest! {
        #[test]
        fn any_ten_seconds_hold_at_most_the_share_and_the_floor(
            percent in 0u32..=100,
            steps in prop::collection::vec((0u64..3_000, 0u32..50, 0u32..40), 1..25),
        ) {
            let budget = RetryBudget::new(percent);
            let mut now = 0;
            let mut requests = Vec::new();
            let mut retries = Vec::new();

            for (pause, deposits, asked) in steps {
                now += pause;
                for _ in 0..deposits {
                    budget.deposit(at(now));
                    requests.push(now / 1_000);
                }
                for _ in 0..asked {
                    let recent = |times: &[u64]| times.iter().filter(|t| **t + WINDOW_SECONDS > now / 1_000).count() as u64;
                    let allowed = recent(&requests) * u64::from(percent) / 100 + 30;
                    let granted = budget.withdraw(at(now));
                    prop_assert_eq!(granted, recent(&retries) < allowed);
                    if granted {
                        retries.push(now / 1_000);
                    }
                }
            }
        }
    }
}
