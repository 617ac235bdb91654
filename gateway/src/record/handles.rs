//! Handles to one labelled thing's numbers, resolved once in `compile` and cheap to count on.
//!
//! # Not here
//!
//! Names, help texts and exposition are in `families`; creating and forgetting in `metrics`.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::cells::{HISTOGRAM_SLOTS, Level, Row};
use crate::decide::Reason;
use crate::health::Fitness;

/// Statuses with a series of their own; every other one counts for its class. Keeps a row small.
pub(super) const CODES: [&str; 36] = [
    "101", "200", "201", "202", "204", "206", "301", "302", "303", "304", "307", "308", "400", "401", "403", "404",
    "405", "408", "409", "410", "412", "413", "415", "422", "429", "431", "499", "500", "501", "502", "503", "504",
    "2xx", "3xx", "4xx", "5xx",
];

pub(super) const ARM_BYTES_IN: usize = CODES.len();
pub(super) const ARM_BYTES_OUT: usize = ARM_BYTES_IN + 1;
pub(super) const ARM_SECONDS: usize = ARM_BYTES_OUT + 1;
pub(super) const ARM_SLOTS: usize = ARM_SECONDS + HISTOGRAM_SLOTS;
pub(super) type ArmRow = Row<ARM_SLOTS, 0>;

/// Handles for one route and version.
#[derive(Clone, Debug)]
pub struct ArmMetrics(pub(super) Arc<ArmRow>);

impl ArmMetrics {
    /// Counts one request that ended with `status` after `took`, from its head to the last byte of the answer.
    ///
    /// A client that left before the answer is counted as 499, as nginx does.
    pub fn finished(&self, status: u16, took: Duration) {
        self.0.add(code_slot(status), 1);
        self.0.observe(ARM_SECONDS, took);
    }

    /// Counts bytes of bodies: from the client, and to it.
    pub fn bytes(&self, received: u64, sent: u64) {
        self.0.add(ARM_BYTES_IN, received);
        self.0.add(ARM_BYTES_OUT, sent);
    }
}

/// The statuses that [`CODES`] begins with.
const EXACT: [u16; 32] = [
    101, 200, 201, 202, 204, 206, 301, 302, 303, 304, 307, 308, 400, 401, 403, 404, 405, 408, 409, 410, 412, 413, 415,
    422, 429, 431, 499, 500, 501, 502, 503, 504,
];

/// For each status below 600, its place in [`CODES`].
const CODE_SLOTS: [u8; 600] = {
    let mut slots = [EXACT.len() as u8; 600]; // Below 300: 2xx. No final answer is 1xx, save 101.
    let mut status = 300;
    while status < 600 {
        slots[status] = EXACT.len() as u8 + (status / 100) as u8 - 2;
        status += 1;
    }
    let mut slot = 0;
    while slot < EXACT.len() {
        slots[EXACT[slot] as usize] = slot as u8;
        slot += 1;
    }
    slots
};

/// Where `status` is counted. Statuses of 600 and more, which HTTP doesn't have, count as 5xx.
fn code_slot(status: u16) -> usize {
    usize::from(CODE_SLOTS[usize::from(status.min(599))])
}

/// Every [`Reason`], in the order of its discriminants.
pub(super) const REASONS: [Reason; 20] = [
    Reason::NoRoute,
    Reason::Denied,
    Reason::Limited,
    Reason::Banned,
    Reason::Challenged,
    Reason::Shed,
    Reason::DyedShed,
    Reason::BodyTooLarge,
    Reason::Misdirected,
    Reason::Redirect,
    Reason::Fixed,
    Reason::Preflight,
    Reason::NoEndpoint,
    Reason::AllUnfit,
    Reason::BadRequest,
    Reason::Unreachable,
    Reason::Broken,
    Reason::Late,
    Reason::ClientLate,
    Reason::Internal,
];

/// The metric label and access-log value of a reason.
pub const fn reason_label(reason: Reason) -> &'static str {
    match reason {
        Reason::NoRoute => "no_route",
        Reason::Denied => "denied",
        Reason::Limited => "limited",
        Reason::Banned => "banned",
        Reason::Challenged => "challenged",
        Reason::Shed => "shed",
        Reason::DyedShed => "dyed_shed",
        Reason::BodyTooLarge => "body_too_large",
        Reason::Misdirected => "misdirected",
        Reason::Redirect => "redirect",
        Reason::Fixed => "fixed",
        Reason::Preflight => "preflight",
        Reason::NoEndpoint => "no_endpoint",
        Reason::AllUnfit => "all_unfit",
        Reason::BadRequest => "bad_request",
        Reason::Unreachable => "unreachable",
        Reason::Broken => "broken",
        Reason::Late => "late",
        Reason::ClientLate => "client_late",
        Reason::Internal => "internal",
    }
}

/// The labels of [`REASONS`].
pub(super) const REASON_LABELS: [&str; REASONS.len()] = {
    let mut labels = [""; REASONS.len()];
    let mut slot = 0;
    while slot < REASONS.len() {
        labels[slot] = reason_label(REASONS[slot]);
        slot += 1;
    }
    labels
};

pub(super) const ROUTE_SLOTS: usize = REASONS.len();
pub(super) type RouteRow = Row<ROUTE_SLOTS, 0>;

/// Handles for one route: requests that the gateway answers by itself.
#[derive(Clone, Debug)]
pub struct RouteMetrics {
    pub(super) answers: Arc<RouteRow>,
    /// The route's requests that were answered before an arm was chosen.
    pub(super) own: ArmMetrics,
}

impl RouteMetrics {
    /// Counts a request that the gateway answered by itself before an arm was chosen.
    pub fn answered(&self, reason: Reason, status: u16, took: Duration) {
        self.reason(reason);
        self.own.finished(status, took);
    }

    /// Counts only why the gateway answered by itself: for a request that [`ArmMetrics::finished`] counts.
    pub fn reason(&self, reason: Reason) {
        let slot = reason as usize;
        debug_assert!(slot < REASONS.len(), "every reason is listed in REASONS");
        if slot < REASONS.len() {
            self.answers.add(slot, 1);
        }
    }
}

/// What came of one try at an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TryResult {
    /// An answer below 500.
    Ok,
    /// A 5xx answer.
    ServerError,
    /// No connection.
    Connect,
    /// The connection broke, or the answer was nonsense.
    Reset,
    /// A deadline passed.
    Timeout,
    /// The client left first. Says nothing about the endpoint.
    Abandoned,
}

pub(super) const TRY_RESULTS: [&str; 6] = ["ok", "5xx", "connect", "reset", "timeout", "abandoned"];

/// Why an endpoint was ejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EjectionCause {
    /// Too many failures in a row.
    Consecutive,
    /// Too large a share of failures.
    Rate,
}

pub(super) const EJECTION_CAUSES: [&str; 2] = ["consecutive", "rate"];
pub(super) const PROBE_RESULTS: [&str; 2] = ["ok", "failed"];

pub(super) const ENDPOINT_EJECTIONS: usize = TRY_RESULTS.len();
pub(super) const ENDPOINT_PROBES: usize = ENDPOINT_EJECTIONS + EJECTION_CAUSES.len();
pub(super) const ENDPOINT_IN_FLIGHT: usize = ENDPOINT_PROBES + PROBE_RESULTS.len();
pub(super) const ENDPOINT_FIRST_BYTE: usize = ENDPOINT_IN_FLIGHT + 1;
pub(super) const ENDPOINT_SLOTS: usize = ENDPOINT_FIRST_BYTE + HISTOGRAM_SLOTS;
pub(super) const ENDPOINT_DOWN: usize = 0;
pub(super) const ENDPOINT_EJECTED: usize = 1;
pub(super) type EndpointRow = Row<ENDPOINT_SLOTS, 2>;

/// Handles for one endpoint.
#[derive(Clone, Debug)]
pub struct EndpointMetrics {
    pub(super) row: Arc<EndpointRow>,
    /// Requests being served right now.
    pub in_flight: Level<ENDPOINT_SLOTS, 2>,
}

impl EndpointMetrics {
    /// Counts one try.
    pub fn tried(&self, result: TryResult) {
        self.row.add(result as usize, 1);
    }

    /// Takes one time from the request being sent to the first byte of the answer.
    pub fn first_byte(&self, took: Duration) {
        self.row.observe(ENDPOINT_FIRST_BYTE, took);
    }

    /// Counts one probe, and says whether the probes now hold the endpoint to be up.
    pub fn probed(&self, ok: bool, up: bool) {
        self.row.add(ENDPOINT_PROBES + usize::from(!ok), 1);
        self.row.gauge(ENDPOINT_DOWN).store(i64::from(!up), Relaxed);
    }

    /// Shows the endpoint as not down, because it isn't probed any more.
    pub fn unprobed(&self) {
        self.row.gauge(ENDPOINT_DOWN).store(0, Relaxed);
    }

    /// Counts one ejection and shows the endpoint as ejected.
    pub fn ejected(&self, cause: EjectionCause) {
        self.row.add(ENDPOINT_EJECTIONS + cause as usize, 1);
        self.row.gauge(ENDPOINT_EJECTED).store(1, Relaxed);
    }

    /// Shows the endpoint as back from its rest.
    pub fn returned(&self) {
        self.row.gauge(ENDPOINT_EJECTED).store(0, Relaxed);
    }

    /// Shows how fit it is. [`super::Metrics::refresh`] does so before each reading.
    pub fn show(&self, fitness: Fitness) {
        self.row.gauge(ENDPOINT_DOWN).store(i64::from(fitness == Fitness::Down), Relaxed);
        self.row.gauge(ENDPOINT_EJECTED).store(i64::from(fitness == Fitness::Resting), Relaxed);
    }
}

/// What came of a retry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryResult {
    /// It brought an answer that isn't retried.
    Ok,
    /// It failed too.
    Failed,
}

pub(super) const RETRY_RESULTS: [&str; 2] = ["ok", "failed"];
pub(super) const SERVICE_EXHAUSTED: usize = RETRY_RESULTS.len();
pub(super) const SERVICE_SHED: usize = SERVICE_EXHAUSTED + 1;
pub(super) const SERVICE_DYED_SHED: usize = SERVICE_SHED + SHED_REASONS.len();
pub(super) const SERVICE_SLOTS: usize = SERVICE_DYED_SHED + DYED_SHEDS.len();
pub(super) const SERVICE_ATTACK: usize = 0;
pub(super) const SERVICE_CAPACITY: usize = 1;
pub(super) const SERVICE_DYED_SHEDDING: usize = 2;
pub(super) type ServiceRow = Row<SERVICE_SLOTS, 3>;

/// Why there was no room for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShedReason {
    /// A surge from many sources has taken the headroom, or a given capacity is used up.
    Saturated,
    /// There is an attack, and an unknown client's share is used up.
    Attack,
    /// There is an attack, and even what is kept for known clients is used up.
    Full,
}

pub(super) const SHED_REASONS: [&str; 3] = ["saturated", "attack", "full"];

/// Why a dyed request was shed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DyedShed {
    /// Live traffic doesn't get what it was promised.
    Slo,
    /// There is an attack on the service.
    Attack,
    /// A surge finds no room, or most of a given capacity is in use.
    Saturated,
    /// The gateway itself has more to do than it can.
    Strained,
}

pub(super) const DYED_SHEDS: [&str; 4] = ["slo", "attack", "saturated", "strained"];

/// Handles for one service.
#[derive(Clone, Debug)]
pub struct ServiceMetrics(pub(super) Arc<ServiceRow>);

impl ServiceMetrics {
    /// Counts one retry.
    pub fn retried(&self, result: RetryResult) {
        self.0.add(result as usize, 1);
    }

    /// Counts a retry that the budget refused.
    pub fn budget_exhausted(&self) {
        self.0.add(SERVICE_EXHAUSTED, 1);
    }

    /// Counts a request that there was no room for.
    pub fn shed(&self, reason: ShedReason) {
        self.0.add(SERVICE_SHED + reason as usize, 1);
    }

    /// Counts a dyed request that was shed.
    pub fn dyed_shed(&self, reason: DyedShed) {
        self.0.add(SERVICE_DYED_SHED + reason as usize, 1);
    }

    /// Shows whether dyed traffic is shed for the sake of the service's live traffic.
    pub fn dyed_shedding(&self, is: bool) {
        self.0.gauge(SERVICE_DYED_SHEDDING).store(i64::from(is), Relaxed);
    }

    /// Shows whether the service is under attack.
    pub fn under_attack(&self, is: bool) {
        self.0.gauge(SERVICE_ATTACK).store(i64::from(is), Relaxed);
    }

    /// Shows how many requests may wait for answers at once; 0 while there is no bound.
    pub fn capacity(&self, limit: u32) {
        self.0.gauge(SERVICE_CAPACITY).store(i64::from(limit), Relaxed);
    }
}

/// What a limit decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitResult {
    /// A token was taken.
    Allowed,
    /// No token was left.
    Refused,
    /// The key is banned.
    Banned,
}

pub(super) const LIMIT_RESULTS: [&str; 3] = ["allowed", "refused", "banned"];
pub(super) const LIMIT_BANS: usize = LIMIT_RESULTS.len();
pub(super) const LIMIT_FORGOTTEN: usize = LIMIT_BANS + 1;
pub(super) const LIMIT_SLOTS: usize = LIMIT_FORGOTTEN + 1;
pub(super) type LimitRow = Row<LIMIT_SLOTS, 1>;

/// Handles for one named limit. The default ones count unseen.
#[derive(Clone, Debug, Default)]
pub struct LimitMetrics(pub(super) Arc<LimitRow>);

impl LimitMetrics {
    /// Counts one decision.
    pub fn decided(&self, result: LimitResult) {
        self.0.add(result as usize, 1);
    }

    /// Counts a ban that begins.
    pub fn banned(&self) {
        self.0.add(LIMIT_BANS, 1);
    }

    /// Counts keys that were forgotten because the limit's memory was full.
    pub fn forgot(&self, keys: u64) {
        self.0.add(LIMIT_FORGOTTEN, keys);
    }

    /// Says how many keys are remembered.
    pub fn keys(&self, keys: usize) {
        self.0.gauge(0).store(i64::try_from(keys).unwrap_or(i64::MAX), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_counts_under_its_own_code_or_its_class() {
        for status in 100..=599_u16 {
            let code = CODES[code_slot(status)];

            let own = status.to_string();
            let class = format!("{}xx", (status / 100).max(2)); // 1xx other than 101 never ends a request.
            let listed = CODES.contains(&own.as_str());
            assert_eq!(code, if listed { own } else { class });
        }
    }

    #[test]
    fn reasons_are_listed_in_the_order_of_their_discriminants() {
        for (slot, reason) in REASONS.iter().enumerate() {
            assert_eq!(*reason as usize, slot, "{}", reason_label(*reason));
        }
    }
}
