//! Decides what happens to a request: a pure function, and the whole of the traffic policy.
//!
//! `guard → route → limits → arm → endpoint`. It knows no Pingora and does no I/O;
//! the carriers execute what it returns and decide nothing themselves. "Pure" here
//! means: equal head, connection, snapshot, time and dice give an equal answer,
//! except that limits take a token and rotations advance, through atomics that
//! the snapshot hands on.
//!
//! # Not here
//!
//! Executing the plan is `carry`; forming opinions about endpoints is `health`.

pub mod answer;
pub mod balance;
pub mod client;
pub mod key;
pub mod limit;
pub mod route;
pub mod split;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use rand::Rng;
use smallvec::SmallVec;
use tidegate_model::desired::{ListenerGuard, VersionRef};
use tidegate_model::time::Timestamp;

use crate::endpoint::Endpoint;
use crate::snapshot::Snapshot;

/// The head of a request, as a carrier read it.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    /// The method.
    pub method: &'a Method,
    /// The authority without its port, in lower case; empty when an HTTP/1.0 client sent none.
    pub host: &'a str,
    /// The path as it is matched and forwarded; begins with `/` (or is `*` for OPTIONS).
    pub path: &'a str,
    /// The query without its `?`.
    pub query: Option<&'a str>,
    /// All headers.
    pub headers: &'a HeaderMap,
    /// Content-Length, where there is one.
    pub content_length: Option<u64>,
}

/// What is known about the connection a request came on.
#[derive(Clone, Debug)]
pub struct Connection {
    /// Who is at the other end of the socket (or whom the PROXY header names).
    pub peer: SocketAddr,
    /// Our end.
    pub local: SocketAddr,
    /// Index into `desired.listeners` of the snapshot that opened the listener; names outlive indices, so go by `purpose`.
    pub listener: Arc<str>,
    /// Set on a redirect listener: the TLS port to redirect to.
    pub redirect_to: Option<u16>,
    /// TLS facts; `None` on a plain socket.
    pub tls: Option<Arc<TlsFacts>>,
    /// Deadlines and sizes of its listener, as they were when it was accepted.
    pub guard: Arc<ListenerGuard>,
}

/// What the handshake told.
#[derive(Clone, Debug, Default)]
pub struct TlsFacts {
    /// Server name that the client asked for, in lower case.
    pub sni: Option<String>,
    /// `TLSv1_3`, …
    pub version: &'static str,
    /// Cipher suite.
    pub cipher: &'static str,
}

/// What happens to a request.
pub enum Decision {
    /// It is carried to an endpoint.
    Forward(Box<Plan>),
    /// The gateway answers by itself.
    Answer(Box<Answer>),
}

/// Everything a carrier needs to know to carry one request.
pub struct Plan {
    /// Index into `snapshot.routes`.
    pub route: usize,
    /// Index into that route's arms.
    pub arm: usize,
    /// The version that the arm leads to.
    pub version: VersionRef,
    /// The first endpoint to try.
    pub endpoint: Arc<Endpoint>,
    /// The visitor's address, as trusted proxies report it.
    pub client: IpAddr,
    /// Hash of the balance key, so that retries stay consistent.
    pub balance_hash: u64,
    /// Path and query to send instead of the client's.
    pub target: Option<String>,
    /// Headers to set on the answer: the arm's cookie, CORS, RateLimit.
    pub answer_headers: HeaderLines,
    /// Copies to make: index into the route's shadows, and how many.
    pub copies: SmallVec<[(usize, u32); 1]>,
}

/// A few header lines.
pub type HeaderLines = SmallVec<[(HeaderName, HeaderValue); 4]>;

/// An answer that the gateway gives by itself.
#[derive(Debug)]
pub struct Answer {
    /// Status.
    pub status: u16,
    /// Why, as a metric label.
    pub reason: Reason,
    /// Index into `snapshot.routes`, where one was found.
    pub route: Option<usize>,
    /// The visitor's address.
    pub client: IpAddr,
    /// Headers besides Content-Length, Date and Server.
    pub headers: HeaderLines,
    /// Body; sent without for HEAD.
    pub body: Bytes,
}

/// Why the gateway answered by itself. A closed set, so that it can be a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// No route takes this request: 404.
    NoRoute,
    /// An access list refused: 403.
    Denied,
    /// A limit refused: 429.
    Limited,
    /// The key is banned: 429.
    Banned,
    /// The declared body is longer than the route allows: 413.
    BodyTooLarge,
    /// A redirect that a route or listener asks for.
    Redirect,
    /// An answer that a route asks for.
    Fixed,
    /// A CORS preflight.
    Preflight,
    /// The version has no endpoint: 503.
    NoEndpoint,
    /// Every endpoint is unfit and none may be used: 503.
    AllUnfit,
    /// The request is malformed or ambiguous: 400.
    BadRequest,
    /// The endpoint could not be reached: 503.
    Unreachable,
    /// The endpoint broke off, or answered with nonsense: 502.
    Broken,
    /// A deadline towards the endpoint passed: 504.
    Late,
    /// The client took too long: 408.
    ClientLate,
    /// The gateway is at fault: 500.
    Internal,
}

/// Decides. See the module.
pub fn decide(
    head: &Head<'_>,
    connection: &Connection,
    snapshot: &Snapshot,
    now: Timestamp,
    dice: &mut impl Rng,
) -> Decision {
    let _ = (head, connection, snapshot, now, dice);
    todo!("routing helper")
}

/// The next endpoint for a request that failed on `tried`: one that hasn't failed it, or
/// else the only one there is. `None` when the version has none.
pub fn next_endpoint(
    plan: &Plan,
    tried: &[Arc<Endpoint>],
    snapshot: &Snapshot,
    now: Timestamp,
    dice: &mut impl Rng,
) -> Option<Arc<Endpoint>> {
    let _ = (plan, tried, snapshot, now, dice);
    todo!("routing helper")
}
