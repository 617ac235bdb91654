//! What is said about dyed traffic: which of it a route takes, and when it is shed.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Literal, Time, Wrong};
use crate::desired::{DyedMatch, Objective, Promise};
use crate::mark;

/// `true`, or the name of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DyedRule(pub DyedMatch);

impl Literal for DyedRule {
    const WHAT: &'static str = "true or the name of a run";
    const CODE: &'static str = "bad-dyed";
    const EXAMPLES: &'static [&'static str] = &["true", "spring-drill"];

    fn parse(text: &str) -> Result<Self, Wrong> {
        match text {
            "true" => Ok(Self(DyedMatch::Any)),
            "false" => Err(Wrong::new("a route can't ask for traffic that isn't dyed")
                .help("leave dyed out: dyed requests go to the routes that ask for them first")),
            run if mark::is_run(run) => Ok(Self(DyedMatch::Run(run.to_owned()))),
            _ => Err(Wrong::new("this can't name a run").help(
                "write true, or a run's name: letters, digits, -, _ and ., 64 of them at most, a letter or digit in front",
            )),
        }
    }

    fn schema() -> Value {
        json!({"anyOf": [{"const": true}, {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"}]})
    }
}

/// What visitors were promised, and when it is broken: `errors > 1%`, `p99 > 300ms`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Breach(pub Objective);

/// A million: shares are counted in millionths.
const WHOLE: f64 = 1e6;

impl Literal for Breach {
    const WHAT: &'static str = "a condition on live traffic";
    const CODE: &'static str = "bad-objective";
    const EXAMPLES: &'static [&'static str] = &["errors > 1%", "p99 > 300ms"];

    fn parse(text: &str) -> Result<Self, Wrong> {
        const FORM: &str = "write \"errors > 1%\" (answers of 500 and more) or \"p99 > 300ms\"";
        let wrong = |label: String| Wrong::new(label).help(FORM);
        let (what, bound) = text.split_once('>').ok_or_else(|| wrong("the > is missing".into()))?;
        let (what, bound) = (what.trim(), bound.trim());
        if what == "errors" {
            let percent = bound.strip_suffix('%').and_then(|number| number.trim().parse::<f64>().ok());
            let percent = percent.filter(|percent| (0.0..100.0).contains(percent));
            let percent = percent.ok_or_else(|| wrong(format!("\"{bound}\" isn't a share from 0% to 100%")))?;
            return Ok(Self(Objective {
                promise: Promise::NoError,
                allowed: (percent / 100.0 * WHOLE).round() as u32,
            }));
        }
        let quantile = what.strip_prefix('p').and_then(|number| number.parse::<f64>().ok());
        let Some(quantile) = quantile.filter(|quantile| (1.0..100.0).contains(quantile)) else {
            return Err(wrong(format!("\"{what}\" isn't errors or a percentile such as p99")));
        };
        let bound: Duration = Time::parse(bound).map_err(|bad| wrong(bad.label))?.0;
        let allowed = ((100.0 - quantile) / 100.0 * WHOLE).round() as u32;
        Ok(Self(Objective { promise: Promise::Within(bound), allowed }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_become_the_share_that_is_allowed() {
        let read = |text: &str| Breach::parse(text).unwrap().0;
        let within = |millis| Promise::Within(Duration::from_millis(millis));

        assert_eq!(read("errors > 1%"), Objective { promise: Promise::NoError, allowed: 10_000 });
        assert_eq!(read("errors>0.05 %"), Objective { promise: Promise::NoError, allowed: 500 });
        assert_eq!(read("p99 > 300ms"), Objective { promise: within(300), allowed: 10_000 });
        assert_eq!(read("p99.9 > 1s"), Objective { promise: within(1_000), allowed: 1_000 });
        assert_eq!(read("p50 > 20ms"), Objective { promise: within(20), allowed: 500_000 });
    }

    #[test]
    fn what_is_no_condition_is_refused() {
        for text in ["", "errors", "errors > 1", "errors > 100%", "errors < 1%", "p0 > 1s", "p100 > 1s", "p99 > 1"] {
            assert!(Breach::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_route_asks_for_all_dyed_traffic_or_for_a_run() {
        assert_eq!(DyedRule::parse("true").unwrap().0, DyedMatch::Any);
        assert_eq!(DyedRule::parse("drill-7").unwrap().0, DyedMatch::Run("drill-7".into()));
        assert!(DyedRule::parse("false").is_err() && DyedRule::parse("a b").is_err());
    }
}
