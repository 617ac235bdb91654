//! This run against an earlier one: what changed by more than noise.
//!
//! The noise of a quantile has two sources, and the larger counts. One is how many requests there were: the quantile of
//! `n` values lies between those of the ranks `nq ± z√(nq(1−q))`, whatever their distribution is (order statistics). The
//! other is how much the target differed from second to second by itself: `z·1.4826·MAD/√seconds` of that quantile
//! over the seconds. `z` is 2.576, so that without a change one comparison in a hundred is called one. Both runs'
//! noises are added in quadrature, and nothing below [`LEAST_NOISE`] counts.
//!
//! # Not here
//!
//! Tests of significance on repeated runs. Two runs on a machine that others use may differ by more than their own noise.

use serde::Serialize;

use crate::judge::quantile;
use crate::outcome::{Outcome, Second, Tally};
use crate::report::words;

/// Standard deviations that a change must exceed: 99 of 100 stay within it.
const Z: f64 = 2.576;
/// The least relative noise of times and rates: machines differ that much from one minute to the next.
const LEAST_NOISE: f64 = 0.03;
/// The least noise of shares of errors, in shares.
const LEAST_ERRORS: f64 = 0.0005;
/// The load of two runs that differs by more than this share is worth a word.
const SAME_LOAD: f64 = 0.02;

/// What changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// By more than noise, for the better.
    Better,
    /// Within noise.
    Same,
    /// By more than noise, for the worse.
    Worse,
}

/// This run against the baseline.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// Worse if anything is; else better if anything is.
    pub change: Change,
    /// The same, for people.
    pub word: &'static str,
    /// The page's class for it.
    pub class: &'static str,
    /// What changed, in a sentence.
    pub sentence: String,
    /// Measure by measure.
    pub rows: Vec<Row>,
    /// How the noise was found.
    pub method: &'static str,
}

/// One measure.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// The step, or all of them.
    pub of: String,
    /// The measure.
    pub what: &'static str,
    /// Then.
    pub before: String,
    /// Now.
    pub now: String,
    /// The difference.
    pub change: String,
    /// What it must exceed.
    pub noise: String,
    /// What it comes to.
    pub is: Change,
    /// The same, for people.
    pub word: &'static str,
    /// The page's class for it.
    pub class: &'static str,
}

const METHOD: &str = "Noise is what such a difference would be without a change, 99 times of 100: for times, the larger of the \
    rank-based interval of the quantile and of its own variation from second to second (MAD); for errors, the binomial \
    interval. At least 3 % of a time or a rate. Two runs on a shared machine may differ by more.";

/// Compares `now` with `before`.
pub fn compare(before: &Outcome, now: &Outcome) -> Comparison {
    let mut rows = Vec::new();
    let both = Both { before, now };
    both.rows("All requests", &before.all, &now.all, None, &mut rows);
    if now.steps.len() > 1 {
        for (index, step) in now.steps.iter().enumerate() {
            if let Some(place) = before.steps.iter().position(|it| it.name == step.name) {
                both.rows(&step.name, &before.steps[place].tally, &step.tally, Some((place, index)), &mut rows);
            }
        }
    }
    let any = |change| rows.iter().any(|row: &Row| row.is == change);
    let change = if any(Change::Worse) {
        Change::Worse
    } else if any(Change::Better) {
        Change::Better
    } else {
        Change::Same
    };
    let (word, class) = said(change);
    Comparison { change, word, class, sentence: sentence(&both, change, &rows), rows, method: METHOD }
}

fn said(change: Change) -> (&'static str, &'static str) {
    match change {
        Change::Better => ("▲ better", "yes"),
        Change::Same => ("= same", "quiet"),
        Change::Worse => ("▼ worse", "no"),
    }
}

fn sentence(both: &Both<'_>, change: Change, rows: &[Row]) -> String {
    let told: Vec<_> = rows
        .iter()
        .filter(|row| row.is == change && change != Change::Same)
        .map(|row| format!("{} of {}: {} instead of {}", row.what, row.of.to_lowercase(), row.now, row.before))
        .take(3)
        .collect();
    let mut out =
        if told.is_empty() { "Nothing changed by more than noise.".to_owned() } else { told.join("; ") + "." };
    let (before, now) = (both.before.rate_due(), both.now.rate_due());
    if !both.same_load() {
        out.push_str(&format!(
            " The loads differ, so take care: {} were due then, {} now.",
            words::rate(before),
            words::rate(now)
        ));
    }
    out
}

impl Outcome {
    /// Requests due a second.
    fn rate_due(&self) -> f64 {
        if self.took == 0 { 0.0 } else { self.all.due as f64 / (self.took as f64 / 1e9) }
    }
}

struct Both<'a> {
    before: &'a Outcome,
    now: &'a Outcome,
}

/// The quantiles that are compared, with their places in [`Second::response`].
const QUANTILES: [(f64, &str, usize); 4] = [(0.5, "p50", 0), (0.9, "p90", 1), (0.99, "p99", 2), (0.999, "p99.9", 3)];

impl Both<'_> {
    fn same_load(&self) -> bool {
        let (before, now) = (self.before.rate_due(), self.now.rate_due());
        before > 0.0 && (now / before - 1.0).abs() <= SAME_LOAD
    }

    /// `steps` are the places of the step in both runs; `None`: all of them.
    fn rows(&self, of: &str, before: &Tally, now: &Tally, steps: Option<(usize, usize)>, rows: &mut Vec<Row>) {
        for (q, what, place) in QUANTILES {
            // A quantile without a value beyond it is the maximum, and says nothing.
            let enough = |tally: &Tally| tally.response.count as f64 * (1.0 - q) >= 5.0;
            let (Some(was), Some(is)) = (quantile(&before.response, q), quantile(&now.response, q)) else { continue };
            if !enough(before) || !enough(now) {
                continue;
            }
            let noise = |outcome: &Outcome, tally: &Tally, step: Option<usize>| {
                let by_second = outcome.seconds.iter().filter_map(|second| match step {
                    None => Some(second.response[place]),
                    Some(step) if q == 0.99 => second.steps.get(step).map(|it| it.1),
                    Some(_) => None,
                });
                rank_noise(tally, q).max(block_noise(by_second.map(|nanos| nanos as f64)))
            };
            let noise =
                noise(self.before, before, steps.map(|it| it.0)).hypot(noise(self.now, now, steps.map(|it| it.1)));
            let (was, is) = (was as f64, is as f64);
            let noise = noise.max(LEAST_NOISE * was);
            let change = is - was;
            let verdict = decide(change, noise, false);
            let relative = |part: f64| words::share(part / was.max(1.0));
            rows.push(row(
                of,
                what,
                words::time(was as u64),
                words::time(is as u64),
                signed(change, relative),
                relative(noise),
                verdict,
            ));
        }
        let share = |tally: &Tally| tally.due.saturating_sub(tally.good) as f64 / tally.due.max(1) as f64;
        let spread = |tally: &Tally| {
            let (n, p) = (tally.due.max(1) as f64, share(tally));
            Z * (p * (1.0 - p) / n).sqrt()
        };
        if before.due > 0 && now.due > 0 {
            let (was, is) = (share(before), share(now));
            let noise = spread(before).hypot(spread(now)).max(LEAST_ERRORS);
            let points = |part: f64| words::share(part);
            rows.push(row(
                of,
                "errors",
                words::share(was),
                words::share(is),
                signed(is - was, points),
                points(noise),
                decide(is - was, noise, false),
            ));
        }
        // Another load has another rate; that is no change of the target's.
        if steps.is_none() && self.same_load() {
            let rate = |outcome: &Outcome| outcome.all.good as f64 / (outcome.took as f64 / 1e9);
            let spread =
                |outcome: &Outcome| block_noise(outcome.seconds.iter().map(|second: &Second| second.good as f64));
            let (was, is) = (rate(self.before), rate(self.now));
            let noise = spread(self.before).hypot(spread(self.now)).max(LEAST_NOISE * was);
            let relative = |part: f64| words::share(part / was.max(1e-9));
            rows.push(row(
                of,
                "good answers",
                words::rate(was),
                words::rate(is),
                signed(is - was, relative),
                relative(noise),
                decide(is - was, noise, true),
            ));
        }
    }
}

fn row(of: &str, what: &'static str, before: String, now: String, change: String, noise: String, is: Change) -> Row {
    let (word, class) = said(is);
    Row { of: of.to_owned(), what, before, now, change, noise, is, word, class }
}

fn decide(change: f64, noise: f64, more_is_better: bool) -> Change {
    if change.abs() <= noise {
        Change::Same
    } else if (change > 0.0) == more_is_better {
        Change::Better
    } else {
        Change::Worse
    }
}

fn signed(change: f64, say: impl Fn(f64) -> String) -> String {
    if change == 0.0 { say(0.0) } else { format!("{}{}", if change > 0.0 { "+" } else { "−" }, say(change.abs())) }
}

/// Half the width of the rank-based interval of a quantile, in nanoseconds.
fn rank_noise(tally: &Tally, q: f64) -> f64 {
    let n = tally.response.count as f64;
    let reach = Z * (q * (1.0 - q) / n.max(1.0)).sqrt();
    let at = |q: f64| quantile(&tally.response, q.clamp(0.0, 1.0)).unwrap_or(0) as f64;
    (at(q + reach) - at(q - reach)) / 2.0
}

/// The noise of a mean over seconds that differ by themselves; robust, so that one odd second doesn't hide a change.
fn block_noise(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.filter(|value| *value > 0.0).collect();
    if values.len() < 3 {
        return 0.0;
    }
    let middle = median(&mut values);
    let mut deviations: Vec<f64> = values.iter().map(|value| (value - middle).abs()).collect();
    Z * 1.4826 * median(&mut deviations) / (values.len() as f64).sqrt()
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    #[test]
    fn run_against_itself_is_the_same() {
        let run = sample::run(60);

        let comparison = compare(&run, &run);

        assert_eq!(comparison.change, Change::Same);
        assert!(comparison.rows.iter().all(|row| row.is == Change::Same && row.change == "0 %"), "{comparison:?}");
    }

    #[test]
    fn other_dice_are_noise_and_a_slower_target_is_not() {
        let (first, second) = (sample::seeded(60, 1, 1.0), sample::seeded(60, 2, 1.0));
        let (slower, faster) = (sample::seeded(60, 3, 1.5), sample::seeded(60, 4, 0.6));

        let median = |now| compare(&first, now).rows[0].is;

        assert_eq!([median(&second), median(&slower), median(&faster)], [Change::Same, Change::Worse, Change::Better]);
        assert_eq!(compare(&first, &slower).change, Change::Worse);
    }

    #[test]
    fn different_loads_are_told() {
        let before = sample::run(60);
        let mut now = before.clone();
        now.took /= 2;

        let comparison = compare(&before, &now);

        assert!(comparison.sentence.contains("The loads differ"), "{comparison:?}");
        assert!(comparison.rows.iter().all(|row| row.what != "good answers"), "{comparison:?}");
    }
}
