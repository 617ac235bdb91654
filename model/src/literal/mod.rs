//! Literals of the configuration: `2s`, `1MiB`, `50/s`, `50% of 20`, `ban 10m`.
//!
//! Each is a type with one way in, [`Literal::parse`], which says what is wrong
//! and what to write instead. The schema and the reference page are made from
//! the same implementations.
//!
//! # Not here
//!
//! Names that point at something else are resolved in `check`.

mod acme;
mod address;
mod dyed;
mod http;
mod name;
mod number;
mod pattern;
mod time;
mod word;

pub use acme::{CertName, Contact, DirectoryUrl, LETS_ENCRYPT};
pub use address::{Bind, EndpointAddress, Network, RedisUrl};
pub use dyed::{Breach, DyedRule};
pub use http::{
    ContentType, CookieName, ExpectStatus, FilePath, HeaderName, HeaderValue, Host, JsonPath, Method, Origin,
    RewritePath, TokenKey,
};
pub use name::{Name, Target};
pub use number::{Percent, Port, Sample, Size, Whole};
pub use pattern::{HostMatch, PathMatch, RegexText, Text};
pub use time::{BanFor, FailureShare, Rate, Time, TimeOrZero, write_duration};
pub use word::{
    AccessLogTo, AcmeChallenge, BalanceBy, BodyOver, CapacityOf, ChallengeBy, ChallengeWhen, Class, CompareWhat,
    Comparison, DotSegmentsWord, EscapedSlashesWord, Flag, MethodClass, OverLimit, PriorityOf, Protocol, ReachOf,
    RedirectStatus, RetryWhen, Scheme, SlashesWord, Speaks, TlsMin, UpstreamSpeaks, VerifyClient, VersionNumber,
    WeightOf,
};

use serde_json::{Value, json};

/// Something that is written as one word or number.
pub trait Literal: Sized {
    /// What it is, with its article, for messages: `a duration`.
    const WHAT: &'static str;
    /// The code of its diagnostic: `bad-duration`.
    const CODE: &'static str;
    /// How it is written, for the schema and the reference.
    const EXAMPLES: &'static [&'static str];

    /// Reads it.
    ///
    /// # Errors
    ///
    /// What is wrong, and what to write.
    fn parse(text: &str) -> Result<Self, Wrong>;

    /// Its JSON Schema, without description and examples.
    fn schema() -> Value {
        json!({"type": "string"})
    }
}

/// Why a literal was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// What is wrong with it, for the line under the caret.
    pub label: String,
    /// What to write.
    pub help: Option<String>,
}

impl Wrong {
    /// Without a hint.
    pub fn new(label: impl Into<String>) -> Self {
        Self { label: label.into(), help: None }
    }

    /// With a hint.
    pub fn help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }
}

/// Splits leading digits (and a decimal point) from what follows.
fn split_number(text: &str) -> (&str, &str) {
    let end = text.find(|char: char| !char.is_ascii_digit() && char != '.').unwrap_or(text.len());
    text.split_at(end)
}
