//! Examines answers: do they hold what the checks of their step want, and what is taken from them for later steps.
//!
//! In two halves, as an answer comes: [`Examiner::head`] when its head is there, [`Examiner::body`] when its last byte is.
//! Nothing has to be kept in between but the body's first [`BODY_KEPT`] bytes, and these only where
//! [`Examiner::wants_body`] says so.
//!
//! # Invariants
//!
//! - JSON paths are compiled once, and a body is read as JSON at most once.
//! - A good answer to a step whose checks and takes look at neither JSON nor text costs no allocation.

use std::fmt;

use http::HeaderMap;
use regex::Regex;
use serde_json::Value;
use serde_json_path::JsonPath;
use tidegate_model::scenario::plan::{BODY_KEPT, Check, Flow, From, Step};

use crate::Failure;
use crate::fill::Visit;

/// The header fields of an answer.
pub trait Fields {
    /// Whether `wanted` says yes to the value of a field named `name` (in lower case).
    fn find(&self, name: &str, wanted: &mut dyn FnMut(&[u8]) -> bool) -> bool;
}

impl Fields for [httparse::Header<'_>] {
    fn find(&self, name: &str, wanted: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        self.iter().any(|field| field.name.eq_ignore_ascii_case(name) && wanted(field.value))
    }
}

impl Fields for HeaderMap {
    fn find(&self, name: &str, wanted: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        self.get_all(name).iter().any(|value| wanted(value.as_bytes()))
    }
}

/// Why an answer isn't good.
#[derive(Clone, Copy, Debug)]
pub struct Refused<'e> {
    /// The line of the taxonomy that it is counted in.
    pub failure: Failure,
    what: What<'e>,
}

#[derive(Clone, Copy, Debug)]
enum What<'e> {
    Status(u16),
    NoHeader(&'e str),
    Header(&'e str, &'e Regex),
    Body(&'e Regex),
    NotJson { cut: bool },
    NoHit(&'e str),
    Hit(&'e str, &'e str),
    TooLong(u64, u64),
    Take(&'e str),
}

/// For people: what was wanted, and what was seen.
impl fmt::Display for Refused<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.what {
            What::Status(status) => write!(f, "the status is {status}"),
            What::NoHeader(name) => write!(f, "there is no header {name}"),
            What::Header(name, regex) => write!(f, "header {name} doesn't match {regex}"),
            What::Body(regex) => write!(f, "the body doesn't match {regex}"),
            What::NotJson { cut: false } => f.write_str("the body isn't JSON"),
            What::NotJson { cut: true } => {
                write!(f, "the body has more than {BODY_KEPT} bytes, so no JSON is read of it")
            }
            What::NoHit(path) => write!(f, "JSON path {path} finds nothing"),
            What::Hit(path, wanted) => write!(f, "JSON path {path} doesn't find {wanted}"),
            What::TooLong(length, most) => write!(f, "the body has {length} bytes, more than {most}"),
            What::Take(name) => write!(f, "there is nothing to take as {name}"),
        }
    }
}

/// What one step wants of its answers, ready to be looked for.
#[derive(Debug)]
pub struct Examiner {
    /// Empty: whatever is below 400.
    statuses: Vec<u16>,
    headers: Vec<(String, Option<Regex>)>,
    body: Vec<Regex>,
    json: Vec<(JsonPath, String, Option<String>)>,
    at_most: Option<u64>,
    takes: Vec<Taker>,
}

#[derive(Debug)]
struct Taker {
    /// Index among the takes of the flow.
    at: usize,
    name: String,
    from: Source,
}

#[derive(Debug)]
enum Source {
    Header(String),
    Cookie(String),
    Json(JsonPath),
    Regex(Regex),
}

impl Examiner {
    /// The examiners of the steps of `flow`, in turn.
    ///
    /// # Errors
    ///
    /// A JSON path that isn't one; a checked scenario has none.
    pub fn of(flow: &Flow) -> anyhow::Result<Vec<Self>> {
        let mut takes = 0;
        flow.steps
            .iter()
            .map(|step| {
                let examiner = Self::of_step(step, takes)?;
                takes += step.takes.len();
                Ok(examiner)
            })
            .collect()
    }

    fn of_step(step: &Step, first_take: usize) -> anyhow::Result<Self> {
        let path = |text: &str| {
            JsonPath::parse(text).map_err(|error| anyhow::anyhow!("\"{text}\" isn't a JSON path: {error}"))
        };
        let mut examiner = Self {
            statuses: Vec::new(),
            headers: Vec::new(),
            body: Vec::new(),
            json: Vec::new(),
            at_most: None,
            takes: Vec::new(),
        };
        for check in &step.checks {
            match check {
                Check::Status(statuses) => examiner.statuses.extend(statuses),
                Check::Header(name, regex) => examiner.headers.push((name.to_lowercase(), regex.clone())),
                Check::Body(regex) => examiner.body.push(regex.clone()),
                Check::Json(text, wanted) => examiner.json.push((path(text)?, text.clone(), wanted.clone())),
                Check::AtMost(most) => {
                    examiner.at_most = Some(examiner.at_most.map_or(*most, |other| other.min(*most)))
                }
            }
        }
        for (at, take) in step.takes.iter().enumerate() {
            let from = match &take.from {
                From::Header(name) => Source::Header(name.to_lowercase()),
                From::Cookie(name) => Source::Cookie(name.clone()),
                From::Json(text) => Source::Json(path(text)?),
                From::Regex(regex) => Source::Regex(regex.clone()),
            };
            examiner.takes.push(Taker { at: first_take + at, name: take.name.clone(), from });
        }
        Ok(examiner)
    }

    /// Whether the body is looked at, so that it must be kept: its first [`BODY_KEPT`] bytes.
    pub fn wants_body(&self) -> bool {
        !self.body.is_empty()
            || !self.json.is_empty()
            || self.takes.iter().any(|take| matches!(take.from, Source::Json(_) | Source::Regex(_)))
    }

    /// Bytes that a body may have at most, where that is bounded: more needn't be read.
    pub fn at_most(&self) -> Option<u64> {
        self.at_most
    }

    /// Looks at the status and the fields of an answer's head, and keeps what is taken of them in `visit`.
    ///
    /// # Errors
    ///
    /// The first check that doesn't hold.
    pub fn head<F: Fields + ?Sized>(&self, status: u16, fields: &F, visit: &mut Visit) -> Result<(), Refused<'_>> {
        let good = if self.statuses.is_empty() { status < 400 } else { self.statuses.contains(&status) };
        if !good {
            let failure = match status {
                400..=499 => Failure::ClientError,
                500.. => Failure::ServerError,
                _ => Failure::Check,
            };
            return Err(Refused { failure, what: What::Status(status) });
        }
        for (name, regex) in &self.headers {
            let mut seen = false;
            let found = fields.find(name, &mut |value| {
                seen = true;
                regex.as_ref().is_none_or(|regex| regex.is_match(&String::from_utf8_lossy(value)))
            });
            match regex {
                _ if found => {}
                Some(regex) if seen => return Err(check(What::Header(name, regex))),
                _ => return Err(check(What::NoHeader(name))),
            }
        }
        for take in &self.takes {
            let found = match &take.from {
                Source::Header(name) => fields.find(name, &mut |value| {
                    visit.keep(take.at, value);
                    true
                }),
                Source::Cookie(name) => fields.find("set-cookie", &mut |value| {
                    let cookie = cookie(value, name);
                    if let Some(value) = cookie {
                        visit.keep(take.at, value);
                    }
                    cookie.is_some()
                }),
                Source::Json(_) | Source::Regex(_) => true,
            };
            if !found {
                return Err(missing(take));
            }
        }
        Ok(())
    }

    /// Looks at a body of `length` bytes, of which `kept` are there, and keeps what is taken of it in `visit`.
    ///
    /// # Errors
    ///
    /// The first check that doesn't hold, or take that finds nothing.
    pub fn body(&self, kept: &[u8], length: u64, visit: &mut Visit) -> Result<(), Refused<'_>> {
        if let Some(most) = self.at_most
            && length > most
        {
            return Err(Refused { failure: Failure::TooLong, what: What::TooLong(length, most) });
        }
        if !self.wants_body() {
            return Ok(());
        }
        let kept = &kept[..kept.len().min(BODY_KEPT)];
        let text = String::from_utf8_lossy(kept);
        for regex in &self.body {
            if !regex.is_match(&text) {
                return Err(check(What::Body(regex)));
            }
        }
        let wants_json = !self.json.is_empty() || self.takes.iter().any(|take| matches!(take.from, Source::Json(_)));
        let json: Option<Value> = if wants_json { serde_json::from_slice(kept).ok() } else { None };
        for (path, written, wanted) in &self.json {
            let Some(json) = &json else { return Err(check(What::NotJson { cut: length > kept.len() as u64 })) };
            match (path.query(json).first(), wanted) {
                (None, _) => return Err(check(What::NoHit(written))),
                (Some(hit), Some(wanted)) if !is_text(hit, wanted) => return Err(check(What::Hit(written, wanted))),
                _ => {}
            }
        }
        for take in &self.takes {
            match &take.from {
                Source::Header(_) | Source::Cookie(_) => {}
                Source::Json(path) => match json.as_ref().and_then(|json| path.query(json).first()) {
                    Some(Value::String(text)) => visit.keep(take.at, text.as_bytes()),
                    Some(hit) if !hit.is_null() => visit.keep(take.at, hit.to_string().as_bytes()),
                    _ => return Err(missing(take)),
                },
                Source::Regex(regex) => {
                    let groups = regex.captures(&text).ok_or_else(|| missing(take))?;
                    let found = groups.get(1).or_else(|| groups.get(0)).map_or("", |found| found.as_str());
                    visit.keep(take.at, found.as_bytes());
                }
            }
        }
        Ok(())
    }
}

fn check(what: What<'_>) -> Refused<'_> {
    Refused { failure: Failure::Check, what }
}

fn missing(take: &Taker) -> Refused<'_> {
    Refused { failure: Failure::Take, what: What::Take(&take.name) }
}

/// The value of the cookie `name` in a `Set-Cookie` field, if it sets that one.
fn cookie<'v>(field: &'v [u8], name: &str) -> Option<&'v [u8]> {
    let pair = field.split(|byte| *byte == b';').next()?;
    let equals = pair.iter().position(|byte| *byte == b'=')?;
    (pair[..equals].trim_ascii() == name.as_bytes()).then(|| pair[equals + 1..].trim_ascii())
}

/// Whether `hit` as text is `wanted`: a string without its quotes, anything else as compact JSON.
fn is_text(hit: &Value, wanted: &str) -> bool {
    match hit {
        Value::String(text) => text == wanted,
        other => {
            let text = other.to_string();
            text == wanted
        }
    }
}

#[cfg(test)]
mod tests;
