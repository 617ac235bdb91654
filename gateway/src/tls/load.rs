//! Reads certificates and keys from files, and reports every problem with them at once.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tidegate_model::desired::{AcmeNames, CertificateFiles, CertificateSource, ListenerTls};
use x509_parser::asn1_rs::{Oid, oid};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::config::provider;
use super::ocsp::{self, Origin, Stapled};
use super::{CertTable, FileFacts, Slot, Slots, TlsProblem, placeholder};

/// Bytes of a certificate or key file. A larger one is refused: it is something else.
const MAX_FILE: u64 = 1 << 20;

impl CertTable {
    /// Reads the certificates of a listener. Those that are ordered are in `slots`; where one isn't, a placeholder stands
    /// for it.
    ///
    /// # Errors
    ///
    /// Every problem with every file.
    pub fn load(tls: &ListenerTls, slots: &Slots) -> Result<Self, Vec<TlsProblem>> {
        let mut table = Self::default();
        let mut problems = Vec::new();
        for source in &tls.certificates {
            let read = match source {
                CertificateSource::Files(files) => table.read(files),
                CertificateSource::Acme(names) => table.await_order(names, slots),
            };
            if let Err(mut found) = read {
                problems.append(&mut found);
            }
        }
        if problems.is_empty() { Ok(table) } else { Err(problems) }
    }

    fn read(&mut self, files: &CertificateFiles) -> Result<(), Vec<TlsProblem>> {
        let (chain, key) = match (read_chain(&files.cert), read_key(&files.key)) {
            (Ok(chain), Ok(key)) => (chain, key),
            (chain, key) => return Err(chain.err().into_iter().chain(key.err()).collect()),
        };
        let facts = self.look_at(&files.cert, &chain[0]).map_err(|problem| vec![problem])?;
        let certified = certify(files, chain, key).map_err(|problem| vec![problem])?;
        let from = self.responses(files, &certified.cert).map_err(|problem| vec![problem])?;
        let slot = Arc::new(Slot::holding(certified));
        self.stapled.push(Stapled { slot: Arc::clone(&slot), label: files.cert.display().to_string(), from });
        self.add(&facts.names, slot);
        self.files.push(facts);
        Ok(())
    }

    /// Where the OCSP responses of a certificate come from. A file is read and checked; one that can't be stapled is left
    /// alone, with a warning: clients do without a response sooner than without the gateway.
    fn responses(&mut self, files: &CertificateFiles, chain: &[CertificateDer<'_>]) -> Result<Origin, TlsProblem> {
        let Some(file) = &files.ocsp else {
            let asked = chain.len() > 1 && ocsp::responder(&chain[0]).is_some();
            if !asked && must_staple(&chain[0]) {
                let what = "clients want an OCSP response with this certificate, and there is none";
                let help =
                    "name one with ocsp: FILE, or put the issuer into the chain so that its responder can be asked";
                self.warnings.push(problem(&files.cert, what, help));
            }
            return Ok(Origin::Responder);
        };
        let der = read(file)?;
        let [leaf, issuer, ..] = chain else {
            let what = format!("it can't be checked: {} doesn't hold the issuer", files.cert.display());
            return Err(problem(file, what, "put the issuer's certificate behind the leaf"));
        };
        let verified = ocsp::verify(&der, leaf, issuer, unix_now());
        if let Err(why) = &verified {
            let what = format!("the OCSP response can't be stapled: {why}");
            let help = "fetch it again, as DER: `openssl ocsp -issuer CA -cert CERT -url URL -respout FILE`; the last good one \
                        is stapled to its end";
            self.warnings.push(problem(file, what, help));
        }
        Ok(Origin::File(verified.ok()))
    }

    /// A certificate that is ordered is found by the names it was ordered for.
    fn await_order(&mut self, names: &AcmeNames, slots: &Slots) -> Result<(), Vec<TlsProblem>> {
        let slot = match slots.0.get(names) {
            Some(slot) => Arc::clone(slot),
            None => Arc::new(Slot::awaiting(placeholder(names).map_err(|err| {
                let first = names.0.first().map_or(Path::new(""), Path::new);
                vec![problem(first, format!("no placeholder can be made: {err}"), "is the name possible in DNS?")]
            })?)),
        };
        let stapled = Stapled { slot: Arc::clone(&slot), label: names.0.join(", "), from: Origin::Responder };
        self.stapled.push(stapled);
        self.add(&names.0, slot);
        Ok(())
    }

    /// Whom a leaf is for and how long; warns when it is out of date.
    fn look_at(&mut self, file: &Path, leaf: &CertificateDer<'_>) -> Result<FileFacts, TlsProblem> {
        let (_, leaf) = X509Certificate::from_der(leaf).map_err(|_| {
            problem(file, "the first certificate is no X.509 certificate", "`openssl x509 -in FILE -text` shows one")
        })?;
        let now = unix_now();
        let validity = leaf.validity();
        if validity.not_after.timestamp() < now {
            let what = format!("the certificate expired on {}", validity.not_after);
            self.warnings.push(problem(file, what, "it is served all the same; renew it"));
        } else if validity.not_before.timestamp() > now {
            let what = format!("the certificate is valid only from {}", validity.not_before);
            self.warnings.push(problem(file, what, "it is served all the same; check this machine's clock"));
        }
        let mut names = alternative_names(&leaf);
        if names.is_empty() {
            // Old certificates of a house CA have no alternative names.
            let common = leaf.subject().iter_common_name().filter_map(|name| name.as_str().ok());
            names.extend(common.map(str::to_ascii_lowercase));
        }
        Ok(FileFacts {
            file: file.to_owned(),
            names,
            not_before: validity.not_before.timestamp(),
            not_after: validity.not_after.timestamp(),
        })
    }
}

/// Whether clients refuse a certificate without a response (RFC 7633, "must-staple").
fn must_staple(leaf: &CertificateDer<'_>) -> bool {
    const FEATURES: Oid<'_> = oid!(1.3.6.1.5.5.7.1.24);
    /// `status_request`, as an integer in a sequence.
    const STATUS_REQUEST: &[u8] = &[2, 1, 5];
    let Ok((_, leaf)) = X509Certificate::from_der(leaf) else { return false };
    leaf.extensions().iter().any(|extension| {
        extension.oid == FEATURES && extension.value.windows(STATUS_REQUEST.len()).any(|part| part == STATUS_REQUEST)
    })
}

/// The DNS names that a certificate is for, in lower case.
fn alternative_names(leaf: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(san)) = leaf.subject_alternative_name() else { return Vec::new() };
    let name = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        _ => None,
    };
    san.value.general_names.iter().filter_map(name).collect()
}

/// Reads a chain and its key from one PEM text; `file` is where it was read, for the message and the facts.
///
/// # Errors
///
/// What of it can't be used.
pub(crate) fn certify_pem(file: &Path, pem: &[u8]) -> Result<(CertifiedKey, FileFacts), TlsProblem> {
    let chain: Vec<_> =
        CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|err| not_pem(file, &err))?;
    let Some(first) = chain.first() else {
        return Err(problem(file, "it holds no certificate", "it must hold the chain as PEM, leaf first"));
    };
    let (_, leaf) = X509Certificate::from_der(first)
        .map_err(|_| problem(file, "the first certificate is no X.509 certificate", "is the file torn?"))?;
    let facts = FileFacts {
        file: file.to_owned(),
        names: alternative_names(&leaf),
        not_before: leaf.validity().not_before.timestamp(),
        not_after: leaf.validity().not_after.timestamp(),
    };
    let key = PrivateKeyDer::from_pem_slice(pem).map_err(|err| not_pem(file, &err))?;
    let files = CertificateFiles { cert: file.to_owned(), key: file.to_owned(), ocsp: None };
    Ok((certify(&files, chain, key)?, facts))
}

fn certify(
    files: &CertificateFiles,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<CertifiedKey, TlsProblem> {
    let key = provider().key_provider.load_private_key(key).map_err(|err| {
        problem(&files.key, format!("the key can't be used: {err}"), "use an RSA, ECDSA or Ed25519 key")
    })?;
    let certified = CertifiedKey::new(chain, key);
    match certified.keys_match() {
        // A key of unknown consistency is one that hides its public half; ours never do.
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => Ok(certified),
        Err(rustls::Error::InconsistentKeys(_)) => Err(problem(
            &files.key,
            format!("the key does not belong to the certificate {}", files.cert.display()),
            "put the leaf certificate first in the chain, and name the key that it was made with",
        )),
        Err(err) => {
            Err(problem(&files.cert, format!("the certificate can't be used: {err}"), "is it X.509 version 3?"))
        }
    }
}

pub(super) fn read_chain(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsProblem> {
    let pem = read(file)?;
    let chain: Vec<_> =
        CertificateDer::pem_slice_iter(&pem).collect::<Result<_, _>>().map_err(|err| not_pem(file, &err))?;
    if chain.is_empty() {
        let help = if holds(&pem, "PRIVATE KEY-----") {
            "it holds a private key: are cert and key swapped?"
        } else {
            "it must hold the chain as PEM, leaf first"
        };
        return Err(problem(file, "it holds no certificate", help));
    }
    Ok(chain)
}

fn read_key(file: &Path) -> Result<PrivateKeyDer<'static>, TlsProblem> {
    let pem = read(file)?;
    PrivateKeyDer::from_pem_slice(&pem).map_err(|err| match err {
        pem::Error::NoItemsFound => {
            let help = if holds(&pem, "ENCRYPTED PRIVATE KEY-----") {
                "the key has a passphrase; write it without one (`openssl pkey -in KEY -out NEW`)"
            } else if holds(&pem, "BEGIN CERTIFICATE-----") {
                "it holds a certificate: are cert and key swapped?"
            } else {
                "it must hold the key as PEM, without a passphrase"
            };
            problem(file, "it holds no private key", help)
        }
        err => not_pem(file, &err),
    })
}

/// Seconds since 1970, as certificates count.
pub(super) fn unix_now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    i64::try_from(since).unwrap_or(i64::MAX)
}

fn holds(pem: &[u8], text: &str) -> bool {
    pem.windows(text.len()).any(|window| window == text.as_bytes())
}

pub(super) fn not_pem(file: &Path, err: &pem::Error) -> TlsProblem {
    let what = match err {
        pem::Error::MissingSectionEnd { .. } => "the file is cut off: a section has no end".to_owned(),
        pem::Error::Base64Decode(_) => "the text between BEGIN and END is no base64".to_owned(),
        err => format!("it is no valid PEM file: {err}"),
    };
    problem(file, what, "write the file again, as PEM")
}

pub(super) fn read(file: &Path) -> Result<Vec<u8>, TlsProblem> {
    let unreadable = |err: std::io::Error| {
        let help = match err.kind() {
            std::io::ErrorKind::NotFound => "check the path; it is relative to the configuration file",
            std::io::ErrorKind::PermissionDenied => "let the user that runs tidegate read it",
            _ => "check the path and the disk",
        };
        problem(file, format!("it can't be read: {err}"), help)
    };
    let size = fs::metadata(file).map_err(unreadable)?.len();
    if size > MAX_FILE {
        return Err(problem(file, format!("it is {size} bytes long"), "a certificate or key is smaller than 1 MiB"));
    }
    fs::read(file).map_err(unreadable)
}

pub(super) fn problem(file: &Path, what: impl Into<String>, help: &str) -> TlsProblem {
    TlsProblem { file: file.to_owned(), what: what.into(), help: help.to_owned() }
}
