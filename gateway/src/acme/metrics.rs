//! What is counted about certificates.

use prometheus::{IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry};

use super::plan::Failed;

/// The families. Clones share them.
#[derive(Clone, Debug)]
pub struct AcmeMetrics {
    expiry: IntGaugeVec,
    orders: IntCounterVec,
    lookups_refused: IntCounter,
}

impl AcmeMetrics {
    /// Registers the families.
    ///
    /// # Errors
    ///
    /// When `registry` has one of the names already.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let expiry = IntGaugeVec::new(
            Opts::new(
                "tidegate_certificate_expiry_seconds",
                "Unix time at which the certificate of a name expires (the first to expire, of several); 0 while there is none.",
            ),
            &["name"],
        )?;
        let orders = IntCounterVec::new(
            Opts::new("tidegate_acme_orders_total", "Certificates that were ordered, by what came of it."),
            &["result"],
        )?;
        let lookups_refused = IntCounter::new(
            "tidegate_acme_lookups_refused_total",
            "Requests for a challenge that were not looked up in the store, because too many came at once.",
        )?;
        registry.register(Box::new(expiry.clone()))?;
        registry.register(Box::new(orders.clone()))?;
        registry.register(Box::new(lookups_refused.clone()))?;
        for result in ["issued", "away", "refused", "rate_limited", "failed"] {
            orders.with_label_values(&[result]);
        }
        Ok(Self { expiry, orders, lookups_refused })
    }

    /// A certificate was issued.
    pub fn issued(&self) {
        self.orders.with_label_values(&["issued"]).inc();
    }

    /// An order failed.
    pub(super) fn failed(&self, why: Failed) {
        let result = match why {
            Failed::Away => "away",
            Failed::Refused => "refused",
            Failed::TooOften => "rate_limited",
            Failed::Ours => "failed",
        };
        self.orders.with_label_values(&[result]).inc();
    }

    /// When the certificate of a name expires.
    pub(super) fn expires(&self, name: &str, until: i64) {
        self.expiry.with_label_values(&[name]).set(until);
    }

    /// Forgets a name.
    pub(super) fn forget(&self, name: &str) {
        let _ = self.expiry.remove_label_values(&[name]); // It may never have been told.
    }

    pub(super) fn lookups_refused(&self) -> IntCounter {
        self.lookups_refused.clone()
    }
}
