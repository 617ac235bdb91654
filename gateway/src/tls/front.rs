//! What a listener does with a ClientHello: which settings a handshake goes on with.
//!
//! rustls has one verifier of client certificates for each `ServerConfig`, so the name and protocols that a client
//! asks for choose the settings before the handshake goes on.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::ClientHello;

use super::{CertTable, ClientPolicies, PolicyId, TlsShape, TlsShared};
use crate::acme::{ACME_TLS, Challenges};

/// TLS of one listener. Never changes, so a handshake sees one state, whole.
#[derive(Debug)]
pub struct Front {
    /// For names under which no client certificate is asked for.
    open: Arc<ServerConfig>,
    /// For each rule about client certificates, in their order.
    asking: Vec<Arc<ServerConfig>>,
    clients: Arc<ClientPolicies>,
    challenges: Challenges,
}

/// How a handshake goes on.
#[derive(Debug)]
pub enum Choice<'a> {
    /// For a visitor, under a rule about client certificates.
    Visitor(&'a Arc<ServerConfig>, PolicyId),
    /// For an ACME authority, which only looks at the certificate: there is nothing to say after the handshake.
    Authority(&'a Challenges),
}

impl Front {
    /// A front that shows the certificates of `table`, and asks clients for theirs as `clients` say.
    pub fn new(shared: &mut TlsShared, shape: TlsShape, table: CertTable, clients: Arc<ClientPolicies>) -> Self {
        let table = Arc::new(table);
        let open = shared.visitors(shape, Arc::clone(&table) as _, None);
        let asking =
            clients.all().iter().map(|policy| shared.visitors(shape, Arc::clone(&table) as _, Some(policy))).collect();
        Self { open, asking, clients, challenges: shared.challenges().clone() }
    }

    /// How the handshake that `hello` begins goes on.
    pub fn choose(&self, hello: &ClientHello<'_>) -> Choice<'_> {
        // The authority offers this protocol and no other (RFC 8737 §3).
        if hello.alpn().is_some_and(|mut offered| offered.next() == Some(ACME_TLS) && offered.next().is_none()) {
            return Choice::Authority(&self.challenges);
        }
        let (config, policy) = self.visitor(hello);
        Choice::Visitor(config, policy)
    }

    /// Settings of a visitor's handshake, and the rule about client certificates that it is made under.
    pub fn visitor(&self, hello: &ClientHello<'_>) -> (&Arc<ServerConfig>, PolicyId) {
        let lower;
        let name = match hello.server_name() {
            Some(name) if name.bytes().any(|b| b.is_ascii_uppercase()) => {
                lower = name.to_ascii_lowercase();
                Some(&*lower)
            }
            name => name,
        };
        let config = self.clients.index(name).map_or(&self.open, |at| &self.asking[at]);
        (config, self.clients.id(name))
    }
}
