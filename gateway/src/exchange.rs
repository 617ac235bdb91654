//! One exchange: a request, its tries, its answer.
//!
//! The steps that every carrier takes stand here, so that both take the same ones; carriers only move bytes:
//!
//! ```text
//! decide → (next_try → connect_failed | try_failed | answer_began [→ answer_broke])* → ended → finish::write_down
//! ```
//!
//! # Invariants
//!
//! - It sees one snapshot, retries included.
//! - It is decided once, whichever carriers it passes through.
//! - Each try is judged once: a 5xx at its head, any other answer when its body is over, so that one that breaks off is no
//!   success.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method};
use smallvec::SmallVec;
use tidegate_model::desired::{Timeouts, UpstreamProtocol};
use tidegate_model::time::Timestamp;
use tracing::warn;

use crate::carry::deadline::Deadline;
use crate::carry::head::Host;
use crate::clock;
use crate::decide::{self, Answer, Connection, Decision, Forwarding, Head, Plan, Reason, answer, ready};
use crate::endpoint::{Endpoint, InFlight};
use crate::guard::dyed::Found;
use crate::health::{RetryBudget, Verdict, eject};
use crate::record::trace::{self, Trace};
use crate::record::{EjectionCause, TryResult};
use crate::recording::Reel;
use crate::shadow::{Shadows, Tap};
use crate::snapshot::{ArmEntry, RouteEntry, ServiceEntry, Snapshot, VersionEntry};

/// Tries on kept-alive connections that turn out to be closed, before such a close counts as a failure.
const STALE_TRIES: u32 = 3;

/// One exchange: a request, its tries, its answer.
pub struct Exchange {
    /// Facts about the connection it came on.
    pub connection: Arc<Connection>,
    /// Whether its answer says that the connection ends (HTTP/1).
    pub last: bool,
    /// Its next deadline, where a guard keeps it; express keeps its own.
    pub deadline: Option<Arc<Deadline>>,
    /// The host that was asked for; empty until the head was read.
    pub host: Host,
    /// The configuration it sees.
    pub snapshot: Arc<Snapshot>,
    /// When its head had arrived.
    pub started: Timestamp,
    /// What was decided; `None` where the gateway answers by itself.
    pub plan: Option<Box<Plan>>,
    /// Endpoints that were tried, in order.
    pub tried: SmallVec<[Arc<Endpoint>; 2]>,
    /// Tries so far, the current one included.
    pub attempts: u32,
    /// Kept-alive connections that turned out to be closed; not among the tries.
    pub stale: u32,
    /// The place it holds at its current endpoint.
    pub in_flight: Option<InFlight>,
    /// When the current try was given its endpoint.
    pub try_started: Timestamp,
    /// Bytes of the request body that the current try has seen.
    pub body_seen: u64,
    /// What came of the current try, once it is known.
    pub result: Option<TryResult>,
    /// Time to the first byte of the answer that the client got.
    pub first_byte: Option<Duration>,
    /// Status of the answer; 0 while there is none.
    pub status: u16,
    /// Set where the gateway answers by itself.
    pub reason: Option<Reason>,
    /// The route of such an answer.
    pub route: Option<usize>,
    /// The visitor's address, once it is known.
    pub client: Option<IpAddr>,
    /// The request's id.
    pub id: Option<HeaderValue>,
    /// Takes copies, where the plan asks for some.
    pub tap: Option<Box<Tap>>,
    /// Its trace context.
    pub trace: Trace,
    /// Takes it down, where somebody records.
    pub reel: Option<Box<Reel>>,
    /// What it says of dyed traffic, once its head was read.
    pub mark: Found,
}

impl Exchange {
    /// An exchange whose head has arrived at `started`.
    pub fn new(connection: Arc<Connection>, last: bool, snapshot: Arc<Snapshot>, started: Timestamp) -> Self {
        Self {
            connection,
            last,
            deadline: None,
            host: Host::default(),
            snapshot,
            started,
            plan: None,
            tried: SmallVec::new(),
            attempts: 0,
            stale: 0,
            in_flight: None,
            try_started: Timestamp::ZERO,
            body_seen: 0,
            result: None,
            first_byte: None,
            status: 0,
            reason: None,
            route: None,
            client: None,
            id: None,
            tap: None,
            trace: Trace::None,
            reel: None,
            mark: Found::Nothing,
        }
    }

    /// Decides what happens to the request. Returns the answer, where the gateway gives it by itself; else there is a
    /// plan from here on.
    pub fn decide(&mut self, head: &Head<'_>, shadows: &Arc<Shadows>) -> Option<Box<Answer>> {
        let mut dice = rand::rng();
        self.id = Some(trace::request_id(head.headers, self.peer_is_trusted(), &mut dice));
        self.trace = Trace::of(head.headers);
        let (entrance, guard) = (&self.snapshot.entrance, &self.snapshot.guard);
        self.mark = Found::read(head.headers, head.host, entrance.dyed.as_ref(), || guard.crowd.unix(self.started));
        if let Found::Refused { why, .. } = &self.mark {
            guard.refused.count(*why);
        }
        let head = &Head { dyed: self.mark.run(), ..*head };
        match decide::decide(head, &self.connection, &self.snapshot, self.started, &mut dice) {
            Decision::Forward(plan) => {
                self.client = Some(plan.client);
                self.tap = Tap::open(shadows, &self.snapshot, &plan, head);
                self.reel = self.snapshot.taken_down(&plan, head, &self.connection, self.started, &mut dice);
                self.budget(&plan).deposit(self.started);
                self.plan = Some(plan);
                None
            }
            Decision::Answer(answer) => Some(answer),
        }
    }

    /// The visitor's address, for an answer that is given before anything is decided.
    pub fn visitor(&self, headers: &HeaderMap) -> IpAddr {
        self.snapshot.entrance.client.find(headers, self.connection.peer)
    }

    /// The answer to an ACME authority that knocks. No rule is asked: an authority is on nobody's allow list.
    pub fn prove(&self, proof: String) -> Box<Answer> {
        Box::new(answer::proof(self.connection.peer.ip(), proof))
    }

    /// Notes that the client gets this answer of our own.
    pub fn answers(&mut self, answer: &Answer) {
        self.status = answer.status;
        self.reason = Some(answer.reason);
        self.route = answer.route;
        if let Some(reel) = &mut self.reel {
            reel.answered(answer.status);
        }
        self.client.get_or_insert(answer.client);
        if let (500.., Some(plan)) = (answer.status, self.plan.as_deref_mut()) {
            plan.seat.failed(clock::now());
        }
    }

    /// Takes back what took its body down meanwhile.
    pub fn take_back(&mut self, reel: Option<Box<Reel>>) {
        self.reel = reel;
        if let (Some(reel), 1..) = (&mut self.reel, self.status) {
            reel.answered(self.status);
        }
    }

    /// Begins a try: at the plan's own endpoint first, then at one that hasn't failed this request. `None` without
    /// a plan.
    pub fn next_try(&mut self, now: Timestamp) -> Option<Arc<Endpoint>> {
        let plan = self.plan.as_deref()?;
        let endpoint = match self.tried.is_empty() {
            true => Arc::clone(&plan.endpoint),
            false => decide::next_endpoint(plan, &self.tried, &self.snapshot, now, &mut rand::rng())
                .unwrap_or_else(|| Arc::clone(&plan.endpoint)),
        };
        self.attempts += 1;
        self.try_started = now;
        self.body_seen = 0;
        self.result = None;
        self.reason = None;
        self.in_flight = Some(endpoint.enter());
        self.tried.push(Arc::clone(&endpoint));
        if let Some(tap) = &mut self.tap {
            tap.restart_attempt();
        }
        Some(endpoint)
    }

    /// Takes note of so many more bytes of the request's body. False when that is more than the route allows.
    pub fn body_passes(&mut self, bytes: u64) -> bool {
        self.body_seen += bytes;
        let most = self.plan.as_ref().and_then(|plan| self.snapshot.desired.routes[plan.route].max_body);
        most.is_none_or(|most| self.body_seen <= most)
    }

    /// The final answer's head has come. Tells whether the request is tried again instead of carrying this answer;
    /// `repeatable` says whether it can be.
    pub fn answer_began(&mut self, status: u16, repeatable: bool, now: Timestamp) -> bool {
        let first_byte = now.since(self.try_started);
        if let Some(endpoint) = self.in_flight.as_ref().map(InFlight::endpoint) {
            endpoint.observe_latency(first_byte.as_nanos() as u64, now);
            if !self.mark.is_dyed() {
                endpoint.metrics.first_byte(first_byte);
            }
        }
        let Some(plan) = self.plan.as_deref() else { return false };
        let unwanted = self.service(plan).spec.retry.on_status.contains(&status);
        let again = unwanted && repeatable && self.may_try_again(plan, now);
        if status >= 500 {
            self.judge(TryResult::ServerError, now);
        } else if again || status == 101 {
            self.judge(TryResult::Ok, now); // A conversation's end says nothing about the endpoint.
        }
        if again {
            return true;
        }
        self.first_byte = Some(first_byte);
        self.status = status;
        if let Some(reel) = &mut self.reel {
            reel.answered(status);
        }
        if let Some(plan) = self.plan.as_deref_mut() {
            plan.seat.answered(status, first_byte, now);
        }
        false
    }

    /// The endpoint broke off in the middle of its answer's body, or fell silent there (`late`).
    pub fn answer_broke(&mut self, late: bool, now: Timestamp) {
        if self.first_byte.is_some() && self.result.is_none() {
            self.judge(if late { TryResult::Timeout } else { TryResult::Reset }, now);
        }
    }

    /// No connection could be made. Tells whether to try again: nothing was sent, so any method may be.
    pub fn connect_failed(&mut self, now: Timestamp) -> bool {
        self.judge(TryResult::Connect, now);
        self.reason = Some(Reason::Unreachable);
        let Some(plan) = self.plan.as_deref() else { return false };
        self.service(plan).spec.retry.on_connect && self.may_try_again(plan, now)
    }

    /// The endpoint broke off before its answer, or was too `late`. Tells whether to try again; `reused` says whether
    /// the connection had carried a request before, `repeatable` whether the request can be sent once more.
    pub fn try_failed(&mut self, late: bool, reused: bool, repeatable: bool, now: Timestamp) -> bool {
        self.reason = Some(if late { Reason::Late } else { Reason::Broken });
        if reused && !late && repeatable && self.stale < STALE_TRIES {
            // The endpoint closed an idle connection just as we used it: nobody's failure, and not a try.
            self.stale += 1;
            self.attempts -= 1;
            self.tried.pop();
            return true;
        }
        let Some(plan) = self.plan.as_deref() else { return false };
        let retry = &self.service(plan).spec.retry;
        let wanted = if late { retry.on_timeout } else { retry.on_reset };
        let again = wanted && repeatable && self.may_try_again(plan, now);
        self.judge(if late { TryResult::Timeout } else { TryResult::Reset }, now);
        again
    }

    /// Whether the plan's method may be sent once more after something of it was sent.
    pub fn allows_repeating(&self, method: &Method) -> bool {
        self.plan.as_deref().is_some_and(|plan| ready::allows(&self.service(plan).spec.retry.methods, method))
    }

    /// Its route.
    pub fn route(&self, plan: &Plan) -> &RouteEntry {
        &self.snapshot.routes[plan.route]
    }

    /// Whether the other end of the socket is a proxy whose word we take.
    pub fn peer_is_trusted(&self) -> bool {
        self.snapshot.entrance.client.trusts(self.connection.peer.ip())
    }

    /// What the endpoint is told about the visitor who sent `headers` and asked for `authority`.
    pub fn forwarding(&self, headers: &HeaderMap, authority: &str) -> Forwarding {
        decide::forwarding(headers, authority, &self.connection, &self.snapshot.entrance.client)
    }

    /// Its arm.
    pub fn arm(&self, plan: &Plan) -> &ArmEntry {
        &self.route(plan).arms[plan.arm]
    }

    /// Its service.
    pub fn service(&self, plan: &Plan) -> &ServiceEntry {
        &self.snapshot.services[plan.version.service]
    }

    /// What bounds its retries.
    fn budget(&self, plan: &Plan) -> &RetryBudget {
        let service = self.service(plan);
        if self.mark.is_dyed() { &service.dyed_budget } else { &service.budget }
    }

    /// Its version.
    pub fn version(&self, plan: &Plan) -> &VersionEntry {
        self.snapshot.version(plan.version)
    }

    /// Whether the upstream socket is this exchange's own. One that may speak HTTP/2 carries other exchanges too.
    pub fn owns_socket(&self, plan: &Plan, upgrade: bool) -> bool {
        let service = self.service(plan);
        upgrade
            || match service.spec.protocol {
                UpstreamProtocol::Http1 => true,
                UpstreamProtocol::Auto => service.tls.is_none(), // Nothing is negotiated without TLS.
                UpstreamProtocol::Http2 => false,
            }
    }

    /// Its deadlines.
    pub fn timeouts(&self, plan: &Plan) -> &Timeouts {
        &self.route(plan).timeouts[plan.arm]
    }

    /// When the whole exchange must be over.
    pub fn total_deadline(&self, plan: &Plan) -> Option<Timestamp> {
        self.timeouts(plan).total.map(|total| self.started + total)
    }

    /// The next deadline while the answer hasn't begun, from `now` on.
    pub fn first_byte_deadline(&self, now: Timestamp) -> Option<Timestamp> {
        let plan = self.plan.as_deref()?;
        let first_byte = now + self.timeouts(plan).first_byte;
        Some(self.total_deadline(plan).map_or(first_byte, |total| total.min(first_byte)))
    }

    /// Tells the guard what the next deadline is; `None` lifts it.
    pub fn set_deadline(&self, at: Option<Timestamp>) {
        if let Some(deadline) = &self.deadline {
            deadline.set(at);
        }
    }

    /// Whether a deadline has passed in this try.
    pub fn is_late(&self) -> bool {
        self.deadline.as_ref().is_some_and(|deadline| deadline.passed())
    }

    /// Counts what came of the current try, and tells `health`.
    fn judge(&mut self, result: TryResult, now: Timestamp) {
        self.result = Some(result);
        let (Some(plan), Some(in_flight)) = (&self.plan, &self.in_flight) else { return };
        let endpoint = in_flight.endpoint();
        endpoint.metrics.tried(result);
        let verdict = match result {
            TryResult::Ok => Verdict::Good,
            TryResult::ServerError | TryResult::Reset | TryResult::Timeout => Verdict::Failed,
            TryResult::Connect => Verdict::Unreachable,
            TryResult::Abandoned => return, // The client went away: says nothing about the endpoint.
        };
        if self.mark.is_dyed() {
            return; // A load test takes no endpoint away from visitors.
        }
        let rules = self.service(plan).spec.eject.as_ref();
        if let Some(ejected) = eject::observe(rules, &self.version(plan).endpoints, endpoint, verdict, now) {
            warn!(endpoint = %endpoint.id, reason = %ejected.reason, rest = ?ejected.rest, times = ejected.times, "endpoint ejected");
            endpoint.metrics.ejected(match ejected.reason {
                eject::Reason::InARow(_) => EjectionCause::Consecutive,
                eject::Reason::Rate { .. } => EjectionCause::Rate,
            });
        }
    }

    /// The exchange is over. An answer that didn't break is a success, also where the client left in the midst of it; a
    /// try that came to nothing says that the client left.
    pub fn ended(&mut self, now: Timestamp) {
        if self.in_flight.is_some() && self.result.is_none() {
            let answered = self.first_byte.is_some();
            self.judge(if answered { TryResult::Ok } else { TryResult::Abandoned }, now);
        }
        if let Some(plan) = self.plan.as_deref_mut() {
            plan.seat.left(now);
        }
    }

    /// Whether one more try is allowed by count and budget. Takes it from the budget if so.
    fn may_try_again(&self, plan: &Plan, now: Timestamp) -> bool {
        let service = self.service(plan);
        let time_left = self.total_deadline(plan).is_none_or(|total| now < total);
        if self.attempts > service.spec.retry.attempts || !time_left {
            return false;
        }
        let granted = self.budget(plan).withdraw(now);
        if !granted {
            service.metrics.budget_exhausted();
        }
        granted
    }
}
