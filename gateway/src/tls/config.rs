//! TLS settings for listeners: versions, application protocols, session resumption.

use std::sync::{Arc, LazyLock};

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{
    NoServerSessionStorage, ProducesTickets, ResolvesServerCert, ServerSessionMemoryCache, StoresServerSessions,
};
use rustls::{ConfigBuilder, ServerConfig, SupportedProtocolVersion, WantsVerifier};

use super::ChallengeCertificates;
use super::challenge::ACME_TLS;

/// TLS 1.2 sessions without tickets that are remembered. Beyond it the oldest is forgotten and
/// its client makes a full handshake.
const SESSIONS: usize = 4_096;

/// The provider, named rather than taken from the process: Pingora installs another one.
pub(super) fn provider() -> &'static Arc<CryptoProvider> {
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
    challenges: Arc<ChallengeCertificates>,
}

impl TlsShared {
    /// Fresh ticket keys, which rotate by themselves.
    ///
    /// # Errors
    ///
    /// When the system has no randomness to give.
    pub fn new() -> Result<Self, rustls::Error> {
        let (ticketer, sessions) = (aws_lc_rs::Ticketer::new()?, ServerSessionMemoryCache::new(SESSIONS));
        Ok(Self { ticketer, sessions, challenges: Arc::default() })
    }

    /// Where the proofs for ACME authorities are put.
    pub fn challenges(&self) -> &Arc<ChallengeCertificates> {
        &self.challenges
    }

    /// Settings of a handshake with an ACME authority (RFC 8737). Nothing of it is ever resumed.
    pub(super) fn challenge(&self) -> Arc<ServerConfig> {
        let versions = &[&rustls::version::TLS13, &rustls::version::TLS12];
        let mut config = builder(versions)
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&self.challenges) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols.push(ACME_TLS.to_vec());
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Arc::new(config)
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
