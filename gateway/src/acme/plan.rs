//! When a certificate is ordered, and when after a failure it is tried again. Pure: times and dice are arguments.
//!
//! # Invariants
//!
//! - After a certificate was issued, the next one isn't ordered within a third of its life, whatever the clock says: a
//!   clock that jumps costs at most one order. Only an operator's command overrides that.
//! - After a failure there is always a pause, and it is never longer than [`LONGEST_REST`].

use std::time::Duration;

use jiff::Timestamp;
use rand::Rng;
use serde::{Deserialize, Serialize};

/// No pause is longer, whatever an authority asks for or a clock that jumped back makes of it.
pub const LONGEST_REST: Duration = Duration::from_secs(7 * 86_400);

/// What is known about the orders of a certificate. Kept in the store, so that a restart forgets no pause.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Record {
    /// When the certificate in force was issued, by the clock of the gateway that ordered it.
    pub issued: Option<Timestamp>,
    /// Failures since then.
    pub failures: u32,
    /// What the last of them was, in a sentence.
    pub error: Option<String>,
    /// When that was.
    pub failed: Option<Timestamp>,
    /// Until when no order is made.
    pub rest_until: Option<Timestamp>,
    /// URL of an order that isn't finished.
    pub order: Option<String>,
    /// When the authority suggests to renew (RFC 9773).
    pub suggested: Option<Timestamp>,
    /// When to ask the authority for its suggestion again.
    pub ask_suggestion: Option<Timestamp>,
}

/// From when to when a certificate is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    /// Its first moment.
    pub from: Timestamp,
    /// Its last.
    pub until: Timestamp,
}

impl Life {
    /// How long it is valid in all.
    pub fn length(&self) -> Duration {
        Duration::try_from(self.until.duration_since(self.from)).unwrap_or_default()
    }

    /// When it is to be renewed: `before` its end but not in the first half of its life, else when a third is left.
    pub fn renewal(&self, before: Option<Duration>) -> Timestamp {
        let length = self.length();
        let left = before.map_or(length / 3, |before| before.min(length / 2));
        earlier(self.until, left)
    }
}

/// Why a certificate is ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// There is none.
    Missing,
    /// It is near its end.
    Due,
    /// The authority suggests it.
    Suggested,
    /// An operator asked for it.
    Asked,
}

impl Why {
    /// In a word, for the log.
    pub fn word(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Due => "due",
            Self::Suggested => "suggested",
            Self::Asked => "asked",
        }
    }
}

/// The next step for one certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Order it.
    Order(Why),
    /// Nothing before this moment.
    Wait(Timestamp),
}

/// Decides the next step. `life` is that of the certificate in the store, if it is good.
pub fn next(life: Option<Life>, record: &Record, before: Option<Duration>, asked: bool, now: Timestamp) -> Step {
    if asked {
        return Step::Order(Why::Asked);
    }
    // A pause that lies further ahead was written while the clock was wrong.
    let resting = record.rest_until.filter(|until| *until > now && *until <= later(now, LONGEST_REST));
    let Some(life) = life else { return resting.map_or(Step::Order(Why::Missing), Step::Wait) };
    let due = life.renewal(before);
    let (at, why) = match record.suggested {
        Some(suggested) if suggested < due => (suggested, Why::Suggested),
        _ => (due, Why::Due),
    };
    let fresh_until = record.issued.filter(|issued| *issued <= now).map(|issued| later(issued, life.length() / 3));
    let at = fresh_until.map_or(at, |fresh| at.max(fresh));
    match resting {
        Some(until) if until > at => Step::Wait(until),
        _ if at <= now => Step::Order(why),
        _ => Step::Wait(at),
    }
}

/// Why an order failed, as far as the next try depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failed {
    /// The authority couldn't be reached, or had a bad moment: nothing was counted against us.
    Away,
    /// It refused: every further try counts against its limits.
    Refused,
    /// It says that we came too often.
    TooOften,
    /// Something on our side: the disk, the store.
    Ours,
}

impl Failed {
    /// The first pause, the factor it grows by, and where it stops growing.
    ///
    /// Let's Encrypt counts five failed validations for a name in an hour: after a refusal there are four tries in the
    /// first hour (0, 2, 8 and 26 min), then one every hour and a half, then two a day.
    fn pauses(self) -> (Duration, u32, Duration) {
        let minutes = |minutes: u64| Duration::from_secs(minutes * 60);
        match self {
            Self::Away => (Duration::from_secs(5), 2, minutes(10)),
            Self::Ours => (Duration::from_secs(10), 2, minutes(10)),
            Self::Refused => (minutes(2), 3, minutes(12 * 60)),
            Self::TooOften => (minutes(60), 2, minutes(24 * 60)),
        }
    }

    /// The pause after `failures` failures in a row (this one included), at least what the authority asked for. Up to a
    /// fifth is added by dice, so that certificates that failed together aren't tried together.
    pub fn rest(self, failures: u32, asked: Option<Duration>, rng: &mut impl Rng) -> Duration {
        let (first, factor, most) = self.pauses();
        let grown = match asked {
            Some(asked) if self == Self::TooOften => asked,
            _ => first.saturating_mul(factor.saturating_pow(failures.saturating_sub(1))).min(most),
        };
        let wanted = grown.mul_f64(1.0 + rng.random_range(0.0..0.2));
        wanted.max(asked.unwrap_or_default()).min(LONGEST_REST)
    }
}

/// `at` and `by`, or the end of time.
pub fn later(at: Timestamp, by: Duration) -> Timestamp {
    at.checked_add(by).unwrap_or(Timestamp::MAX)
}

fn earlier(at: Timestamp, by: Duration) -> Timestamp {
    at.checked_sub(by).unwrap_or(Timestamp::MIN)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng as _;
    use rand::rngs::SmallRng;

    use super::*;

    const DAY: u64 = 86_400;

    fn day(day: u64) -> Timestamp {
        Timestamp::from_second(i64::try_from(day * DAY).unwrap()).unwrap()
    }

    fn life(from: u64, until: u64) -> Life {
        Life { from: day(from), until: day(until) }
    }

    fn days(days: u64) -> Duration {
        Duration::from_secs(days * DAY)
    }

    #[test]
    fn a_certificate_is_renewed_when_a_third_of_its_life_is_left() {
        let (life, record) = (life(100, 190), Record::default());

        assert_eq!(next(Some(life), &record, None, false, day(159)), Step::Wait(day(160)));
        assert_eq!(next(Some(life), &record, None, false, day(160)), Step::Order(Why::Due));
        assert_eq!(next(Some(life), &record, Some(days(10)), false, day(160)), Step::Wait(day(180)));
    }

    #[test]
    fn renew_before_reaches_at_most_into_the_second_half_of_a_life() {
        assert_eq!(life(100, 106).renewal(Some(days(30))), day(103));
    }

    #[test]
    fn a_missing_certificate_is_ordered_at_once_but_never_within_a_pause() {
        let record = Record { rest_until: Some(day(101)), ..Record::default() };

        assert_eq!(next(None, &Record::default(), None, false, day(100)), Step::Order(Why::Missing));
        assert_eq!(next(None, &record, None, false, day(100)), Step::Wait(day(101)));
        assert_eq!(next(None, &record, None, true, day(100)), Step::Order(Why::Asked));
    }

    #[test]
    fn a_pause_written_by_a_clock_that_was_wrong_is_ignored() {
        let record = Record { rest_until: Some(day(9_000)), ..Record::default() };

        assert_eq!(next(None, &record, None, false, day(100)), Step::Order(Why::Missing));
    }

    #[test]
    fn the_authority_may_suggest_an_earlier_renewal_but_no_later_one() {
        let early = Record { suggested: Some(day(120)), ..Record::default() };
        let late = Record { suggested: Some(day(189)), ..Record::default() };

        assert_eq!(next(Some(life(100, 190)), &early, None, false, day(121)), Step::Order(Why::Suggested));
        assert_eq!(next(Some(life(100, 190)), &late, None, false, day(121)), Step::Wait(day(160)));
    }

    #[test]
    fn a_clock_that_jumps_ahead_and_back_costs_one_order() {
        let mut record = Record { issued: Some(day(100)), ..Record::default() };
        let mut certificate = life(100, 190);
        let mut orders = 0;

        // The authority's clock stays right: what it issues looks expired to us, again and again.
        for (hour, now) in [3_000, 3_000, 3_001, 3_002, 101, 102, 3_003, 103].into_iter().enumerate() {
            if let Step::Order(_) = next(Some(certificate), &record, None, false, day(now)) {
                orders += 1;
                record.issued = Some(day(now));
                certificate = life(100 + hour as u64 / 24, 190);
            }
        }

        assert_eq!(orders, 1);
    }

    #[test]
    fn refusals_leave_room_below_the_limit_of_five_in_an_hour() {
        let mut rng = SmallRng::seed_from_u64(7);
        let mut at = Duration::ZERO;
        let mut tries = 1;
        for failures in 1.. {
            at += Failed::Refused.rest(failures, None, &mut rng);
            if at > Duration::from_secs(3_600) {
                break;
            }
            tries += 1;
        }

        assert!(tries <= 4, "{tries} tries in the first hour");
    }

    proptest! {
        #[test]
        fn a_pause_is_never_none_never_shorter_than_asked_and_bounded(
            failures in 1_u32..1_000, asked in 0_u64..30 * DAY, seed: u64, which in 0_usize..4,
        ) {
            let failed = [Failed::Away, Failed::Refused, Failed::TooOften, Failed::Ours][which];
            let asked = Duration::from_secs(asked);

            let rest = failed.rest(failures, Some(asked), &mut SmallRng::seed_from_u64(seed));

            prop_assert!(rest <= LONGEST_REST && (rest >= Duration::from_secs(5) || failed == Failed::TooOften));
            prop_assert!(rest >= asked.min(LONGEST_REST));
        }

        #[test]
        fn after_a_certificate_was_issued_a_third_of_its_life_passes_before_the_next_order(
            from in 0_u64..20_000, length in 1_u64..400, issued in 0_u64..20_000, since in 0_u64..400, before in 1_u64..400,
        ) {
            let record = Record { issued: Some(day(issued)), ..Record::default() };

            let step = next(Some(life(from, from + length)), &record, Some(days(before)), false, day(issued + since));

            prop_assert!(since * 3 >= length || !matches!(step, Step::Order(_)), "{step:?}");
        }
    }
}
