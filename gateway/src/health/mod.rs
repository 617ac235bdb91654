//! Opinions about endpoints: active probes, passive ejection, slow start; and the retry budget.
//!
//! [`Health`] is one endpoint's living state. Requests read it through
//! [`Health::fitness`], for every endpoint that they consider: one load while
//! all is well. It is written only when something changes, under a small lock
//! that belongs to the endpoint alone.
//!
//! # Invariants
//!
//! - An endpoint that nothing is known about is fit.
//! - A rest ends by time alone: nothing has to run for an endpoint to return.
//! - Only an endpoint that was out (resting, or down by its probe) starts slowly.
//!
//! # Not here
//!
//! Choosing among fit endpoints, and what to do when too few are fit (panic), is
//! `decide::balance`. Counting and logging ejections is the caller's.

mod budget;
pub mod eject;
pub mod probe;
mod report;
mod window;

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tidegate_model::time::Timestamp;

pub use budget::RetryBudget;
pub use report::{HealthReport, HealthState};
use window::Window;

/// The share of an endpoint that has just returned, in thousandths of its full one.
const FIRST_SHARE: u32 = 100;
/// A full share, in thousandths.
const FULL_SHARE: u32 = 1_000;
/// Characters kept of what a probe or an ejection said. The rest is cut off: it is for people to read.
const MAX_REASON: usize = 200;

/// What probes and traffic say about one endpoint.
#[derive(Debug, Default)]
pub struct Health {
    /// From here on there is nothing to consider; the end of time while the probe says down.
    settled_at: AtomicU64,
    /// The end of the last rest or probe-down, when slow start begins.
    returns_at: AtomicU64,
    /// Whether the probe says down.
    down: AtomicBool,
    /// Failures in a row.
    failures: AtomicU32,
    /// Failures among the last requests.
    window: Window,
    ledger: Mutex<Ledger>,
}

/// What is only needed when something changes, or somebody asks.
#[derive(Debug, Default)]
struct Ledger {
    /// Ejections in a row, as of `rest_ends`.
    ejections: u32,
    ejected_at: Timestamp,
    rest_ends: Timestamp,
    eject_reason: Option<String>,
    /// Whether the last rest is over and was said to be.
    return_told: bool,
    down_since: Timestamp,
    /// Probes that went well, in a row.
    probe_good: u32,
    /// Probes that failed, in a row.
    probe_bad: u32,
    /// What the last probe said.
    probe_said: Option<String>,
}

/// How much of its share an endpoint may take.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fitness {
    /// It serves; the number is its share in thousandths, below 1,000 during slow start.
    Fit(u32),
    /// Ejected for a while.
    Resting,
    /// Its probe says it's down.
    Down,
}

/// What came of one try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It answered below 500.
    Good,
    /// It answered 5xx, broke off, or was late.
    Failed,
    /// It couldn't be reached.
    Unreachable,
}

/// A probe changed its opinion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It went well often enough in a row.
    Up,
    /// It failed often enough in a row.
    Down,
}

/// How many probes in a row it takes, and how the endpoint comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeRules {
    /// Successes in a row before a down endpoint is up.
    pub up_after: u32,
    /// Failures in a row before an up endpoint is down. Holds for the very first probes too.
    pub down_after: u32,
    /// How long an endpoint that comes back takes to grow to its full share.
    pub slow_start: Duration,
}

impl Health {
    /// How fit the endpoint is right now. One load while all is well.
    pub fn fitness(&self, now: Timestamp) -> Fitness {
        let settled = self.settled_at.load(Acquire);
        if now.as_nanos() >= settled {
            return Fitness::Fit(FULL_SHARE);
        }

        if self.down.load(Relaxed) {
            return Fitness::Down;
        }
        let returns = self.returns_at.load(Relaxed);
        if now.as_nanos() < returns {
            return Fitness::Resting;
        }
        Fitness::Fit(grown_share(now.as_nanos() - returns, settled.saturating_sub(returns)))
    }

    /// Whether an ejection keeps it out at `now`.
    fn is_resting(&self, now: Timestamp) -> bool {
        now.as_nanos() < self.returns_at.load(Relaxed)
    }

    /// Ejects it: `base` the first time, longer each time in a row, `longest` at most.
    ///
    /// Every `base` of good time since the last rest takes one off the count.
    fn rest(
        &self,
        base: Duration,
        longest: Duration,
        slow_start: Duration,
        reason: String,
        now: Timestamp,
    ) -> (Duration, u32) {
        let mut ledger = self.ledger();
        let base = base.max(Duration::from_millis(1));
        let forgiven = now.since(ledger.rest_ends).as_nanos() / base.as_nanos();
        let times = ledger.ejections.saturating_sub(u32::try_from(forgiven).unwrap_or(u32::MAX)).saturating_add(1);
        let rest = base.saturating_mul(times).min(longest.max(base));

        ledger.ejections = times;
        ledger.ejected_at = now;
        ledger.rest_ends = now + rest;
        ledger.eject_reason = Some(shortened(reason));
        ledger.return_told = false;
        self.forget_failures();
        self.leave_until(now + rest, slow_start);
        (rest, times)
    }

    /// Takes one probe into account. Tells when that changes the opinion.
    ///
    /// `outcome` is what the probe said: a status, or what went wrong.
    pub fn probed(&self, rules: &ProbeRules, outcome: Result<String, String>, now: Timestamp) -> Option<Change> {
        let mut ledger = self.ledger();
        let good = outcome.is_ok();
        ledger.probe_said = Some(shortened(outcome.unwrap_or_else(|wrong| wrong)));
        if good {
            ledger.probe_bad = 0;
            ledger.probe_good = ledger.probe_good.saturating_add(1);
        } else {
            ledger.probe_good = 0;
            ledger.probe_bad = ledger.probe_bad.saturating_add(1);
        }

        let down = self.down.load(Relaxed);
        if down && ledger.probe_good >= rules.up_after.max(1) {
            let returns = now.max(ledger.rest_ends);
            self.down.store(false, Relaxed);
            self.leave_until(returns, rules.slow_start);
            return Some(Change::Up);
        }
        if !down && ledger.probe_bad >= rules.down_after.max(1) {
            ledger.down_since = now;
            self.down.store(true, Relaxed);
            self.settled_at.store(u64::MAX, Release);
            return Some(Change::Down);
        }
        None
    }

    /// Whether its probe says it's down.
    fn is_down(&self) -> bool {
        self.down.load(Relaxed)
    }

    /// Drops what probes said, because the service has none any more. Ejections stay.
    pub fn forget_probe(&self, now: Timestamp) {
        let mut ledger = self.ledger();
        ledger.probe_good = 0;
        ledger.probe_bad = 0;
        ledger.probe_said = None;
        if self.down.swap(false, Relaxed) {
            self.leave_until(now.max(ledger.rest_ends), Duration::ZERO);
        }
    }

    /// Tells once, after a rest is over, that it is.
    pub fn returned(&self, now: Timestamp) -> bool {
        if self.returns_at.load(Relaxed) == 0 || self.is_resting(now) {
            return false;
        }
        let mut ledger = self.ledger();
        let over = ledger.ejections > 0 && now >= ledger.rest_ends;
        over && !std::mem::replace(&mut ledger.return_told, true)
    }

    /// Keeps it out until `returns`, then lets it grow over `slow_start`. The caller holds the ledger.
    fn leave_until(&self, returns: Timestamp, slow_start: Duration) {
        self.returns_at.store(returns.as_nanos(), Relaxed);
        let settled = if self.down.load(Relaxed) { u64::MAX } else { (returns + slow_start).as_nanos() };
        self.settled_at.store(settled, Release);
    }

    fn forget_failures(&self) {
        self.failures.store(0, Relaxed);
        self.window.clear();
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        // Nothing in here can be left half-done in a way that matters.
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The share after `age` of `whole`, both in nanoseconds: linear from a tenth to all.
fn grown_share(age: u64, whole: u64) -> u32 {
    let grown = u64::from(FULL_SHARE - FIRST_SHARE).saturating_mul(age) / whole.max(1);
    FIRST_SHARE + u32::try_from(grown).unwrap_or(u32::MAX).min(FULL_SHARE - FIRST_SHARE)
}

fn shortened(mut text: String) -> String {
    if let Some((end, _)) = text.char_indices().nth(MAX_REASON) {
        text.truncate(end);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: ProbeRules = ProbeRules { up_after: 2, down_after: 3, slow_start: Duration::from_secs(10) };

    fn at(seconds: u64) -> Timestamp {
        Timestamp::ZERO + Duration::from_secs(seconds)
    }

    fn ok() -> Result<String, String> {
        Ok("200".into())
    }

    fn wrong() -> Result<String, String> {
        Err("connection refused".into())
    }

    #[test]
    fn an_endpoint_nothing_is_known_about_takes_its_full_share() {
        let health = Health::default();

        assert_eq!(health.fitness(Timestamp::ZERO), Fitness::Fit(1_000));
    }

    #[test]
    fn the_very_first_probes_need_as_many_failures_as_later_ones() {
        let health = Health::default();

        let told: Vec<_> = (1..=3).map(|second| health.probed(&RULES, wrong(), at(second))).collect();

        assert_eq!(told, [None, None, Some(Change::Down)]);
        assert_eq!(health.fitness(at(3)), Fitness::Down);
    }

    #[test]
    fn a_success_in_between_starts_the_count_of_failed_probes_again() {
        let health = Health::default();

        for outcome in [wrong(), wrong(), ok(), wrong(), wrong()] {
            assert_eq!(health.probed(&RULES, outcome, at(1)), None);
        }

        assert_eq!(health.fitness(at(1)), Fitness::Fit(1_000));
    }

    #[test]
    fn an_endpoint_that_was_down_comes_back_after_enough_successes_and_grows_linearly() {
        let health = Health::default();
        for _ in 0..3 {
            health.probed(&RULES, wrong(), at(1));
        }

        assert_eq!(health.probed(&RULES, ok(), at(99)), None);
        assert_eq!(health.probed(&RULES, ok(), at(100)), Some(Change::Up));

        let shares: Vec<_> = [100, 105, 109, 110, 500].map(|second| health.fitness(at(second))).into();
        assert_eq!(shares, [100, 550, 910, 1_000, 1_000].map(Fitness::Fit));
    }

    #[test]
    fn the_first_successful_probe_of_an_endpoint_never_seen_failing_does_not_slow_it_down() {
        let health = Health::default();

        health.probed(&RULES, ok(), at(1));
        health.probed(&RULES, ok(), at(2));

        assert_eq!(health.fitness(at(2)), Fitness::Fit(1_000));
    }

    #[test]
    fn a_probe_that_recovers_during_a_rest_does_not_cut_the_rest_short() {
        let health = Health::default();
        health.rest(Duration::from_secs(30), Duration::from_secs(300), RULES.slow_start, "test".into(), at(0));
        for _ in 0..3 {
            health.probed(&RULES, wrong(), at(1));
        }
        assert_eq!(health.fitness(at(1)), Fitness::Down);

        health.probed(&RULES, ok(), at(2));
        health.probed(&RULES, ok(), at(3));

        assert_eq!(health.fitness(at(29)), Fitness::Resting);
        assert_eq!(health.fitness(at(30)), Fitness::Fit(100));
        assert_eq!(health.fitness(at(40)), Fitness::Fit(1_000));
    }

    #[test]
    fn an_endpoint_that_is_down_stays_down_when_its_rest_ends() {
        let health = Health::default();
        for _ in 0..3 {
            health.probed(&RULES, wrong(), at(1));
        }

        health.rest(Duration::from_secs(5), Duration::from_secs(300), RULES.slow_start, "test".into(), at(2));

        assert_eq!(health.fitness(at(100)), Fitness::Down);
    }

    #[test]
    fn removing_the_probe_brings_a_down_endpoint_back_at_full_share() {
        let health = Health::default();
        for _ in 0..3 {
            health.probed(&RULES, wrong(), at(1));
        }

        health.forget_probe(at(2));

        assert_eq!(health.fitness(at(2)), Fitness::Fit(1_000));
        assert_eq!(health.probed(&RULES, wrong(), at(3)), None, "the count starts again");
    }

    #[test]
    fn a_return_is_told_once_for_each_rest() {
        let health = Health::default();
        assert!(!health.returned(at(1)), "it never left");

        for start in [10, 100] {
            health.rest(Duration::from_secs(5), Duration::from_secs(5), Duration::ZERO, "test".into(), at(start));

            let told: Vec<_> = (0..8).map(|second| health.returned(at(start + second))).collect();

            assert_eq!(told, [false, false, false, false, false, true, false, false]);
        }
    }

    #[test]
    fn long_words_of_a_probe_are_cut_on_a_character_border() {
        let health = Health::default();

        health.probed(&RULES, Err("ä".repeat(1_000)), at(1));

        assert_eq!(health.describe(at(1)).probe.unwrap().chars().count(), MAX_REASON);
    }
}
