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
use http::header::{HOST, HeaderName, SET_COOKIE, VARY};
use pingora_core::protocols::Digest;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_error::{Error, ErrorSource, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};

use crate::carry::{edit, finish, head, peer, respond, verdict};
use crate::clock;
use crate::decide::{self, Answer, Decision, Reason};
use crate::endpoint::InFlight;
use crate::exchange::{Exchange, VISIT, Visit};
use crate::record::access::AccessLog;
use crate::record::trace::{self, Trace};
use crate::record::{RouteMetrics, TryResult};
use crate::shadow::{Shadows, Tap};
use crate::snapshot::Snapshot;

/// Names a request in logs on both sides of the gateway.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What all cores share.
pub struct Shared {
    /// The configuration in force.
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    /// Handles for requests that no route takes.
    pub unrouted: RouteMetrics,
    /// Where finished requests are written down.
    pub access_log: AccessLog,
    /// Where copies of requests go.
    pub shadows: Arc<Shadows>,
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

#[async_trait]
impl ProxyHttp for Proxy {
    type CTX = Exchange;

    /// Called when a head has arrived: from here on, this exchange sees one snapshot.
    fn new_ctx(&self) -> Exchange {
        Exchange::new(VISIT.with(Visit::clone), self.shared.snapshot.load_full(), clock::now())
    }

    async fn request_filter(&self, session: &mut Session, exchange: &mut Exchange) -> Result<bool> {
        if exchange.visit.last {
            session.set_keepalive(None); // Pingora has set what the client asked for.
        }
        let request = session.req_header();
        let host = head::host(request);
        let trusted = exchange.peer_is_trusted();
        exchange.id = Some(trace::request_id(&request.headers, trusted, &mut rand::rng()));
        exchange.trace = Trace::of(&request.headers);
        let view = head::view(request, &host);
        let decision =
            decide::decide(&view, &exchange.visit.connection, &exchange.snapshot, exchange.started, &mut rand::rng());
        match decision {
            Decision::Forward(plan) => {
                exchange.client = Some(plan.client);
                exchange.tap = Tap::open(&self.shared.shadows, &exchange.snapshot, &plan, &view);
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
        if let Some(tap) = &mut exchange.tap {
            tap.restart_attempt();
        }
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
        let own = exchange.owns_socket(plan, session.is_upgrade_req());
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
        let plan = exchange.plan.as_deref().ok_or_else(no_plan)?;
        let route = exchange.route(plan);
        let spec = &exchange.snapshot.desired.routes[plan.route];
        head::forward(upstream, session.req_header(), &exchange.visit.connection, &exchange.snapshot.front.client)?;
        if !exchange.trace.may_be_forwarded() {
            trace::FIELDS.iter().for_each(|field| drop(upstream.remove_header(field)));
        }
        if let Some(id) = &exchange.id {
            upstream.insert_header(REQUEST_ID, id.clone())?;
        }
        if let Some(target) = &plan.target {
            head::set_target(upstream, target)?;
        }
        if let Some(host) = &spec.rewrite.host {
            upstream.insert_header(HOST, host)?;
        }
        edit::apply(upstream, &route.request_headers)?;
        if let Some(tap) = &mut exchange.tap {
            tap.request(upstream);
            if session.as_mut().is_body_empty() {
                tap.end(); // Over HTTP/2 no hook would tell of an empty body's end.
            }
        }
        Ok(())
    }

    async fn request_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        end: bool,
        exchange: &mut Exchange,
    ) -> Result<()> {
        if let Some(chunk) = body {
            let plan = exchange.plan.as_deref().ok_or_else(no_plan)?;
            exchange.body_seen += chunk.len() as u64;
            if exchange.snapshot.desired.routes[plan.route].max_body.is_some_and(|max| exchange.body_seen > max) {
                return Err(Error::new_down(ErrorType::HTTPStatus(413)));
            }
            if exchange.first_byte.is_none() && exchange.owns_socket(plan, session.is_upgrade_req()) {
                // The endpoint can't be expected to answer before it has the request.
                exchange.expect_first_byte(clock::now());
            }
        }
        if let Some(tap) = &mut exchange.tap {
            if let Some(chunk) = body {
                tap.chunk(chunk);
            }
            if end {
                tap.end();
            }
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
        if status == 101 {
            // From here on it is a conversation: only silence ends it.
            exchange.visit.deadline.set(None);
            session.set_read_timeout(Some(peer::UPGRADED_IDLE));
        } else {
            exchange.visit.deadline.set(exchange.total_deadline(plan));
        }
        exchange.first_byte = Some(first_byte);
        exchange.status = status;
        if let Some(tap) = &mut exchange.tap {
            tap.main_answer_head(status, &response.headers, first_byte);
        }
        Ok(())
    }

    fn upstream_response_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        end: bool,
        exchange: &mut Exchange,
    ) -> Result<Option<Duration>> {
        if let Some(tap) = &mut exchange.tap {
            if let Some(chunk) = body {
                tap.main_answer_chunk(chunk);
            }
            if end {
                tap.main_answer_end();
            }
        }
        Ok(None)
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
        if let Some(id) = &exchange.id {
            response.insert_header(REQUEST_ID, id.clone())?;
        }
        edit::apply(response, &exchange.route(plan).response_headers)?;
        for (name, value) in &plan.answer_headers {
            // These two add to what the endpoint says; the others are the gateway's to say.
            if name == SET_COOKIE || name == VARY {
                response.append_header(name.clone(), value.clone())?;
            } else {
                response.insert_header(name.clone(), value.clone())?;
            }
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
        if reused && !late && repeatable && exchange.stale < verdict::STALE_TRIES {
            // The endpoint closed an idle connection just as we used it: nobody's failure, and not a try.
            exchange.stale += 1;
            exchange.attempts -= 1;
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
        // Whatever is returned here, Pingora closes the connection after a failed exchange (its `server_reuse` is
        // false then). The client must be told, or its next request runs into the close.
        session.set_keepalive(None);
        let _ = self.answer(session, exchange, &answer).await;
        FailToProxy { error_code: answer.status, can_reuse_downstream: false }
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, exchange: &mut Exchange) {
        exchange.visit.deadline.set(None);
        if let (Some(tap), None) = (&mut exchange.tap, error) {
            tap.main_answer_end(); // No hook tells of the end of an answer without a body.
        }
        if exchange.in_flight.is_some() && exchange.result.is_none() {
            exchange.judge(TryResult::Abandoned, clock::now());
        }
        finish::write_down(session, exchange, &self.shared);
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
        exchange.client.get_or_insert(answer.client);
        let own = exchange.id.iter().map(|id| (REQUEST_ID, id.clone())).collect();
        let edits = answer.route.map(|route| &exchange.snapshot.routes[route].response_headers);
        respond::respond(session, answer, own, edits).await
    }
}

/// A hook was called that can't be without a plan: our own bug, answered with a 500.
fn no_plan() -> Box<Error> {
    Error::explain(ErrorType::InternalError, "exchange has no plan")
}
