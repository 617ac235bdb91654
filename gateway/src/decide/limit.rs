//! Named rate limits: exact token buckets in bounded memory, with bans on repetition.

use tidegate_model::desired::Limit;

/// The buckets and bans of one named limit. Handed on by `compile` while its definition stays the same.
pub struct LimitState {}

impl LimitState {
    /// Empty buckets for `limit`, at most `max_keys` of them.
    pub fn new(limit: &Limit, max_keys: usize) -> Self {
        let _ = (limit, max_keys);
        Self {}
    }
}
