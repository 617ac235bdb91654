//! Conditions that end a run early, over a sliding window of whole seconds.
//!
//! Times are counted against the bound itself, so that a quantile over the window needs no histogram of the window: it
//! is above the bound if, and only if, too many times are.
//!
//! # Invariants
//!
//! - A request that is open for longer than a bound on response times counts as over it: a target that has ceased to
//!   answer is seen to be slow at once, not when it answers again.
//! - An open request counts once, in the newest second, however long it stays open.
//! - Nothing is decided before the window is full, or where nothing was seen.

use std::collections::VecDeque;

use hdrhistogram::Histogram;
use tidegate_model::scenario::plan::{Comparison, Measure, Plan, Stop};

use super::{compare, say};
use crate::Moment;
use crate::report::words;

/// One second of a step, or of all of them.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// Good answers in it.
    pub good: u64,
    /// Failures in it.
    pub failed: u64,
    /// Requests that were due in it and not sent.
    pub unsent: u64,
    /// Response times of what ended in it, nanoseconds.
    pub response: &'a Histogram<u64>,
    /// Service times, likewise.
    pub service: &'a Histogram<u64>,
    /// Ages, from the intended start, of what is open at its end; nanoseconds.
    pub open: &'a [u64],
}

impl<'a> From<&'a Moment> for Seen<'a> {
    fn from(moment: &'a Moment) -> Self {
        Self {
            good: moment.good,
            failed: moment.failed(),
            unsent: moment.counts.unsent,
            response: &moment.response,
            service: &moment.service,
            open: &moment.open,
        }
    }
}

/// The conditions of a run, with what they saw in their windows.
#[derive(Clone, Debug)]
pub struct Stops(Vec<Watch>);

#[derive(Clone, Debug)]
struct Watch {
    stop: Stop,
    /// Its step by index; `None`: all of them.
    step: Option<usize>,
    window: VecDeque<Counted>,
}

/// What one condition counted in one second.
#[derive(Clone, Copy, Debug, Default)]
struct Counted {
    good: u64,
    /// Failed or unsent.
    bad: u64,
    /// What ended and has a time.
    timed: u64,
    /// Those whose time is over the bound.
    over: u64,
    /// The sum of the times, nanoseconds.
    sum: f64,
    /// Open for longer than the bound.
    overdue: u64,
    /// The sum of their ages, nanoseconds.
    overdue_sum: f64,
}

impl Stops {
    /// The conditions of `plan`.
    pub fn new(plan: &Plan) -> Self {
        let watch = |stop: &Stop| {
            // `check` has seen to it that the name is one of the plan's.
            let index = |name: &String| plan.steps().position(|step| step.name == *name).unwrap_or(usize::MAX);
            Watch { stop: stop.clone(), step: stop.when.step.as_ref().map(index), window: VecDeque::new() }
        };
        Self(plan.stops.iter().map(watch).collect())
    }

    /// One more second is over. Returns the reason to stop: the first condition that is met, and what was seen.
    pub fn beat(&mut self, all: Seen<'_>, steps: &[Seen<'_>]) -> Option<String> {
        let mut reason = None;
        for watch in &mut self.0 {
            let seen = watch.step.map_or(Some(&all), |step| steps.get(step));
            let counted = seen.map_or_else(Counted::default, |seen| Counted::of(&watch.stop, seen));
            let met = watch.beat(counted);
            reason = reason.or(met); // The others' windows go on all the same.
        }
        reason
    }
}

impl Counted {
    fn of(stop: &Stop, seen: &Seen<'_>) -> Self {
        let mut out = Self { good: seen.good, bad: seen.failed + seen.unsent, ..Self::default() };
        let bound = stop.when.bound.max(0.0);
        let (times, open) = match stop.when.measure {
            Measure::Response(_) | Measure::Mean | Measure::Max => (seen.response, seen.open),
            // How long ago an open request was sent isn't known here. Its timeout ends it, and then it counts.
            Measure::Service(_) => (seen.service, &[][..]),
            Measure::Errors | Measure::Rate => return out,
        };
        out.timed = times.len();
        if !times.is_empty() {
            out.over = out.timed - times.count_between(0, bound as u64).min(out.timed);
            out.sum = times.mean() * out.timed as f64;
        }
        for age in open.iter().map(|age| *age as f64).filter(|age| *age > bound) {
            out.overdue += 1;
            out.overdue_sum += age;
        }
        out
    }
}

impl Watch {
    fn beat(&mut self, counted: Counted) -> Option<String> {
        let seconds = (self.stop.over.as_secs_f64().ceil() as usize).max(1);
        self.window.push_back(counted);
        if self.window.len() > seconds {
            self.window.pop_front();
        }
        if self.window.len() < seconds {
            return None;
        }
        let met = self.met()?;
        Some(format!("{} over the last {seconds} s: {met}", self.stop.when.text))
    }

    /// What was seen, in words, where the condition is met.
    fn met(&self) -> Option<String> {
        let sum = |of: fn(&Counted) -> u64| self.window.iter().map(of).sum::<u64>();
        let newest = self.window.back().copied().unwrap_or_default();
        let (good, bad) = (sum(|it| it.good), sum(|it| it.bad));
        let (timed, over) = (sum(|it| it.timed) + newest.overdue, sum(|it| it.over) + newest.overdue);
        match self.stop.when.measure {
            Measure::Response(q) | Measure::Service(q) => self.quantile_met(timed, over, q),
            Measure::Max => self.quantile_met(timed, over, 1.0),
            Measure::Mean => {
                let sum = self.window.iter().map(|it| it.sum).sum::<f64>() + newest.overdue_sum;
                (timed > 0).then(|| sum / timed as f64).and_then(|seen| self.value_met(seen))
            }
            Measure::Errors => {
                (good + bad > 0).then(|| bad as f64 / (good + bad) as f64).and_then(|seen| self.value_met(seen))
            }
            Measure::Rate => self.value_met(good as f64 / self.window.len() as f64),
        }
    }

    /// The quantile is above the bound if fewer values lie within it than the quantile has below itself.
    fn quantile_met(&self, timed: u64, over: u64, q: f64) -> Option<String> {
        if timed == 0 {
            return None;
        }
        let above = ((timed - over) as f64) < (q * timed as f64).ceil().max(1.0);
        let wanted = matches!(self.stop.when.is, Comparison::More | Comparison::AtLeast);
        (above == wanted).then(|| {
            let (over, timed) = (words::count(over), words::count(timed));
            format!("{over} of {timed} requests, ended or still open, took longer")
        })
    }

    fn value_met(&self, seen: f64) -> Option<String> {
        let when = &self.stop.when;
        compare(when.is, seen, when.bound).then(|| format!("it was {}", say(when.measure, seen)))
    }
}
