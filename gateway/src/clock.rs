//! The process's monotonic clock. The edges read it; deciding code is given the time.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use tidegate_model::time::Timestamp;

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// The time now.
pub fn now() -> Timestamp {
    Timestamp::ZERO + START.elapsed()
}

/// `at` as Tokio's timers understand it.
pub fn instant(at: Timestamp) -> tokio::time::Instant {
    tokio::time::Instant::from_std(*START + Duration::from_nanos(at.as_nanos()))
}
