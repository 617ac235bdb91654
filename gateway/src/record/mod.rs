//! What is remembered of requests: metrics, the access log, trace context.
//!
//! # Invariants
//!
//! - A client never waits for any of it: counting takes no lock, and log lines that don't fit are lost and counted.

pub mod access;
mod cells;
mod families;
mod handles;
mod line;
pub mod metrics;
mod process;
pub mod trace;

pub use cells::{BOUNDS_NANOS, Level};
pub use handles::{
    ArmMetrics, EjectionCause, EndpointMetrics, LimitMetrics, LimitResult, Mismatch, RetryResult, RouteMetrics,
    ServiceMetrics, ShadowDrop, ShadowMetrics, ShadowResult, ShedReason, TryResult, reason_label,
};
pub use metrics::{Metrics, ReloadResult};

#[cfg(test)]
mod documented;
