//! Words out of a closed set, some with a number or a key in their place or behind them.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::{Literal, TokenKey, Whole, Wrong};
use crate::desired::{
    AcmeChallengeKind, Asked, Balance, Capacity, ClientVerify, DotSegments, EscapedSlashes, Key, OverCap, Priority,
    Slashes, UpstreamProtocol, Weight,
};
use crate::problems::did_you_mean;

/// Declares a literal that is one of a few words.
macro_rules! words {
    ($(#[$meta:meta])* $name:ident($value:ty), $what:literal, $code:literal, $type:tt, { $($word:literal => $to:expr),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $name(pub $value);

        impl Literal for $name {
            const WHAT: &'static str = $what;
            const CODE: &'static str = $code;
            const EXAMPLES: &'static [&'static str] = &[$($word),+];

            fn parse(text: &str) -> Result<Self, Wrong> {
                match text {
                    $($word => Ok(Self($to)),)+
                    _ => Err(not_a_word(text, Self::EXAMPLES)),
                }
            }

            fn schema() -> Value {
                json!({"type": $type, "enum": [$(word_value($word, $type)),+]})
            }
        }
    };
}

fn not_a_word(text: &str, words: &[&'static str]) -> Wrong {
    let label =
        if text.is_empty() { "a value is missing".to_owned() } else { format!("\"{text}\" isn't possible here") };
    let help = match did_you_mean(text, words.iter().copied()) {
        Some(meant) => format!("did you mean \"{meant}\"?"),
        None if words.len() > 2 => format!("write one of {}", words.join(", ")),
        None => format!("write {}", words.join(" or ")),
    };
    Wrong::new(label).help(help)
}

/// `word` as the JSON value that YAML makes of it.
fn word_value(word: &str, kind: &str) -> Value {
    match kind {
        "string" => json!(word),
        _ => serde_json::from_str(word).expect("a word that isn't text is a number or a flag"),
    }
}

words! {
    /// What a breach reaches; true: everything.
    ReachOf(bool), "a reach", "bad-reach", "string", {
        "service" => false,
        "all" => true,
    }
}

/// The version of this format: 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VersionNumber;

impl Literal for VersionNumber {
    const WHAT: &'static str = "a version that this gateway reads";
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

words! {
    /// True or false.
    Flag(bool), "true or false", "bad-flag", "boolean", {"true" => true, "false" => false}
}

/// A protocol that a listener speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaks {
    /// HTTP/2 over TLS.
    H2,
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 without TLS.
    H2c,
}

words! {
    /// A protocol that a listener speaks.
    Protocol(Speaks), "a protocol", "bad-protocol", "string",
    {"h2" => Speaks::H2, "http/1.1" => Speaks::Http1, "h2c" => Speaks::H2c}
}

words! {
    /// Whether TLS 1.3 is the oldest version.
    TlsMin(bool), "a TLS version", "bad-tls-version", "string", {"1.2" => false, "1.3" => true}
}

words! {
    /// Whether a client must show a certificate.
    VerifyClient(ClientVerify), "a word for how clients are verified", "bad-verify", "string",
    {"require" => ClientVerify::Require, "ask" => ClientVerify::Ask}
}

words! {
    /// The protocol spoken to endpoints.
    UpstreamSpeaks(UpstreamProtocol), "a protocol", "bad-protocol", "string",
    {"http/1.1" => UpstreamProtocol::Http1, "h2" => UpstreamProtocol::Http2, "auto" => UpstreamProtocol::Auto}
}

words! {
    /// What happens to a copy whose body is longer than its cap.
    BodyOver(OverCap), "a policy", "bad-policy", "string", {"skip" => OverCap::Skip, "truncate" => OverCap::Truncate}
}

words! {
    /// What happens to dot segments.
    DotSegmentsWord(DotSegments), "a rule for dot segments", "bad-path-rule", "string",
    {"resolve" => DotSegments::Resolve, "refuse" => DotSegments::Refuse, "keep" => DotSegments::Keep}
}

words! {
    /// What happens to slashes in a row.
    SlashesWord(Slashes), "a rule for slashes", "bad-path-rule", "string",
    {"merge" => Slashes::Merge, "keep" => Slashes::Keep}
}

words! {
    /// What happens to escaped slashes.
    EscapedSlashesWord(EscapedSlashes), "a rule for escaped slashes", "bad-path-rule", "string",
    {"keep" => EscapedSlashes::Keep, "refuse" => EscapedSlashes::Refuse, "decode" => EscapedSlashes::Decode}
}

words! {
    /// How an authority is shown that a name is ours.
    AcmeChallenge(AcmeChallengeKind), "a challenge", "bad-challenge", "string",
    {"http-01" => AcmeChallengeKind::Http01, "tls-alpn-01" => AcmeChallengeKind::TlsAlpn01}
}

words! {
    /// The scheme of a URL.
    Scheme(&'static str), "a scheme", "bad-scheme", "string", {"http" => "http", "https" => "https"}
}

words! {
    /// A status that sends clients elsewhere.
    RedirectStatus(u16), "a redirect status", "bad-status", "integer",
    {"301" => 301, "302" => 302, "303" => 303, "307" => 307, "308" => 308}
}

/// What is compared between the main answer and a shadow's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// The status.
    Status,
    /// The body.
    Body,
    /// The time it took.
    Latency,
}

words! {
    /// What is compared between the main answer and a shadow's.
    CompareWhat(Comparison), "something to compare", "bad-comparison", "string",
    {"status" => Comparison::Status, "body" => Comparison::Body, "latency" => Comparison::Latency}
}

/// A named set of methods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// GET, HEAD, OPTIONS, TRACE.
    Safe,
    /// The safe ones, PUT and DELETE.
    Idempotent,
    /// Every method.
    Any,
}

words! {
    /// A named set of methods.
    MethodClass(Class), "a set of methods", "bad-methods", "string",
    {"safe" => Class::Safe, "idempotent" => Class::Idempotent, "any" => Class::Any}
}

words! {
    /// What is given up first when there isn't room for everybody.
    PriorityOf(Priority), "a priority", "bad-priority", "string",
    {"low" => Priority::Low, "normal" => Priority::Normal, "high" => Priority::High}
}

words! {
    /// When unknown visitors must show that they are people.
    ChallengeWhen(Asked), "a time for a challenge", "bad-challenge", "string",
    {"always" => Asked::Always, "attack" => Asked::Attack, "never" => Asked::Never}
}

words! {
    /// Whether a redirect with a cookie is challenge enough.
    ChallengeBy(bool), "a kind of challenge", "bad-challenge", "string", {"work" => false, "redirect" => true}
}

/// What happens to a request that a limit refuses: a status, or `challenge`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OverLimit {
    /// It is refused with this status.
    Status(u16),
    /// The visitor is asked to show that they are a person.
    Challenge,
}

impl Literal for OverLimit {
    const WHAT: &'static str = "a status or challenge";
    const CODE: &'static str = "bad-number";
    const EXAMPLES: &'static [&'static str] = &["429", "503", "challenge"];

    fn parse(text: &str) -> Result<Self, Wrong> {
        if text == "challenge" {
            return Ok(Self::Challenge);
        }
        Whole::<400, 599>::parse(text)
            .map(|status| Self::Status(status.0 as u16))
            .map_err(|wrong| Wrong { help: Some("write a number from 400 to 599, or challenge".into()), ..wrong })
    }

    fn schema() -> Value {
        json!({"anyOf": [{"type": "integer", "minimum": 400, "maximum": 599}, {"const": "challenge"}]})
    }
}

/// How many requests may wait for a service's answers at once: `auto`, `off` or a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CapacityOf(pub Capacity);

impl Literal for CapacityOf {
    const WHAT: &'static str = "a capacity";
    const CODE: &'static str = "bad-capacity";
    const EXAMPLES: &'static [&'static str] = &["auto", "off", "200"];

    fn parse(text: &str) -> Result<Self, Wrong> {
        let help = "write auto, off, or the number of requests that may wait at once (1 to 1000000)";
        match text {
            "auto" => Ok(Self(Capacity::Auto)),
            "off" => Ok(Self(Capacity::Off)),
            _ => match text.parse::<u32>() {
                Ok(number @ 1..=1_000_000) => Ok(Self(Capacity::Fixed(number))),
                Ok(0) => Err(Wrong::new("nobody could ever ask").help(help)),
                _ => Err(Wrong::new(format!("\"{text}\" isn't possible here")).help(help)),
            },
        }
    }

    fn schema() -> Value {
        json!({"anyOf": [{"enum": ["auto", "off"]}, {"type": "integer", "minimum": 1, "maximum": 1_000_000}]})
    }
}

/// When a request is tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RetryWhen {
    /// The connection failed.
    Connect,
    /// The connection broke before the answer.
    Reset,
    /// The first byte came too late.
    Timeout,
    /// One of these statuses came, as an inclusive range.
    Status(u16, u16),
}

impl Literal for RetryWhen {
    const WHAT: &'static str = "a reason to retry";
    const CODE: &'static str = "bad-retry";
    const EXAMPLES: &'static [&'static str] = &["connect", "reset", "timeout", "502", "5xx"];

    fn parse(text: &str) -> Result<Self, Wrong> {
        match text {
            "connect" => Ok(Self::Connect),
            "reset" => Ok(Self::Reset),
            "timeout" => Ok(Self::Timeout),
            _ if !text.starts_with(|char: char| char.is_ascii_digit()) => Err(not_a_word(text, Self::EXAMPLES)),
            _ => {
                let (from, to) = super::ExpectStatus::parse(text)?.0;
                if from < 400 {
                    return Err(Wrong::new("this status isn't a failure").help("only 4xx and 5xx are retried"));
                }
                Ok(Self::Status(from, to))
            }
        }
    }

    fn schema() -> Value {
        json!({"type": ["string", "integer"]})
    }
}

/// The share of an arm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WeightOf(pub Weight);

/// No weight is larger: shares are relative, so nothing is lost.
const WEIGHT_MAX: u32 = 1_000_000;

impl Literal for WeightOf {
    const WHAT: &'static str = "a weight";
    const CODE: &'static str = "bad-weight";
    const EXAMPLES: &'static [&'static str] = &["95", "drain", "off"];

    fn parse(text: &str) -> Result<Self, Wrong> {
        let wrong =
            |label: String| Wrong::new(label).help(format!("write a number from 0 to {WEIGHT_MAX}, drain or off"));
        match text {
            "drain" => return Ok(Self(Weight::Drain)),
            "off" => return Ok(Self(Weight::Off)),
            _ => {}
        }
        if let Some(number) = text.strip_suffix('%') {
            return Err(Wrong::new("weights are relative, not percentages").help(format!("write {number}")));
        }
        match text.parse::<i128>() {
            Ok(0) => Ok(Self(Weight::Drain)),
            Ok(weight) if weight < 0 => Err(wrong("a weight can't be negative".into())),
            Ok(weight) => match u32::try_from(weight) {
                Ok(weight) if weight <= WEIGHT_MAX => Ok(Self(Weight::Share(weight))),
                _ => Err(wrong(format!("this is more than {WEIGHT_MAX}"))),
            },
            Err(_) if text.parse::<f64>().is_ok() => Err(wrong("a weight is a whole number".into())),
            Err(_) => Err(wrong("this isn't a weight".into())),
        }
    }

    fn schema() -> Value {
        json!({"anyOf": [{"type": "integer", "minimum": 0, "maximum": WEIGHT_MAX}, {"enum": ["drain", "off"]}]})
    }
}

/// How an endpoint is chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct BalanceBy(pub Balance);

impl Literal for BalanceBy {
    const WHAT: &'static str = "a way to balance";
    const CODE: &'static str = "bad-balance";
    const EXAMPLES: &'static [&'static str] =
        &["p2c", "round_robin", "least_conn", "hash client_ip", "hash header:x-user"];

    fn parse(text: &str) -> Result<Self, Wrong> {
        let balance = match text {
            "p2c" => Balance::P2c,
            "round_robin" => Balance::RoundRobin,
            "least_conn" => Balance::LeastConn,
            "hash" => Balance::Hash(Key::ClientIp),
            _ => match text.strip_prefix("hash ") {
                Some(key) => Balance::Hash(TokenKey::parse(key.trim())?.0),
                None => return Err(not_a_word(text, Self::EXAMPLES)),
            },
        };
        Ok(Self(balance))
    }
}

/// Where access-log lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessLogTo {
    /// Nowhere.
    Off,
    /// To standard output.
    Stdout,
    /// To a file.
    File(PathBuf),
}

impl Literal for AccessLogTo {
    const WHAT: &'static str = "a place for the access log";
    const CODE: &'static str = "bad-access-log";
    const EXAMPLES: &'static [&'static str] = &["off", "stdout", "/var/log/tidegate/access.log"];

    fn parse(text: &str) -> Result<Self, Wrong> {
        match text {
            "off" => Ok(Self::Off),
            "stdout" => Ok(Self::Stdout),
            "stderr" | "on" | "true" => Err(not_a_word(text, &["off", "stdout"]).help("write off, stdout or a path")),
            _ => Ok(Self::File(super::FilePath::parse(text)?.0)),
        }
    }
}
