//! Carries a plan out: try after try, until an endpoint's answer has reached the client or there is nothing left to try.

use std::ops::ControlFlow;
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
    let usual = |option: &[u8]| {
        option.is_empty() || [&b"keep-alive"[..], b"close"].iter().any(|known| option.eq_ignore_ascii_case(known))
    };
    request.version == Version::HTTP_11
        && !stream.may_upgrade()
        && !request.expects_continue()
        && goes_plainly(exchange)
        && request.connection_options().all(usual)
}

/// Whether a decided request goes to an endpoint that speaks plain HTTP/1, and nobody gets a copy.
pub fn goes_plainly(exchange: &Exchange) -> bool {
    let Some(plan) = exchange.plan.as_deref() else { return false };
    let service = exchange.service(plan);
    exchange.tap.is_none() && service.tls.is_none() && service.spec.protocol != UpstreamProtocol::Http2
}

/// What follows a try that ended so: another one, or else the end, with what the client is to be told instead of an
/// endpoint's answer. `reused` says whether its connection had carried a request before, `repeatable` whether the request
/// can be sent once more.
pub fn after(end: End, exchange: &mut Exchange, reused: bool, repeatable: bool) -> ControlFlow<Option<Failure>> {
    match end {
        End::Answered | End::Gone => ControlFlow::Break(None),
        End::Failed(failure) => ControlFlow::Break(Some(failure)),
        End::Unwanted => ControlFlow::Continue(()),
        End::Broke { late, silent } => match exchange.try_failed(late, reused && silent, repeatable, clock::now()) {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(Some(Failure::Endpoint)),
        },
    }
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
            let (endpoint, conn) = match self.reach(exchange).await {
                Ok(reached) => reached,
                Err(failure) => return Carried { failure: Some(failure), sent: 0, goes_on: false },
            };
            let reused = conn.reused;
            let mut flow = Flow::new(stream, request, exchange, upload, &self.pool, conn, self.pingora.is_draining());
            let end = flow.run().await;
            let (sent, goes_on) = (flow.sent, flow.goes_on && end == End::Answered);
            self.keep(&endpoint, flow.into_conn().filter(|_| end == End::Answered));
            if let ControlFlow::Break(failure) = after(end, exchange, reused, upload.is_repeatable()) {
                return Carried { failure, sent, goes_on };
            }
        }
    }

    /// Begins the next try: an endpoint, and a connection to it.
    ///
    /// # Errors
    ///
    /// No endpoint can be reached any more.
    pub(super) async fn reach(&self, exchange: &mut Exchange) -> Result<(Arc<Endpoint>, Conn), Failure> {
        loop {
            let Some(endpoint) = exchange.next_try(clock::now()) else { return Err(Failure::Internal) };
            if let Some(conn) = self.connect(&endpoint, exchange).await {
                return Ok((endpoint, conn));
            }
            if !exchange.connect_failed(clock::now()) {
                return Err(Failure::Endpoint);
            }
        }
    }

    /// Keeps a connection for another request, where it can carry one.
    pub(super) fn keep(&self, endpoint: &Arc<Endpoint>, conn: Option<Conn>) {
        if let Some(conn) = conn {
            lock(&self.pool).put(endpoint, conn, clock::now());
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
