//! Opinions about endpoints: active probes, passive ejection, slow start; and the retry budget.

mod budget;
pub mod eject;
pub mod probe;

pub use budget::RetryBudget;

use tidegate_model::time::Timestamp;

/// What probes and traffic say about one endpoint.
#[derive(Debug, Default)]
pub struct Health {}

/// How much of its share an endpoint may take.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fitness {
    /// It serves; the number is its share in thousandths, below 1,000 during slow start.
    Fit(u32),
    /// Ejected for a while.
    Resting,
    /// Its probe says it's down.
    Down,
}

/// What came of one try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It answered below 500.
    Good,
    /// It answered 5xx, broke off, or was late.
    Failed,
    /// It couldn't be reached.
    Unreachable,
}

impl Health {
    /// How fit the endpoint is right now.
    pub fn fitness(&self, now: Timestamp) -> Fitness {
        let _ = now;
        Fitness::Fit(1_000)
    }
}
