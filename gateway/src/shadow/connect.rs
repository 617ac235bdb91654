//! Connections for copies: kept apart from those of live traffic, so neither waits for the other's.
//!
//! hyper's per-connection client, with a small pool of our own: hyper-util's pooled client names
//! its connections by the URL's authority, which on HTTP/2 is also what the endpoint is told, and a copy
//! keeps the client's Host whatever the endpoint's address is.
//!
//! # Invariants
//!
//! - At most [`MAX_IDLE`] connections idle, and none longer than [`IDLE`].
//! - A connection on which a copy failed or ran late is never used again.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::ServerName;
use tidegate_model::desired::UpstreamProtocol;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

use super::body::CopyBody;
use crate::endpoint::Target;

/// How long an unused connection is kept: shorter than servers usually do, because a request that meets
/// the server's closing is lost.
pub const IDLE: Duration = Duration::from_secs(4);

/// Idle connections of all shadows together. Beyond it a connection is closed after its copy.
pub const MAX_IDLE: usize = 1_024;

/// Where a connection leads, and how.
#[derive(Clone, Debug)]
pub struct Place {
    /// Where.
    pub target: Target,
    /// Which protocol; by ALPN over TLS.
    pub protocol: UpstreamProtocol,
    /// TLS settings and the name that is verified.
    pub tls: Option<(Arc<rustls::ClientConfig>, ServerName<'static>)>,
}

impl Place {
    fn tls_key(&self) -> Option<(*const rustls::ClientConfig, &ServerName<'static>)> {
        // The place holds the settings, so another's can't come to lie at their address.
        self.tls.as_ref().map(|(config, name)| (Arc::as_ptr(config), name))
    }
}

impl PartialEq for Place {
    fn eq(&self, other: &Self) -> bool {
        self.target == other.target && self.protocol == other.protocol && self.tls_key() == other.tls_key()
    }
}

impl Eq for Place {}

impl Hash for Place {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.target.hash(state);
        self.tls_key().hash(state);
    }
}

/// An open connection that can take a request.
pub enum Connection {
    /// HTTP/1.1: one request at a time.
    One(http1::SendRequest<CopyBody>),
    /// HTTP/2: many.
    Many(http2::SendRequest<CopyBody>),
}

/// Connections that idle (HTTP/1.1) or can take more (HTTP/2), by where they lead.
#[derive(Default)]
pub struct Pool(Mutex<HashMap<Place, Vec<(Connection, Instant)>>>);

impl Pool {
    /// A connection to `place` that was kept, if there is one. The freshest first, so that the others can age.
    pub fn take(&self, place: &Place) -> Option<Connection> {
        let mut idle = self.lock();
        let kept = idle.get_mut(place)?;
        while let Some((connection, since)) = kept.pop() {
            if connection.is_closed() || (since.elapsed() > IDLE && !connection.is_shared()) {
                continue;
            }
            if let Connection::Many(sender) = &connection {
                kept.push((Connection::Many(sender.clone()), Instant::now()));
            }
            return Some(connection);
        }
        idle.remove(place);
        None
    }

    /// Keeps `connection` for the next copy, if there are fewer than `most` to this place.
    pub fn keep(&self, place: Place, connection: Connection, most: usize) {
        let mut idle = self.lock();
        let total: usize = idle.values().map(Vec::len).sum();
        let kept = idle.entry(place).or_default();
        // One shared connection serves a place; a second one, opened at the same time, ends with its copies.
        let most = if connection.is_shared() { 1 } else { most };
        if !connection.is_closed() && kept.len() < most && total < MAX_IDLE {
            kept.push((connection, Instant::now()));
        }
    }

    /// Closes the shared connections to `place`, once their copies have ended: one of them ran late, and a
    /// connection that is silently dead would swallow all that follow.
    pub fn forget_shared(&self, place: &Place) {
        if let Some(kept) = self.lock().get_mut(place) {
            kept.retain(|(connection, _)| !connection.is_shared());
        }
    }

    /// Closes what has idled too long.
    pub fn sweep(&self) {
        self.lock().retain(|_, kept| {
            kept.retain(|(connection, since)| !connection.is_closed() && since.elapsed() <= IDLE);
            !kept.is_empty()
        });
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Place, Vec<(Connection, Instant)>>> {
        self.0.lock().expect("nothing panics while it holds the pool")
    }
}

impl Connection {
    /// Opens a connection to `place`. The caller bounds the time.
    pub async fn open(place: &Place) -> io::Result<Self> {
        match &place.target {
            Target::Tcp(address) => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                Self::secure(stream, place).await
            }
            Target::Unix(path) => Self::secure(UnixStream::connect(path).await?, place).await,
        }
    }

    async fn secure<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: S, place: &Place) -> io::Result<Self> {
        let Some((config, name)) = &place.tls else {
            return Self::handshake(stream, place.protocol == UpstreamProtocol::Http2).await;
        };
        let mut config = rustls::ClientConfig::clone(config);
        config.alpn_protocols = match place.protocol {
            UpstreamProtocol::Http1 => vec![b"http/1.1".to_vec()],
            UpstreamProtocol::Http2 => vec![b"h2".to_vec()],
            UpstreamProtocol::Auto => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        };
        let stream = TlsConnector::from(Arc::new(config)).connect(name.clone(), stream).await?;
        let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2") || place.protocol == UpstreamProtocol::Http2;
        Self::handshake(stream, h2).await
    }

    async fn handshake<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: S, h2: bool) -> io::Result<Self> {
        let io = TokioIo::new(stream);
        if h2 {
            let (sender, connection) = http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .handshake(io)
                .await
                .map_err(io::Error::other)?;
            // Its errors reach the copies that use it.
            tokio::spawn(async { drop(connection.await) });
            Ok(Self::Many(sender))
        } else {
            let (sender, connection) = http1::Builder::new().handshake(io).await.map_err(io::Error::other)?;
            tokio::spawn(async { drop(connection.await) });
            Ok(Self::One(sender))
        }
    }

    /// Sends `request`. The error holds the request if not a byte of it was sent.
    pub async fn send(
        &mut self,
        request: Request<CopyBody>,
    ) -> Result<Response<Incoming>, TrySendError<Request<CopyBody>>> {
        match self {
            Self::One(sender) => sender.try_send_request(request).await,
            Self::Many(sender) => sender.try_send_request(request).await,
        }
    }

    /// Waits until the connection can take another request; false if it never will.
    pub async fn ready(&mut self) -> bool {
        match self {
            Self::One(sender) => sender.ready().await.is_ok(),
            Self::Many(sender) => sender.ready().await.is_ok(),
        }
    }

    /// Whether it serves many copies at once.
    pub fn is_shared(&self) -> bool {
        matches!(self, Self::Many(_))
    }

    fn is_closed(&self) -> bool {
        match self {
            Self::One(sender) => sender.is_closed(),
            Self::Many(sender) => sender.is_closed(),
        }
    }
}
