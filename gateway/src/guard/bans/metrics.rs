//! What is counted about bans. Connections and requests that a ban refused are counted where they are refused.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

/// Who began a ban.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// A limit that was exceeded too often.
    Limit,
    /// A person, through the admin listener.
    Hand,
}

/// The families.
#[derive(Clone, Debug)]
pub struct BanMetrics {
    entries: IntGauge,
    began: IntCounterVec,
    by: [IntCounter; 2],
    forgotten: IntCounter,
    unkept: IntCounter,
}

impl BanMetrics {
    /// Families that nobody sees until they are registered.
    pub(super) fn new() -> Self {
        let began = Opts::new("tidegate_bans_total", "Bans that began, by who asked for them.");
        let began = IntCounterVec::new(began, &["by"]).expect("names and labels are our own constants");
        let counter = |name, help| IntCounter::new(name, help).expect("names are our own constants");
        Self {
            entries: IntGauge::new("tidegate_bans", "Banned sources and networks, and those that are remembered.")
                .expect("names are our own constants"),
            by: ["limit", "hand"].map(|by| began.with_label_values(&[by])),
            began,
            forgotten: counter(
                "tidegate_bans_forgotten_total",
                "Bans that were forgotten early because the table was full.",
            ),
            unkept: counter(
                "tidegate_bans_write_errors_total",
                "Attempts to keep bans in the state folder that failed.",
            ),
        }
    }

    /// Shows them on `registry`.
    ///
    /// # Errors
    ///
    /// `registry` has one of the names already.
    pub fn register(&self, registry: &Registry) -> Result<(), prometheus::Error> {
        registry.register(Box::new(self.entries.clone()))?;
        registry.register(Box::new(self.began.clone()))?;
        registry.register(Box::new(self.forgotten.clone()))?;
        registry.register(Box::new(self.unkept.clone()))
    }

    pub(super) fn entries(&self, entries: usize) {
        self.entries.set(i64::try_from(entries).unwrap_or(i64::MAX));
    }

    pub(super) fn began(&self, by: By) {
        self.by[by as usize].inc();
    }

    pub(super) fn forgot(&self) {
        self.forgotten.inc();
    }

    pub(super) fn unkept(&self) {
        self.unkept.inc();
    }
}
