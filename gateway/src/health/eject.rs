//! Outlier ejection: rests an endpoint that keeps failing, then tries it again.
//!
//! Ejection is this gateway's own opinion, formed from the requests it carries.
//!
//! # Invariants
//!
//! - At most `max_percent` of a version's endpoints rest at once (one may always
//!   rest where there are two or more), however many cores eject at once. The
//!   last endpoint that a version has is never ejected.
//! - A resting endpoint returns by itself, by time alone.
//! - A success of an endpoint that hasn't failed lately writes no memory.
//!
//! A reload that takes endpoints away can leave more resting than the new number
//! allows: rests go on, and panic (`decide::balance`) covers for it.
//!
//! # Not here
//!
//! Active probes live in `health::probe`; slow start after the rest in `health`;
//! counting and logging an ejection is the caller's.

use std::fmt;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tidegate_model::desired::{Eject, FailureRate};
use tidegate_model::time::Timestamp;

use super::{Fitness, Health, Verdict};
use crate::endpoint::Endpoint;

/// An endpoint was ejected just now.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "an ejection is counted and logged once, by whoever caused it"]
pub struct Ejected {
    /// How long it rests.
    pub rest: Duration,
    /// Which ejection in a row this is; good time since the last one is taken off.
    pub times: u32,
    /// What it did.
    pub reason: Reason,
}

/// Why an endpoint was ejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// This many failures in a row.
    InARow(u32),
    /// Too many of the last requests.
    Rate {
        /// How many failed.
        failed: u32,
        /// Of how many.
        of: u32,
    },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InARow(failures) => write!(f, "{failures} failures in a row"),
            Self::Rate { failed, of } => write!(f, "{failed} of the last {of} requests failed"),
        }
    }
}

/// Takes one outcome into account and ejects the endpoint if it must rest.
///
/// `peers` are all endpoints of its version, itself included.
pub fn observe(
    rules: Option<&Eject>,
    peers: &[Arc<Endpoint>],
    endpoint: &Arc<Endpoint>,
    verdict: Verdict,
    now: Timestamp,
) -> Option<Ejected> {
    judge(rules?, || peers.iter().map(|peer| &peer.health), &endpoint.health, verdict, now)
}

/// One ejection at a time in the whole process: they are rare, and whoever holds this has a count of
/// resting endpoints that nobody else can add to. It is only taken once the count allows an ejection,
/// so a service that fails altogether doesn't queue up here.
static GATE: Mutex<()> = Mutex::new(());

/// [`observe`] without the endpoints around the healths.
fn judge<'a, P>(
    rules: &Eject,
    peers: impl Fn() -> P,
    health: &Health,
    verdict: Verdict,
    now: Timestamp,
) -> Option<Ejected>
where
    P: ExactSizeIterator<Item = &'a Health>,
{
    let reason = take_in(rules, health, verdict, now)?;
    let may_rest = || {
        let resting = peers().filter(|peer| peer.is_resting(now)).count();
        resting < most_resting(peers().len(), rules.max_percent)
    };
    if !may_rest() {
        return None;
    }

    let _gate = GATE.lock().unwrap_or_else(PoisonError::into_inner);
    if health.is_resting(now) || !may_rest() {
        return None;
    }
    let (rest, times) = health.rest(rules.rest, rules.max_rest, rules.slow_start, reason.to_string(), now);
    Some(Ejected { rest, times, reason })
}

/// Counts the outcome in. Returns the reason to eject, if there is one now.
fn take_in(rules: &Eject, health: &Health, verdict: Verdict, now: Timestamp) -> Option<Reason> {
    if verdict == Verdict::Good {
        if health.failures.load(Relaxed) != 0 {
            health.failures.store(0, Relaxed);
        }
        if let Some(rate) = rules.rate {
            health.window.good(rate.of);
        }
        return None;
    }
    if !matches!(health.fitness(now), Fitness::Fit(_)) {
        return None; // It is out already; what was under way when it left says nothing new.
    }

    let failures = health.failures.fetch_add(1, Relaxed).saturating_add(1);
    let in_window = rules.rate.map(|rate| (rate, health.window.failed(rate.of)));
    if rules.consecutive != 0 && failures >= rules.consecutive {
        return Some(Reason::InARow(failures));
    }
    let (rate, failed) = in_window?;
    (failed >= too_many(rate)).then_some(Reason::Rate { failed, of: rate.of })
}

/// How many failures among the last `of` requests eject. Requests not made yet count as good, so a
/// window needn't be full before it ejects.
fn too_many(rate: FailureRate) -> u32 {
    (u64::from(rate.percent) * u64::from(rate.of)).div_ceil(100).max(1) as u32
}

/// How many of `count` endpoints may rest at once.
fn most_resting(count: usize, max_percent: u8) -> usize {
    if count < 2 {
        return 0;
    }
    (count * usize::from(max_percent) / 100).clamp(1, count)
}

#[cfg(test)]
mod tests {
    use std::thread;

    use proptest::prelude::*;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);

    fn at(seconds: u64) -> Timestamp {
        Timestamp::ZERO + Duration::from_secs(seconds)
    }

    fn healths(count: usize) -> Vec<Health> {
        (0..count).map(|_| Health::default()).collect()
    }

    fn rules() -> Eject {
        Eject { consecutive: 5, rest: Duration::from_secs(30), max_rest: Duration::from_secs(120), ..Eject::default() }
    }

    /// Lets one outcome of `healths[i]` be seen by its version.
    fn see(rules: &Eject, healths: &[Health], i: usize, verdict: Verdict, now: Timestamp) -> Option<Ejected> {
        judge(rules, || healths.iter(), &healths[i], verdict, now)
    }

    /// Fails `healths[0]` until it is ejected.
    fn eject_first(rules: &Eject, healths: &[Health], now: Timestamp) -> Ejected {
        (0..1_000).find_map(|_| see(rules, healths, 0, Verdict::Failed, now)).expect("it is ejected at some point")
    }

    #[test]
    fn the_fifth_failure_in_a_row_ejects_and_not_the_fourth() {
        let healths = healths(4);
        let verdicts = [Verdict::Failed, Verdict::Unreachable, Verdict::Failed, Verdict::Unreachable];
        for verdict in verdicts {
            assert_eq!(see(&rules(), &healths, 0, verdict, at(1)), None);
        }

        let ejected = see(&rules(), &healths, 0, Verdict::Failed, at(1)).unwrap();

        assert_eq!(ejected, Ejected { rest: Duration::from_secs(30), times: 1, reason: Reason::InARow(5) });
        assert_eq!(healths[0].fitness(at(30)), Fitness::Resting);
        assert_eq!(healths[0].fitness(at(31)), Fitness::Fit(1_000));
    }

    #[test]
    fn a_success_starts_the_count_in_a_row_again() {
        let healths = healths(4);

        for _ in 0..100 {
            for _ in 0..4 {
                assert_eq!(see(&rules(), &healths, 0, Verdict::Failed, at(1)), None);
            }
            assert_eq!(see(&rules(), &healths, 0, Verdict::Good, at(1)), None);
        }
    }

    #[test]
    fn a_failure_rate_ejects_an_endpoint_that_never_fails_often_in_a_row() {
        let rules = Eject { rate: Some(FailureRate { percent: 50, of: 20 }), ..rules() };
        let healths = healths(2);

        let mut seen = 0;
        let ejected = (0..100).find_map(|i| {
            seen += 1;
            let verdict = if i % 2 == 0 { Verdict::Good } else { Verdict::Failed };
            see(&rules, &healths, 0, verdict, at(1))
        });

        assert_eq!(ejected.unwrap().reason, Reason::Rate { failed: 10, of: 20 });
        assert_eq!(seen, 20);
    }

    #[test]
    fn a_failure_rate_below_the_limit_never_ejects() {
        let rules = Eject { rate: Some(FailureRate { percent: 50, of: 20 }), ..rules() };
        let healths = healths(2);

        for i in 0..1_000 {
            let verdict = if i % 20 < 9 && i % 2 == 0 { Verdict::Failed } else { Verdict::Good };
            assert_eq!(see(&rules, &healths, 0, verdict, at(1)), None);
        }
    }

    #[test]
    fn the_only_endpoint_of_a_version_is_never_ejected() {
        let healths = healths(1);

        for _ in 0..1_000 {
            assert_eq!(see(&rules(), &healths, 0, Verdict::Unreachable, at(1)), None);
        }
    }

    #[test]
    fn one_of_two_may_rest_even_when_the_share_is_tiny() {
        let rules = Eject { max_percent: 1, ..rules() };
        let healths = healths(2);

        let _ = eject_first(&rules, &healths, at(1));

        assert!((0..100).all(|_| see(&rules, &healths, 1, Verdict::Failed, at(1)).is_none()));
    }

    #[test]
    fn an_endpoint_kept_in_by_the_bound_is_ejected_at_its_next_failure_once_there_is_room() {
        let healths = healths(2);
        let _ = eject_first(&rules(), &healths, at(1));
        for _ in 0..10 {
            assert_eq!(see(&rules(), &healths, 1, Verdict::Failed, at(2)), None);
        }

        let ejected = see(&rules(), &healths, 1, Verdict::Failed, at(31));

        assert_eq!(ejected.unwrap().reason, Reason::InARow(11));
    }

    #[test]
    fn rests_in_a_row_grow_up_to_the_longest_and_shrink_again_with_good_time() {
        let healths = healths(2);
        let mut now = 1;
        let mut rest_after = |good: u64| {
            now += good;
            let ejected = eject_first(&rules(), &healths, at(now));
            now += ejected.rest.as_secs();
            ejected.rest.as_secs()
        };

        let growing: Vec<_> = (0..6).map(|_| rest_after(1)).collect();
        let shrinking: Vec<_> = [60, 90, 3_600].map(&mut rest_after).into();

        assert_eq!(growing, [30, 60, 90, 120, 120, 120]);
        assert_eq!(shrinking, [120, 90, 30]);
    }

    #[test]
    fn what_was_under_way_when_an_endpoint_left_does_not_count_against_it_when_it_returns() {
        let healths = healths(2);
        let _ = eject_first(&rules(), &healths, at(1));
        for _ in 0..100 {
            assert_eq!(see(&rules(), &healths, 0, Verdict::Failed, at(2)), None);
        }

        let first_failures = (0..4).find_map(|_| see(&rules(), &healths, 0, Verdict::Failed, at(40)));

        assert_eq!(first_failures, None);
    }

    #[test]
    fn cores_that_eject_at_once_never_leave_more_resting_than_allowed() {
        for round in 0..200 {
            let rules = Eject { consecutive: 1, max_percent: 30, rest: HOUR, max_rest: HOUR, ..Eject::default() };
            let healths = healths(10);

            let ejected: usize = thread::scope(|scope| {
                let fail = |offset: usize| {
                    let (rules, healths) = (&rules, &healths);
                    scope.spawn(move || {
                        (0..10)
                            .filter(|i| see(rules, healths, (i + offset) % 10, Verdict::Failed, at(1)).is_some())
                            .count()
                    })
                };
                let threads: Vec<_> = [0, 3, 5, 8].map(fail).into();
                threads.into_iter().map(|thread| thread.join().unwrap()).sum()
            });

            assert_eq!(ejected, 3, "in round {round}");
            assert_eq!(healths.iter().filter(|health| health.is_resting(at(1))).count(), 3);
        }
    }

    #[test]
    fn reasons_read_like_sentences() {
        let told = [Reason::InARow(5), Reason::Rate { failed: 12, of: 20 }].map(|reason| reason.to_string());

        assert_eq!(told, ["5 failures in a row", "12 of the last 20 requests failed"]);
    }

    fn any_rules() -> impl Strategy<Value = Eject> {
        let rate = prop::option::of((1u8..=100, 1u32..50).prop_map(|(percent, of)| FailureRate { percent, of }));
        (0u32..6, rate, 1u64..60, 0u64..600, 0u8..=100, 0u64..60).prop_map(
            |(consecutive, rate, rest, max_rest, max_percent, slow_start)| Eject {
                consecutive,
                rate,
                rest: Duration::from_secs(rest),
                max_rest: Duration::from_secs(max_rest),
                max_percent,
                slow_start: Duration::from_secs(slow_start),
                ..Eject::default()
            },
        )
    }

    proptest! {
        /// A version whose endpoints fail as they like, seen through a pretend clock.
        #[test]
        fn whatever_fails_when_the_bound_holds_and_everything_that_rests_returns(
            rules in any_rules(),
            count in 1usize..12,
            steps in prop::collection::vec((0usize..12, 0u32..10, 0u64..20_000), 1..400),
        ) {
            let healths = healths(count);
            let longest = rules.max_rest.max(rules.rest);
            let most = if count == 1 { 0 } else { (count * usize::from(rules.max_percent) / 100).max(1) };
            let mut now = Timestamp::ZERO + HOUR;

            for (who, dice, pause_millis) in steps {
                now = now + Duration::from_millis(pause_millis);
                let verdict = match dice { 0..3 => Verdict::Good, 3..8 => Verdict::Failed, _ => Verdict::Unreachable };
                let before = healths[who % count].fitness(now);
                let ejected = see(&rules, &healths, who % count, verdict, now);

                if let Some(ejected) = ejected {
                    prop_assert!(verdict != Verdict::Good && matches!(before, Fitness::Fit(_)));
                    prop_assert!(ejected.rest >= rules.rest && ejected.rest <= longest);
                    prop_assert_eq!(healths[who % count].fitness(now), Fitness::Resting);
                }
                let resting = healths.iter().filter(|health| health.fitness(now) == Fitness::Resting).count();
                prop_assert!(resting <= most, "{} of {} rest", resting, count);
                for health in &healths {
                    prop_assert_ne!(health.fitness(now + longest), Fitness::Resting);
                    prop_assert_eq!(health.fitness(now + longest + rules.slow_start), Fitness::Fit(1_000));
                }
            }
        }
    }
}
