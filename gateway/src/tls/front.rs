//! What a listener does with a ClientHello: which settings a handshake goes on with.
//!
//! rustls has one verifier of client certificates for each `ServerConfig`, so the name and protocols that a client
//! asks for choose the settings before the handshake goes on.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::ClientHello;

use super::{CertTable, TlsShape, TlsShared};
use crate::acme::{ACME_TLS, Challenges};

/// TLS of one listener. Never changes, so a handshake sees one state, whole.
#[derive(Debug)]
pub struct Front {
    visitors: Arc<ServerConfig>,
    challenges: Challenges,
}

/// How a handshake goes on.
#[derive(Debug)]
pub enum Choice<'a> {
    /// For a visitor.
    Visitor(&'a Arc<ServerConfig>),
    /// For an ACME authority, which only looks at the certificate: there is nothing to say after the handshake.
    Authority(&'a Challenges),
}

impl Front {
    /// A front that shows the certificates of `table`.
    pub fn new(shared: &TlsShared, shape: TlsShape, table: CertTable) -> Self {
        Self { visitors: shared.visitors(shape, Arc::new(table)), challenges: shared.challenges().clone() }
    }

    /// How the handshake that `hello` begins goes on.
    pub fn choose(&self, hello: &ClientHello<'_>) -> Choice<'_> {
        // The authority offers this protocol and no other (RFC 8737 §3).
        if hello.alpn().is_some_and(|mut offered| offered.next() == Some(ACME_TLS) && offered.next().is_none()) {
            return Choice::Authority(&self.challenges);
        }
        Choice::Visitor(&self.visitors)
    }

    /// Settings of a visitor's handshake.
    pub fn visitors(&self) -> &Arc<ServerConfig> {
        &self.visitors
    }
}
