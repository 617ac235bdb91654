//! What the operator wants, proven valid: the output of `check`.
//!
//! Every name has become an index, every literal a typed value, every default
//! has been filled in. Nothing after `check` validates again: having a
//! [`Desired`] is the proof.
//!
//! # Invariants
//!
//! - Every index points into the table that its type names.
//! - Names are unique in their table; `routes` keep the order of the file.
//! - Regular expressions compile, header names and values are legal, and file
//!   paths are absolute (relative ones were resolved against the config's folder).
//!
//! # Not here
//!
//! Files are not read and ports not bound; `compile` and `run` do that, and
//! report through the same diagnostics.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// The number of a configuration that was accepted. Grows by one each time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Generation(pub u64);

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A whole valid configuration.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Desired {
    /// Which accepted configuration this is.
    pub generation: Generation,
    /// Where metrics, health and snapshots are served; `None` turns it off.
    pub admin: Option<SocketAddr>,
    /// Sockets that visitors reach.
    pub listeners: Vec<Listener>,
    /// How the visitor's address is found behind other proxies.
    pub client_ip: ClientIp,
    /// Who may talk to any route at all.
    pub access: Access,
    /// Named rate limits.
    pub limits: Vec<Limit>,
    /// Upstream services.
    pub services: Vec<Service>,
    /// Routes, in the order they were written.
    pub routes: Vec<Route>,
    /// Where access-log lines go.
    pub access_log: AccessLog,
    /// Bounds that hold for the whole process.
    pub bounds: Bounds,
}

/// Bounds that hold for the whole process.
#[derive(Clone, Debug, PartialEq)]
pub struct Bounds {
    /// Bytes that all shadow copies together may hold. Beyond it copies are dropped and counted.
    pub shadow_bytes: u64,
    /// Keys that one named limit remembers. Beyond it the stalest are forgotten.
    pub limit_keys: usize,
    /// Open client connections. Beyond it new ones are closed at accept.
    pub connections: usize,
    /// Open client connections from one source address (or one IPv6 prefix).
    pub connections_per_source: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { shadow_bytes: 64 << 20, limit_keys: 200_000, connections: 15_000, connections_per_source: 10_000 }
    }
}

/// Where access-log lines go.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum AccessLog {
    /// No access log.
    #[default]
    Off,
    /// JSON lines on standard output.
    Stdout,
    /// JSON lines appended to a file. Reopened on SIGHUP, for log rotation.
    File(PathBuf),
}

/// One socket that visitors reach.
#[derive(Clone, Debug, PartialEq)]
pub struct Listener {
    /// Its name in the configuration.
    pub name: String,
    /// Address and port.
    pub bind: SocketAddr,
    /// What it does with a request.
    pub purpose: Purpose,
    /// TLS settings; `None` for a plain socket.
    pub tls: Option<ListenerTls>,
    /// Whether HTTP/1.1 is spoken.
    pub http1: bool,
    /// Whether HTTP/2 is spoken: by ALPN on TLS, by prior knowledge on plain sockets.
    pub http2: bool,
    /// Who may send a PROXY protocol header. Empty: nobody, and the header isn't looked for.
    /// A connection from one of these networks must begin with one.
    pub proxy_protocol: Vec<IpNet>,
    /// Deadlines and sizes on the client's side.
    pub guard: ListenerGuard,
}

/// What a listener does with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Routes it.
    Route,
    /// Sends the client to the same URL by https on this port.
    RedirectToTls {
        /// Port of the TLS listener. 443 is left out of the URL.
        port: u16,
    },
}

/// Deadlines and sizes on the client's side of one listener.
#[derive(Clone, Debug, PartialEq)]
pub struct ListenerGuard {
    /// TLS handshake, PROXY header and protocol detection together.
    pub handshake_timeout: Duration,
    /// From the first byte of a request to the end of its head.
    pub header_timeout: Duration,
    /// Between requests on a kept-alive connection, and on a silent WebSocket.
    pub idle_timeout: Duration,
    /// Between two reads of a request body.
    pub body_timeout: Duration,
    /// Bytes in the request line and headers together.
    pub max_header_bytes: usize,
    /// Number of headers.
    pub max_headers: usize,
    /// Requests on one connection before it is closed politely. 0: no bound.
    pub max_requests: u32,
    /// Concurrent streams on one HTTP/2 connection.
    pub max_streams: u32,
}

impl Default for ListenerGuard {
    fn default() -> Self {
        Self {
            handshake_timeout: Duration::from_secs(10),
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            body_timeout: Duration::from_secs(30),
            max_header_bytes: 32 << 10,
            max_headers: 128,
            max_requests: 0,
            max_streams: 128,
        }
    }
}

/// TLS settings of a listener.
#[derive(Clone, Debug, PartialEq)]
pub struct ListenerTls {
    /// Certificates; the first is the default for unknown names.
    pub certificates: Vec<CertificateFiles>,
    /// Whether TLS 1.2 is refused.
    pub only_tls13: bool,
}

/// A certificate chain and its key, as PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The chain, leaf first.
    pub cert: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// How the visitor's address is found behind other proxies.
#[derive(Clone, Debug, PartialEq)]
pub struct ClientIp {
    /// Proxies whose word we take.
    pub trusted: Vec<IpNet>,
    /// The header they speak through, in lower case: `x-forwarded-for`, `forwarded`, or one that holds a single address.
    pub header: String,
    /// IPv6 clients are told apart by this many leading bits.
    pub v6_prefix: u8,
}

impl Default for ClientIp {
    fn default() -> Self {
        Self { trusted: Vec::new(), header: "x-forwarded-for".into(), v6_prefix: 64 }
    }
}

/// An allow list and a deny list. Deny wins; an empty allow list allows everybody.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Access {
    /// Who may come. Empty: everybody.
    pub allow: Vec<IpNet>,
    /// Who may not, whatever `allow` says.
    pub deny: Vec<IpNet>,
}

/// What a request is told apart by, for limits, stickiness and hashing.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Key {
    /// The visitor's address (IPv6: its prefix).
    ClientIp,
    /// A request header, by lower-case name.
    Header(String),
    /// A cookie.
    Cookie(String),
    /// A query parameter, percent-decoded.
    Query(String),
    /// The host, in lower case and without its port.
    Host,
    /// The path, as it is matched.
    Path,
    /// The method.
    Method,
}

/// A named token bucket for each value of its keys.
#[derive(Clone, Debug, PartialEq)]
pub struct Limit {
    /// Its name in the configuration, metrics and RateLimit headers.
    pub name: String,
    /// What tells buckets apart. A request that lacks one of the keys uses the empty value for it.
    pub keys: Vec<Key>,
    /// Time between two tokens: `50/s` is 20 ms.
    pub interval: Duration,
    /// Tokens in a full bucket, at least 1.
    pub burst: u32,
    /// The window the rate was written in (`50/s`: 1 s), for the RateLimit-Policy header.
    pub window: Duration,
    /// Tokens per window as written (`50/s`: 50).
    pub per_window: u32,
    /// Status of a refusal (default 429).
    pub over: u16,
    /// What follows when refusals repeat.
    pub ban: Option<Ban>,
}

/// A ban for a key that goes on after being refused.
#[derive(Clone, Debug, PartialEq)]
pub struct Ban {
    /// How long.
    pub lasts: Duration,
    /// Refusals within `window` before it begins (default 20).
    pub after: u32,
    /// The span in which refusals are counted (default 10 s).
    pub window: Duration,
}

/// An upstream service and its versions.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// How an endpoint is chosen.
    pub balance: Balance,
    /// Active probes.
    pub probe: Option<Probe>,
    /// Passive ejection.
    pub eject: Option<Eject>,
    /// Retries.
    pub retry: Retry,
    /// Deadlines.
    pub timeouts: Timeouts,
    /// The protocol spoken to endpoints.
    pub protocol: UpstreamProtocol,
    /// TLS to endpoints; `None` for plain.
    pub tls: Option<UpstreamTls>,
    /// Idle connections kept to each endpoint for shadow copies. Live traffic has a bound over all endpoints.
    pub keep_idle: usize,
    /// Versions, in the order they were written.
    pub versions: Vec<Version>,
}

/// One version of a service: a set of endpoints that run the same code.
#[derive(Clone, Debug, PartialEq)]
pub struct Version {
    /// Its name within the service.
    pub name: String,
    /// Where it runs. May be empty: a version that is scaled to nothing answers 503.
    pub endpoints: Vec<EndpointSpec>,
}

/// One place where a version runs.
#[derive(Clone, Debug, PartialEq)]
pub struct EndpointSpec {
    /// Where.
    pub address: Address,
    /// Its share relative to the others (default 1, at most 1,000).
    pub weight: u32,
}

/// Where an endpoint listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    /// IP address and port.
    Tcp(SocketAddr),
    /// A host name and port; every address it resolves to is an endpoint.
    Name(String, u16),
    /// A unix socket (`unix:/run/app.sock`).
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(addr) => addr.fmt(f),
            Self::Name(host, port) => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// How an endpoint is chosen within a version.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Balance {
    /// The better of two random ones, by in-flight requests and latency.
    #[default]
    P2c,
    /// In turn, by weight.
    RoundRobin,
    /// The one with the fewest in-flight requests for its weight.
    LeastConn,
    /// Consistent by key: losing an endpoint moves only its own keys.
    Hash(Key),
}

/// An active probe.
#[derive(Clone, Debug, PartialEq)]
pub struct Probe {
    /// What is asked.
    pub kind: ProbeKind,
    /// Time between two probes of one endpoint; jittered by ±10 %.
    pub every: Duration,
    /// A probe that takes longer has failed.
    pub timeout: Duration,
    /// Successes in a row before a down endpoint is up.
    pub up_after: u32,
    /// Failures in a row before an up endpoint is down.
    pub down_after: u32,
}

/// What a probe asks.
#[derive(Clone, Debug, PartialEq)]
pub enum ProbeKind {
    /// `GET path`, over the service's own protocol and TLS.
    Http {
        /// Path and query.
        path: String,
        /// The Host header; `None` sends the endpoint's address.
        host: Option<String>,
        /// Inclusive ranges of good statuses (default 200–399).
        expect: Vec<(u16, u16)>,
    },
    /// A connection that opens.
    Tcp,
}

/// Passive ejection: what makes an endpoint rest, and for how long.
#[derive(Clone, Debug, PartialEq)]
pub struct Eject {
    /// Failures in a row (5xx, connect error, reset, timeout). 0 turns it off.
    pub consecutive: u32,
    /// Failure rate that ejects.
    pub rate: Option<FailureRate>,
    /// The first rest. It grows with each ejection in a row and shrinks again with good time.
    pub rest: Duration,
    /// The longest rest.
    pub max_rest: Duration,
    /// At most this share of a version's endpoints rests at once, in percent. At least one endpoint may
    /// always rest where there are two or more.
    pub max_percent: u8,
    /// When fewer than this share, in percent, is fit, all endpoints are used again.
    pub panic_percent: u8,
    /// An endpoint that returns grows from a small share to its full one over this time. Zero: at once.
    pub slow_start: Duration,
}

impl Default for Eject {
    fn default() -> Self {
        Self {
            consecutive: 5,
            rate: None,
            rest: Duration::from_secs(30),
            max_rest: Duration::from_secs(300),
            max_percent: 50,
            panic_percent: 40,
            slow_start: Duration::ZERO,
        }
    }
}

/// `50% of 20`: at least this share of the last so many requests failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailureRate {
    /// Share in percent, 1–100.
    pub percent: u8,
    /// Requests in the window, 1 to [`FailureRate::MAX_OF`].
    pub of: u32,
}

impl FailureRate {
    /// Requests in the largest window. Each endpoint keeps one bit for each of them; a larger window is refused.
    pub const MAX_OF: u32 = 1_024;
}

/// When and how often a request is tried again.
#[derive(Clone, Debug, PartialEq)]
pub struct Retry {
    /// Whether a failed or refused connection is retried (always safe: nothing was sent).
    pub on_connect: bool,
    /// Whether a connection that broke before the answer is retried.
    pub on_reset: bool,
    /// Whether a first byte that came too late is retried.
    pub on_timeout: bool,
    /// Statuses that are retried.
    pub on_status: Vec<u16>,
    /// Tries after the first.
    pub attempts: u32,
    /// Which methods may be retried once something was sent.
    pub methods: Methods,
    /// Retries may be this share of requests, in percent, with a floor of a few per second.
    pub budget_percent: u32,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            on_connect: true,
            on_reset: false,
            on_timeout: false,
            on_status: Vec::new(),
            attempts: 1,
            methods: Methods::Idempotent,
            budget_percent: 20,
        }
    }
}

/// A set of methods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Methods {
    /// Every method.
    Any,
    /// GET, HEAD, OPTIONS, TRACE (RFC 9110 §9.2.1).
    Safe,
    /// The safe ones, PUT and DELETE (RFC 9110 §9.2.2).
    Idempotent,
    /// Exactly these, in upper case.
    Only(Vec<String>),
}

/// Deadlines towards an upstream.
#[derive(Clone, Debug, PartialEq)]
pub struct Timeouts {
    /// TCP connect and TLS handshake.
    pub connect: Duration,
    /// From the request being sent to the first byte of the answer.
    pub first_byte: Duration,
    /// Between two reads of the answer.
    pub idle: Duration,
    /// The whole exchange, retries included. `None`: no bound (streams, downloads).
    pub total: Option<Duration>,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(3),
            first_byte: Duration::from_secs(30),
            idle: Duration::from_secs(60),
            total: None,
        }
    }
}

/// The protocol spoken to endpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UpstreamProtocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2 only: by ALPN over TLS, by prior knowledge over plain TCP.
    Http2,
    /// HTTP/2 where TLS negotiates it, else HTTP/1.1.
    Auto,
}

/// TLS to endpoints.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct UpstreamTls {
    /// PEM file of certificate authorities; `None` uses the system's.
    pub ca: Option<PathBuf>,
    /// The name that is sent and verified; `None` uses the request's host.
    pub sni: Option<String>,
    /// Our own certificate.
    pub client: Option<CertificateFiles>,
    /// False accepts any certificate. For tests only; said loudly in the log.
    pub insecure: bool,
}

/// One route.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// Its name.
    pub name: String,
    /// Which requests it takes.
    pub matches: Matches,
    /// What happens to them.
    pub action: Action,
    /// Limits, as indices into [`Desired::limits`], asked in this order.
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
    /// Copies.
    pub shadows: Vec<Shadow>,
}

/// Overrides of a service's deadlines; `None` leaves the service's.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RouteTimeouts {
    /// See [`Timeouts::connect`].
    pub connect: Option<Duration>,
    /// See [`Timeouts::first_byte`].
    pub first_byte: Option<Duration>,
    /// See [`Timeouts::idle`].
    pub idle: Option<Duration>,
    /// See [`Timeouts::total`].
    pub total: Option<Duration>,
}

/// Which requests a route takes. Everything given must hold.
#[derive(Clone, Debug, PartialEq)]
pub struct Matches {
    /// Any of these hosts; empty means every host.
    pub hosts: Vec<HostPattern>,
    /// The path.
    pub path: PathPattern,
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

/// A version, by its place in [`Desired::services`] and [`Service::versions`].
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
