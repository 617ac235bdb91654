//! What a run found out: everything that reports show, as plain data. Its JSON is `result.json`.
//!
//! # Invariants
//!
//! - `due = sent + unsent`, and `sent = good + failed`: nothing is lost.
//! - Histograms are whole, so outcomes of several workers merge exactly; percentiles are taken afterwards, never averaged.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer, Serializer as _, V2DeflateSerializer};
use serde::{Deserialize, Serialize};

use crate::Failure;

/// What a run found out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// The version of this format: 1.
    pub version: u32,
    /// The plan's name.
    pub name: String,
    /// When the schedule began, in Unix milliseconds.
    pub began: u64,
    /// How long it took, in nanoseconds, up to the end of the schedule or the stop.
    pub took: u64,
    /// `open`, `closed` or `recorded`.
    pub model: String,
    /// The load in one sentence, as people would say it.
    pub load: String,
    /// What it comes to.
    pub verdict: Verdict,
    /// Thresholds, as they stand at the end.
    pub thresholds: Vec<Judged>,
    /// All steps together.
    pub all: Tally,
    /// Each step, in the order of the plan.
    pub steps: Vec<StepOutcome>,
    /// Second by second, from the start.
    pub seconds: Vec<Second>,
    /// The generator's own health.
    pub generator: Health,
    /// What the target says of itself, on the same time axis.
    pub target: Vec<Series>,
}

/// What a run comes to. The first that applies.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub enum Verdict {
    /// The generator could not keep to the schedule by itself: the numbers say little about the target.
    GeneratorLimited {
        /// Each with its figures, in a sentence.
        reasons: Vec<String>,
    },
    /// A stop condition ended it.
    Stopped {
        /// Which, and what was seen.
        reason: String,
        /// When, in seconds from the start.
        at: f64,
    },
    /// Somebody ended it.
    Interrupted {
        /// When, in seconds from the start.
        at: f64,
    },
    /// A threshold doesn't hold.
    Failed {
        /// Those that don't, each with what was seen.
        reasons: Vec<String>,
    },
    /// All thresholds hold, or there are none.
    Passed,
}

/// A threshold, and what was seen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Judged {
    /// As it was written.
    pub text: String,
    /// What was seen, in the threshold's own unit, for people.
    pub seen: String,
    /// Whether it holds.
    pub holds: bool,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepOutcome {
    /// Its name.
    pub name: String,
    /// The method and the target, as written.
    pub request: String,
    /// Its numbers.
    pub tally: Tally,
}

/// Counts and times of requests.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Tally {
    /// Requests that were due.
    pub due: u64,
    /// Those that were sent, or would have been had the connection been made.
    pub sent: u64,
    /// Those that were not, because too many were under way.
    pub unsent: u64,
    /// Those of the sent that were sent once more, because the target had closed the kept connection meanwhile.
    #[serde(default)]
    pub resent: u64,
    /// Good answers.
    pub good: u64,
    /// The others, by kind.
    pub failures: BTreeMap<Failure, u64>,
    /// The first text of each kind of failure: what the system or the target said.
    pub examples: BTreeMap<Failure, String>,
    /// Answers by status.
    pub statuses: BTreeMap<u16, u64>,
    /// Bytes sent, without TLS.
    pub bytes_out: u64,
    /// Bytes received, without TLS.
    pub bytes_in: u64,
    /// From the intended start to the last byte, of everything that was sent; in nanoseconds.
    pub response: Distribution,
    /// From the send to the last byte.
    pub service: Distribution,
}

/// A distribution of times.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Distribution {
    /// How many.
    pub count: u64,
    /// The mean, in nanoseconds.
    pub mean: f64,
    /// The standard deviation, in nanoseconds.
    pub deviation: f64,
    /// The smallest, in nanoseconds.
    pub min: u64,
    /// The largest, in nanoseconds.
    pub max: u64,
    /// Quantile and nanoseconds, ascending: 0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 0.9999, and finer where there are enough.
    pub quantiles: Vec<(f64, u64)>,
    /// The whole histogram (HdrHistogram V2, deflated, base64).
    pub histogram: String,
}

/// One second of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Second {
    /// Its number, from 0.
    pub at: u32,
    /// Requests that were due in it.
    pub due: u64,
    /// Sent in it.
    pub sent: u64,
    /// Not sent in it for want of room.
    pub unsent: u64,
    /// Good answers in it.
    pub good: u64,
    /// Failures in it, by kind.
    pub failures: BTreeMap<Failure, u64>,
    /// Open at its end.
    pub in_flight: u64,
    /// Connections open at its end.
    pub connections: u64,
    /// Bytes sent and received in it.
    pub bytes: (u64, u64),
    /// Response times of what was completed in it, nanoseconds: p50, p90, p99, p99.9, max. Zeros where nothing was.
    pub response: [u64; 5],
    /// Service times, likewise.
    pub service: [u64; 5],
    /// Lag of the generator, p99 in nanoseconds.
    pub lag: u64,
    /// Response times by cell of [`cell`], for the heat map: index of the cell and count, ascending, empty ones left out.
    pub cells: Vec<(u8, u64)>,
    /// Good answers and p99 of their response, nanoseconds, by index of the step.
    pub steps: Vec<(u64, u64)>,
    /// Share of one core that the busiest thread used.
    pub cpu: f64,
}

/// The generator's own health.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Health {
    /// From when a request was due to when its bytes were given to the system, where a connection was free; nanoseconds.
    pub lag: Distribution,
    /// Share of a core that each thread used.
    pub threads: Vec<f64>,
    /// Sent, of what was due; from 0 to 1.
    pub sent_share: f64,
    /// The most memory that was resident, in bytes.
    pub memory: u64,
    /// Workers that took part; empty when this process alone sent.
    pub workers: Vec<String>,
    /// Workers that were lost before their time, each with what was seen. What they hadn't told yet is missing.
    #[serde(default)]
    pub lost: Vec<String>,
}

/// What the target says of itself: one line in a chart.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Series {
    /// What it measures: `requests/s`, `p99`, `cpu`, `memory`.
    pub what: String,
    /// Of which part: `shop/v2`, `gateway`.
    pub of: String,
    /// The unit: `/s`, `ms`, `cores`, `bytes`.
    pub unit: String,
    /// Seconds from the start, and the value.
    pub points: Vec<(f64, f64)>,
}

/// The quantiles that every [`Distribution`] lists, with how many values it takes for one to be listed.
const QUANTILES: [(f64, u64); 10] = [
    (0.5, 0),
    (0.75, 0),
    (0.9, 0),
    (0.95, 0),
    (0.99, 0),
    (0.999, 0),
    (0.9999, 0),
    (0.99999, 100_000),
    (0.999_999, 1_000_000),
    (0.999_999_9, 10_000_000),
];

impl Distribution {
    /// What `histogram` holds.
    pub fn of(histogram: &Histogram<u64>) -> Self {
        if histogram.is_empty() {
            return Self::default();
        }
        let mut bytes = Vec::new();
        let written = V2DeflateSerializer::new().serialize(histogram, &mut bytes);
        written.expect("a vector takes everything, and 64-bit counts of one run fit the format");
        let enough = QUANTILES.iter().filter(|(_, least)| histogram.len() >= *least);
        Self {
            count: histogram.len(),
            mean: histogram.mean(),
            deviation: histogram.stdev(),
            min: histogram.min(),
            max: histogram.max(),
            quantiles: enough.map(|(q, _)| (*q, histogram.value_at_quantile(*q))).collect(),
            histogram: BASE64.encode(&bytes),
        }
    }

    /// The whole histogram; `None` if it can't be read, or there is none.
    pub fn whole(&self) -> Option<Histogram<u64>> {
        let bytes = BASE64.decode(&self.histogram).ok()?;
        Deserializer::new().deserialize(&mut bytes.as_slice()).ok()
    }
}

impl Tally {
    /// Failures of all kinds.
    pub fn failed(&self) -> u64 {
        self.failures.values().sum()
    }
}

/// The heat map's cell of a time: four for each doubling, the first ends at 16 µs, the last (of 128) is open.
pub fn cell(nanos: u64) -> u8 {
    const FIRST: f64 = 16_000.0;
    let cell = ((nanos as f64 / FIRST).max(1e-9).log2() * 4.0).ceil();
    cell.clamp(0.0, 127.0) as u8
}

/// The upper end of a cell, in nanoseconds.
pub fn cell_end(cell: u8) -> f64 {
    16_000.0 * (f64::from(cell) / 4.0).exp2()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_distribution_gives_back_the_whole_histogram() {
        let mut histogram = Histogram::<u64>::new(3).unwrap();
        (1..=100_000_u64).for_each(|value| histogram.record(value * 1_000).unwrap());

        let distribution = Distribution::of(&histogram);

        assert_eq!(distribution.whole(), Some(histogram));
        assert_eq!(distribution.quantiles.last().map(|it| it.0), Some(0.99999));
        assert_eq!(
            (Distribution::of(&Histogram::new(3).unwrap()), Distribution::default().whole()),
            Default::default()
        );
    }

    #[test]
    fn a_time_lies_in_the_cell_that_ends_at_or_above_it() {
        for nanos in [1, 15_999, 16_000, 16_001, 20_000, 1_000_000, 77_777_777, 3_600_000_000_000] {
            let cell = cell(nanos);
            assert!(nanos as f64 <= cell_end(cell) * 1.000_001, "{nanos} in {cell}");
            assert!(cell == 0 || nanos as f64 > cell_end(cell - 1) * 0.999_999, "{nanos} in {cell}");
        }
    }
}
