//! Certificates and the names they are for.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::TlsProblem;
use super::ocsp::Stapled;

/// A place for one certificate. What stands in it may be exchanged for a renewed one while it is in force. Empty while
/// there is none yet.
#[derive(Debug, Default)]
pub struct Slot {
    key: ArcSwapOption<CertifiedKey>,
    /// What is shown as long as it is empty and nothing else is for the name.
    placeholder: Option<Arc<CertifiedKey>>,
}

impl Slot {
    /// A place that holds `key`.
    pub fn holding(key: CertifiedKey) -> Self {
        Self { key: ArcSwapOption::from_pointee(key), placeholder: None }
    }

    /// An empty place. Until a certificate comes, `placeholder` is shown where nothing else is for the name.
    pub fn awaiting(placeholder: CertifiedKey) -> Self {
        Self { key: ArcSwapOption::empty(), placeholder: Some(Arc::new(placeholder)) }
    }

    /// Shows `key` to the handshakes that begin from now on.
    pub fn put(&self, key: Arc<CertifiedKey>) {
        self.key.store(Some(key));
    }

    /// Shows `next` instead of `was`. Not where something else stands there by now: then nothing changes, and it is false.
    pub fn exchange(&self, was: &Arc<CertifiedKey>, next: &Arc<CertifiedKey>) -> bool {
        let before = self.key.compare_and_swap(&Some(Arc::clone(was)), Some(Arc::clone(next)));
        before.as_ref().is_some_and(|before| Arc::ptr_eq(before, was))
    }

    /// What stands in it.
    pub fn get(&self) -> Option<Arc<CertifiedKey>> {
        self.key.load_full()
    }
}

/// What is known of a certificate that was read from a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileFacts {
    /// The file of the chain.
    pub file: PathBuf,
    /// The names it is for, in lower case.
    pub names: Vec<String>,
    /// Unix time from which it is valid.
    pub not_before: i64,
    /// Unix time at which it expires.
    pub not_after: i64,
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
    /// What was read from files.
    pub(super) files: Vec<FileFacts>,
    /// Places of certificates that may get OCSP responses.
    pub(super) stapled: Vec<Stapled>,
}

impl CertTable {
    /// Things to tell the operator that stop nothing: an expired or not yet valid certificate.
    pub fn warnings(&self) -> &[TlsProblem] {
        &self.warnings
    }

    /// Takes out the places of certificates that may get OCSP responses.
    pub fn take_stapled(&mut self) -> Vec<Stapled> {
        std::mem::take(&mut self.stapled)
    }

    /// What was read from files, in the order of the configuration.
    pub fn files(&self) -> &[FileFacts] {
        &self.files
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

    /// The certificates for `name`: those for exactly this name, then those by a wildcard for its last labels; where
    /// there are neither, the first.
    pub(super) fn candidates(&self, name: Option<&str>) -> impl Iterator<Item = usize> {
        const DEFAULT: &[usize] = &[0];
        let (exact, wildcard) = name.map_or((&[][..], &[][..]), |name| self.by_name(name));
        let exact = if exact.is_empty() && wildcard.is_empty() { DEFAULT } else { exact };
        exact.iter().chain(wildcard).copied()
    }

    /// Indices by the exact name, and by its wildcard.
    fn by_name(&self, name: &str) -> (&[usize], &[usize]) {
        let lower;
        let name = if name.bytes().any(|b| b.is_ascii_uppercase()) {
            lower = name.to_ascii_lowercase();
            &lower
        } else {
            name
        };
        let wildcard = name.split_once('.').and_then(|(_, rest)| self.wildcard.get(rest));
        (self.exact.get(name).map_or(&[], Vec::as_slice), wildcard.map_or(&[], Vec::as_slice))
    }
}

impl ResolvesServerCert for CertTable {
    /// One name may have an ECDSA and an RSA certificate: the first that this client can check. A placeholder is for a
    /// name that nothing else covers.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let (mut fallback, mut placeholder) = (None, None);
        for slot in self.candidates(hello.server_name()).filter_map(|at| self.slots.get(at)) {
            let Some(key) = slot.get() else {
                placeholder = placeholder.or_else(|| slot.placeholder.clone());
                continue;
            };
            if key.key.choose_scheme(hello.signature_schemes()).is_some() {
                return Some(key);
            }
            fallback.get_or_insert(key);
        }
        fallback.or(placeholder)
    }
}
