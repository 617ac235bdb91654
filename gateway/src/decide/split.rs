//! Chooses the arm of a split for one request.

use tidegate_model::desired::Split;

/// Chooses arms for one split. Its rotation is handed on by `compile`.
pub struct Splitter {}

impl Splitter {
    /// For `split`; takes over the rotation of `previous`.
    pub fn new(split: &Split, labels: &[std::sync::Arc<str>], previous: Option<&Self>) -> Self {
        let _ = (split, labels, previous);
        Self {}
    }
}
