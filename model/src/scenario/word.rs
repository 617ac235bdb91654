//! Literals of scenarios: `500/s`, `1s..3s`, `json $.token`, `item.p99 < 200ms`.

mod condition;
mod url;

use std::net::IpAddr;

pub use condition::{Condition, StopCondition};
use regex::Regex;
use serde_json::{Value, json};
pub use url::{RequestLine, UrlOrPath, WholeUrl};

use super::plan::{From, Order, Spacing, Think};
use crate::literal::{CookieName, HeaderName, Literal, RegexText, TimeOrZero, Wrong};
use crate::problems::did_you_mean;

/// The version of this format: 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScenarioVersion;

impl Literal for ScenarioVersion {
    const WHAT: &'static str = "a version of scenarios";
    const CODE: &'static str = "bad-version";
    const EXAMPLES: &'static [&'static str] = &["1"];

    fn parse(text: &str) -> Result<Self, Wrong> {
        match text {
            "1" => Ok(Self),
            _ => Err(Wrong::new("only 1 is known").help("write \"version: 1\"")),
        }
    }

    fn schema() -> Value {
        json!({"type": "integer", "enum": [1]})
    }
}

/// Text with places that are filled. What is between `{{` and `}}` is looked at by `template`, which knows the names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filled(pub String);

impl Literal for Filled {
    const WHAT: &'static str = "a text with templates";
    const CODE: &'static str = "bad-text";
    const EXAMPLES: &'static [&'static str] = &["Bearer {{ token }}"];

    fn parse(text: &str) -> Result<Self, Wrong> {
        Ok(Self(text.to_owned()))
    }

    fn schema() -> Value {
        json!({"type": ["string", "number", "boolean"]})
    }
}

/// An IP address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address(pub IpAddr);

impl Literal for Address {
    const WHAT: &'static str = "an IP address";
    const CODE: &'static str = "bad-address";
    const EXAMPLES: &'static [&'static str] = &["127.0.0.2", "2001:db8::7"];

    fn parse(text: &str) -> Result<Self, Wrong> {
        let plain = text.trim_start_matches('[').trim_end_matches(']');
        plain.parse().map(Self).map_err(|_| Wrong::new("this isn't an IP address").help("write \"127.0.0.2\""))
    }
}

/// Arrivals a second; may be zero.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ArrivalRate(pub f64);

/// Arrivals a second. More is a slip of the pen: no machine sends that.
const RATE_MAX: f64 = 10_000_000.0;

impl Literal for ArrivalRate {
    const WHAT: &'static str = "a rate";
    const CODE: &'static str = "bad-rate";
    const EXAMPLES: &'static [&'static str] = &["500/s", "0.5/s", "30000/m"];

    fn parse(text: &str) -> Result<Self, Wrong> {
        const FORM: &str = "write a number and a time: \"500/s\", \"0.5/s\", \"30000/m\"";
        let text = text.trim();
        let Some((count, window)) = text.split_once('/') else {
            let help = text.parse::<f64>().map_or(FORM.to_owned(), |_| format!("write \"{text}/s\""));
            return Err(Wrong::new("the time is missing").help(help));
        };
        let window = match window.trim() {
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3_600.0,
            "d" => 86_400.0,
            other => {
                let label = format!("\"{other}\" isn't s, m, h or d");
                return Err(Wrong::new(label).help(FORM));
            }
        };
        let count = count.trim();
        let rate = number(count).ok_or_else(|| Wrong::new(format!("\"{count}\" isn't a number")).help(FORM))? / window;
        if rate < 0.0 {
            return Err(Wrong::new("a rate can't be negative").help(FORM));
        }
        if rate > RATE_MAX {
            return Err(Wrong::new(format!("this is more than {RATE_MAX}/s")));
        }
        Ok(Self(rate))
    }
}

/// A finite number in decimal notation.
fn number(text: &str) -> Option<f64> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.' || byte == b'-');
    text.parse().ok().filter(|_| plain)
}

/// A flow's share of the arrivals.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Share(pub f64);

impl Literal for Share {
    const WHAT: &'static str = "a weight";
    const CODE: &'static str = "bad-weight";
    const EXAMPLES: &'static [&'static str] = &["9", "0.5"];

    fn parse(text: &str) -> Result<Self, Wrong> {
        if let Some(number) = text.strip_suffix('%') {
            return Err(Wrong::new("weights are relative, not percentages").help(format!("write {number}")));
        }
        match number(text) {
            Some(weight) if weight <= 0.0 => {
                Err(Wrong::new("a weight is more than 0").help("leave the flow out if nobody shall take it"))
            }
            Some(weight) if weight <= 1e9 => Ok(Self(weight)),
            Some(_) => Err(Wrong::new("this is more than 1000000000")),
            None => Err(Wrong::new("this isn't a weight").help("write a number, such as 9")),
        }
    }

    fn schema() -> Value {
        json!({"type": "number", "exclusiveMinimum": 0})
    }
}

/// How arrivals lie within the rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpacingWord(pub Spacing);

impl Literal for SpacingWord {
    const WHAT: &'static str = "a spacing";
    const CODE: &'static str = "bad-spacing";
    const EXAMPLES: &'static [&'static str] = &["even", "poisson"];

    fn parse(text: &str) -> Result<Self, Wrong> {
        match text {
            "even" => Ok(Self(Spacing::Even)),
            "poisson" => Ok(Self(Spacing::Poisson)),
            _ => Err(not_among(text, Self::EXAMPLES)),
        }
    }

    fn schema() -> Value {
        json!({"type": "string", "enum": Self::EXAMPLES})
    }
}

/// Which row of a feeder is next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OrderWord(pub Order);

impl Literal for OrderWord {
    const WHAT: &'static str = "an order";
    const CODE: &'static str = "bad-order";
    const EXAMPLES: &'static [&'static str] = &["sequential", "random", "unique"];

    fn parse(text: &str) -> Result<Self, Wrong> {
        match text {
            "sequential" => Ok(Self(Order::Sequential)),
            "random" => Ok(Self(Order::Random)),
            "unique" => Ok(Self(Order::Unique)),
            _ => Err(not_among(text, Self::EXAMPLES)),
        }
    }

    fn schema() -> Value {
        json!({"type": "string", "enum": Self::EXAMPLES})
    }
}

fn not_among(text: &str, words: &[&'static str]) -> Wrong {
    let wrong = Wrong::new(format!("\"{text}\" isn't possible here"));
    match did_you_mean(text, words.iter().copied()) {
        Some(meant) => wrong.help(format!("did you mean \"{meant}\"?")),
        None => wrong.help(format!("write {}", words.join(if words.len() > 2 { ", " } else { " or " }))),
    }
}

/// `2s`, or `1s..3s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThinkTime(pub Think);

impl Literal for ThinkTime {
    const WHAT: &'static str = "a time to think";
    const CODE: &'static str = "bad-duration";
    const EXAMPLES: &'static [&'static str] = &["2s", "1s..3s"];

    fn parse(text: &str) -> Result<Self, Wrong> {
        let (least, most) = text.split_once("..").unwrap_or((text, text));
        let (least, most) = (TimeOrZero::parse(least)?.0, TimeOrZero::parse(most)?.0);
        if least > most {
            return Err(Wrong::new("the range runs backwards").help("write the shorter time first, such as \"1s..3s\""));
        }
        Ok(Self(Think { least, most }))
    }
}

/// A JSON path (RFC 9535).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct JsonQuery(pub String);

impl Literal for JsonQuery {
    const WHAT: &'static str = "a JSON path";
    const CODE: &'static str = "bad-json-path";
    const EXAMPLES: &'static [&'static str] = &["$.token", "$.items[0].name"];

    fn parse(text: &str) -> Result<Self, Wrong> {
        let text = text.trim();
        if !text.starts_with('$') {
            let path = text.trim_start_matches('.');
            return Err(Wrong::new("a JSON path begins with $").help(format!("write \"$.{path}\"")));
        }
        match serde_json_path::JsonPath::parse(text) {
            Ok(_) => Ok(Self(text.to_owned())),
            Err(_) => Err(Wrong::new("this isn't a JSON path (RFC 9535)").help(
                "write \"$.items[0].name\", or \"$['odd name']\" where a name holds more than letters and digits",
            )),
        }
    }
}

/// Where something is taken from: `json $.token`, `header x-csrf`, `cookie sid`, `regex csrf="([^"]+)"`.
#[derive(Clone, Debug)]
pub struct TakeFrom(pub From);

impl PartialEq for TakeFrom {
    fn eq(&self, other: &Self) -> bool {
        format!("{:?}", self.0) == format!("{:?}", other.0)
    }
}

impl Literal for TakeFrom {
    const WHAT: &'static str = "a place in an answer";
    const CODE: &'static str = "bad-take";
    const EXAMPLES: &'static [&'static str] =
        &["json $.token", "header x-csrf", "cookie sid", "regex csrf=([0-9a-f]+)"];

    fn parse(text: &str) -> Result<Self, Wrong> {
        const FORM: &str = "write \"json $.token\", \"header x-csrf\", \"cookie sid\" or \"regex id=([0-9]+)\"";
        let (word, rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
        let rest = rest.trim();
        if rest.is_empty() && matches!(word, "json" | "header" | "cookie" | "regex") {
            return Err(Wrong::new("what is taken is missing").help(FORM));
        }
        let from = match word {
            "json" => From::Json(JsonQuery::parse(rest)?.0),
            "header" => From::Header(HeaderName::parse(rest)?.0),
            "cookie" => From::Cookie(CookieName::parse(rest)?.0),
            "regex" => From::Regex(regex(&RegexText::parse(rest)?.0)?),
            _ if word.starts_with('$') => {
                return Err(Wrong::new("where from is missing").help(format!("write \"json {text}\"")));
            }
            _ => return Err(Wrong::new(format!("\"{word}\" isn't json, header, cookie or regex")).help(FORM)),
        };
        Ok(Self(from))
    }
}

/// Compiles what [`RegexText`] has accepted.
pub(super) fn regex(text: &str) -> Result<Regex, Wrong> {
    Regex::new(text).map_err(|_| Wrong::new("this isn't a regular expression"))
}

/// The name of a run: letters, digits, `-` and `_`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunName(pub String);

impl Literal for RunName {
    const WHAT: &'static str = "a run's name";
    const CODE: &'static str = "bad-name";
    const EXAMPLES: &'static [&'static str] = &["sale-1"];

    fn parse(text: &str) -> Result<Self, Wrong> {
        let form = |label: String| Wrong::new(label).help("write letters, digits, - and _, at most 64");
        match text.chars().find(|char| !char.is_ascii_alphanumeric() && !"-_".contains(*char)) {
            Some(char) => Err(form(format!("the name of a run can't hold {char:?}"))),
            None if text.is_empty() => Err(form("the name is empty".into())),
            None if text.len() > 64 => Err(form("this is longer than 64 characters".into())),
            None => Ok(Self(text.to_owned())),
        }
    }

    fn schema() -> Value {
        json!({"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$"})
    }
}
