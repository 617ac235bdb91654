//! Thresholds and stops: `item.p99 < 200ms`, `errors > 20% over 10s`.

use std::time::Duration;

use super::super::plan::{Comparison, Measure, Stop, Threshold};
use super::{ArrivalRate, number};
use crate::literal::{Literal, Name, Time, Wrong};
use crate::problems::did_you_mean;

/// What must hold at the end: `errors < 0.1%`, `item.p99 < 200ms`.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition(pub Threshold);

const CONDITION: &str =
    "write \"errors < 0.1%\", \"p99 < 200ms\", \"item.p99 < 200ms\" for one step, or \"rate > 450/s\"";

impl Literal for Condition {
    const WHAT: &'static str = "a threshold";
    const CODE: &'static str = "bad-threshold";
    const EXAMPLES: &'static [&'static str] =
        &["errors < 0.1%", "p99 < 200ms", "item.p99.9 < 1s", "item.service.p99 < 150ms", "rate > 450/s"];

    fn parse(text: &str) -> Result<Self, Wrong> {
        let written = text.trim();
        let wrong = |label: &str| Wrong::new(label).help(CONDITION);
        let at = written.find(['<', '>', '=']).ok_or_else(|| wrong("there is no <, <=, > or >= in it"))?;
        let (what, rest) = written.split_at(at);
        let (is, bound) = match rest.as_bytes() {
            [b'<', b'=', ..] => (Comparison::AtMost, &rest[2..]),
            [b'>', b'=', ..] => (Comparison::AtLeast, &rest[2..]),
            [b'<', ..] => (Comparison::Less, &rest[1..]),
            [b'>', ..] => (Comparison::More, &rest[1..]),
            _ => return Err(wrong("numbers are compared by <, <=, > or >=")),
        };
        let (step, measure) = measured(what.trim())?;
        let bound = bound_of(measure, bound.trim())?;
        Ok(Self(Threshold { text: written.to_owned(), step, measure, is, bound }))
    }
}

/// What is measured, and of which step: `item.service.p99.9`.
fn measured(text: &str) -> Result<(Option<String>, Measure), Wrong> {
    const WORDS: &[&str] = &["errors", "rate", "mean", "max", "p50", "p90", "p95", "p99"];
    let wrong = |label: String| Wrong::new(label).help(CONDITION);
    // A quantile may hold a dot itself: it begins at the last ".p" in front of nothing but digits.
    let quantile_at =
        text.rmatch_indices('p').map(|(at, _)| at).find(|at| *at == 0 || text.as_bytes()[at - 1] == b'.').filter(
            |at| text.len() > at + 1 && text[at + 1..].bytes().all(|byte| byte.is_ascii_digit() || byte == b'.'),
        );
    let (front, measure) = if let Some(at) = quantile_at {
        let percent = number(&text[at + 1..]).filter(|percent| *percent > 0.0 && *percent < 100.0);
        let Some(percent) = percent else {
            return Err(wrong(format!("\"{}\" isn't a percentile between p0 and p100", &text[at..])));
        };
        // Rounded, so that p99.9 is the same quantile wherever it is written.
        let quantile = (percent * 1e6).round() / 1e8;
        match text[..at].strip_suffix("service.") {
            Some(front) => (front, Measure::Service(quantile)),
            None => (&text[..at], Measure::Response(quantile)),
        }
    } else {
        let start = text.rfind('.').map_or(0, |dot| dot + 1);
        let measure = match &text[start..] {
            "errors" => Measure::Errors,
            "rate" => Measure::Rate,
            "mean" => Measure::Mean,
            "max" => Measure::Max,
            "" => return Err(wrong("what is measured is missing".into())),
            other => {
                let label = format!("\"{other}\" isn't measured");
                return Err(match did_you_mean(other, WORDS.iter().copied()) {
                    Some(meant) => Wrong::new(label).help(format!("did you mean \"{meant}\"?")),
                    None => Wrong::new(label).help("there are: errors, rate, mean, max, p50, p99, p99.9, service.p99"),
                });
            }
        };
        (&text[..start], measure)
    };
    match front.strip_suffix('.') {
        None => Ok((None, measure)),
        Some(step) => {
            Name::parse(step).map_err(|_| wrong(format!("\"{step}\" isn't the name of a step")))?;
            Ok((Some(step.to_owned()), measure))
        }
    }
}

/// A bound in the unit of what is measured.
fn bound_of(measure: Measure, text: &str) -> Result<f64, Wrong> {
    let form = |label: String, help: &str| Err(Wrong::new(label).help(help));
    if text.is_empty() {
        return form("the number is missing".into(), CONDITION);
    }
    match measure {
        Measure::Errors => match text.strip_suffix('%').and_then(|number_| number(number_.trim_end())) {
            Some(percent) if (0.0..=100.0).contains(&percent) => Ok(percent / 100.0),
            Some(_) => form("a share is from 0% to 100%".into(), "write \"errors < 0.1%\""),
            None => form(format!("\"{text}\" isn't a percentage"), "write \"errors < 0.1%\""),
        },
        Measure::Rate => Ok(ArrivalRate::parse(text)?.0),
        Measure::Response(_) | Measure::Service(_) | Measure::Mean | Measure::Max => {
            let micros = text.strip_suffix("us").or_else(|| text.strip_suffix("µs"));
            let millis = text.strip_suffix("ms");
            let nanos = match (micros, millis) {
                (Some(micros), _) => number(micros.trim_end()).map(|micros| micros * 1e3),
                (None, Some(millis)) => number(millis.trim_end()).map(|millis| millis * 1e6),
                (None, None) => None,
            };
            match nanos {
                Some(nanos) if nanos > 0.0 => Ok(nanos),
                Some(_) => form("no answer takes no time".into(), "write \"p99 < 200ms\""),
                None => Ok(Time::parse(text)?.0.as_nanos() as f64),
            }
        }
    }
}

/// What ends a run early: `errors > 20% over 10s`.
#[derive(Clone, Debug, PartialEq)]
pub struct StopCondition(pub Stop);

/// The longest window over which a stop is looked at: older seconds are no reason to stop now.
const STOP_MAX: Duration = Duration::from_secs(3_600);

impl Literal for StopCondition {
    const WHAT: &'static str = "a reason to stop";
    const CODE: &'static str = "bad-stop";
    const EXAMPLES: &'static [&'static str] = &["errors > 20% over 10s", "p99 > 2s over 30s"];

    fn parse(text: &str) -> Result<Self, Wrong> {
        const FORM: &str = "write \"errors > 20% over 10s\"";
        let Some((condition, over)) = text.rsplit_once(" over ") else {
            return Err(Wrong::new("the time over which it is looked at is missing").help(FORM));
        };
        let over = Time::parse(over)?.0;
        if over < Duration::from_secs(1) || over > STOP_MAX {
            return Err(Wrong::new("stops look at 1s to 1h").help(FORM));
        }
        let mut when = Condition::parse(condition)?.0;
        when.text = text.trim().to_owned();
        Ok(Self(Stop { when, over }))
    }
}
