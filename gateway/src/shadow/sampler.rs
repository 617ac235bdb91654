//! Lets a few events of many into the log.

use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

/// Mismatches that are logged in one [`WINDOW`]. Beyond it they are only counted.
const LOGGED: u32 = 10;

/// The span in which [`LOGGED`] events are let through.
const WINDOW: Duration = Duration::from_secs(1);

/// Admits a bounded number of events in each second.
#[derive(Debug, Default)]
pub struct Sampler(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    since: Option<Instant>,
    admitted: u32,
    refused: u64,
}

impl Sampler {
    /// Whether an event at `now` is logged, and then how many were not since the last one that was.
    pub fn admit(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock().expect("nothing panics while it holds the sampler");
        if state.since.is_none_or(|since| now.duration_since(since) >= WINDOW) {
            state.since = Some(now);
            state.admitted = 0;
        }
        if state.admitted == LOGGED {
            state.refused += 1;
            return None;
        }
        state.admitted += 1;
        Some(std::mem::take(&mut state.refused))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_events_a_second_are_admitted_and_the_next_one_tells_of_the_rest() {
        let sampler = Sampler::default();
        let start = Instant::now();

        let first: Vec<_> = (0..25).map(|i| sampler.admit(start + Duration::from_millis(i))).collect();
        let later = [1_000, 1_001].map(|millis| sampler.admit(start + Duration::from_millis(millis)));

        assert_eq!(first[..10], [Some(0); 10]);
        assert_eq!(first[10..], [None; 15]);
        assert_eq!(later, [Some(15), Some(0)]);
    }
}
