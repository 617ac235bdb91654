//! TLS settings for listeners: versions, application protocols, session resumption.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{ResolvesServerCert, ServerSessionMemoryCache};
use rustls::{ConfigBuilder, ServerConfig, SupportedProtocolVersion, WantsVerifier};

use super::TicketSecret;
use super::clients::ClientPolicy;
use super::tickets::{TicketKeys, Ticketer};
use crate::acme::Challenges;

/// TLS 1.2 sessions without tickets that are remembered, for each rule about client certificates. Beyond it the oldest
/// is forgotten and its client makes a full handshake.
const SESSIONS: usize = 4_096;

/// The provider, named rather than taken from the process: Pingora installs another one.
pub(crate) fn provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| Arc::new(aws_lc_rs::default_provider()));
    &PROVIDER
}

/// What the settings of a listener depend on, besides its certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TlsShape {
    /// TLS 1.2 is refused.
    pub only_tls13: bool,
    /// `http/1.1` is offered.
    pub http1: bool,
    /// `h2` is offered.
    pub http2: bool,
}

/// What outlives reloads and is shared by all listeners and cores, so that a client resumes its
/// session wherever it comes back.
#[derive(Debug)]
pub struct TlsShared {
    keys: Arc<TicketKeys>,
    /// By what a rule about client certificates holds: no session goes from one to another.
    sessions: HashMap<[u8; 32], Sessions>,
    challenges: Challenges,
}

/// Where sessions of one kind are kept.
#[derive(Debug)]
struct Sessions {
    ticketer: Arc<Ticketer>,
    cache: Arc<ServerSessionMemoryCache>,
}

impl TlsShared {
    /// Fresh ticket keys, which rotate by themselves. `challenges` knows what ACME authorities are shown.
    pub fn new(challenges: Challenges) -> Self {
        Self { keys: Arc::default(), sessions: HashMap::new(), challenges }
    }

    /// Makes the ticket keys from `secret` from now on, or from nothing but chance.
    pub fn set_ticket_secret(&mut self, secret: Option<TicketSecret>) {
        if self.keys.secret() != secret.as_ref() {
            self.keys = Arc::new(TicketKeys::new(secret));
            self.sessions.clear();
        }
    }

    /// Forgets the sessions of rules that nobody uses any more.
    pub fn forget_unused(&mut self) {
        self.sessions.retain(|_, sessions| Arc::strong_count(&sessions.ticketer) > 1);
    }

    /// What ACME authorities are shown.
    pub(super) fn challenges(&self) -> &Challenges {
        &self.challenges
    }

    /// Settings of a visitor's handshake, under a rule about client certificates.
    pub(super) fn visitors(
        &mut self,
        shape: TlsShape,
        resolver: Arc<dyn ResolvesServerCert>,
        policy: Option<&ClientPolicy>,
    ) -> Arc<ServerConfig> {
        let versions: &[_] = if shape.only_tls13 {
            &[&rustls::version::TLS13]
        } else {
            &[&rustls::version::TLS13, &rustls::version::TLS12]
        };
        let config = builder(versions);
        let config = match policy {
            Some(policy) => config.with_client_cert_verifier(Arc::clone(&policy.verifier)),
            None => config.with_no_client_auth(),
        };
        let mut config = config.with_cert_resolver(resolver);
        let kind = policy.map_or([0; 32], |policy| policy.contents);
        let sessions = self.sessions.entry(kind).or_insert_with(|| Sessions {
            ticketer: Arc::new(Ticketer::new(Arc::clone(&self.keys), kind)),
            cache: ServerSessionMemoryCache::new(SESSIONS),
        });
        config.ticketer = Arc::clone(&sessions.ticketer) as _;
        config.session_storage = Arc::clone(&sessions.cache) as _;
        config.ignore_client_order = true;
        if shape.http2 {
            config.alpn_protocols.push(b"h2".to_vec());
        }
        if shape.http1 {
            config.alpn_protocols.push(b"http/1.1".to_vec());
        }
        Arc::new(config)
    }
}

fn builder(versions: &[&'static SupportedProtocolVersion]) -> ConfigBuilder<ServerConfig, WantsVerifier> {
    ServerConfig::builder_with_provider(Arc::clone(provider()))
        .with_protocol_versions(versions)
        .expect("invariant: the provider has cipher suites for these versions")
}
