//! Finds the route for a request, by Gateway API precedence.

use tidegate_model::desired::Route;

use super::Head;

/// An index over all routes.
pub struct Router {}

impl Router {
    /// Indexes `routes`. Regular expressions were checked, so this can't fail on valid input.
    pub fn build(routes: &[Route]) -> Self {
        let _ = routes;
        Self {}
    }

    /// The most specific route that takes `head`: an index into what it was built from.
    pub fn find(&self, head: &Head<'_>) -> Option<usize> {
        let _ = head;
        None
    }
}
