//! Handles to the numbers of one route's shadow: see `handles`.

use std::sync::Arc;
use std::time::Duration;

use super::cells::{HISTOGRAM_SLOTS, Row};

/// Why a copy wasn't sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShadowDrop {
    /// `max_in_flight` copies are on their way.
    InFlight,
    /// The queue is full.
    Queue,
    /// All copies together hold as many bytes as they may.
    Memory,
    /// The body is longer than the cap.
    Body,
    /// The client's request broke off before its body was complete.
    Incomplete,
    /// The version has no endpoint.
    NoEndpoint,
}

pub(super) const SHADOW_DROPS: [&str; 6] = ["in_flight", "queue", "memory", "body", "incomplete", "no_endpoint"];

/// What came of a copy that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShadowResult {
    /// An answer came.
    Answered,
    /// No connection.
    Connect,
    /// The connection broke, or the answer was nonsense.
    Reset,
    /// The deadline passed.
    Timeout,
}

pub(super) const SHADOW_RESULTS: [&str; 4] = ["answered", "connect", "reset", "timeout"];

/// In what a shadow's answer differed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mismatch {
    /// The status.
    Status,
    /// The body.
    Body,
    /// It took much longer.
    Latency,
}

pub(super) const MISMATCHES: [&str; 3] = ["status", "body", "latency"];

pub(super) const SHADOW_SENT: usize = 0;
pub(super) const SHADOW_DROPPED: usize = SHADOW_SENT + 1;
pub(super) const SHADOW_DONE: usize = SHADOW_DROPPED + SHADOW_DROPS.len();
pub(super) const SHADOW_COMPARED: usize = SHADOW_DONE + SHADOW_RESULTS.len();
pub(super) const SHADOW_MISMATCHES: usize = SHADOW_COMPARED + 1;
pub(super) const SHADOW_TRUNCATED: usize = SHADOW_MISMATCHES + MISMATCHES.len();
pub(super) const SHADOW_SECONDS: usize = SHADOW_TRUNCATED + 1;
pub(super) const SHADOW_INCOMPARABLE: usize = SHADOW_SECONDS + HISTOGRAM_SLOTS;
pub(super) const SHADOW_MAIN_FIRST_BYTE: usize = SHADOW_INCOMPARABLE + 1;
pub(super) const SHADOW_FIRST_BYTE: usize = SHADOW_MAIN_FIRST_BYTE + HISTOGRAM_SLOTS;
pub(super) const SHADOW_SLOTS: usize = SHADOW_FIRST_BYTE + HISTOGRAM_SLOTS;
pub(super) type ShadowRow = Row<SHADOW_SLOTS, 0>;

/// Handles for one route and shadow.
#[derive(Clone, Debug)]
pub struct ShadowMetrics(pub(super) Arc<ShadowRow>);

impl ShadowMetrics {
    /// Counts a copy that is sent.
    pub fn sent(&self) {
        self.0.add(SHADOW_SENT, 1);
    }

    /// Counts a copy that isn't sent.
    pub fn dropped(&self, why: ShadowDrop) {
        self.0.add(SHADOW_DROPPED + why as usize, 1);
    }

    /// Counts a copy that is sent without the rest of its body.
    pub fn truncated(&self) {
        self.0.add(SHADOW_TRUNCATED, 1);
    }

    /// Counts the end of a copy that was sent, after `took`.
    pub fn finished(&self, result: ShadowResult, took: Duration) {
        self.0.add(SHADOW_DONE + result as usize, 1);
        self.0.observe(SHADOW_SECONDS, took);
    }

    /// Counts one comparison of two answers.
    pub fn compared(&self) {
        self.0.add(SHADOW_COMPARED, 1);
    }

    /// Counts an answer that should have been compared but can't be: no main answer, a body too long, another encoding.
    pub fn incomparable(&self) {
        self.0.add(SHADOW_INCOMPARABLE, 1);
    }

    /// Takes in how long the first bytes of a pair of answers took. Over the same requests, so that the two
    /// histograms may be held against each other.
    pub fn first_bytes(&self, main: Duration, shadow: Duration) {
        self.0.observe(SHADOW_MAIN_FIRST_BYTE, main);
        self.0.observe(SHADOW_FIRST_BYTE, shadow);
    }

    /// Counts one difference.
    pub fn mismatch(&self, kind: Mismatch) {
        self.0.add(SHADOW_MISMATCHES + kind as usize, 1);
    }
}
