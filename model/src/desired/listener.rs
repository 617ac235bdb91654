//! Sockets that visitors reach, and their bounds.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use super::{AcmeNames, HostPattern};

/// One socket that visitors reach.
#[derive(Clone, Debug, PartialEq)]
pub struct Listener {
    /// Its name in the configuration.
    pub name: String,
    /// Address and port.
    pub bind: SocketAddr,
    /// What it does with a request.
    pub purpose: Purpose,
    /// TLS settings; `None` for a plain socket.
    pub tls: Option<ListenerTls>,
    /// Whether HTTP/1.1 is spoken.
    pub http1: bool,
    /// Whether HTTP/2 is spoken: by ALPN on TLS, by prior knowledge on plain sockets.
    pub http2: bool,
    /// Who may send a PROXY protocol header. Empty: nobody, and the header isn't looked for.
    /// A connection from one of these networks must begin with one.
    pub proxy_protocol: Vec<IpNet>,
    /// Deadlines and sizes on the client's side.
    pub guard: ListenerGuard,
}

/// What a listener does with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Routes it.
    Route,
    /// Sends the client to the same URL by https on this port.
    RedirectToTls {
        /// Port of the TLS listener. 443 is left out of the URL.
        port: u16,
    },
}

/// Deadlines and sizes on the client's side of one listener.
#[derive(Clone, Debug, PartialEq)]
pub struct ListenerGuard {
    /// TLS handshake, PROXY header and protocol detection together.
    pub handshake_timeout: Duration,
    /// From the first byte of a request to the end of its head.
    pub header_timeout: Duration,
    /// Between requests on a kept-alive connection, and on a silent WebSocket.
    pub idle_timeout: Duration,
    /// Between two reads of a request body.
    pub body_timeout: Duration,
    /// Bytes in the request line and headers together.
    pub max_header_bytes: usize,
    /// Number of headers.
    pub max_headers: usize,
    /// Requests on one connection before it is closed politely. 0: no bound.
    pub max_requests: u32,
    /// Concurrent streams on one HTTP/2 connection.
    pub max_streams: u32,
}

impl Default for ListenerGuard {
    fn default() -> Self {
        Self {
            handshake_timeout: Duration::from_secs(10),
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            body_timeout: Duration::from_secs(30),
            max_header_bytes: 32 << 10,
            max_headers: 128,
            max_requests: 0,
            max_streams: 128,
        }
    }
}

/// TLS settings of a listener.
#[derive(Clone, Debug, PartialEq)]
pub struct ListenerTls {
    /// Certificates; the first is the default for unknown names.
    pub certificates: Vec<CertificateSource>,
    /// Whether TLS 1.2 is refused.
    pub only_tls13: bool,
    /// Which clients must show a certificate. No name stands in two of them.
    pub clients: Vec<ClientAuth>,
}

/// Asks clients for a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientAuth {
    /// Names that it holds for; `None` is every name without an entry of its own, and no name at all.
    pub names: Vec<Option<HostPattern>>,
    /// Authorities whose certificates are accepted.
    pub ca: PathBuf,
    /// Whether the certificate may be left out.
    pub verify: ClientVerify,
    /// Revocation lists.
    pub crl: Option<PathBuf>,
}

/// Whether a client must show a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientVerify {
    /// It must.
    Require,
    /// It may. A wrong one is refused all the same.
    Ask,
}

/// TLS settings that all listeners share.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsSettings {
    /// What the keys of session tickets are made from; `None`: from chance.
    pub ticket_secret: Option<PathBuf>,
}

/// Where a certificate comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CertificateSource {
    /// From two files.
    Files(CertificateFiles),
    /// It is ordered for these names.
    Acme(AcmeNames),
}

/// A certificate chain and its key, as PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The chain, leaf first.
    pub cert: PathBuf,
    /// The private key.
    pub key: PathBuf,
}
