//! How long an endpoint is waited for, in one try.

use tidegate_model::time::Timestamp;

use crate::clock;
use crate::exchange::Exchange;

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct Waits {
    first_byte_at: Option<Timestamp>,
    total_at: Option<Timestamp>,
    /// Since when the client's body is waited for.
    pub client_since: Option<Timestamp>,
    /// Since when more of the endpoint's answer is waited for.
    pub answer_since: Option<Timestamp>,
}

impl Waits {
    /// A try of `exchange` that begins now.
    pub fn new(exchange: &Exchange) -> Self {
        let total_at = exchange.plan.as_deref().and_then(|plan| exchange.total_deadline(plan));
        let first_byte_at = exchange.first_byte_deadline(clock::now());
        Self { first_byte_at, total_at, client_since: None, answer_since: None }
    }

    /// Some of the request's body has come: the endpoint can't be expected to answer before it has the request.
    pub fn body_passes(&mut self, exchange: &Exchange) {
        self.first_byte_at = exchange.first_byte_deadline(clock::now());
    }

    /// Whether the client is waited for neither to send its body nor to take the answer: it is the endpoint that is silent.
    pub fn for_the_endpoint_only(&self) -> bool {
        self.answer_since.is_some() && self.client_since.is_none()
    }

    /// When the endpoint is too late, its answer `begun` or not.
    pub fn endpoint(&self, begun: bool, exchange: &Exchange) -> Option<Timestamp> {
        let plan = exchange.plan.as_deref()?;
        match (begun, self.answer_since) {
            // It can't answer a request that the client hasn't sent.
            (false, _) if self.client_since.is_some() => self.total_at,
            (false, _) => self.first_byte_at,
            (true, None) => self.total_at,
            (true, Some(since)) => {
                let idle = since + exchange.timeouts(plan).idle;
                Some(self.total_at.map_or(idle, |total| total.min(idle)))
            }
        }
    }
}
