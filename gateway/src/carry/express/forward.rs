//! Carries a plan out: try after try, until an endpoint's answer has reached the client or there is nothing left to try.

use std::sync::Arc;
use std::time::Duration;

use http::Version;
use tidegate_model::desired::UpstreamProtocol;
use tokio::time::timeout;

use super::Express;
use super::flow::{End, Flow, lock};
use super::reply;
use super::request::Request;
use super::upload::Upload;
use super::wire::Conn;
use crate::carry::verdict::Failure;
use crate::clock;
use crate::door::stream::DoorStream;
use crate::endpoint::Endpoint;
use crate::exchange::Exchange;

/// Whether this carrier is sure of a decided request. Everything else is Pingora's: upgrades, `Expect`, HTTP/1.0, TLS
/// or HTTP/2 to the endpoint, copies, and a Connection header that lists fields.
pub fn is_plain(stream: &DoorStream, request: &Request, exchange: &Exchange) -> bool {
    let Some(plan) = exchange.plan.as_deref() else { return false };
    let service = exchange.service(plan);
    let usual = |option: &[u8]| {
        option.is_empty() || [&b"keep-alive"[..], b"close"].iter().any(|known| option.eq_ignore_ascii_case(known))
    };
    request.version == Version::HTTP_11
        && !stream.may_upgrade()
        && !request.expects_continue()
        && exchange.tap.is_none()
        && service.tls.is_none()
        && service.spec.protocol != UpstreamProtocol::Http2
        && request.connection_options().all(usual)
}

/// What became of a request that was carried.
struct Carried {
    /// What the client is to be told instead of an endpoint's answer.
    failure: Option<Failure>,
    /// Bytes of an endpoint's answer.
    sent: u64,
    /// The client's connection can carry another request.
    goes_on: bool,
}

impl Express {
    /// Carries a decided, plain request whose head lies unread at the front of `stream`.
    pub(super) async fn forward(
        &self,
        mut stream: Box<DoorStream>,
        request: &Request,
        mut exchange: Exchange,
    ) -> Option<Box<DoorStream>> {
        stream.skip_head();
        let mut upload = Upload::new(&stream, exchange.allows_repeating(&request.method));
        upload.reel = exchange.reel.take();
        let mut carried = self.tries(&mut stream, request, &mut exchange, &mut upload).await;
        exchange.take_back(upload.reel.take());
        exchange.ended(clock::now());
        if let Some(failure) = carried.failure {
            let untouched = upload.received == 0 && failure == Failure::Endpoint;
            let answer = failure.answer(&exchange);
            exchange.answers(&answer);
            let sent = reply::send(&mut stream, request, &exchange, &answer, untouched).await;
            (carried.sent, carried.goes_on) = (sent.bytes, sent.goes_on);
        }
        self.end(exchange, request, upload.received, carried.sent);
        // A client that has part of an answer gets all that came of it; then the close shows that it was cut.
        self.hand_back(stream, carried.goes_on).await
    }

    async fn tries(
        &self,
        stream: &mut DoorStream,
        request: &Request,
        exchange: &mut Exchange,
        upload: &mut Upload,
    ) -> Carried {
        loop {
            let failed = |failure| Carried { failure: Some(failure), sent: 0, goes_on: false };
            let Some(endpoint) = exchange.next_try(clock::now()) else { return failed(Failure::Internal) };
            let Some(conn) = self.connect(&endpoint, exchange).await else {
                match exchange.connect_failed(clock::now()) {
                    true => continue,
                    false => return failed(Failure::Endpoint),
                }
            };
            let reused = conn.reused;
            let mut flow = Flow::new(stream, request, exchange, upload, &self.pool, conn, self.pingora.is_draining());
            let end = flow.run().await;
            let (sent, goes_on) = (flow.sent, flow.goes_on);
            match end {
                End::Answered => {
                    if let Some(conn) = flow.into_conn() {
                        lock(&self.pool).put(&endpoint, conn, clock::now());
                    }
                    return Carried { failure: None, sent, goes_on };
                }
                End::Gone => return Carried { failure: None, sent, goes_on: false },
                End::Failed(failure) => return failed(failure),
                End::Unwanted => {}
                End::Broke { late, silent } => {
                    drop(flow);
                    let repeatable = upload.is_repeatable();
                    if !exchange.try_failed(late, reused && silent, repeatable, clock::now()) {
                        return failed(Failure::Endpoint);
                    }
                }
            }
        }
    }

    /// A connection to `endpoint`: an idle one, or else a new one within the deadline for connecting.
    async fn connect(&self, endpoint: &Arc<Endpoint>, exchange: &Exchange) -> Option<Conn> {
        let now = exchange.try_started;
        if let Some(conn) = lock(&self.pool).take(endpoint, now) {
            return Some(conn);
        }
        let plan = exchange.plan.as_deref()?;
        let left = exchange.total_deadline(plan).map_or(Duration::MAX, |total| total.since(now));
        let patience = left.min(exchange.timeouts(plan).connect);
        let alarm = exchange.first_byte_deadline(now)?;
        timeout(patience, Conn::open(&endpoint.target, alarm)).await.ok()?.ok()
    }
}
