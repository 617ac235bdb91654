//! Chooses an endpoint within a version.

use std::sync::Arc;
use tidegate_model::desired::Balance;

use crate::endpoint::Endpoint;

/// What balancing one version needs to remember.
pub struct Balancer {}

impl Balancer {
    /// For `endpoints`, in that order; takes over the rotation of `previous`.
    pub fn new(policy: &Balance, endpoints: &[Arc<Endpoint>], weights: &[u32], previous: Option<&Self>) -> Self {
        let _ = (policy, endpoints, weights, previous);
        Self {}
    }
}
