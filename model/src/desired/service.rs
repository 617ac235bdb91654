//! Upstream services: versions, endpoints, and how they are chosen, probed, rested and retried.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::{CertificateFiles, Key};

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
    /// Requests that may wait for answers at once.
    pub capacity: Capacity,
    /// Idle connections kept to each endpoint for shadow copies. Live traffic has a bound over all endpoints.
    pub keep_idle: usize,
    /// Versions, in the order they were written.
    pub versions: Vec<Version>,
}

/// How many requests may wait for a service's answers at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Capacity {
    /// As many as it turns out to take.
    #[default]
    Auto,
    /// Any number.
    Off,
    /// So many.
    Fixed(u32),
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
