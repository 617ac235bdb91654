//! A plan and outcomes for tests: the same each time.

use std::collections::BTreeMap;
use std::time::Duration;

use tidegate_model::scenario::plan::{Client, Flow, Load, Origin, Plan, Protocol, Spacing, Stage, Step, Template};

use crate::outcome::{Health, Outcome, StepOutcome, Tally, Verdict};

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
