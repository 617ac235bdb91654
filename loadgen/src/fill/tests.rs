use std::collections::HashSet;
use std::time::Duration;

use proptest::prelude::*;
use tidegate_model::scenario::plan::{Client, Flow, Load, Origin, Protocol, Rows};

use super::*;

fn feeder(order: Order, values: &[&str]) -> Feeder {
    let mut rows = Rows::new(1);
    for value in values {
        rows.push([value]);
    }
    Feeder { name: "f".into(), path: "f.csv".into(), fields: vec!["v".into()], rows, order }
}

fn plan(target: Template, feeders: Vec<Feeder>) -> Plan {
    let origin = Origin { tls: false, host: "127.0.0.1".into(), port: 80 };
    Plan {
        name: "test".into(),
        load: Load::Closed { visitors: 1, lasts: Duration::from_secs(1) },
        flows: vec![Flow { name: "f".into(), weight: 1.0, steps: vec![Step::get("f", origin, target)] }],
        feeders,
        client: Client {
            protocol: Protocol::Http1,
            keep_alive: true,
            connections: 1,
            streams: 1,
            threads: 1,
            sources: Vec::new(),
            resolve: Default::default(),
            connect_timeout: Duration::from_secs(1),
            ca: None,
            insecure: false,
        },
        thresholds: Vec::new(),
        stops: Vec::new(),
        mark: None,
        seed: 7,
    }
}

fn with(before: &str, value: Value, after: &str) -> Template {
    let text = |text: &str| Piece::Text(text.into());
    let mut pieces = vec![text(before), Piece::Value(value), text(after)];
    pieces.retain(|piece| *piece != text(""));
    Template { pieces }
}

const FED: Value = Value::Fed { feeder: 0, field: 0 };

fn supplies(plan: &Plan, threads: u32) -> Vec<Supply> {
    let feeders: Arc<[Feeder]> = plan.feeders.clone().into();
    (0..threads).map(|thread| Supply::new(plan, Arc::clone(&feeders), thread, threads)).collect()
}

/// `template` with the one fed value `value`, filled.
fn filled(template: Template, place: Place, value: &str) -> Result<String, Unfilled> {
    let plan = plan(template.clone(), vec![feeder(Order::Sequential, &[value])]);
    let mut supply = supplies(&plan, 1).remove(0);
    let mut visit = Visit::default();
    supply.begin(&mut visit, 0, 0, 0)?;
    let mut out = b"before".to_vec();
    supply.fill(&template, place, &visit, 0, &mut out)?;
    Ok(String::from_utf8(out).unwrap()["before".len()..].to_owned())
}

#[test]
fn a_value_in_a_target_stays_in_its_segment_or_parameter() {
    let path = filled(with("/find/", FED, "/x"), Place::Target, "a b?c#d%e/é\r\n");
    let query = filled(with("/find?q=", FED, "&n=1"), Place::Target, "rock & roll+1=2/é");

    assert_eq!(path.as_deref(), Ok("/find/a%20b%3Fc%23d%25e/%C3%A9%0D%0A/x"));
    assert_eq!(query.as_deref(), Ok("/find?q=rock%20%26%20roll%2B1%3D2%2F%C3%A9&n=1"));
}

#[test]
fn a_target_that_begins_with_a_value_keeps_its_query_and_its_escapes() {
    let url = filled(with("", FED, ""), Place::Target, "/a%20b?x=1&y=a b%");

    assert_eq!(url.as_deref(), Ok("/a%20b?x=1&y=a%20b%25"));
}

#[test]
fn a_target_that_would_not_be_one_is_refused() {
    assert_eq!(filled(with("", FED, ""), Place::Target, "http://elsewhere/"), Err(Unfilled::NoTarget));
    assert_eq!(filled(with("", FED, ""), Place::Target, ""), Err(Unfilled::NoTarget));
}

#[test]
fn a_value_cannot_begin_a_header_of_its_own() {
    let good = filled(with("Bearer ", FED, ""), Place::Header, "a b\té");
    let bad = filled(with("Bearer ", FED, ""), Place::Header, "x\r\nevil: 1");

    assert_eq!((good.as_deref(), bad), (Ok("Bearer a b\té"), Err(Unfilled::BreaksHeader)));
}

#[test]
fn a_value_within_json_quotes_is_escaped_and_one_outside_stays() {
    let inside = filled(with(r#"{"a":"\"","name":""#, FED, r#""}"#), Place::Json, "O\"Neil\\\n\u{1}é");
    let outside = filled(with(r#"{"row":"#, FED, "}"), Place::Json, r#"{"x":1}"#);

    assert_eq!(inside.as_deref(), Ok(r#"{"a":"\"","name":"O\"Neil\\\n\u0001é"}"#));
    assert_eq!(outside.as_deref(), Ok(r#"{"row":{"x":1}}"#));
}

#[test]
fn a_body_is_known_by_its_content_type_or_its_beginning() {
    let origin = Origin { tls: false, host: "a".into(), port: 80 };
    let mut step = Step::get("s", origin, Template::text("/"));
    step.body = Some(Template::text(" {\"a\": 1}"));
    let json = Place::of_body(&step);
    step.body = Some(Template::text("a=1"));
    let text = Place::of_body(&step);
    step.headers = vec![("Content-Type".into(), Template::text("application/x-www-form-urlencoded; charset=utf-8"))];
    let form = Place::of_body(&step);

    assert_eq!((json, text, form), (Place::Json, Place::Text, Place::Form));
}

#[test]
fn unique_rows_go_to_one_thread_each_and_then_no_more_come() {
    let names: Vec<String> = (0..10).map(|n| n.to_string()).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let template = with("/", FED, "");
    let plan = plan(template.clone(), vec![feeder(Order::Unique, &names)]);
    let mut seen = HashSet::new();

    for mut supply in supplies(&plan, 3) {
        let mut visit = Visit::default();
        while supply.begin(&mut visit, 0, 0, 0).is_ok() {
            let mut out = Vec::new();
            supply.fill(&template, Place::Target, &visit, 0, &mut out).unwrap();
            assert!(seen.insert(out), "a row came twice");
        }
        assert_eq!(supply.begin(&mut visit, 0, 0, 0), Err(Unfilled::Dry));
    }

    assert_eq!(seen.len(), 10);
}

#[test]
fn sequential_rows_go_round_over_all_threads() {
    let template = with("/", FED, "");
    let plan = plan(template.clone(), vec![feeder(Order::Sequential, &["0", "1", "2"])]);
    let mut supplies = supplies(&plan, 2);
    let mut visit = Visit::default();
    let mut out = Vec::new();

    for turn in 0..8 {
        let supply = &mut supplies[turn % 2];
        supply.begin(&mut visit, 0, turn as u64, 0).unwrap();
        supply.fill(&template, Place::Target, &visit, 0, &mut out).unwrap();
    }

    assert_eq!(out, b"/0/1/2/0/1/2/0/1");
}

#[test]
fn a_recorded_arrival_gets_the_row_that_it_names() {
    let template = with("/", FED, "");
    let plan = plan(template.clone(), vec![feeder(Order::Given, &["a", "b", "c"])]);
    let mut supply = supplies(&plan, 1).remove(0);
    let (mut visit, mut out) = (Visit::default(), Vec::new());

    supply.begin(&mut visit, 0, 0, 2).unwrap();
    supply.fill(&template, Place::Target, &visit, 0, &mut out).unwrap();

    assert_eq!(out, b"/c");
}

#[test]
fn a_taken_value_does_not_outlive_its_visit() {
    let template = with("/", Value::Taken(1), "");
    let plan = plan(template.clone(), Vec::new());
    let mut supply = supplies(&plan, 1).remove(0);
    let (mut visit, mut out) = (Visit::default(), Vec::new());
    supply.begin(&mut visit, 0, 0, 0).unwrap();
    visit.keep(1, b"token");
    let first = supply.fill(&template, Place::Target, &visit, 0, &mut out);

    supply.begin(&mut visit, 0, 1, 0).unwrap();
    let second = supply.fill(&template, Place::Target, &visit, 0, &mut out);

    assert_eq!((first, second), (Ok(()), Err(Unfilled::NotTaken)));
}

#[test]
fn numbers_times_and_uuids_have_their_form() {
    let of = |value| with("/", value, "");
    let plan = plan(Template::text("/"), Vec::new());
    let mut supply = supplies(&plan, 1).remove(0);
    let mut visit = Visit::default();
    supply.begin(&mut visit, 0, 41, 0).unwrap();
    let mut fill = |value| {
        let mut out = Vec::new();
        supply.fill(&of(value), Place::Target, &visit, 1_795_400_000_123, &mut out).unwrap();
        String::from_utf8(out).unwrap()[1..].to_owned()
    };

    assert_eq!((fill(Value::Ordinal), fill(Value::UnixMillis)), ("41".into(), "1795400000123".into()));
    assert_eq!(fill(Value::Random(i64::MIN, i64::MIN)), i64::MIN.to_string());
    let uuids: HashSet<String> = (0..1_000).map(|_| fill(Value::Uuid)).collect();
    let form = regex::Regex::new("^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$").unwrap();
    assert_eq!(uuids.len(), 1_000);
    assert!(uuids.iter().all(|uuid| form.is_match(uuid)), "{uuids:?}");
    let thrown: HashSet<String> = (0..1_000).map(|_| fill(Value::Random(-2, 2))).collect();
    assert_eq!(thrown, ["-2", "-1", "0", "1", "2"].map(String::from).into());
}

#[test]
fn equal_seeds_give_equal_values_and_threads_differ() {
    let template = with("/", Value::Uuid, "");
    let plan = plan(template.clone(), Vec::new());
    let draw = |thread: usize| {
        let mut supply = supplies(&plan, 2).remove(thread);
        let (mut visit, mut out) = (Visit::default(), Vec::new());
        supply.begin(&mut visit, 0, 0, 0).unwrap();
        supply.fill(&template, Place::Target, &visit, 0, &mut out).unwrap();
        out
    };

    assert_eq!(draw(0), draw(0));
    assert_ne!(draw(0), draw(1));
}

proptest! {
    #[test]
    fn no_value_breaks_the_request_line_or_leaves_its_parameter(value in any::<String>()) {
        let target = filled(with("/p/", FED, "?q="), Place::Target, &value).unwrap();
        let query = filled(with("/p?q=", FED, "&r=1"), Place::Target, &value).unwrap();

        prop_assert!(target.bytes().all(|byte| byte.is_ascii_graphic()), "{target}");
        prop_assert_eq!(target.matches('?').count(), 1);
        let pairs: Vec<_> = url::form_urlencoded::parse(query.split_once('?').unwrap().1.as_bytes()).collect();
        prop_assert_eq!(pairs, [("q".into(), value.as_str().into()), ("r".into(), "1".into())]);
    }

    #[test]
    fn a_value_in_json_quotes_reads_back_as_itself(value in any::<String>()) {
        let body = filled(with(r#"{"v":""#, FED, r#""}"#), Place::Json, &value).unwrap();

        let read: serde_json::Value = serde_json::from_str(&body).unwrap();

        prop_assert_eq!(read["v"].as_str(), Some(value.as_str()));
    }
}
