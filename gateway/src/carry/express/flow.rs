//! One try on one connection: the request up, the answer down, both at once, each at the pace of who takes it.
//!
//! ```text
//! client ──Upload──▶ conn.up ──▶ wire ──▶ endpoint
//! client ◀── conn.down, buffer ◀── wire ◀──
//! ```
//!
//! # Invariants
//!
//! - At most one read's worth waits in each direction: whoever takes slowly is read for slowly.
//! - Nothing reaches the client before the endpoint's head was understood; after that no other answer can.
//! - An exchange that waits holds no buffer.

mod digest;

use std::future::poll_fn;
use std::io::{ErrorKind, IoSlice};
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};

use tidegate_model::time::Timestamp;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::heads;
use super::heard::Framing;
use super::pool::{Buffer, Pool};
use super::request::Request;
use super::upload::{LAST_CHUNK, Upload};
use super::waits::Waits;
use super::wire::Conn;
use crate::carry::verdict::Failure;
use crate::clock;
use crate::door::stream::DoorStream;
use crate::exchange::Exchange;

/// Bytes that may wait for the endpoint before the client is read any further.
pub const UP: usize = 16 << 10;

/// Interim answers (1xx) before the final one. One more is a 502.
pub const INTERIM: u32 = 16;

/// How a try ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The client has the whole answer.
    Answered,
    /// The answer is one that is asked for again.
    Unwanted,
    /// The endpoint broke off or talked nonsense before its answer, or was too `late`.
    Broke {
        /// A deadline passed.
        late: bool,
        /// Not a byte came.
        silent: bool,
    },
    /// The client has to be told something else.
    Failed(Failure),
    /// The client is gone, or has part of an answer that can't be completed.
    Gone,
}

/// See the module.
pub struct Flow<'a> {
    pub stream: &'a mut DoorStream,
    pub request: &'a Request,
    pub exchange: &'a mut Exchange,
    pub upload: &'a mut Upload,
    pub pool: &'a Mutex<Pool>,
    pub conn: Conn,
    /// Bytes of the answer's body that the client got.
    pub sent: u64,
    /// The client's connection can carry another request, once this one was read.
    pub goes_on: bool,
    /// The gateway is about to stop.
    draining: bool,
    /// Bytes of `conn.up` and `conn.down` that have left.
    up_at: usize,
    down_at: usize,
    /// The endpoint takes no more of the request.
    deaf: bool,
    buffer: Option<Buffer>,
    /// Bytes at the front of the buffer that leave for the client as they are.
    piece: usize,
    answer: Answer,
    interim: u32,
    /// Some of the final answer is on its way to the client: no other answer can be given.
    told: bool,
    /// The endpoint has said something.
    heard: bool,
    /// The endpoint's connection can carry another request, once this one is over.
    keeps: bool,
    waits: Waits,
}

/// How far an answer is.
#[derive(Debug)]
pub enum Answer {
    /// Its head is awaited.
    Head,
    /// Its body passes.
    Body(Framing),
    /// All of it was read.
    Complete,
}

impl<'a> Flow<'a> {
    /// A try of `exchange`'s request on `conn`.
    pub fn new(
        stream: &'a mut DoorStream,
        request: &'a Request,
        exchange: &'a mut Exchange,
        upload: &'a mut Upload,
        pool: &'a Mutex<Pool>,
        conn: Conn,
        draining: bool,
    ) -> Self {
        let waits = Waits::new(exchange);
        let mut flow = Self {
            stream,
            request,
            exchange,
            upload,
            pool,
            conn,
            sent: 0,
            goes_on: false,
            draining,
            up_at: 0,
            down_at: 0,
            deaf: false,
            buffer: None,
            piece: 0,
            answer: Answer::Head,
            interim: 0,
            told: false,
            heard: false,
            keeps: false,
            waits,
        };
        if let Some(plan) = flow.exchange.plan.as_deref() {
            heads::to_endpoint(&mut flow.conn.up, request, flow.exchange, plan, flow.stream.body());
        }
        let again = flow.upload.restart(&mut flow.conn.up);
        flow.exchange.body_seen = again;
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
        if self.stream.is_request_read() && self.client_has_left(cx) {
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
            let at_hand = !self.upload.done && !self.stream.ahead().is_empty() && waiting < UP;
            if waiting > 0 && !at_hand {
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
                continue;
            }
            if self.upload.done {
                return Ok(());
            }
            match self.upload.poll_more(self.stream, cx, &mut self.conn.up) {
                Poll::Pending => {
                    self.waits.client_since.get_or_insert_with(clock::now);
                    return Ok(());
                }
                Poll::Ready(Err(err)) if err.kind() == ErrorKind::TimedOut => {
                    return Err(self.fail(Failure::ClientLate)); // The door has lost its patience.
                }
                Poll::Ready(Err(_)) => return Err(End::Gone),
                Poll::Ready(Ok(bytes)) => {
                    self.waits.client_since = None;
                    if !self.exchange.body_passes(bytes) {
                        return Err(self.fail(Failure::BodyTooLarge));
                    }
                    self.waits.body_passes(self.exchange);
                }
            }
        }
    }

    /// Sends the answer as far as the client takes it. True when it has all of it.
    fn poll_down(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        loop {
            while self.down_at < self.conn.down.len() || self.piece > 0 {
                let head = &self.conn.down[self.down_at..];
                let piece = self.buffer.as_ref().map_or(&[][..], |buffer| &buffer.bytes()[..self.piece]);
                let slices = [IoSlice::new(head), IoSlice::new(piece)];
                let n = match Pin::new(&mut *self.stream).poll_write_vectored(cx, &slices) {
                    Poll::Pending => return Ok(false),
                    Poll::Ready(Ok(n @ 1..)) => n,
                    Poll::Ready(_) => return Err(End::Gone),
                };
                self.told |= self.begun();
                let of_head = n.min(self.conn.down.len() - self.down_at);
                self.down_at += of_head;
                self.take_piece(n - of_head);
            }
            self.conn.down.clear();
            self.down_at = 0;
            if matches!(self.answer, Answer::Complete) {
                return self.poll_flush(cx);
            }
            if self.buffer.is_some() && self.digest()? {
                continue;
            }
            match self.poll_wire(cx) {
                Poll::Pending => {
                    // Nothing more for now: what was held back leaves.
                    self.poll_flush(cx)?;
                    self.waits.answer_since.get_or_insert_with(clock::now);
                    return Ok(false);
                }
                Poll::Ready(Ok(1..)) => {
                    self.heard = true;
                    self.waits.answer_since = None;
                }
                Poll::Ready(Ok(0)) if matches!(self.answer, Answer::Body(Framing::Close)) => {
                    self.conn.down.extend_from_slice(LAST_CHUNK);
                    self.answer = Answer::Complete;
                }
                Poll::Ready(_) => return Err(self.broke()),
            }
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        match Pin::new(&mut *self.stream).poll_flush(cx) {
            Poll::Pending => Ok(false),
            Poll::Ready(Ok(())) => Ok(true),
            Poll::Ready(Err(_)) => Err(End::Gone),
        }
    }

    fn poll_wire(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<usize>> {
        if self.buffer.is_none() {
            match self.conn.wire.poll_read_ready(cx) {
                Poll::Ready(Ok(())) => self.buffer = Some(lock(self.pool).buffer()),
                Poll::Ready(Err(err)) => return Poll::Ready(Err(err)),
                Poll::Pending => return Poll::Pending,
            }
        }
        let buffer = self.buffer.as_mut().expect("invariant: taken above");
        let read = buffer.poll_fill(&mut self.conn.wire, cx);
        if read.is_pending() && buffer.bytes().is_empty() {
            self.buffer.take().into_iter().for_each(|buffer| lock(self.pool).give_back(buffer));
        }
        read
    }

    fn take_piece(&mut self, n: usize) {
        if n > 0
            && let Some(buffer) = &mut self.buffer
        {
            buffer.consume(n);
            self.piece -= n;
            self.sent += n as u64;
        }
    }

    /// Behind the end of its request, a client that says nothing more and closes has left.
    fn client_has_left(&mut self, cx: &mut Context<'_>) -> bool {
        let mut byte = [0];
        Pin::new(&mut *self.stream).poll_read(cx, &mut ReadBuf::new(&mut byte)).is_ready()
    }

    /// The deadline that comes first, and what it means when it passes.
    fn deadline(&self) -> Option<(Timestamp, End)> {
        let late = if self.begun() { End::Gone } else { End::Broke { late: true, silent: false } };
        let endpoint = self.waits.endpoint(self.begun(), self.exchange);
        let client = self.waits.client_since.map(|since| since + self.exchange.connection.guard.body_timeout);
        let endpoint = endpoint.map(|at| (at, late));
        let client = client.map(|at| (at, self.fail(Failure::ClientLate)));
        [endpoint, client].into_iter().flatten().min_by_key(|(at, _)| *at)
    }

    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let Some((at, end)) = self.deadline() else { return Poll::Pending };
        let passed = self.conn.alarm.poll(cx, at);
        if passed.is_ready() && self.begun() && self.waits.for_the_endpoint_only() {
            self.exchange.answer_broke(true, clock::now());
        }
        passed.map(|()| end)
    }

    fn broke(&mut self) -> End {
        if !self.begun() {
            return End::Broke { late: false, silent: !self.heard };
        }
        self.exchange.answer_broke(false, clock::now());
        End::Gone
    }

    fn fail(&self, failure: Failure) -> End {
        if self.told { End::Gone } else { End::Failed(failure) }
    }
}

/// The pool. A panic between two of its lines can't leave it half changed.
pub fn lock(pool: &Mutex<Pool>) -> std::sync::MutexGuard<'_, Pool> {
    pool.lock().unwrap_or_else(PoisonError::into_inner)
}
