use std::time::Duration;

use hdrhistogram::Histogram;
use proptest::prelude::*;
use tidegate_model::scenario::plan::{Comparison, Load, Measure, Stop, Threshold};

use super::stops::{Seen, Stops};
use super::*;
use crate::outcome::{Health, Second};
use crate::report::sample;

const MS: u64 = 1_000_000;

fn threshold(measure: Measure, is: Comparison, bound: f64) -> Threshold {
    Threshold { text: "as written".to_owned(), step: None, measure, is, bound }
}

fn distribution(values: &[u64]) -> Distribution {
    let mut histogram = Histogram::<u64>::new(3).unwrap();
    values.iter().for_each(|value| histogram.record(*value).unwrap());
    Distribution::of(&histogram)
}

/// An outcome in which nothing is wrong: 1,000 good answers in 10 s.
fn calm() -> Outcome {
    let mut outcome = sample::empty();
    outcome.took = 10_000_000_000;
    outcome.all.due = 1_000;
    outcome.all.sent = 1_000;
    outcome.all.good = 1_000;
    outcome.all.response = distribution(&[10 * MS; 1_000]);
    outcome.all.service = distribution(&[5 * MS; 1_000]);
    outcome.generator = Health { sent_share: 1.0, threads: vec![0.1, 0.2], ..Health::default() };
    outcome
}

fn judged(mut outcome: Outcome, thresholds: Vec<Threshold>, ended: Option<Verdict>) -> Outcome {
    let mut plan = sample::plan();
    plan.thresholds = thresholds;
    outcome.verdict = ended.unwrap_or(Verdict::Passed);
    judge(&plan, &mut outcome);
    outcome
}

#[test]
fn run_without_thresholds_passes() {
    let outcome = judged(calm(), vec![], None);

    assert_eq!((outcome.verdict.clone(), exit_code(&outcome.verdict)), (Verdict::Passed, 0));
}

#[test]
fn every_measure_is_taken_from_its_own_numbers() {
    let mut outcome = calm();
    outcome.all.good = 990;
    outcome.all.response = distribution(&[&[MS; 900][..], &[100 * MS; 99], &[900 * MS]].concat());

    let seen = |measure| seen(measure, &outcome.all, outcome.took).unwrap();

    let near = |a: f64, b: f64| (a / b - 1.0).abs() < 0.002;
    assert!(near(seen(Measure::Response(0.5)), 1e6) && near(seen(Measure::Response(0.95)), 100e6));
    assert!(near(seen(Measure::Response(0.9995)), 900e6) && near(seen(Measure::Response(1.0)), 900e6));
    assert!(near(seen(Measure::Service(0.99)), 5e6) && near(seen(Measure::Max), 900e6));
    assert!(near(seen(Measure::Mean), (900.0 + 9_900.0 + 900.0) / 1_000.0 * 1e6));
    assert!(near(seen(Measure::Errors), 0.01) && near(seen(Measure::Rate), 99.0));
}

#[test]
fn threshold_on_a_step_looks_at_that_step_alone() {
    let mut outcome = calm();
    outcome.steps = vec![sample::step("item", outcome.all.clone()), sample::step("list", outcome.all.clone())];
    outcome.steps[1].tally.response = distribution(&[500 * MS; 10]);
    let on = |step: &str| Threshold {
        step: Some(step.to_owned()),
        ..threshold(Measure::Response(0.99), Comparison::Less, 200e6)
    };

    let outcome = judged(outcome, vec![on("item"), on("list")], None);

    assert_eq!(outcome.thresholds.iter().map(|it| it.holds).collect::<Vec<_>>(), [true, false]);
    assert!(
        matches!(&outcome.verdict, Verdict::Failed { reasons } if reasons[0].starts_with("as written: it was 500"))
    );
    assert_eq!(exit_code(&outcome.verdict), 3);
}

#[test]
fn bound_itself_meets_at_most_and_not_less() {
    for (is, expected) in [
        (Comparison::Less, [true, false, false]),
        (Comparison::AtMost, [true, true, false]),
        (Comparison::More, [false, false, true]),
        (Comparison::AtLeast, [false, true, true]),
    ] {
        assert_eq!([0.9, 1.0, 1.1].map(|seen| compare(is, seen, 1.0)), expected, "{is:?}");
    }
}

#[test]
fn threshold_that_nothing_was_measured_for_does_not_hold() {
    let thresholds = [Measure::Response(0.99), Measure::Service(0.5), Measure::Mean, Measure::Max, Measure::Errors];
    let thresholds = thresholds.map(|measure| threshold(measure, Comparison::Less, 1e12)).to_vec();

    let outcome = judged(sample::empty(), thresholds, None);

    assert!(outcome.thresholds.iter().all(|it| !it.holds), "{:?}", outcome.thresholds);
    assert_eq!(outcome.thresholds[0].seen, "nothing was answered");
}

#[test]
fn requests_that_were_never_sent_count_as_errors() {
    let mut outcome = calm();
    outcome.all.due = 2_000;
    outcome.all.unsent = 1_000;

    let outcome = judged(outcome, vec![threshold(Measure::Errors, Comparison::Less, 0.01)], None);

    assert_eq!(outcome.thresholds[0].seen, "50 %");
    assert_eq!(exit_code(&outcome.verdict), 3);
}

#[test]
fn generator_that_lags_or_burns_or_misses_is_the_bottleneck_and_says_by_how_much() {
    let mut lagging = calm();
    lagging.generator.lag = distribution(&[&[MS / 10; 980][..], &[3 * MS; 20]].concat());
    let mut burning = calm();
    burning.generator.threads = vec![0.4, 0.93];
    let mut missing = calm();
    missing.all.due = 1_020;
    missing.all.unsent = 20;
    missing.seconds = vec![Second { due: 1_020, unsent: 20, lag: 2 * MS, in_flight: 10, ..Second::default() }];

    let said = [lagging, burning, missing].map(|outcome| match judged(outcome, vec![], None).verdict {
        Verdict::GeneratorLimited { reasons } => reasons.join("; "),
        other => panic!("{other:?}"),
    });

    assert!(said[0].contains("lag at p99 was 3 ms"), "{said:?}");
    assert!(said[1].contains("number 1) used 93 %"), "{said:?}");
    assert!(said[2].contains("did not send 20 of 1,020"), "{said:?}");
}

#[test]
fn requests_unsent_because_the_target_took_all_room_do_not_blame_the_generator() {
    let mut outcome = calm();
    outcome.all.due = 2_000;
    outcome.all.unsent = 1_000;
    outcome.generator.sent_share = 0.5;
    outcome.seconds = vec![Second { due: 2_000, unsent: 1_000, lag: 2 * MS, in_flight: 1_000, ..Second::default() }];

    assert_eq!(judged(outcome, vec![], None).verdict, Verdict::Passed);
}

#[test]
fn verdict_is_the_first_that_applies() {
    let mut bad = calm();
    bad.all.good = 0;
    let thresholds = || vec![threshold(Measure::Errors, Comparison::Less, 0.01)];
    let mut limited = bad.clone();
    limited.generator.threads = vec![1.0];
    let stopped = Verdict::Stopped { reason: "errors > 50%".to_owned(), at: 7.0 };
    let interrupted = Verdict::Interrupted { at: 3.0 };

    let verdict =
        |outcome: &Outcome, ended: Option<&Verdict>| judged(outcome.clone(), thresholds(), ended.cloned()).verdict;

    assert_eq!(exit_code(&verdict(&limited, Some(&stopped))), 4);
    assert_eq!(verdict(&bad, Some(&stopped)), stopped);
    assert_eq!(verdict(&bad, Some(&interrupted)), interrupted);
    assert!(matches!(verdict(&bad, None), Verdict::Failed { .. }));
    assert_eq!([stopped, interrupted, verdict(&bad, None)].map(|it| exit_code(&it)), [3, 130, 3]);
}

#[test]
fn closed_model_is_not_judged_by_a_schedule_that_it_does_not_have() {
    let mut outcome = calm();
    outcome.generator.lag = distribution(&[50 * MS; 100]);

    assert!(limited(&Load::Closed { visitors: 1, lasts: Duration::from_secs(1) }, &outcome).is_empty());
}

fn stopping(measure: Measure, bound: f64, over: u64) -> Plan {
    let mut plan = sample::plan();
    let when = threshold(measure, Comparison::More, bound);
    plan.stops = vec![Stop { when, over: Duration::from_secs(over) }];
    plan
}

/// What a second saw: times of good answers in ms, failures, unsent, ages of open requests in ms.
fn beat(stops: &mut Stops, good: &[u64], failed: u64, unsent: u64, open: &[u64]) -> Option<String> {
    let mut times = Histogram::<u64>::new(3).unwrap();
    good.iter().for_each(|time| times.record(time * MS).unwrap());
    let open: Vec<_> = open.iter().map(|age| age * MS).collect();
    let good = good.len() as u64;
    let seen = Seen { good, failed, unsent, response: &times, service: &times, open: &open };
    let empty = Histogram::<u64>::new(3).unwrap();
    let other = Seen { good: 0, failed: 0, unsent: 0, response: &empty, service: &empty, open: &[] };
    stops.beat(seen, &[seen, other])
}

#[test]
fn stalled_target_stops_the_run_though_it_answers_nothing() {
    let mut stops = Stops::new(&stopping(Measure::Response(0.99), 200e6, 2));

    let beats = [
        beat(&mut stops, &[10; 100], 0, 0, &[]),
        beat(&mut stops, &[10; 100], 0, 0, &[5; 2]),
        beat(&mut stops, &[], 0, 0, &[1_000; 100]),
    ];

    assert_eq!(beats[..2], [None, None]);
    assert!(beats[2].as_ref().is_some_and(|it| it.contains("100 of 200 requests")), "{beats:?}");
}

#[test]
fn open_request_counts_once_in_the_newest_second() {
    let mut stops = Stops::new(&stopping(Measure::Response(0.5), 100e6, 5));

    let beats: Vec<_> = (1..=10).map(|second| beat(&mut stops, &[1, 1], 0, 0, &[second * 1_000; 4])).collect();

    // 10 good ones in the window and 4 that are open: the median is good.
    assert!(beats.iter().all(Option::is_none), "{beats:?}");
}

#[test]
fn error_condition_waits_for_its_window_and_counts_unsent_requests() {
    let mut stops = Stops::new(&stopping(Measure::Errors, 0.5, 3));

    let beats: Vec<_> = (0..3).map(|_| beat(&mut stops, &[1], 1, 1, &[])).collect();

    assert_eq!(beats[..2], [None, None]);
    assert_eq!(beats[2].as_deref(), Some("as written over the last 3 s: it was 66.667 %"));
}

#[test]
fn condition_is_met_by_nothing_where_nothing_happened() {
    for measure in [Measure::Response(0.99), Measure::Service(0.5), Measure::Mean, Measure::Max, Measure::Errors] {
        let mut stops = Stops::new(&stopping(measure, 0.0, 1));

        assert_eq!(beat(&mut stops, &[], 0, 0, &[]), None, "{measure:?}");
    }
}

#[test]
fn condition_on_a_step_sees_no_other_step() {
    let mut plan = stopping(Measure::Errors, 0.0, 1);
    let mut met = |step: usize| {
        let name = plan.steps().nth(step).map(|step| step.name.clone());
        plan.stops[0].when.step = name;
        beat(&mut Stops::new(&plan), &[1], 1, 0, &[]).is_some()
    };

    assert_eq!([met(0), met(1)], [true, false]);
}

proptest! {
    /// Counting what is above the bound decides as the quantile of the sorted values does.
    #[test]
    fn stop_on_a_quantile_decides_as_the_sorted_values_do(
        times in prop::collection::vec(1_u64..1_000, 1..200),
        bound in 1_u64..1_000,
        q in 0.01_f64..1.0,
    ) {
        let mut stops = Stops::new(&stopping(Measure::Response(q), bound as f64 * 1e6, 1));

        let stopped = beat(&mut stops, &times, 0, 0, &[]).is_some();

        let mut sorted = times.clone();
        sorted.sort_unstable();
        let rank = ((q * times.len() as f64).ceil() as usize).max(1);
        prop_assert_eq!(stopped, sorted[rank - 1] > bound);
    }

    /// What is judged is the quantile of everything, to the histogram's precision.
    #[test]
    fn judged_quantile_is_that_of_the_sorted_values(
        times in prop::collection::vec(1_000_u64..60_000_000_000, 1..300),
        q in 0.01_f64..1.0,
    ) {
        let mut sorted = times.clone();
        sorted.sort_unstable();

        let seen = quantile(&distribution(&times), q).unwrap();

        let rank = ((q * times.len() as f64).ceil() as usize).clamp(1, times.len());
        let exact = sorted[rank - 1] as f64;
        prop_assert!((seen as f64) >= exact && (seen as f64) <= exact * 1.002, "{} for {}", seen, exact);
    }
}
