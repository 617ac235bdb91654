//! Certificates that prove to an ACME authority that a name is ours (TLS-ALPN-01, RFC 8737).
//!
//! # Not here
//!
//! Making them and asking the authority to look is `acme`'s.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// The application protocol of a validation (RFC 8737 §4).
pub const ACME_TLS: &[u8] = b"acme-tls/1";

/// The proofs that an authority may be looking for now. Few, and asked for seldom: a lock is enough.
#[derive(Debug, Default)]
pub struct ChallengeCertificates(Mutex<HashMap<String, Arc<CertifiedKey>>>);

impl ChallengeCertificates {
    /// Shows `key` to an authority that asks for `name`, which is in lower case.
    pub fn put(&self, name: &str, key: Arc<CertifiedKey>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), key);
    }

    /// Takes the proof for `name` away again.
    pub fn remove(&self, name: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    /// The proof for `name`, which is in lower case.
    pub fn challenge_certificate(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }
}

impl ResolvesServerCert for ChallengeCertificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.challenge_certificate(&hello.server_name()?.to_ascii_lowercase())
    }
}
