//! Carries a request on a connection that it shares with others (HTTP/2).

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use bytes::Bytes;

use super::fault::Fault;
use super::h1::Answer;
use super::http2::{Got, Line, translate};
use super::pool;
use super::slots::Open;
use super::thread::Thread;
use super::visit::make;
use super::wire::Wire;
use crate::Failure;
use crate::clock::{self, NEVER};

/// Carries a request.
pub async fn carry(thread: &Rc<Thread>, slot: usize, open: &mut Open, filled: &[u8]) -> Result<Answer, Fault> {
    let step = &thread.prepared.steps[usize::from(open.step)];
    let line = line(thread, slot, step.place).await?;
    open.sent = clock::now();
    thread.slots.opens(slot, Some(*open));
    thread.deadline(slot, open.sent.saturating_add(step.timeout));
    let tls = thread.prepared.places[step.place].tls.is_some();
    let request: Option<(http::Request<()>, Bytes)> = match (&step.wire, &step.http2) {
        (Wire::Fixed(_), Some(request)) => Some(request.clone()),
        (Wire::Fixed(bytes), None) => translate(bytes, tls),
        (Wire::Filled(_), _) => translate(filled, tls),
    };
    let done = match request {
        None => Err(Fault::new(Failure::Malformed, "the request can't be said in HTTP/2")),
        Some((request, body)) => {
            let mut exchange = pin!(line.exchange(request, body, step.at_most, step.keeps));
            poll_fn(|cx| match exchange.as_mut().poll(cx) {
                Poll::Pending if thread.slots.is_expired(slot) => {
                    Poll::Ready(Err(Fault::new(Failure::Timeout, "the answer was not complete in time")))
                }
                done => done,
            })
            .await
        }
    };
    thread.deadline(slot, NEVER);
    {
        let (out, back) = thread.lines.bytes();
        let mut recorder = thread.recorder.borrow_mut();
        let counts = recorder.counts(open.step);
        counts.bytes_out += out;
        counts.bytes_in += back;
    }
    if let Some(waiting) = thread.lines.put(step.place, &line, thread.prepared.client.keep_alive) {
        thread.slots.call(waiting);
    }
    done
}

/// A connection with room for a stream.
async fn line(thread: &Rc<Thread>, slot: usize, place: usize) -> Result<Rc<Line>, Fault> {
    let mut waits = false;
    loop {
        let failed = match thread.lines.take(place, slot) {
            Got::Line(line) => return Ok(line),
            Got::Wait(failed) => failed,
            Got::Make => {
                let leave = thread.pool.borrow_mut().leave();
                if matches!(leave, pool::Got::Leave) {
                    return Box::pin(begin(thread, slot, place)).await;
                }
                thread.lines.wait(place, slot)
            }
        };
        if !waits {
            waits = true;
            let timeout = thread.prepared.client.connect_timeout.as_nanos();
            thread.deadline(slot, clock::now().saturating_add(u64::try_from(timeout).unwrap_or(NEVER)));
        }
        poll_fn(|_| {
            let ready = thread.slots.called(slot) || thread.slots.is_expired(slot);
            if ready { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        if thread.slots.is_expired(slot) {
            thread.lines.leave_line(place, slot);
            return Err(Fault::new(Failure::Connect, "all connections that there may be were in use"));
        }
        if let Some(fault) = thread.lines.failed_since(place, failed) {
            return Err(fault);
        }
    }
}

/// Makes a shared connection; its first stream is the caller's.
async fn begin(thread: &Rc<Thread>, slot: usize, place: usize) -> Result<Rc<Line>, Fault> {
    thread.lines.making(place);
    let made = async {
        let io = make(thread, slot, place).await?;
        let begun = {
            let mut begin = pin!(thread.lines.begin(io));
            poll_fn(|cx| match begin.as_mut().poll(cx) {
                Poll::Pending if thread.slots.is_expired(slot) => {
                    Poll::Ready(Err(Fault::new(Failure::ConnectTimeout, "the connection was not made in time")))
                }
                done => done,
            })
            .await
        };
        match begun {
            Ok((line, drive)) => {
                let it = Rc::clone(thread);
                tokio::task::spawn_local(async move {
                    drive.await;
                    it.closed();
                });
                Ok(line)
            }
            Err(fault) => {
                thread.closed();
                Err(fault)
            }
        }
    }
    .await;
    for waiting in thread.lines.made(place, made.as_ref()) {
        thread.slots.call(waiting);
    }
    made
}
