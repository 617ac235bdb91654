//! Literals of scenarios: `500/s`, `1s..3s`, `json $.token`, `item.p99 < 200ms`.

use std::net::IpAddr;
use std::time::Duration;

use regex::Regex;
use serde_json::{Value, json};

use super::plan::{Comparison, From, Measure, Order, Origin, Spacing, Stop, Think, Threshold};
use crate::literal::{CookieName, HeaderName, Host, Literal, Method, Name, RegexText, Time, TimeOrZero, Wrong};
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

/// An origin: `https://shop.example.com`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WholeUrl(pub Origin);

impl Literal for WholeUrl {
    const WHAT: &'static str = "an origin";
    const CODE: &'static str = "bad-url";
    const EXAMPLES: &'static [&'static str] = &["https://shop.example.com", "http://127.0.0.1:8080"];

    fn parse(text: &str) -> Result<Self, Wrong> {
        let (origin, target) = split_url(text)?;
        match (origin, target) {
            (Some(origin), "" | "/") => Ok(Self(origin)),
            (Some(_), _) => {
                Err(Wrong::new("the path doesn't belong here")
                    .help("write it into the steps, such as \"get: /item/7\""))
            }
            (None, _) => Err(match Host::parse(text) {
                Ok(host) => Wrong::new("the scheme is missing").help(format!("write \"https://{}\"", host.0)),
                Err(_) => Wrong::new("this isn't a URL").help("write \"https://shop.example.com\""),
            }),
        }
    }
}

/// A path, or a whole URL whose host is written out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UrlOrPath {
    /// Where it goes; `None`: to the scenario's target.
    pub origin: Option<Origin>,
    /// Path and query, not yet parsed as a template.
    pub target: String,
}

impl Literal for UrlOrPath {
    const WHAT: &'static str = "a path or URL";
    const CODE: &'static str = "bad-url";
    const EXAMPLES: &'static [&'static str] = &["/item/{{ random(1, 5000) }}", "https://api.example.com/v1/items"];

    fn parse(text: &str) -> Result<Self, Wrong> {
        let text = text.trim();
        let (origin, target) = split_url(text)?;
        let target = match target {
            "" if origin.is_some() => "/".to_owned(),
            "" => return Err(Wrong::new("the path is missing").help("write \"/\" for the front page")),
            _ if target.starts_with('?') && origin.is_some() => format!("/{target}"),
            _ => target.to_owned(),
        };
        if !target.starts_with('/') && !target.starts_with("{{") {
            return Err(Wrong::new("a path begins with /").help(format!("write \"/{target}\", or a whole URL")));
        }
        // What stands between braces isn't sent.
        let mut sent = String::new();
        let mut rest = target.as_str();
        while let Some((before, after)) = rest.split_once("{{") {
            sent.push_str(before);
            rest = after.split_once("}}").map_or("", |(_, after)| after);
        }
        sent.push_str(rest);
        match sent.chars().find(|char| char.is_control() || " #\"<>\\^`{|}".contains(*char)) {
            Some(' ') => Err(Wrong::new("a URL can't hold a space").help("write %20")),
            Some('#') => Err(Wrong::new("a fragment is never sent").help("leave out what begins with #")),
            Some(char) => Err(Wrong::new(format!("a URL can't hold {char:?}")).help("percent-encode it")),
            None if !sent.is_ascii() => Err(Wrong::new("a URL is written in ASCII").help("percent-encode the rest")),
            None => Ok(Self { origin, target }),
        }
    }
}

/// Splits a URL into origin and the rest. Without a scheme there is no origin.
fn split_url(text: &str) -> Result<(Option<Origin>, &str), Wrong> {
    if text.starts_with('/') || text.starts_with("{{") {
        return Ok((None, text));
    }
    let Some((scheme, rest)) = text.split_once("://") else {
        let (host, rest) = text.split_at(text.find(['/', ':']).unwrap_or(text.len()));
        let has_host = !rest.is_empty() && (host.contains('.') || host == "localhost");
        return match has_host {
            true => {
                Err(Wrong::new("the scheme is missing").help(format!("write \"http://{text}\" or \"https://{text}\"")))
            }
            false => Ok((None, text)),
        };
    };
    let tls = match scheme.to_ascii_lowercase().as_str() {
        "https" | "wss" => true,
        "http" | "ws" => false,
        _ => return Err(Wrong::new(format!("\"{scheme}\" isn't a scheme that is spoken")).help("write http or https")),
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, target) = rest.split_at(end);
    if authority.contains("{{") || authority.contains("}}") {
        return Err(Wrong::new("a template can't choose the host")
            .help("write the host out: which hosts a run sends to is known before it starts"));
    }
    if authority.contains('@') {
        return Err(Wrong::new("a URL holds no name and password here").help("write an authorization header"));
    }
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => {
            let number = port.parse::<u16>().ok().filter(|port| *port > 0);
            (host, number.ok_or_else(|| Wrong::new(format!("\"{port}\" isn't a port")))?)
        }
        _ => (authority, if tls { 443 } else { 80 }),
    };
    let host = Host::parse(host)?.0;
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    Ok((Some(Origin { tls, host, port }), target))
}

/// A method, and a path or URL: `PURGE /item/7`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestLine {
    /// The method.
    pub method: String,
    /// Where to.
    pub url: UrlOrPath,
}

impl Literal for RequestLine {
    const WHAT: &'static str = "a method and a path or URL";
    const CODE: &'static str = "bad-request-line";
    const EXAMPLES: &'static [&'static str] = &["PURGE /item/7"];

    fn parse(text: &str) -> Result<Self, Wrong> {
        let form = || Wrong::new("a method and a path belong here").help("write \"PURGE /item/7\", for example");
        let (method, url) = text.trim().split_once(' ').ok_or_else(form)?;
        if method.eq_ignore_ascii_case("connect") {
            return Err(Wrong::new("CONNECT asks for a tunnel, and there is nothing to measure in it"));
        }
        Ok(Self { method: Method::parse(method)?.0, url: UrlOrPath::parse(url)? })
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
