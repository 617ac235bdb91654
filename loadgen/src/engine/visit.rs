//! A visitor: a task that does one flow after another. It lives as long as its thread, so that a flow costs no task.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tidegate_model::scenario::plan::Protocol;

use super::connect::connect;
use super::fault::Fault;
use super::h1::{Answer, Exchange, Reader, exchange};
use super::io::Io;
use super::pool::Got;
use super::prepare::Request;
use super::share;
use super::slots::Open;
use super::thread::Thread;
use super::wire::Wire;
use crate::Failure;
use crate::clock::{self, NEVER};
use crate::fill::{Unfilled, Visit};
use crate::record::Sample;
use crate::schedule::Arrival;

/// How long a visitor of the closed model rests after a request that failed, in nanoseconds: a target that refuses at
/// once must not be asked a hundred thousand times a second.
const REST: u64 = 10_000_000;

/// Does the flows that its slot is given, until the thread ends.
pub async fn visit(thread: Rc<Thread>, slot: usize) {
    poll_fn(|cx| {
        thread.slots.wakes(slot, cx.waker());
        Poll::Ready(())
    })
    .await;
    let mut baggage = Baggage::default();
    loop {
        let mut arrival = poll_fn(|_| thread.slots.begun(slot).map_or(Poll::Pending, Poll::Ready)).await;
        loop {
            if thread.is_closed() {
                let Some(next) = thread.again() else { break };
                arrival = next;
            }
            let well = flow(&thread, slot, arrival, &mut baggage).await;
            if !thread.is_closed() {
                break;
            }
            if !well {
                sleep(&thread, slot, clock::now() + REST).await;
            }
        }
        thread.deadline(slot, NEVER);
        thread.slots.release(slot);
        thread.tick(clock::now());
    }
}

/// What a visitor carries along, and uses again for the next flow.
#[derive(Default)]
struct Baggage {
    visit: Visit,
    /// The request, where it is filled.
    request: Vec<u8>,
    body: Vec<u8>,
}

/// Does the steps of a flow in turn. Whether all went well.
async fn flow(thread: &Rc<Thread>, slot: usize, arrival: Arrival, baggage: &mut Baggage) -> bool {
    let mut intended = thread.due(arrival);
    let (flow, row) = thread.prepared.flow(arrival.ordinal);
    let steps = thread.prepared.steps_of(flow);
    let begun = thread.supply.borrow_mut().begin(&mut baggage.visit, flow, arrival.ordinal, row);
    if let Err(unfilled) = begun {
        count_unfilled(thread, steps.start as u16, intended, unfilled);
        return false;
    }
    let mut dice = None;
    for index in steps {
        let step = &thread.prepared.steps[index];
        if dice.is_some() && thread.is_ending(clock::now()) {
            return true;
        }
        if let Wire::Filled(pieces) = &step.wire {
            let Baggage { visit, request, body } = baggage;
            let unix_millis = clock::unix_now() / 1_000_000;
            let filled = pieces.fill(&mut thread.supply.borrow_mut(), visit, unix_millis, request, body);
            if let Err(unfilled) = filled {
                count_unfilled(thread, index as u16, intended, unfilled);
                return false;
            }
        }
        if !request(thread, slot, index as u16, intended, baggage).await {
            return false;
        }
        let ended = clock::now();
        thread.tick(ended);
        intended = ended;
        let dice = dice.get_or_insert_with(|| SmallRng::seed_from_u64(thread.prepared.seed ^ arrival.ordinal));
        if let Some(think) = step.think {
            let nanos = dice.random_range(think.least..=think.most.max(think.least)).as_nanos();
            intended += u64::try_from(nanos).unwrap_or(0);
            sleep(thread, slot, intended).await;
        }
    }
    true
}

/// Counts a request that was due, and for which there were no values.
fn count_unfilled(thread: &Thread, index: u16, intended: u64, unfilled: Unfilled) {
    let mut recorder = thread.recorder.borrow_mut();
    let counts = recorder.counts(index);
    counts.due += 1;
    counts.sent += 1;
    recorder.example(index, unfilled.failure(), || unfilled.text().to_owned());
    let response = clock::now().saturating_sub(intended);
    let failure = Some(unfilled.failure());
    recorder.sample(Sample { response, service: 0, step: index, status: 0, failure });
}

/// Until then.
async fn sleep(thread: &Thread, slot: usize, until: u64) {
    thread.deadline(slot, until);
    poll_fn(|_| if thread.slots.is_expired(slot) { Poll::Ready(()) } else { Poll::Pending }).await;
}

/// Sends a request and writes down what became of it. Whether the answer is good.
async fn request(thread: &Rc<Thread>, slot: usize, index: u16, intended: u64, baggage: &mut Baggage) -> bool {
    let begun = clock::now();
    {
        let mut recorder = thread.recorder.borrow_mut();
        let counts = recorder.counts(index);
        counts.due += 1;
        counts.sent += 1;
        if !thread.is_closed() {
            recorder.lag(begun.saturating_sub(intended));
        }
    }
    let mut open = Open { step: index, intended, sent: begun };
    thread.slots.opens(slot, Some(open));
    let done = if thread.prepared.client.protocol == Protocol::Http2 {
        Box::pin(share::carry(thread, slot, &mut open, &baggage.request)).await
    } else {
        carry(thread, slot, &mut open, &baggage.request).await
    };
    let now = clock::now();
    thread.slots.opens(slot, None);
    let status = done.as_ref().map_or(0, |answer| answer.status);
    let fault = match done {
        Ok(answer) => examine(&thread.prepared.steps[usize::from(index)], &answer, &mut baggage.visit).err(),
        Err(fault) => Some(fault),
    };
    let mut recorder = thread.recorder.borrow_mut();
    let failure = fault.as_ref().map(|fault| fault.failure);
    if let Some(fault) = fault {
        recorder.example(index, fault.failure, || fault.text.into_owned());
    }
    recorder.sample(Sample {
        response: now.saturating_sub(intended),
        service: now.saturating_sub(open.sent),
        step: index,
        status,
        failure,
    });
    failure.is_none()
}

/// Whether an answer is good.
fn examine(step: &Request, answer: &Answer, visit: &mut Visit) -> Result<(), Fault> {
    let head = step.examiner.head(answer.status, &answer.headers, visit);
    let done = head.and_then(|()| step.examiner.body(&answer.body, answer.length, visit));
    done.map_err(|refused| Fault::new(refused.failure, refused.to_string()))
}

/// Carries a request over a kept connection or a new one.
///
/// A kept connection may be closed by the target at the very moment when a request leaves. A request that may be sent
/// twice is then sent once more on a new connection, as clients do (RFC 9112, section 9.3.1), and counted as resent. Its
/// times go on.
async fn carry(thread: &Rc<Thread>, slot: usize, open: &mut Open, filled: &[u8]) -> Result<Answer, Fault> {
    let step = &thread.prepared.steps[usize::from(open.step)];
    let bytes = match &step.wire {
        Wire::Fixed(bytes) => bytes,
        Wire::Filled(_) => filled,
    };
    let mut again = false;
    loop {
        let (mut io, kept) = connection(thread, slot, step.place, again).await?;
        let now = clock::now();
        if !again {
            open.sent = now;
            thread.slots.opens(slot, Some(*open));
        }
        thread.deadline(slot, open.sent.saturating_add(step.timeout));
        let reader = Reader::new(step.bodiless, step.at_most, step.keeps);
        let mut it = Exchange { request: bytes, reader, out: 0, back: 0 };
        let done = exchange(&thread.slots, slot, &mut io, &mut it, &thread.buffer).await;
        thread.deadline(slot, NEVER);
        {
            let mut recorder = thread.recorder.borrow_mut();
            let counts = recorder.counts(open.step);
            counts.bytes_out += it.out;
            counts.bytes_in += it.back;
        }
        let stale = kept && it.is_untouched();
        let (answer, reusable) = it.done();
        let waiting = if done.is_ok() && reusable && thread.prepared.client.keep_alive {
            thread.pool.borrow_mut().put(step.place, io)
        } else {
            drop(io);
            thread.pool.borrow_mut().closed()
        };
        if let Some(waiting) = waiting {
            thread.slots.call(waiting);
        }
        match done {
            Ok(()) => return Ok(answer),
            Err(fault) if fault.failure == Failure::Reset && stale && step.idempotent && !again => {
                thread.recorder.borrow_mut().counts(open.step).resent += 1;
                again = true;
            }
            Err(fault) => return Err(fault),
        }
    }
}

/// A connection to a place, and whether it is a kept one.
async fn connection(thread: &Rc<Thread>, slot: usize, place: usize, new: bool) -> Result<(Io, bool), Fault> {
    let mut waits = false;
    loop {
        let got = {
            let mut pool = thread.pool.borrow_mut();
            let got = if new { pool.leave() } else { pool.take(place) };
            if matches!(got, Got::Nothing) {
                pool.wait(slot);
            }
            got
        };
        match got {
            Got::Kept(io) => return Ok((io, true)),
            Got::Leave => return Box::pin(make(thread, slot, place)).await.map(|io| (io, false)),
            Got::Nothing => {
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
                    thread.pool.borrow_mut().leave_line(slot);
                    return Err(Fault::new(Failure::Connect, "all connections that there may be were in use"));
                }
            }
        }
    }
}

/// Makes a connection, in time. The deadline stays.
pub async fn make(thread: &Rc<Thread>, slot: usize, place: usize) -> Result<Io, Fault> {
    let number = thread.connections.replace(thread.connections.get() + 1);
    let timeout = u64::try_from(thread.prepared.client.connect_timeout.as_nanos()).unwrap_or(NEVER);
    thread.deadline(slot, clock::now().saturating_add(timeout));
    let source = thread.prepared.source(number, thread.deal);
    let mut making = std::pin::pin!(connect(&thread.prepared.places[place], source));
    let made = poll_fn(|cx| match Pin::as_mut(&mut making).poll(cx) {
        Poll::Pending if thread.slots.is_expired(slot) => {
            Poll::Ready(Err(Fault::new(Failure::ConnectTimeout, "the connection was not made in time")))
        }
        done => done,
    })
    .await;
    if made.is_err() {
        thread.closed();
    }
    made
}
