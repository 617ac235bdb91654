//! Decides what happens to a request: a pure function, and the whole of the traffic policy.
//!
//! `guard → route → limits → arm → capacity → endpoint`. It knows no Pingora and does no I/O;
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
mod dyed;
pub mod explain;
pub mod key;
pub mod limit;
pub mod nets;
pub mod ready;
pub mod route;
pub mod split;
mod target;
#[cfg(test)]
pub(crate) mod testkit;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use rand::Rng;
use smallvec::SmallVec;
use tidegate_model::desired::{Action, ListenerGuard, Route, VersionRef};
use tidegate_model::time::Timestamp;

use crate::endpoint::Endpoint;
use crate::guard::challenge;
use crate::guard::gate::Seat;
use crate::guard::visitor::Visitor;
use crate::snapshot::Snapshot;
use crate::tls::{ClientIdentity, Ja4, PolicyId};
use limit::{BucketId, LimitState, Outcome};

pub use client::{Forwarding, forwarding};
pub use ready::{Entrance, RouteRules};

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
    /// The run that it belongs to, where its mark was verified. Carriers leave it out: `exchange` fills it in.
    pub dyed: Option<&'a str>,
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
    /// What software the client seems to be.
    pub ja4: Option<Ja4>,
    /// Under which rule about client certificates the handshake was made.
    pub policy: PolicyId,
    /// Who the client is, where it showed a certificate.
    pub client: Option<ClientIdentity>,
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
    /// Cookie lines for the endpoint instead of the client's, where those held the gateway's own.
    pub cookies: Option<Vec<HeaderValue>>,
    /// The place it has at the service.
    pub seat: Seat,
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
    /// A visitor is asked to show that they are a person, or has answered: 303, 307, 403, 429 or 503.
    Challenged,
    /// There is no room for this visitor: 503.
    Shed,
    /// It is dyed, and shed for the sake of live traffic: 503.
    DyedShed,
    /// The declared body is longer than the route allows: 413.
    BodyTooLarge,
    /// The connection was made for a name with other rules about client certificates: 421.
    Misdirected,
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
    let entrance = &snapshot.entrance;
    let client = entrance.client.find(head.headers, connection.peer);
    let network = entrance.client.network(client).with_ja4(connection.tls.as_ref().and_then(|tls| tls.ja4));
    if let Some(until) = snapshot.guard.bans.until(client, now) {
        return Err(answer::banned(client, until, now).into());
    }
    if !entrance.access.admits(client) {
        return Err(answer::denied(client).into());
    }
    if entrance.misdirects(connection, head.host) {
        return Err(answer::misdirected(client).into());
    }
    if let Some(port) = connection.redirect_to {
        return Err(to_tls(head, client, port).into());
    }

    let crowd = &*snapshot.guard.crowd;
    let source = crowd.known.id(network);
    let visitor = Visitor { head, connection, client, network, source, now, entrance, crowd };
    if let Some(answer) = visitor.brings_an_answer() {
        return Err(answer.into());
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
    // A signed mark shows who somebody is; and a load test shall use up nobody's tokens and ban nobody's address.
    if head.dyed.is_none() {
        match visitor.is_admitted(spec, snapshot) {
            Ok(lines) => headers.extend(lines),
            Err(answer) => return Err(answer.on(route, headers).into()),
        }
    }
    if spec.max_body.is_some_and(|most| head.content_length.is_some_and(|length| length > most)) {
        return Err(answer::body_too_large(client).on(route, headers).into());
    }

    let splitter = match (&spec.action, &entry.splitter) {
        (Action::Forward(_), Some(splitter)) => splitter,
        (Action::Forward(_), None) => unreachable!("compile gives every forwarding route a splitter"),
        (Action::Answer(fixed), _) => return Err(answer::fixed(client, fixed).on(route, headers).into()),
        (Action::Redirect(redirect), _) => {
            let (https, port) = entrance.client.came_by(head, connection);
            let location = target::location(redirect, head, &spec.matches.path, https, port);
            return Err(answer::redirect(client, redirect.status, location).on(route, headers).into());
        }
    };
    let chosen = splitter.choose(head, network, entrance.client.came_by(head, connection).0, dice);
    headers.extend(chosen.set_cookie.map(|line| (header::SET_COOKIE, line)));
    let version = entry.arms[chosen.arm].version;
    let service = &snapshot.services[version.service];
    let entered = match head.dyed {
        None => visitor.enter(&service.gate, spec.challenge, spec.priority),
        Some(_) => dyed::enter(&visitor, snapshot, service, dice),
    };
    let mut seat = match entered {
        Ok(seat) => seat,
        Err(answer) => return Err(answer.on(route, headers).into()),
    };
    if head.dyed.is_none() {
        seat.heard_by(service.slo.as_ref(), now);
    }
    let balancer = &snapshot.version(version).balance;
    let balance_hash = balancer.hash(head, network, dice);
    let endpoint = match balancer.choose(balance_hash, now, dice) {
        Ok(endpoint) => Arc::clone(endpoint),
        Err(nobody) => {
            seat.failed(now);
            return Err(answer::nobody(client, nobody).on(route, headers).into());
        }
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
        cookies: challenge::without_pass(head.headers),
        seat,
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

impl Visitor<'_, '_> {
    /// Whether a live request passes what `route` asks of visitors, and its limits: the headers that tell of these.
    fn is_admitted(&self, route: &Route, snapshot: &Snapshot) -> Result<HeaderLines, Box<Answer>> {
        self.is_welcome(route.challenge, route.priority)?;
        let spares = || self.may_pass_limits();
        take_tokens(&route.limits, snapshot, self.head, self.network, spares, self.now).map_err(|(limit, refusal)| {
            if matches!(refusal, Outcome::Refused { .. }) && limit.spec().challenge && self.understands() {
                return self.ask(limit.spec().over, "").into();
            }
            let refusal = punished(limit, refusal, snapshot, self.client, self.now);
            answer::limited(self.client, limit, refusal, self.now).into()
        })
    }
}

/// Takes a token from each of `limits`, or from none: all are asked before the first is taken. Only a
/// race for the last token of a later limit can cost one of an earlier. Limits that challenge aren't asked of whoever
/// `spares` says has passed one.
fn take_tokens<'a>(
    limits: &[usize],
    snapshot: &'a Snapshot,
    head: &Head<'_>,
    client: key::Network,
    spares: impl FnOnce() -> bool,
    now: Timestamp,
) -> Result<HeaderLines, (&'a LimitState, Outcome)> {
    if limits.is_empty() {
        return Ok(HeaderLines::new());
    }
    let limits = limits.iter().map(|&index| &*snapshot.limits[index]);
    let spared = limits.clone().any(|limit| limit.spec().challenge) && spares();
    let limits = limits.filter(|limit| !(spared && limit.spec().challenge));
    let asked: SmallVec<[(&LimitState, BucketId); 4]> =
        limits.map(|limit| (limit, limit.bucket(head, client))).collect();
    if asked.is_empty() {
        return Ok(HeaderLines::new());
    }
    if asked.len() > 1 {
        for &(limit, id) in &asked {
            let outcome = limit.peek(id, now);
            if !matches!(outcome, Outcome::Taken { .. }) {
                return Err((limit, limit.try_take(id, now))); // Counts the refusal towards a ban.
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

/// What a refusal has become where it asks for a ban: proxies aren't banned, so for them it stays one.
fn punished(limit: &LimitState, refusal: Outcome, snapshot: &Snapshot, client: IpAddr, now: Timestamp) -> Outcome {
    let (Outcome::Punished { retry_after }, Some(rule)) = (refusal, &limit.spec().ban) else { return refusal };
    let bits = limit.banned_bits(snapshot.desired.client_ip.v6_prefix);
    match snapshot.guard.bans.punish(client, bits, rule, &limit.spec().name, now) {
        Some(until) => Outcome::Banned { until },
        None => Outcome::Refused { retry_after },
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rand::SeedableRng;
    use rand::rngs::StdRng;
    use tidegate_model::desired::{
        Access, Cors, Desired, Eject, IssueCookie, Methods, OverCap, PathRewrite, Redirect, Shadow, Weight,
    };

    use super::testkit::{Asked, desired, from, per_ip, route};
    use super::*;
    use crate::compile::{Material, compile};
    use crate::record::Metrics;

    const NOW: Timestamp = Timestamp::from_nanos(1_000_000_000);

    fn snapshot(desired: Desired) -> Snapshot {
        compile(Arc::new(desired), None, &Material::default(), &Metrics::new())
    }

    fn shop() -> Desired {
        desired(&[Weight::Share(1)], &[2])
    }

    fn ask(snapshot: &Snapshot, asked: &Asked) -> Decision {
        decide(&asked.head(), &from("192.0.2.7"), snapshot, NOW, &mut StdRng::seed_from_u64(7))
    }

    fn answer(decision: Decision) -> Answer {
        match decision {
            Decision::Answer(answer) => *answer,
            Decision::Forward(plan) => panic!("forwarded to {:?}", plan.endpoint),
        }
    }

    fn plan(decision: Decision) -> Plan {
        match decision {
            Decision::Forward(plan) => *plan,
            Decision::Answer(answer) => panic!("answered {answer:?}"),
        }
    }

    fn line<'a>(headers: &'a HeaderLines, name: &str) -> Option<&'a str> {
        headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.to_str().unwrap())
    }

    fn get() -> Asked {
        Asked::get("shop.example.com", "/a")
    }

    #[test]
    fn a_request_is_planned_to_an_endpoint_of_its_arm() {
        let snapshot = snapshot(shop());

        let plan = plan(ask(&snapshot, &get()));

        assert_eq!((plan.route, plan.arm, plan.target), (0, 0, None));
        assert_eq!(plan.client.to_string(), "192.0.2.7");
        assert!(plan.answer_headers.is_empty() && plan.copies.is_empty());
    }

    #[test]
    fn a_retry_goes_to_the_endpoint_that_has_not_failed() {
        let snapshot = snapshot(shop());
        let plan = plan(ask(&snapshot, &get()));
        let tried = [Arc::clone(&plan.endpoint)];

        let next = next_endpoint(&plan, &tried, &snapshot, NOW, &mut StdRng::seed_from_u64(7)).unwrap();

        assert!(!Arc::ptr_eq(&next, &plan.endpoint));
    }

    #[test]
    fn what_no_route_takes_is_404_and_an_empty_version_is_503() {
        let empty = snapshot(desired(&[Weight::Share(1)], &[0]));

        let lost = answer(ask(&snapshot(Desired::default()), &get()));
        let nobody = answer(ask(&empty, &get()));

        assert_eq!((lost.status, lost.reason, lost.route), (404, Reason::NoRoute, None));
        assert_eq!((nobody.status, nobody.reason, nobody.route), (503, Reason::NoEndpoint, Some(0)));
    }

    #[test]
    fn all_endpoints_down_are_used_in_panic_and_else_answered_503() {
        let all_down = |panic_percent: u8| {
            let mut desired = shop();
            desired.services[0].eject = Some(Eject { panic_percent, ..Eject::default() });
            let snapshot = snapshot(desired);
            let rules = crate::health::ProbeRules { up_after: 1, down_after: 1, slow_start: Duration::ZERO };
            for endpoint in &snapshot.services[0].versions[0].endpoints {
                endpoint.health.probed(&rules, Err("refused".into()), NOW);
            }
            ask(&snapshot, &get())
        };

        plan(all_down(40));
        let refused = answer(all_down(0));

        assert_eq!((refused.status, refused.reason), (503, Reason::AllUnfit));
    }

    #[test]
    fn access_lists_refuse_globally_and_by_route() {
        let deny = || Access { deny: vec!["192.0.2.0/24".parse().unwrap()], ..Access::default() };
        let mut by_route = shop();
        by_route.routes[0].access = deny();

        let global = answer(ask(&snapshot(Desired { access: deny(), ..shop() }), &get()));
        let route = answer(ask(&snapshot(by_route), &get()));

        assert_eq!((global.status, global.reason, global.route), (403, Reason::Denied, None));
        assert_eq!((route.status, route.reason, route.route), (403, Reason::Denied, Some(0)));
    }

    #[test]
    fn a_limit_tells_what_is_left_and_refuses_with_retry_after() {
        let mut desired = Desired { limits: vec![per_ip(2)], ..shop() };
        desired.routes[0].limits = vec![0];
        let snapshot = snapshot(desired);

        let first = plan(ask(&snapshot, &get()));
        plan(ask(&snapshot, &get()));
        let refused = answer(ask(&snapshot, &get()));

        assert_eq!(line(&first.answer_headers, "ratelimit"), Some("\"per_ip\";r=1;t=1"));
        assert_eq!(line(&first.answer_headers, "ratelimit-policy"), Some("\"per_ip\";q=50;w=1"));
        assert_eq!((refused.status, refused.reason), (429, Reason::Limited));
        assert_eq!(line(&refused.headers, "retry-after"), Some("1"));
        assert_eq!(line(&refused.headers, "ratelimit"), Some("\"per_ip\";r=0;t=1"));
        assert_eq!(line(&refused.headers, "ratelimit-policy"), Some("\"per_ip\";q=50;w=1"));
    }

    #[test]
    fn a_later_limit_that_refuses_leaves_the_earlier_ones_tokens() {
        let narrow = tidegate_model::desired::Limit { name: "narrow".into(), ..per_ip(1) };
        let mut desired = Desired { limits: vec![per_ip(9), narrow], ..shop() };
        desired.routes[0].limits = vec![0, 1];
        desired.routes.push(route("wide", "- /wide"));
        desired.routes[1].limits = vec![0];
        let snapshot = snapshot(desired);

        let both = plan(ask(&snapshot, &get()));
        for _ in 0..5 {
            answer(ask(&snapshot, &get()));
        }
        let wide = answer(ask(&snapshot, &Asked::get("h", "/wide")));

        assert_eq!(line(&both.answer_headers, "ratelimit"), Some("\"per_ip\";r=8;t=1, \"narrow\";r=0;t=1"));
        assert_eq!(line(&both.answer_headers, "ratelimit-policy"), Some("\"per_ip\";q=50;w=1, \"narrow\";q=50;w=1"));
        assert_eq!(line(&wide.headers, "ratelimit"), Some("\"per_ip\";r=7;t=1"));
    }

    #[test]
    fn a_declared_body_beyond_the_bound_is_413() {
        let mut desired = shop();
        desired.routes[0].max_body = Some(10);
        let snapshot = snapshot(desired);
        let with_length = |length| Asked { content_length: Some(length), ..get() };

        plan(ask(&snapshot, &with_length(10)));
        let refused = answer(ask(&snapshot, &with_length(11)));

        assert_eq!((refused.status, refused.reason), (413, Reason::BodyTooLarge));
    }

    #[test]
    fn a_redirect_listener_sends_everything_to_tls() {
        let snapshot = snapshot(shop());
        let connection = Connection { redirect_to: Some(8443), ..from("192.0.2.7") };
        let dice = &mut StdRng::seed_from_u64(7);

        let moved = answer(decide(&get().query("q").head(), &connection, &snapshot, NOW, dice));
        let posted = answer(decide(&get().method("POST").head(), &connection, &snapshot, NOW, dice));
        let nameless = answer(decide(&Asked::get("", "/").head(), &connection, &snapshot, NOW, dice));

        assert_eq!((moved.status, line(&moved.headers, "location")), (301, Some("https://shop.example.com:8443/a?q")));
        assert_eq!((posted.status, nameless.status), (308, 400));
    }

    #[test]
    fn routes_may_redirect_answer_and_rewrite() {
        let mut desired = shop();
        desired.routes.push(route("fixed", "- /fixed"));
        desired.routes.push(route("old", "- /old/**"));
        let path = Some(PathRewrite::Prefix("/new".into()));
        desired.routes[2].action =
            Action::Redirect(Redirect { scheme: None, host: None, port: None, path, status: 302 });
        desired.routes[0].rewrite.path = Some(PathRewrite::Prefix("/v2".into()));
        let snapshot = snapshot(desired);

        let fixed = answer(ask(&snapshot, &Asked::get("h", "/fixed")));
        let moved = answer(ask(&snapshot, &Asked::get("h", "/old/x")));
        let rewritten = plan(ask(&snapshot, &get().query("q=1")));

        assert_eq!((fixed.status, fixed.reason, &fixed.body[..]), (200, Reason::Fixed, &b"hi"[..]));
        assert_eq!((moved.status, line(&moved.headers, "location")), (302, Some("http://h:8080/new/x")));
        assert_eq!(rewritten.target.as_deref(), Some("/v2/a?q=1"));
    }

    #[test]
    fn the_issued_cookie_travels_on_the_plan() {
        let mut desired = desired(&[Weight::Share(1), Weight::Share(1)], &[1, 1]);
        let Action::Forward(split) = &mut desired.routes[0].action else { unreachable!() };
        split.issue = Some(IssueCookie { name: "tg".into(), max_age: Duration::from_secs(60) });

        let plan = plan(ask(&snapshot(desired), &get()));

        let cookie = line(&plan.answer_headers, "set-cookie").unwrap();
        assert!(cookie.contains(&format!("~shop/v{};", plan.arm + 1)), "{cookie}");
    }

    fn with_cors(origins: &[&str], credentials: bool) -> Snapshot {
        let list = |names: &[&str]| names.iter().map(|name| name.to_string()).collect();
        let mut desired = shop();
        desired.routes[0].matches.methods = vec!["POST".into()];
        desired.routes[0].cors = Some(Cors {
            origins: list(origins),
            methods: list(&["*"]),
            headers: list(&["x-a", "x-b"]),
            expose: list(&["x-c"]),
            credentials,
            max_age: Some(Duration::from_secs(600)),
        });
        snapshot(desired)
    }

    fn preflight(origin: &str) -> Asked {
        get().method("OPTIONS").header("origin", origin).header("access-control-request-method", "POST")
    }

    #[test]
    fn a_preflight_is_answered_for_the_route_that_the_announced_request_takes() {
        let snapshot = with_cors(&["https://*.example.com"], true);

        let answer = answer(ask(&snapshot, &preflight("https://www.example.com")));

        assert_eq!((answer.status, answer.reason, answer.route), (204, Reason::Preflight, Some(0)));
        assert_eq!(line(&answer.headers, "access-control-allow-origin"), Some("https://www.example.com"));
        assert_eq!(line(&answer.headers, "access-control-allow-methods"), Some("POST"));
        assert_eq!(line(&answer.headers, "access-control-allow-headers"), Some("x-a, x-b"));
        assert_eq!(line(&answer.headers, "access-control-allow-credentials"), Some("true"));
        assert_eq!(line(&answer.headers, "access-control-max-age"), Some("600"));
        assert!(line(&answer.headers, "vary").unwrap().contains("origin"));
    }

    #[test]
    fn an_origin_that_is_not_allowed_gets_no_cors_header() {
        let snapshot = with_cors(&["https://*.example.com", "https://shop.test"], false);
        for origin in [
            "https://example.com",
            "http://www.example.com",
            "https://evil.test",
            "https://evil.test#.example.com",
            "null",
        ] {
            let preflight = answer(ask(&snapshot, &preflight(origin)));
            let actual = plan(ask(&snapshot, &get().method("POST").header("origin", origin)));

            assert!(line(&preflight.headers, "access-control-allow-origin").is_none(), "{origin}");
            assert!(line(&actual.answer_headers, "access-control-allow-origin").is_none(), "{origin}");
            assert_eq!(line(&actual.answer_headers, "vary"), Some("origin"));
        }
    }

    #[test]
    fn actual_answers_are_opened_to_the_origin_and_to_all_with_a_star() {
        let one = plan(ask(
            &with_cors(&["https://shop.test"], true),
            &get().method("POST").header("origin", "https://shop.test"),
        ));
        let all = plan(ask(&with_cors(&["*"], false), &get().method("POST").header("origin", "https://shop.test")));

        assert_eq!(line(&one.answer_headers, "access-control-allow-origin"), Some("https://shop.test"));
        assert_eq!(line(&one.answer_headers, "access-control-expose-headers"), Some("x-c"));
        assert_eq!(line(&all.answer_headers, "access-control-allow-origin"), Some("*"));
        assert_eq!(line(&all.answer_headers, "vary"), None);
    }

    #[test]
    fn copies_follow_the_sample_and_the_methods() {
        let shadow = |sample, methods| Shadow {
            to: VersionRef { service: 0, version: 0 },
            sample,
            max_body: 0,
            over: OverCap::Skip,
            max_in_flight: 1,
            timeout: Duration::from_secs(1),
            methods,
            mark: Default::default(),
            compare: None,
        };
        let mut desired = shop();
        desired.routes[0].shadows =
            vec![shadow(25_000, Methods::Any), shadow(1_000, Methods::Safe), shadow(0, Methods::Any)];
        let snapshot = snapshot(desired);
        let mut dice = StdRng::seed_from_u64(7);
        let mut counts = [0, 0, 0, 0];
        for (turn, method) in ["GET", "POST"].into_iter().cycle().take(20_000).enumerate() {
            let plan = plan(decide(&get().method(method).head(), &from("192.0.2.7"), &snapshot, NOW, &mut dice));
            for (shadow, times) in plan.copies {
                counts[shadow + usize::from(shadow == 1 && turn % 2 == 1) * 2] += times;
            }
        }

        assert!((49_500..50_500).contains(&counts[0]), "{counts:?}");
        assert!((900..1_100).contains(&counts[1]), "{counts:?}");
        assert_eq!(counts[2..], [0, 0], "{counts:?}");
    }
}
