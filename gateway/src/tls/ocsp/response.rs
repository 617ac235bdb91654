//! Asks a responder, and believes its answer only when it is proven (RFC 6960 §3.2).

use aws_lc_rs::digest::{self, Algorithm, SHA1_FOR_LEGACY_USE_ONLY, SHA256};
use rustls_pki_types::CertificateDer;
use x509_cert::Certificate;
use x509_cert::der::asn1::{AnyRef, Null, ObjectIdentifier, OctetString};
use x509_cert::der::{Decode, Encode, Reader, SliceReader};
use x509_cert::ext::pkix::ExtendedKeyUsage;
use x509_cert::spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned};
use x509_ocsp::{
    BasicOcspResponse, CertId, CertStatus, OcspRequest, OcspResponse, OcspResponseStatus, Request, TbsRequest,
};
use x509_parser::asn1_rs::{Oid, oid};
use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension, X509Certificate};

use crate::tls::config::provider;

const BASIC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.48.1.1");
const SHA1_ID: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.14.3.2.26");
const SHA256_ID: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.1");
const KEY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.37");
const OCSP_SIGNING: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.9");

/// Seconds by which a responder's clock may be ahead of ours.
const SKEW: i64 = 300;

/// Seconds that a response holds which doesn't say when the next one comes: as long as Firefox believes it.
const ENDLESS: i64 = 86_400;

/// A response that may be stapled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Staple {
    /// It, as it goes over the wire.
    pub der: Vec<u8>,
    /// Unix time from which it holds.
    pub from: i64,
    /// Unix time until which it holds.
    pub until: i64,
}

/// Why a response can't be stapled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// It isn't an OCSP response.
    #[error("it is no OCSP response")]
    Malformed,
    /// The certificate or its issuer can't be read.
    #[error("the certificate or its issuer can't be read")]
    Certificate,
    /// The responder refuses to answer.
    #[error("the responder says \"{0}\"")]
    Refused(&'static str),
    /// It speaks of other certificates.
    #[error("it is for another certificate")]
    Other,
    /// The authority has taken the certificate back.
    #[error("it says that the certificate is revoked")]
    Revoked,
    /// The authority doesn't know the certificate.
    #[error("it says that the certificate is unknown")]
    Unknown,
    /// It holds no more, or not yet.
    #[error("it is out of date")]
    OutOfDate,
    /// Nobody who may do so has signed it.
    #[error("its signature isn't that of the issuer or of a responder that the issuer names")]
    Signature,
}

/// The OCSP responder that a certificate names (RFC 5280 §4.2.2.1). It is asked by HTTP: its answer is signed.
pub fn responder(leaf: &CertificateDer<'_>) -> Option<String> {
    const OCSP: Oid<'_> = oid!(1.3.6.1.5.5.7.48.1);
    let (_, leaf) = X509Certificate::from_der(leaf).ok()?;
    leaf.extensions().iter().find_map(|extension| {
        let ParsedExtension::AuthorityInfoAccess(access) = extension.parsed_extension() else { return None };
        access.accessdescs.iter().find_map(|way| match way.access_location {
            GeneralName::URI(url) if way.access_method == OCSP && url.starts_with("http://") => Some(url.to_owned()),
            _ => None,
        })
    })
}

/// The request for the status of `leaf`. With SHA-1, as all responders understand (RFC 5019 §2.1.1): it only names the
/// certificate.
pub fn request(leaf: &CertificateDer<'_>, issuer: &CertificateDer<'_>) -> Result<Vec<u8>, Unusable> {
    let (leaf, issuer) = (certificate(leaf)?, certificate(issuer)?);
    let (name, key) = hashes(&issuer, &SHA1_FOR_LEGACY_USE_ONLY)?;
    let req_cert = CertId {
        hash_algorithm: AlgorithmIdentifierOwned { oid: SHA1_ID, parameters: Some(Null.into()) },
        issuer_name_hash: OctetString::new(name.as_ref()).map_err(|_| Unusable::Certificate)?,
        issuer_key_hash: OctetString::new(key.as_ref()).map_err(|_| Unusable::Certificate)?,
        serial_number: leaf.tbs_certificate.serial_number,
    };
    let request_list = vec![Request { req_cert, single_request_extensions: None }];
    let tbs_request = TbsRequest { request_list, ..TbsRequest::default() };
    OcspRequest { tbs_request, optional_signature: None }.to_der().map_err(|_| Unusable::Certificate)
}

/// Whether `der` may be stapled to `leaf` at `now` (Unix time).
///
/// # Errors
///
/// Why not.
pub fn verify(
    der: &[u8],
    leaf: &CertificateDer<'_>,
    issuer: &CertificateDer<'_>,
    now: i64,
) -> Result<Staple, Unusable> {
    let (leaf, issuer) = (certificate(leaf)?, certificate(issuer)?);
    let outer = OcspResponse::from_der(der).map_err(|_| Unusable::Malformed)?;
    match outer.response_status {
        OcspResponseStatus::Successful => {}
        OcspResponseStatus::MalformedRequest => return Err(Unusable::Refused("malformed request")),
        OcspResponseStatus::InternalError => return Err(Unusable::Refused("internal error")),
        OcspResponseStatus::TryLater => return Err(Unusable::Refused("try later")),
        OcspResponseStatus::SigRequired => return Err(Unusable::Refused("signature required")),
        OcspResponseStatus::Unauthorized => return Err(Unusable::Refused("unauthorized")),
    }
    let bytes = outer.response_bytes.filter(|bytes| bytes.response_type == BASIC).ok_or(Unusable::Malformed)?;
    let basic = BasicOcspResponse::from_der(bytes.response.as_bytes()).map_err(|_| Unusable::Malformed)?;
    if !is_signed(bytes.response.as_bytes(), &basic, &issuer, now)? {
        return Err(Unusable::Signature);
    }
    let ours = basic.tbs_response_data.responses.iter().find(|single| names(&single.cert_id, &leaf, &issuer));
    let single = ours.ok_or(Unusable::Other)?;
    match single.cert_status {
        CertStatus::Good(_) => {}
        CertStatus::Revoked(_) => return Err(Unusable::Revoked),
        CertStatus::Unknown(_) => return Err(Unusable::Unknown),
    }
    let from = seconds(single.this_update.0.to_unix_duration());
    let until = single.next_update.map_or(from + ENDLESS, |next| seconds(next.0.to_unix_duration()));
    if from > now + SKEW || until <= now {
        return Err(Unusable::OutOfDate);
    }
    Ok(Staple { der: der.to_vec(), from, until })
}

fn seconds(since: std::time::Duration) -> i64 {
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

fn certificate(der: &CertificateDer<'_>) -> Result<Certificate, Unusable> {
    Certificate::from_der(der).map_err(|_| Unusable::Certificate)
}

/// Hashes of the issuer's name and key.
fn hashes(issuer: &Certificate, by: &'static Algorithm) -> Result<(digest::Digest, digest::Digest), Unusable> {
    let tbs = &issuer.tbs_certificate;
    let name = tbs.subject.to_der().map_err(|_| Unusable::Certificate)?;
    let key = tbs.subject_public_key_info.subject_public_key.raw_bytes();
    Ok((digest::digest(by, &name), digest::digest(by, key)))
}

/// Whether `id` names `leaf`.
fn names(id: &CertId, leaf: &Certificate, issuer: &Certificate) -> bool {
    let by = match id.hash_algorithm.oid {
        SHA1_ID => &SHA1_FOR_LEGACY_USE_ONLY,
        SHA256_ID => &SHA256,
        _ => return false,
    };
    let Ok((name, key)) = hashes(issuer, by) else { return false };
    id.serial_number == leaf.tbs_certificate.serial_number
        && id.issuer_name_hash.as_bytes() == name.as_ref()
        && id.issuer_key_hash.as_bytes() == key.as_ref()
}

/// Whether the issuer has signed, or a responder whose certificate the issuer has signed for this purpose
/// (RFC 6960 §4.2.2.2).
fn is_signed(der: &[u8], response: &BasicOcspResponse, issuer: &Certificate, now: i64) -> Result<bool, Unusable> {
    let told = signed_part(der).map_err(|_| Unusable::Malformed)?;
    let by = |signer: &Certificate| {
        let key = &signer.tbs_certificate.subject_public_key_info;
        signed_by(told, &response.signature_algorithm, response.signature.raw_bytes(), key)
    };
    let delegates = response.certs.iter().flatten().filter(|delegate| may_answer(delegate, issuer, now));
    Ok([issuer].into_iter().chain(delegates).any(by))
}

/// The bytes that were signed, as they came: the first thing inside.
fn signed_part(der: &[u8]) -> x509_cert::der::Result<&[u8]> {
    SliceReader::new(AnyRef::from_der(der)?.value())?.tlv_bytes()
}

fn may_answer(delegate: &Certificate, issuer: &Certificate, now: i64) -> bool {
    let tbs = &delegate.tbs_certificate;
    let usages = |extension: &x509_cert::ext::Extension| {
        ExtendedKeyUsage::from_der(extension.extn_value.as_bytes()).is_ok_and(|usages| usages.0.contains(&OCSP_SIGNING))
    };
    let for_this = tbs.extensions.iter().flatten().any(|extension| extension.extn_id == KEY_USAGE && usages(extension));
    let validity = &tbs.validity;
    let (from, until) = (validity.not_before.to_unix_duration(), validity.not_after.to_unix_duration());
    let key = &issuer.tbs_certificate.subject_public_key_info;
    for_this
        && (seconds(from)..=seconds(until)).contains(&now)
        && tbs.issuer == issuer.tbs_certificate.subject
        && tbs
            .to_der()
            .is_ok_and(|told| signed_by(&told, &delegate.signature_algorithm, delegate.signature.raw_bytes(), key))
}

/// Whether `signature` over `told` was made with the private half of `key`, by an algorithm that TLS takes too.
fn signed_by(
    told: &[u8],
    algorithm: &AlgorithmIdentifierOwned,
    signature: &[u8],
    key: &SubjectPublicKeyInfoOwned,
) -> bool {
    let (Some(by), Some(of)) = (content(algorithm), content(&key.algorithm)) else { return false };
    provider().signature_verification_algorithms.all.iter().any(|known| {
        known.signature_alg_id().as_ref() == by
            && known.public_key_alg_id().as_ref() == of
            && known.verify_signature(key.subject_public_key.raw_bytes(), told, signature).is_ok()
    })
}

/// What is inside the sequence of an algorithm's identifier.
fn content(algorithm: &AlgorithmIdentifierOwned) -> Option<Vec<u8>> {
    let der = algorithm.to_der().ok()?;
    Some(AnyRef::from_der(&der).ok()?.value().to_vec())
}
