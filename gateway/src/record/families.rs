//! The families that rows are exposed as: names, help texts, labels, and which slots they read.
//!
//! # Not here
//!
//! Families without labels or with rare counts are made with the `prometheus` crate in `metrics`.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus::core::{Collector, Desc};
use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};

use super::cells::{BOUNDS_NANOS, HISTOGRAM_SLOTS, Row};
use super::handles::*;

/// How a family reads a row.
pub(super) enum Shape {
    /// One counter.
    Counter(usize),
    /// Several counters, told apart by one more label. Zeros are left out where `sparse`.
    Counters { slots: Range<usize>, label: &'static str, values: fn(usize) -> &'static str, sparse: bool },
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
    name: &'static str,
    help: &'static str,
    shape: Shape,
}

/// The labels that arm rows carry.
pub(super) const ARM_LABELS: &[&str] = &["route", "service", "version"];
/// What arm rows are exposed as.
pub(super) const ARM_FAMILIES: &[Family] = &[
    Family {
        name: "tidegate_requests_total",
        help: "Requests that ended, by route, version and status. Service and version are empty where the gateway \
               answered before it chose one.",
        shape: Shape::Counters { slots: 0..CODES.len(), label: "code", values: |slot| CODES[slot], sparse: true },
    },
    Family {
        name: "tidegate_request_duration_seconds",
        help: "Time from a request's head to the last byte of its answer.",
        shape: Shape::Seconds(ARM_SECONDS),
    },
    Family {
        name: "tidegate_request_body_bytes_total",
        help: "Bytes of request bodies received from clients.",
        shape: Shape::Counter(ARM_BYTES_IN),
    },
    Family {
        name: "tidegate_response_body_bytes_total",
        help: "Bytes of response bodies sent to clients.",
        shape: Shape::Counter(ARM_BYTES_OUT),
    },
];

/// The labels that route rows carry.
pub(super) const ROUTE_LABELS: &[&str] = &["route"];
/// What route rows are exposed as.
pub(super) const ROUTE_FAMILIES: &[Family] = &[Family {
    name: "tidegate_answers_total",
    help: "Answers that the gateway gave by itself, by reason. Route is empty where none was found.",
    shape: Shape::Counters {
        slots: 0..REASONS.len(),
        label: "reason",
        values: |slot| reason_label(REASONS[slot]),
        sparse: true,
    },
}];

/// The labels that endpoint rows carry.
pub(super) const ENDPOINT_LABELS: &[&str] = &["service", "version", "endpoint"];
/// What endpoint rows are exposed as.
pub(super) const ENDPOINT_FAMILIES: &[Family] = &[
    Family {
        name: "tidegate_upstream_requests_total",
        help: "Tries at an endpoint, by result. A retried request counts once for each try.",
        shape: Shape::Counters {
            slots: 0..TRY_RESULTS.len(),
            label: "result",
            values: |slot| TRY_RESULTS[slot],
            sparse: false,
        },
    },
    Family {
        name: "tidegate_upstream_first_byte_seconds",
        help: "Time from a request being sent to an endpoint to the first byte of its answer.",
        shape: Shape::Seconds(ENDPOINT_FIRST_BYTE),
    },
    Family {
        name: "tidegate_upstream_in_flight",
        help: "Requests that an endpoint is serving right now for this gateway.",
        shape: Shape::Level(ENDPOINT_IN_FLIGHT),
    },
    Family {
        name: "tidegate_endpoint_up",
        help: "1 while an endpoint is neither down by its probes nor ejected, else 0.",
        shape: Shape::NoGauge,
    },
    Family {
        name: "tidegate_endpoint_ejected",
        help: "1 while an endpoint rests after failing, else 0.",
        shape: Shape::Gauge(ENDPOINT_EJECTED),
    },
    Family {
        name: "tidegate_endpoint_down",
        help: "1 while an endpoint's probes fail, else 0.",
        shape: Shape::Gauge(ENDPOINT_DOWN),
    },
    Family {
        name: "tidegate_ejections_total",
        help: "Ejections of an endpoint, by cause.",
        shape: Shape::Counters {
            slots: ENDPOINT_EJECTIONS..ENDPOINT_EJECTIONS + EJECTION_CAUSES.len(),
            label: "cause",
            values: |slot| EJECTION_CAUSES[slot],
            sparse: false,
        },
    },
    Family {
        name: "tidegate_probes_total",
        help: "Active probes of an endpoint, by result.",
        shape: Shape::Counters {
            slots: ENDPOINT_PROBES..ENDPOINT_PROBES + PROBE_RESULTS.len(),
            label: "result",
            values: |slot| PROBE_RESULTS[slot],
            sparse: false,
        },
    },
];

/// The labels that service rows carry.
pub(super) const SERVICE_LABELS: &[&str] = &["service"];
/// What service rows are exposed as.
pub(super) const SERVICE_FAMILIES: &[Family] = &[
    Family {
        name: "tidegate_retries_total",
        help: "Retries, by what came of them.",
        shape: Shape::Counters {
            slots: 0..RETRY_RESULTS.len(),
            label: "result",
            values: |slot| RETRY_RESULTS[slot],
            sparse: false,
        },
    },
    Family {
        name: "tidegate_retry_budget_exhausted_total",
        help: "Retries that were not made because the service's retry budget was used up.",
        shape: Shape::Counter(SERVICE_EXHAUSTED),
    },
    Family {
        name: "tidegate_shed_total",
        help: "Requests that there was no room for at a service, by reason: a surge has taken the headroom (saturated); in \
               an attack, the share of unknown clients is used up (attack), or even that of known ones (full).",
        shape: Shape::Counters {
            slots: SERVICE_SHED..SERVICE_SHED + SHED_REASONS.len(),
            label: "reason",
            values: |slot| SHED_REASONS[slot],
            sparse: false,
        },
    },
    Family {
        name: "tidegate_service_under_attack",
        help: "1 while a service has more to do than it can and unknown visitors are challenged or turned away, else 0.",
        shape: Shape::Gauge(SERVICE_ATTACK),
    },
    Family {
        name: "tidegate_service_capacity",
        help: "Requests that may wait for a service's answers at once before anybody is kept out; 0 while there is no bound.",
        shape: Shape::Gauge(SERVICE_CAPACITY),
    },
];

/// The labels that limit rows carry.
pub(super) const LIMIT_LABELS: &[&str] = &["limit"];
/// What limit rows are exposed as.
pub(super) const LIMIT_FAMILIES: &[Family] = &[
    Family {
        name: "tidegate_limit_decisions_total",
        help: "Decisions of a named limit, by result.",
        shape: Shape::Counters {
            slots: 0..LIMIT_RESULTS.len(),
            label: "result",
            values: |slot| LIMIT_RESULTS[slot],
            sparse: false,
        },
    },
    Family {
        name: "tidegate_limit_bans_total",
        help: "Bans that began because a key went on after being refused.",
        shape: Shape::Counter(LIMIT_BANS),
    },
    Family { name: "tidegate_limit_keys", help: "Keys that a named limit remembers.", shape: Shape::Gauge(0) },
    Family {
        name: "tidegate_limit_keys_forgotten_total",
        help: "Keys that were forgotten early because a limit's memory was full.",
        shape: Shape::Counter(LIMIT_FORGOTTEN),
    },
];

/// The labels that shadow rows carry.
pub(super) const SHADOW_LABELS: &[&str] = &["route", "service", "version"];
/// What shadow rows are exposed as.
pub(super) const SHADOW_FAMILIES: &[Family] = &[
    Family {
        name: "tidegate_shadow_sent_total",
        help: "Shadow copies that were sent.",
        shape: Shape::Counter(SHADOW_SENT),
    },
    Family {
        name: "tidegate_shadow_dropped_total",
        help: "Shadow copies that were not sent, by the bound they met.",
        shape: Shape::Counters {
            slots: SHADOW_DROPPED..SHADOW_DROPPED + SHADOW_DROPS.len(),
            label: "reason",
            values: |slot| SHADOW_DROPS[slot],
            sparse: false,
        },
    },
    Family {
        name: "tidegate_shadow_truncated_total",
        help: "Shadow copies that were sent without the rest of a body longer than the cap.",
        shape: Shape::Counter(SHADOW_TRUNCATED),
    },
    Family {
        name: "tidegate_shadow_finished_total",
        help: "Shadow copies that were sent and have ended, by result.",
        shape: Shape::Counters {
            slots: SHADOW_DONE..SHADOW_DONE + SHADOW_RESULTS.len(),
            label: "result",
            values: |slot| SHADOW_RESULTS[slot],
            sparse: false,
        },
    },
    Family {
        name: "tidegate_shadow_compared_total",
        help: "Shadow answers that were compared with the main answer.",
        shape: Shape::Counter(SHADOW_COMPARED),
    },
    Family {
        name: "tidegate_shadow_mismatches_total",
        help: "Differences between a shadow's answer and the main one, by kind. One answer may differ in several.",
        shape: Shape::Counters {
            slots: SHADOW_MISMATCHES..SHADOW_MISMATCHES + MISMATCHES.len(),
            label: "kind",
            values: |slot| MISMATCHES[slot],
            sparse: false,
        },
    },
    Family {
        name: "tidegate_shadow_duration_seconds",
        help: "Time that a shadow copy took, connect included.",
        shape: Shape::Seconds(SHADOW_SECONDS),
    },
    Family {
        name: "tidegate_shadow_incomparable_total",
        help: "Shadow answers that could not be compared: no main answer, a body too long, or another encoding.",
        shape: Shape::Counter(SHADOW_INCOMPARABLE),
    },
    Family {
        name: "tidegate_shadow_main_first_byte_seconds",
        help: "Time to the first byte of main answers that a shadow's was compared with.",
        shape: Shape::Seconds(SHADOW_MAIN_FIRST_BYTE),
    },
    Family {
        name: "tidegate_shadow_first_byte_seconds",
        help: "Time to the first byte of shadow answers that were compared.",
        shape: Shape::Seconds(SHADOW_FIRST_BYTE),
    },
];

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
    if let Shape::Counters { label, .. } = &family.shape {
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
        Shape::Counter(_) | Shape::Counters { .. } => MetricType::COUNTER,
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
        Shape::Counters { slots, label, values, sparse } => {
            for (index, slot) in slots.clone().enumerate() {
                if *sparse && totals[slot] == 0 {
                    continue;
                }
                let mut labels = labels.to_vec();
                labels.push(pair(label, values(index)));
                out.push(counter(labels, totals[slot]));
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
