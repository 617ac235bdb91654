//! Puts together what the threads wrote down: each second for those who watch, and the whole for the report.
//!
//! # Invariants
//!
//! - Histograms are added bucket by bucket. No percentile is ever made of percentiles.
//! - A second is told when every thread has ended it, and in turn.
//! - What was due was sent or unsent, and what was sent is good or failed: the same numbers, whichever way they are added.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

use crate::Failure;
use crate::outcome::{Distribution, Health, Second, cell};
use crate::record::{Batch, Counts, Gauges};
use crate::total::{Total, histogram};

/// Batches about later seconds that wait for a thread which is behind. Beyond it they are counted in the present second.
const HELD: usize = 256;

/// One second of a step, or of all of them.
#[derive(Clone, Debug)]
pub struct Moment {
    /// Counts in it.
    pub counts: Counts,
    /// Good answers in it.
    pub good: u64,
    /// Failures in it.
    pub failures: BTreeMap<Failure, u64>,
    /// Response times of what ended in it, nanoseconds.
    pub response: Histogram<u64>,
    /// Service times, likewise.
    pub service: Histogram<u64>,
    /// Ages, from the intended start, of what is open at its end; nanoseconds.
    pub open: Vec<u64>,
    /// Answers in it by status.
    pub statuses: BTreeMap<u16, u64>,
    /// The first text of each kind of failure that was first seen in it.
    pub examples: BTreeMap<Failure, String>,
}

/// What those who watch are told each second.
#[derive(Clone, Copy, Debug)]
pub struct Beat<'a> {
    /// For people.
    pub second: &'a Second,
    /// That second of all steps together.
    pub all: &'a Moment,
    /// That second of each step.
    pub steps: &'a [Moment],
    /// Everything up to now, of each step.
    pub totals: &'a [Total],
    /// The generator's lag in that second, nanoseconds.
    pub lag: &'a Histogram<u64>,
}

/// A second as another process has put it together.
#[derive(Debug)]
pub struct Part {
    /// The second of the run that it is about. They come in turn, and none is left out.
    pub second: u32,
    /// By step.
    pub steps: Vec<Moment>,
    /// The generator's lag, nanoseconds.
    pub lag: Histogram<u64>,
    /// How that process is at the end of it. What is open is in the steps.
    pub gauges: Gauges,
}

/// What was handed in.
#[derive(Debug)]
enum Word {
    /// By a thread of this process.
    Batch(Batch),
    /// By another process, which counts as one thread.
    Part(usize, Part),
}

impl Word {
    fn second(&self) -> u32 {
        match self {
            Self::Batch(batch) => batch.second,
            Self::Part(_, part) => part.second,
        }
    }
}

/// Puts batches together.
#[derive(Debug)]
pub struct Collector {
    threads: Vec<Thread>,
    /// The second that is being put together.
    second: u32,
    held: Vec<Word>,
    steps: Vec<Moment>,
    all: Moment,
    lag: Histogram<u64>,
    totals: Vec<Total>,
    lag_total: Histogram<u64>,
    seconds: Vec<Second>,
}

#[derive(Debug, Default)]
struct Thread {
    /// The first second that it has not ended.
    at: u32,
    ended: bool,
    gauges: Gauges,
    /// Sum of its shares of a core, and of how many seconds.
    cpu: (f64, u32),
}

/// All that was found out.
#[derive(Debug)]
pub struct Collected {
    /// Of each step.
    pub totals: Vec<Total>,
    /// In turn.
    pub seconds: Vec<Second>,
    /// Without the workers' names and the memory.
    pub health: Health,
}

impl Moment {
    fn new() -> Self {
        Self {
            counts: Counts::default(),
            good: 0,
            failures: BTreeMap::new(),
            response: histogram(),
            service: histogram(),
            open: Vec::new(),
            statuses: BTreeMap::new(),
            examples: BTreeMap::new(),
        }
    }

    /// Requests that ended without a good answer.
    pub fn failed(&self) -> u64 {
        self.failures.values().sum()
    }

    fn clear(&mut self) {
        self.counts = Counts::default();
        self.good = 0;
        self.failures.clear();
        self.response.reset();
        self.service.reset();
        self.open.clear();
        self.statuses.clear();
        self.examples.clear();
    }

    fn add(&mut self, other: &Self) {
        self.counts.add(&other.counts);
        self.good += other.good;
        for (failure, count) in &other.failures {
            *self.failures.entry(*failure).or_default() += count;
        }
        add(&mut self.response, &other.response);
        add(&mut self.service, &other.service);
        self.open.extend_from_slice(&other.open);
        for (status, count) in &other.statuses {
            *self.statuses.entry(*status).or_default() += count;
        }
        for (failure, text) in &other.examples {
            self.examples.entry(*failure).or_insert_with(|| text.clone());
        }
    }

    fn ended(&self) -> bool {
        !self.response.is_empty()
    }
}

/// Adds bucket by bucket. All histograms here have the same bounds, so it can't fail.
pub(crate) fn add(to: &mut Histogram<u64>, from: &Histogram<u64>) {
    if !from.is_empty() {
        to.add(from).expect("histograms of the same bounds");
    }
}

impl Collector {
    /// For so many threads and steps.
    pub fn new(threads: usize, steps: usize) -> Self {
        Self {
            threads: (0..threads).map(|_| Thread::default()).collect(),
            second: 0,
            held: Vec::new(),
            steps: (0..steps).map(|_| Moment::new()).collect(),
            all: Moment::new(),
            lag: histogram(),
            totals: (0..steps).map(|_| Total::new()).collect(),
            lag_total: histogram(),
            seconds: Vec::new(),
        }
    }

    /// Takes a batch, and tells each second that it completes. Gives back what may be filled anew.
    pub fn take(&mut self, batch: Batch, empty: &mut dyn FnMut(Batch), tell: &mut dyn FnMut(Beat<'_>)) {
        self.hear(Word::Batch(batch), empty);
        self.settle(empty, tell);
    }

    /// Takes what the process that counts as thread `index` tells, and tells each second that it completes.
    pub fn take_part(&mut self, index: usize, part: Part, tell: &mut dyn FnMut(Beat<'_>)) {
        self.hear(Word::Part(index, part), &mut drop);
        self.settle(&mut drop, tell);
    }

    /// The process that counts as thread `index` tells nothing more.
    pub fn end(&mut self, index: usize, tell: &mut dyn FnMut(Beat<'_>)) {
        let thread = &mut self.threads[index];
        thread.ended = true;
        thread.gauges = Gauges::default();
        self.settle(&mut drop, tell);
    }

    fn hear(&mut self, word: Word, empty: &mut dyn FnMut(Batch)) {
        if word.second() > self.second && self.held.len() < HELD {
            return self.held.push(word);
        }
        match word {
            Word::Batch(batch) => self.absorb(batch, empty),
            Word::Part(index, part) => self.absorb_part(index, part),
        }
    }

    /// Tells each second that is complete.
    fn settle(&mut self, empty: &mut dyn FnMut(Batch), tell: &mut dyn FnMut(Beat<'_>)) {
        while self.threads.iter().all(|thread| thread.ended || thread.at > self.second) {
            let over = self.is_over() && self.held.is_empty();
            self.tell(over, tell);
            for word in std::mem::take(&mut self.held) {
                self.hear(word, empty);
            }
            if over {
                return;
            }
        }
    }

    fn absorb_part(&mut self, index: usize, part: Part) {
        for (moment, other) in self.steps.iter_mut().zip(&part.steps) {
            moment.add(other);
        }
        add(&mut self.lag, &part.lag);
        let thread = &mut self.threads[index];
        thread.at = part.second + 1;
        thread.cpu = (thread.cpu.0 + part.gauges.cpu, thread.cpu.1 + 1);
        thread.gauges = part.gauges;
    }

    /// Whether every thread has handed over its last batch.
    pub fn is_over(&self) -> bool {
        self.threads.iter().all(|thread| thread.ended)
    }

    fn absorb(&mut self, mut batch: Batch, empty: &mut dyn FnMut(Batch)) {
        for sample in &batch.samples {
            let index = usize::from(sample.step);
            let moment = &mut self.steps[index];
            moment.response.saturating_record(sample.response.max(1));
            moment.service.saturating_record(sample.service.max(1));
            match sample.failure {
                None => moment.good += 1,
                Some(failure) => *moment.failures.entry(failure).or_default() += 1,
            }
            if sample.status != 0 {
                *moment.statuses.entry(sample.status).or_default() += 1;
            }
        }
        for lag in &batch.lags {
            self.lag.saturating_record((*lag).max(1));
        }
        for (moment, counts) in self.steps.iter_mut().zip(&batch.counts) {
            moment.counts.add(counts);
        }
        for (step, failure, text) in batch.examples.drain(..) {
            self.steps[usize::from(step)].examples.entry(failure).or_insert(text);
        }
        let thread = &mut self.threads[batch.thread];
        if let Some(gauges) = batch.gauges.take() {
            thread.at = batch.second + 1;
            if !batch.last {
                thread.cpu = (thread.cpu.0 + gauges.cpu, thread.cpu.1 + 1);
            }
            thread.gauges = gauges;
        }
        thread.ended |= batch.last;
        batch.clear();
        empty(batch);
    }

    fn tell(&mut self, over: bool, tell: &mut dyn FnMut(Beat<'_>)) {
        for thread in &mut self.threads {
            for (step, age) in thread.gauges.open.drain(..) {
                self.steps[usize::from(step)].open.push(age);
            }
        }
        for (moment, total) in self.steps.iter().zip(&mut self.totals) {
            self.all.add(moment);
            total.add_moment(moment);
        }
        add(&mut self.lag_total, &self.lag);
        // The last one is cut short, and often empty.
        let empty = self.all.counts == Counts::default() && !self.all.ended();
        if !(over && empty) {
            let second = self.second();
            tell(Beat { second: &second, all: &self.all, steps: &self.steps, totals: &self.totals, lag: &self.lag });
            self.seconds.push(second);
        }
        self.steps.iter_mut().chain([&mut self.all]).for_each(Moment::clear);
        self.lag.reset();
        self.second += 1;
    }

    fn second(&self) -> Second {
        let all = &self.all;
        let mut cells: BTreeMap<u8, u64> = BTreeMap::new();
        for bar in all.response.iter_recorded() {
            *cells.entry(cell(bar.value_iterated_to())).or_default() += bar.count_at_value();
        }
        Second {
            at: self.second,
            due: all.counts.due,
            sent: all.counts.sent,
            unsent: all.counts.unsent,
            good: all.good,
            failures: all.failures.clone(),
            in_flight: self.threads.iter().map(|thread| thread.gauges.in_flight).sum(),
            connections: self.threads.iter().map(|thread| thread.gauges.connections).sum(),
            bytes: (all.counts.bytes_out, all.counts.bytes_in),
            response: five(&all.response),
            service: five(&all.service),
            lag: if self.lag.is_empty() { 0 } else { self.lag.value_at_quantile(0.99) },
            cells: cells.into_iter().collect(),
            steps: self
                .steps
                .iter()
                .map(|step| (step.good, if step.ended() { step.response.value_at_quantile(0.99) } else { 0 }))
                .collect(),
            cpu: self.threads.iter().map(|thread| thread.gauges.cpu).fold(0.0, f64::max),
        }
    }

    /// All that was found out.
    pub fn done(self) -> Collected {
        let (due, sent) =
            self.totals.iter().fold((0, 0), |(due, sent), total| (due + total.counts.due, sent + total.counts.sent));
        let health = Health {
            lag: Distribution::of(&self.lag_total),
            threads: self.threads.iter().map(|thread| thread.cpu.0 / f64::from(thread.cpu.1.max(1))).collect(),
            sent_share: if due == 0 { 1.0 } else { sent as f64 / due as f64 },
            ..Health::default()
        };
        Collected { totals: self.totals, seconds: self.seconds, health }
    }
}

fn five(histogram: &Histogram<u64>) -> [u64; 5] {
    if histogram.is_empty() {
        return [0; 5];
    }
    [0.5, 0.9, 0.99, 0.999, 1.0].map(|q| histogram.value_at_quantile(q))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::record::Sample;

    /// What a thread hands in for each second: response times and statuses.
    type Seconds = Vec<Vec<(u64, u16)>>;

    fn batches(thread: usize, seconds: &Seconds) -> impl Iterator<Item = Batch> {
        let last = seconds.len() - 1;
        seconds.iter().enumerate().map(move |(second, samples)| {
            let mut batch = Batch::new(thread, 2);
            batch.second = second as u32;
            for (response, status) in samples {
                let failure = (*status >= 500).then_some(Failure::ServerError);
                let step = u16::from(response % 2 == 0);
                let service = response / 2;
                batch.samples.push(Sample { response: *response, service, step, status: *status, failure });
                batch.counts[usize::from(step)].due += 1;
                batch.counts[usize::from(step)].sent += 1;
                batch.lags.push(response / 3);
            }
            batch.gauges = Some(Gauges { in_flight: 1, connections: 2, cpu: 0.5, open: Vec::new() });
            batch.last = second == last;
            batch
        })
    }

    fn alone(threads: &[Seconds], tell: &mut dyn FnMut(Beat<'_>)) -> Collected {
        let mut collector = Collector::new(threads.len(), 2);
        for (thread, seconds) in threads.iter().enumerate() {
            batches(thread, seconds).for_each(|batch| collector.take(batch, &mut drop, tell));
        }
        collector.done()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]

        #[test]
        fn what_several_processes_find_adds_up_to_what_one_would_have_found(
            threads in prop::collection::vec(
                prop::collection::vec(prop::collection::vec((1_u64..10_000_000_000, 200_u16..600), 0..8), 1..5),
                1..4,
            ),
        ) {
            let whole = alone(&threads, &mut |_| ());

            let mut merged = Collector::new(threads.len(), 2);
            for (index, seconds) in threads.iter().enumerate() {
                let mut parts = Vec::new();
                alone(std::slice::from_ref(seconds), &mut |beat| parts.push(Part {
                    second: beat.second.at,
                    steps: beat.steps.to_vec(),
                    lag: beat.lag.clone(),
                    gauges: Gauges { in_flight: beat.second.in_flight, ..Gauges::default() },
                }));
                parts.into_iter().for_each(|part| merged.take_part(index, part, &mut |_| ()));
                merged.end(index, &mut |_| ());
            }
            let merged = merged.done();

            for (one, several) in whole.totals.iter().zip(&merged.totals) {
                prop_assert_eq!(&one.response, &several.response);
                prop_assert_eq!(&one.service, &several.service);
                prop_assert_eq!((one.counts, one.good), (several.counts, several.good));
                prop_assert_eq!(&one.statuses, &several.statuses);
                prop_assert_eq!(&one.failures, &several.failures);
            }
            prop_assert_eq!(whole.health.lag, merged.health.lag);
        }
    }
}
