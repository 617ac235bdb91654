//! The word to end, from whoever watches to the threads that send.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use crate::clock;

/// Ends a run before its time. Copies are of the same run.
#[derive(Clone, Debug, Default)]
pub struct Ender(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    ended: OnceLock<(Cause, u64)>,
    hurried: AtomicBool,
}

/// Why a run was ended before its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Somebody wanted it to end.
    Interrupted,
    /// A stop condition, and what was seen.
    Stopped(String),
}

impl Ender {
    /// Begins nothing more from now on; what is open is waited for as at the end of the schedule. The first word counts.
    pub fn end(&self, cause: Cause) {
        let _ = self.0.ended.set((cause, clock::now()));
    }

    /// As [`Ender::end`], and doesn't wait for what is open.
    pub fn hurry(&self, cause: Cause) {
        self.end(cause);
        self.0.hurried.store(true, Ordering::Release);
    }

    /// When the word was given; nanoseconds of the monotonic clock.
    pub fn ended_at(&self) -> Option<u64> {
        self.0.ended.get().map(|ended| ended.1)
    }

    /// Why the run was ended before its time.
    pub fn cause(&self) -> Option<&Cause> {
        self.0.ended.get().map(|ended| &ended.0)
    }

    /// Whether what is open is not waited for.
    pub fn is_hurried(&self) -> bool {
        self.0.hurried.load(Ordering::Acquire)
    }
}
