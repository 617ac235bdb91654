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

pub mod access;
pub mod answer;
pub mod balance;
pub mod client;
pub mod cors;
pub mod explain;
pub mod key;
pub mod limit;
pub mod ready;
pub mod route;
pub mod split;
mod target;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use rand::Rng;
use smallvec::SmallVec;
use tidegate_model::desired::{Action, ListenerGuard, VersionRef};
use tidegate_model::time::Timestamp;

use crate::endpoint::Endpoint;
use crate::snapshot::Snapshot;
use limit::{BucketId, LimitState, Outcome};

pub use client::{Forwarding, forwarding};
pub use ready::{Front, RouteRules};

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
    /// Headers for the answer: the arm's cookie, CORS, RateLimit. `set-cookie` and `vary` are added to what
    /// the endpoint sent, all others replace it.
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
    match plan(head, connection, snapshot, now, dice) {
        Ok(plan) => Decision::Forward(Box::new(plan)),
        Err(answer) => Decision::Answer(answer),
    }
}

/// The way to an endpoint; whatever bars it is the answer.
fn plan(
    head: &Head<'_>,
    connection: &Connection,
    snapshot: &Snapshot,
    now: Timestamp,
    dice: &mut impl Rng,
) -> Result<Plan, Box<Answer>> {
    let front = &snapshot.front;
    let client = front.client.find(head.headers, connection.peer);
    let network = front.client.network(client);
    if !front.access.admits(client) {
        return Err(answer::denied(client).into());
    }
    if let Some(port) = connection.redirect_to {
        return Err(to_tls(head, client, port).into());
    }

    if let Some(preflight) = preflight(head, client, snapshot) {
        return Err(preflight.into());
    }
    let route = snapshot.router.find(head).ok_or_else(|| answer::no_route(client))?;
    let (spec, entry) = (&snapshot.desired.routes[route], &snapshot.routes[route]);
    let mut headers = HeaderLines::new();
    if let Some(cors) = &entry.rules.cors {
        cors.on_answer(head, &mut headers);
    }
    if !entry.rules.access.admits(client) {
        return Err(answer::denied(client).on(route, headers).into());
    }
    match take_tokens(&spec.limits, snapshot, head, network, now) {
        Ok(lines) => headers.extend(lines),
        Err((limit, refusal)) => return Err(answer::limited(client, limit, refusal, now).on(route, headers).into()),
    }
    if spec.max_body.is_some_and(|most| head.content_length.is_some_and(|length| length > most)) {
        return Err(answer::body_too_large(client).on(route, headers).into());
    }

    let splitter = match (&spec.action, &entry.splitter) {
        (Action::Forward(_), Some(splitter)) => splitter,
        (Action::Forward(_), None) => unreachable!("compile gives every forwarding route a splitter"),
        (Action::Answer(fixed), _) => return Err(answer::fixed(client, fixed).on(route, headers).into()),
        (Action::Redirect(redirect), _) => {
            let https = front.client.is_https(head, connection);
            let port = connection.local.port();
            let location = target::location(redirect, head, &spec.matches.path, https, port);
            return Err(answer::redirect(client, redirect.status, location).on(route, headers).into());
        }
    };
    let chosen = splitter.choose(head, network, connection.tls.is_some(), dice);
    headers.extend(chosen.set_cookie.map(|line| (header::SET_COOKIE, line)));
    let version = entry.arms[chosen.arm].version;
    let balancer = &snapshot.version(version).balance;
    let balance_hash = balancer.hash(head, network, dice);
    let endpoint = match balancer.choose(balance_hash, now, dice) {
        Ok(endpoint) => Arc::clone(endpoint),
        Err(nobody) => return Err(answer::nobody(client, nobody).on(route, headers).into()),
    };

    Ok(Plan {
        route,
        arm: chosen.arm,
        version,
        endpoint,
        client,
        balance_hash,
        target: spec.rewrite.path.as_ref().map(|rewrite| target::rewrite(rewrite, head, &spec.matches.path)),
        answer_headers: headers,
        copies: ready::copies(&spec.shadows, head.method, dice),
    })
}

/// The next endpoint for a request that failed on `tried`: a fit one that hasn't failed it, else any that
/// hasn't, else the same again where it is the only one. `None` when there is nobody left to ask.
pub fn next_endpoint(
    plan: &Plan,
    tried: &[Arc<Endpoint>],
    snapshot: &Snapshot,
    now: Timestamp,
    dice: &mut impl Rng,
) -> Option<Arc<Endpoint>> {
    snapshot.version(plan.version).balance.another(tried, plan.balance_hash, now, dice).map(Arc::clone)
}

/// The answer of a redirect listener.
fn to_tls(head: &Head<'_>, client: IpAddr, port: u16) -> Answer {
    match target::to_tls(head, port) {
        Some(location) => answer::redirect(client, target::permanent(head.method), location),
        None => Answer::text(400, Reason::BadRequest, client, "400: a redirect needs a Host header\n"),
    }
}

/// The answer to a CORS preflight, given for the route that the announced request would take.
fn preflight(head: &Head<'_>, client: IpAddr, snapshot: &Snapshot) -> Option<Answer> {
    let method = cors::preflight_method(head)?;
    let announced = Head { method: &method, ..*head };
    let route = snapshot.router.find(&announced)?;
    let rules = &snapshot.routes[route].rules;
    let cors = rules.cors.as_ref().filter(|_| rules.access.admits(client))?;
    Some(cors.preflight(head, client).on(route, HeaderLines::new()))
}

/// Takes a token from each of `limits`, or from none: all are asked before the first is taken. Only a
/// race for the last token of a later limit can cost one of an earlier.
fn take_tokens<'a>(
    limits: &[usize],
    snapshot: &'a Snapshot,
    head: &Head<'_>,
    client: key::Network,
    now: Timestamp,
) -> Result<HeaderLines, (&'a LimitState, Outcome)> {
    if limits.is_empty() {
        return Ok(HeaderLines::new());
    }
    let asked: SmallVec<[(&LimitState, BucketId); 4]> =
        limits.iter().map(|&index| (&*snapshot.limits[index], snapshot.limits[index].bucket(head, client))).collect();
    if asked.len() > 1 {
        for &(limit, id) in &asked {
            let outcome = limit.peek(id, now);
            if !matches!(outcome, Outcome::Taken { .. }) {
                limit.try_take(id, now); // Counts the refusal towards a ban.
                return Err((limit, outcome));
            }
        }
    }
    let mut taken: SmallVec<[(&LimitState, u32, u64); 4]> = SmallVec::new();
    for &(limit, id) in &asked {
        match limit.try_take(id, now) {
            Outcome::Taken { remaining, reset } => taken.push((limit, remaining, answer::whole_seconds(reset))),
            refusal => return Err((limit, refusal)),
        }
    }
    Ok(answer::rate_limit_headers(&taken))
}
