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
    /// Between two pieces of an answer that the client takes.
    pub send_timeout: Duration,
    /// Bytes a second of a request body that is waited for. 0: no bound.
    pub min_body_rate: u64,
    /// Bytes a second that a client takes of what waits for it. 0: no bound.
    pub min_send_rate: u64,
    /// Bytes in the request line and headers together.
    pub max_header_bytes: usize,
    /// Number of headers.
    pub max_headers: usize,
    /// Requests on one connection before it is closed politely. 0: no bound.
    pub max_requests: u32,
    /// Concurrent streams on one HTTP/2 connection.
    pub max_streams: u32,
    /// Bounds on what an HTTP/2 client sends beyond requests and bodies.
    pub http2: Http2Bounds,
}

/// How often an HTTP/2 client may send frames that cost more than they bring.
#[derive(Clone, Debug, PartialEq)]
pub struct Http2Bounds {
    /// Streams that it resets, where they are more than half of those it opened.
    pub resets: Frequency,
    /// PING, beyond one for each frame of an answer.
    pub pings: Frequency,
    /// SETTINGS.
    pub settings: Frequency,
    /// DATA that holds nothing and ends nothing.
    pub empty_data: Frequency,
    /// PRIORITY and unknown types, beyond four for each request.
    pub priorities: Frequency,
    /// WINDOW_UPDATE, beyond four for each frame of an answer.
    pub window_updates: Frequency,
}

impl Default for Http2Bounds {
    fn default() -> Self {
        let in_ten_seconds = |count| Frequency { count, window: Duration::from_secs(10) };
        Self {
            resets: in_ten_seconds(200),
            pings: in_ten_seconds(100),
            settings: in_ten_seconds(50),
            empty_data: in_ten_seconds(100),
            priorities: in_ten_seconds(500),
            window_updates: in_ten_seconds(2_000),
        }
    }
}

/// So many in each window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frequency {
    /// How many, at least 1.
    pub count: u32,
    /// In which time, longer than nothing.
    pub window: Duration,
}

impl Default for ListenerGuard {
    fn default() -> Self {
        Self {
            handshake_timeout: Duration::from_secs(10),
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            body_timeout: Duration::from_secs(30),
            send_timeout: Duration::from_secs(60),
            min_body_rate: 256,
            min_send_rate: 256,
            max_header_bytes: 32 << 10,
            max_headers: 128,
            max_requests: 0,
            max_streams: 128,
            http2: Http2Bounds::default(),
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
    /// An OCSP response for it, as DER. `None`: the responder that the certificate names is asked.
    pub ocsp: Option<PathBuf>,
}
