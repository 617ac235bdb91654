//! Recordings of live requests, for `tidegate record`: taken on the way, written by the admin listener's thread.
//!
//! ```text
//! carriers:      Reel (head, body up to the cap) ──try_send──▶ queue
//! admin thread:                                                queue ─▶ redact ─▶ JSON lines ─▶ whoever asked
//! ```
//!
//! # Invariants
//!
//! - A visitor waits for nothing here: what a request does is an atomic load, and where somebody records, a copy and a
//!   `try_send`. What a bound refuses isn't recorded, and is counted.
//! - Everything is bounded: recordings, their length, what is queued, bytes that are held.
//! - What is secret leaves the process nowhere: it is taken out before a line is written (`secrets`).
//! - A recording ends with whoever asked for it.
//!
//! # Not here
//!
//! How a line is written is `model::scenario::recording`; who may record: whoever reaches the admin listener.

mod lines;
mod reel;
mod secrets;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use prometheus::{PullingGauge, Registry};
use tidegate_model::time::Timestamp;
use tokio::sync::mpsc;

use crate::shadow::budget::ByteBudget;

pub use lines::Lines;
pub use reel::Reel;
use reel::Taken;
pub use secrets::Secrets;

/// Recordings at once. Beyond it a new one is refused.
const AT_ONCE: usize = 2;

/// The longest recording.
pub const LONGEST: Duration = Duration::from_secs(3_600);

/// Bytes of a body that a recording may keep at most.
pub const LARGEST_BODY: u64 = 4 << 20;

/// Requests that wait to be written. Beyond it a request is lost and counted.
const QUEUE: usize = 1_024;

/// Bytes that requests being recorded, or waiting to be written, may hold together. Beyond it they are lost and counted.
const HELD: u64 = 32 << 20;

/// All of it, in the parts that samples are given in.
pub const WHOLE: u32 = 10_000;

/// What is recorded.
#[derive(Clone, Debug)]
pub struct Wish {
    /// Of this route only.
    pub route: Option<String>,
    /// For how long, [`LONGEST`] at most.
    pub lasts: Duration,
    /// Which share of the requests, in hundredths of a percent.
    pub sample: u32,
    /// Bytes of a body that are kept. A longer body is left out.
    pub body_cap: u64,
    /// What is taken out.
    pub secrets: Secrets,
}

/// Knows who records. Outlives snapshots.
pub struct Recorder {
    on: AtomicBool,
    sessions: ArcSwap<Vec<Arc<Session>>>,
    /// Taken to begin or end a recording.
    change: Mutex<()>,
    budget: Arc<ByteBudget>,
}

/// One recording.
pub(crate) struct Session {
    wish: Wish,
    began: Timestamp,
    /// Unix milliseconds.
    began_unix: u64,
    queue: mpsc::Sender<Arc<Taken>>,
    lost: AtomicU64,
}

/// There are [`AT_ONCE`] recordings already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy;

impl Default for Recorder {
    fn default() -> Self {
        Self {
            on: AtomicBool::new(false),
            sessions: ArcSwap::default(),
            change: Mutex::default(),
            budget: ByteBudget::new(HELD),
        }
    }
}

impl Recorder {
    /// Shows on `registry` how many recordings are under way.
    ///
    /// # Errors
    ///
    /// `registry` has the gauge already.
    pub fn register(self: &Arc<Self>, registry: &Registry) -> Result<(), prometheus::Error> {
        let shown = Arc::clone(self);
        let (name, help) = ("tidegate_recordings", "Recordings of live requests that are under way.");
        let gauge = PullingGauge::new(name, help, Box::new(move || shown.sessions.load().len() as f64))?;
        registry.register(Box::new(gauge))
    }

    /// Begins a recording, which ends when its lines are dropped.
    ///
    /// # Errors
    ///
    /// [`Busy`].
    pub fn begin(self: &Arc<Self>, wish: Wish, now: Timestamp) -> Result<Lines, Busy> {
        let _change = self.change.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sessions = Vec::clone(&self.sessions.load());
        if sessions.len() >= AT_ONCE {
            return Err(Busy);
        }
        let (queue, inbox) = mpsc::channel(QUEUE);
        let began_unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let began_unix = u64::try_from(began_unix).unwrap_or(u64::MAX);
        let session = Arc::new(Session { wish, began: now, began_unix, queue, lost: AtomicU64::new(0) });
        sessions.push(Arc::clone(&session));
        self.sessions.store(Arc::new(sessions));
        self.on.store(true, Relaxed);
        Ok(Lines::new(Arc::clone(self), session, inbox))
    }

    fn end(&self, session: &Arc<Session>) {
        let _change = self.change.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sessions = Vec::clone(&self.sessions.load());
        sessions.retain(|other| !Arc::ptr_eq(other, session));
        self.on.store(!sessions.is_empty(), Relaxed);
        self.sessions.store(Arc::new(sessions));
    }

    /// Whether anybody records.
    #[inline]
    pub fn is_on(&self) -> bool {
        self.on.load(Relaxed)
    }
}

impl std::fmt::Debug for Recorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Recorder({})", self.sessions.load().len())
    }
}

#[cfg(test)]
mod tests;
