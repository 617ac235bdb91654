//! How to connect to an endpoint: address, TLS, protocol, pool.

/// TLS to a service's endpoints, with its files read.
#[derive(Debug)]
pub struct UpstreamTlsReady {}
