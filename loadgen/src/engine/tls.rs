//! How connections prove who they reach.

use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tidegate_model::scenario::plan::{Client, Protocol};

use super::StartError;

/// The configuration of all connections; `None` where no step needs one.
///
/// # Errors
///
/// When the CA file can't be read.
pub fn config(client: &Client, needed: bool) -> Result<Option<Arc<ClientConfig>>, StartError> {
    if !needed {
        return Ok(None);
    }
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|err| StartError::Tls(err.to_string()))?;
    let mut config = if client.insecure {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(Anything(provider))).with_no_client_auth()
    } else {
        builder.with_root_certificates(roots(client.ca.as_deref())?).with_no_client_auth()
    };
    let protocol: &[u8] = if client.protocol == Protocol::Http2 { b"h2" } else { b"http/1.1" };
    config.alpn_protocols = vec![protocol.to_vec()];
    Ok(Some(Arc::new(config)))
}

/// A host as certificates name it.
///
/// # Errors
///
/// When no certificate could be for it.
pub fn name(host: &str) -> Result<ServerName<'static>, StartError> {
    ServerName::try_from(host.to_owned()).map_err(|err| StartError::Tls(format!("{host}: {err}")))
}

fn roots(ca: Option<&Path>) -> Result<RootCertStore, StartError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(path) = ca {
        let refused = |why: String| StartError::Ca { path: path.to_owned(), why };
        let certificates = CertificateDer::pem_file_iter(path).map_err(|err| refused(err.to_string()))?;
        for certificate in certificates {
            let certificate = certificate.map_err(|err| refused(err.to_string()))?;
            roots.add(certificate).map_err(|err| refused(err.to_string()))?;
        }
    }
    Ok(roots)
}

/// Believes anybody; for `insecure`. Signatures are verified, so that a broken handshake is still seen as one.
#[derive(Debug)]
pub(crate) struct Anything(pub Arc<CryptoProvider>);

impl ServerCertVerifier for Anything {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
