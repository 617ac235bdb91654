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
mod shadows;
mod table;
pub mod trace;

pub use cells::{BOUNDS_NANOS, Level};
pub use handles::{
    ArmMetrics, DyedShed, EjectionCause, EndpointMetrics, LimitMetrics, LimitResult, RetryResult, RouteMetrics,
    ServiceMetrics, ShedReason, TryResult, reason_label,
};
pub use metrics::{Metrics, ReloadResult};
pub use shadows::{Mismatch, ShadowDrop, ShadowMetrics, ShadowResult};

#[cfg(test)]
mod documented;
