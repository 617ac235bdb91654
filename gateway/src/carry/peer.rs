//! How to connect to an endpoint: address, TLS, protocol, deadlines.
//!
//! # Not here
//!
//! Which endpoint it is: `decide::balance`. What happens on the connection: `proxy`.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use pingora_core::protocols::l4::ext::TcpKeepalive;
use pingora_core::protocols::tls::CaType;
use pingora_core::upstreams::peer::{ALPN, HttpPeer};
use pingora_core::utils::tls::{CertKey, WrappedX509, parse_x509};
use pingora_error::{Error, ErrorType};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tidegate_model::desired::{Timeouts, UpstreamProtocol, UpstreamTls};
use xxhash_rust::xxh3::Xxh3;

use crate::endpoint::Target;

/// Concurrent requests on one upstream HTTP/2 connection, before another is opened.
const H2_STREAMS: usize = 100;

/// How long an unused connection to an endpoint is kept.
pub const POOL_IDLE: Duration = Duration::from_secs(60);

/// A silent upgraded connection (WebSocket) is given up after this long.
pub const UPGRADED_IDLE: Duration = Duration::from_secs(3_600);

/// Finds dead endpoints behind silent connections.
const KEEPALIVE: TcpKeepalive = TcpKeepalive {
    idle: Duration::from_secs(60),
    interval: Duration::from_secs(10),
    count: 3,
    #[cfg(target_os = "linux")]
    user_timeout: Duration::from_secs(0),
};

/// TLS to a service's endpoints, with its files read.
pub struct UpstreamTlsReady {
    /// For probes and shadow copies, which don't go through Pingora.
    pub client_config: Arc<rustls::ClientConfig>,
    /// The name that is sent and verified; `None` uses the request's host.
    pub sni: Option<String>,
    ca: Option<Arc<CaType>>,
    client: Option<Arc<CertKey>>,
    insecure: bool,
    /// Tells pooled connections of different TLS settings apart.
    fingerprint: u64,
}

impl fmt::Debug for UpstreamTlsReady {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpstreamTlsReady").field("sni", &self.sni).field("insecure", &self.insecure).finish()
    }
}

/// A file for upstream TLS that can't be used.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {}", file.display())]
pub struct TlsFileError {
    /// The file.
    pub file: PathBuf,
    /// What is wrong with it.
    pub what: String,
}

impl UpstreamTlsReady {
    /// Reads the files that `tls` names.
    ///
    /// # Errors
    ///
    /// The first file that is missing or holds no usable PEM.
    pub fn load(tls: &UpstreamTls) -> Result<Self, TlsFileError> {
        let mut fingerprint = Xxh3::new();
        tls.insecure.hash(&mut fingerprint);
        tls.sni.hash(&mut fingerprint);

        let mut roots = rustls::RootCertStore::empty();
        let ca = match &tls.ca {
            Some(file) => {
                let certificates = read_certificates(file)?;
                for certificate in &certificates {
                    certificate.as_ref().hash(&mut fingerprint);
                    roots.add(certificate.clone()).map_err(|e| TlsFileError {
                        file: file.clone(),
                        what: format!("not a usable authority ({e})"),
                    })?;
                }
                let wrapped =
                    certificates.into_iter().map(|c| WrappedX509::new(c.to_vec(), parse_x509)).collect::<Vec<_>>();
                Some(Arc::from(wrapped))
            }
            None => {
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
                None
            }
        };

        let builder =
            rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
                .with_safe_default_protocol_versions()
                .expect("aws-lc-rs supports the default versions");
        let builder = if tls.insecure {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate))
        } else {
            builder.with_root_certificates(roots)
        };
        let (client_config, client) = match &tls.client {
            Some(files) => {
                let chain = read_certificates(&files.cert)?;
                let key = PrivateKeyDer::from_pem_file(&files.key)
                    .map_err(|e| TlsFileError { file: files.key.clone(), what: format!("not a private key ({e})") })?;
                chain.iter().for_each(|c| c.as_ref().hash(&mut fingerprint));
                let for_pingora = CertKey::new(chain.iter().map(|c| c.to_vec()).collect(), key.secret_der().to_vec());
                let config = builder.with_client_auth_cert(chain, key).map_err(|e| TlsFileError {
                    file: files.cert.clone(),
                    what: format!("doesn't fit its key ({e})"),
                })?;
                (config, Some(Arc::new(for_pingora)))
            }
            None => (builder.with_no_client_auth(), None),
        };
        Ok(Self {
            client_config: Arc::new(client_config),
            sni: tls.sni.clone(),
            ca,
            client,
            insecure: tls.insecure,
            fingerprint: fingerprint.finish(),
        })
    }
}

fn read_certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsFileError> {
    let problem = |what: String| TlsFileError { file: file.to_owned(), what };
    let certificates = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|e| problem(format!("not readable as PEM certificates ({e})")))?;
    if certificates.is_empty() {
        return Err(problem("holds no certificate".into()));
    }
    // Pingora parses these again and panics on nonsense, so nonsense must not get there.
    for certificate in &certificates {
        x509_parser::parse_x509_certificate(certificate)
            .map_err(|e| problem(format!("holds a malformed certificate ({e})")))?;
    }
    Ok(certificates)
}

/// What one try to reach an endpoint needs.
pub struct Reach<'a> {
    /// Where to.
    pub target: &'a Target,
    /// Deadlines of the route and service.
    pub timeouts: &'a Timeouts,
    /// The protocol to speak.
    pub protocol: UpstreamProtocol,
    /// TLS, where the service has it.
    pub tls: Option<&'a UpstreamTlsReady>,
    /// The request's host, for SNI where none is configured.
    pub host: &'a str,
    /// Whether the request asks for an upgrade (WebSocket), which needs HTTP/1.1 and patience.
    pub upgrade: bool,
    /// The most that may still be spent on connecting.
    pub left: Option<Duration>,
}

/// The Pingora peer for one try.
///
/// # Errors
///
/// A unix socket path that is too long for the system; TLS without a name to verify.
pub fn peer(reach: &Reach<'_>) -> pingora_error::Result<Box<HttpPeer>> {
    let sni = match reach.tls {
        Some(tls) => {
            let name = tls.sni.as_deref().unwrap_or(reach.host);
            // Pingora would verify nothing at all without a name.
            if name.is_empty() && !tls.insecure {
                return Error::e_explain(ErrorType::InvalidCert, "TLS to the endpoint needs a name: set tls.sni");
            }
            name.trim_start_matches('[').trim_end_matches(']').to_owned()
        }
        None => String::new(),
    };
    let mut peer = match reach.target {
        Target::Tcp(addr) => HttpPeer::new(addr, reach.tls.is_some(), sni),
        Target::Unix(path) => HttpPeer::new_uds(&path.to_string_lossy(), reach.tls.is_some(), sni)?,
    };
    let options = &mut peer.options;
    let connect = reach.left.map_or(reach.timeouts.connect, |left| left.min(reach.timeouts.connect));
    options.connection_timeout = Some(connect);
    options.total_connection_timeout = Some(connect);
    // The first byte has a deadline of its own, kept by `proxy`.
    let silence = if reach.upgrade { UPGRADED_IDLE } else { reach.timeouts.idle.max(reach.timeouts.first_byte) };
    options.read_timeout = Some(silence);
    options.write_timeout = Some(silence);
    options.idle_timeout = Some(POOL_IDLE);
    options.tcp_keepalive = Some(KEEPALIVE);
    options.max_h2_streams = H2_STREAMS;
    options.alpn = match reach.protocol {
        _ if reach.upgrade => ALPN::H1,
        UpstreamProtocol::Http1 => ALPN::H1,
        UpstreamProtocol::Http2 => ALPN::H2,
        UpstreamProtocol::Auto if reach.tls.is_some() => ALPN::H2H1,
        UpstreamProtocol::Auto => ALPN::H1,
    };
    if let Some(tls) = reach.tls {
        options.ca = tls.ca.clone();
        options.verify_cert = !tls.insecure;
        options.verify_hostname = !tls.insecure;
        peer.client_cert_key = tls.client.clone();
        peer.group_key = tls.fingerprint;
    }
    Ok(Box::new(peer))
}

/// Accepts any certificate: `insecure: true`, for tests.
#[derive(Debug)]
struct AnyCertificate;

impl rustls::client::danger::ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &rustls::pki_types::ServerName<'_>,
        _ocsp_response: &[u8],
        _now: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        rustls::crypto::verify_tls12_signature(message, cert, dss, &provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        rustls::crypto::verify_tls13_signature(message, cert, dss, &provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
