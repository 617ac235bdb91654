//! Dyed traffic: its keys, when it is shed, and which routes ask for it.

use std::time::Duration;

use super::Checker;
use crate::config::{Dyed, DyedShed, Route};
use crate::desired;
use crate::diagnostic::Diagnostic;

/// Keys that one configuration may have: a mark is tried with each.
const MOST_KEYS: usize = 8;

/// How far back live traffic is looked at, where nothing was written.
const OVER: Duration = Duration::from_secs(10);

/// Live requests without which nothing is judged, where nothing was written.
const LEAST: u32 = 20;

impl Checker<'_, '_> {
    pub(super) fn dyed(&mut self, written: &Dyed) -> desired::Dyed {
        let files = written.keys.iter().map(|key| (&key.file.value.0, key.file.span));
        self.refuse_twins(files, "key");
        if written.keys.is_empty() && !written.damaged {
            let diagnostic = Diagnostic::error("empty-list", "without a key no mark is believed")
                .help("write keys: [{file: pt.key}]; `tidegate mark key > pt.key` makes one");
            self.problems.add(written.span, "there is no key here", diagnostic);
        }
        if let Some(key) = written.keys.get(MOST_KEYS) {
            let diagnostic = Diagnostic::error("too-many", format!("at most {MOST_KEYS} keys are possible"))
                .help("take out those that nobody signs with any more");
            self.problems.add(key.file.span, "this is one too many", diagnostic);
        }
        for (at, key) in written.keys.iter().enumerate() {
            self.places.push((format!("dyed.keys.{at}"), key.file.span));
        }
        desired::Dyed {
            keys: written.keys.iter().map(|key| self.resolve(&key.file.value.0, key.file.span)).collect(),
            shed: written.shed.as_ref().map(|shed| self.dyed_shed(shed)),
        }
    }

    fn dyed_shed(&mut self, written: &DyedShed) -> desired::Shed {
        let conditions = &written.when.items;
        self.refuse_twins(conditions.iter().map(|condition| (&condition.value, condition.span)), "condition");
        if conditions.is_empty() && !written.damaged {
            let diagnostic = Diagnostic::error("empty-list", "without a condition nothing is ever shed")
                .help("write when: [\"errors > 1%\", \"p99 > 300ms\"]");
            self.problems.add(written.when.span, "this list is empty", diagnostic);
        }
        if let Some(condition) = conditions.get(desired::Shed::MOST) {
            let most = desired::Shed::MOST;
            let diagnostic = Diagnostic::error("too-many", format!("at most {most} conditions are possible"));
            self.problems.add(condition.span, "this is one too many", diagnostic);
        }
        let over = written.over.as_ref().map_or(OVER, |over| over.value.0);
        if let Some(at) = &written.over
            && !(Duration::from_secs(1)..=Duration::from_secs(600)).contains(&over)
        {
            let diagnostic =
                Diagnostic::error("out-of-range", "dyed.shed.over is too short or too long").help("write 1s to 10m");
            self.problems.add(at.span, "this isn't from 1s to 10m", diagnostic);
        }
        desired::Shed {
            when: conditions.iter().map(|condition| condition.value.0).collect(),
            over,
            least: written.least.as_ref().map_or(LEAST, |least| least.value.0 as u32),
            everywhere: written.reach.as_ref().is_some_and(|reach| reach.value.0),
        }
    }

    /// Reports routes that ask for dyed traffic where there can't be any.
    pub(super) fn dyed_needs_keys(&mut self, routes: &[&Route]) {
        for route in routes {
            let Some(dyed) = route.r#match.as_ref().and_then(|written| written.dyed.as_ref()) else { continue };
            let message = format!("route \"{}\" asks for dyed traffic, but no key tells it", route.name.value.0);
            let diagnostic = Diagnostic::error("dyed-without-keys", message)
                .help("add dyed: {keys: [{file: pt.key}]}; `tidegate mark key > pt.key` makes a key");
            self.problems.add(dyed.span, "no request is ever dyed", diagnostic);
        }
    }
}
