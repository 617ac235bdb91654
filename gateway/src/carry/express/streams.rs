//! One stream of an HTTP/2 connection: the same steps as for an HTTP/1 request, with a session in place of a socket.
//!
//! # Invariants
//!
//! - A stream is handed over before a byte of its body is read, or not at all.
//! - A body that an early answer leaves over is read to its end, in bounds: a reset in its place would count against an
//!   honest client.

mod flow;
mod heads;

use std::ops::ControlFlow;
use std::sync::Arc;

use http::Version;
use http::header::{CONTENT_LENGTH, EXPECT};
use pingora_core::protocols::http::v2::server::HttpSession as Session;
use tokio::time::timeout;

use super::Express;
use super::flow::End;
use super::forward::{after, goes_plainly};
use super::reply::DRAIN_BYTES;
use super::upload::Upload;
use crate::carry::body::Body;
use crate::carry::finish::{Carried, write_down};
use crate::carry::head;
use crate::carry::pingora::{DRAIN_TIMEOUT, is_grpc};
use crate::carry::respond::Reply;
use crate::clock;
use crate::decide::{Answer, Connection};
use crate::door::framing;
use crate::exchange::Exchange;
use crate::proxy::strict;
use flow::Flow;

impl Express {
    /// Carries one stream. `body` is what its client must bring.
    pub(super) async fn stream(&self, mut session: Session, connection: Arc<Connection>, body: Option<Body>) {
        let mut exchange = Exchange::new(connection, false, self.shared.snapshot.load_full(), clock::now());
        let strict = strict(session.req_header_mut(), &exchange);
        let request = session.req_header();
        exchange.host = head::host(request);
        let answer = match strict {
            Err(answer) => Some(answer),
            Ok(()) => match self.shared.challenges.knock(request.uri.path()).await {
                Some(proof) => Some(exchange.prove(proof)),
                None => {
                    let host = exchange.host.clone();
                    exchange.decide(&head::view(request, host.as_str()), &self.shared.shadows)
                }
            },
        };
        match answer {
            Some(answer) => {
                drop(body);
                let sent = say(&mut session, &mut exchange, &answer).await;
                self.stream_ends(&session, exchange, 0, sent);
                drain(session).await;
            }
            None if is_plain(&session, &exchange) => self.forward_stream(session, exchange, body).await,
            // Boxed: few streams need the room that it takes.
            None => Box::pin(self.pingora.carry_stream(session, exchange, body)).await,
        }
    }

    /// Carries the stream of a decided, plain request: try after try, as `forward` does.
    async fn forward_stream(&self, mut session: Session, mut exchange: Exchange, mut body: Option<Body>) {
        let framing = framing(&session);
        let done = session.is_body_done() || framing == framing::Body::Length(0);
        let repeats = exchange.allows_repeating(&session.req_header().method);
        let mut upload = Upload::of_frames(framing, done, repeats);
        upload.reel = exchange.reel.take();
        let mut sent = 0;
        let mut whole = true;
        let failure = loop {
            let (endpoint, conn) = match self.reach(&mut exchange).await {
                Ok(reached) => reached,
                Err(failure) => break Some(failure),
            };
            let reused = conn.reused;
            let mut flow = Flow::new(&mut session, &mut exchange, &mut upload, &mut body, &self.pool, conn, framing);
            let end = flow.run().await;
            (sent, whole) = (flow.sent, end != End::Gone);
            self.keep(&endpoint, flow.into_conn().filter(|_| end == End::Answered));
            if let ControlFlow::Break(failure) = after(end, &mut exchange, reused, upload.is_repeatable()) {
                break failure;
            }
        };
        drop(body);
        exchange.take_back(upload.reel.take());
        exchange.ended(clock::now());
        if let Some(failure) = failure {
            let answer = failure.answer(&exchange);
            sent = say(&mut session, &mut exchange, &answer).await;
        }
        self.stream_ends(&session, exchange, upload.received, sent);
        // An answer that was cut is reset as the session goes.
        if whole {
            drain(session).await;
        }
    }

    /// Writes the exchange down, and gives back what it holds: its client may take a while to finish its request.
    fn stream_ends(&self, session: &Session, exchange: Exchange, received: u64, sent: u64) {
        let request = session.req_header();
        let head = head::view(request, exchange.host.as_str());
        write_down(&exchange, &Carried { head, version: Version::HTTP_2, received, sent }, &self.shared, clock::now());
    }
}

/// Whether this carrier is sure of a decided stream. Everything else is Pingora's: `Expect`, gRPC, TLS or HTTP/2 to the
/// endpoint, and copies.
fn is_plain(session: &Session, exchange: &Exchange) -> bool {
    goes_plainly(exchange) && !session.req_header().headers.contains_key(EXPECT) && !is_grpc(session)
}

/// How the endpoint is told where the body ends. The head was checked: there is at most one length, and it is a number.
fn framing(session: &Session) -> framing::Body {
    let length = session.req_header().headers.get(CONTENT_LENGTH);
    match length.and_then(|length| length.to_str().ok()?.parse().ok()) {
        Some(length) => framing::Body::Length(length),
        None if session.is_body_empty() => framing::Body::Length(0),
        None => framing::Body::Chunked,
    }
}

/// Gives the gateway's own answer, and tells how many bytes its body has.
async fn say(session: &mut Session, exchange: &mut Exchange, answer: &Answer) -> u64 {
    exchange.answers(answer);
    let request = session.req_header();
    let reply = Reply::new(answer, exchange, &request.method, &request.headers);
    let length = reply.body.len() as u64;
    let Ok(head) = reply.head() else { return 0 };
    if session.write_response_header(head, length == 0).is_err() {
        return 0;
    }
    match length {
        0 => 0,
        _ => session.write_body(reply.body, true).await.map_or(0, |()| length),
    }
}

/// Reads what an answered client still sends of its request's body, and throws it away.
async fn drain(mut session: Session) {
    if session.is_body_done() {
        return;
    }
    let all = async {
        let mut left = DRAIN_BYTES;
        while let Ok(Some(data)) = session.read_body_bytes().await {
            match left.checked_sub(data.len() as u64) {
                Some(less) => left = less,
                None => return,
            }
        }
    };
    let _ = timeout(DRAIN_TIMEOUT, all).await;
}
