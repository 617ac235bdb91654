//! Keeps attackers out: what the whole process knows about who may come at all.
//!
//! A decision goes: bans → access → route → limits → capacity. What is asked before a route is known, and what
//! outlives every snapshot, lives here; [`Guard`] is made once and handed on to each snapshot.
//!
//! # Not here
//!
//! Token buckets are `decide::limit`; access lists are compiled in `decide::access`.

pub mod bans;
pub mod capacity;
pub mod challenge;
pub mod crowd;
pub mod dyed;
pub mod gate;
pub mod known;
pub mod lists;
pub mod pulse;
pub mod quota;
pub mod shelf;
pub mod slo;
pub mod token;
pub mod visitor;

use std::sync::Arc;

use prometheus::Registry;
use tidegate_model::desired::Desired;
use tokio::sync::Notify;

use crate::decide::nets::NetSet;
use bans::Bans;
use crowd::Crowd;

/// What outlives snapshots. The default one counts unseen and bans nobody.
#[derive(Debug, Default)]
pub struct Guard {
    /// Who is banned.
    pub bans: Arc<Bans>,
    /// Who is known to be good, and how strained the gateway is.
    pub crowd: Arc<Crowd>,
    /// Counts marks of dyed traffic that were not believed.
    pub refused: Arc<dyed::Refused>,
    /// Told when other gateways should hear soon of what a shared limit gave out.
    pub soon: Arc<Notify>,
}

impl Guard {
    /// An empty guard whose families are on `registry`.
    ///
    /// # Errors
    ///
    /// `registry` has one of the names already.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let guard = Self::default();
        guard.bans.metrics().register(registry)?;
        guard.crowd.register(registry)?;
        guard.refused.register(registry)?;
        Ok(guard)
    }

    /// Follows the bounds and proxies of `desired` from now on.
    pub fn apply(&self, desired: &Desired) {
        self.bans.set_bound(desired.bounds.bans);
        let listeners = desired.listeners.iter().flat_map(|listener| &listener.proxy_protocol);
        let proxies: Vec<_> = desired.client_ip.trusted.iter().chain(listeners).copied().collect();
        self.bans.spare(NetSet::new(&proxies));
    }
}
