//! Which bans have changed and aren't kept yet: whoever changes the table notes it here, and its keeper waits here.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::lock;
use super::network::Key;

/// Changes that wait to be kept one by one. Beyond it the whole table is written instead.
const MOST: usize = 65_536;

/// See the module.
#[derive(Debug, Default)]
pub struct Changes {
    noted: Mutex<Noted>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Noted {
    /// Whether anybody keeps them.
    kept: bool,
    batch: Batch,
}

/// What there is to do.
#[derive(Debug, Default)]
pub struct Batch {
    /// Who is banned, or free, since the last time. May hold one twice.
    pub keys: Vec<Key>,
    /// More than [`MOST`]: the whole table has to be written.
    pub all: bool,
    /// This is the last one.
    pub stop: bool,
}

impl Changes {
    /// Remembers that `key` has changed, where anybody keeps the table.
    pub fn note(&self, key: Key) {
        let mut noted = lock(&self.noted);
        if !noted.kept {
            return;
        }
        if noted.batch.keys.len() < MOST {
            noted.batch.keys.push(key);
        } else {
            noted.batch.all = true;
        }
        drop(noted);
        self.changed.notify_one();
    }

    /// From now on somebody keeps the table.
    pub fn begin(&self) {
        lock(&self.noted).kept = true;
    }

    /// Whoever keeps the table shall end.
    pub fn stop(&self) {
        lock(&self.noted).batch.stop = true;
        self.changed.notify_one();
    }

    /// Waits for a change, at most for `patience`, and then for as many more as come within `settle`. `None` where there
    /// is no change.
    pub fn wait(&self, patience: Duration, settle: Duration) -> Option<Batch> {
        let quiet = |noted: &mut Noted| noted.batch.keys.is_empty() && !noted.batch.all && !noted.batch.stop;
        let noted = lock(&self.noted);
        let waited = self.changed.wait_timeout_while(noted, patience, quiet);
        let (noted, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() {
            return None;
        }
        let settled = self.changed.wait_timeout_while(noted, settle, |noted| !noted.batch.stop);
        let (mut noted, _) = settled.unwrap_or_else(PoisonError::into_inner);
        let stop = noted.batch.stop;
        Some(Batch { stop, ..std::mem::take(&mut noted.batch) })
    }
}
