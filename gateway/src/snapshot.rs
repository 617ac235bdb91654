//! What requests see: one immutable, indexed configuration.
//!
//! A request loads the snapshot once, when its head has arrived, and keeps it to
//! the end, retries included. What must outlive a snapshot sits behind an `Arc`
//! inside it (endpoints, buckets, budgets, metrics) and is handed on in `compile`.
//!
//! # Invariants
//!
//! - Generations only grow ([`Publisher::publish`] refuses older ones).
//! - Every index in a `Plan` is valid for the snapshot it was decided on.

use std::sync::Arc;

use arc_swap::ArcSwap;
use http::{HeaderName, HeaderValue};
use rand::Rng;
use tidegate_model::desired::{Desired, Generation, Service, Shadow, Timeouts, VersionRef, Weight};
use tidegate_model::time::Timestamp;

use crate::carry::UpstreamTlsReady;
use crate::decide::limit::LimitState;
use crate::decide::route::Router;
use crate::decide::split::Splitter;
use crate::decide::{Connection, Entrance, Head, Plan, RouteRules};
use crate::endpoint::Endpoint;
use crate::guard::Guard;
use crate::guard::gate::Gate;
use crate::guard::slo::Slo;
use crate::health::RetryBudget;
use crate::record::{ArmMetrics, RouteMetrics, ServiceMetrics, ShadowMetrics};
use crate::recording::{Recorder, Reel};

/// One immutable configuration, ready for requests.
pub struct Snapshot {
    /// What it was compiled from.
    pub desired: Arc<Desired>,
    /// What is asked of every request first.
    pub entrance: Entrance,
    /// Finds the route for a request.
    pub router: Router,
    /// By the index that [`Router`] returns: same order as `desired.routes`.
    pub routes: Vec<RouteEntry>,
    /// Same order as `desired.services`.
    pub services: Vec<ServiceEntry>,
    /// Same order as `desired.limits`.
    pub limits: Vec<Arc<LimitState>>,
    /// Handles for dyed requests that no route takes, where there may be any.
    pub dyed_unrouted: Option<RouteMetrics>,
    /// Knows who records requests. Outlives every snapshot.
    pub recorder: Arc<Recorder>,
    /// What is known about attackers and everybody else. Outlives every snapshot.
    pub guard: Arc<Guard>,
}

impl Snapshot {
    /// Which configuration this is.
    pub fn generation(&self) -> Generation {
        self.desired.generation
    }

    /// Takes a request down that `plan` carries, where somebody records.
    #[inline]
    pub fn taken_down(
        &self,
        plan: &Plan,
        head: &Head<'_>,
        connection: &Connection,
        now: Timestamp,
        dice: &mut impl Rng,
    ) -> Option<Box<Reel>> {
        if !self.recorder.is_on() {
            return None;
        }
        let https = self.entrance.client.came_by(head, connection).0;
        Reel::open(&self.recorder, &self.desired.routes[plan.route].name, head, https, now, dice)
    }

    /// The version that `at` names.
    pub fn version(&self, at: VersionRef) -> &VersionEntry {
        &self.services[at.service].versions[at.version]
    }
}

/// A route, with everything that a request needs resolved.
pub struct RouteEntry {
    /// What it asks of a request besides matching it.
    pub rules: RouteRules,
    /// Chooses the arm; `None` where the gateway answers by itself.
    pub splitter: Option<Splitter>,
    /// Same order as the split's arms.
    pub arms: Vec<ArmEntry>,
    /// Deadlines of each arm's service with this route's overrides; same order as `arms`.
    pub timeouts: Vec<Timeouts>,
    /// Edits to requests.
    pub request_headers: ReadyEdits,
    /// Edits to responses.
    pub response_headers: ReadyEdits,
    /// Copies.
    pub shadows: Vec<Arc<ShadowEntry>>,
    /// Handles for requests that the gateway answers by itself.
    pub metrics: RouteMetrics,
    /// The same for dyed requests, where there may be any.
    pub dyed: Option<RouteMetrics>,
}

/// An arm of a split.
pub struct ArmEntry {
    /// Where it leads.
    pub version: VersionRef,
    /// Its share.
    pub weight: Weight,
    /// `shop/v1`, for logs and cookies.
    pub label: Arc<str>,
    /// Handles for this route and version.
    pub metrics: ArmMetrics,
    /// The same for dyed requests, where there may be any.
    pub dyed: Option<ArmMetrics>,
}

/// A shadow, with its bounds' live counters.
pub struct ShadowEntry {
    /// As configured.
    pub spec: Shadow,
    /// Name of the route it belongs to.
    pub route: Arc<str>,
    /// `shop/next`.
    pub label: Arc<str>,
    /// Marker headers.
    pub mark: Vec<(HeaderName, HeaderValue)>,
    /// Copies in flight. Handed on by `compile`.
    pub in_flight: Arc<std::sync::atomic::AtomicUsize>,
    /// Handles.
    pub metrics: ShadowMetrics,
}

/// Header edits as typed values.
#[derive(Clone, Debug, Default)]
pub struct ReadyEdits {
    /// Removed first.
    pub remove: Vec<HeaderName>,
    /// Then set.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Then added.
    pub add: Vec<(HeaderName, HeaderValue)>,
}

/// A service.
pub struct ServiceEntry {
    /// As configured.
    pub spec: Arc<Service>,
    /// Same order as `spec.versions`.
    pub versions: Vec<VersionEntry>,
    /// Bounds retries. Handed on by `compile`.
    pub budget: Arc<RetryBudget>,
    /// Bounds retries of dyed requests, which use up none of the others'. Handed on by `compile`.
    pub dyed_budget: Arc<RetryBudget>,
    /// Judges whether dyed requests are shed for the sake of live ones. Handed on by `compile`.
    pub slo: Option<Arc<Slo>>,
    /// Lets in whom there is room for. Handed on by `compile`.
    pub gate: Arc<Gate>,
    /// TLS to endpoints, with files read.
    pub tls: Option<Arc<UpstreamTlsReady>>,
    /// Handles.
    pub metrics: ServiceMetrics,
}

/// A version and its endpoints.
pub struct VersionEntry {
    /// `shop/v1`.
    pub label: Arc<str>,
    /// Its endpoints. May be empty.
    pub endpoints: Vec<Arc<Endpoint>>,
    /// Configured weights, same order as `endpoints`.
    pub weights: Vec<u32>,
    /// State that balancing needs.
    pub balance: crate::decide::balance::Balancer,
}

/// The only writer. Not `Clone`, and publishing takes `&mut self`, so two
/// threads can't race to decide which snapshot is newer.
pub struct Publisher {
    slot: Arc<ArcSwap<Snapshot>>,
}

/// What became of a snapshot that was offered.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// New requests see it.
    Published,
    /// It was not newer; nothing changed.
    Stale {
        /// The generation in force.
        current: Generation,
    },
}

impl Publisher {
    /// Starts with a first snapshot.
    pub fn starting_with(first: Snapshot) -> Self {
        Self { slot: Arc::new(ArcSwap::from_pointee(first)) }
    }

    /// What readers load from.
    pub fn slot(&self) -> Arc<ArcSwap<Snapshot>> {
        Arc::clone(&self.slot)
    }

    /// The snapshot in force.
    pub fn current(&self) -> Arc<Snapshot> {
        self.slot.load_full()
    }

    /// Makes the generation in force visible anew, with material that changed outside the configuration
    /// (addresses behind a name). Refuses any other generation.
    pub fn renew(&mut self, next: Snapshot) -> Outcome {
        let current = self.slot.load().generation();
        if next.generation() != current {
            return Outcome::Stale { current };
        }
        self.slot.store(Arc::new(next));
        Outcome::Published
    }

    /// Makes `next` visible to new requests, unless it is not newer.
    ///
    /// Late and repeated deliveries are normal, so they are an outcome and not
    /// an error.
    pub fn publish(&mut self, next: Snapshot) -> Outcome {
        let current = self.slot.load().generation();
        if next.generation() <= current {
            return Outcome::Stale { current };
        }
        self.slot.store(Arc::new(next));
        Outcome::Published
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::{Material, compile};
    use crate::record::Metrics;

    fn snapshot(generation: u64) -> Snapshot {
        let desired = Desired { generation: Generation(generation), ..Desired::default() };
        compile(Arc::new(desired), None, &Material::default(), &Metrics::new())
    }

    #[test]
    fn stale_snapshot_is_refused_and_the_current_one_stays() {
        let mut publisher = Publisher::starting_with(snapshot(7));

        let outcome = publisher.publish(snapshot(6));

        assert_eq!(outcome, Outcome::Stale { current: Generation(7) });
        assert_eq!(publisher.current().generation(), Generation(7));
    }

    #[test]
    fn only_the_generation_in_force_is_renewed() {
        let mut publisher = Publisher::starting_with(snapshot(7));

        assert_eq!(publisher.renew(snapshot(7)), Outcome::Published);
        assert_eq!(publisher.renew(snapshot(8)), Outcome::Stale { current: Generation(7) });
    }

    #[test]
    fn request_keeps_the_snapshot_it_began_with() {
        let mut publisher = Publisher::starting_with(snapshot(1));
        let slot = publisher.slot();

        let begun = slot.load_full();
        publisher.publish(snapshot(2));

        assert_eq!(begun.generation(), Generation(1));
        assert_eq!(slot.load().generation(), Generation(2));
    }
}
