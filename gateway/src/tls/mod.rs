//! Certificates by server name, swapped without a pause.
//!
//! A [`CertTable`] is read from files once and never changes; a [`Resolver`] holds the table in
//! force, so a handshake sees either the old one or the new one, whole.
//!
//! # Invariants
//!
//! - Every key in a table matches its certificate.
//! - A table is never empty: a client without a (known) name gets the first certificate.
//!
//! # Not here
//!
//! TLS towards endpoints is `carry`'s.

mod config;
mod load;

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

pub use config::{TlsShape, TlsShared};

/// Something wrong with a certificate or key file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsProblem {
    /// The file.
    pub file: PathBuf,
    /// What is wrong with it, in one lower-case sentence without a full stop.
    pub what: String,
    /// What to try.
    pub help: String,
}

impl fmt::Display for TlsProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ({})", self.file.display(), self.what, self.help)
    }
}

/// Certificates and the names they are for.
#[derive(Debug)]
pub struct CertTable {
    /// In the order of the configuration; at least one.
    keys: Vec<Arc<CertifiedKey>>,
    /// Lower-case name → indices into `keys`, in their order.
    exact: HashMap<String, Vec<usize>>,
    /// `example.com` for `*.example.com` → the same.
    wildcard: HashMap<String, Vec<usize>>,
    /// Things to tell the operator that stop nothing, such as an expired certificate.
    warnings: Vec<TlsProblem>,
}

impl CertTable {
    /// Things to tell the operator that stop nothing: an expired or not yet valid certificate.
    pub fn warnings(&self) -> &[TlsProblem] {
        &self.warnings
    }

    /// The certificates for `name`: by its exact name, else by a wildcard for its last labels, else the first.
    fn candidates(&self, name: Option<&str>) -> &[usize] {
        const DEFAULT: &[usize] = &[0];
        let Some(name) = name else { return DEFAULT };
        let lower;
        let name = if name.bytes().any(|b| b.is_ascii_uppercase()) {
            lower = name.to_ascii_lowercase();
            &lower
        } else {
            name
        };
        let wildcard = || name.split_once('.').and_then(|(_, rest)| self.wildcard.get(rest));
        self.exact.get(name).or_else(wildcard).map_or(DEFAULT, Vec::as_slice)
    }

    fn resolve(&self, hello: &ClientHello<'_>) -> Arc<CertifiedKey> {
        let candidates = self.candidates(hello.server_name());
        let usable = |at: &&usize| self.keys[**at].key.choose_scheme(hello.signature_schemes()).is_some();
        // One name may have an ECDSA and an RSA certificate: the first that this client can check.
        let at = candidates.iter().find(usable).unwrap_or(&candidates[0]);
        Arc::clone(&self.keys[*at])
    }
}

/// Finds the certificate for a handshake in the table in force.
#[derive(Debug)]
pub struct Resolver(ArcSwap<CertTable>);

impl Resolver {
    /// Starts with a first table.
    pub fn new(table: CertTable) -> Self {
        Self(ArcSwap::from_pointee(table))
    }

    /// Puts another table in force for the handshakes that begin from now on.
    pub fn replace(&self, table: CertTable) {
        self.0.store(Arc::new(table));
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load().resolve(&hello))
    }
}

#[cfg(test)]
mod tests;
