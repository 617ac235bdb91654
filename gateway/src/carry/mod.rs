//! Carries a plan out. The only folder that knows how bytes get to an endpoint.

pub mod peer;

pub use peer::UpstreamTlsReady;
