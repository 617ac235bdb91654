//! One try of an HTTP/2 stream on one connection to an endpoint: the request up, the answer down, both at once, each at
//! the pace of who takes it.
//!
//! # Invariants
//!
//! - At most one read's worth waits in each direction. The client is credited with window only for what was taken from
//!   it, and the endpoint is read no further than the client's window reaches.
//! - The client's head leaves together with what came along of the body.

mod digest;

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::SendStream;
use pingora_core::protocols::http::v2::server::HttpSession as Session;
use tidegate_model::time::Timestamp;

use super::heads;
use crate::carry::body::Body;
use crate::carry::express::flow::{Answer, End, UP, lock};
use crate::carry::express::heard::Framing;
use crate::carry::express::pool::{Buffer, Pool};
use crate::carry::express::upload::Upload;
use crate::carry::express::waits::Waits;
use crate::carry::express::wire::Conn;
use crate::carry::verdict::Failure;
use crate::clock;
use crate::door::framing;
use crate::exchange::Exchange;

/// See the module.
pub struct Flow<'a> {
    session: &'a mut Session,
    exchange: &'a mut Exchange,
    upload: &'a mut Upload,
    /// The client's body, where it is watched and waited for.
    body: &'a mut Option<Body>,
    pool: &'a Mutex<Pool>,
    conn: Conn,
    /// Bytes of the answer's body that are on their way to the client.
    pub sent: u64,
    /// Bytes of `conn.up` that have left.
    up_at: usize,
    /// The endpoint takes no more of the request.
    deaf: bool,
    buffer: Option<Buffer>,
    answer: Answer,
    /// What of the answer's body leaves next.
    piece: Bytes,
    /// Takes the answer's body, once its head is on its way: no other answer can be given then.
    writer: Option<SendStream<Bytes>>,
    /// The client was told that the answer is complete.
    ended: bool,
    interim: u32,
    /// The endpoint has said something.
    heard: bool,
    /// The endpoint's connection can carry another request, once this one is over.
    keeps: bool,
    waits: Waits,
    /// When the client's body will be too late.
    client_late: Option<Timestamp>,
    /// Since when the client has no room for more of the answer.
    full_since: Option<Timestamp>,
}

/// Who is too late when a deadline passes.
enum Late {
    Endpoint,
    /// The client, with its body.
    Sender,
    /// The client, with taking the answer.
    Taker,
}

impl<'a> Flow<'a> {
    /// A try of `exchange`'s request on `conn`. `framing` is how the endpoint is told where the body ends.
    pub fn new(
        session: &'a mut Session,
        exchange: &'a mut Exchange,
        upload: &'a mut Upload,
        body: &'a mut Option<Body>,
        pool: &'a Mutex<Pool>,
        conn: Conn,
        framing: framing::Body,
    ) -> Self {
        let waits = Waits::new(exchange);
        let mut flow = Self {
            session,
            exchange,
            upload,
            body,
            pool,
            conn,
            sent: 0,
            up_at: 0,
            deaf: false,
            buffer: None,
            answer: Answer::Head,
            piece: Bytes::new(),
            writer: None,
            ended: false,
            interim: 0,
            heard: false,
            keeps: false,
            waits,
            client_late: None,
            full_since: None,
        };
        if let Some(plan) = flow.exchange.plan.as_deref() {
            heads::to_endpoint(&mut flow.conn.up, flow.session.req_header(), flow.exchange, plan, framing);
        }
        flow.exchange.body_seen = flow.upload.restart(&mut flow.conn.up);
        flow
    }

    /// Runs it to its end.
    pub async fn run(&mut self) -> End {
        let end = poll_fn(|cx| self.poll(cx)).await;
        if let Some(buffer) = self.buffer.take() {
            // What is left in it belongs to nobody: the connection isn't used again.
            self.keeps &= buffer.bytes().is_empty();
            lock(self.pool).give_back(buffer);
        }
        end
    }

    /// The connection, where it can carry another request.
    pub fn into_conn(self) -> Option<Conn> {
        let all_sent = self.upload.done && self.up_at == self.conn.up.len() && !self.deaf;
        (self.keeps && all_sent && matches!(self.answer, Answer::Complete)).then_some(self.conn)
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let moved = self.poll_up(cx).and_then(|()| self.poll_down(cx));
        match moved {
            Err(end) => return Poll::Ready(end),
            Ok(true) => return Poll::Ready(End::Answered),
            Ok(false) => {}
        }
        if self.client_has_left(cx) {
            return Poll::Ready(End::Gone);
        }
        self.poll_deadline(cx)
    }

    fn begun(&self) -> bool {
        !matches!(self.answer, Answer::Head)
    }

    /// Sends the request as far as the endpoint takes it.
    fn poll_up(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        loop {
            if self.deaf || matches!(self.answer, Answer::Complete) {
                return Ok(());
            }
            let waiting = self.conn.up.len() - self.up_at;
            if !self.upload.done && waiting < UP && self.poll_body(cx)? {
                continue;
            }
            if waiting == 0 {
                return Ok(());
            }
            match self.conn.wire.poll_write(cx, &self.conn.up[self.up_at..]) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(n @ 1..)) => self.up_at += n,
                // Its answer may have come all the same: the way down will tell.
                Poll::Ready(_) => self.deaf = true,
            }
            if self.up_at == self.conn.up.len() {
                self.conn.up.clear();
                self.up_at = 0;
            }
        }
    }

    /// Reads more of the client's body. False when nothing is there.
    fn poll_body(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        match self.session.poll_read_body_bytes(cx) {
            Poll::Pending => {
                let now = clock::now();
                self.waits.client_since.get_or_insert(now);
                self.client_late = self.body.as_mut().map(|body| body.late(now));
                return Ok(false);
            }
            Poll::Ready(Some(Err(_))) => return Err(End::Gone),
            Poll::Ready(Some(Ok(data))) => {
                let before = self.upload.received;
                self.upload.pass(&data, &mut self.conn.up);
                if let Some(body) = &mut self.body {
                    body.came(clock::now());
                }
                if !self.exchange.body_passes(self.upload.received - before) {
                    return Err(self.fail(Failure::BodyTooLarge));
                }
            }
            Poll::Ready(None) => {
                self.upload.end(&mut self.conn.up);
                *self.body = None;
            }
        }
        self.waits.client_since = None;
        self.client_late = None;
        self.waits.body_passes(self.exchange);
        Ok(true)
    }

    /// Sends the answer as far as the client takes it. True when all of it is on its way.
    fn poll_down(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        loop {
            match self.poll_piece(cx) {
                Poll::Pending => {
                    self.full_since.get_or_insert_with(clock::now);
                    return Ok(false);
                }
                Poll::Ready(sent) => sent?,
            }
            if matches!(self.answer, Answer::Complete) {
                return self.end().map(|()| true);
            }
            if self.buffer.is_some() && self.digest()? {
                continue;
            }
            match self.poll_wire(cx) {
                Poll::Pending => {
                    self.waits.answer_since.get_or_insert_with(clock::now);
                    return Ok(false);
                }
                Poll::Ready(Ok(1..)) => {
                    self.heard = true;
                    self.waits.answer_since = None;
                }
                Poll::Ready(Ok(0)) if matches!(self.answer, Answer::Body(Framing::Close)) => {
                    self.answer = Answer::Complete;
                }
                Poll::Ready(_) => return Err(self.broke()),
            }
        }
    }

    /// Sends the piece that is next, as far as the client's window reaches.
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        while !self.piece.is_empty() {
            let Some(writer) = &mut self.writer else { return Poll::Ready(Err(End::Gone)) };
            writer.reserve_capacity(self.piece.len());
            let mut room = writer.capacity();
            while room == 0 {
                match ready!(writer.poll_capacity(cx)) {
                    Some(Ok(more)) => room = more,
                    Some(Err(_)) | None => return Poll::Ready(Err(End::Gone)),
                }
            }
            self.full_since = None;
            let piece = self.piece.split_to(room.min(self.piece.len()));
            let last = self.piece.is_empty() && matches!(self.answer, Answer::Complete);
            self.sent += piece.len() as u64;
            if writer.send_data(piece, last).is_err() {
                return Poll::Ready(Err(End::Gone));
            }
            self.ended |= last;
        }
        Poll::Ready(Ok(()))
    }

    /// Tells the client that the answer is complete, where the last piece hasn't.
    fn end(&mut self) -> Result<(), End> {
        if let (false, Some(writer)) = (self.ended, &mut self.writer) {
            writer.send_data(Bytes::new(), true).map_err(|_| End::Gone)?;
            self.ended = true;
        }
        Ok(())
    }

    fn poll_wire(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<usize>> {
        if self.buffer.is_none() {
            ready!(self.conn.wire.poll_read_ready(cx))?;
            self.buffer = Some(lock(self.pool).buffer());
        }
        let buffer = self.buffer.as_mut().expect("invariant: taken above");
        let read = buffer.poll_fill(&mut self.conn.wire, cx);
        if read.is_pending() && buffer.bytes().is_empty() {
            self.buffer.take().into_iter().for_each(|buffer| lock(self.pool).give_back(buffer));
        }
        read
    }

    /// Whether the client has reset the stream, or the connection is gone.
    fn client_has_left(&mut self, cx: &mut Context<'_>) -> bool {
        match &mut self.writer {
            Some(writer) => writer.poll_reset(cx).is_ready(),
            None => Pin::new(&mut self.session.idle()).poll(cx).is_ready(),
        }
    }

    /// The deadline that comes first, and who is too late when it passes.
    fn deadline(&self) -> Option<(Timestamp, Late)> {
        let endpoint = self.waits.endpoint(self.begun(), self.exchange).map(|at| (at, Late::Endpoint));
        let sender = self.client_late.map(|at| (at, Late::Sender));
        let taker = self.full_since.map(|since| (since + self.exchange.connection.guard.send_timeout, Late::Taker));
        [endpoint, sender, taker].into_iter().flatten().min_by_key(|(at, _)| *at)
    }

    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        loop {
            let Some((at, late)) = self.deadline() else { return Poll::Pending };
            ready!(self.conn.alarm.poll(cx, at));
            match late {
                Late::Taker => return Poll::Ready(End::Gone),
                Late::Endpoint if self.begun() => {
                    if self.waits.for_the_endpoint_only() {
                        self.exchange.answer_broke(true, clock::now());
                    }
                    return Poll::Ready(End::Gone);
                }
                Late::Endpoint => return Poll::Ready(End::Broke { late: true, silent: false }),
                // It may have come on meanwhile, with a frame that isn't complete.
                Late::Sender => match self.body.as_mut().and_then(|body| body.look(clock::now())) {
                    Some(later) => self.client_late = Some(later),
                    None => return Poll::Ready(self.fail(Failure::ClientLate)),
                },
            }
        }
    }

    fn broke(&mut self) -> End {
        if !self.begun() {
            return End::Broke { late: false, silent: !self.heard };
        }
        self.exchange.answer_broke(false, clock::now());
        End::Gone
    }

    fn fail(&self, failure: Failure) -> End {
        if self.writer.is_some() { End::Gone } else { End::Failed(failure) }
    }
}
