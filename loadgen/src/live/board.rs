//! What a watcher is shown: the newest second, everything so far, and the last minutes for the chart. Pure.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use hdrhistogram::Histogram;

use tidegate_model::scenario::plan::{Load, Plan};

use crate::Failure;
use crate::outcome::Second;
use crate::report::words;

/// Seconds that the chart looks back. Older ones are forgotten.
pub const LOOK_BACK: usize = 300;

/// A run, seen from outside.
#[derive(Clone, Debug)]
pub struct Board {
    /// The plan's name.
    pub name: String,
    /// The load in a sentence.
    pub load: String,
    /// How long the schedule is.
    pub lasts: Duration,
    /// Whether there is a schedule to keep to.
    pub open_model: bool,
    /// The newest second.
    pub newest: Second,
    /// Seconds of the last [`LOOK_BACK`]: number, p50 and p99 of the response in nanoseconds.
    pub past: VecDeque<(u32, u64, u64)>,
    /// Sums so far: due, sent, unsent, good.
    pub sums: [u64; 4],
    /// Failures so far.
    pub failures: BTreeMap<Failure, u64>,
    /// The first words of each kind.
    pub examples: BTreeMap<Failure, String>,
    /// Response times so far, nanoseconds.
    pub response: Histogram<u64>,
    /// Service times so far, nanoseconds.
    pub service: Histogram<u64>,
    /// Since the last plain line.
    since: Stretch,
}

/// Some seconds together.
#[derive(Clone, Debug)]
struct Stretch {
    seconds: u32,
    sums: [u64; 4],
    failed: u64,
    response: Histogram<u64>,
}

/// A histogram of nanoseconds that grows as it must.
fn times() -> Histogram<u64> {
    Histogram::new(3).expect("three digits are allowed")
}

impl Stretch {
    fn new() -> Self {
        Self { seconds: 0, sums: [0; 4], failed: 0, response: times() }
    }
}

impl Board {
    /// Before the first second of `plan`.
    pub fn new(plan: &Plan) -> Self {
        Self {
            name: plan.name.clone(),
            load: crate::describe::load(&plan.load),
            lasts: plan.lasts(),
            open_model: !matches!(plan.load, Load::Closed { .. }),
            newest: Second::default(),
            past: VecDeque::new(),
            sums: [0; 4],
            failures: BTreeMap::new(),
            examples: BTreeMap::new(),
            response: times(),
            service: times(),
            since: Stretch::new(),
        }
    }

    /// One more second, with the times of what ended in it, nanoseconds.
    pub fn beat(&mut self, second: &Second, response: &Histogram<u64>, service: &Histogram<u64>) {
        let counts = [second.due, second.sent, second.unsent, second.good];
        for (sum, count) in self.sums.iter_mut().zip(counts) {
            *sum += count;
        }
        for (sum, count) in self.since.sums.iter_mut().zip(counts) {
            *sum += count;
        }
        for (kind, count) in &second.failures {
            *self.failures.entry(*kind).or_default() += count;
            self.since.failed += count;
        }
        self.since.seconds += 1;
        for (all, new) in
            [(&mut self.response, response), (&mut self.since.response, response), (&mut self.service, service)]
        {
            // Ours grows as it must, so there is nothing that it can't take.
            let _ = all.add(new);
        }
        self.past.push_back((second.at, second.response[0], second.response[2]));
        if self.past.len() > LOOK_BACK {
            self.past.pop_front();
        }
        self.newest = second.clone();
    }

    /// Failures so far.
    pub fn failed(&self) -> u64 {
        self.failures.values().sum()
    }

    /// The share of what was due and has no good answer, of everything that has ended. From 0 to 1.
    pub fn errors(&self) -> f64 {
        let bad = self.failed() + self.sums[2];
        bad as f64 / (bad + self.sums[3]).max(1) as f64
    }

    /// A line for where there is no terminal, about what has come since the last one.
    pub fn line(&mut self) -> String {
        let since = std::mem::replace(&mut self.since, Stretch::new());
        let rate = |count: u64| words::rate(count as f64 / f64::from(since.seconds.max(1)));
        let [due, _, unsent, good] = since.sums;
        let time = |q: f64| {
            if since.response.is_empty() { "-".to_owned() } else { words::time(since.response.value_at_quantile(q)) }
        };
        let mut line = format!(
            "{:>9}  due {:>9}  good {:>9}  failed {:>6}  in flight {:>5}  p50 {:>8}  p99 {:>8}  max {:>8}",
            words::span(u64::from(self.newest.at) + 1),
            rate(due),
            rate(good),
            words::count(since.failed),
            words::count(self.newest.in_flight),
            time(0.5),
            time(0.99),
            time(1.0),
        );
        if unsent > 0 {
            line.push_str(&format!("  unsent {}", words::count(unsent)));
        }
        line
    }
}
