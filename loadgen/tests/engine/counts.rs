//! Everything that was due is accounted for, in both models.

use std::io::Write;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tidegate_loadgen::outcome::Verdict;
use tidegate_loadgen::{Cause, Failure, Start};
use tidegate_model::scenario::plan::{Flow, Load};

use crate::kit::{OK, adds_up, answering, failures, origin, plan, rate, request, run, server};

#[test]
fn an_open_run_sends_exactly_its_schedule() {
    let (address, accepted) = answering(OK);

    let outcome = run(&plan(origin(address), rate(400.0, 2.5)));

    adds_up(&outcome);
    assert_eq!((outcome.all.due, outcome.all.good), (1_000, 1_000), "{:?}", outcome.all);
    assert_eq!(outcome.all.statuses[&200], 1_000);
    assert_eq!(outcome.model, "open");
    assert!(accepted.load(Ordering::Relaxed) < 500, "connections are kept: {accepted:?}");
    assert!(outcome.all.response.min >= outcome.all.service.min, "{:?}", outcome.all);
}

#[test]
fn a_closed_run_has_as_many_open_as_visitors_and_no_schedule() {
    let (address, accepted) = answering(OK);

    let load = Load::Closed { visitors: 5, lasts: Duration::from_secs(1) };
    let outcome = run(&plan(origin(address), load));

    adds_up(&outcome);
    assert!(outcome.all.good > 5, "{:?}", outcome.all);
    assert_eq!((outcome.all.unsent, outcome.model.as_str()), (0, "closed"));
    assert_eq!(accepted.load(Ordering::Relaxed), 5);
}

#[test]
fn without_keep_alive_each_request_has_a_connection() {
    let (address, accepted) = server(|mut stream| {
        if request(&mut stream) {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nbye");
        }
    });
    let mut plan = plan(origin(address), rate(50.0, 1.0));
    plan.client.keep_alive = false;

    let outcome = run(&plan);

    adds_up(&outcome);
    assert_eq!((outcome.all.good, accepted.load(Ordering::Relaxed)), (50, 50), "{:?}", outcome.all);
}

#[test]
fn what_is_due_beyond_the_bound_is_counted_as_unsent() {
    let (address, _) = server(|mut stream| {
        request(&mut stream);
        std::thread::park();
    });
    let mut plan = plan(origin(address), rate(100.0, 1.0));
    let Load::Open { most_in_flight, .. } = &mut plan.load else { unreachable!() };
    *most_in_flight = 10;
    plan.flows[0].steps[0].timeout = Duration::from_secs(3);

    let outcome = run(&plan);

    adds_up(&outcome);
    assert_eq!((outcome.all.due, outcome.all.sent, outcome.all.unsent), (100, 10, 90));
}

#[test]
fn what_is_open_at_the_end_is_counted_with_its_age() {
    let (address, _) = server(|mut stream| {
        request(&mut stream);
        std::thread::park();
    });
    let plan = plan(origin(address), rate(50.0, 1.0));

    let outcome = run(&plan);

    adds_up(&outcome);
    assert_eq!(failures(&outcome), [(Failure::Unanswered, 50)]);
    // The last was due 20 ms before the end, and 5 s were waited.
    assert!(outcome.all.response.min >= 4_900_000_000, "{:?}", outcome.all.response);
    assert!(outcome.all.response.max >= 5_900_000_000, "{:?}", outcome.all.response);
}

#[test]
fn a_run_that_is_ended_begins_nothing_more() {
    let (address, _) = answering(OK);
    let start = Start::default();
    let ender = start.ender.clone();

    let outcome = tidegate_loadgen::run(&plan(origin(address), rate(50.0, 600.0)), &start, &mut |beat| {
        if beat.second.at == 0 {
            ender.end(Cause::Stopped("enough".to_owned()));
        }
    })
    .unwrap();

    adds_up(&outcome);
    assert!(matches!(&outcome.verdict, Verdict::Stopped { reason, .. } if reason == "enough"), "{:?}", outcome.verdict);
    assert!((50..30_000).contains(&outcome.all.due), "{}", outcome.all.due);
    assert!(outcome.took < 600_000_000_000);
}

#[test]
fn arrivals_fall_to_flows_by_weight_and_the_same_way_each_time() {
    let (address, _) = answering(OK);
    let mut plan = plan(origin(address), rate(500.0, 2.0));
    let mut rare = plan.flows[0].clone();
    rare.steps[0].name = "rare".to_owned();
    plan.flows.push(Flow { weight: 0.25, ..rare });

    let (one, two) = (run(&plan), run(&plan));

    let due: Vec<_> = one.steps.iter().map(|step| step.tally.due).collect();
    assert_eq!(due, two.steps.iter().map(|step| step.tally.due).collect::<Vec<_>>());
    assert_eq!(due.iter().sum::<u64>(), 1_000);
    assert!((130..270).contains(&due[1]), "{due:?}");
}

#[test]
fn a_flow_does_its_steps_in_turn_and_thinks_between_them() {
    use tidegate_model::scenario::plan::Think;
    let (address, _) = answering(OK);
    let mut plan = plan(origin(address), rate(10.0, 1.0));
    let think = Think { least: Duration::from_millis(100), most: Duration::from_millis(200) };
    plan.flows[0].steps[0].think = Some(think);
    let mut second = plan.flows[0].steps[0].clone();
    second.think = None;
    second.name = "second".to_owned();
    plan.flows[0].steps.push(second);
    // So that thinking doesn't reach beyond the end.
    let Load::Open { stages, .. } = &mut plan.load else { unreachable!() };
    let mut pause = stages[0];
    (pause.from, pause.to, pause.lasts) = (0.0, 0.0, Duration::from_secs(3));
    stages.push(pause);

    let outcome = run(&plan);

    adds_up(&outcome);
    assert_eq!(outcome.steps.iter().map(|step| step.tally.good).collect::<Vec<_>>(), [10, 10]);
}

#[test]
fn a_kept_connection_that_the_target_closed_costs_no_failure() {
    let (address, accepted) = server(|mut stream| {
        for _ in 0..3 {
            if !request(&mut stream) || stream.write_all(OK).is_err() {
                return;
            }
        }
    });

    let outcome = run(&plan(origin(address), rate(100.0, 1.0)));

    adds_up(&outcome);
    assert_eq!(outcome.all.good, 100, "{:?}", outcome.all);
    assert!(accepted.load(Ordering::Relaxed) >= 33, "{accepted:?}");
}
