//! Patterns that requests are matched against.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::{Host, Literal, Wrong};
use crate::desired::{DotSegments, EscapedSlashes, HostPattern, PathPattern, Paths, Slashes};
use crate::target::{self, BadTarget};

/// Bytes of a compiled regular expression. A larger one is refused: it would cost memory for every route.
const REGEX_SIZE: usize = 1 << 20;

/// A host pattern; `*` takes every host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostMatch(pub Option<HostPattern>);

impl Literal for HostMatch {
    const WHAT: &'static str = "a host pattern";
    const CODE: &'static str = "bad-host";
    const EXAMPLES: &'static [&'static str] = &["shop.example.com", "*.example.com"];

    fn parse(text: &str) -> Result<Self, Wrong> {
        if text == "*" {
            return Ok(Self(None));
        }
        let (rest, wildcard) = match text.strip_prefix("*.") {
            Some(rest) => (rest, true),
            None => (text, false),
        };
        if rest.contains('*') {
            let label = "* stands for whole labels, and only in front";
            return Err(Wrong::new(label).help("write \"*.example.com\", or list the hosts"));
        }
        let host = Host::parse(rest)?.0;
        Ok(Self(Some(if wildcard { HostPattern::Wildcard(host) } else { HostPattern::Exact(host) })))
    }
}

/// A path pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathMatch(pub PathPattern);

impl Literal for PathMatch {
    const WHAT: &'static str = "a path pattern";
    const CODE: &'static str = "bad-path";
    const EXAMPLES: &'static [&'static str] = &["/login", "/shop/**", "~ ^/item/[0-9]+$"];

    fn parse(text: &str) -> Result<Self, Wrong> {
        if let Some(regex) = text.strip_prefix('~') {
            return Ok(Self(PathPattern::Regex(RegexText::parse(regex.trim())?.0)));
        }
        if !text.starts_with('/') {
            let label = if text.is_empty() { "the path is missing" } else { "a path begins with /" };
            return Err(Wrong::new(label).help(format!("write \"/{}\"", text.trim_start_matches('^'))));
        }
        let (path, prefix) = match text.strip_suffix("/**") {
            Some(path) => (path, true),
            None => (text, false),
        };
        if path.contains('*') {
            let plain = text.trim_end_matches(['*', '/']);
            return Err(match plain.contains('*') {
                false => Wrong::new("* stands only in a /** at the end").help(format!("write \"{plain}/**\"")),
                true => Wrong::new("* stands only in a /** at the end")
                    .help("write a regular expression: \"~ ^/a/[^/]+/b$\""),
            });
        }
        for (char, label, help) in [
            ('?', "a path has no query", "match the query with query: {name: value}"),
            ('#', "a path has no fragment: clients don't send it", "leave it out"),
            ('{', "a path has no parameters", "write a regular expression: \"~ ^/item/[^/]+$\""),
            (' ', "a path can't hold a space", "write %20"),
            ('\\', "a path can't hold a backslash", "write /"),
        ] {
            if path.contains(char) {
                return Err(Wrong::new(label).help(help));
            }
        }
        if let Some(char) = path.chars().find(|char| char.is_control()) {
            return Err(Wrong::new(format!("a path can't hold {char:?}")));
        }
        if path.split('/').any(|segment| matches!(segment, "." | "..")) {
            let label = "\".\" and \"..\" are resolved before a path is matched";
            return Err(Wrong::new(label).help("write the path that they lead to"));
        }
        if prefix && path.ends_with('/') {
            let plain = path.trim_end_matches('/');
            return Err(Wrong::new("there is one / before the stars").help(format!("write \"{plain}/**\"")));
        }
        let path = normal(percent_encode(path))?;
        Ok(Self(if prefix { PathPattern::Prefix(path) } else { PathPattern::Exact(path) }))
    }
}

/// `path` with its escapes as requests have them when they are matched; dots and slashes stay.
fn normal(path: String) -> Result<String, Wrong> {
    const KEEP: Paths =
        Paths { dot_segments: DotSegments::Keep, slashes: Slashes::Keep, escaped_slashes: EscapedSlashes::Keep };
    if path.is_empty() {
        return Ok(path);
    }
    match target::normalise(&path, &KEEP) {
        Ok(normal) => Ok(normal.into_owned()),
        Err(BadTarget::Escape) => {
            Err(Wrong::new("a % is followed by two hexadecimal digits").help("write %25 for a percent sign"))
        }
        Err(bad) => Err(Wrong::new(format!("no request has such a path: {}", bad.text()))),
    }
}

/// `text` with what isn't ASCII percent-encoded, as it comes over the wire.
pub(super) fn percent_encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for char in text.chars() {
        if char.is_ascii() {
            encoded.push(char);
            continue;
        }
        for byte in char.encode_utf8(&mut [0; 4]).bytes() {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

/// A regular expression that compiles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegexText(pub String);

impl Literal for RegexText {
    const WHAT: &'static str = "a regular expression";
    const CODE: &'static str = "bad-regex";
    const EXAMPLES: &'static [&'static str] = &["^/item/[0-9]+$"];

    fn parse(text: &str) -> Result<Self, Wrong> {
        if text.is_empty() {
            return Err(Wrong::new("the regular expression is missing"));
        }
        match regex::RegexBuilder::new(text).size_limit(REGEX_SIZE).build() {
            Ok(_) => Ok(Self(text.to_owned())),
            Err(regex::Error::CompiledTooBig(_)) => {
                Err(Wrong::new("this is too large once compiled").help("use fewer or smaller repetitions"))
            }
            Err(error) => {
                let error = error.to_string();
                let reason = error.lines().last().unwrap_or("").trim_start_matches("error: ");
                let wrong = Wrong::new(reason);
                Err(match reason.contains("look-around") || reason.contains("backreference") {
                    true => wrong.help("only what can be matched in linear time is possible"),
                    false => wrong,
                })
            }
        }
    }

    fn schema() -> Value {
        json!({"type": "string", "format": "regex"})
    }
}

/// Any text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Text(pub String);

impl Literal for Text {
    const WHAT: &'static str = "a text";
    const CODE: &'static str = "bad-text";
    const EXAMPLES: &'static [&'static str] = &[];

    fn parse(text: &str) -> Result<Self, Wrong> {
        Ok(Self(text.to_owned()))
    }

    fn schema() -> Value {
        json!({"type": ["string", "number", "boolean"]})
    }
}
