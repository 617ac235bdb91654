//! Bounds retries to a share of requests.

use tidegate_model::time::Timestamp;

/// Lets retries be at most a share of requests, with a small floor.
#[derive(Debug, Default)]
pub struct RetryBudget {}

impl RetryBudget {
    /// `percent` of recent requests may be retries.
    pub fn new(percent: u32) -> Self {
        let _ = percent;
        Self {}
    }

    /// Counts a request in.
    pub fn deposit(&self, now: Timestamp) {
        let _ = now;
    }

    /// Whether one more retry may be made; takes it if so.
    pub fn withdraw(&self, now: Timestamp) -> bool {
        let _ = now;
        true
    }
}
