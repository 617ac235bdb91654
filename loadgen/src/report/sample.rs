//! A plan and outcomes for tests: the same each time.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tidegate_model::scenario::plan::{
    Client, Comparison, Flow, Load, Measure, Origin, Plan, Protocol, Spacing, Stage, Step, Template, Threshold,
};

use crate::Failure;
use crate::outcome::{Distribution, Health, Outcome, Second, Series, StepOutcome, Tally, Verdict, cell};

/// Two steps, 100 flows a second for a minute.
pub(crate) fn plan() -> Plan {
    let origin = Origin { tls: false, host: "127.0.0.1".to_owned(), port: 8_080 };
    let step = |name: &str, target: &str| Step::get(name, origin.clone(), Template::text(target));
    Plan {
        name: "shop".to_owned(),
        load: Load::Open {
            stages: vec![Stage { lasts: Duration::from_secs(60), from: 100.0, to: 100.0 }],
            spacing: Spacing::Even,
            most_in_flight: 1_000,
        },
        flows: vec![Flow {
            name: "visit".to_owned(),
            weight: 1.0,
            steps: vec![step("list", "/"), step("item", "/item")],
        }],
        feeders: Vec::new(),
        client: Client {
            protocol: Protocol::Http1,
            keep_alive: true,
            connections: 1_000,
            streams: 1,
            threads: 2,
            sources: Vec::new(),
            resolve: BTreeMap::new(),
            connect_timeout: Duration::from_secs(5),
            ca: None,
            insecure: false,
        },
        thresholds: Vec::new(),
        stops: Vec::new(),
        mark: None,
        seed: 1,
    }
}

/// An outcome in which nothing happened.
pub(crate) fn empty() -> Outcome {
    Outcome {
        version: 1,
        name: "shop".to_owned(),
        began: 1_795_000_000_000,
        took: 0,
        model: "open".to_owned(),
        load: "100 visits a second for 1 minute".to_owned(),
        verdict: Verdict::Passed,
        thresholds: Vec::new(),
        all: Tally::default(),
        steps: Vec::new(),
        seconds: Vec::new(),
        generator: Health::default(),
        target: Vec::new(),
    }
}

/// A step with these numbers.
pub(crate) fn step(name: &str, tally: Tally) -> StepOutcome {
    StepOutcome { name: name.to_owned(), request: format!("GET /{name}"), tally }
}

/// A run of so many seconds at 200 visits a second, with a stall, errors and a target that tells of itself.
pub(crate) fn run(seconds: u32) -> Outcome {
    seeded(seconds, 1, 1.0)
}

/// The same with other dice, and a target that takes `slower` times as long.
pub(crate) fn seeded(seconds: u32, seed: u64, slower: f64) -> Outcome {
    let mut dice = StdRng::seed_from_u64(seed);
    let mut totals: Vec<Total> = (0..2).map(|_| Total::default()).collect();
    let mut lags = histogram();
    let mut out = empty();
    for at in 0..seconds {
        out.seconds.push(second(at, slower, &mut dice, &mut totals, &mut lags));
    }
    let mut all = Total::default();
    for (name, total) in ["list", "item"].into_iter().zip(&totals) {
        all.merge(total);
        out.steps.push(step(name, total.tally()));
    }
    out.took = u64::from(seconds) * 1_000_000_000;
    out.load = format!("200/s for {seconds} s, at random moments");
    out.all = all.tally();
    out.generator = Health {
        lag: distribution(&lags),
        threads: vec![0.12, 0.14],
        sent_share: 1.0,
        memory: 21 << 20,
        ..Health::default()
    };
    out.target = target(seconds);
    let thresholds =
        [("p99 < 200ms", Measure::Response(0.99), 200e6), ("item.p95 < 150ms", Measure::Response(0.95), 150e6)];
    let mut plan = plan();
    plan.thresholds = thresholds
        .into_iter()
        .chain([("errors < 1%", Measure::Errors, 0.01)])
        .map(|(text, measure, bound)| Threshold {
            text: text.to_owned(),
            step: None,
            measure,
            is: Comparison::Less,
            bound,
        })
        .collect();
    plan.thresholds[1].step = Some("item".to_owned());
    crate::judge::judge(&plan, &mut out);
    out
}

/// One second: two steps of 100 requests, a stall of a second in each twenty, failures while it lasts.
fn second(at: u32, slower: f64, dice: &mut StdRng, totals: &mut [Total], lags: &mut Histogram<u64>) -> Second {
    const MS: f64 = 1e6;
    let stalled = at % 20 == 13;
    let mut out =
        Second { at, in_flight: if stalled { 180 } else { 4 }, connections: 60, cpu: 0.13, ..Second::default() };
    let (mut response, mut service) = (histogram(), histogram());
    for (index, total) in totals.iter_mut().enumerate() {
        let mut own = histogram();
        let mut good = 0;
        for _ in 0..100 {
            let usual = (4.0 + 6.0 * index as f64) * (dice.random::<f64>() * 2.0).exp() * slower;
            let waited = if stalled { dice.random::<f64>() * 900.0 } else { 0.0 };
            let rare = if dice.random::<f64>() < 0.004 { 120.0 } else { 0.0 };
            let sent = ((usual + rare) * MS) as u64;
            let due = ((usual + rare + waited) * MS) as u64;
            [&mut own, &mut response, &mut total.response].into_iter().for_each(|it| it.record(due).unwrap());
            [&mut service, &mut total.service].into_iter().for_each(|it| it.record(sent).unwrap());
            lags.record((20_000.0 + dice.random::<f64>() * 90_000.0) as u64).unwrap();
            if stalled && dice.random::<f64>() < 0.1 {
                *total.failures.entry(Failure::ServerError).or_default() += 1;
                *out.failures.entry(Failure::ServerError).or_default() += 1;
                total.examples.entry(Failure::ServerError).or_insert_with(|| "503 Service Unavailable".to_owned());
                *total.statuses.entry(503).or_default() += 1;
            } else {
                good += 1;
                *total.statuses.entry(200).or_default() += 1;
            }
        }
        total.due += 100;
        total.good += good;
        out.good += good;
        out.steps.push((good, own.value_at_quantile(0.99)));
    }
    (out.due, out.sent, out.bytes) = (200, 200, (24_000, 900_000));
    out.lag = 95_000 + u64::from(at % 7) * 3_000;
    let five = |it: &Histogram<u64>| [0.5, 0.9, 0.99, 0.999, 1.0].map(|q| it.value_at_quantile(q));
    (out.response, out.service) = (five(&response), five(&service));
    let mut cells: BTreeMap<u8, u64> = BTreeMap::new();
    response
        .iter_recorded()
        .for_each(|bar| *cells.entry(cell(bar.value_iterated_to())).or_default() += bar.count_at_value());
    out.cells = cells.into_iter().collect();
    out
}

fn target(seconds: u32) -> Vec<Series> {
    let series = |what: &str, of: &str, unit: &str, value: &dyn Fn(f64) -> f64| Series {
        what: what.to_owned(),
        of: of.to_owned(),
        unit: unit.to_owned(),
        points: (0..seconds).map(|at| (f64::from(at) + 0.4, value(f64::from(at)))).collect(),
    };
    vec![
        series("requests", "shop/v1", "/s", &|at| 180.0 + (at * 1.7).sin() * 2.0),
        series("requests", "shop/v2", "/s", &|at| 20.0 + at.sin()),
        series("p99", "shop/v1", "ms", &|at| 60.0 + 8.0 * (at / 3.0).sin()),
        series("p99", "shop/v2", "ms", &|at| 80.0 + 20.0 * (at / 5.0).sin()),
        series("CPU", "gateway", "cores", &|at| 0.2 + 0.02 * (at / 2.0).cos()),
        series("memory", "gateway", "bytes", &|at| 40e6 + 1e4 * at),
    ]
}

/// What one step found.
#[derive(Default)]
struct Total {
    due: u64,
    good: u64,
    failures: BTreeMap<Failure, u64>,
    examples: BTreeMap<Failure, String>,
    statuses: BTreeMap<u16, u64>,
    response: Times,
    service: Times,
}

/// Times, nanoseconds.
struct Times(Histogram<u64>);

impl Default for Times {
    fn default() -> Self {
        Self(histogram())
    }
}

impl std::ops::Deref for Times {
    type Target = Histogram<u64>;

    fn deref(&self) -> &Histogram<u64> {
        &self.0
    }
}

impl std::ops::DerefMut for Times {
    fn deref_mut(&mut self) -> &mut Histogram<u64> {
        &mut self.0
    }
}

impl Total {
    fn merge(&mut self, other: &Self) {
        self.due += other.due;
        self.good += other.good;
        other.failures.iter().for_each(|(kind, count)| *self.failures.entry(*kind).or_default() += count);
        other.statuses.iter().for_each(|(status, count)| *self.statuses.entry(*status).or_default() += count);
        self.examples.extend(other.examples.clone());
        self.response.add(&*other.response).unwrap();
        self.service.add(&*other.service).unwrap();
    }

    fn tally(&self) -> Tally {
        Tally {
            due: self.due,
            sent: self.due,
            good: self.good,
            failures: self.failures.clone(),
            examples: self.examples.clone(),
            statuses: self.statuses.clone(),
            bytes_out: self.due * 120,
            bytes_in: self.due * 4_500,
            response: distribution(&self.response),
            service: distribution(&self.service),
            ..Tally::default()
        }
    }
}

fn distribution(times: &Histogram<u64>) -> Distribution {
    Distribution::of(times)
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 3_600_000_000_000, 3).unwrap()
}
