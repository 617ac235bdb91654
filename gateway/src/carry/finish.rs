//! Writes a finished exchange down: metrics and the access log.

use std::time::{Duration, SystemTime};

use http::header::{REFERER, USER_AGENT};
use http::{HeaderValue, Version};
use tidegate_model::time::Timestamp;

use crate::decide::{Head, Reason};
use crate::exchange::Exchange;
use crate::proxy::Shared;
use crate::record::RetryResult;
use crate::record::access::Entry;

/// Logged as the status of a request whose client went away unanswered, as nginx does.
const CLIENT_GONE: u16 = 499;

/// What a carrier knows of an exchange that is over.
pub struct Carried<'a> {
    /// The request's head.
    pub head: Head<'a>,
    /// The protocol that the client spoke.
    pub version: Version,
    /// Bytes of the request's body that came from the client.
    pub received: u64,
    /// Bytes of the answer's body that went to it.
    pub sent: u64,
}

/// Counts the exchange, which ended `now`, and logs it where a log is kept.
pub fn write_down(exchange: &Exchange, carried: &Carried<'_>, shared: &Shared, now: Timestamp) {
    let took = now.since(exchange.started);
    let status = if exchange.status == 0 { CLIENT_GONE } else { exchange.status };
    match exchange.plan.as_deref() {
        Some(plan) => {
            let (arm, route) = (exchange.arm(plan), exchange.route(plan));
            let (metrics, answers) = match (&arm.dyed, &route.dyed) {
                (Some(arm), Some(route)) if exchange.mark.is_dyed() => (arm, route),
                _ => (&arm.metrics, &route.metrics),
            };
            metrics.finished(status, took);
            metrics.bytes(carried.received, carried.sent);
            if let Some(reason) = exchange.reason {
                answers.reason(reason);
            }
            if exchange.attempts > 1 {
                let result = if status < 500 { RetryResult::Ok } else { RetryResult::Failed };
                exchange.service(plan).metrics.retried(result);
            }
        }
        None => {
            let snapshot = &exchange.snapshot;
            let route = exchange.route.map(|route| &snapshot.routes[route]);
            let live = || route.map_or(&shared.unrouted, |route| &route.metrics);
            let dyed = route.map_or(snapshot.dyed_unrouted.as_ref(), |route| route.dyed.as_ref());
            let metrics = dyed.filter(|_| exchange.mark.is_dyed()).unwrap_or_else(live);
            metrics.answered(exchange.reason.unwrap_or(Reason::Internal), status, took);
        }
    }
    if shared.access_log.is_on() {
        log(exchange, carried, shared, status, took);
    }
}

fn log(exchange: &Exchange, carried: &Carried<'_>, shared: &Shared, status: u16, took: Duration) {
    let head = &carried.head;
    let connection = &exchange.connection;
    let plan = exchange.plan.as_deref();
    let route = plan.map(|plan| plan.route).or(exchange.route);
    shared.access_log.log(&Entry {
        time: SystemTime::now().checked_sub(took).unwrap_or(SystemTime::UNIX_EPOCH),
        id: exchange.id.as_ref().and_then(|id| id.to_str().ok()).unwrap_or_default(),
        client: exchange.client.unwrap_or_else(|| connection.peer.ip()),
        peer: connection.peer,
        method: head.method.as_str(),
        host: head.host,
        path: head.path,
        query: head.query,
        protocol: protocol(carried.version),
        status,
        reason: exchange.reason,
        route: route.map(|route| exchange.snapshot.desired.routes[route].name.as_str()),
        version: plan.map(|plan| &*exchange.arm(plan).label),
        endpoint: exchange.in_flight.as_ref().map(|in_flight| &in_flight.endpoint().target),
        attempts: exchange.attempts,
        received: carried.received,
        sent: carried.sent,
        took,
        first_byte: exchange.first_byte,
        user_agent: head.headers.get(USER_AGENT).map(HeaderValue::as_bytes),
        referer: head.headers.get(REFERER).map(HeaderValue::as_bytes),
        trace: exchange.trace.id(),
        dyed: exchange.mark.run(),
        generation: exchange.snapshot.generation(),
        tls: connection.tls.as_deref(),
    });
}

/// The protocol's name.
fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_11 => "HTTP/1.1",
        Version::HTTP_2 => "HTTP/2",
        _ => "HTTP",
    }
}
