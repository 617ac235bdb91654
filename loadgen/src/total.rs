//! The numbers of one step over a whole run, and how they are put into the outcome. They add up exactly, whether the
//! parts come from threads or from other machines.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

use crate::Failure;
use crate::collect::{Moment, add};
use crate::outcome::{Distribution, Tally};
use crate::record::Counts;

/// The longest time that is told apart, in nanoseconds: an hour. What takes longer is counted as that.
const LONGEST: u64 = 3_600_000_000_000;

/// The numbers of one step.
#[derive(Clone, Debug)]
pub struct Total {
    /// Counts.
    pub counts: Counts,
    /// Good answers.
    pub good: u64,
    /// The others.
    pub failures: BTreeMap<Failure, u64>,
    /// The first text of each kind of failure.
    pub examples: BTreeMap<Failure, String>,
    /// Answers by status.
    pub statuses: BTreeMap<u16, u64>,
    /// Response times, nanoseconds.
    pub response: Histogram<u64>,
    /// Service times, nanoseconds.
    pub service: Histogram<u64>,
}

/// A histogram of nanoseconds, from 1 ns to an hour, exact to three digits.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LONGEST, 3).expect("bounds that hdrhistogram allows")
}

impl Counts {
    /// Adds.
    pub fn add(&mut self, other: &Self) {
        self.due += other.due;
        self.sent += other.sent;
        self.unsent += other.unsent;
        self.resent += other.resent;
        self.bytes_out += other.bytes_out;
        self.bytes_in += other.bytes_in;
    }
}

impl Default for Total {
    fn default() -> Self {
        Self::new()
    }
}

impl Total {
    /// Nothing yet.
    pub fn new() -> Self {
        Self {
            counts: Counts::default(),
            good: 0,
            failures: BTreeMap::new(),
            examples: BTreeMap::new(),
            statuses: BTreeMap::new(),
            response: histogram(),
            service: histogram(),
        }
    }

    /// Adds what another part of the run found, or another step.
    pub fn add(&mut self, other: &Self) {
        self.counts.add(&other.counts);
        self.good += other.good;
        for (failure, count) in &other.failures {
            *self.failures.entry(*failure).or_default() += count;
        }
        for (failure, text) in &other.examples {
            self.examples.entry(*failure).or_insert_with(|| text.clone());
        }
        for (status, count) in &other.statuses {
            *self.statuses.entry(*status).or_default() += count;
        }
        add(&mut self.response, &other.response);
        add(&mut self.service, &other.service);
    }

    /// Adds a second.
    pub(crate) fn add_moment(&mut self, moment: &Moment) {
        self.counts.add(&moment.counts);
        self.good += moment.good;
        for (failure, count) in &moment.failures {
            *self.failures.entry(*failure).or_default() += count;
        }
        for (failure, text) in &moment.examples {
            self.examples.entry(*failure).or_insert_with(|| text.clone());
        }
        for (status, count) in &moment.statuses {
            *self.statuses.entry(*status).or_default() += count;
        }
        add(&mut self.response, &moment.response);
        add(&mut self.service, &moment.service);
    }

    /// As the outcome has it.
    pub fn tally(&self) -> Tally {
        Tally {
            due: self.counts.due,
            sent: self.counts.sent,
            unsent: self.counts.unsent,
            resent: self.counts.resent,
            good: self.good,
            failures: self.failures.clone(),
            examples: self.examples.clone(),
            statuses: self.statuses.clone(),
            bytes_out: self.counts.bytes_out,
            bytes_in: self.counts.bytes_in,
            response: Distribution::of(&self.response),
            service: Distribution::of(&self.service),
        }
    }
}
