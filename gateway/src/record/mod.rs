//! What is remembered of requests: metrics, the access log, trace context.

pub mod access;
pub mod metrics;
pub mod trace;

pub use metrics::{ArmMetrics, EndpointMetrics, Metrics, RouteMetrics, ShadowMetrics};
