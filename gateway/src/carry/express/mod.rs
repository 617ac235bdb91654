//! The carrier for plain exchanges: few instructions a request, and nothing that it isn't sure of.
//!
//! It stands in front of the Pingora carrier. It reads each head once and has it decided once. The gateway's own answers
//! it writes itself, so that refusing a flood stays cheap; plain exchanges with HTTP/1 endpoints it carries itself.
//! Whatever isn't plain it hands over, decided but with every byte of the request (over HTTP/2: of its body) unread.
//!
//! ```text
//! request (read once) → decide → reply                          the gateway's own answers
//!                              → forward → flow (a try) → ...   plain exchanges
//!                              → Pingora                        everything else
//! ```
//!
//! HTTP/2 connections are accepted as Pingora's carrier accepts them; each of their streams goes the same way here
//! (`streams`).
//!
//! # Invariants
//!
//! - A request is handed over before a byte of it is consumed, or not at all.
//! - Nothing is decided here: both carriers take the steps of `exchange`, and count by `finish`.

mod flow;
mod forward;
mod heads;
mod heard;
mod pool;
mod reply;
mod request;
mod streams;
mod upload;
mod waits;
mod wire;

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use tokio::sync::watch;

use crate::carry::finish::{Carried, write_down};
use crate::carry::pingora::{PingoraCarrier, serve_http2};
use crate::clock;
use crate::decide::{Answer, Connection, answer};
use crate::door::Carrier;
use crate::door::stream::DoorStream;
use crate::exchange::Exchange;
use crate::proxy::Shared;
use flow::lock;
use pool::Pool;
use request::Request;

/// One core's carrier.
pub struct Express {
    shared: Arc<Shared>,
    pingora: Arc<PingoraCarrier>,
    /// One core's own: it is never waited for.
    pool: Arc<Mutex<Pool>>,
}

impl Express {
    /// In front of `pingora`, with an upstream pool of its own. To be called within the core's runtime, which keeps the
    /// pool tidy.
    pub fn new(shared: Arc<Shared>, pingora: Arc<PingoraCarrier>) -> Self {
        let pool = Arc::<Mutex<Pool>>::default();
        let swept = Arc::downgrade(&pool);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(pool::SWEEP).await;
                let Some(pool) = swept.upgrade() else { return };
                lock(&pool).sweep(clock::now());
            }
        });
        Self { shared, pingora, pool }
    }

    /// Gives the gateway's own answer.
    async fn answer(
        &self,
        mut stream: Box<DoorStream>,
        request: &Request,
        mut exchange: Exchange,
        answer: &Answer,
    ) -> Option<Box<DoorStream>> {
        stream.skip_head();
        exchange.answers(answer);
        let sent = reply::send(&mut stream, request, &exchange, answer, true).await;
        self.end(exchange, request, 0, sent.bytes);
        self.hand_back(stream, sent.goes_on).await
    }

    /// Writes the exchange down, and gives back what it holds: its client may take a while to say goodbye.
    fn end(&self, exchange: Exchange, request: &Request, received: u64, sent: u64) {
        let carried = Carried { head: request.view(), version: request.version, received, sent };
        write_down(&exchange, &carried, &self.shared, clock::now());
    }

    /// Gives the stream back for another request, or closes it politely.
    async fn hand_back(&self, mut stream: Box<DoorStream>, goes_on: bool) -> Option<Box<DoorStream>> {
        if goes_on && reply::drain(&mut stream).await {
            return Some(stream);
        }
        stream.close().await;
        None
    }
}

#[async_trait]
impl Carrier for Express {
    async fn http1(
        self: Arc<Self>,
        stream: Box<DoorStream>,
        connection: Arc<Connection>,
        last: bool,
    ) -> Option<Box<DoorStream>> {
        let mut exchange = Exchange::new(connection, last, self.shared.snapshot.load_full(), clock::now());
        let Some(mut request) = Request::read(stream.head()) else {
            return Box::pin(self.pingora.carry(stream, exchange)).await;
        };
        let answer = match request.normalise(&exchange.snapshot.desired.paths) {
            Ok(()) => match self.shared.challenges.knock(request.view().path).await {
                Some(proof) => Some(exchange.prove(proof)),
                None => exchange.decide(&request.view(), &self.shared.shadows),
            },
            Err(bad) => Some(Box::new(answer::bad_target(exchange.visitor(&request.headers), bad))),
        };
        exchange.host = request.host.clone();
        match answer {
            Some(answer) => self.answer(stream, &request, exchange, &answer).await,
            None if forward::is_plain(&stream, &request, &exchange) => self.forward(stream, &request, exchange).await,
            // Boxed: few requests need the room that it takes.
            None => Box::pin(self.pingora.carry(stream, exchange)).await,
        }
    }

    async fn http2(
        self: Arc<Self>,
        stream: Box<DoorStream>,
        connection: Arc<Connection>,
        drain: watch::Receiver<bool>,
    ) {
        let facts = Arc::clone(&connection);
        let carry = move |session, body| {
            let (express, connection) = (Arc::clone(&self), Arc::clone(&connection));
            async move { express.stream(session, connection, body).await }
        };
        serve_http2(stream, &facts, drain, carry).await;
    }
}
