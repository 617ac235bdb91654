//! The report's tables.

use serde::Serialize;

use crate::judge::{LEAST_SENT, MOST_CPU, MOST_LAG, quantile};
use crate::outcome::{Distribution, Outcome, Second, StepOutcome, Tally};
use crate::report::words;

/// Rows of the table that stands for the charts.
const MOMENTS: usize = 60;
/// Rows of the table of errors. There are 17 kinds; what comes after the first steps is summed up in `result.json`.
const MOST_ERRORS: usize = 200;

/// One row of the steps.
#[derive(Debug, Serialize)]
pub struct Step {
    name: String,
    request: String,
    cells: Vec<String>,
}

/// One kind of error of one step.
#[derive(Debug, Serialize)]
pub struct Failed {
    kind: &'static str,
    count: String,
    share: String,
    step: String,
    example: String,
}

/// The percentile table.
#[derive(Debug, Serialize)]
pub struct Spectrum {
    says: String,
    names: Vec<String>,
    response: Vec<String>,
    service: Vec<String>,
}

/// One thing that the generator watches of itself.
#[derive(Debug, Serialize)]
pub struct Vital {
    what: &'static str,
    seen: String,
    bound: String,
    class: &'static str,
    word: &'static str,
}

/// The run in at most [`MOMENTS`] stretches.
pub fn moments(outcome: &Outcome) -> Vec<Vec<String>> {
    let width = outcome.seconds.len().div_ceil(MOMENTS).max(1);
    let row = |bin: &[Second]| {
        let rate = |of: fn(&Second) -> u64| words::rate(bin.iter().map(of).sum::<u64>() as f64 / bin.len() as f64);
        let worst = |of: fn(&Second) -> u64| time(bin.iter().map(of).max().filter(|it| *it > 0));
        let failed: u64 = bin.iter().map(|s| s.failures.values().sum::<u64>() + s.unsent).sum();
        vec![
            words::span(u64::from(bin[0].at)),
            rate(|s| s.due),
            rate(|s| s.sent),
            rate(|s| s.good),
            words::count(failed),
            worst(|s| s.response[0]),
            worst(|s| s.response[2]),
            worst(|s| s.response[4]),
            worst(|s| s.service[2]),
            words::count(bin.iter().map(|s| s.in_flight).max().unwrap_or(0)),
            worst(|s| s.lag),
        ]
    };
    outcome.seconds.chunks(width).map(row).collect()
}

/// Percentiles of all requests.
pub fn spectrum(outcome: &Outcome) -> Spectrum {
    let all = &outcome.all;
    let count = all.response.count;
    // A quantile is told where at least one value lies beyond it.
    let told: Vec<f64> = [0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 0.9999, 0.99999, 0.999_999]
        .into_iter()
        .filter(|q| *q < 0.999 || count as f64 * (1.0 - q) >= 1.0)
        .chain([1.0])
        .collect();
    let name = |q: &f64| match *q {
        q if q >= 1.0 => "max".to_owned(),
        q => format!("p{}", words::trim(format!("{:.4}", q * 100.0))),
    };
    let cells = |of: &Distribution| told.iter().map(|q| time(quantile(of, *q))).collect();
    let says = match (quantile(&all.response, 0.5), quantile(&all.response, 0.99)) {
        (Some(half), Some(most)) => format!(
            "Half of {} requests took at most {}, 99 of 100 at most {}. To the right are the rare slow ones; steps in the \
             line are stalls.",
            words::count(count),
            words::time(half),
            words::time(most)
        ),
        _ => "Nothing was answered.".to_owned(),
    };
    let names = told.iter().map(name).collect();
    Spectrum { says, names, response: cells(&all.response), service: cells(&all.service) }
}

/// All steps, and their sum where there are several.
pub fn steps(outcome: &Outcome) -> Vec<Step> {
    let seconds = (outcome.took as f64 / 1e9).max(1e-9);
    let cells = |tally: &Tally| {
        let bad = tally.due.saturating_sub(tally.good);
        let at = |q: f64| time(quantile(&tally.response, q));
        vec![
            words::count(tally.due),
            words::count(tally.good),
            words::rate(tally.good as f64 / seconds),
            if tally.due == 0 { "–".to_owned() } else { words::share(bad as f64 / tally.due as f64) },
            at(0.5),
            at(0.9),
            at(0.99),
            at(0.999),
            at(1.0),
            time(quantile(&tally.service, 0.99)),
        ]
    };
    let row =
        |step: &StepOutcome| Step { name: step.name.clone(), request: step.request.clone(), cells: cells(&step.tally) };
    let mut rows: Vec<_> = outcome.steps.iter().map(row).collect();
    if rows.len() != 1 {
        rows.push(Step { name: "All together".to_owned(), request: String::new(), cells: cells(&outcome.all) });
    }
    rows
}

/// All kinds of errors by step, the most frequent first.
pub fn errors(outcome: &Outcome) -> Vec<Failed> {
    let due = outcome.all.due.max(1) as f64;
    let mut rows: Vec<(u64, Failed)> = Vec::new();
    for step in &outcome.steps {
        for (kind, count) in &step.tally.failures {
            let example = step.tally.examples.get(kind).cloned().unwrap_or_default();
            rows.push((*count, failed(kind.text(), *count, due, &step.name, example)));
        }
        if step.tally.unsent > 0 {
            let example = "as many as allowed were under way".to_owned();
            rows.push((step.tally.unsent, failed("never sent", step.tally.unsent, due, &step.name, example)));
        }
    }
    rows.sort_by_key(|(count, _)| std::cmp::Reverse(*count));
    rows.into_iter().take(MOST_ERRORS).map(|(_, row)| row).collect()
}

fn failed(kind: &'static str, count: u64, due: f64, step: &str, example: String) -> Failed {
    Failed { kind, count: words::count(count), share: words::share(count as f64 / due), step: step.to_owned(), example }
}

/// Answers by status.
pub fn statuses(outcome: &Outcome) -> Vec<(String, u16)> {
    outcome.all.statuses.iter().map(|(status, count)| (words::count(*count), *status)).collect()
}

/// What the generator watches of itself.
pub fn health(outcome: &Outcome) -> Vec<Vital> {
    let health = &outcome.generator;
    let lag = quantile(&health.lag, 0.99);
    let busiest = health.threads.iter().copied().fold(0.0, f64::max);
    let room = outcome.all.unsent;
    let vital = |what, seen, bound, fine: bool| {
        let (class, word) = if fine { ("yes", "✓ fine") } else { ("no", "✗ too much") };
        Vital { what, seen, bound, class, word }
    };
    let mut rows = vec![
        vital(
            "Lag at p99: from when a request was due to its sending",
            time(lag),
            format!("at most {}", words::time(MOST_LAG)),
            lag.unwrap_or(0) <= MOST_LAG,
        ),
        vital(
            "CPU of the busiest thread, of a core",
            words::share(busiest),
            format!("at most {}", words::share(MOST_CPU)),
            busiest <= MOST_CPU,
        ),
    ];
    let mut sent = vital(
        "Sent, of what was due",
        words::share(health.sent_share),
        format!("at least {}", words::share(LEAST_SENT)),
        true,
    );
    if health.sent_share < LEAST_SENT && room > 0 {
        (sent.class, sent.word) = ("maybe", "● the target left no room");
    }
    rows.push(sent);
    rows.push(Vital {
        what: "Memory, at most",
        seen: words::bytes(health.memory as f64),
        bound: String::new(),
        class: "",
        word: "",
    });
    rows
}

fn time(nanos: Option<u64>) -> String {
    nanos.map_or_else(|| "–".to_owned(), words::time)
}
