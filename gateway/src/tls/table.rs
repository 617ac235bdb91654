//! Certificates and the names they are for.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::TlsProblem;

/// A place for one certificate. What stands in it may be exchanged while it is in force: for one with a fresh OCSP
/// response, or for a renewed one. Empty while there is none yet.
#[derive(Debug, Default)]
pub struct Slot(ArcSwapOption<CertifiedKey>);

impl Slot {
    /// A place that holds `key`.
    pub fn holding(key: CertifiedKey) -> Self {
        Self(ArcSwapOption::from_pointee(key))
    }

    /// Shows `key` to the handshakes that begin from now on.
    pub fn put(&self, key: Arc<CertifiedKey>) {
        self.0.store(Some(key));
    }

    /// What stands in it.
    pub fn get(&self) -> Option<Arc<CertifiedKey>> {
        self.0.load_full()
    }
}

/// Certificates and the names they are for.
#[derive(Debug, Default)]
pub struct CertTable {
    /// In the order of the configuration; at least one in a table that was loaded.
    slots: Vec<Arc<Slot>>,
    /// Lower-case name → indices into `slots`, in their order.
    exact: HashMap<String, Vec<usize>>,
    /// `example.com` for `*.example.com` → the same.
    wildcard: HashMap<String, Vec<usize>>,
    /// Things to tell the operator that stop nothing, such as an expired certificate.
    pub(super) warnings: Vec<TlsProblem>,
}

impl CertTable {
    /// Things to tell the operator that stop nothing: an expired or not yet valid certificate.
    pub fn warnings(&self) -> &[TlsProblem] {
        &self.warnings
    }

    /// Adds a certificate for `names`, in lower case; `*.example.com` is one for any label before it.
    pub fn add(&mut self, names: &[String], slot: Arc<Slot>) {
        let at = self.slots.len();
        self.slots.push(slot);
        for name in names {
            let indices = match name.strip_prefix("*.") {
                Some(rest) => self.wildcard.entry(rest.to_owned()).or_default(),
                None => self.exact.entry(name.clone()).or_default(),
            };
            if indices.last() != Some(&at) {
                indices.push(at);
            }
        }
    }

    /// The certificates for `name`: by its exact name, else by a wildcard for its last labels, else the first.
    pub(super) fn candidates(&self, name: Option<&str>) -> &[usize] {
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
}

impl ResolvesServerCert for CertTable {
    /// One name may have an ECDSA and an RSA certificate: the first that this client can check. `None` only where no
    /// certificate for the name has come yet.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let mut fallback = None;
        for at in self.candidates(hello.server_name()) {
            let Some(key) = self.slots.get(*at).and_then(|slot| slot.get()) else { continue };
            if key.key.choose_scheme(hello.signature_schemes()).is_some() {
                return Some(key);
            }
            fallback.get_or_insert(key);
        }
        fallback
    }
}
