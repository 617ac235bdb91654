//! TLS settings for listeners: versions, application protocols, session resumption.

use std::sync::{Arc, LazyLock};

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{ProducesTickets, ResolvesServerCert, ServerSessionMemoryCache, StoresServerSessions};
use rustls::{ConfigBuilder, ServerConfig, SupportedProtocolVersion, WantsVerifier};

use crate::acme::Challenges;

/// TLS 1.2 sessions without tickets that are remembered. Beyond it the oldest is forgotten and
/// its client makes a full handshake.
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
    ticketer: Arc<dyn ProducesTickets>,
    sessions: Arc<dyn StoresServerSessions>,
    challenges: Challenges,
}

impl TlsShared {
    /// Fresh ticket keys, which rotate by themselves. `challenges` knows what ACME authorities are shown.
    ///
    /// # Errors
    ///
    /// When the system has no randomness to give.
    pub fn new(challenges: Challenges) -> Result<Self, rustls::Error> {
        let (ticketer, sessions) = (aws_lc_rs::Ticketer::new()?, ServerSessionMemoryCache::new(SESSIONS));
        Ok(Self { ticketer, sessions, challenges })
    }

    /// What ACME authorities are shown.
    pub(super) fn challenges(&self) -> &Challenges {
        &self.challenges
    }

    /// Settings of a visitor's handshake.
    pub(super) fn visitors(&self, shape: TlsShape, resolver: Arc<dyn ResolvesServerCert>) -> Arc<ServerConfig> {
        let versions: &[_] = if shape.only_tls13 {
            &[&rustls::version::TLS13]
        } else {
            &[&rustls::version::TLS13, &rustls::version::TLS12]
        };
        let mut config = builder(versions).with_no_client_auth().with_cert_resolver(resolver);
        config.ticketer = Arc::clone(&self.ticketer);
        config.session_storage = Arc::clone(&self.sessions);
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
