//! Client certificates: who must show one, by server name.
//!
//! A connection is made under one server name and may then ask for any host. So each rule has an id, the connection
//! keeps the id of the rule it was made under, and a request for a host whose rule is another one is misdirected
//! (421, RFC 9110 §15.5.20): nobody comes past a rule by asking for another name first.
//!
//! # Invariants
//!
//! - The rule of a name is the most specific one: its exact entry, else its longest wildcard, else that of all others.
//! - A changed authority or revocation list makes other sessions: none is resumed past it. Connections that are open
//!   go on, as they do at every reload.
//!
//! # Not here
//!
//! Verifying chains is webpki's; refusing misdirected requests is `decide`'s.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};
use sha2::{Digest as _, Sha256};
use tidegate_model::desired::{ClientAuth, ClientVerify, HostPattern, ListenerTls};
use x509_parser::prelude::{CertificateRevocationList, FromDer};

use super::TlsProblem;
use super::config::provider;
use super::load::{not_pem, problem, read, read_chain, unix_now};

/// Tells rules about client certificates apart. Says what is asked, not of which content the files are at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum PolicyId {
    /// No certificate is asked for, whatever the name.
    #[default]
    Open,
    /// No certificate is asked for under this name, but under others of the listener.
    OpenAmongOthers,
    /// One is asked for: a hash over how and by which files.
    Asks([u8; 16]),
}

impl PolicyId {
    /// Whether no certificate is asked for.
    pub fn is_open(self) -> bool {
        !matches!(self, Self::Asks(_))
    }

    fn of(auth: &ClientAuth) -> Self {
        let mut hash = Sha256::new();
        hash.update([u8::from(auth.verify == ClientVerify::Require)]);
        for path in [Some(&auth.ca), auth.crl.as_ref()].into_iter().flatten() {
            let path = path.as_os_str().as_encoded_bytes();
            hash.update((path.len() as u64).to_be_bytes());
            hash.update(path);
        }
        let hash: [u8; 32] = hash.finalize().into();
        Self::Asks(*hash.first_chunk().expect("invariant: a SHA-256 hash is longer"))
    }
}

/// A rule about client certificates, ready to be applied.
#[derive(Debug)]
pub struct ClientPolicy {
    /// Which one it is.
    pub id: PolicyId,
    /// Over what its files hold. Sessions are resumed only within it.
    pub(super) contents: [u8; 32],
    /// Checks certificates.
    pub(super) verifier: Arc<dyn ClientCertVerifier>,
}

/// The rules of one listener. Empty where it asks nobody.
#[derive(Debug, Default)]
pub struct ClientPolicies {
    policies: Vec<ClientPolicy>,
    exact: HashMap<String, usize>,
    wildcard: HashMap<String, usize>,
    others: Option<usize>,
}

impl ClientPolicies {
    /// Reads the authorities and revocation lists of a listener. Things that stop nothing are added to `warnings`.
    ///
    /// # Errors
    ///
    /// Every problem with every file.
    pub fn load(tls: &ListenerTls, warnings: &mut Vec<TlsProblem>) -> Result<Self, Vec<TlsProblem>> {
        let mut ready = Self::default();
        let mut problems = Vec::new();
        for auth in &tls.clients {
            match load(auth, warnings) {
                Ok(policy) => ready.add(auth, policy),
                Err(mut found) => problems.append(&mut found),
            }
        }
        if problems.is_empty() { Ok(ready) } else { Err(problems) }
    }

    fn add(&mut self, auth: &ClientAuth, policy: ClientPolicy) {
        let at = self.policies.len();
        self.policies.push(policy);
        for name in &auth.names {
            match name {
                Some(HostPattern::Exact(name)) => drop(self.exact.insert(name.clone(), at)),
                Some(HostPattern::Wildcard(name)) => drop(self.wildcard.insert(name.clone(), at)),
                None => self.others = Some(at),
            }
        }
    }

    /// Whether nobody is asked.
    pub fn is_empty(&self) -> bool {
        self.policies.is_empty()
    }

    /// All rules, in the order of the configuration.
    pub(super) fn all(&self) -> &[ClientPolicy] {
        &self.policies
    }

    /// Index of the rule for `name`, which is in lower case; `None` where no certificate is asked for.
    pub(super) fn index(&self, name: Option<&str>) -> Option<usize> {
        let Some(name) = name else { return self.others };
        if let Some(at) = self.exact.get(name) {
            return Some(*at);
        }
        let mut rest = name;
        while let Some((_, shorter)) = rest.split_once('.') {
            rest = shorter;
            if let Some(at) = self.wildcard.get(rest) {
                return Some(*at);
            }
        }
        self.others
    }

    /// The rule for `name`, which is in lower case.
    pub fn id(&self, name: Option<&str>) -> PolicyId {
        match self.index(name) {
            Some(at) => self.policies[at].id,
            None if self.is_empty() => PolicyId::Open,
            None => PolicyId::OpenAmongOthers,
        }
    }
}

fn load(auth: &ClientAuth, warnings: &mut Vec<TlsProblem>) -> Result<ClientPolicy, Vec<TlsProblem>> {
    let (authorities, crls) = match (read_chain(&auth.ca), read_crls(auth.crl.as_deref())) {
        (Ok(authorities), Ok(crls)) => (authorities, crls),
        (authorities, crls) => return Err(authorities.err().into_iter().chain(crls.err()).collect()),
    };
    if let Some(file) = &auth.crl {
        warnings.extend(crls.iter().filter_map(|crl| out_of_date(file, crl, unix_now())));
    }
    let contents = fingerprint(auth.verify, &authorities, &crls);
    let verifier = verifier(auth, authorities, crls).map_err(|problem| vec![problem])?;
    Ok(ClientPolicy { id: PolicyId::of(auth), contents, verifier })
}

fn verifier(
    auth: &ClientAuth,
    authorities: Vec<CertificateDer<'static>>,
    crls: Vec<CertificateRevocationListDer<'static>>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsProblem> {
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(authority).map_err(|err| {
            problem(&auth.ca, format!("an authority can't be used: {err}"), "is it an X.509 certificate, version 3?")
        })?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider())).with_crls(crls);
    let builder = match auth.verify {
        ClientVerify::Require => builder,
        ClientVerify::Ask => builder.allow_unauthenticated(),
    };
    builder.build().map_err(|err| {
        let file = auth.crl.as_ref().unwrap_or(&auth.ca);
        problem(file, format!("it can't be used: {err}"), "make it again; `openssl crl -in FILE -text` shows one")
    })
}

fn read_crls(file: Option<&Path>) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsProblem> {
    let Some(file) = file else { return Ok(Vec::new()) };
    let pem = read(file)?;
    let crls: Vec<_> = CertificateRevocationListDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|err| not_pem(file, &err))?;
    if crls.is_empty() {
        return Err(problem(file, "it holds no revocation list", "it must hold `BEGIN X509 CRL` sections, as PEM"));
    }
    Ok(crls)
}

/// webpki goes on using an old list: better than none. So it is said.
fn out_of_date(file: &Path, crl: &CertificateRevocationListDer<'_>, now: i64) -> Option<TlsProblem> {
    let (_, crl) = CertificateRevocationList::from_der(crl).ok()?;
    let next = crl.next_update().filter(|next| next.timestamp() < now)?;
    let what = format!("a newer revocation list was due on {next}");
    Some(problem(file, what, "it is used all the same; fetch the new one"))
}

fn fingerprint(
    verify: ClientVerify,
    authorities: &[CertificateDer<'_>],
    crls: &[CertificateRevocationListDer<'_>],
) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update([u8::from(verify == ClientVerify::Require)]);
    let ders = authorities.iter().map(|der| (b'a', &der[..])).chain(crls.iter().map(|der| (b'r', &der[..])));
    for (kind, der) in ders {
        hash.update([kind]);
        hash.update((der.len() as u64).to_be_bytes());
        hash.update(der);
    }
    hash.finalize().into()
}
