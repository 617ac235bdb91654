//! How long we still wait for a client that must keep a minimum rate.
//!
//! A client has credit, in time. Waiting for it spends credit, what it moves earns some: a second for as many bytes as
//! it must move in one. So a pause is free for whoever was quick before, and a trickle is not. Time in which nobody
//! waits for the client (its endpoint is slow, say) costs nothing. Like `RequestReadTimeout` of Apache's
//! mod_reqtimeout, but with a bound on what can be saved up.
//!
//! # Invariants
//!
//! - Credit is never more than the patience that was configured, so silence alone is bounded by it.
//! - However its bytes are cut into pieces, a client earns the same for them.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tidegate_model::time::Timestamp;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::clock;

/// Credit of a client that hasn't moved anything yet, where its patience isn't less.
const GRACE: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Clone, Debug)]
pub struct Pace {
    /// Bytes a second. 0: silence alone is bounded.
    rate: u64,
    patience: Duration,
    credit: Duration,
    since: Option<Timestamp>,
}

impl Pace {
    /// For a client that must move `rate` bytes a second (0: no minimum), and may pause for `patience`.
    pub fn new(rate: u64, patience: Duration) -> Self {
        let credit = if rate == 0 { patience } else { patience.min(GRACE) };
        Self { rate, patience, credit, since: None }
    }

    /// We wait for the client now, if we don't already. Returns when it is too late.
    pub fn wait(&mut self, now: Timestamp) -> Timestamp {
        *self.since.get_or_insert(now) + self.credit
    }

    /// The client has moved `bytes`; nobody waits for it any more until the next [`Pace::wait`].
    pub fn moved(&mut self, bytes: u64, now: impl FnOnce() -> Timestamp) {
        if let Some(since) = self.since.take() {
            self.credit = self.credit.saturating_sub(now().since(since));
        }
        self.earn(bytes);
    }

    fn earn(&mut self, bytes: u64) {
        if bytes == 0 {
            return;
        }
        let earned = match self.rate {
            0 => self.patience,
            rate => {
                let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(rate);
                Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
            }
        };
        self.credit = self.credit.saturating_add(earned).min(self.patience);
    }
}

/// A timer that costs nothing until it is needed, and little when its time is moved again and again.
#[derive(Debug, Default)]
pub struct Timer(Option<Pin<Box<Sleep>>>);

impl Timer {
    /// Ready when `at` has passed. Otherwise the task is woken then, or somewhat earlier.
    pub fn poll_at(&mut self, at: Timestamp, cx: &mut Context<'_>) -> Poll<()> {
        let at: Instant = clock::instant(at);
        let sleep = self.0.get_or_insert_with(|| Box::pin(sleep_until(at)));
        // One that rings too early is set anew then: moving it later each time would cost more.
        if sleep.deadline() > at {
            sleep.as_mut().reset(at);
        }
        while sleep.as_mut().poll(cx).is_ready() {
            if sleep.deadline() >= at {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(at);
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    fn at(seconds: f64) -> Timestamp {
        Timestamp::ZERO + Duration::from_secs_f64(seconds)
    }

    /// When a client that moves `bytes` every `every` seconds is given up; `None` within an hour.
    fn given_up(mut pace: Pace, bytes: u64, every: f64) -> Option<f64> {
        let mut now = 0.0;
        while now < 3_600.0 {
            let late = pace.wait(at(now));
            now += every;
            if at(now) >= late {
                return Some(late.as_nanos() as f64 / 1e9);
            }
            pace.moved(bytes, || at(now));
        }
        None
    }

    #[test]
    fn silence_is_borne_for_the_grace_at_first_and_for_the_whole_patience_after_good_work() {
        let mut pace = Pace::new(1_000, PATIENCE);

        let at_first = pace.wait(at(0.0));
        pace.moved(1_000_000, || at(1.0));
        let later = pace.wait(at(100.0));

        assert_eq!((at_first, later), (at(10.0), at(130.0)));
    }

    #[test]
    fn without_a_minimum_only_silence_counts() {
        assert_eq!(given_up(Pace::new(0, PATIENCE), 1, 29.0), None);
        assert_eq!(given_up(Pace::new(0, PATIENCE), 1, 31.0), Some(30.0));
    }

    #[test]
    fn a_trickle_is_given_up_and_a_slow_but_steady_client_is_not() {
        let trickle = given_up(Pace::new(256, PATIENCE), 32, 1.0).unwrap();
        let steady = given_up(Pace::new(256, PATIENCE), 300, 1.0);

        assert!((10.0..13.0).contains(&trickle), "{trickle}");
        assert_eq!(steady, None);
    }

    #[test]
    fn time_in_which_nobody_waits_costs_nothing() {
        let mut pace = Pace::new(1_000, PATIENCE);

        pace.wait(at(0.0));
        pace.moved(1_000, || at(1.0));

        assert_eq!(pace.wait(at(10_000.0)), at(10_010.0));
    }

    proptest! {
        #[test]
        fn who_keeps_the_rate_is_never_given_up_and_who_keeps_half_of_it_always(every in 0.01_f64..5.0, rate in 100_u64..1_000_000) {
            let fair = (rate as f64 * every).ceil() as u64 + 1;

            prop_assert_eq!(given_up(Pace::new(rate, PATIENCE), fair, every), None);
            prop_assert!(given_up(Pace::new(rate, PATIENCE), fair / 2, every).is_some());
        }
    }

    #[tokio::test]
    async fn a_timer_that_is_moved_rings_at_its_last_time() {
        let mut timer = Timer::default();
        let (soon, later) = (clock::now() + Duration::from_millis(5), clock::now() + Duration::from_millis(60));
        std::future::poll_fn(|cx| {
            assert!(timer.poll_at(soon, cx).is_pending());
            Poll::Ready(())
        })
        .await;

        std::future::poll_fn(|cx| timer.poll_at(later, cx)).await;

        assert!(clock::now() >= later);
    }
}
