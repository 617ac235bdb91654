//! What a carrier may know of an HTTP/2 connection below its streams: whether bodies come in.
//!
//! An exchange sees a body by whole frames, and a frame may take its time on a slow line. The door sees every byte, but
//! doesn't know which request waits for it. So the door counts here, and the exchanges compare.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use super::listener::Terms;
use super::refusal::Refusal;

/// See the module.
#[derive(Debug)]
pub struct Pulse {
    /// Bytes of bodies that have come in on the connection.
    bytes: AtomicU64,
    /// Bodies that are waited for.
    bodies: AtomicUsize,
    terms: Arc<Terms>,
}

impl Pulse {
    pub(super) fn new(terms: Arc<Terms>) -> Self {
        Self { bytes: AtomicU64::new(0), bodies: AtomicUsize::new(0), terms }
    }

    pub(super) fn set(&self, bytes: u64) {
        self.bytes.store(bytes, Relaxed);
    }

    /// Bytes of bodies that have come in on the connection so far.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    /// One more body is waited for, until [`Pulse::ended`].
    pub fn began(&self) {
        self.bodies.fetch_add(1, Relaxed);
    }

    /// A body is no longer waited for.
    pub fn ended(&self) {
        self.bodies.fetch_sub(1, Relaxed);
    }

    /// Bodies that are waited for.
    pub fn bodies(&self) -> usize {
        self.bodies.load(Relaxed)
    }

    /// Counts a request that was refused.
    pub fn refused(&self, why: Refusal) {
        self.terms.metrics.refused(why);
    }
}
