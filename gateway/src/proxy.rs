//! A request, top to bottom. Read this first.
//!
//! ```text
//! request_filter            head → decide → Plan | Answer
//! upstream_peer             plan (or the next endpoint) → where to connect        ┐
//! connected_to_upstream     the first-byte deadline starts                        │ once
//! upstream_request_filter   the head as the endpoint gets it                      │ a try
//! request_body_filter       count, bound, tap                                     │
//! upstream_response_filter  judge the endpoint; try again?                        ┘
//! response_filter           the head as the client gets it
//! fail_to_proxy             what went wrong → Answer
//! logging                   record
//! ```
//!
//! Nothing is decided here: the hooks carry `decide`'s plan out and report what happened to `health`,
//! `shadow` and `record`.
//!
//! # Invariants
//!
//! - An exchange sees one snapshot, retries included.
//! - A request is tried again only before any of its answer has reached the client.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use pingora_core::protocols::Digest;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_error::{Error, ErrorSource, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};
use smallvec::SmallVec;
use tidegate_model::desired::{Timeouts, UpstreamProtocol};
use tidegate_model::time::Timestamp;
use tracing::warn;

use crate::carry::deadline::Deadline;
use crate::carry::{edit, head, peer, respond, verdict};
use crate::clock;
use crate::decide::{self, Answer, Connection, Decision, Plan, Reason};
use crate::endpoint::{Endpoint, InFlight};
use crate::health::{Verdict, eject};
use crate::record::{EjectionCause, RetryResult, RouteMetrics, TryResult};
use crate::snapshot::{ArmEntry, RouteEntry, ServiceEntry, Snapshot, VersionEntry};

/// Logged as the status of a request whose client went away unanswered, as nginx does.
const CLIENT_GONE: u16 = 499;

tokio::task_local! {
    /// What the carrier knows about the exchange that the current task is running.
    pub static VISIT: Visit;
}

/// The connection an exchange came on, and its deadline.
#[derive(Clone)]
pub struct Visit {
    /// Facts about the connection.
    pub connection: Arc<Connection>,
    /// The exchange's next deadline.
    pub deadline: Arc<Deadline>,
}

/// What all cores share.
pub struct Shared {
    /// The configuration in force.
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    /// Handles for requests that no route takes.
    pub unrouted: RouteMetrics,
}

/// Executes plans as Pingora's hooks.
pub struct Proxy {
    shared: Arc<Shared>,
}

impl Proxy {
    /// A proxy over `shared`.
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }
}

/// One exchange: a request, its tries, its answer.
pub struct Exchange {
    visit: Visit,
    snapshot: Arc<Snapshot>,
    started: Timestamp,
    plan: Option<Box<Plan>>,
    tried: SmallVec<[Arc<Endpoint>; 2]>,
    attempts: u32,
    in_flight: Option<InFlight>,
    /// When the current try was given its endpoint.
    try_started: Timestamp,
    /// Bytes of the request body that the current try has seen.
    body_seen: u64,
    /// What came of the current try, once it is known.
    result: Option<TryResult>,
    first_byte: Option<Duration>,
    /// Status of the answer; 0 while there is none.
    status: u16,
    /// Set where the gateway answers by itself.
    reason: Option<Reason>,
    /// The route of such an answer.
    route: Option<usize>,
}

impl Exchange {
    fn route(&self, plan: &Plan) -> &RouteEntry {
        &self.snapshot.routes[plan.route]
    }

    fn arm(&self, plan: &Plan) -> &ArmEntry {
        &self.route(plan).arms[plan.arm]
    }

    fn service(&self, plan: &Plan) -> &ServiceEntry {
        &self.snapshot.services[plan.version.service]
    }

    fn version(&self, plan: &Plan) -> &VersionEntry {
        self.snapshot.version(plan.version)
    }

    fn timeouts(&self, plan: &Plan) -> &Timeouts {
        &self.route(plan).timeouts[plan.arm]
    }

    /// When the whole exchange must be over.
    fn total_deadline(&self, plan: &Plan) -> Option<Timestamp> {
        self.timeouts(plan).total.map(|total| self.started + total)
    }

    /// The next deadline while the answer hasn't begun.
    fn expect_first_byte(&self, now: Timestamp) {
        if let Some(plan) = &self.plan {
            let first_byte = now + self.timeouts(plan).first_byte;
            let at = self.total_deadline(plan).map_or(first_byte, |total| total.min(first_byte));
            self.visit.deadline.set(Some(at));
        }
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
        let rules = self.service(plan).spec.eject.as_ref();
        if let Some(ejected) = eject::observe(rules, &self.version(plan).endpoints, endpoint, verdict, now) {
            warn!(endpoint = %endpoint.id, reason = %ejected.reason, rest = ?ejected.rest, times = ejected.times, "endpoint ejected");
            endpoint.metrics.ejected(match ejected.reason {
                eject::Reason::InARow(_) => EjectionCause::Consecutive,
                eject::Reason::Rate { .. } => EjectionCause::Rate,
            });
        }
    }

    /// Whether one more try is allowed by count and budget. Takes it from the budget if so.
    fn may_try_again(&self, plan: &Plan, now: Timestamp) -> bool {
        let service = self.service(plan);
        let time_left = self.total_deadline(plan).is_none_or(|total| now < total);
        if self.attempts > service.spec.retry.attempts || !time_left {
            return false;
        }
        let granted = service.budget.withdraw(now);
        if !granted {
            service.metrics.budget_exhausted();
        }
        granted
    }
}

#[async_trait]
impl ProxyHttp for Proxy {
    type CTX = Exchange;

    /// Called when a head has arrived: from here on, this exchange sees one snapshot.
    fn new_ctx(&self) -> Exchange {
        Exchange {
            visit: VISIT.with(Visit::clone),
            snapshot: self.shared.snapshot.load_full(),
            started: clock::now(),
            plan: None,
            tried: SmallVec::new(),
            attempts: 0,
            in_flight: None,
            try_started: Timestamp::ZERO,
            body_seen: 0,
            result: None,
            first_byte: None,
            status: 0,
            reason: None,
            route: None,
        }
    }

    async fn request_filter(&self, session: &mut Session, exchange: &mut Exchange) -> Result<bool> {
        let request = session.req_header();
        let host = head::host(request);
        let decision = decide::decide(
            &head::view(request, &host),
            &exchange.visit.connection,
            &exchange.snapshot,
            exchange.started,
            &mut rand::rng(),
        );
        match decision {
            Decision::Forward(plan) => {
                exchange.service(&plan).budget.deposit(exchange.started);
                exchange.plan = Some(plan);
                Ok(false)
            }
            Decision::Answer(answer) => {
                self.answer(session, exchange, &answer).await?;
                Ok(true)
            }
        }
    }

    async fn upstream_peer(&self, session: &mut Session, exchange: &mut Exchange) -> Result<Box<HttpPeer>> {
        let now = clock::now();
        let plan = exchange.plan.as_deref().ok_or_else(no_plan)?;
        let endpoint = match exchange.tried.is_empty() {
            true => Arc::clone(&plan.endpoint),
            false => decide::next_endpoint(plan, &exchange.tried, &exchange.snapshot, now, &mut rand::rng())
                .unwrap_or_else(|| Arc::clone(&plan.endpoint)),
        };
        let service = exchange.service(plan);
        let request = session.req_header();
        let peer = peer::peer(&peer::Reach {
            target: &endpoint.target,
            timeouts: exchange.timeouts(plan),
            protocol: service.spec.protocol,
            tls: service.tls.as_deref(),
            host: &head::host(request),
            upgrade: session.is_upgrade_req(),
            left: exchange.total_deadline(plan).map(|total| total.since(now)),
        })?;
        exchange.attempts += 1;
        exchange.try_started = now;
        exchange.body_seen = 0;
        exchange.result = None;
        exchange.reason = None;
        exchange.in_flight = Some(endpoint.enter());
        exchange.tried.push(endpoint);
        exchange.visit.deadline.reset();
        Ok(peer)
    }

    async fn connected_to_upstream(
        &self,
        session: &mut Session,
        _reused: bool,
        _peer: &HttpPeer,
        socket: std::os::unix::io::RawFd,
        _digest: Option<&Digest>,
        exchange: &mut Exchange,
    ) -> Result<()> {
        let plan = exchange.plan.as_deref().ok_or_else(no_plan)?;
        // An HTTP/2 connection is shared, so its socket is not ours to shut down.
        let own = session.is_upgrade_req() || exchange.service(plan).spec.protocol == UpstreamProtocol::Http1;
        exchange.visit.deadline.watch(own.then_some(socket));
        if own {
            exchange.expect_first_byte(clock::now());
        } else {
            exchange.visit.deadline.set(exchange.total_deadline(plan));
        }
        Ok(())
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        upstream: &mut RequestHeader,
        exchange: &mut Exchange,
    ) -> Result<()> {
        let _ = session;
        let plan = exchange.plan.as_deref().ok_or_else(no_plan)?;
        let route = exchange.route(plan);
        let spec = &exchange.snapshot.desired.routes[plan.route];
        head::make_origin_form(upstream)?;
        if let Some(target) = &plan.target {
            head::set_target(upstream, target)?;
        }
        if let Some(host) = &spec.rewrite.host {
            upstream.insert_header(http::header::HOST, host)?;
        }
        edit::apply(upstream, &route.request_headers)
    }

    async fn request_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        _end: bool,
        exchange: &mut Exchange,
    ) -> Result<()> {
        let Some(chunk) = body else { return Ok(()) };
        let plan = exchange.plan.as_deref().ok_or_else(no_plan)?;
        exchange.body_seen += chunk.len() as u64;
        if exchange.snapshot.desired.routes[plan.route].max_body.is_some_and(|max| exchange.body_seen > max) {
            return Err(Error::new_down(ErrorType::HTTPStatus(413)));
        }
        if exchange.first_byte.is_none() && exchange.service(plan).spec.protocol == UpstreamProtocol::Http1 {
            // The endpoint can't be expected to answer before it has the request.
            exchange.expect_first_byte(clock::now());
        }
        Ok(())
    }

    async fn upstream_response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        exchange: &mut Exchange,
    ) -> Result<()> {
        let status = response.status.as_u16();
        if status < 200 && status != 101 {
            return Ok(()); // An interim answer (RFC 9110 §15.2); the final one is yet to come.
        }
        let now = clock::now();
        let first_byte = now.since(exchange.try_started);
        if let Some(endpoint) = exchange.in_flight.as_ref().map(InFlight::endpoint) {
            endpoint.observe_latency(first_byte.as_nanos() as u64, now);
            endpoint.metrics.first_byte(first_byte);
        }
        exchange.judge(if status >= 500 { TryResult::ServerError } else { TryResult::Ok }, now);
        let plan = exchange.plan.as_deref().ok_or_else(no_plan)?;
        let retry = &exchange.service(plan).spec.retry;
        if retry.on_status.contains(&status)
            && verdict::may_repeat(session, &retry.methods)
            && exchange.may_try_again(plan, now)
        {
            let mut error = Error::new_up(verdict::RETRY_STATUS);
            error.set_retry(true);
            return Err(error);
        }
        exchange.visit.deadline.set(exchange.total_deadline(plan));
        exchange.first_byte = Some(first_byte);
        exchange.status = status;
        Ok(())
    }

    async fn response_filter(
        &self,
        _session: &mut Session,
        response: &mut ResponseHeader,
        exchange: &mut Exchange,
    ) -> Result<()> {
        let Some(plan) = exchange.plan.as_deref() else { return Ok(()) };
        if response.status.is_informational() && response.status != 101 {
            return Ok(());
        }
        edit::apply(response, &exchange.route(plan).response_headers)?;
        for (name, value) in &plan.answer_headers {
            response.append_header(name.clone(), value.clone())?;
        }
        Ok(())
    }

    fn fail_to_connect(
        &self,
        _session: &mut Session,
        _peer: &HttpPeer,
        exchange: &mut Exchange,
        mut error: Box<Error>,
    ) -> Box<Error> {
        let now = clock::now();
        exchange.judge(TryResult::Connect, now);
        exchange.reason = Some(Reason::Unreachable);
        let Some(plan) = exchange.plan.as_deref() else { return error };
        // Nothing was sent, so any method may be tried again.
        let again = exchange.service(plan).spec.retry.on_connect && exchange.may_try_again(plan, now);
        error.set_retry(again);
        error
    }

    fn error_while_proxy(
        &self,
        _peer: &HttpPeer,
        session: &mut Session,
        mut error: Box<Error>,
        exchange: &mut Exchange,
        reused: bool,
    ) -> Box<Error> {
        if *error.etype() == verdict::RETRY_STATUS {
            return error; // Already judged, and allowed.
        }
        error.set_retry(false);
        if *error.esource() != ErrorSource::Upstream || exchange.first_byte.is_some() {
            return error; // The client's doing, or too late to try again.
        }
        let now = clock::now();
        let late = exchange.visit.deadline.passed() || *error.etype() == ErrorType::ReadTimedout;
        exchange.reason = Some(if late { Reason::Late } else { Reason::Broken });
        let Some(plan) = exchange.plan.as_deref() else { return error };
        let retry = &exchange.service(plan).spec.retry;
        let repeatable = verdict::may_repeat(session, &retry.methods);
        if reused && !late && repeatable && exchange.attempts <= verdict::STALE_TRIES {
            // The endpoint closed an idle connection just as we used it: nobody's failure, and not a try.
            exchange.tried.pop();
            error.set_retry(true);
            return error;
        }
        let wanted = if late { retry.on_timeout } else { retry.on_reset };
        error.set_retry(wanted && repeatable && exchange.may_try_again(plan, now));
        exchange.judge(if late { TryResult::Timeout } else { TryResult::Reset }, now);
        error
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, exchange: &mut Exchange) -> FailToProxy {
        exchange.visit.deadline.set(None);
        let Some(answer) = verdict::answer_for(session, error, exchange.reason, exchange.plan.as_deref()) else {
            return FailToProxy { error_code: 0, can_reuse_downstream: false };
        };
        let reusable = session.is_body_done();
        if !reusable {
            session.set_keepalive(None);
        }
        let written = self.answer(session, exchange, &answer).await;
        FailToProxy { error_code: answer.status, can_reuse_downstream: written.is_ok() && reusable }
    }

    async fn logging(&self, session: &mut Session, _error: Option<&Error>, exchange: &mut Exchange) {
        exchange.visit.deadline.set(None);
        let now = clock::now();
        if exchange.in_flight.is_some() && exchange.result.is_none() {
            exchange.judge(TryResult::Abandoned, now);
        }
        let took = now.since(exchange.started);
        let status = if exchange.status == 0 { CLIENT_GONE } else { exchange.status };
        match exchange.plan.as_deref() {
            Some(plan) => {
                let arm = exchange.arm(plan);
                arm.metrics.finished(status, took);
                arm.metrics.bytes(session.body_bytes_read() as u64, session.body_bytes_sent() as u64);
                if let Some(reason) = exchange.reason {
                    exchange.route(plan).metrics.reason(reason);
                }
                if exchange.attempts > 1 {
                    let result = if status < 500 { RetryResult::Ok } else { RetryResult::Failed };
                    exchange.service(plan).metrics.retried(result);
                }
            }
            None => {
                let metrics =
                    exchange.route.map_or(&self.shared.unrouted, |route| &exchange.snapshot.routes[route].metrics);
                metrics.answered(exchange.reason.unwrap_or(Reason::Internal), status, took);
            }
        }
        exchange.in_flight = None;
    }

    fn suppress_error_log(&self, _session: &Session, _exchange: &Exchange, _error: &Error) -> bool {
        true // Counted and in the access log; nothing per request above debug.
    }

    fn suppress_proxy_warn_log(
        &self,
        _session: &Session,
        _exchange: &Exchange,
        _error: &Error,
        _context: ProxyWarnLogContext,
    ) -> bool {
        true
    }
}

impl Proxy {
    async fn answer(&self, session: &mut Session, exchange: &mut Exchange, answer: &Answer) -> Result<()> {
        exchange.status = answer.status;
        exchange.reason = Some(answer.reason);
        exchange.route = answer.route;
        respond::respond(session, answer).await
    }
}

/// A hook was called that can't be without a plan: our own bug, answered with a 500.
fn no_plan() -> Box<Error> {
    Error::explain(ErrorType::InternalError, "exchange has no plan")
}
