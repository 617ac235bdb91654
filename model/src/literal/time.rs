//! Durations, and what is built from them.

use std::fmt::Write as _;
use std::time::Duration;

use super::{Literal, Wrong, split_number};
use crate::desired::{Ban, FailureRate};

/// A duration longer than nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(pub Duration);

/// A duration that may be zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TimeOrZero(pub Duration);

/// No duration is longer: what is meant to last for ever is written differently.
const LONGEST: Duration = Duration::from_secs(366 * 86_400);

const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

impl Literal for Time {
    const WHAT: &'static str = "a duration";
    const CODE: &'static str = "bad-duration";
    const EXAMPLES: &'static [&'static str] = &["2s", "250ms", "1h30m"];

    fn parse(text: &str) -> Result<Self, Wrong> {
        let duration = parse_duration(text)?;
        if duration.is_zero() {
            return Err(Wrong::new("zero isn't possible here").help("write how long, such as \"2s\" or \"250ms\""));
        }
        Ok(Self(duration))
    }
}

impl Literal for TimeOrZero {
    const WHAT: &'static str = "a duration";
    const CODE: &'static str = "bad-duration";
    const EXAMPLES: &'static [&'static str] = &["0s", "30s"];

    fn parse(text: &str) -> Result<Self, Wrong> {
        parse_duration(text).map(Self)
    }
}

fn parse_duration(text: &str) -> Result<Duration, Wrong> {
    const FORM: &str = "write a number and a unit: \"2s\", \"250ms\", \"1h30m\" (ms, s, m, h, d)";
    let wrong = |label: &str| Wrong::new(label).help(FORM);
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(wrong("this is empty"));
    }
    if rest.starts_with('-') {
        return Err(wrong("a duration can't be negative"));
    }
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    let mut millis = 0f64;
    let mut smallest = u64::MAX;
    while !rest.is_empty() {
        let (number, after) = split_number(rest);
        let unit_end = after.find(|char: char| !char.is_alphabetic()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        let value: f64 = number.parse().map_err(|_| wrong("a number is missing here"))?;
        if unit.is_empty() {
            let label = if after.is_empty() { "the unit is missing" } else { "this isn't a number and a unit" };
            let hint = format!("write \"{number}s\" for seconds or \"{number}ms\" for milliseconds");
            return Err(Wrong::new(label).help(if after.is_empty() { hint.as_str() } else { FORM }));
        }
        let Some((_, scale)) = UNITS.iter().find(|(name, _)| *name == unit) else {
            return Err(wrong(&format!("\"{unit}\" isn't a unit of time")));
        };
        if *scale >= smallest {
            return Err(wrong("units go from large to small, each once"));
        }
        smallest = *scale;
        millis += value * *scale as f64;
        rest = after;
    }
    if millis > LONGEST.as_millis() as f64 {
        return Err(Wrong::new("this is more than 366 days"));
    }
    if millis > 0.0 && millis < 1.0 {
        return Err(wrong("this is less than a millisecond"));
    }
    Ok(Duration::from_millis(millis.round() as u64))
}

/// `duration` as it is written in a configuration: `1h30m`. Below a millisecond is cut off.
pub fn write_duration(duration: Duration) -> String {
    let mut millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if millis == 0 {
        return "0s".into();
    }
    let mut text = String::new();
    for (unit, scale) in UNITS {
        if millis >= scale {
            let _ = write!(text, "{}{unit}", millis / scale);
            millis %= scale;
        }
    }
    text
}

/// `50/s`: so many in each window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How many, at least 1.
    pub count: u32,
    /// In which time, longer than nothing.
    pub window: Duration,
}

impl Rate {
    /// Time between two of them, at least a nanosecond.
    pub fn interval(self) -> Duration {
        (self.window / self.count).max(Duration::from_nanos(1))
    }
}

impl Literal for Rate {
    const WHAT: &'static str = "a rate";
    const CODE: &'static str = "bad-rate";
    const EXAMPLES: &'static [&'static str] = &["50/s", "5/m", "1000/h", "20/10s"];

    fn parse(text: &str) -> Result<Self, Wrong> {
        const FORM: &str = "write a number and a time: \"50/s\", \"5/m\", \"1000/h\", \"20/10s\"";
        let Some((count, window)) = text.split_once('/') else {
            return Err(Wrong::new("the time is missing").help(FORM));
        };
        let (count, window) = (count.trim(), window.trim());
        let count: u32 = match count.parse() {
            Ok(0) => {
                return Err(Wrong::new("a rate of zero would refuse everything")
                    .help("write access: {deny: [0.0.0.0/0, \"::/0\"]} to refuse everybody"));
            }
            Ok(count) if count <= 1_000_000_000 => count,
            Ok(_) => return Err(Wrong::new("this is more than 1000000000")),
            Err(_) => return Err(Wrong::new(format!("\"{count}\" isn't a whole number")).help(FORM)),
        };
        let window = if window.starts_with(|char: char| char.is_ascii_digit()) {
            Time::parse(window).map_err(|wrong| Wrong::new(wrong.label).help(FORM))?.0
        } else {
            let scale = UNITS.iter().find(|(unit, _)| *unit == window && *unit != "ms").map(|(_, scale)| *scale);
            let wrong = || Wrong::new(format!("\"{window}\" isn't a unit of time")).help(FORM);
            Duration::from_millis(scale.ok_or_else(wrong)?)
        };
        Ok(Self { count, window })
    }
}

/// `ban 10m after 20 in 10s up to 24h`.
#[derive(Clone, Debug, PartialEq)]
pub struct BanFor(pub Ban);

impl Literal for BanFor {
    const WHAT: &'static str = "a ban";
    const CODE: &'static str = "bad-ban";
    const EXAMPLES: &'static [&'static str] =
        &["ban 10m", "ban 10m after 20 in 10s", "ban 10m after 20 in 10s up to 24h"];

    fn parse(text: &str) -> Result<Self, Wrong> {
        const FORM: &str = "write \"ban 10m\", \"ban 10m after 20 in 10s\" or \"ban 10m after 20 in 10s up to 24h\"";
        let words: Vec<&str> = text.split_whitespace().collect();
        let time =
            |text: &str| Time::parse(text).map(|time| time.0).map_err(|wrong| Wrong::new(wrong.label).help(FORM));
        let (words, up_to) = match words.as_slice() {
            [words @ .., "up", "to", cap] => (words, Some(time(cap)?)),
            words => (words, None),
        };
        let (lasts, after, window) = match words {
            ["ban", lasts] => (time(lasts)?, 20, Duration::from_secs(10)),
            ["ban", lasts, "after", after, "in", window] => {
                let after = match after.parse() {
                    Ok(after @ 1..=1_000_000) => after,
                    _ => {
                        let label = format!("\"{after}\" isn't a number from 1 to 1000000");
                        return Err(Wrong::new(label).help(FORM));
                    }
                };
                (time(lasts)?, after, time(window)?)
            }
            ["ban"] => return Err(Wrong::new("how long is missing").help(FORM)),
            _ => return Err(Wrong::new("this isn't a ban").help(FORM)),
        };
        let up_to = up_to.unwrap_or(lasts);
        if up_to < lasts {
            let label = format!("{} is less than {}", write_duration(up_to), write_duration(lasts));
            return Err(Wrong::new(label).help("bans grow from the first time to the second"));
        }
        Ok(Self(Ban { lasts, after, window, up_to }))
    }
}

/// `50% of 20`: at least this share of the last so many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailureShare(pub FailureRate);

impl Literal for FailureShare {
    const WHAT: &'static str = "a failure rate";
    const CODE: &'static str = "bad-failure-rate";
    const EXAMPLES: &'static [&'static str] = &["50% of 20"];

    fn parse(text: &str) -> Result<Self, Wrong> {
        const FORM: &str = "write \"50% of 20\": half of the last 20 requests";
        let wrong = |label: String| Wrong::new(label).help(FORM);
        let words: Vec<&str> = text.split_whitespace().collect();
        let [share, "of", of] = words.as_slice() else {
            return Err(wrong("this isn't a share of a number of requests".into()));
        };
        let percent = share.strip_suffix('%').and_then(|number| number.parse().ok());
        let Some(percent @ 1..=100) = percent else {
            return Err(wrong(format!("\"{share}\" isn't a share from 1% to 100%")));
        };
        let Some(of @ 1..=FailureRate::MAX_OF) = of.parse().ok() else {
            let most = FailureRate::MAX_OF;
            return Err(wrong(format!("\"{of}\" isn't a number of requests from 1 to {most}")));
        };
        Ok(Self(FailureRate { percent, of }))
    }
}
