//! When flows begin.

use std::time::Duration;

use super::Checker;
use crate::diagnostic::Diagnostic;
use crate::scenario::plan::{Load, Spacing, Stage};
use crate::scenario::written;

/// Flows under way at once where nothing else is said.
const MOST_IN_FLIGHT: u32 = 10_000;

impl Checker<'_, '_> {
    pub(super) fn load(&mut self, load: &written::Load) -> Load {
        let most_in_flight = load.most_in_flight.as_ref().map_or(MOST_IN_FLIGHT, |most| most.value.0 as u32);
        let spacing = load.spacing.as_ref().map_or(Spacing::Even, |spacing| spacing.value.0);
        let open = |stages| Load::Open { stages, spacing, most_in_flight };
        let given = [
            ("rate", load.rate.as_ref().map(|rate| rate.span)),
            ("stages", load.stages.as_ref().map(|stages| stages.first().map_or(load.span, |stage| stage.span))),
            ("visitors", load.visitors.as_ref().map(|visitors| visitors.span)),
        ];
        let given: Vec<_> = given.into_iter().filter_map(|(key, span)| Some((key, span?))).collect();
        match given.as_slice() {
            [] if load.damaged => return open(Vec::new()),
            [] => {
                let diagnostic = Diagnostic::error("bad-load", "load takes one of rate, stages and visitors")
                    .help("write rate: 500/s and for: 10m, for example");
                self.problems.add(load.span, "how many come is missing here", diagnostic);
                return open(Vec::new());
            }
            [_] => {}
            [(first, first_span), (second, span), ..] => {
                let diagnostic = Diagnostic::error("bad-load", format!("load has both {first} and {second}"))
                    .help("keep one of them");
                self.problems.add_with(*span, "and this", (*first_span, "this"), diagnostic);
                return open(Vec::new());
            }
        }
        if let Some(stages) = &load.stages {
            if let Some(lasts) = &load.r#for {
                let diagnostic = Diagnostic::error("useless-key", "load.for says nothing beside stages")
                    .help("leave it out: stages say how long they are");
                self.problems.add(lasts.span, "this is ignored", diagnostic);
            }
            let stages = self.stages(stages, load);
            return open(stages);
        }
        let lasts = match &load.r#for {
            Some(lasts) => lasts.value.0,
            None => {
                if !load.damaged {
                    let diagnostic = Diagnostic::error("missing-key", "load lacks the key \"for\"")
                        .help("write for how long, such as for: 10m");
                    self.problems.add(load.span, "\"for\" is missing here", diagnostic);
                }
                Duration::from_secs(1)
            }
        };
        if let Some(visitors) = &load.visitors {
            for (key, span) in [
                ("spacing", load.spacing.as_ref().map(|spacing| spacing.span)),
                ("most_in_flight", load.most_in_flight.as_ref().map(|most| most.span)),
            ] {
                let Some(span) = span else { continue };
                let diagnostic = Diagnostic::error("useless-key", format!("load.{key} says nothing beside visitors"))
                    .help("leave it out: visitors begin anew when they are done");
                self.problems.add(span, "this is ignored", diagnostic);
            }
            return Load::Closed { visitors: visitors.value.0 as u32, lasts };
        }
        let rate = load.rate.as_ref().map_or(0.0, |rate| rate.value.0);
        let stages = vec![Stage { lasts, from: rate, to: rate }];
        if let Some(written) = load.rate.as_ref().filter(|_| arrivals(&stages) < 1.0 && load.r#for.is_some()) {
            let diagnostic = Diagnostic::error("no-arrivals", "nobody ever arrives")
                .help("raise the rate or the time: rate × for is less than one");
            self.problems.add(written.span, "not once in the whole time", diagnostic);
        }
        open(stages)
    }

    fn stages(&mut self, stages: &[written::Stage], load: &written::Load) -> Vec<Stage> {
        let before = self.problems.errors();
        let mut ready = Vec::with_capacity(stages.len() * 2);
        let mut rate = 0.0;
        for stage in stages {
            if stage.over.is_none() && stage.hold.is_none() && !stage.damaged {
                let diagnostic = Diagnostic::error("bad-stage", "a stage takes no time")
                    .help("write {to: 500/s, over: 1m}, or {to: 500/s, hold: 5m}");
                self.problems.add(stage.span, "over or hold is missing here", diagnostic);
            }
            if let (Some(over), None, false) = (&stage.over, &stage.to, stage.damaged) {
                let diagnostic = Diagnostic::error("bad-stage", "a stage goes nowhere over a time")
                    .help("write the rate that it leads to, such as to: 500/s, or hold instead of over");
                self.problems.add(over.span, "\"to\" is missing beside it", diagnostic);
            }
            let to = stage.to.as_ref().map_or(rate, |to| to.value.0);
            if let Some(over) = &stage.over {
                ready.push(Stage { lasts: over.value.0, from: rate, to });
            }
            if let Some(hold) = &stage.hold {
                ready.push(Stage { lasts: hold.value.0, from: to, to });
            }
            rate = to;
        }
        let whole = self.problems.errors() == before && !load.damaged && !stages.iter().any(|stage| stage.damaged);
        if whole && arrivals(&ready) < 1.0 {
            let diagnostic = Diagnostic::error("no-arrivals", "nobody ever arrives")
                .help("write stages such as [{to: 500/s, over: 1m}, {hold: 5m}]");
            self.problems.add(stages.first().map_or(load.span, |stage| stage.span), "no stage has a rate", diagnostic);
        }
        ready
    }
}

/// Arrivals of a schedule, all together.
pub(crate) fn arrivals(stages: &[Stage]) -> f64 {
    stages.iter().map(|stage| (stage.from + stage.to) / 2.0 * stage.lasts.as_secs_f64()).sum()
}

/// The highest rate of arrivals, a second; `None` where nobody knows before.
pub(crate) fn peak(load: &Load) -> Option<f64> {
    match load {
        Load::Open { stages, .. } => Some(stages.iter().map(|stage| stage.from.max(stage.to)).fold(0.0, f64::max)),
        Load::Closed { .. } | Load::Recorded { .. } => None,
    }
}
