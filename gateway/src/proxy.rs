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
//! `shadow` and `record`. What both carriers do alike is in `exchange`. Plain HTTP/1 takes the short way through
//! `carry::express`, which comes by the same steps in the same order.
//!
//! # Invariants
//!
//! - An exchange sees one snapshot, retries included.
//! - A request is tried again only before any of its answer has reached the client.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use http::Version;
use http::header::HOST;
use pingora_core::protocols::Digest;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_error::{Error, ErrorSource, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};

use crate::acme::Challenges;
use crate::carry::respond::Reply;
use crate::carry::{edit, finish, head, peer, verdict};
use crate::clock;
use crate::decide::{Answer, Reason, answer};
use crate::exchange::Exchange;
use crate::record::RouteMetrics;
use crate::record::access::AccessLog;
use crate::shadow::Shadows;
use crate::snapshot::Snapshot;

tokio::task_local! {
    /// The exchange that the carrier has begun and hands over to the hooks.
    pub static BEGUN: Cell<Option<Exchange>>;
}

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
    /// What ACME authorities that knock are answered.
    pub challenges: Challenges,
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

    /// The carrier has begun the exchange; it may even have decided it.
    fn new_ctx(&self) -> Exchange {
        BEGUN.with(Cell::take).expect("invariant: a carrier begins an exchange for each request")
    }

    async fn request_filter(&self, session: &mut Session, exchange: &mut Exchange) -> Result<bool> {
        if exchange.last {
            session.set_keepalive(None); // Pingora has set what the client asked for.
        }
        if let Err(answer) = strict(session.req_header_mut(), exchange) {
            self.answer(session, exchange, &answer).await?;
            return Ok(true);
        }
        if exchange.plan.is_some() {
            return Ok(false); // Decided before it was handed to us.
        }
        let request = session.req_header();
        let host = head::host(request);
        let answer = match self.shared.challenges.knock(request.uri.path()).await {
            Some(proof) => Some(exchange.prove(proof)),
            None => exchange.decide(&head::view(request, host.as_str()), &self.shared.shadows),
        };
        exchange.host = host;
        match answer {
            None => Ok(false),
            Some(answer) => {
                self.answer(session, exchange, &answer).await?;
                Ok(true)
            }
        }
    }

    async fn upstream_peer(&self, session: &mut Session, exchange: &mut Exchange) -> Result<Box<HttpPeer>> {
        let now = clock::now();
        let endpoint = exchange.next_try(now).ok_or_else(no_plan)?;
        if let Some(deadline) = &exchange.deadline {
            deadline.reset();
        }
        let plan = exchange.plan.as_deref().ok_or_else(no_plan)?;
        let service = exchange.service(plan);
        peer::peer(&peer::Reach {
            target: &endpoint.target,
            timeouts: exchange.timeouts(plan),
            protocol: service.spec.protocol,
            tls: service.tls.as_deref(),
            host: exchange.host.as_str(),
            upgrade: session.is_upgrade_req(),
            left: exchange.total_deadline(plan).map(|total| total.since(now)),
        })
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
        if let Some(deadline) = &exchange.deadline {
            deadline.watch(own.then_some(socket));
        }
        let first = if own { exchange.first_byte_deadline(clock::now()) } else { exchange.total_deadline(plan) };
        exchange.set_deadline(first);
        Ok(())
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        upstream: &mut RequestHeader,
        exchange: &mut Exchange,
    ) -> Result<()> {
        let plan = exchange.plan.as_deref().ok_or_else(no_plan)?;
        let told = exchange.forwarding(&session.req_header().headers, head::authority(session.req_header()));
        head::join_cookies(upstream)?;
        edit::to_endpoint(upstream, exchange, plan, &told)?;
        if let Some(target) = &plan.target {
            head::set_target(upstream, target)?;
        }
        if let Some(host) = &exchange.snapshot.desired.routes[plan.route].rewrite.host {
            upstream.insert_header(HOST, host)?;
        }
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
            if let Some(reel) = &mut exchange.reel {
                reel.chunk(exchange.body_seen, chunk);
            }
            if !exchange.body_passes(chunk.len() as u64) {
                return Err(Error::new_down(ErrorType::HTTPStatus(413)));
            }
            let plan = exchange.plan.as_deref().ok_or_else(no_plan)?;
            if exchange.first_byte.is_none() && exchange.owns_socket(plan, session.is_upgrade_req()) {
                // The endpoint can't be expected to answer before it has the request.
                exchange.set_deadline(exchange.first_byte_deadline(clock::now()));
            }
        }
        if end && let Some(deadline) = &exchange.deadline {
            deadline.body_ended();
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
        if !verdict::is_sound(response, verdict::asks_for_websocket(session.req_header())) {
            return Err(Error::explain(ErrorType::InvalidHTTPHeader, "the endpoint's answer isn't sound").into_up());
        }
        if status < 200 && status != 101 {
            return Ok(()); // An interim answer (RFC 9110 §15.2); the final one is yet to come.
        }
        let repeatable = verdict::may_repeat(session, exchange);
        if exchange.answer_began(status, repeatable, clock::now()) {
            let mut error = Error::new_up(verdict::RETRY_STATUS);
            error.set_retry(true);
            return Err(error);
        }
        if status == 101 {
            // From here on it is a conversation: only silence ends it.
            exchange.set_deadline(None);
            session.set_read_timeout(Some(peer::UPGRADED_IDLE));
        } else {
            let plan = exchange.plan.as_deref().ok_or_else(no_plan)?;
            exchange.set_deadline(exchange.total_deadline(plan));
        }
        if let Some(deadline) = &exchange.deadline {
            deadline.body_ended(); // An endpoint that answers early has what it needs.
        }
        if let (Some(tap), Some(first_byte)) = (&mut exchange.tap, exchange.first_byte) {
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
        session: &mut Session,
        response: &mut ResponseHeader,
        exchange: &mut Exchange,
    ) -> Result<()> {
        if session.is_http2() {
            edit::detach(response)?;
        }
        let Some(plan) = exchange.plan.as_deref() else { return Ok(()) };
        if response.status.is_informational() && response.status != 101 {
            return Ok(());
        }
        edit::to_client(response, exchange, plan)
    }

    fn fail_to_connect(
        &self,
        _session: &mut Session,
        _peer: &HttpPeer,
        exchange: &mut Exchange,
        mut error: Box<Error>,
    ) -> Box<Error> {
        error.set_retry(exchange.connect_failed(clock::now()));
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
        if *error.esource() != ErrorSource::Upstream {
            return error; // The client's doing.
        }
        if exchange.first_byte.is_some() {
            // Too late to try again. That all the time is up may be the client's doing, who takes slowly.
            if !exchange.is_late() {
                exchange.answer_broke(*error.etype() == ErrorType::ReadTimedout, clock::now());
            }
            return error;
        }
        if exchange.deadline.as_ref().is_some_and(|deadline| deadline.client_was_slow()) {
            exchange.reason = Some(Reason::ClientLate);
            return error; // Its body didn't come, so the try was broken off; the endpoint did nothing wrong.
        }
        let late = exchange.is_late() || *error.etype() == ErrorType::ReadTimedout;
        let repeatable = verdict::may_repeat(session, exchange);
        error.set_retry(exchange.try_failed(late, reused, repeatable, clock::now()));
        error
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, exchange: &mut Exchange) -> FailToProxy {
        exchange.set_deadline(None);
        let Some(failure) = verdict::failure(session, error) else {
            return FailToProxy { error_code: 0, can_reuse_downstream: false };
        };
        let answer = failure.answer(exchange);
        // Whatever is returned here, Pingora closes the connection after a failed exchange (its `server_reuse` is
        // false then). The client must be told, or its next request runs into the close.
        session.set_keepalive(None);
        let _ = self.answer(session, exchange, &answer).await;
        FailToProxy { error_code: answer.status, can_reuse_downstream: false }
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, exchange: &mut Exchange) {
        exchange.set_deadline(None);
        if let (Some(tap), None) = (&mut exchange.tap, error) {
            tap.main_answer_end(); // No hook tells of the end of an answer without a body.
        }
        let now = clock::now();
        exchange.ended(now);
        let request = session.req_header();
        let carried = finish::Carried {
            head: head::view(request, exchange.host.as_str()),
            version: request.version,
            received: session.body_bytes_read() as u64,
            sent: session.body_bytes_sent() as u64,
        };
        finish::write_down(exchange, &carried, &self.shared, now);
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
        exchange.answers(answer);
        let request = session.req_header();
        let reply = Reply::new(answer, exchange, &request.method, &request.headers);
        session.write_response_header(reply.head()?, reply.body.is_empty()).await?;
        session.write_response_body(Some(reply.body), true).await
    }
}

/// Brings the head to its normal form; the answer for one that has none, or breaks a rule.
///
/// # Errors
///
/// That answer.
pub fn strict(request: &mut RequestHeader, exchange: &Exchange) -> std::result::Result<(), Box<Answer>> {
    if request.version == Version::HTTP_2 {
        head::check_http2(request, exchange.connection.guard.max_headers)
            .map_err(|refusal| Box::new(answer::refused(exchange.visitor(&request.headers), refusal)))?;
    }
    head::normalise(request, &exchange.snapshot.desired.paths)
        .map_err(|bad| Box::new(answer::bad_target(exchange.visitor(&request.headers), bad)))
}

/// A hook was called that can't be without a plan: our own bug, answered with a 500.
fn no_plan() -> Box<Error> {
    Error::explain(ErrorType::InternalError, "exchange has no plan")
}
