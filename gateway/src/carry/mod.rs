//! Carries a plan out. With `proxy`, the only code that knows how bytes get to an endpoint.

pub mod body;
pub mod deadline;
pub mod edit;
pub mod express;
pub mod finish;
pub mod head;
pub mod peer;
pub mod pingora;
pub mod respond;
pub mod verdict;

pub use peer::UpstreamTlsReady;
