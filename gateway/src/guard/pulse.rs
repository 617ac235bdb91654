//! The gateway's own pulse: whether its event loops come late to their work.
//!
//! Each worker lets a timer tick and measures how much later than asked it is woken: everything that waits in the
//! loop is late by as much (Node.js calls this the event-loop lag). When a worker is late again and again while
//! requests come from many sources, the gateway is what the attack saturates, and unknown clients are kept out on all
//! routes for a while.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use prometheus::{IntGauge, Registry};
use tidegate_model::time::Timestamp;
use tracing::{info, warn};

use super::known::SourceId;

/// Time between two beats of a worker.
pub const BEAT: Duration = Duration::from_millis(25);

/// A loop that is so late, on average over the last beats, is strained.
const LATE: Duration = Duration::from_millis(60);

/// The strain is over when no loop was late for so long.
const REST: Duration = Duration::from_secs(5);

/// Sources are counted anew so often.
const COUNT_EVERY: Duration = Duration::from_secs(1);

/// Bits of 256 that must be set by different sources: about 70 of them. Fewer are what limits are for.
const CROWD: u32 = 60;

/// See the module. One for the process.
#[derive(Debug)]
pub struct Pulse {
    is_strained: AtomicBool,
    last_late: AtomicU64,
    /// When the sources were last counted anew.
    counted: AtomicU64,
    sources: [AtomicU64; 4],
    was_crowd: AtomicBool,
    shown: IntGauge,
}

/// One worker's share of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Beats {
    mean: Duration,
}

impl Beats {
    /// Takes in a beat that came `late`; returns the mean over the last few (weight 1/4).
    pub fn take(&mut self, late: Duration) -> Duration {
        self.mean = (self.mean * 3 + late) / 4;
        self.mean
    }
}

impl Default for Pulse {
    fn default() -> Self {
        let help =
            "1 while the gateway's own event loops are late and unknown clients are kept out everywhere, else 0.";
        let shown = IntGauge::new("tidegate_strained", help).expect("our own names are valid");
        let sources = Default::default();
        let (is_strained, was_crowd) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { is_strained, last_late: AtomicU64::new(0), counted: AtomicU64::new(0), sources, was_crowd, shown }
    }
}

impl Pulse {
    /// Shows the strain on `registry`.
    ///
    /// # Errors
    ///
    /// It has this name already.
    pub fn register(&self, registry: &Registry) -> Result<(), prometheus::Error> {
        registry.register(Box::new(self.shown.clone()))
    }

    /// Whether unknown clients are to be kept out everywhere.
    pub fn is_strained(&self) -> bool {
        self.is_strained.load(Relaxed)
    }

    /// Takes note of a request's source.
    pub fn saw(&self, source: SourceId) {
        let bit = 1 << (source.bits() & 63);
        let word = &self.sources[(source.bits() >> 6 & 3) as usize];
        if word.load(Relaxed) & bit == 0 {
            word.fetch_or(bit, Relaxed);
        }
    }

    /// Takes in how late a worker is on average.
    pub fn felt(&self, mean: Duration, now: Timestamp) {
        let counted = Timestamp::from_nanos(self.counted.load(Relaxed));
        if now.since(counted) >= COUNT_EVERY {
            self.counted.store(now.as_nanos(), Relaxed);
            let bits: u32 = self.sources.iter().map(|word| word.swap(0, Relaxed).count_ones()).sum();
            self.was_crowd.store(bits >= CROWD, Relaxed);
        }
        if mean >= LATE && self.is_crowd() {
            self.last_late.store(now.as_nanos(), Relaxed);
            if !self.is_strained.swap(true, Relaxed) {
                self.shown.set(1);
                warn!(late = ?mean, "gateway strained");
            }
        } else if self.is_strained() && now.since(Timestamp::from_nanos(self.last_late.load(Relaxed))) >= REST {
            self.is_strained.store(false, Relaxed);
            self.shown.set(0);
            info!("gateway no longer strained");
        }
    }

    fn is_crowd(&self) -> bool {
        let bits: u32 = self.sources.iter().map(|word| word.load(Relaxed).count_ones()).sum();
        bits >= CROWD || self.was_crowd.load(Relaxed)
    }
}

/// Beats for one worker, as long as the runtime lasts.
pub async fn beat(pulse: std::sync::Arc<Pulse>) {
    let mut beats = Beats::default();
    loop {
        let before = crate::clock::now();
        tokio::time::sleep(BEAT).await;
        let now = crate::clock::now();
        pulse.felt(beats.take(now.since(before).saturating_sub(BEAT)), now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_nanos(millis * 1_000_000)
    }

    fn crowd(pulse: &Pulse, sources: u64) {
        (0..sources).for_each(|n| pulse.saw(SourceId::from_hash(n << 20)));
    }

    #[test]
    fn one_late_beat_is_no_strain_and_several_are() {
        let (pulse, mut beats) = (Pulse::default(), Beats::default());
        crowd(&pulse, 200);

        let strained: Vec<bool> = (0..3)
            .map(|n| {
                pulse.felt(beats.take(Duration::from_millis(120)), at(n * 100));
                pulse.is_strained()
            })
            .collect();

        assert_eq!(strained, [false, false, true]);
    }

    #[test]
    fn a_few_sources_never_strain_it() {
        let pulse = Pulse::default();
        crowd(&pulse, 20);

        pulse.felt(Duration::from_secs(1), at(0));

        assert!(!pulse.is_strained());
    }

    #[test]
    fn the_strain_ends_after_its_rest() {
        let pulse = Pulse::default();
        crowd(&pulse, 200);
        pulse.felt(Duration::from_secs(1), at(0));

        pulse.felt(Duration::ZERO, at(4_900));
        let before = pulse.is_strained();
        pulse.felt(Duration::ZERO, at(5_000));

        assert!(before && !pulse.is_strained());
    }
}
