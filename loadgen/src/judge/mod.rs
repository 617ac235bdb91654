//! What a run comes to: thresholds, whether the generator kept up, the verdict, the exit code. Pure.
//!
//! # Invariants
//!
//! - A quantile is taken from the whole histogram of what it is about; percentiles are never averaged.
//! - A threshold on something of which nothing was seen doesn't hold: what couldn't be measured wasn't met.
//! - Requests that were due and were never sent count as errors. A target that takes too long to be asked again doesn't
//!   improve its share that way.
//! - Doubt comes first: where the generator itself was the bottleneck, no threshold can make the run pass or fail.
//!
//! # Not here
//!
//! Conditions that end a run early are in [`stops`].

pub mod stops;

use hdrhistogram::Histogram;
use tidegate_model::scenario::plan::{Comparison, Load, Measure, Plan, Threshold};

use crate::outcome::{Distribution, Judged, Outcome, Second, Tally, Verdict};
use crate::report::words;

/// The generator's lag at p99 above which it is the bottleneck, in nanoseconds.
pub const MOST_LAG: u64 = 1_000_000;
/// The share of a core that a thread of the generator may use.
pub const MOST_CPU: f64 = 0.8;
/// The share of due requests that must have been sent, where the target left room for them.
pub const LEAST_SENT: f64 = 0.99;
/// The share of the room for open flows from which on it counts as taken. Below all of it, because each thread has a
/// part of its own.
const FULL: f64 = 0.9;

/// Fills in the outcome's thresholds and its verdict from everything else in it. The verdict that it has says how the
/// run ended: [`Verdict::Stopped`], [`Verdict::Interrupted`], or else by its schedule.
pub fn judge(plan: &Plan, outcome: &mut Outcome) {
    outcome.thresholds = plan.thresholds.iter().map(|threshold| holds(threshold, outcome)).collect();
    outcome.verdict = verdict(limited(&plan.load, outcome), &outcome.verdict, &outcome.thresholds);
}

/// The exit code of `tidegate load`: 0 passed, 3 a threshold failed or a stop condition ended the run, 4
/// generator-limited, 130 interrupted (as shells have it for SIGINT).
pub fn exit_code(verdict: &Verdict) -> u8 {
    match verdict {
        Verdict::Passed => 0,
        Verdict::Failed { .. } | Verdict::Stopped { .. } => 3,
        Verdict::GeneratorLimited { .. } => 4,
        Verdict::Interrupted { .. } => 130,
    }
}

fn verdict(limited: Vec<String>, ended: &Verdict, thresholds: &[Judged]) -> Verdict {
    if !limited.is_empty() {
        return Verdict::GeneratorLimited { reasons: limited };
    }
    if let Verdict::Stopped { .. } | Verdict::Interrupted { .. } = ended {
        return ended.clone();
    }
    let broken = thresholds.iter().filter(|threshold| !threshold.holds);
    let reasons: Vec<_> = broken.map(|it| format!("{}: it was {}", it.text, it.seen)).collect();
    if reasons.is_empty() { Verdict::Passed } else { Verdict::Failed { reasons } }
}

/// Why the generator is the bottleneck; empty where it isn't.
pub fn limited(load: &Load, outcome: &Outcome) -> Vec<String> {
    let health = &outcome.generator;
    let mut reasons: Vec<String> =
        health.lost.iter().map(|lost| format!("a worker was lost, and its part of the load with it: {lost}")).collect();
    let lag = quantile(&health.lag, 0.99).unwrap_or(0);
    if lag > MOST_LAG && !matches!(load, Load::Closed { .. }) {
        reasons.push(format!(
            "the generator sent late by itself: its lag at p99 was {}, more than {}",
            words::time(lag),
            words::time(MOST_LAG)
        ));
    }
    let busiest = health.threads.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
    if let Some((thread, &cpu)) = busiest.filter(|(_, cpu)| **cpu > MOST_CPU) {
        reasons.push(format!(
            "a thread of the generator (number {thread}) used {} of its core, more than {}",
            words::share(cpu),
            words::share(MOST_CPU)
        ));
    }
    let due = outcome.all.due;
    let missed = missed(load, &outcome.seconds);
    if due > 0 && (missed as f64) > (1.0 - LEAST_SENT) * due as f64 {
        reasons.push(format!(
            "the generator did not send {} of {} requests while it was late itself and the target left room for them, \
             more than {}",
            words::count(missed),
            words::count(due),
            words::share(1.0 - LEAST_SENT)
        ));
    }
    reasons
}

/// Requests whose not being sent the target doesn't explain: in seconds in which the generator lagged, and at neither
/// end of which all room was taken. What was unsent while it was taken is the target's slowness.
fn missed(load: &Load, seconds: &[Second]) -> u64 {
    let (Load::Open { most_in_flight, .. } | Load::Recorded { most_in_flight, .. }) = load else { return 0 };
    let full = f64::from(*most_in_flight) * FULL;
    let before = std::iter::once(0).chain(seconds.iter().map(|second| second.in_flight));
    seconds
        .iter()
        .zip(before)
        .filter(|(second, before)| second.lag > MOST_LAG && (second.in_flight.max(*before) as f64) < full)
        .map(|(second, _)| second.unsent)
        .sum()
}

/// Judges one threshold.
fn holds(threshold: &Threshold, outcome: &Outcome) -> Judged {
    let tally = match &threshold.step {
        None => Some(&outcome.all),
        Some(name) => outcome.steps.iter().find(|step| step.name == *name).map(|step| &step.tally),
    };
    let seen = tally.and_then(|tally| seen(threshold.measure, tally, outcome.took));
    Judged {
        text: threshold.text.clone(),
        seen: seen.map_or_else(|| nothing(threshold.measure).to_owned(), |seen| say(threshold.measure, seen)),
        holds: seen.is_some_and(|seen| compare(threshold.is, seen, threshold.bound)),
    }
}

/// The value of a measure, in the unit of [`Threshold::bound`]; `None` where there was nothing to measure.
fn seen(measure: Measure, tally: &Tally, took: u64) -> Option<f64> {
    let some = |distribution: &Distribution, value: f64| (distribution.count > 0).then_some(value);
    match measure {
        Measure::Response(q) => quantile(&tally.response, q).map(|nanos| nanos as f64),
        Measure::Service(q) => quantile(&tally.service, q).map(|nanos| nanos as f64),
        Measure::Mean => some(&tally.response, tally.response.mean),
        Measure::Max => some(&tally.response, tally.response.max as f64),
        Measure::Errors => (tally.due > 0).then(|| tally.due.saturating_sub(tally.good) as f64 / tally.due as f64),
        Measure::Rate => (took > 0).then(|| tally.good as f64 / (took as f64 / 1e9)),
    }
}

/// A quantile in nanoseconds: the upper end of the histogram's cell that it lies in. `None` where there are no values.
pub fn quantile(distribution: &Distribution, q: f64) -> Option<u64> {
    if distribution.count == 0 {
        return None;
    }
    let whole: Option<Histogram<u64>> = distribution.whole();
    match whole {
        Some(histogram) if !histogram.is_empty() => Some(at_quantile(&histogram, q).min(distribution.max)),
        // An outcome whose histogram was cut off by hand: the next quantile above that is known, so as not to flatter.
        _ => distribution.quantiles.iter().find(|(known, _)| *known >= q).map(|it| it.1).or(Some(distribution.max)),
    }
}

/// The histogram's value at a quantile. A quantile of 1 is the maximum.
fn at_quantile(histogram: &Histogram<u64>, q: f64) -> u64 {
    if q >= 1.0 { histogram.max() } else { histogram.value_at_quantile(q) }
}

fn compare(is: Comparison, seen: f64, bound: f64) -> bool {
    match is {
        Comparison::Less => seen < bound,
        Comparison::AtMost => seen <= bound,
        Comparison::More => seen > bound,
        Comparison::AtLeast => seen >= bound,
    }
}

/// A seen value for people. With four digits, so that what is just above a bound doesn't look like it.
pub(crate) fn say(measure: Measure, seen: f64) -> String {
    match measure {
        Measure::Response(_) | Measure::Service(_) | Measure::Mean | Measure::Max => words::precise_time(seen),
        Measure::Errors => words::precise_share(seen),
        Measure::Rate => format!("{}/s", words::precise(seen)),
    }
}

fn nothing(measure: Measure) -> &'static str {
    match measure {
        Measure::Errors => "nothing was due",
        _ => "nothing was answered",
    }
}

#[cfg(test)]
mod tests;
