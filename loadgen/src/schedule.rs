//! When arrivals are due: an absolute schedule that nothing which happens during the run can stretch.
//!
//! Arrival `j` is due at `Λ⁻¹(j)`, where `Λ(t)` is the number of arrivals that the stages ask for up to `t`. A Poisson
//! process of the same rate is had by putting a sum of exponential gaps of mean 1 in the place of `j` (time rescaling).
//!
//! # Invariants
//!
//! - Arrivals ascend, the first of even spacing is due at once, and none is due at the end or after it.
//! - With even spacing there are as many as the area under the rate, rounded up.
//! - What [`Deal`]s of the same number hold together is the whole schedule, each arrival once, whoever sends it.

use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tidegate_model::scenario::plan::{Load, Spacing, Stage};

/// Areas are sums of products of decimal fractions. What they miss an integer by is no arrival.
const ROUNDING: f64 = 1e-6;

/// When arrivals are due. Cheap to copy.
#[derive(Clone, Debug)]
pub struct Schedule(Arc<Kind>);

#[derive(Debug)]
enum Kind {
    Rated { stretches: Vec<Stretch>, total: f64, spacing: Spacing, seed: u64 },
    Recorded(Vec<Duration>),
}

/// A stage and what lies before it. Times in seconds.
#[derive(Debug)]
struct Stretch {
    begins: f64,
    lasts: f64,
    from: f64,
    to: f64,
    /// Arrivals before it.
    before: f64,
}

/// The part of a schedule that one thread sends: every `of`-th arrival, from number `index`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deal {
    /// Below `of`.
    pub index: u64,
    /// Above 0.
    pub of: u64,
}

/// A flow that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// Its number in the whole schedule, from 0.
    pub ordinal: u64,
    /// When it is due, in nanoseconds from the start.
    pub at: u64,
}

impl Deal {
    /// All of it.
    pub const WHOLE: Self = Self { index: 0, of: 1 };

    /// The part of this part that belongs to thread `index` of `of`.
    pub fn of_thread(self, index: u64, of: u64) -> Self {
        Self { index: self.index + self.of * index, of: self.of * of }
    }

    /// How much of `whole` falls to this part. All parts together have the whole.
    pub fn share(self, whole: u64) -> u64 {
        whole / self.of + u64::from(self.index < whole % self.of)
    }
}

impl Schedule {
    /// The schedule of a load; `None` for the closed model, which has none.
    pub fn new(load: &Load, seed: u64) -> Option<Self> {
        let kind = match load {
            Load::Open { stages, spacing, .. } => rated(stages, *spacing, seed),
            Load::Recorded { arrivals, .. } => Kind::Recorded(arrivals.iter().map(|arrival| arrival.at).collect()),
            Load::Closed { .. } => return None,
        };
        Some(Self(Arc::new(kind)))
    }

    /// The arrivals of a part, ascending.
    pub fn arrivals(&self, deal: Deal) -> Arrivals {
        let seed = match &*self.0 {
            Kind::Rated { seed, .. } => *seed,
            Kind::Recorded(_) => 0,
        };
        Arrivals {
            schedule: self.clone(),
            deal,
            ordinal: 0,
            dice: StdRng::seed_from_u64(seed ^ 0x5eed_a221_7a1d),
            passed: 0.0,
            stretch: 0,
        }
    }
}

fn rated(stages: &[Stage], spacing: Spacing, seed: u64) -> Kind {
    let (mut begins, mut before) = (0.0, 0.0);
    let stretches = stages
        .iter()
        .map(|stage| {
            let lasts = stage.lasts.as_secs_f64();
            let stretch = Stretch { begins, lasts, from: stage.from, to: stage.to, before };
            begins += lasts;
            before += stretch.area(lasts);
            stretch
        })
        .collect();
    Kind::Rated { stretches, total: before, spacing, seed }
}

impl Stretch {
    /// Arrivals within the first `seconds` of it.
    fn area(&self, seconds: f64) -> f64 {
        let slope = (self.to - self.from) / self.lasts.max(f64::MIN_POSITIVE);
        self.from * seconds + slope * seconds * seconds / 2.0
    }

    /// When `area` is reached, in seconds from the start of the run. The inverse of [`Stretch::area`].
    fn reaches(&self, area: f64) -> f64 {
        let slope = (self.to - self.from) / self.lasts.max(f64::MIN_POSITIVE);
        // The stable form of the quadratic formula: no difference of nearly equal numbers, and right for a slope of 0.
        let root = (self.from * self.from + 2.0 * slope * area).max(0.0).sqrt();
        let seconds = if self.from + root > 0.0 { 2.0 * area / (self.from + root) } else { 0.0 };
        self.begins + seconds.min(self.lasts)
    }
}

/// The arrivals of a part, ascending.
#[derive(Debug)]
pub struct Arrivals {
    schedule: Schedule,
    deal: Deal,
    /// Number of the next arrival of the whole schedule.
    ordinal: u64,
    dice: StdRng,
    /// Sum of the gaps so far, where they are random.
    passed: f64,
    /// The stretch that the last arrival was in.
    stretch: usize,
}

impl Iterator for Arrivals {
    type Item = Arrival;

    fn next(&mut self) -> Option<Arrival> {
        let schedule = Arc::clone(&self.schedule.0);
        let wanted = if self.ordinal <= self.deal.index {
            self.deal.index
        } else {
            let behind = (self.ordinal - self.deal.index) % self.deal.of;
            if behind == 0 { self.ordinal } else { self.ordinal + self.deal.of - behind }
        };
        let at = match &*schedule {
            Kind::Recorded(offsets) => *offsets.get(usize::try_from(wanted).ok()?)?,
            Kind::Rated { stretches, total, spacing, .. } => {
                let area = match spacing {
                    Spacing::Even => wanted as f64,
                    // The gaps of all parts are drawn by each, so that they agree on every arrival.
                    Spacing::Poisson => self.pass(wanted - self.ordinal + 1),
                };
                if area >= total - ROUNDING {
                    return None;
                }
                Duration::from_secs_f64(self.when(stretches, area))
            }
        };
        self.ordinal = wanted + 1;
        Some(Arrival { ordinal: wanted, at: u64::try_from(at.as_nanos()).unwrap_or(u64::MAX) })
    }
}

impl Arrivals {
    /// Lets so many random gaps pass.
    fn pass(&mut self, gaps: u64) -> f64 {
        for _ in 0..gaps {
            let uniform: f64 = self.dice.random();
            self.passed -= (1.0 - uniform).ln();
        }
        self.passed
    }

    fn when(&mut self, stretches: &[Stretch], area: f64) -> f64 {
        while let Some(next) = stretches.get(self.stretch + 1)
            && next.before <= area
        {
            self.stretch += 1;
        }
        stretches.get(self.stretch).map_or(0.0, |stretch| stretch.reaches(area - stretch.before))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tidegate_model::scenario::plan;

    use super::*;

    fn open(stages: &[(f64, f64, f64)], spacing: Spacing) -> Schedule {
        let stages =
            stages.iter().map(|&(lasts, from, to)| Stage { lasts: Duration::from_secs_f64(lasts), from, to }).collect();
        Schedule::new(&Load::Open { stages, spacing, most_in_flight: 1 }, 7).unwrap()
    }

    fn seconds(schedule: &Schedule) -> Vec<f64> {
        schedule.arrivals(Deal::WHOLE).map(|arrival| arrival.at as f64 / 1e9).collect()
    }

    fn stages() -> impl Strategy<Value = Vec<(f64, f64, f64)>> {
        prop::collection::vec((0.001..20.0, 0.0..300.0, 0.0..300.0), 1..5)
    }

    #[test]
    fn a_constant_rate_is_even_and_exact() {
        let schedule = open(&[(30.0, 500.0, 500.0)], Spacing::Even);

        let at = seconds(&schedule);

        assert_eq!(at.len(), 15_000);
        assert!(at.iter().enumerate().all(|(j, at)| (at - j as f64 * 0.002).abs() < 2e-9), "{:?}", &at[..5]);
    }

    #[test]
    fn a_ramp_from_nothing_reaches_half_its_arrivals_after_seven_tenths_of_its_time() {
        let schedule = open(&[(10.0, 0.0, 100.0)], Spacing::Even);

        let at = seconds(&schedule);

        assert_eq!(at.len(), 500);
        assert!((at[250] - 10.0 * 0.5_f64.sqrt()).abs() < 1e-6, "{}", at[250]);
    }

    #[test]
    fn nothing_is_due_in_a_pause() {
        let schedule = open(&[(1.0, 10.0, 10.0), (5.0, 0.0, 0.0), (1.0, 10.0, 10.0)], Spacing::Even);

        let at = seconds(&schedule);

        assert_eq!(at.len(), 20);
        assert!(at.iter().all(|&at| !(1.0..6.0).contains(&at)), "{at:?}");
    }

    #[test]
    fn random_arrivals_have_the_rate_and_the_spread_of_a_poisson_process() {
        let schedule = open(&[(100.0, 200.0, 200.0)], Spacing::Poisson);

        let at = seconds(&schedule);

        let gaps: Vec<f64> = at.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let spread = (gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64).sqrt();
        assert!((at.len() as f64 - 20_000.0).abs() < 5.0 * 20_000_f64.sqrt(), "{}", at.len());
        assert!((spread / mean - 1.0).abs() < 0.05, "{spread} {mean}");
    }

    #[test]
    fn a_recording_is_played_as_it_was() {
        let arrivals =
            [0, 5, 5, 900].map(|at| plan::Arrival { at: Duration::from_millis(at), flow: 0, row: 0 }).to_vec();
        let schedule = Schedule::new(&Load::Recorded { arrivals, most_in_flight: 1 }, 0).unwrap();

        let second: Vec<_> = schedule.arrivals(Deal { index: 1, of: 2 }).collect();

        assert_eq!(second, [Arrival { ordinal: 1, at: 5_000_000 }, Arrival { ordinal: 3, at: 900_000_000 }]);
    }

    proptest! {
        #[test]
        fn arrivals_ascend_within_the_schedule_and_even_ones_are_as_many_as_the_area(stages in stages()) {
            let at = seconds(&open(&stages, Spacing::Even));

            let area: f64 = stages.iter().map(|(lasts, from, to)| lasts * (from + to) / 2.0).sum();
            let lasts: f64 = stages.iter().map(|stage| stage.0).sum();
            prop_assert!(at.is_sorted());
            prop_assert!(at.iter().all(|&at| at <= lasts + 1e-6));
            prop_assert!((at.len() as f64 - area).abs() <= 1.0 + 1e-6, "{} of {area}", at.len());
        }

        #[test]
        fn an_arrival_is_due_when_the_rate_has_come_to_its_number(stages in stages()) {
            let at = seconds(&open(&stages, Spacing::Even));

            for (j, at) in at.into_iter().enumerate() {
                let (mut left, mut area) = (at, 0.0);
                for (lasts, from, to) in &stages {
                    let within = left.clamp(0.0, *lasts);
                    area += from * within + (to - from) / lasts * within * within / 2.0;
                    left -= lasts;
                }
                // Where the rate is nearly 0, times are given in whole nanoseconds, and areas to a millionth.
                prop_assert!((area - j as f64).abs() < 1e-3, "{j}: {area} at {at}");
            }
        }

        #[test]
        fn threads_send_together_what_one_would_send_alone(stages in stages(), of in 1_u64..6, poisson: bool) {
            let schedule = open(&stages, if poisson { Spacing::Poisson } else { Spacing::Even });

            let alone: Vec<_> = schedule.arrivals(Deal::WHOLE).collect();
            let mut together: Vec<_> =
                (0..of).flat_map(|index| schedule.arrivals(Deal::WHOLE.of_thread(index, of))).collect();
            together.sort_by_key(|arrival| arrival.ordinal);

            prop_assert_eq!(alone, together);
        }

        #[test]
        fn shares_add_up(whole in 0_u64..10_000, workers in 1_u64..5, threads in 1_u64..5) {
            let sum: u64 = (0..workers)
                .flat_map(|worker| (0..threads).map(move |thread| Deal { index: worker, of: workers }.of_thread(thread, threads)))
                .map(|deal| deal.share(whole))
                .sum();

            prop_assert_eq!(sum, whole);
        }
    }
}
