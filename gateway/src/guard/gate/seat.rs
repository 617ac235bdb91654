//! A place at a gate, and what is learnt from how it was used.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tidegate_model::time::Timestamp;

use super::Gate;
use crate::guard::known::SourceId;
use crate::guard::slo::{Begun, Slo};

/// A place in a service's concurrency. Dropped, it is given back.
#[derive(Debug)]
pub struct Seat {
    pub(super) gate: Arc<Gate>,
    pub(super) source: SourceId,
    pub(super) counts: bool,
    pub(super) is_watched: bool,
    pub(super) learnt: bool,
    pub(super) dyed: bool,
    pub(super) begun: Option<Begun>,
}

impl Seat {
    /// A place at a gate that bounds nothing. For tests of what comes after.
    #[cfg(test)]
    pub(crate) fn anywhere() -> Self {
        let metrics = crate::record::Metrics::new().service("any");
        let gate = Arc::new(Gate::new("any", super::Capacity::Off, Arc::new(super::Known::new(0, 0)), metrics));
        gate.seat(SourceId::from_hash(0), false)
    }

    /// Has `slo` hear what becomes of this live request, which came at `now`.
    pub fn heard_by(&mut self, slo: Option<&Arc<Slo>>, now: Timestamp) {
        self.begun = slo.map(|slo| slo.begin(now));
    }

    /// The request came to nothing, and not by its client's doing.
    pub fn failed(&mut self, now: Timestamp) {
        if let Some(begun) = self.begun.take() {
            begun.ended(true, now);
        }
    }

    /// The client has left before an answer began.
    pub fn left(&mut self, now: Timestamp) {
        if let Some(begun) = self.begun.take() {
            begun.left(now);
        }
    }

    /// The answer has begun, with this status, `latency` after the last try was sent. Gives the place back: what
    /// streams on, or talks on through a WebSocket, doesn't wait in anybody's queue.
    pub fn answered(&mut self, status: u16, latency: Duration, now: Timestamp) {
        if let Some(begun) = self.begun.take() {
            begun.ended(status >= 500, now);
        }
        if self.dyed {
            return self.leave();
        }
        if self.counts && status < 500 {
            // A fast error says nothing about how long work takes.
            self.gate.hot.answered.fetch_add(1, Relaxed);
            self.gate.hot.latency.fetch_add(latency.as_nanos() as u64, Relaxed);
        }
        self.leave();
        if !self.gate.is_off.load(Relaxed) {
            self.gate.look(now);
        }
        if status < 400 && !self.learnt && !self.gate.is_attack() {
            self.learnt = true;
            self.gate.known.learn(self.source, now);
        }
    }

    fn leave(&mut self) {
        if std::mem::take(&mut self.counts) {
            let in_flight = if self.dyed { &self.gate.hot.dyed } else { &self.gate.hot.in_flight };
            in_flight.fetch_sub(1, Relaxed);
        }
        if std::mem::take(&mut self.is_watched) {
            self.gate.hot.watched.store(0, Relaxed);
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.leave();
    }
}
