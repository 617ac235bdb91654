//! The body of an HTTP/2 request: does the client bring it fast enough?
//!
//! The door counts what comes in on the whole connection, each byte at once; which stream it belongs to is known only
//! when its frame is complete. So each body that is waited for is credited with its even share, and a client that sends
//! several at a time must keep the minimum rate for each.
//!
//! # Not here
//!
//! Bodies of HTTP/1 requests have their connection for themselves: `door::stream` watches them.

use std::sync::Arc;
use std::time::Duration;

use tidegate_model::time::Timestamp;

use crate::door::pace::Pace;
use crate::door::pulse::Pulse;
use crate::door::refusal::Refusal;

/// See the module.
#[derive(Debug)]
pub struct Body {
    pulse: Arc<Pulse>,
    pace: Pace,
    seen: u64,
    given_up: bool,
}

impl Body {
    /// A body that is waited for from now on, at `rate` bytes a second and with `patience` for silence.
    pub fn new(pulse: Arc<Pulse>, rate: u64, patience: Duration) -> Self {
        pulse.began();
        Self { seen: pulse.bytes(), pulse, pace: Pace::new(rate, patience), given_up: false }
    }

    /// When it will be too late.
    pub fn late(&mut self, now: Timestamp) -> Timestamp {
        self.pace.wait(now)
    }

    /// A piece has come: the client is waited for no more, until [`Body::late`] asks again.
    pub fn came(&mut self, now: Timestamp) {
        self.credit(now);
    }

    /// Credits what has come in, and tells when it will be too late then; `None` when it is too late now.
    pub fn look(&mut self, now: Timestamp) -> Option<Timestamp> {
        self.credit(now);
        let late = self.pace.wait(now);
        if late > now {
            return Some(late);
        }
        self.given_up = true;
        self.pulse.refused(Refusal::SlowBody);
        None
    }

    fn credit(&mut self, now: Timestamp) {
        let bytes = self.pulse.bytes();
        let fresh = bytes - std::mem::replace(&mut self.seen, bytes);
        self.pace.moved(fresh / self.pulse.bodies().max(1) as u64, || now);
    }

    /// Whether it came too slowly.
    pub fn is_given_up(&self) -> bool {
        self.given_up
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        self.pulse.ended();
    }
}
