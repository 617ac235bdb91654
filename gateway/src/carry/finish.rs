//! Writes a finished exchange down: metrics and the access log.

use std::time::{Duration, SystemTime};

use http::HeaderValue;
use http::header::{REFERER, USER_AGENT};
use pingora_proxy::Session;

use super::head;
use crate::clock;
use crate::decide::Reason;
use crate::exchange::Exchange;
use crate::proxy::Shared;
use crate::record::RetryResult;
use crate::record::access::Entry;

/// Logged as the status of a request whose client went away unanswered, as nginx does.
const CLIENT_GONE: u16 = 499;

/// Counts the exchange, and logs it where a log is kept.
pub fn write_down(session: &Session, exchange: &Exchange, shared: &Shared) {
    let took = clock::now().since(exchange.started);
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
            let metrics = exchange.route.map_or(&shared.unrouted, |route| &exchange.snapshot.routes[route].metrics);
            metrics.answered(exchange.reason.unwrap_or(Reason::Internal), status, took);
        }
    }
    if shared.access_log.is_on() {
        log(session, exchange, shared, status, took);
    }
}

fn log(session: &Session, exchange: &Exchange, shared: &Shared, status: u16, took: Duration) {
    let request = session.req_header();
    let host = head::host(request);
    let view = head::view(request, &host);
    let connection = &exchange.visit.connection;
    let plan = exchange.plan.as_deref();
    let route = plan.map(|plan| plan.route).or(exchange.route);
    shared.access_log.log(&Entry {
        time: SystemTime::now().checked_sub(took).unwrap_or(SystemTime::UNIX_EPOCH),
        id: exchange.id.as_ref().and_then(|id| id.to_str().ok()).unwrap_or_default(),
        client: exchange.client.unwrap_or_else(|| connection.peer.ip()),
        peer: connection.peer,
        method: request.method.as_str(),
        host: view.host,
        path: view.path,
        query: view.query,
        protocol: head::protocol(request.version),
        status,
        reason: exchange.reason,
        route: route.map(|route| exchange.snapshot.desired.routes[route].name.as_str()),
        version: plan.map(|plan| &*exchange.arm(plan).label),
        endpoint: exchange.in_flight.as_ref().map(|in_flight| &in_flight.endpoint().target),
        attempts: exchange.attempts,
        received: session.body_bytes_read() as u64,
        sent: session.body_bytes_sent() as u64,
        took,
        first_byte: exchange.first_byte,
        user_agent: request.headers.get(USER_AGENT).map(HeaderValue::as_bytes),
        referer: request.headers.get(REFERER).map(HeaderValue::as_bytes),
        trace: exchange.trace.id(),
        generation: exchange.snapshot.generation(),
        tls: connection.tls.as_deref(),
    });
}
