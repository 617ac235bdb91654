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

mod acme;
mod dyed;
mod listener;
mod route;
mod service;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub use acme::*;
pub use dyed::*;
pub use listener::*;
pub use route::*;
pub use service::*;

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
    /// How certificates are ordered; `Some` wherever a listener has [`CertificateSource::Acme`].
    pub acme: Option<Acme>,
    /// TLS settings that all listeners share.
    pub tls: TlsSettings,
    /// How the visitor's address is found behind other proxies.
    pub client_ip: ClientIp,
    /// How paths are brought to one form before anything else looks at them.
    pub paths: Paths,
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
    /// How unknown visitors show that they are people; `None`: nobody is asked.
    pub challenge: Option<Challenge>,
    /// Networks that are never asked and count as known.
    pub exempt: Vec<IpNet>,
    /// Where gateways count shared limits together.
    pub redis: Option<Redis>,
    /// How dyed traffic is told from live traffic; `None`: nothing is ever dyed.
    pub dyed: Option<Dyed>,
    /// Names whose values recordings of live requests leave out, besides those that are always secret.
    pub redact: Vec<String>,
    /// Bounds that hold for the whole process.
    pub bounds: Bounds,
}

/// How unknown visitors show that they are people.
#[derive(Clone, Debug, PartialEq)]
pub struct Challenge {
    /// Whether a redirect with a cookie is enough.
    pub redirect: bool,
    /// Leading zero bits that the puzzle asks for, 8–28.
    pub work: u8,
    /// How long a passed challenge holds.
    pub valid: Duration,
    /// The file of secrets; `None`: a random one is kept in the state folder.
    pub secret: Option<PathBuf>,
}

impl Default for Challenge {
    fn default() -> Self {
        Self { redirect: false, work: 18, valid: Duration::from_secs(12 * 3_600), secret: None }
    }
}

/// Where gateways count shared limits together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redis {
    /// A name or an address.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The number of the database.
    pub database: u16,
    /// A file with its password, read for each connection.
    pub password_file: Option<PathBuf>,
    /// How often gateways tell each other.
    pub every: Duration,
}

impl Redis {
    /// `127.0.0.1:6379/0`.
    pub fn address(&self) -> String {
        format!("{}:{}/{}", self.host, self.port, self.database)
    }
}

/// Bounds that hold for the whole process.
#[derive(Clone, Debug, PartialEq)]
pub struct Bounds {
    /// Bytes that all shadow copies together may hold. Beyond it copies are dropped and counted.
    pub shadow_bytes: u64,
    /// Keys that one named limit remembers. Beyond it the stalest are forgotten.
    pub limit_keys: usize,
    /// Banned sources and networks. Beyond it the ban that ends soonest is forgotten.
    pub bans: usize,
    /// Open client connections. Beyond it new ones are closed at accept.
    pub connections: usize,
    /// Open client connections from one source address (or one IPv6 prefix).
    pub connections_per_source: usize,
    /// Open client connections from one network: an IPv4 /24, an IPv6 /48.
    pub connections_per_network: usize,
    /// TLS handshakes in progress. Beyond it the oldest is given up.
    pub handshakes: usize,
    /// The same from one source.
    pub handshakes_per_source: usize,
    /// The same from one network.
    pub handshakes_per_network: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            shadow_bytes: 64 << 20,
            limit_keys: 200_000,
            bans: 500_000,
            connections: 15_000,
            connections_per_source: 10_000,
            connections_per_network: 12_000,
            handshakes: 2_000,
            handshakes_per_source: 500,
            handshakes_per_network: 1_000,
        }
    }
}

/// How paths are brought to one form, for routing and forwarding alike (see [`crate::target`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Paths {
    /// What happens to `.` and `..`, written plainly or escaped.
    pub dot_segments: DotSegments,
    /// What happens to slashes in a row.
    pub slashes: Slashes,
    /// What happens to `%2F` and `%5C`.
    pub escaped_slashes: EscapedSlashes,
}

/// What happens to `.` and `..` in a path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DotSegments {
    /// They are resolved (RFC 3986 §5.2.4). Above the root, and in disguise, they are refused.
    #[default]
    Resolve,
    /// The request is refused.
    Refuse,
    /// They are matched and forwarded as they stand.
    Keep,
}

/// What happens to slashes in a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Slashes {
    /// They become one.
    #[default]
    Merge,
    /// They stay.
    Keep,
}

/// What happens to escaped slashes and backslashes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EscapedSlashes {
    /// They are characters of a name, and stay escaped.
    #[default]
    Keep,
    /// The request is refused.
    Refuse,
    /// They become slashes.
    Decode,
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

/// An allow list and a deny list. Deny wins; without `allow` and `allow_files` everybody may come.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Access {
    /// Who may come. Empty, and without `allow_files`: everybody.
    pub allow: Vec<IpNet>,
    /// Who may not, whatever `allow` says.
    pub deny: Vec<IpNet>,
    /// Files with more who may come, one network a line. With one of them, only those who are listed may come, even
    /// where it is empty.
    pub allow_files: Vec<PathBuf>,
    /// Files with more who may not, one network a line.
    pub deny_files: Vec<PathBuf>,
}

/// What a request is told apart by, for limits, stickiness and hashing.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Key {
    /// The visitor's address (IPv6: its prefix).
    ClientIp,
    /// The visitor's network: the /24 of an IPv4 address, the /48 of an IPv6 one.
    Network,
    /// The JA4 fingerprint of the visitor's TLS handshake: which program it is, whatever its address. Absent without TLS.
    Ja4,
    /// A request header, by lower-case name.
    Header(String),
    /// A cookie.
    Cookie(String),
    /// A query parameter, percent-decoded.
    Query(String),
    /// The host, in lower case and without its port.
    Host,
    /// The path, in its normal form.
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
    /// Whether visitors who haven't shown that they are people are asked to instead, and those who have aren't limited.
    pub challenge: bool,
    /// What follows when refusals repeat.
    pub ban: Option<Ban>,
    /// Counted together with other gateways, through [`Desired::redis`].
    pub shared: bool,
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
    /// Each ban of a key lasts twice as long as the one before, up to this. At least `lasts`; equal to it, bans
    /// don't grow. A ban is remembered for as long after its end.
    pub up_to: Duration,
}

impl Ban {
    /// How long it lasts the `times`th time.
    pub fn repeated(&self, times: u32) -> Duration {
        let doubled = 1_u32.checked_shl(times.saturating_sub(1)).unwrap_or(u32::MAX);
        self.lasts.saturating_mul(doubled).min(self.up_to)
    }
}
