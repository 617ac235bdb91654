//! What a thread writes down while it sends. It fills a [`Batch`] and hands it to the collector when a second is over
//! or the batch is full; histograms are made there, so that the sending thread writes each answer down once.
//!
//! # Invariants
//!
//! - Each request that was sent becomes exactly one [`Sample`], whatever becomes of it.
//! - Nothing is dropped. Where the collector is [`BATCHES`] behind, the thread waits for it; that shows as lag.

use std::sync::mpsc::{Receiver, SyncSender};

use serde::{Deserialize, Serialize};

use crate::Failure;

/// Samples in one batch. A full one is handed on early.
pub const SAMPLES: usize = 16_384;

/// Batches on their way to the collector, for each thread; beyond it the thread waits.
pub const BATCHES: usize = 32;

/// One request that was sent.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// From the intended start to the end, in nanoseconds.
    pub response: u64,
    /// From the send to the end, in nanoseconds.
    pub service: u64,
    /// The step's index.
    pub step: u16,
    /// The answer's status; 0: none.
    pub status: u16,
    /// Why it has no good answer.
    pub failure: Option<Failure>,
}

/// Counts of one step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Requests that were due.
    pub due: u64,
    /// Those that were sent.
    pub sent: u64,
    /// Those that were not, for want of room.
    pub unsent: u64,
    /// Those sent once more on a new connection, because the kept one had been closed.
    pub resent: u64,
    /// Bytes sent, without TLS.
    pub bytes_out: u64,
    /// Bytes received, without TLS.
    pub bytes_in: u64,
}

/// How a thread is at the end of a second.
#[derive(Clone, Debug, Default)]
pub struct Gauges {
    /// Flows under way.
    pub in_flight: u64,
    /// Connections open.
    pub connections: u64,
    /// Share of a core that it used in that second.
    pub cpu: f64,
    /// Step and age (from the intended start, nanoseconds) of each request that is open.
    pub open: Vec<(u16, u64)>,
}

/// What a thread wrote down since the last one.
#[derive(Debug)]
pub struct Batch {
    /// The thread's index.
    pub thread: usize,
    /// The second of the run that it is about.
    pub second: u32,
    /// Requests that ended.
    pub samples: Vec<Sample>,
    /// Lags of requests that were sent, nanoseconds.
    pub lags: Vec<u64>,
    /// By step.
    pub counts: Vec<Counts>,
    /// The first of each kind of failure of each step, in words.
    pub examples: Vec<(u16, Failure, String)>,
    /// Where a second is over.
    pub gauges: Option<Gauges>,
    /// Whether it is the thread's last.
    pub last: bool,
}

impl Batch {
    /// An empty one.
    pub fn new(thread: usize, steps: usize) -> Self {
        Self {
            thread,
            second: 0,
            samples: Vec::with_capacity(SAMPLES),
            lags: Vec::with_capacity(SAMPLES),
            counts: vec![Counts::default(); steps],
            examples: Vec::new(),
            gauges: None,
            last: false,
        }
    }

    /// Forgets what is in it and keeps the room.
    pub fn clear(&mut self) {
        self.samples.clear();
        self.lags.clear();
        self.counts.fill(Counts::default());
        self.examples.clear();
        self.gauges = None;
    }
}

/// A thread's pen.
#[derive(Debug)]
pub struct Recorder {
    batch: Batch,
    full: SyncSender<Batch>,
    empty: Receiver<Batch>,
    /// Failures that each step has given an example of: a bit for each kind.
    shown: Vec<u32>,
}

impl Recorder {
    /// Hands full batches to one channel, and takes empty ones back from the other.
    pub fn new(thread: usize, steps: usize, full: SyncSender<Batch>, empty: Receiver<Batch>) -> Self {
        Self { batch: Batch::new(thread, steps), full, empty, shown: vec![0; steps] }
    }

    /// The counts of a step.
    pub fn counts(&mut self, step: u16) -> &mut Counts {
        &mut self.batch.counts[usize::from(step)]
    }

    /// Writes down how late the generator itself was.
    pub fn lag(&mut self, nanos: u64) {
        self.batch.lags.push(nanos);
        if self.batch.lags.len() >= SAMPLES {
            self.hand_over();
        }
    }

    /// Writes down how a request ended.
    pub fn sample(&mut self, sample: Sample) {
        self.batch.samples.push(sample);
        if self.batch.samples.len() >= SAMPLES {
            self.hand_over();
        }
    }

    /// Keeps the words of a failure where they are the first of their kind.
    pub fn example(&mut self, step: u16, failure: Failure, text: impl FnOnce() -> String) {
        let bit = 1 << (failure as u32);
        let shown = &mut self.shown[usize::from(step)];
        if *shown & bit == 0 {
            *shown |= bit;
            self.batch.examples.push((step, failure, text()));
        }
    }

    /// Ends a second. What comes from now on is about `next`.
    pub fn cut(&mut self, gauges: Gauges, next: u32) {
        self.batch.gauges = Some(gauges);
        self.hand_over();
        self.batch.second = next;
    }

    /// Ends the run.
    pub fn end(&mut self, gauges: Gauges) {
        self.batch.gauges = Some(gauges);
        self.batch.last = true;
        self.hand_over();
    }

    fn hand_over(&mut self) {
        let (thread, steps) = (self.batch.thread, self.batch.counts.len());
        let mut next = self.empty.try_recv().unwrap_or_else(|_| Batch::new(thread, steps));
        next.second = self.batch.second;
        // A collector that is gone wants nothing more.
        let _ = self.full.send(std::mem::replace(&mut self.batch, next));
    }
}
