//! What is remembered of an answer so that two can be compared, and the comparison.
//!
//! # Invariants
//!
//! - Nothing is kept of a body but its hash, unless JSON paths are to be left out; then at most
//!   [`KEPT`] bytes are, and only while the byte budget has room.
//! - An answer that can't be compared truthfully is [`Verdict::Incomparable`], never a mismatch.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue};
use serde_json::Value;
use tidegate_model::desired::Compare;
use xxhash_rust::xxh3::Xxh3;

use super::budget::{ByteBudget, Held};
use super::json::Ignored;
use std::sync::Arc;

/// Longest body that is compared, in bytes. A longer one is incomparable: hashing it to its end would hold
/// the copy's place for a download.
pub const HASHED: u64 = 8 << 20;

/// Longest body that is kept for a comparison as JSON, in bytes. A longer one is compared by its hash alone,
/// and is incomparable where the hashes differ.
pub const KEPT: usize = 256 << 10;

/// A shadow's first byte is much later than the main one's if it takes more than this many times as long …
const MUCH_LATER_FACTOR: u32 = 2;

/// … and this much on top, so that the noise of short times doesn't count.
const MUCH_LATER_FLOOR: Duration = Duration::from_millis(50);

/// A whole answer, as far as comparing needs it.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// From the sending of the request to the head of the answer.
    pub first_byte: Duration,
    /// xxh3 of the body as it was sent, content encoding and all.
    pub hash: u64,
    /// Bytes of the body; above [`HASHED`] the hash isn't of all of it.
    pub length: u64,
    encoding: Option<HeaderValue>,
    json: bool,
    kept: Option<Kept>,
}

#[derive(Debug, Default)]
struct Kept(Vec<Bytes>, Option<Held>);

/// Takes in an answer piece by piece.
pub struct Recorder {
    answer: Answer,
    hasher: Box<Xxh3>,
}

impl Recorder {
    /// Begins with the head. `keep_json` says whether the body of a JSON answer will be looked into.
    pub fn new(
        status: u16,
        headers: &HeaderMap,
        first_byte: Duration,
        keep_json: bool,
        budget: &Arc<ByteBudget>,
    ) -> Self {
        let encoding =
            headers.get(CONTENT_ENCODING).filter(|value| !value.as_bytes().eq_ignore_ascii_case(b"identity"));
        let json = headers.get(CONTENT_TYPE).is_some_and(is_json);
        let kept = (keep_json && json && encoding.is_none()).then(|| Kept(Vec::new(), Some(budget.open())));
        let answer = Answer { status, first_byte, hash: 0, length: 0, encoding: encoding.cloned(), json, kept };
        Self { answer, hasher: Box::new(Xxh3::new()) }
    }

    /// Takes in a piece of the body. False once there is more than will be compared.
    pub fn chunk(&mut self, chunk: &Bytes) -> bool {
        let length = self.answer.length + chunk.len() as u64;
        self.answer.length = length;
        if length > HASHED {
            self.answer.kept = None;
            return false;
        }
        self.hasher.update(chunk);
        if let Some(Kept(chunks, Some(held))) = &mut self.answer.kept {
            if length <= KEPT as u64 && held.grow(chunk.len() as u64 + super::CHUNK_OVERHEAD) {
                chunks.push(chunk.clone());
            } else {
                self.answer.kept = None;
            }
        }
        true
    }

    /// The answer, when its body has ended.
    pub fn end(mut self) -> Answer {
        self.answer.hash = self.hasher.digest();
        self.answer
    }
}

/// `application/json`, `application/problem+json`, … (RFC 6839 §3.1).
fn is_json(content_type: &HeaderValue) -> bool {
    let essence = content_type.as_bytes().split(|&b| b == b';').next().unwrap_or_default().trim_ascii();
    let essence = essence.to_ascii_lowercase();
    essence == b"application/json" || essence == b"text/json" || essence.ends_with(b"+json")
}

/// What a comparison found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// What is compared is equal.
    Match,
    /// The statuses differ; bodies were not looked at.
    Status,
    /// The bodies differ, with the first JSON path where they do if both were read as JSON.
    Body(Option<String>),
    /// It can't be told.
    Incomparable(&'static str),
}

/// Compares a shadow's answer with the main one.
pub fn compare(rules: &Compare, main: &Answer, shadow: &Answer) -> Verdict {
    if rules.status && main.status != shadow.status {
        return Verdict::Status;
    }
    if !rules.body {
        return Verdict::Match;
    }
    if main.encoding != shadow.encoding {
        return Verdict::Incomparable("content encodings differ");
    }
    if main.length > HASHED || shadow.length > HASHED {
        return Verdict::Incomparable("body too long");
    }
    if main.length == shadow.length && main.hash == shadow.hash {
        return Verdict::Match;
    }
    if rules.ignore.is_empty() || main.json != shadow.json || !main.json {
        return Verdict::Body(None);
    }
    let (Some(main), Some(shadow)) = (&main.kept, &shadow.kept) else {
        return Verdict::Incomparable("JSON is encoded or too long to look into");
    };
    let (Some(main), Some(shadow)) = (main.parse(), shadow.parse()) else {
        return Verdict::Body(None);
    };
    match Ignored::parse(&rules.ignore).first_difference(&main, &shadow) {
        Some(at) => Verdict::Body(Some(at)),
        None => Verdict::Match,
    }
}

/// Whether the shadow's first byte came much later than the main one's.
pub fn much_later(main: &Answer, shadow: &Answer) -> bool {
    shadow.first_byte > main.first_byte * MUCH_LATER_FACTOR + MUCH_LATER_FLOOR
}

impl Kept {
    fn parse(&self) -> Option<Value> {
        serde_json::from_slice(&self.0.concat()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, headers: &[(&str, &str)], body: &str) -> Answer {
        let headers = headers
            .iter()
            .map(|(name, value)| (name.parse().expect("a header name"), value.parse().expect("a header value")))
            .collect();
        let mut recorder = Recorder::new(status, &headers, Duration::ZERO, true, &ByteBudget::new(u64::MAX));
        for chunk in body.as_bytes().chunks(7) {
            recorder.chunk(&Bytes::copy_from_slice(chunk));
        }
        recorder.end()
    }

    const JSON: &[(&str, &str)] = &[("content-type", "application/json; charset=utf-8")];
    const PLAIN: &[(&str, &str)] = &[("content-type", "text/plain")];
    const GZIP: &[(&str, &str)] = &[("content-type", "application/json"), ("content-encoding", "gzip")];
    const IDENTITY: &[(&str, &str)] = &[("content-type", "application/json"), ("content-encoding", "Identity")];

    #[test]
    fn verdicts_follow_the_table() {
        let all = Compare { status: true, body: true, latency: false, ignore: vec!["$.time".into()] };
        let raw = Compare { ignore: Vec::new(), ..all.clone() };
        let only_status = Compare { status: true, ..Compare::default() };
        let only_body = Compare { status: false, ..raw.clone() };
        let long_a = "a".repeat(KEPT) + "x";
        let long_b = "a".repeat(KEPT) + "y";
        let at = |path: &str| Verdict::Body(Some(path.into()));
        let blind = Verdict::Incomparable("JSON is encoded or too long to look into");
        let table = [
            (&all, answer(200, PLAIN, "same"), answer(200, PLAIN, "same"), Verdict::Match),
            (&all, answer(200, PLAIN, ""), answer(200, PLAIN, ""), Verdict::Match),
            (&all, answer(200, PLAIN, "same"), answer(500, PLAIN, "same"), Verdict::Status),
            (&all, answer(200, PLAIN, "one"), answer(200, PLAIN, "two"), Verdict::Body(None)),
            (&only_status, answer(200, PLAIN, "one"), answer(200, PLAIN, "two"), Verdict::Match),
            (&only_body, answer(200, PLAIN, "one"), answer(503, PLAIN, "one"), Verdict::Match),
            (&only_body, answer(200, PLAIN, "one"), answer(200, PLAIN, "one "), Verdict::Body(None)),
            // JSON, with and without something to leave out.
            (&all, answer(200, JSON, r#"{"a":1,"time":1}"#), answer(200, JSON, r#"{"time":2,"a":1}"#), Verdict::Match),
            (&all, answer(200, JSON, r#"{"a":1,"time":1}"#), answer(200, JSON, r#"{"a":2,"time":1}"#), at("$.a")),
            (&raw, answer(200, JSON, r#"{"a":1}"#), answer(200, JSON, r#"{"a": 1}"#), Verdict::Body(None)),
            (&all, answer(200, JSON, r#"{"a":1}"#), answer(200, IDENTITY, r#"{"a": 1}"#), Verdict::Match),
            (&all, answer(200, JSON, r#"{"a":1}"#), answer(200, JSON, "{"), Verdict::Body(None)),
            (&all, answer(200, JSON, r#"{"a":1}"#), answer(200, PLAIN, r#"{"a": 1}"#), Verdict::Body(None)),
            // What can't be looked into.
            (&all, answer(200, GZIP, "zipped"), answer(200, GZIP, "zipped"), Verdict::Match),
            (&all, answer(200, GZIP, "zipped"), answer(200, GZIP, "zipped otherwise"), blind.clone()),
            (&raw, answer(200, GZIP, "zipped"), answer(200, GZIP, "zipped otherwise"), Verdict::Body(None)),
            (&all, answer(200, GZIP, "a"), answer(200, JSON, "a"), Verdict::Incomparable("content encodings differ")),
            (&all, answer(200, JSON, &long_a), answer(200, JSON, &long_b), blind),
            (&all, answer(200, JSON, &long_a), answer(200, JSON, &long_a), Verdict::Match),
        ];

        for (rules, main, shadow, expected) in table {
            assert_eq!(compare(rules, &main, &shadow), expected, "{main:?} {shadow:?}");
        }
    }

    #[test]
    fn a_body_beyond_the_longest_compared_one_is_incomparable_even_with_itself() {
        let mut recorders =
            [(); 2].map(|()| Recorder::new(200, &HeaderMap::new(), Duration::ZERO, false, &ByteBudget::new(0)));
        let mebibyte = Bytes::from(vec![0; 1 << 20]);
        for recorder in &mut recorders {
            for _ in 0..HASHED >> 20 {
                assert!(recorder.chunk(&mebibyte));
            }
            assert!(!recorder.chunk(&Bytes::from_static(b"!")));
        }

        let [main, shadow] = recorders.map(Recorder::end);

        let rules = Compare { body: true, ..Compare::default() };
        assert_eq!(compare(&rules, &main, &shadow), Verdict::Incomparable("body too long"));
    }

    #[test]
    fn a_kept_body_is_charged_to_the_budget_until_its_answer_is_dropped() {
        let budget = ByteBudget::new(1_000);
        let headers = [(CONTENT_TYPE, HeaderValue::from_static("application/json"))].into_iter().collect();
        let mut fits = Recorder::new(200, &headers, Duration::ZERO, true, &budget);
        let mut too_long = Recorder::new(200, &headers, Duration::ZERO, true, &budget);

        fits.chunk(&Bytes::from(vec![b'1'; 600]));
        too_long.chunk(&Bytes::from(vec![b'1'; 600]));

        assert!(fits.answer.kept.is_some() && too_long.answer.kept.is_none());
        assert!((600..=1_000).contains(&budget.held()));
        drop(fits.end());
        assert_eq!(budget.held(), 0);
    }

    #[test]
    fn much_later_is_more_than_twice_as_long_and_a_floor() {
        let took = |millis| Answer { first_byte: Duration::from_millis(millis), ..answer(200, PLAIN, "") };
        let table = [(1, 50, false), (1, 53, true), (100, 250, false), (100, 251, true), (300, 1, false)];

        for (main, shadow, expected) in table {
            assert_eq!(much_later(&took(main), &took(shadow)), expected, "{main} ms, {shadow} ms");
        }
    }
}
