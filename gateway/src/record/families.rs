//! The families that rows are exposed as: names, help texts, labels, and which slots they read.
//!
//! # Not here
//!
//! Reading rows is `table`'s. Families without labels or with rare counts are made with the `prometheus` crate in `metrics`.

use super::handles::*;
use super::shadows::*;
use super::table::{Family, Shape};

/// The labels that arm rows carry.
pub(super) const ARM_LABELS: &[&str] = &["route", "service", "version"];
/// What arm rows are exposed as.
pub(super) const ARM_FAMILIES: &[Family] = &[
    Family {
        name: "tidegate_requests_total",
        help: "Requests that ended, by route, version and status. Service and version are empty where the gateway \
               answered before it chose one.",
        shape: Shape::SparseCounters(0, "code", &CODES),
    },
    Family {
        name: "tidegate_request_duration_seconds",
        help: "Time from a request's head to the last byte of its answer.",
        shape: Shape::Seconds(ARM_SECONDS),
    },
    Family {
        name: "tidegate_request_body_bytes_total",
        help: "Bytes of request bodies received from clients.",
        shape: Shape::Counter(ARM_BYTES_IN),
    },
    Family {
        name: "tidegate_response_body_bytes_total",
        help: "Bytes of response bodies sent to clients.",
        shape: Shape::Counter(ARM_BYTES_OUT),
    },
];

/// What arm rows of dyed traffic are exposed as.
pub(super) const DYED_ARM_FAMILIES: &[Family] = &[
    Family {
        name: "tidegate_dyed_requests_total",
        help: "Dyed requests that ended, by route, version and status. They are not in tidegate_requests_total.",
        shape: Shape::SparseCounters(0, "code", &CODES),
    },
    Family {
        name: "tidegate_dyed_request_duration_seconds",
        help: "Time from a dyed request's head to the last byte of its answer. Dyed requests are not in \
               tidegate_request_duration_seconds.",
        shape: Shape::Seconds(ARM_SECONDS),
    },
    Family {
        name: "tidegate_dyed_request_body_bytes_total",
        help: "Bytes of the bodies of dyed requests.",
        shape: Shape::Counter(ARM_BYTES_IN),
    },
    Family {
        name: "tidegate_dyed_response_body_bytes_total",
        help: "Bytes of the bodies of answers to dyed requests.",
        shape: Shape::Counter(ARM_BYTES_OUT),
    },
];

/// The labels that route rows carry.
pub(super) const ROUTE_LABELS: &[&str] = &["route"];
/// What route rows are exposed as.
pub(super) const ROUTE_FAMILIES: &[Family] = &[Family {
    name: "tidegate_answers_total",
    help: "Answers that the gateway gave by itself, by reason. Route is empty where none was found.",
    shape: Shape::SparseCounters(0, "reason", &REASON_LABELS),
}];

/// What route rows of dyed traffic are exposed as.
pub(super) const DYED_ROUTE_FAMILIES: &[Family] = &[Family {
    name: "tidegate_dyed_answers_total",
    help: "Answers that the gateway gave dyed requests by itself, by reason. Route is empty where none was found.",
    shape: Shape::SparseCounters(0, "reason", &REASON_LABELS),
}];

/// The labels that endpoint rows carry.
pub(super) const ENDPOINT_LABELS: &[&str] = &["service", "version", "endpoint"];
/// What endpoint rows are exposed as.
pub(super) const ENDPOINT_FAMILIES: &[Family] = &[
    Family {
        name: "tidegate_upstream_requests_total",
        help: "Tries at an endpoint, by result. A retried request counts once for each try, and a dyed one as any \
               other.",
        shape: Shape::Counters(0, "result", &TRY_RESULTS),
    },
    Family {
        name: "tidegate_upstream_first_byte_seconds",
        help: "Time from a request being sent to an endpoint to the first byte of its answer. Dyed requests are left \
               out.",
        shape: Shape::Seconds(ENDPOINT_FIRST_BYTE),
    },
    Family {
        name: "tidegate_upstream_in_flight",
        help: "Requests that an endpoint is serving right now for this gateway.",
        shape: Shape::Level(ENDPOINT_IN_FLIGHT),
    },
    Family {
        name: "tidegate_endpoint_up",
        help: "1 while an endpoint is neither down by its probes nor ejected, else 0.",
        shape: Shape::NoGauge,
    },
    Family {
        name: "tidegate_endpoint_ejected",
        help: "1 while an endpoint rests after failing, else 0.",
        shape: Shape::Gauge(ENDPOINT_EJECTED),
    },
    Family {
        name: "tidegate_endpoint_down",
        help: "1 while an endpoint's probes fail, else 0.",
        shape: Shape::Gauge(ENDPOINT_DOWN),
    },
    Family {
        name: "tidegate_ejections_total",
        help: "Ejections of an endpoint, by cause.",
        shape: Shape::Counters(ENDPOINT_EJECTIONS, "cause", &EJECTION_CAUSES),
    },
    Family {
        name: "tidegate_probes_total",
        help: "Active probes of an endpoint, by result.",
        shape: Shape::Counters(ENDPOINT_PROBES, "result", &PROBE_RESULTS),
    },
];

/// The labels that service rows carry.
pub(super) const SERVICE_LABELS: &[&str] = &["service"];
/// What service rows are exposed as.
pub(super) const SERVICE_FAMILIES: &[Family] = &[
    Family {
        name: "tidegate_retries_total",
        help: "Retries, by what came of them.",
        shape: Shape::Counters(0, "result", &RETRY_RESULTS),
    },
    Family {
        name: "tidegate_retry_budget_exhausted_total",
        help: "Retries that were not made because the service's retry budget was used up.",
        shape: Shape::Counter(SERVICE_EXHAUSTED),
    },
    Family {
        name: "tidegate_shed_total",
        help: "Requests that there was no room for at a service, by reason: a surge has taken the headroom (saturated); in \
               an attack, the share of unknown clients is used up (attack), or even that of known ones (full).",
        shape: Shape::Counters(SERVICE_SHED, "reason", &SHED_REASONS),
    },
    Family {
        name: "tidegate_dyed_shed_total",
        help: "Dyed requests that were turned away for the sake of live traffic, by reason.",
        shape: Shape::SparseCounters(SERVICE_DYED_SHED, "reason", &DYED_SHEDS),
    },
    Family {
        name: "tidegate_dyed_shedding",
        help: "1 while dyed traffic is shed, all or in part, because the service's live traffic does not get what it \
               was promised, else 0.",
        shape: Shape::Gauge(SERVICE_DYED_SHEDDING),
    },
    Family {
        name: "tidegate_service_under_attack",
        help: "1 while a service has more to do than it can and unknown visitors are challenged or turned away, else 0.",
        shape: Shape::Gauge(SERVICE_ATTACK),
    },
    Family {
        name: "tidegate_service_capacity",
        help: "Requests that may wait for a service's answers at once before anybody is kept out; 0 while there is no bound.",
        shape: Shape::Gauge(SERVICE_CAPACITY),
    },
];

/// The labels that limit rows carry.
pub(super) const LIMIT_LABELS: &[&str] = &["limit"];
/// What limit rows are exposed as.
pub(super) const LIMIT_FAMILIES: &[Family] = &[
    Family {
        name: "tidegate_limit_decisions_total",
        help: "Decisions of a named limit, by result.",
        shape: Shape::Counters(0, "result", &LIMIT_RESULTS),
    },
    Family {
        name: "tidegate_limit_bans_total",
        help: "Bans that began because a key went on after being refused.",
        shape: Shape::Counter(LIMIT_BANS),
    },
    Family { name: "tidegate_limit_keys", help: "Keys that a named limit remembers.", shape: Shape::Gauge(0) },
    Family {
        name: "tidegate_limit_keys_forgotten_total",
        help: "Keys that were forgotten early because a limit's memory was full.",
        shape: Shape::Counter(LIMIT_FORGOTTEN),
    },
];

/// The labels that shadow rows carry.
pub(super) const SHADOW_LABELS: &[&str] = &["route", "service", "version"];
/// What shadow rows are exposed as.
pub(super) const SHADOW_FAMILIES: &[Family] = &[
    Family {
        name: "tidegate_shadow_sent_total",
        help: "Shadow copies that were sent.",
        shape: Shape::Counter(SHADOW_SENT),
    },
    Family {
        name: "tidegate_shadow_dropped_total",
        help: "Shadow copies that were not sent, by the bound they met.",
        shape: Shape::Counters(SHADOW_DROPPED, "reason", &SHADOW_DROPS),
    },
    Family {
        name: "tidegate_shadow_truncated_total",
        help: "Shadow copies that were sent without the rest of a body longer than the cap.",
        shape: Shape::Counter(SHADOW_TRUNCATED),
    },
    Family {
        name: "tidegate_shadow_finished_total",
        help: "Shadow copies that were sent and have ended, by result.",
        shape: Shape::Counters(SHADOW_DONE, "result", &SHADOW_RESULTS),
    },
    Family {
        name: "tidegate_shadow_compared_total",
        help: "Shadow answers that were compared with the main answer.",
        shape: Shape::Counter(SHADOW_COMPARED),
    },
    Family {
        name: "tidegate_shadow_mismatches_total",
        help: "Differences between a shadow's answer and the main one, by kind. One answer may differ in several.",
        shape: Shape::Counters(SHADOW_MISMATCHES, "kind", &MISMATCHES),
    },
    Family {
        name: "tidegate_shadow_duration_seconds",
        help: "Time that a shadow copy took, connect included.",
        shape: Shape::Seconds(SHADOW_SECONDS),
    },
    Family {
        name: "tidegate_shadow_incomparable_total",
        help: "Shadow answers that could not be compared: no main answer, a body too long, or another encoding.",
        shape: Shape::Counter(SHADOW_INCOMPARABLE),
    },
    Family {
        name: "tidegate_shadow_main_first_byte_seconds",
        help: "Time to the first byte of main answers that a shadow's was compared with.",
        shape: Shape::Seconds(SHADOW_MAIN_FIRST_BYTE),
    },
    Family {
        name: "tidegate_shadow_first_byte_seconds",
        help: "Time to the first byte of shadow answers that were compared.",
        shape: Shape::Seconds(SHADOW_FIRST_BYTE),
    },
];
