//! Routes: which requests, and what happens to them.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Access, DyedMatch, Key, Methods};

/// One route.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// Its name.
    pub name: String,
    /// Which requests it takes.
    pub matches: Matches,
    /// What happens to them.
    pub action: Action,
    /// Limits, as indices into [`Desired::limits`](super::Desired::limits), asked in this order.
    pub limits: Vec<usize>,
    /// Who may use this route, after the global lists.
    pub access: Access,
    /// Changes to the request line and Host.
    pub rewrite: Rewrite,
    /// Changes to request headers.
    pub request_headers: HeaderEdits,
    /// Changes to response headers.
    pub response_headers: HeaderEdits,
    /// Cross-origin policy.
    pub cors: Option<Cors>,
    /// Overrides of the service's deadlines.
    pub timeouts: RouteTimeouts,
    /// Bytes in a request body; beyond it 413.
    pub max_body: Option<u64>,
    /// What is given up first when there isn't room for everybody.
    pub priority: Priority,
    /// When unknown visitors must show that they are people.
    pub challenge: Asked,
    /// Copies.
    pub shadows: Vec<Shadow>,
}

/// What is given up first when there isn't room for everybody.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// First.
    Low,
    /// Then this.
    #[default]
    Normal,
    /// Last.
    High,
}

/// When unknown visitors must show that they are people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Asked {
    /// Each of them, always.
    Always,
    /// When the service or the gateway has more to do than it can.
    #[default]
    Attack,
    /// Never; those there is no room for are turned away.
    Never,
}

/// Overrides of a service's deadlines; `None` leaves the service's.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RouteTimeouts {
    /// See [`Timeouts::connect`](super::Timeouts::connect).
    pub connect: Option<Duration>,
    /// See [`Timeouts::first_byte`](super::Timeouts::first_byte).
    pub first_byte: Option<Duration>,
    /// See [`Timeouts::idle`](super::Timeouts::idle).
    pub idle: Option<Duration>,
    /// See [`Timeouts::total`](super::Timeouts::total).
    pub total: Option<Duration>,
}

/// Which requests a route takes. Everything given must hold.
#[derive(Clone, Debug, PartialEq)]
pub struct Matches {
    /// Any of these hosts; empty means every host.
    pub hosts: Vec<HostPattern>,
    /// The path.
    pub path: PathPattern,
    /// Dyed requests only; such routes are asked before all others.
    pub dyed: Option<DyedMatch>,
    /// Any of these methods, in upper case; empty means every method.
    pub methods: Vec<String>,
    /// All of these headers (lower-case names).
    pub headers: Vec<(String, ValuePattern)>,
    /// All of these query parameters.
    pub query: Vec<(String, ValuePattern)>,
    /// All of these cookies.
    pub cookies: Vec<(String, ValuePattern)>,
}

/// A host pattern, in lower case and without a port.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HostPattern {
    /// `shop.example.com`.
    Exact(String),
    /// `*.example.com`, kept as `example.com`: one or more labels in front (Gateway API).
    Wildcard(String),
}

/// A path pattern.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PathPattern {
    /// `/login`: this path only.
    Exact(String),
    /// `/shop/**`, kept as `/shop`: the path itself and everything below it, on segment borders.
    /// `/**` is kept as the empty string and takes everything.
    Prefix(String),
    /// `~ ^/item/[0-9]+$`: a regular expression over the whole path, anchored by its author.
    Regex(String),
}

/// What a header, parameter or cookie must be.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ValuePattern {
    /// This value.
    Exact(String),
    /// A value that this regular expression finds itself in.
    Regex(String),
    /// Anything, as long as it is there.
    Present,
}

/// What happens to a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// It goes to one of the arms.
    Forward(Split),
    /// The client is sent elsewhere.
    Redirect(Redirect),
    /// The gateway answers by itself.
    Answer(FixedAnswer),
}

/// A weighted split: canary and A/B are one mechanism. `to: shop/v1` is a split with one arm.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Split {
    /// What people are recognised by; the first one present counts. Empty: each request by itself.
    pub stick_by: Vec<Key>,
    /// Keeps two experiments independent of each other.
    pub salt: String,
    /// A cookie that the gateway issues to people it can't recognise.
    pub issue: Option<IssueCookie>,
    /// The arms, in the order they were written; at least one has weight.
    pub arms: Vec<Arm>,
}

/// A cookie that the gateway issues so that it can recognise people.
#[derive(Clone, Debug, PartialEq)]
pub struct IssueCookie {
    /// Its name.
    pub name: String,
    /// How long it lasts.
    pub max_age: Duration,
}

/// One arm of a split.
#[derive(Clone, Debug, PartialEq)]
pub struct Arm {
    /// The version it leads to.
    pub version: VersionRef,
    /// Its share.
    pub weight: Weight,
}

/// A version, by its place in [`Desired::services`](super::Desired::services) and
/// [`Service::versions`](super::Service::versions).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VersionRef {
    /// Index of the service.
    pub service: usize,
    /// Index of the version within it.
    pub version: usize,
}

/// The share of an arm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// Relative share, 1 to 1,000,000.
    Share(u32),
    /// Nobody new; people who hold its cookie stay. Written `drain` or 0.
    Drain,
    /// Nobody at all. Written `off`.
    Off,
}

/// Where a client is sent. What is `None` stays as it was.
#[derive(Clone, Debug, PartialEq)]
pub struct Redirect {
    /// `http` or `https`.
    pub scheme: Option<String>,
    /// Host without port.
    pub host: Option<String>,
    /// Port. When the scheme changes and this is `None`, the new scheme's own port is meant.
    pub port: Option<u16>,
    /// Path.
    pub path: Option<PathRewrite>,
    /// 301, 302, 303, 307 or 308 (default 302).
    pub status: u16,
}

/// A change of the path. The query is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathRewrite {
    /// The whole path becomes this.
    Full(String),
    /// The prefix that the route matched becomes this.
    Prefix(String),
}

/// An answer that the gateway gives by itself.
#[derive(Clone, Debug, PartialEq)]
pub struct FixedAnswer {
    /// 200–599.
    pub status: u16,
    /// Content-Type.
    pub content_type: String,
    /// Body.
    pub body: String,
}

/// Changes to what is sent upstream.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rewrite {
    /// A new Host.
    pub host: Option<String>,
    /// A new path.
    pub path: Option<PathRewrite>,
}

/// Changes to headers: removed first, then set, then added.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HeaderEdits {
    /// Replaces whatever was there.
    pub set: BTreeMap<String, String>,
    /// One more line.
    pub add: BTreeMap<String, String>,
    /// Lower-case names.
    pub remove: Vec<String>,
}

/// Cross-origin policy (Fetch standard, CORS protocol).
#[derive(Clone, Debug, PartialEq)]
pub struct Cors {
    /// Origins: exact, `*`, or with a wildcard label (`https://*.example.com`).
    pub origins: Vec<String>,
    /// Methods; `*` allows every method.
    pub methods: Vec<String>,
    /// Request headers; `*` allows all of them.
    pub headers: Vec<String>,
    /// Response headers that scripts may read.
    pub expose: Vec<String>,
    /// Whether cookies may come along.
    pub credentials: bool,
    /// How long a preflight may be remembered.
    pub max_age: Option<Duration>,
}

/// A copy of live requests to another version.
#[derive(Clone, Debug, PartialEq)]
pub struct Shadow {
    /// Where the copies go.
    pub to: VersionRef,
    /// Copies in hundredths of a percent of requests: 10 % is 1,000; 500 % is 50,000.
    pub sample: u32,
    /// Bytes of a body that are copied.
    pub max_body: u64,
    /// What happens to a copy whose body is longer.
    pub over: OverCap,
    /// Copies in flight; beyond it they are dropped and counted.
    pub max_in_flight: usize,
    /// The whole copy, connect included.
    pub timeout: Duration,
    /// Which methods are copied.
    pub methods: Methods,
    /// Headers that mark a copy.
    pub mark: BTreeMap<String, String>,
    /// What is compared; `None` discards the shadow's answer unread.
    pub compare: Option<Compare>,
}

/// What happens to a copy whose body is longer than the cap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OverCap {
    /// It isn't sent. Counted.
    #[default]
    Skip,
    /// It is sent without the rest, and marked `x-tidegate-shadow-truncated: 1`.
    Truncate,
}

/// What is compared between the main answer and the shadow's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compare {
    /// The status.
    pub status: bool,
    /// The body, by hash; as JSON values when both are JSON and `ignore` isn't empty.
    pub body: bool,
    /// How much longer the shadow took.
    pub latency: bool,
    /// JSON paths left out (`$.time`, `items[*].id`).
    pub ignore: Vec<String>,
}
