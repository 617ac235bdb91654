//! One exchange: a request, its tries, its answer; what the hooks in `proxy` remember between them.
//!
//! # Invariants
//!
//! - It sees one snapshot, retries included.
//! - Each try is judged once.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use smallvec::SmallVec;
use tidegate_model::desired::{Timeouts, UpstreamProtocol};
use tidegate_model::time::Timestamp;
use tracing::warn;

use crate::carry::deadline::Deadline;
use crate::decide::{Connection, Plan, Reason};
use crate::endpoint::{Endpoint, InFlight};
use crate::health::{Verdict, eject};
use crate::record::trace::Trace;
use crate::record::{EjectionCause, TryResult};
use crate::shadow::Tap;
use crate::snapshot::{ArmEntry, RouteEntry, ServiceEntry, Snapshot, VersionEntry};

tokio::task_local! {
    /// What the carrier knows about the exchange that the current task is running.
    pub static VISIT: Visit;
}

/// The connection an exchange came on, and its deadline.
#[derive(Clone)]
pub struct Visit {
    /// Facts about the connection.
    pub connection: Arc<Connection>,
    /// The exchange's next deadline.
    pub deadline: Arc<Deadline>,
    /// Whether its answer says that the connection ends (HTTP/1).
    pub last: bool,
}

/// One exchange: a request, its tries, its answer.
pub struct Exchange {
    /// The connection it came on, and its deadline.
    pub visit: Visit,
    /// The configuration it sees.
    pub snapshot: Arc<Snapshot>,
    /// When its head had arrived.
    pub started: Timestamp,
    /// What was decided; `None` where the gateway answers by itself.
    pub plan: Option<Box<Plan>>,
    /// Endpoints that were tried, in order.
    pub tried: SmallVec<[Arc<Endpoint>; 2]>,
    /// Tries so far, the current one included.
    pub attempts: u32,
    /// Kept-alive connections that turned out to be closed; not among the tries.
    pub stale: u32,
    /// The place it holds at its current endpoint.
    pub in_flight: Option<InFlight>,
    /// When the current try was given its endpoint.
    pub try_started: Timestamp,
    /// Bytes of the request body that the current try has seen.
    pub body_seen: u64,
    /// What came of the current try, once it is known.
    pub result: Option<TryResult>,
    /// Time to the first byte of the answer that the client got.
    pub first_byte: Option<Duration>,
    /// Status of the answer; 0 while there is none.
    pub status: u16,
    /// Set where the gateway answers by itself.
    pub reason: Option<Reason>,
    /// The route of such an answer.
    pub route: Option<usize>,
    /// The visitor's address, once it is known.
    pub client: Option<IpAddr>,
    /// The request's id.
    pub id: Option<HeaderValue>,
    /// Takes copies, where the plan asks for some.
    pub tap: Option<Box<Tap>>,
    /// Its trace context.
    pub trace: Trace,
}

impl Exchange {
    /// An exchange whose head has arrived at `started`.
    pub fn new(visit: Visit, snapshot: Arc<Snapshot>, started: Timestamp) -> Self {
        Self {
            visit,
            snapshot,
            started,
            plan: None,
            tried: SmallVec::new(),
            attempts: 0,
            stale: 0,
            in_flight: None,
            try_started: Timestamp::ZERO,
            body_seen: 0,
            result: None,
            first_byte: None,
            status: 0,
            reason: None,
            route: None,
            client: None,
            id: None,
            tap: None,
            trace: Trace::None,
        }
    }

    /// Its route.
    pub fn route(&self, plan: &Plan) -> &RouteEntry {
        &self.snapshot.routes[plan.route]
    }

    /// Whether the other end of the socket is a proxy whose word we take.
    pub fn peer_is_trusted(&self) -> bool {
        self.snapshot.front.client.trusts(self.visit.connection.peer.ip())
    }

    /// Its arm.
    pub fn arm(&self, plan: &Plan) -> &ArmEntry {
        &self.route(plan).arms[plan.arm]
    }

    /// Its service.
    pub fn service(&self, plan: &Plan) -> &ServiceEntry {
        &self.snapshot.services[plan.version.service]
    }

    /// Its version.
    pub fn version(&self, plan: &Plan) -> &VersionEntry {
        self.snapshot.version(plan.version)
    }

    /// Whether the upstream socket is this exchange's own. One that may speak HTTP/2 carries other exchanges too.
    pub fn owns_socket(&self, plan: &Plan, upgrade: bool) -> bool {
        let service = self.service(plan);
        upgrade
            || match service.spec.protocol {
                UpstreamProtocol::Http1 => true,
                UpstreamProtocol::Auto => service.tls.is_none(), // Nothing is negotiated without TLS.
                UpstreamProtocol::Http2 => false,
            }
    }

    /// Its deadlines.
    pub fn timeouts(&self, plan: &Plan) -> &Timeouts {
        &self.route(plan).timeouts[plan.arm]
    }

    /// When the whole exchange must be over.
    pub fn total_deadline(&self, plan: &Plan) -> Option<Timestamp> {
        self.timeouts(plan).total.map(|total| self.started + total)
    }

    /// The next deadline while the answer hasn't begun.
    pub fn expect_first_byte(&self, now: Timestamp) {
        if let Some(plan) = &self.plan {
            let first_byte = now + self.timeouts(plan).first_byte;
            let at = self.total_deadline(plan).map_or(first_byte, |total| total.min(first_byte));
            self.visit.deadline.set(Some(at));
        }
    }

    /// Counts what came of the current try, and tells `health`.
    pub fn judge(&mut self, result: TryResult, now: Timestamp) {
        self.result = Some(result);
        let (Some(plan), Some(in_flight)) = (&self.plan, &self.in_flight) else { return };
        let endpoint = in_flight.endpoint();
        endpoint.metrics.tried(result);
        let verdict = match result {
            TryResult::Ok => Verdict::Good,
            TryResult::ServerError | TryResult::Reset | TryResult::Timeout => Verdict::Failed,
            TryResult::Connect => Verdict::Unreachable,
            TryResult::Abandoned => return, // The client went away: says nothing about the endpoint.
        };
        let rules = self.service(plan).spec.eject.as_ref();
        if let Some(ejected) = eject::observe(rules, &self.version(plan).endpoints, endpoint, verdict, now) {
            warn!(endpoint = %endpoint.id, reason = %ejected.reason, rest = ?ejected.rest, times = ejected.times, "endpoint ejected");
            endpoint.metrics.ejected(match ejected.reason {
                eject::Reason::InARow(_) => EjectionCause::Consecutive,
                eject::Reason::Rate { .. } => EjectionCause::Rate,
            });
        }
    }

    /// Whether one more try is allowed by count and budget. Takes it from the budget if so.
    pub fn may_try_again(&self, plan: &Plan, now: Timestamp) -> bool {
        let service = self.service(plan);
        let time_left = self.total_deadline(plan).is_none_or(|total| now < total);
        if self.attempts > service.spec.retry.attempts || !time_left {
            return false;
        }
        let granted = service.budget.withdraw(now);
        if !granted {
            service.metrics.budget_exhausted();
        }
        granted
    }
}
