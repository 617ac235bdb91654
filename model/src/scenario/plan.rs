//! A load test that was accepted. Having a [`Plan`] is the proof: nothing validates it again.
//!
//! A *flow* is what one simulated visitor does: one step, or several in turn with time to think between them. Each
//! *arrival* begins a flow. With flows of one step, arrivals are requests.
//!
//! Its serialised form is what a coordinator sends to workers of the same version. It is no format for files.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use regex::Regex;
use serde::{Deserialize, Serialize};

/// What a load test does.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// What people call it, in the report's title.
    pub name: String,
    /// When flows begin.
    pub load: Load,
    /// What arrivals do. At least one; shares by weight.
    pub flows: Vec<Flow>,
    /// Rows that templates take values from.
    pub feeders: Vec<Feeder>,
    /// How requests are carried.
    pub client: Client,
    /// What must hold at the end.
    pub thresholds: Vec<Threshold>,
    /// What ends the run early.
    pub stops: Vec<Stop>,
    /// How the requests are marked, where they are ("dyed" traffic).
    pub mark: Option<Mark>,
    /// What all dice of the run start from.
    pub seed: u64,
}

/// When flows begin.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Load {
    /// By a schedule that the target's slowness can't stretch (open model).
    Open {
        /// The rate over time, in turn. At least one.
        stages: Vec<Stage>,
        /// How arrivals lie within it.
        spacing: Spacing,
        /// Flows that may be under way at once; what is due beyond it is counted as unsent.
        most_in_flight: u32,
    },
    /// By as many visitors as there are, each beginning anew when it is done (closed model). Its latencies leave out
    /// whatever visitors would have asked for while they waited ("coordinated omission").
    Closed {
        /// Visitors at once.
        visitors: u32,
        /// For how long.
        lasts: Duration,
    },
    /// As it was recorded (replay).
    Recorded {
        /// The arrivals, ascending in time. At least one.
        arrivals: Vec<Arrival>,
        /// As in [`Load::Open`].
        most_in_flight: u32,
    },
}

/// An arrival as it was recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arrival {
    /// When it begins, from the start.
    pub at: Duration,
    /// Its flow: an index in [`Plan::flows`].
    pub flow: u32,
    /// The row that it takes of feeders whose order is [`Order::Given`].
    pub row: u32,
}

/// A stretch of time in which the rate goes evenly from one value to another.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stage {
    /// Its length.
    pub lasts: Duration,
    /// Arrivals a second at its start.
    pub from: f64,
    /// Arrivals a second at its end.
    pub to: f64,
}

/// How arrivals lie within the rate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Spacing {
    /// Evenly.
    #[default]
    Even,
    /// As independent visitors come (a Poisson process of that rate).
    Poisson,
}

/// What one arrival does.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Flow {
    /// Its name.
    pub name: String,
    /// Its share of the arrivals, among the weights of all flows.
    pub weight: f64,
    /// In turn. At least one. A step that fails ends the flow.
    pub steps: Vec<Step>,
}

/// One request.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Step {
    /// Its name in the report; unique in the plan.
    pub name: String,
    /// The method, such as `GET`.
    pub method: String,
    /// Where it is sent to. Fixed, so that the hosts of a run are known before it starts.
    pub origin: Origin,
    /// Path and query.
    pub target: Template,
    /// Header fields in their order, `Host` included if it isn't the origin's; none that frames the message.
    pub headers: Vec<(String, Template)>,
    /// Further header lines, each with its CRLF, whose names are only known when they are filled: what replays send.
    pub lines: Option<Template>,
    /// The body, if any.
    pub body: Option<Template>,
    /// How long the answer may take, from the send to its last byte.
    pub timeout: Duration,
    /// What the answer must be like, besides a status below 400 where none of them is about the status.
    pub checks: Vec<Check>,
    /// What is taken from the answer for later steps.
    pub takes: Vec<Take>,
    /// How long the visitor thinks afterwards.
    pub think: Option<Think>,
    /// For a WebSocket: messages sent in turn, an answer awaited after each. Empty: plain HTTP.
    pub messages: Vec<Template>,
}

/// Scheme, host and port.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Origin {
    /// Whether it speaks TLS.
    pub tls: bool,
    /// A name, or an address without brackets; lower case.
    pub host: String,
    /// The port.
    pub port: u16,
}

/// Text with places that are filled anew for each request.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Template {
    /// In turn.
    pub pieces: Vec<Piece>,
}

/// A piece of a template.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Piece {
    /// As it stands.
    Text(String),
    /// Filled.
    Value(Value),
}

/// What fills a place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Value {
    /// The field of a feeder's row. A flow takes one row of each feeder that it names.
    Fed {
        /// Index in [`Plan::feeders`].
        feeder: usize,
        /// Index in [`Feeder::fields`].
        field: usize,
    },
    /// What a step before has taken; index among the takes of the flow, counted over its steps.
    Taken(usize),
    /// The number of the arrival, from 0.
    Ordinal,
    /// A whole number between the two, both included.
    Random(i64, i64),
    /// A random UUID (RFC 9562, version 4).
    Uuid,
    /// Unix time in milliseconds.
    UnixMillis,
}

/// Rows that templates take values from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Feeder {
    /// Its name.
    pub name: String,
    /// The file it was read from.
    pub path: PathBuf,
    /// Names of the fields.
    pub fields: Vec<String>,
    /// At least one row.
    pub rows: Rows,
    /// Which row is next.
    pub order: Order,
}

/// The rows of a feeder, packed: a million short ones cost little more than their text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rows {
    fields: usize,
    bytes: Vec<u8>,
    /// Where each value ends, row by row.
    ends: Vec<usize>,
}

impl Rows {
    /// No rows yet, of `fields` values each.
    pub fn new(fields: usize) -> Self {
        Self { fields: fields.max(1), bytes: Vec::new(), ends: Vec::new() }
    }

    /// Adds a row. Values beyond the number of fields are left out, missing ones are empty.
    pub fn push<V: AsRef<[u8]>>(&mut self, row: impl IntoIterator<Item = V>) {
        let mut values = row.into_iter();
        for _ in 0..self.fields {
            if let Some(value) = values.next() {
                self.bytes.extend_from_slice(value.as_ref());
            }
            self.ends.push(self.bytes.len());
        }
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.ends.len() / self.fields.max(1)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Bytes of all values together.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// A value; empty where there is no such row or field.
    pub fn value(&self, row: usize, field: usize) -> &[u8] {
        let at = row.saturating_mul(self.fields).saturating_add(field);
        let Some(end) = self.ends.get(at).copied().filter(|_| field < self.fields) else { return &[] };
        let start = if at == 0 { 0 } else { self.ends[at - 1] };
        &self.bytes[start..end]
    }
}

/// Which row of a feeder is next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// From the first to the last, and from the first again. Over all threads.
    #[default]
    Sequential,
    /// Any.
    Random,
    /// Each at most once. When there are no more, arrivals fail as "feeder ran dry".
    Unique,
    /// The one that a recorded arrival names ([`Arrival::row`]).
    Given,
}

/// What an answer must be like.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Check {
    /// Its status is one of these.
    Status(Vec<u16>),
    /// A header field is there and, where that is given, matches.
    Header(String, #[serde(with = "pattern::optional")] Option<Regex>),
    /// The body (of which [`BODY_KEPT`] bytes are looked at) matches.
    Body(#[serde(with = "pattern")] Regex),
    /// A JSON path (RFC 9535) finds something and, where that is given, its first hit as text is this.
    Json(String, Option<String>),
    /// The body has at most so many bytes.
    AtMost(u64),
}

/// Bytes of a body that checks and takes look at. What comes after is read and counted, and not looked at.
pub const BODY_KEPT: usize = 1 << 20;

/// What is taken from an answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Take {
    /// The name that later templates use.
    pub name: String,
    /// Where from.
    pub from: From,
}

/// Where something is taken from.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum From {
    /// The first hit of a JSON path (RFC 9535) in the body.
    Json(String),
    /// A header field.
    Header(String),
    /// The value of a cookie that the answer sets (`Set-Cookie`, RFC 6265 §4.1).
    Cookie(String),
    /// The first group of the first match in the body, or the whole match where there is no group.
    Regex(#[serde(with = "pattern")] Regex),
}

/// How long a visitor thinks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Think {
    /// At least.
    pub least: Duration,
    /// At most.
    pub most: Duration,
}

/// How requests are carried.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Client {
    /// The protocol.
    pub protocol: Protocol,
    /// Whether connections are kept; else each request has one of its own.
    pub keep_alive: bool,
    /// Connections at most, over all threads and origins.
    pub connections: u32,
    /// Requests at once on one HTTP/2 connection.
    pub streams: u32,
    /// Threads that send; 0: one for each core.
    pub threads: u32,
    /// Addresses that connections come from, in turn. Empty: whatever the system takes.
    pub sources: Vec<IpAddr>,
    /// Addresses that host names stand for in this run, in front of DNS.
    pub resolve: BTreeMap<String, IpAddr>,
    /// How long a connection may take, its TLS handshake included.
    pub connect_timeout: Duration,
    /// A file of CA certificates that are trusted besides the system's.
    pub ca: Option<PathBuf>,
    /// Whether any certificate will do.
    pub insecure: bool,
}

/// How requests are spoken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Protocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2: by ALPN over TLS, with prior knowledge otherwise.
    Http2,
}

/// What must hold at the end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Threshold {
    /// As it was written: `item.p99 < 200ms`.
    pub text: String,
    /// The step it is about; `None`: all of them together.
    pub step: Option<String>,
    /// What is looked at.
    pub measure: Measure,
    /// How it is compared.
    pub is: Comparison,
    /// With what: nanoseconds, a share from 0 to 1, a rate a second, or a number.
    pub bound: f64,
}

/// What a threshold or a stop looks at.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Measure {
    /// The response time at this quantile, from 0 to 1.
    Response(f64),
    /// The service time at this quantile.
    Service(f64),
    /// The mean response time.
    Mean,
    /// The longest response time.
    Max,
    /// The share of those that were due and have no good answer, unsent ones included.
    Errors,
    /// Good answers a second.
    Rate,
}

/// How two numbers are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Comparison {
    /// Less.
    Less,
    /// Less, or equal.
    AtMost,
    /// More.
    More,
    /// More, or equal.
    AtLeast,
}

/// What ends a run early.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stop {
    /// What is looked at. Requests that are open for longer than a bound on time count as over it.
    pub when: Threshold,
    /// The time over which it is looked at.
    pub over: Duration,
}

/// How requests are marked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// The run's name in the mark: letters, digits, `-` and `_`, at most 64.
    pub run: String,
    /// The file of the key that signs it; the gateway has the same.
    pub key: PathBuf,
}

impl Plan {
    /// How long the schedule is.
    pub fn lasts(&self) -> Duration {
        match &self.load {
            Load::Open { stages, .. } => stages.iter().map(|stage| stage.lasts).sum(),
            Load::Closed { lasts, .. } => *lasts,
            // The last arrival is a part of it, and a schedule ends in front of its end.
            Load::Recorded { arrivals, .. } => {
                arrivals.last().map(|arrival| arrival.at + Duration::from_nanos(1)).unwrap_or_default()
            }
        }
    }

    /// Paths of the files that whoever sends reads when the run starts. The mark's key isn't one of them: a coordinator signs
    /// for its workers.
    pub fn files_mut(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        self.client.ca.iter_mut()
    }

    /// All steps of all flows, in the order in which the report lists them. The index of a step in a run is its place here.
    pub fn steps(&self) -> impl Iterator<Item = &Step> {
        self.flows.iter().flat_map(|flow| &flow.steps)
    }

    /// `template` of `flow` as it is written in a scenario: `/item/{{ random(1, 5000) }}`.
    pub fn written(&self, flow: &Flow, template: &Template) -> String {
        let mut text = String::new();
        for piece in &template.pieces {
            let value = match piece {
                Piece::Text(plain) => {
                    text.push_str(plain);
                    continue;
                }
                Piece::Value(value) => value,
            };
            let name = match value {
                Value::Fed { feeder, field } => match self.feeders.get(*feeder) {
                    Some(feeder) => {
                        format!("{}.{}", feeder.name, feeder.fields.get(*field).map_or("?", String::as_str))
                    }
                    None => "?".into(),
                },
                Value::Taken(at) => {
                    let take = flow.steps.iter().flat_map(|step| &step.takes).nth(*at);
                    take.map_or("?", |take| take.name.as_str()).to_owned()
                }
                Value::Ordinal => "ordinal".into(),
                Value::Random(from, to) => format!("random({from}, {to})"),
                Value::Uuid => "uuid".into(),
                Value::UnixMillis => "unix_ms".into(),
            };
            text.push_str("{{ ");
            text.push_str(&name);
            text.push_str(" }}");
        }
        text
    }
}

impl Step {
    /// The longest that an answer may take where nothing else is said.
    pub const TIMEOUT: Duration = Duration::from_secs(10);

    /// A GET of `target` without anything else.
    pub fn get(name: impl Into<String>, origin: Origin, target: Template) -> Self {
        Self {
            name: name.into(),
            method: "GET".into(),
            origin,
            target,
            headers: Vec::new(),
            lines: None,
            body: None,
            timeout: Self::TIMEOUT,
            checks: Vec::new(),
            takes: Vec::new(),
            think: None,
            messages: Vec::new(),
        }
    }
}

impl Template {
    /// A template that is only text.
    pub fn text(text: impl Into<String>) -> Self {
        Self { pieces: vec![Piece::Text(text.into())] }
    }

    /// The whole text, where nothing in it is filled: it can be prepared once and sent again and again.
    pub fn fixed(&self) -> Option<&str> {
        match self.pieces.as_slice() {
            [] => Some(""),
            [Piece::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// Indices of the feeders that it names, repeated as often as it does.
    pub fn feeders(&self) -> impl Iterator<Item = usize> {
        self.pieces.iter().filter_map(|piece| match piece {
            Piece::Value(Value::Fed { feeder, .. }) => Some(*feeder),
            _ => None,
        })
    }
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        if self.host.contains(':') {
            return write!(f, "{scheme}://[{}]:{}", self.host, self.port);
        }
        write!(f, "{scheme}://{}:{}", self.host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_recorded_arrival_lies_within_the_schedule() {
        let arrivals = [0, 300].map(|millis| Arrival { at: Duration::from_millis(millis), flow: 0, row: 0 });
        let plan = Plan {
            name: String::new(),
            load: Load::Recorded { arrivals: arrivals.to_vec(), most_in_flight: 1 },
            flows: Vec::new(),
            feeders: Vec::new(),
            client: Client::default(),
            thresholds: Vec::new(),
            stops: Vec::new(),
            mark: None,
            seed: 0,
        };

        assert!(arrivals.iter().all(|arrival| arrival.at < plan.lasts()));
    }

    #[test]
    fn packed_rows_give_back_what_was_put_in_and_nothing_beyond() {
        let mut rows = Rows::new(2);
        rows.push(["ann", "1"]);
        rows.push(["", "2"]);
        rows.push(["cy"]);

        let read: Vec<_> = (0..rows.len()).map(|row| (rows.value(row, 0), rows.value(row, 1))).collect();

        assert_eq!(read, [(&b"ann"[..], &b"1"[..]), (b"", b"2"), (b"cy", b"")]);
        assert_eq!((rows.value(3, 0), rows.value(0, 2)), (&b""[..], &b""[..]));
    }
}

/// A regular expression as its text.
mod pattern {
    use regex::Regex;
    use serde::de::{Deserialize, Deserializer, Error};
    use serde::ser::Serializer;

    pub fn serialize<S: Serializer>(pattern: &Regex, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(pattern.as_str())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Regex, D::Error> {
        Regex::new(&String::deserialize(from)?).map_err(Error::custom)
    }

    /// One that may be missing.
    pub mod optional {
        use serde::ser::Serialize as _;

        use super::{Deserialize, Deserializer, Error, Regex, Serializer};

        pub fn serialize<S: Serializer>(pattern: &Option<Regex>, to: S) -> Result<S::Ok, S::Error> {
            pattern.as_ref().map(Regex::as_str).serialize(to)
        }

        pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Regex>, D::Error> {
            let text = Option::<String>::deserialize(from)?;
            text.map(|text| Regex::new(&text)).transpose().map_err(Error::custom)
        }
    }
}
