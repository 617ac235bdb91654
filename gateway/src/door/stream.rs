//! A client's connection as the carriers see it.

/// A client's connection: TCP or TLS, with bytes that were read ahead.
#[derive(Debug)]
pub struct DoorStream {}
