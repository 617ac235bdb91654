//! What a plan would do, before anything is sent: its arithmetic, and the first requests filled.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use tidegate_model::literal::write_duration;
use tidegate_model::scenario::Plan;
use tidegate_model::scenario::plan::{Feeder, Flow, Load, Order, Protocol, Spacing, Step};

use crate::fill::{Place, Supply, Visit};

/// Characters of a body that are shown.
const BODY_SHOWN: usize = 500;

/// Flows whose first requests are shown.
const FLOWS_SHOWN: usize = 20;

/// A plan in words and numbers, and the first visit of each flow as it would be sent at `unix_millis`.
pub fn preview(plan: &Plan, unix_millis: u64) -> String {
    let mut out = format!("{}\n\n", plan.name);
    arithmetic(plan, &mut out);
    let feeders: Arc<[Feeder]> = plan.feeders.clone().into();
    let mut supply = Supply::new(plan, feeders, 0, 1);
    out.push_str("\nThe first visit of each flow, as it would be sent:\n");
    for (at, flow) in plan.flows.iter().enumerate().take(FLOWS_SHOWN) {
        let first = match &plan.load {
            Load::Recorded { arrivals, .. } => arrivals.iter().find(|arrival| arrival.flow as usize == at),
            _ => None,
        };
        visit(plan, flow, at, first.map_or(0, |arrival| arrival.row), &mut supply, unix_millis, &mut out);
    }
    if plan.flows.len() > FLOWS_SHOWN {
        let _ = writeln!(out, "\n({} flows more)", plan.flows.len() - FLOWS_SHOWN);
    }
    out
}

fn arithmetic(plan: &Plan, out: &mut String) {
    let mut line = |name: &str, text: String| {
        let _ = writeln!(out, "{name:<11}{text}");
    };
    let weights: f64 = plan.flows.iter().map(|flow| flow.weight).sum();
    let share = |flow: &Flow| if weights > 0.0 { flow.weight / weights } else { 0.0 };
    let steps: f64 = plan.flows.iter().map(|flow| share(flow) * flow.steps.len() as f64).sum();
    let lasts = plan.lasts();
    match &plan.load {
        Load::Open { stages, spacing, most_in_flight } => {
            for (at, stage) in stages.iter().enumerate() {
                let name = if at == 0 { "load" } else { "" };
                let time = write_duration(stage.lasts);
                line(
                    name,
                    match stage.from == stage.to {
                        true => format!("{}/s for {time}", plain(stage.from)),
                        false => format!("{}/s to {}/s over {time}", plain(stage.from), plain(stage.to)),
                    },
                );
            }
            let arrivals: f64 =
                stages.iter().map(|stage| (stage.from + stage.to) / 2.0 * stage.lasts.as_secs_f64()).sum();
            let peak = stages.iter().map(|stage| stage.from.max(stage.to)).fold(0.0, f64::max);
            line("flows", format!("{} in {}", plain(arrivals.round()), write_duration(lasts)));
            if steps == 1.0 {
                line("requests", format!("{}, {}/s at the peak", plain(arrivals.round()), plain(peak)));
            } else {
                let sum = plain((arrivals * steps).round());
                let peak = format!("{} × {} = {}/s at the peak", plain(peak), plain(steps), plain(peak * steps));
                line(
                    "requests",
                    format!("{} × {} steps on average = about {sum}, {peak}", plain(arrivals.round()), plain(steps)),
                );
            }
            let spacing =
                if *spacing == Spacing::Poisson { "as independent visitors come (Poisson)" } else { "evenly" };
            line(
                "spacing",
                format!("{spacing}; at most {} flows under way at once", plain(f64::from(*most_in_flight))),
            );
        }
        Load::Closed { visitors, lasts } => {
            let text = format!(
                "{visitors} visitors for {}, each beginning anew when done (closed model)",
                write_duration(*lasts)
            );
            line("load", text);
            line("requests", "as many as the target's speed allows: nobody knows before".into());
        }
        Load::Recorded { arrivals, .. } => {
            let rate = arrivals.len() as f64 / lasts.as_secs_f64().max(0.001);
            line("load", format!("{} recorded requests in {}", plain(arrivals.len() as f64), time(lasts)));
            line("rate", format!("{}/s on average", plain(rate)));
        }
    }
    let mut origins: Vec<String> = plan.steps().map(|step| step.origin.to_string()).collect();
    origins.sort();
    origins.dedup();
    line("targets", origins.join(", "));
    let client = &plan.client;
    let protocol = match client.protocol {
        Protocol::Http1 => "HTTP/1.1",
        Protocol::Http2 => "HTTP/2",
    };
    line(
        "client",
        match client.keep_alive {
            true => format!("{protocol}, at most {} connections", client.connections),
            false => format!("{protocol}, a connection for each request, at most {} at once", client.connections),
        },
    );
    for feeder in &plan.feeders {
        let order = match feeder.order {
            Order::Sequential => "in turn, and round again",
            Order::Random => "at random",
            Order::Unique => "each once",
            Order::Given => "as recorded",
        };
        let many = if feeder.rows.len() == 1 { "row" } else { "rows" };
        let rows = format!("{} {many}", plain(feeder.rows.len() as f64));
        line(
            "feeder",
            format!("{}: {rows} of {}, {order} ({})", feeder.name, feeder.fields.join(", "), feeder.path.display()),
        );
    }
    for (at, threshold) in plan.thresholds.iter().enumerate() {
        line(if at == 0 { "must hold" } else { "" }, threshold.text.clone());
    }
    for (at, stop) in plan.stops.iter().enumerate() {
        line(if at == 0 { "stops when" } else { "" }, stop.when.text.clone());
    }
    if let Some(mark) = &plan.mark {
        line("mark", mark.run.clone());
    }
}

fn visit(plan: &Plan, flow: &Flow, at: usize, row: u32, supply: &mut Supply, unix_millis: u64, out: &mut String) {
    let weights: f64 = plan.flows.iter().map(|flow| flow.weight).sum();
    let _ =
        writeln!(out, "\n{} ({:.1}% of the arrivals)", flow.name, 100.0 * flow.weight / weights.max(f64::MIN_POSITIVE));
    let mut visit = Visit::default();
    if let Err(unfilled) = supply.begin(&mut visit, at, 0, row) {
        let _ = writeln!(out, "  can't begin: {}", unfilled.text());
        return;
    }
    // What would be taken isn't there yet: its name in capitals stands for it.
    for (take, name) in flow.steps.iter().flat_map(|step| &step.takes).map(|take| &take.name).enumerate() {
        visit.keep(take, name.to_uppercase().as_bytes());
    }
    for step in &flow.steps {
        match request(step, supply, &visit, unix_millis) {
            Ok(text) => {
                for line in text.lines() {
                    let _ = writeln!(out, "  {}", visible(line));
                }
            }
            Err(reason) => {
                let _ = writeln!(out, "  {} can't be filled: {reason}", step.name);
            }
        }
        for take in &step.takes {
            let _ = writeln!(out, "  (takes {} from the answer)", take.name);
        }
        if let Some(think) = &step.think {
            let _ = match think.least == think.most {
                true => writeln!(out, "  (thinks for {})", write_duration(think.least)),
                false => {
                    writeln!(out, "  (thinks for {} to {})", write_duration(think.least), write_duration(think.most))
                }
            };
        }
    }
}

/// One request as text.
fn request(step: &Step, supply: &mut Supply, visit: &Visit, unix_millis: u64) -> Result<String, &'static str> {
    let mut fill = |template, place| {
        let mut out = Vec::new();
        match supply.fill(template, place, visit, unix_millis, &mut out) {
            Ok(()) => Ok(String::from_utf8_lossy(&out).into_owned()),
            Err(unfilled) => Err(unfilled.text()),
        }
    };
    let mut text = format!("{} {}{}\n", step.method, step.origin, fill(&step.target, Place::Target)?);
    for (name, value) in &step.headers {
        let _ = writeln!(text, "{name}: {}", fill(value, Place::Header)?);
    }
    if let Some(lines) = &step.lines {
        text.push_str(&fill(lines, Place::Lines)?.replace("\r\n", "\n"));
    }
    if let Some(body) = &step.body {
        let body = fill(body, Place::of_body(step))?;
        let shown: String = body.chars().take(BODY_SHOWN).collect();
        let more = if shown.len() < body.len() { "…" } else { "" };
        if !body.is_empty() {
            let _ = writeln!(text, "\n{shown}{more}");
        }
    }
    Ok(text)
}

/// `line` without what a terminal would obey.
fn visible(line: &str) -> String {
    line.chars().map(|char| if char.is_control() && char != '\t' { '\u{fffd}' } else { char }).collect()
}

fn time(duration: Duration) -> String {
    match duration < Duration::from_secs(1) {
        true => format!("{:.3}s", duration.as_secs_f64()),
        false => write_duration(Duration::from_millis(duration.as_millis() as u64)),
    }
}

/// A number with thousands apart, and at most two digits behind the point.
fn plain(number: f64) -> String {
    let text = format!("{number:.2}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    let (whole, part) = text.split_once('.').map_or((text, None), |(whole, part)| (whole, Some(part)));
    let mut apart = String::new();
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at) % 3 == 0 {
            apart.push(',');
        }
        apart.push(digit);
    }
    part.map_or(apart.clone(), |part| format!("{apart}.{part}"))
}

#[cfg(test)]
mod tests {
    use tidegate_model::check::SourceFile;
    use tidegate_model::diagnostic::{Colour, render_all};
    use tidegate_model::scenario::plan::Rows;
    use tidegate_model::scenario::{Table, check};

    use super::*;

    #[test]
    fn a_preview_shows_the_arithmetic_and_each_first_request_filled() {
        let text = "
version: 1
name: shop
target: https://shop.example.com
load: {stages: [{to: 500/s, over: 1m}, {hold: 4m}]}
feeders: {users: {file: users.csv}}
flows:
  - {name: item, weight: 3, get: /item/7}
  - name: buy
    steps:
      - {name: login, post: /login, body: '{\"user\": \"{{ users.name }}\"}', take: {token: json $.token}, think: 1s..3s}
      - {name: pay, post: /pay, headers: {authorization: \"Bearer {{ token }}\"}}
thresholds: [\"errors < 1%\", \"item.p99 < 200ms\"]
stop: errors > 20% over 10s
";
        let file = SourceFile { path: "shop.yaml".into(), text: text.into() };
        let mut rows = Rows::new(1);
        rows.push(["Ann \"A\""]);
        let table = Table { fields: vec!["name".into()], rows };
        let plan = check(&file, &mut |_| Ok(table.clone())).expect("it is accepted").plan;

        insta::assert_snapshot!(preview(&plan, 0));
    }

    #[test]
    fn every_example_is_accepted_without_warnings_and_can_be_shown() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/load");
        let mut seen = 0;

        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|extension| extension != "yaml") {
                continue;
            }
            let file = SourceFile { path: path.clone(), text: std::fs::read_to_string(&path).unwrap() };
            let checked = match check(&file, &mut crate::feeders::read) {
                Ok(checked) => checked,
                Err(problems) => panic!("{}", render_all(&problems, Colour::Off)),
            };
            assert!(checked.warnings.is_empty(), "{}", render_all(&checked.warnings, Colour::Off));
            assert!(!preview(&checked.plan, 0).contains("can't be filled"), "{}", preview(&checked.plan, 0));
            seen += 1;
        }

        assert!(seen >= 3, "only {seen} examples in {}", folder.display());
    }
}
