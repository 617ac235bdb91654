//! Certificates that are signed by nobody else: placeholders, and those that prove something to an ACME authority.

use std::collections::HashMap;
use std::sync::Arc;

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use rustls::sign::CertifiedKey;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tidegate_model::desired::AcmeNames;

use super::Slot;
use super::config::provider;

/// The places of certificates that are ordered, by the names that were written.
#[derive(Clone, Debug, Default)]
pub struct Slots(pub HashMap<AcmeNames, Arc<Slot>>);

/// What is shown until the first real certificate comes: clients refuse it, but the listener and its other names work.
///
/// # Errors
///
/// When the system has no randomness to give, or a name can't be in a certificate.
pub fn placeholder(names: &AcmeNames) -> Result<CertifiedKey, rcgen::Error> {
    let mut params = CertificateParams::new(names.0.clone())?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "Tidegate placeholder: no certificate yet");
    self_signed(params)
}

/// Signs `params` with a fresh key of its own.
///
/// # Errors
///
/// When the system has no randomness to give, or `params` can't be encoded.
pub fn self_signed(params: CertificateParams) -> Result<CertifiedKey, rcgen::Error> {
    let key = KeyPair::generate()?;
    let cert = params.self_signed(&key)?;
    let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let private = provider().key_provider.load_private_key(private).map_err(|_| rcgen::Error::RemoteKeyError)?;
    Ok(CertifiedKey::new(vec![cert.der().clone()], private))
}
