//! Scenarios that are accepted: what they come to, and what they are warned of.

use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;
use tidegate_model::check::SourceFile;
use tidegate_model::diagnostic::{Colour, render_all};
use tidegate_model::scenario::plan::{
    Check, Comparison, From, Load, Measure, Origin, Piece, Protocol, Rows, Spacing, Stage, Value,
};
use tidegate_model::scenario::{BadFile, Checked, Table, check};

const WHOLE: &str = r#"
version: 1
name: shop at the sale
target: https://shop.example.com
load:
  stages: [{to: 500/s, over: 1m}, {hold: 5m}, {to: 50/s, hold: 10s}]
  spacing: poisson
client: {http2: true, streams: 10, timeout: 2s, headers: {user-agent: tide, x-run: "{{ ordinal }}"}}
feeders: {users: {file: users.csv, order: random}}
flows:
  - {name: browse, weight: 9, get: "/item/{{ random(1, 5000) }}", check: {status: [2xx, 304], json: {$.ok: true, $.id: {present: true}}}}
  - name: buy
    weight: 1
    steps:
      - name: login
        post: /login
        headers: {user-agent: other}
        body: '{"user":"{{ users.name }}", "braces": "{{ "{{" }}"}'
        take: {token: json $.token, sid: cookie sid}
        think: 1s..3s
      - name: pay
        post: http://pay.example.com:8080/pay?once={{ uuid }}
        headers: {authorization: "Bearer {{ token }}", cookie: "sid={{ sid }}"}
        timeout: 9s
      - {name: purge, send: PURGE /cart}
thresholds: ["errors < 0.1%", "browse.p99 < 200ms", "pay.service.p99.9 <= 1500us", "rate > 450/s"]
stop: errors > 20% over 10s
interlocks: {hosts: ["*.example.com"], max_rate: 2000/s}
mark: {run: sale-1, key: pt.key}
"#;

fn users(path: &Path) -> Result<Table, BadFile> {
    assert_eq!(path, Path::new("/etc/load/users.csv"));
    let mut rows = Rows::new(1);
    rows.push(["ann"]);
    rows.push(["bob"]);
    Ok(Table { fields: vec!["name".into()], rows })
}

fn checked(text: &str) -> Checked {
    match check(&SourceFile { path: "/etc/load/sale.yaml".into(), text: text.into() }, &mut users) {
        Ok(checked) => checked,
        Err(problems) => panic!("{}", render_all(&problems, Colour::Off)),
    }
}

fn small(more: &str) -> Checked {
    checked(&format!("version: 1\ntarget: http://shop.test\n{more}"))
}

#[test]
fn a_whole_scenario_comes_to_the_plan_that_it_says() {
    let checked = checked(WHOLE);

    assert!(checked.warnings.is_empty(), "{:?}", checked.warnings);
    let plan = checked.plan;
    assert_eq!(
        (plan.name.as_str(), plan.client.protocol, plan.client.streams),
        ("shop at the sale", Protocol::Http2, 10)
    );
    let (minute, five, ten) = (Duration::from_secs(60), Duration::from_secs(300), Duration::from_secs(10));
    let stages = vec![
        Stage { lasts: minute, from: 0.0, to: 500.0 },
        Stage { lasts: five, from: 500.0, to: 500.0 },
        Stage { lasts: ten, from: 50.0, to: 50.0 },
    ];
    assert_eq!(plan.load, Load::Open { stages, spacing: Spacing::Poisson, most_in_flight: 10_000 });
    let names: Vec<_> = plan.steps().map(|step| (step.name.as_str(), step.method.as_str())).collect();
    assert_eq!(names, [("browse", "GET"), ("login", "POST"), ("pay", "POST"), ("purge", "PURGE")]);
    let shop = Origin { tls: true, host: "shop.example.com".into(), port: 443 };
    let pay = Origin { tls: false, host: "pay.example.com".into(), port: 8_080 };
    let origins: Vec<_> = plan.steps().map(|step| step.origin.clone()).collect();
    assert_eq!(origins, [shop.clone(), shop.clone(), pay, shop]);
    let shares: Vec<f64> = plan.flows.iter().map(|flow| flow.weight).collect();
    assert_eq!(shares, [9.0, 1.0]);
    let timeouts: Vec<u64> = plan.steps().map(|step| step.timeout.as_secs()).collect();
    assert_eq!(timeouts, [2, 2, 9, 2]);
    assert_eq!(plan.mark.map(|mark| mark.key), Some("/etc/load/pt.key".into()));
}

#[test]
fn templates_name_feeders_takes_and_what_is_built_in() {
    let plan = checked(WHOLE).plan;

    let browse = &plan.flows[0].steps[0];
    assert_eq!(browse.target.pieces, [Piece::Text("/item/".into()), Piece::Value(Value::Random(1, 5_000))]);
    assert_eq!(plan.written(&plan.flows[0], &browse.target), "/item/{{ random(1, 5000) }}");
    let [login, pay, _] = plan.flows[1].steps.as_slice() else { panic!("three steps are written") };
    let body = login.body.as_ref().unwrap();
    assert_eq!(plan.written(&plan.flows[1], body), r#"{"user":"{{ users.name }}", "braces": "{{"}"#);
    assert!(body.pieces.contains(&Piece::Value(Value::Fed { feeder: 0, field: 0 })));
    let cookie = &pay.headers.iter().find(|(name, _)| name == "cookie").unwrap().1;
    assert_eq!(cookie.pieces, [Piece::Text("sid=".into()), Piece::Value(Value::Taken(1))]);
    assert!(matches!(&login.takes[1].from, From::Cookie(name) if name == "sid"));
}

#[test]
fn a_steps_own_header_wins_over_the_one_that_all_have() {
    let plan = checked(WHOLE).plan;

    let agent = |step: usize| {
        let step = plan.steps().nth(step).unwrap();
        let agents = step.headers.iter().filter(|(name, _)| name == "user-agent");
        agents.map(|(_, value)| value.fixed().unwrap().to_owned()).collect::<Vec<_>>()
    };

    assert_eq!((agent(0), agent(1)), (vec!["tide".into()], vec!["other".into()]));
}

#[test]
fn checks_and_thresholds_keep_their_units() {
    let plan = checked(WHOLE).plan;

    let [Check::Status(statuses), Check::Json(ok, wanted), Check::Json(_, None)] =
        plan.flows[0].steps[0].checks.as_slice()
    else {
        panic!("{:?}", plan.flows[0].steps[0].checks)
    };
    assert_eq!(
        (statuses.len(), statuses.last(), ok.as_str(), wanted.as_deref()),
        (101, Some(&304), "$.ok", Some("true"))
    );
    let thresholds: Vec<_> = plan.thresholds.iter().map(|t| (t.step.as_deref(), t.measure, t.is, t.bound)).collect();
    assert_eq!(
        thresholds,
        [
            (None, Measure::Errors, Comparison::Less, 0.001),
            (Some("browse"), Measure::Response(0.99), Comparison::Less, 2e8),
            (Some("pay"), Measure::Service(0.999), Comparison::AtMost, 1.5e6),
            (None, Measure::Rate, Comparison::More, 450.0),
        ]
    );
    assert_eq!((plan.stops[0].when.bound, plan.stops[0].over), (0.2, Duration::from_secs(10)));
    assert_eq!(plan.stops[0].when.text, "errors > 20% over 10s");
}

#[test]
fn visitors_have_a_connection_each() {
    let plan = small("load: {visitors: 2500, for: 1m}\nflows: [{name: front, get: /}]").plan;

    assert_eq!(plan.client.connections, 2_500);
    assert_eq!(plan.load, Load::Closed { visitors: 2_500, lasts: Duration::from_secs(60) });
    assert_eq!(plan.name, "sale");
}

#[test]
fn what_is_probably_not_meant_is_warned_of() {
    let warnings = small(
        "load: {rate: 10/s, for: 10s}
feeders: {users: {file: users.csv, order: unique}, spare: {file: users.csv}}
flows:
  - {name: user, get: \"/u/{{ users.name }}\", body: x, weight: 3}
  - {name: two, steps: [{name: a, get: /a, take: {id: json $.id}}, {name: b, get: /b}]}",
    )
    .warnings;

    insta::assert_snapshot!(render_all(&warnings, Colour::Off));
}

/// Bits that mean something to YAML or to scenarios, so that mutations reach deep.
const BITS: &[&str] = &[
    "\n",
    "  ",
    "\t",
    ": ",
    "- ",
    "[",
    "]",
    "{",
    "}",
    "\"",
    "'",
    "{{",
    "}}",
    "{{ ",
    " }}",
    "{{ \"",
    "random(",
    "1, 2)",
    "users",
    ".name",
    "token",
    "~",
    "null",
    "0",
    "-1",
    "99999999999999999999",
    "0/s",
    "%",
    "/",
    "é",
    "\u{202e}",
    "\u{0}",
    "p99",
    "service.",
    "<",
    ">",
    "over ",
    "..",
    "json ",
    "regex (",
    "$.",
    "http://",
    "@",
    ":0",
    "🙂",
    "steps: ",
    "stages: ",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn a_mutated_scenario_is_answered(
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0_usize..12, prop::sample::select(BITS)), 1..8)
    ) {
        let mut chars: Vec<char> = WHOLE.chars().collect();
        for (at, removed, bit) in edits {
            let at = at.index(chars.len().max(1)).min(chars.len());
            let end = (at + removed).min(chars.len());
            chars.splice(at..end, bit.chars());
        }
        let file = SourceFile { path: "fuzz.yaml".into(), text: chars.into_iter().collect() };

        let result = check(&file, &mut |_| Ok(Table { fields: vec!["name".into()], rows: Rows::new(1) }));

        if let Err(problems) = result {
            prop_assert!(!problems.is_empty(), "a refusal says why");
            let text = render_all(&problems, Colour::Off);
            prop_assert!(!text.chars().any(|char| char.is_control() && char != '\n'), "{text:?}");
        }
    }
}
