//! When a response is asked for, and when it is stapled no more. Pure: times and dice are arguments.
//!
//! # Invariants
//!
//! - After each question there is a pause of at least [`SHORTEST_PAUSE`], give or take a tenth, whatever was answered.

use rand::Rng;

use super::Staple;

/// Seconds between two questions, at least: a responder may give the same old response again and again.
const SHORTEST_PAUSE: i64 = 5;

/// Seconds between two questions after failures, at most. They double from [`SHORTEST_PAUSE`] on.
const LONGEST_PAUSE: i64 = 3_600;

/// What is known about the response to one certificate. Times are Unix times.
#[derive(Debug, Default)]
pub struct Care {
    /// What is stapled.
    staple: Option<Staple>,
    failures: u32,
    /// Why the last question failed.
    trouble: Option<String>,
    ask_at: i64,
    asking: bool,
}

impl Care {
    /// What may be stapled at `now`.
    pub fn staple(&self, now: i64) -> Option<&Staple> {
        self.staple.as_ref().filter(|staple| staple.until > now)
    }

    /// Takes a response that was verified, unless the one in hand holds longer. Tells whether that is news: there was
    /// none before, or trouble.
    pub fn take(&mut self, fresh: Staple, now: i64, dice: &mut impl Rng) -> bool {
        let news = self.staple.is_none() || self.trouble.is_some();
        (self.failures, self.trouble, self.asking) = (0, None, false);
        let staple = match self.staple.take() {
            Some(staple) if staple.until > fresh.until => staple,
            _ => fresh,
        };
        self.ask_at = now + jittered(pause(&staple, now), dice);
        self.staple = Some(staple);
        news
    }

    /// Takes note of a failure. Tells whether it is another than before.
    pub fn failed(&mut self, why: String, now: i64, dice: &mut impl Rng) -> bool {
        let pause = SHORTEST_PAUSE.saturating_mul(1 << self.failures.min(20)).min(LONGEST_PAUSE);
        self.failures = self.failures.saturating_add(1);
        self.asking = false;
        self.ask_at = now + jittered(pause, dice);
        let news = self.trouble.as_ref() != Some(&why);
        self.trouble = Some(why);
        news
    }

    /// Lets go of a response that holds no more. True once; then it is time to ask, whatever the pause was.
    pub fn ran_out(&mut self, now: i64) -> bool {
        let over = self.staple.as_ref().is_some_and(|staple| staple.until <= now);
        if over {
            self.staple = None;
            self.ask_at = now;
        }
        over
    }

    /// Whether the responder is to be asked now. Whoever gets a yes asks, and says what came of it.
    pub fn begins_to_ask(&mut self, now: i64) -> bool {
        // A clock that jumped back doesn't put off the next question for ever.
        let life = self.staple.as_ref().map_or(0, |staple| staple.until - staple.from);
        let longest = life.max(2 * LONGEST_PAUSE);
        let due = !self.asking && (self.ask_at <= now || self.ask_at > now.saturating_add(longest));
        self.asking |= due;
        due
    }
}

/// Seconds until half of a response's life is over; beyond that, until half of what is left.
fn pause(staple: &Staple, now: i64) -> i64 {
    let half = staple.from + (staple.until - staple.from) / 2;
    let pause = if half > now { half - now } else { (staple.until - now) / 2 };
    pause.max(SHORTEST_PAUSE)
}

/// A tenth more or less, so that gateways don't ask all at once.
fn jittered(pause: i64, dice: &mut impl Rng) -> i64 {
    let tenth = pause / 10;
    pause + dice.random_range(-tenth..=tenth)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;

    fn staple(from: i64, until: i64) -> Staple {
        Staple { der: Vec::new(), from, until }
    }

    fn dice() -> SmallRng {
        SmallRng::seed_from_u64(7)
    }

    #[test]
    fn a_response_is_asked_for_again_before_it_runs_out_and_the_old_one_stays_meanwhile() {
        let mut care = Care::default();
        care.take(staple(0, 1_000), 0, &mut dice());

        let first = (0..1_000).find(|now| care.begins_to_ask(*now)).unwrap();
        care.failed("gone".into(), first, &mut dice());
        let second = (first..1_000).find(|now| care.begins_to_ask(*now)).unwrap();

        assert!((450..=550).contains(&first), "{first}");
        assert!((1..20).contains(&(second - first)), "{second}");
        assert!(care.staple(999).is_some() && care.staple(1_000).is_none());
    }

    #[test]
    fn a_response_that_ran_out_is_let_go_once_and_asked_for_at_once() {
        let mut care = Care::default();
        care.take(staple(0, 1_000), 0, &mut dice());
        assert!((0..1_000).any(|now| care.begins_to_ask(now)));
        for _ in 0..30 {
            care.failed("gone".into(), 990, &mut dice());
        }

        assert!(!care.ran_out(999) && !care.begins_to_ask(999));
        assert!(care.ran_out(1_000) && !care.ran_out(1_001));
        assert!(care.begins_to_ask(1_000));
    }

    #[test]
    fn a_response_that_ends_sooner_takes_no_place_of_one_that_holds_longer() {
        let mut care = Care::default();
        care.take(staple(0, 2_000), 0, &mut dice());

        care.take(staple(0, 1_000), 0, &mut dice());

        assert_eq!(care.staple(0), Some(&staple(0, 2_000)));
    }

    #[test]
    fn the_same_trouble_is_news_once() {
        let mut care = Care::default();

        let news = ["gone", "gone", "broken"].map(|why| care.failed(why.into(), 0, &mut dice()));

        assert_eq!(news, [true, false, true]);
    }

    proptest! {
        #[test]
        fn no_responder_is_asked_more_than_once_in_four_seconds(
            answers in proptest::collection::vec(proptest::option::of((0_i64..400, 1_i64..400)), 1..40),
        ) {
            let (mut care, mut dice, mut asked) = (Care::default(), dice(), Vec::new());
            let mut answers = answers.into_iter();
            for now in 0..400 {
                let over = care.ran_out(now);
                if care.begins_to_ask(now) {
                    prop_assert!(over || asked.last().is_none_or(|last| now - last > 3), "{now} {asked:?}");
                    asked.push(now);
                    let Some(answer) = answers.next() else { return Ok(()) };
                    match answer {
                        Some((from, life)) if from + life > now => { care.take(staple(from, from + life), now, &mut dice); }
                        _ => { care.failed("no".into(), now, &mut dice); }
                    }
                }
            }
        }
    }
}
