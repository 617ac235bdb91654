//! Every metric, named and registered in one place; handles are resolved in `compile`.

use prometheus::IntGauge;

/// The registry and all families.
#[derive(Clone)]
pub struct Metrics {}

/// Handles for one endpoint.
pub struct EndpointMetrics {
    /// Requests being served right now.
    pub in_flight: IntGauge,
}

/// Handles for requests of one route that the gateway answers by itself.
pub struct RouteMetrics {}

/// Handles for one route and version.
pub struct ArmMetrics {}

/// Handles for one route and shadow.
pub struct ShadowMetrics {}
