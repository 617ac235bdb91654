//! Capacity search: the highest rate that meets the thresholds.
//!
//! Rates double until one doesn't hold (or halve until one does), the gap is halved until it is narrow, and what is left is
//! tried again: a rate counts only when it has held every time it was asked to confirm. Averages of lucky trials are not
//! capacity.
//!
//! # Invariants
//!
//! - The rate that is found has held in [`CONFIRMATIONS`] trials of its own, after the search for it.
//! - A rate above one that failed is never tried again.
//! - One bad moment of the generator says nothing: it is the limit at a rate only when it was so twice in turn.
//! - It ends: after [`MOST_TRIALS`] at the latest.
//!
//! # Not here
//!
//! Sending anything. This is told how each trial went, and says what to try next.

use serde::{Deserialize, Serialize};

/// Trials that a rate must hold in before it counts.
pub const CONFIRMATIONS: u32 = 3;

/// Trials in one search. Beyond it the search ends with the best that has held at all, and says so.
pub const MOST_TRIALS: usize = 40;

/// Rates below this, in arrivals a second, aren't looked for.
const LEAST: f64 = 1.0;

/// How to search.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bounds {
    /// The first rate, in arrivals a second.
    pub first: f64,
    /// The highest that may be tried.
    pub most: f64,
    /// The gap that is narrow enough, as a share of the rate: 0.05 finds it to 5 %.
    pub precision: f64,
}

/// How a trial went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Went {
    /// The thresholds held.
    Held,
    /// They didn't.
    Failed,
    /// The generator itself was the limit, so nothing is known about the target.
    GeneratorLimited,
}

/// A trial that was made.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// Arrivals a second.
    pub rate: f64,
    /// How it went.
    pub went: Went,
    /// Whether it was one of the confirmations.
    pub confirms: bool,
}

/// What a search comes to.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub enum Found {
    /// This rate holds, and `fails` doesn't.
    Capacity {
        /// The highest that held every time.
        rate: f64,
        /// The lowest that didn't.
        fails: f64,
    },
    /// This rate holds, and nothing above it could be tried: the bound is reached.
    AtLeast {
        /// The highest that was tried.
        rate: f64,
    },
    /// This rate holds, and the generator can't send more.
    Generator {
        /// The highest that held; 0 when none did.
        rate: f64,
        /// What it could not send.
        limited_at: f64,
    },
    /// Not even the lowest rate holds.
    Nothing {
        /// The lowest that was tried.
        fails: f64,
    },
    /// The target changes its mind too often to say.
    Unsteady {
        /// The highest that has held at all; 0 when none did.
        rate: f64,
    },
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Next {
    /// Try this rate.
    Try(f64),
    /// That's it.
    Done(Found),
}

/// A search under way.
#[derive(Clone, Debug)]
pub struct Search {
    bounds: Bounds,
    /// The highest rate that has held, unless it failed to confirm.
    holds: Option<f64>,
    /// The lowest that failed.
    fails: Option<f64>,
    /// The lowest that the generator couldn't send.
    limited: Option<f64>,
    /// A rate that the generator couldn't send, and is to try once more.
    again: Option<f64>,
    confirmed: u32,
    trials: Vec<Trial>,
}

impl Search {
    /// A search that hasn't tried anything.
    pub fn new(bounds: Bounds) -> Self {
        let bounds = Bounds { first: bounds.first.clamp(LEAST, bounds.most.max(LEAST)), ..bounds };
        Self { bounds, holds: None, fails: None, limited: None, again: None, confirmed: 0, trials: Vec::new() }
    }

    /// What was tried so far.
    pub fn trials(&self) -> &[Trial] {
        &self.trials
    }

    /// What to try next.
    pub fn next(&self) -> Next {
        if self.trials.len() >= MOST_TRIALS {
            return Next::Done(Found::Unsteady { rate: self.holds.unwrap_or(0.0) });
        }
        if let Some(rate) = self.again {
            return Next::Try(rate);
        }
        let ceiling = match (self.fails, self.limited) {
            (Some(fails), Some(limited)) => Some(fails.min(limited)),
            (one, other) => one.or(other),
        };
        match (self.holds, ceiling) {
            (None, None) => Next::Try(self.bounds.first),
            (None, Some(ceiling)) if ceiling <= LEAST => Next::Done(self.nothing(ceiling)),
            (None, Some(ceiling)) => Next::Try((ceiling / 2.0).max(LEAST)),
            (Some(holds), None) if holds >= self.bounds.most => self.confirm(holds, Found::AtLeast { rate: holds }),
            (Some(holds), None) => Next::Try((holds * 2.0).min(self.bounds.most)),
            (Some(holds), Some(ceiling)) if ceiling - holds <= holds * self.bounds.precision => {
                let found = match self.limited {
                    Some(limited_at) if self.fails.is_none_or(|fails| limited_at < fails) => {
                        Found::Generator { rate: holds, limited_at }
                    }
                    _ => Found::Capacity { rate: holds, fails: ceiling },
                };
                self.confirm(holds, found)
            }
            (Some(holds), Some(ceiling)) => Next::Try(f64::midpoint(holds, ceiling)),
        }
    }

    /// Takes in how the trial that [`Search::next`] asked for went.
    pub fn tried(&mut self, rate: f64, went: Went) {
        let confirms = self.holds == Some(rate);
        self.trials.push(Trial { rate, went, confirms });
        let is_second = self.again.take() == Some(rate);
        if went == Went::GeneratorLimited && !is_second {
            self.again = Some(rate);
            return;
        }
        match went {
            Went::Held if confirms => self.confirmed += 1,
            Went::Held => {
                self.holds = Some(rate);
                self.confirmed = 0;
            }
            Went::Failed => self.fails = Some(self.fails.map_or(rate, |fails| fails.min(rate))),
            Went::GeneratorLimited => self.limited = Some(self.limited.map_or(rate, |limited| limited.min(rate))),
        }
        if confirms && went != Went::Held {
            self.fall_back(rate);
        }
    }

    /// What held once and not again didn't hold: the next lower rate that did is as good as it gets.
    fn fall_back(&mut self, rate: f64) {
        let held = self.trials.iter().filter(|trial| trial.went == Went::Held && trial.rate < rate);
        self.holds = held.map(|trial| trial.rate).max_by(f64::total_cmp);
        self.confirmed = 0;
    }

    fn confirm(&self, rate: f64, found: Found) -> Next {
        if self.confirmed >= CONFIRMATIONS { Next::Done(found) } else { Next::Try(rate) }
    }

    fn nothing(&self, ceiling: f64) -> Found {
        match (self.fails, self.limited) {
            (None, Some(limited_at)) => Found::Generator { rate: 0.0, limited_at },
            _ => Found::Nothing { fails: ceiling },
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BOUNDS: Bounds = Bounds { first: 100.0, most: 1e6, precision: 0.05 };

    /// Searches a target that answers as `went` says, given the rate and the number of the trial.
    fn search(bounds: Bounds, mut went: impl FnMut(f64, usize) -> Went) -> (Found, Vec<Trial>) {
        let mut search = Search::new(bounds);
        loop {
            match search.next() {
                Next::Done(found) => return (found, search.trials().to_vec()),
                Next::Try(rate) => search.tried(rate, went(rate, search.trials().len())),
            }
        }
    }

    fn up_to(capacity: f64) -> impl FnMut(f64, usize) -> Went {
        move |rate, _| if rate <= capacity { Went::Held } else { Went::Failed }
    }

    #[test]
    fn a_rate_counts_only_after_three_confirmations() {
        let (found, trials) = search(BOUNDS, up_to(1_000.0));

        let Found::Capacity { rate, fails } = found else { panic!("{found:?}") };
        assert!(rate <= 1_000.0 && fails > 1_000.0 && fails - rate <= rate * 0.05, "{found:?}");
        let confirmations = trials.iter().filter(|trial| trial.confirms && trial.rate == rate).count();
        assert_eq!(confirmations, 3);
        assert!(trials.len() <= 14, "{}", trials.len());
    }

    #[test]
    fn a_lucky_trial_does_not_count() {
        let mut lucky = true;
        let (found, _) = search(BOUNDS, |rate, _| match rate {
            _ if rate <= 500.0 => Went::Held,
            _ if rate <= 900.0 && std::mem::take(&mut lucky) => Went::Held,
            _ => Went::Failed,
        });

        let Found::Capacity { rate, .. } = found else { panic!("{found:?}") };
        assert!(rate <= 500.0, "{found:?}");
    }

    #[test]
    fn the_generator_is_named_when_it_is_the_limit() {
        let (found, _) = search(BOUNDS, |rate, _| if rate <= 3_000.0 { Went::Held } else { Went::GeneratorLimited });

        assert!(
            matches!(found, Found::Generator { rate, limited_at } if rate <= 3_000.0 && limited_at > 3_000.0),
            "{found:?}"
        );
    }

    #[test]
    fn one_bad_moment_of_the_generator_does_not_limit_the_search() {
        let mut bad = true;
        let (found, _) = search(BOUNDS, |rate, _| match rate {
            _ if rate <= 1_000.0 && rate > 300.0 && std::mem::take(&mut bad) => Went::GeneratorLimited,
            _ if rate <= 1_000.0 => Went::Held,
            _ => Went::Failed,
        });

        assert!(matches!(found, Found::Capacity { rate, .. } if rate > 950.0), "{found:?}");
    }

    #[test]
    fn the_bound_is_told_as_a_bound() {
        let (found, _) = search(Bounds { most: 700.0, ..BOUNDS }, up_to(1e9));

        assert_eq!(found, Found::AtLeast { rate: 700.0 });
    }

    #[test]
    fn a_target_that_holds_nothing_is_told_so() {
        let (found, _) = search(BOUNDS, up_to(0.0));

        assert_eq!(found, Found::Nothing { fails: 1.0 });
    }

    proptest! {
        #[test]
        fn a_steady_target_is_found_to_the_precision(capacity in 2.0..500_000.0_f64, first in 1.0..5_000.0_f64) {
            let (found, _) = search(Bounds { first, ..BOUNDS }, up_to(capacity));

            let Found::Capacity { rate, fails } = found else { return Err(TestCaseError::fail(format!("{found:?}"))) };
            prop_assert!(rate <= capacity && capacity < fails);
            prop_assert!(fails - rate <= rate * 0.05 + 1e-9);
        }

        #[test]
        fn any_answers_at_all_end_the_search_and_no_rate_above_a_failed_one_is_tried(
            answers in prop::collection::vec(0u8..3, MOST_TRIALS),
        ) {
            let went = |n: usize| [Went::Held, Went::Failed, Went::GeneratorLimited][usize::from(answers[n])];
            let (_, trials) = search(BOUNDS, |_, n| went(n));

            prop_assert!(trials.len() <= MOST_TRIALS);
            for (n, trial) in trials.iter().enumerate() {
                let failed = trials[..n].iter().filter(|before| before.went == Went::Failed).map(|before| before.rate);
                let lowest = failed.min_by(f64::total_cmp).unwrap_or(f64::INFINITY);
                prop_assert!(trial.rate <= lowest, "{trial:?} after a failure at {lowest}");
            }
        }
    }
}
