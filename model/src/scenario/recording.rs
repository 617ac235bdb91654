//! Recordings: requests as they came in, one to a line, in a file that can be replayed.
//!
//! ```text
//! {"recording":1,"began":1795400000000,"of":"shop","redacted":["authorization","cookie"],"body_cap":65536}
//! {"at_us":0,"method":"GET","origin":"https://shop.example.com","target":"/item/7?size=m","headers":[["accept","*/*"]]}
//! {"at_us":1834,"method":"POST","origin":"https://shop.example.com","target":"/cart","headers":[["content-type","application/json"]],"body":"{\"item\":7}"}
//! {"end":true,"took_us":60000000,"requests":2,"lost":0}
//! ```
//!
//! The first line is the [`Head`], the last the [`End`]; a file without an end was cut off, and is good as far as it goes.
//!
//! # Invariants
//!
//! - A line is one JSON object without a raw line break, at most [`LINE_BYTES`] long.
//! - `at_us` counts from the head's `began` and may go back a little from one line to the next: requests are written
//!   when they are complete, and who replays sorts them.
//! - What is secret is not in the file: the values of redacted header fields and query parameters are [`REDACTED`].
//! - Keys that a reader doesn't know are passed over, so that later writers can say more.
//!
//! # Not here
//!
//! Files: the gateway writes them (`tidegate record`), `loadgen::import` reads them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

/// The version of this format. A reader refuses a higher one.
pub const VERSION: u32 = 1;

/// Bytes of one line. A recorder leaves out a body that would make a longer one ([`Request::cut`]); a reader refuses
/// a longer line.
pub const LINE_BYTES: usize = 16 << 20;

/// What stands in the place of a secret. A replay leaves out header fields whose value is this.
pub const REDACTED: &str = "REDACTED";

/// Header fields whose values are never recorded unless somebody asks for them. In lower case.
pub const SECRET_FIELDS: [&str; 8] = [
    "authorization",
    "cookie",
    "proxy-authorization",
    "set-cookie",
    "x-api-key",
    "x-auth-token",
    "x-csrf-token",
    "x-pt",
];

/// The first line: what the recording is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The version of the format: [`VERSION`].
    pub recording: u32,
    /// When it began, in Unix milliseconds.
    pub began: u64,
    /// Which route, or what else it is of; empty: everything.
    #[serde(default)]
    pub of: String,
    /// Names of the header fields and query parameters whose values are [`REDACTED`], in lower case.
    #[serde(default)]
    pub redacted: Vec<String>,
    /// Bytes of a body that are kept. A longer body is left out, not cut: half a JSON document is of no use.
    #[serde(default)]
    pub body_cap: u64,
}

impl Head {
    /// The head of a recording that begins at `began` (Unix milliseconds).
    pub fn new(began: u64) -> Self {
        Self { recording: VERSION, began, of: String::new(), redacted: Vec::new(), body_cap: 0 }
    }
}

/// A request, as the client sent it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// When its head was read, in microseconds from the recording's beginning.
    pub at_us: u64,
    /// The method.
    pub method: String,
    /// Scheme, host and, where it isn't the scheme's own, port that the client asked for; empty where that isn't known.
    #[serde(default)]
    pub origin: String,
    /// Path and query, as received.
    pub target: String,
    /// Header fields in their order, names in lower case, without `host`, hop-by-hop fields and `content-length`.
    /// Values that aren't UTF-8 are left out.
    #[serde(default)]
    pub headers: Vec<(String, String)>,
    /// The body, where it is UTF-8 and not empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// The body in base64 (RFC 4648 §4), where it isn't UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_base64: Option<String>,
    /// Bytes of a body that was left out because it is longer than the cap; 0: it is whole.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub cut: u64,
    /// The status that it was answered with; 0 where that isn't known.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub status: u64,
    /// From its head to the last byte of its answer, in microseconds; 0 where that isn't known.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub took_us: u64,
}

/// The last line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// Always true; tells this line from the others.
    pub end: bool,
    /// How long the recording took, in microseconds.
    pub took_us: u64,
    /// Requests in the file.
    pub requests: u64,
    /// Requests that were there and are not in the file, because the recorder could not keep up.
    pub lost: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Request {
    /// Keeps `body`; an empty one is none.
    pub fn set_body(&mut self, body: &[u8]) {
        (self.body, self.body_base64) = match std::str::from_utf8(body) {
            Ok("") => (None, None),
            Ok(text) => (Some(text.to_owned()), None),
            Err(_) => (None, Some(STANDARD.encode(body))),
        };
    }

    /// The body's bytes; empty where there is none, or what was written isn't base64.
    pub fn body(&self) -> Vec<u8> {
        match (&self.body, &self.body_base64) {
            (Some(text), _) => text.clone().into_bytes(),
            (None, Some(text)) => STANDARD.decode(text).unwrap_or_default(),
            (None, None) => Vec::new(),
        }
    }
}

/// What a line holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Line {
    /// The first.
    Head(Head),
    /// A request.
    Request(Box<Request>),
    /// The last.
    End(End),
}

/// Reads one line.
///
/// # Errors
///
/// What is wrong with it, for people.
pub fn read_line(line: &str) -> Result<Line, String> {
    let value: serde_json::Value = serde_json::from_str(line).map_err(|error| format!("this isn't JSON: {error}"))?;
    let line = if value.get("recording").is_some() {
        let head: Head = serde_json::from_value(value).map_err(|error| error.to_string())?;
        if head.recording != VERSION {
            return Err(format!("this is a recording of version {}, and only {VERSION} is known", head.recording));
        }
        Line::Head(head)
    } else if value.get("end").is_some() {
        Line::End(serde_json::from_value(value).map_err(|error| error.to_string())?)
    } else {
        Line::Request(Box::new(serde_json::from_value(value).map_err(|error| error.to_string())?))
    };
    Ok(line)
}

/// Writes one line, with its line break.
pub fn write_line<T: Serialize>(line: &T, out: &mut Vec<u8>) {
    serde_json::to_writer(&mut *out, line).expect("plain data is always JSON, and memory takes it");
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_kind_of_line_reads_back_as_itself() {
        let mut request = Request { at_us: 7, method: "POST".into(), target: "/a".into(), ..Request::default() };
        request.set_body(b"{}");
        let end = End { end: true, took_us: 9, requests: 1, lost: 2 };
        let mut out = Vec::new();

        write_line(&Head::new(5), &mut out);
        write_line(&request, &mut out);
        write_line(&end, &mut out);

        let text = String::from_utf8(out).unwrap();
        let lines: Vec<Line> = text.lines().map(|line| read_line(line).unwrap()).collect();
        assert_eq!(lines, [Line::Head(Head::new(5)), Line::Request(Box::new(request)), Line::End(end)]);
    }

    #[test]
    fn a_recording_of_a_later_version_is_refused_by_its_number() {
        let refused = read_line(r#"{"recording":2,"began":0}"#);

        assert_eq!(refused, Err("this is a recording of version 2, and only 1 is known".into()));
    }

    #[test]
    fn what_a_later_writer_adds_is_passed_over() {
        let line = read_line(r#"{"at_us":1,"method":"GET","target":"/","colour":"red"}"#);

        assert!(matches!(line, Ok(Line::Request(request)) if request.target == "/"));
    }

    proptest! {
        #[test]
        fn every_body_comes_back_byte_for_byte(body in prop::collection::vec(any::<u8>(), 0..64)) {
            let mut request = Request::default();
            request.set_body(&body);
            let mut line = Vec::new();
            write_line(&request, &mut line);

            let read = read_line(std::str::from_utf8(&line).unwrap().trim_end()).unwrap();

            let Line::Request(read) = read else { panic!("a request was written") };
            prop_assert_eq!(read.body(), body);
        }
    }
}
