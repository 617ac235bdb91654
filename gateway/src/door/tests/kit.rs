//! A door on port 0, a carrier that answers what it was given, and clients.

use std::io::{Read, Write};
use std::net::TcpStream as StdStream;
use std::path::Path;
use std::sync::Mutex;
use std::sync::mpsc;
use std::time::Instant;

use prometheus::{Encoder, IntCounter, Registry, TextEncoder};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, SignatureScheme,
    StreamOwned,
};
use tidegate_model::desired::{CertificateFiles, CertificateSource, ListenerGuard, ListenerTls, Purpose};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::super::*;
use crate::tls::{CertTable, ClientPolicies, Slots};

/// How long a test waits for what must happen. Reached only when it fails.
pub const PATIENCE: Duration = Duration::from_secs(20);

const WORKERS: usize = 2;

/// Answers every request with a line about it and its body.
///
/// `/upgrade` is answered 101 and echoed from then on; `/early` is answered before its body is
/// read; `/hold` waits until the test lets it go.
pub struct Echo {
    held: mpsc::Sender<()>,
    release: Mutex<watch::Receiver<bool>>,
}

#[async_trait::async_trait]
impl Carrier for Echo {
    async fn http1(
        self: Arc<Self>,
        mut stream: Box<DoorStream>,
        connection: Arc<Connection>,
        last: bool,
    ) -> Option<Box<DoorStream>> {
        let mut wire = Vec::new();
        while !wire.windows(4).any(|w| w == b"\r\n\r\n") {
            if stream.read_buf(&mut wire).await.ok()? == 0 {
                return None;
            }
        }
        let head = wire.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
        let text = String::from_utf8_lossy(&wire[..head]).into_owned();
        if text.starts_with("GET /upgrade") {
            stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\n\r\n").await.ok()?;
            stream.flush().await.ok()?;
            let mut buf = [0; 512];
            while let Ok(n @ 1..) = stream.read(&mut buf).await {
                stream.write_all(&buf[..n]).await.ok()?;
                stream.flush().await.ok()?;
            }
            return None;
        }
        if text.starts_with("POST /early") {
            stream.write_all(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n").await.ok()?;
            return None;
        }
        if text.starts_with("GET /hold") {
            self.held.send(()).unwrap();
            let mut release = self.release.lock().unwrap().clone();
            release.wait_for(|go| *go).await.ok()?;
        }
        while !stream.is_request_read() {
            if stream.read_buf(&mut wire).await.ok()? == 0 {
                return None;
            }
        }
        // Behind the request's end there is nothing to read, whatever the client has sent.
        let mut beyond = [0; 64];
        let beyond = match tokio::time::timeout(Duration::from_millis(1), stream.read(&mut beyond)).await {
            Err(_) => "nothing",
            Ok(Ok(0)) => "eof",
            Ok(_) => "bytes",
        };
        let line = text.lines().next().unwrap();
        let sni = connection.tls.as_ref().and_then(|tls| tls.sni.as_deref()).unwrap_or("-");
        let about = format!("{line} from {} sni {sni} beyond {beyond}\n", connection.peer);
        let close = if last { "Connection: close\r\n" } else { "" };
        let length = about.len() + wire.len() - head;
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n{close}\r\n{about}");
        stream.write_all(answer.as_bytes()).await.ok()?;
        stream.write_all(&wire[head..]).await.ok()?;
        stream.flush().await.ok()?;
        Some(stream)
    }

    async fn http2(
        self: Arc<Self>,
        mut stream: Box<DoorStream>,
        _connection: Arc<Connection>,
        mut drain: watch::Receiver<bool>,
    ) {
        let mut preface = [0; 24];
        if stream.read_exact(&mut preface).await.is_err() {
            return;
        }
        let _ = stream.write_all(&preface).await;
        let _ = stream.flush().await;
        let mut byte = [0];
        let drained = tokio::select! {
            _ = stream.read(&mut byte) => false,
            drained = drain.wait_for(|drain| *drain) => drained.is_ok(),
        };
        if drained {
            let _ = stream.write_all(b"GOAWAY").await;
            let _ = stream.flush().await;
        }
    }
}

/// A door with its registry and the strings of its carrier.
pub struct Rig {
    pub door: Door,
    pub held: mpsc::Receiver<()>,
    pub release: watch::Sender<bool>,
    pub desired: Desired,
    pub challenges: Challenges,
    registry: Registry,
}

/// A plain listener on a port of the kernel's choice.
pub fn listener() -> Listener {
    Listener {
        name: "web".into(),
        bind: "127.0.0.1:0".parse().unwrap(),
        purpose: Purpose::Route,
        tls: None,
        http1: true,
        http2: true,
        proxy_protocol: Vec::new(),
        guard: ListenerGuard::default(),
    }
}

/// A door with two workers and these listeners.
pub fn rig(listeners: Vec<Listener>) -> Rig {
    let registry = Registry::new();
    let metrics = DoorMetrics::register(&registry).unwrap();
    let (held_tx, held) = mpsc::channel();
    let (release, released) = watch::channel(false);
    let make = move |_, _| -> Arc<dyn Carrier> {
        Arc::new(Echo { held: held_tx.clone(), release: Mutex::new(released.clone()) })
    };
    let challenges = Challenges::new(IntCounter::new("refused", "Refused.").unwrap());
    let door = Door::start(WORKERS, metrics, Arc::default(), challenges.clone(), make).unwrap();
    let mut rig = Rig { door, held, release, desired: Desired::default(), challenges, registry };
    rig.apply(listeners);
    rig
}

impl Rig {
    /// Puts these listeners in force.
    pub fn apply(&mut self, listeners: Vec<Listener>) {
        self.desired.listeners = listeners;
        self.apply_desired();
    }

    pub fn apply_desired(&mut self) {
        let listeners = &self.desired.listeners;
        let table = |tls| CertTable::load(tls, &Slots::default()).unwrap();
        let with_tls = || listeners.iter().filter_map(|l| Some((l.name.clone(), l.tls.as_ref()?)));
        let clients = |tls| ClientPolicies::load(tls, &mut Vec::new()).unwrap();
        let files = TlsFiles {
            certificates: listeners.iter().map(|listener| listener.tls.as_ref().map(table)).collect(),
            clients: with_tls().map(|(name, tls)| (name, Arc::new(clients(tls)))).collect(),
            ticket_secret: None,
        };
        let prepared = self.door.bind(listeners).unwrap();
        self.door.apply(&self.desired, files, prepared);
    }

    /// Waits until so many addresses are accepted on, and removed ones have closed.
    pub fn wait_for_addresses(&self, open: usize) {
        let since = Instant::now();
        while self.door.house.census.present() - self.door.connections() != open * WORKERS {
            assert!(since.elapsed() < PATIENCE, "still {} are present", self.door.house.census.present());
            std::thread::yield_now();
        }
    }

    pub fn address(&self, name: &str) -> SocketAddr {
        self.door.addresses().into_iter().find(|(n, _)| n == name).expect("listener is open").1
    }

    pub fn connect(&self) -> Client {
        Client::to(self.address("web"))
    }

    /// The value of a metric line, given as everything before the value.
    pub fn metric(&self, line: &str) -> u64 {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        let value = text.lines().find_map(|l| l.strip_prefix(line)?.strip_prefix(' ')).unwrap_or("0");
        value.parse().unwrap()
    }

    /// Waits until a metric has this value.
    pub fn wait_for_metric(&self, line: &str, value: u64) {
        let since = Instant::now();
        while self.metric(line) != value {
            assert!(since.elapsed() < PATIENCE, "{line} is {} and not {value}", self.metric(line));
            std::thread::yield_now();
        }
    }

    pub fn refused(&self, reason: &str) -> u64 {
        self.metric(&format!("tidegate_requests_refused_total{{listener=\"web\",reason=\"{reason}\"}}"))
    }

    pub fn turned(&self, reason: &str) -> u64 {
        self.metric(&format!("tidegate_connections_refused_total{{listener=\"web\",reason=\"{reason}\"}}"))
    }

    pub fn handshakes(&self, result: &str) -> u64 {
        self.metric(&format!("tidegate_tls_handshakes_total{{listener=\"web\",result=\"{result}\"}}"))
    }
}

/// A blocking client.
pub struct Client<S = StdStream> {
    pub io: S,
    ahead: Vec<u8>,
}

/// One answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Client {
    pub fn to(address: SocketAddr) -> Self {
        let io = StdStream::connect(address).unwrap();
        io.set_read_timeout(Some(PATIENCE)).unwrap();
        io.set_nodelay(true).unwrap();
        Self { io, ahead: Vec::new() }
    }

    /// Starts TLS on this connection.
    pub fn tls(self, name: &str, alpn: &[&str], root: &CertificateDer<'static>) -> Client<Tls> {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        self.over(ClientConnection::new(client_config(alpn, root), name).unwrap())
    }

    /// Starts TLS with whatever certificate is shown, and offers `alpn`.
    pub fn tls_to_anyone(self, name: &str, alpn: &[&str]) -> Client<Tls> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anyone(provider)))
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        self.over(ClientConnection::new(Arc::new(config), name).unwrap())
    }

    /// Starts this TLS session.
    pub fn over(self, connection: ClientConnection) -> Client<Tls> {
        Client { io: StreamOwned::new(connection, self.io), ahead: Vec::new() }
    }
}

/// Settings of a client that trusts only `root`.
pub fn client_config(alpn: &[&str], root: &CertificateDer<'static>) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(root.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|p| p.as_bytes().to_vec()).collect();
    Arc::new(config)
}

/// TLS on the client's side.
pub type Tls = StreamOwned<ClientConnection, StdStream>;

impl<S: Read + Write> Client<S> {
    pub fn send(&mut self, text: &str) {
        self.io.write_all(text.as_bytes()).unwrap();
        self.io.flush().unwrap();
    }

    /// Reads one answer; `None` when the connection ends before its first byte.
    pub fn answer(&mut self) -> Option<Answer> {
        let head = loop {
            if let Some(end) = self.ahead.windows(4).position(|w| w == b"\r\n\r\n") {
                break end + 4;
            }
            if self.fill() == 0 {
                assert!(self.ahead.is_empty(), "ends within a head: {:?}", String::from_utf8_lossy(&self.ahead));
                return None;
            }
        };
        let head: String = String::from_utf8(self.ahead.drain(..head).collect()).unwrap();
        let length = head.lines().find_map(|l| l.strip_prefix("Content-Length: ")).map_or(0, |n| n.parse().unwrap());
        while self.ahead.len() < length {
            assert_ne!(self.fill(), 0, "ends within a body");
        }
        let body = String::from_utf8_lossy(&self.ahead.drain(..length).collect::<Vec<_>>()).into_owned();
        Some(Answer { status: head[9..12].parse().unwrap(), head, body })
    }

    pub fn get(&mut self, path: &str) -> Answer {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        self.answer().expect("an answer")
    }

    /// Reads exactly this.
    pub fn expect(&mut self, text: &str) {
        while self.ahead.len() < text.len() {
            assert_ne!(self.fill(), 0, "ends before {text:?}");
        }
        assert_eq!(self.ahead.drain(..text.len()).collect::<Vec<_>>(), text.as_bytes());
    }

    /// Waits until the other side closes. It may reset when it had bytes unread.
    pub fn expect_end(&mut self) {
        let mut rest = Vec::new();
        let end = self.io.read_to_end(&mut rest);
        let polite = |kind| kind != std::io::ErrorKind::WouldBlock && kind != std::io::ErrorKind::TimedOut;
        assert!(end.map_or_else(|err| polite(err.kind()), |_| true), "still open");
        assert_eq!(String::from_utf8_lossy(&rest), "");
    }

    fn fill(&mut self) -> usize {
        let mut buf = [0; 4096];
        let n = self.io.read(&mut buf).unwrap();
        self.ahead.extend_from_slice(&buf[..n]);
        n
    }
}

/// Writes a fresh certificate for `names` and its key, and returns it.
pub fn certificate(folder: &Path, stem: &str, names: &[&str]) -> (CertificateFiles, CertificateDer<'static>) {
    let made = rcgen::generate_simple_self_signed(names.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap();
    let files = CertificateFiles {
        cert: folder.join(format!("{stem}.crt")),
        key: folder.join(format!("{stem}.key")),
        ocsp: None,
    };
    std::fs::write(&files.cert, made.cert.pem()).unwrap();
    std::fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
    (files, made.cert.der().clone())
}

pub fn tls_listener(certificates: Vec<CertificateFiles>) -> Listener {
    let certificates = certificates.into_iter().map(CertificateSource::Files).collect();
    Listener { tls: Some(ListenerTls { certificates, only_tls13: false, clients: Vec::new() }), ..listener() }
}

/// Trusts every certificate whose key the server has.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
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
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        match verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms) {
            // A challenge's certificate has a critical extension (RFC 8737 §3) that only authorities know.
            Err(rustls::Error::InvalidCertificate(err)) if err != CertificateError::BadSignature => {
                Ok(HandshakeSignatureValid::assertion())
            }
            result => result,
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
