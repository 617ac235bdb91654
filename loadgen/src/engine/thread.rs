//! One sending thread: its clock, its flows, its connections, its pen. Nothing in it is shared with another thread but
//! what is only read, and the word to end.
//!
//! # Invariants
//!
//! - Every arrival of this thread's part is begun, or counted as unsent, at the first look at the clock after it was due.
//!   The clock is looked at when the alarm rings and after each answer.
//! - When it ends, each request that is still open has been written down with its age.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use tidegate_model::scenario::plan::Protocol;
use tokio::runtime::{Builder, LocalOptions};

use super::ender::Ender;
use super::http2::Lines;
use super::pool::Pool;
use super::prepare::Prepared;
use super::slots::{Open, Slots};
use super::visit::visit;
use crate::Failure;
use crate::clock::{self, Alarm, NEVER};
use crate::fill::Supply;
use crate::record::{Gauges, Recorder, Sample};
use crate::schedule::{Arrival, Arrivals, Deal};

/// Bytes of the buffer that all answers of a thread pass through.
const BUFFER: usize = 65_536;

/// The longest that a thread sleeps before it looks whether it is to end, in nanoseconds.
const LOOK: u64 = 50_000_000;

/// How long requests that are open at the end are waited for, at most, in nanoseconds: to see how long they really take.
/// Where their own timeouts are shorter, those end them. What is still open then is counted as unanswered, with its age.
const GRACE: u64 = 5_000_000_000;

/// A second.
const SECOND: u64 = 1_000_000_000;

/// Tasks that are run before the sockets are looked at again, where there are always more. The longest that an answer
/// waits to be seen is the time that so many take.
const TASKS_A_TURN: u32 = 31;

/// What a thread is to do.
pub struct Job {
    /// Its part.
    pub deal: Deal,
    /// Its arrivals; `None`: the closed model.
    pub arrivals: Option<Arrivals>,
    /// When the run begins; nanoseconds of the monotonic clock.
    pub start: u64,
    /// How long its schedule is, in nanoseconds.
    pub lasts: u64,
    /// Flows under way at most; in the closed model, visitors.
    pub flows: usize,
    /// Connections at most.
    pub connections: u32,
    /// What is sent.
    pub prepared: Arc<Prepared>,
    /// What templates are filled with.
    pub supply: Supply,
    /// The word to end.
    pub ender: Ender,
}

/// One sending thread.
pub struct Thread {
    /// What is sent.
    pub prepared: Arc<Prepared>,
    /// Its part.
    pub deal: Deal,
    /// Its flows.
    pub slots: Slots,
    /// Its connections.
    pub pool: RefCell<Pool>,
    /// Its shared connections, where it speaks HTTP/2.
    pub lines: Lines,
    /// What templates are filled with.
    pub supply: RefCell<Supply>,
    /// Its pen.
    pub recorder: RefCell<Recorder>,
    /// Where answers pass through.
    pub buffer: RefCell<Box<[u8]>>,
    /// Connections made so far.
    pub connections: Cell<u64>,
    alarm: Alarm,
    ender: Ender,
    start: u64,
    /// When no more arrivals begin.
    end: Cell<u64>,
    flows: usize,
    arrivals: RefCell<Option<Arrivals>>,
    next: Cell<Option<Arrival>>,
    /// In the closed model: how many flows it has begun.
    begun: Option<Cell<u64>>,
    /// Before this, a look at the clock finds nothing to do.
    idle_until: Cell<u64>,
    next_cut: Cell<u64>,
    cpu: Cell<(u64, u64)>,
}

/// Runs a thread to its end. Blocks.
///
/// # Errors
///
/// When the system has no descriptor left for its runtime.
pub fn run(job: Job, recorder: Recorder) -> std::io::Result<()> {
    clock::be_punctual();
    let runtime =
        Builder::new_current_thread().enable_io().event_interval(TASKS_A_TURN).build_local(LocalOptions::default())?;
    runtime.block_on(async {
        let thread = Rc::new(Thread::new(job, recorder)?);
        thread.work().await;
        Ok(())
    })
}

impl Thread {
    fn new(job: Job, recorder: Recorder) -> std::io::Result<Self> {
        let mut arrivals = job.arrivals;
        let next = arrivals.as_mut().and_then(Iterator::next);
        let client = &job.prepared.client;
        let places = job.prepared.places.len();
        let streams = if client.keep_alive { client.streams } else { 1 };
        // Shared connections aren't given up for other places, so each has one at least.
        let least = if client.protocol == Protocol::Http2 { places as u32 } else { 1 };
        Ok(Self {
            slots: Slots::new(),
            lines: Lines::new(places, streams),
            pool: RefCell::new(Pool::new(places, job.connections.max(least))),
            supply: RefCell::new(job.supply),
            recorder: RefCell::new(recorder),
            buffer: RefCell::new(vec![0; BUFFER].into_boxed_slice()),
            connections: Cell::new(0),
            alarm: Alarm::new()?,
            ender: job.ender,
            start: job.start,
            end: Cell::new(job.start.saturating_add(job.lasts)),
            flows: job.flows,
            begun: arrivals.is_none().then(|| Cell::new(0)),
            arrivals: RefCell::new(arrivals),
            next: Cell::new(next),
            idle_until: Cell::new(0),
            next_cut: Cell::new(job.start + SECOND),
            cpu: Cell::new((clock::thread_cpu(), job.start)),
            prepared: job.prepared,
            deal: job.deal,
        })
    }

    async fn work(self: Rc<Self>) {
        if self.begun.is_some() {
            self.until(self.start).await;
            for _ in 0..self.flows {
                self.begin(Arrival { ordinal: 0, at: 0 });
            }
        }
        loop {
            let now = clock::now();
            self.tick(now);
            if self.is_over(now) {
                break;
            }
            let due = self.idle_until.get();
            self.alarm.set(due, now);
            self.alarm.rung().await;
            clock::spin(self.idle_until.get());
        }
        self.leave();
    }

    async fn until(&self, at: u64) {
        while clock::now() < at {
            self.alarm.set(at, clock::now());
            self.alarm.rung().await;
            clock::spin(at);
        }
    }

    /// Does what is due. Cheap where nothing is.
    pub fn tick(self: &Rc<Self>, now: u64) {
        if now < self.idle_until.get() {
            return;
        }
        if now >= self.next_cut.get() {
            self.cut(now);
        }
        if let Some(at) = self.ender.ended_at() {
            self.end.set(self.end.get().min(at));
        }
        while let Some(arrival) = self.next.get()
            && self.start + arrival.at <= now
        {
            if self.start + arrival.at >= self.end.get() {
                self.next.set(None);
                break;
            }
            self.next.set(self.arrivals.borrow_mut().as_mut().and_then(Iterator::next));
            self.begin(arrival);
        }
        self.slots.expire(now);
        let next = self.next.get().map_or(NEVER, |arrival| self.start + arrival.at);
        let wake = next.min(self.slots.next()).min(self.next_cut.get()).min(now + LOOK);
        self.idle_until.set(wake);
    }

    /// Sets the deadline of a slot.
    pub fn deadline(&self, slot: usize, at: u64) {
        if let Some(at) = self.slots.until(slot, at)
            && at < self.idle_until.get()
        {
            self.idle_until.set(at);
            self.alarm.set(at, clock::now());
        }
    }

    /// A connection is closed, or could not be made: somebody may wait for the room.
    pub fn closed(&self) {
        let waiting = self.pool.borrow_mut().closed();
        if let Some(waiting) = waiting {
            self.slots.call(waiting);
        }
    }

    /// Begins a flow, unless too many are under way.
    fn begin(self: &Rc<Self>, arrival: Arrival) {
        let slot = match self.slots.free() {
            Some(slot) => slot,
            None if self.slots.busy() < self.flows => {
                let slot = self.slots.add();
                tokio::task::spawn_local(visit(Rc::clone(self), slot));
                slot
            }
            None => {
                let step = self.prepared.steps_of(self.prepared.flow(arrival.ordinal).0).start;
                let mut recorder = self.recorder.borrow_mut();
                let counts = recorder.counts(step as u16);
                counts.due += 1;
                counts.unsent += 1;
                return;
            }
        };
        self.slots.begin(slot, arrival);
    }

    /// When an arrival is due, on the clock; in the closed model, now.
    pub fn due(&self, arrival: Arrival) -> u64 {
        if self.is_closed() { clock::now() } else { self.start + arrival.at }
    }

    /// Whether visitors begin anew when they are done.
    pub fn is_closed(&self) -> bool {
        self.begun.is_some()
    }

    /// In the closed model, the next flow of a visitor; `None` at the end, and in the open model.
    pub fn again(&self) -> Option<Arrival> {
        let begun = self.begun.as_ref()?;
        if clock::now() >= self.end.get() {
            return None;
        }
        let mine = begun.replace(begun.get() + 1);
        Some(Arrival { ordinal: self.deal.index + mine * self.deal.of, at: 0 })
    }

    /// Whether no more steps are to begin.
    pub fn is_ending(&self, now: u64) -> bool {
        now >= self.end.get()
    }

    fn is_over(&self, now: u64) -> bool {
        if self.next.get().is_some() || now < self.end.get() {
            return false;
        }
        self.slots.busy() == 0 || now >= self.end.get().saturating_add(GRACE) || self.ender.is_hurried()
    }

    fn cut(&self, now: u64) {
        let gauges = self.gauges(now);
        let over = (now - self.start) / SECOND;
        self.next_cut.set(self.start + (over + 1) * SECOND);
        self.recorder.borrow_mut().cut(gauges, u32::try_from(over).unwrap_or(u32::MAX));
    }

    fn gauges(&self, now: u64) -> Gauges {
        let cpu = clock::thread_cpu();
        let (cpu_before, before) = self.cpu.replace((cpu, now));
        Gauges {
            in_flight: self.slots.busy() as u64,
            connections: u64::from(self.pool.borrow().open()),
            cpu: (cpu - cpu_before) as f64 / now.saturating_sub(before).max(1) as f64,
            open: self.slots.open().iter().map(|open| (open.step, now.saturating_sub(open.intended))).collect(),
        }
    }

    /// Writes down what is open, and ends.
    fn leave(&self) {
        let now = clock::now();
        let open = self.slots.open();
        let mut gauges = self.gauges(now);
        gauges.open.clear();
        let mut recorder = self.recorder.borrow_mut();
        for Open { step, intended, sent } in open {
            recorder.example(step, Failure::Unanswered, || "open when the run ended; counted with its age".to_owned());
            recorder.sample(Sample {
                response: now.saturating_sub(intended),
                service: now.saturating_sub(sent),
                step,
                status: 0,
                failure: Some(Failure::Unanswered),
            });
        }
        recorder.end(gauges);
    }
}
