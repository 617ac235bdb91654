//! All rows of one kind, and how they are exposed: each row becomes a metric of each of their families.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus::core::{Collector, Desc};
use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};

use super::cells::{BOUNDS_NANOS, HISTOGRAM_SLOTS, Row};

/// How a family reads a row.
pub(super) enum Shape {
    /// One counter.
    Counter(usize),
    /// Counters from this slot on, told apart by one more label: its name, and its value for each.
    Counters(usize, &'static str, &'static [&'static str]),
    /// The same, where most are never used: those that are 0 are left out.
    SparseCounters(usize, &'static str, &'static [&'static str]),
    /// A counter that goes up and down.
    Level(usize),
    /// A gauge.
    Gauge(usize),
    /// 1 while every gauge of the row is 0, else 0.
    NoGauge,
    /// A histogram of durations, in seconds.
    Seconds(usize),
}

/// One metric family.
pub(super) struct Family {
    /// Its name.
    pub name: &'static str,
    /// What it counts.
    pub help: &'static str,
    /// How it reads a row.
    pub shape: Shape,
}

/// All rows of one kind, by their label values.
pub(super) struct Table<const N: usize, const G: usize> {
    labels: &'static [&'static str],
    families: &'static [Family],
    descriptions: Vec<Desc>,
    rows: Mutex<BTreeMap<Vec<String>, Arc<Row<N, G>>>>,
}

impl<const N: usize, const G: usize> Table<N, G> {
    /// An empty table.
    pub fn new(labels: &'static [&'static str], families: &'static [Family]) -> Arc<Self> {
        let descriptions = families.iter().map(|family| describe(family, labels)).collect();
        Arc::new(Self { labels, families, descriptions, rows: Mutex::default() })
    }

    /// The row with these label values, made if there is none.
    pub fn row(&self, values: &[&str]) -> Arc<Row<N, G>> {
        assert_eq!(values.len(), self.labels.len(), "a row has a value for each label");
        let key = values.iter().map(|value| (*value).to_owned()).collect();
        Arc::clone(self.lock().entry(key).or_default())
    }

    /// Forgets every row that `keep` doesn't want. Handles that are still held go on counting, unseen.
    pub fn retain(&self, keep: impl Fn(&[String], &Arc<Row<N, G>>) -> bool) {
        self.lock().retain(|values, row| keep(values, row));
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Vec<String>, Arc<Row<N, G>>>> {
        // A panic elsewhere leaves the map whole: no operation on it is split.
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn describe(family: &Family, labels: &[&str]) -> Desc {
    let mut names: Vec<String> = labels.iter().map(|label| (*label).to_owned()).collect();
    if let Shape::Counters(_, label, _) | Shape::SparseCounters(_, label, _) = &family.shape {
        names.push((*label).to_owned());
    }
    Desc::new(family.name.to_owned(), family.help.to_owned(), names, Default::default())
        .expect("names and labels of our own families are valid")
}

/// Registers a shared table.
pub(super) struct Exposed<const N: usize, const G: usize>(pub Arc<Table<N, G>>);

impl<const N: usize, const G: usize> Collector for Exposed<N, G> {
    fn desc(&self) -> Vec<&Desc> {
        self.0.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let rows: Vec<_> = self.0.lock().iter().map(|(values, row)| (values.clone(), Arc::clone(row))).collect();
        let mut exposed: Vec<MetricFamily> = self.0.families.iter().map(empty_family).collect();
        for (values, row) in rows {
            let labels: Vec<LabelPair> =
                self.0.labels.iter().zip(&values).map(|(name, value)| pair(name, value)).collect();
            let totals = row.totals();
            for (family, out) in self.0.families.iter().zip(&mut exposed) {
                read(&family.shape, &row, &totals, &labels, out.mut_metric());
            }
        }
        exposed
    }
}

fn empty_family(family: &Family) -> MetricFamily {
    let mut out = MetricFamily::default();
    out.set_name(family.name.to_owned());
    out.set_help(family.help.to_owned());
    out.set_field_type(match family.shape {
        Shape::Counter(_) | Shape::Counters(..) | Shape::SparseCounters(..) => MetricType::COUNTER,
        Shape::Level(_) | Shape::Gauge(_) | Shape::NoGauge => MetricType::GAUGE,
        Shape::Seconds(_) => MetricType::HISTOGRAM,
    });
    out
}

fn read<const N: usize, const G: usize>(
    shape: &Shape,
    row: &Row<N, G>,
    totals: &[u64; N],
    labels: &[LabelPair],
    out: &mut Vec<Metric>,
) {
    match shape {
        Shape::Counter(slot) => out.push(counter(labels.to_vec(), totals[*slot])),
        Shape::Counters(first, label, values) | Shape::SparseCounters(first, label, values) => {
            for (value, total) in values.iter().zip(&totals[*first..]) {
                if matches!(shape, Shape::SparseCounters(..)) && *total == 0 {
                    continue;
                }
                let mut labels = labels.to_vec();
                labels.push(pair(label, value));
                out.push(counter(labels, *total));
            }
        }
        Shape::Level(slot) => out.push(gauge(labels, totals[*slot].cast_signed())),
        Shape::Gauge(slot) => out.push(gauge(labels, row.gauge(*slot).load(Relaxed))),
        Shape::NoGauge => {
            let none = (0..G).all(|slot| row.gauge(slot).load(Relaxed) == 0);
            out.push(gauge(labels, i64::from(none)));
        }
        Shape::Seconds(slot) => out.push(histogram(labels, &totals[*slot..*slot + HISTOGRAM_SLOTS])),
    }
}

fn pair(name: &str, value: &str) -> LabelPair {
    let mut pair = LabelPair::default();
    pair.set_name(name.to_owned());
    pair.set_value(value.to_owned());
    pair
}

fn counter(labels: Vec<LabelPair>, value: u64) -> Metric {
    let mut counter = Counter::default();
    counter.set_value(value as f64);
    let mut metric = Metric::from_label(labels);
    metric.set_counter(counter);
    metric
}

fn gauge(labels: &[LabelPair], value: i64) -> Metric {
    let mut gauge = Gauge::default();
    gauge.set_value(value as f64);
    let mut metric = Metric::from_label(labels.to_vec());
    metric.set_gauge(gauge);
    metric
}

fn histogram(labels: &[LabelPair], slots: &[u64]) -> Metric {
    let mut count = 0;
    let mut buckets = Vec::with_capacity(BOUNDS_NANOS.len());
    for (bound, n) in BOUNDS_NANOS.iter().zip(slots) {
        count += n;
        let mut bucket = Bucket::default();
        bucket.set_cumulative_count(count);
        bucket.set_upper_bound(*bound as f64 / 1e9);
        buckets.push(bucket);
    }
    count += slots[BOUNDS_NANOS.len()];

    let mut histogram = Histogram::default();
    histogram.set_sample_count(count);
    histogram.set_sample_sum(slots[HISTOGRAM_SLOTS - 1] as f64 / 1e9);
    histogram.set_bucket(buckets);
    let mut metric = Metric::from_label(labels.to_vec());
    metric.set_histogram(histogram);
    metric
}
