//! A listening address: its sockets, one for each worker, and the terms on which it serves.
//!
//! # Invariants
//!
//! - All sockets of one address share its port, also where the port was 0 and the kernel chose.
//! - A port that another process holds is reported before anything changes.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use arc_swap::ArcSwap;
use ipnet::IpNet;
use rustls::ServerConfig;
use socket2::{Domain, Protocol, Socket, Type};
use tidegate_model::desired::{Listener, ListenerGuard, Purpose};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use super::metrics::ListenerMetrics;
use crate::tls::{Resolver, TlsShape};

/// Connections that wait in the kernel to be accepted, for each socket. Beyond it the kernel
/// ignores new ones, and clients try again.
const BACKLOG: i32 = 4_096;

/// What tells addresses apart. Two listeners on port 0 get two ports, so there the name counts too.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AddressKey(SocketAddr, Option<String>);

impl AddressKey {
    /// The key of a listener.
    pub fn of(listener: &Listener) -> Self {
        Self(listener.bind, (listener.bind.port() == 0).then(|| listener.name.clone()))
    }
}

/// The terms on which an address serves new connections. A connection keeps those it came under.
pub struct Terms {
    /// The listener's name.
    pub name: Arc<str>,
    /// Set on a redirect listener: the TLS port to redirect to.
    pub redirect_to: Option<u16>,
    /// HTTP/1.1 is spoken.
    pub http1: bool,
    /// HTTP/2 is spoken.
    pub http2: bool,
    /// Who must send a PROXY header.
    pub proxies: Vec<IpNet>,
    /// Deadlines and sizes.
    pub guard: Arc<ListenerGuard>,
    /// TLS; `None` on a plain listener.
    pub tls: Option<TlsAcceptor>,
    /// Handles.
    pub metrics: ListenerMetrics,
}

impl Terms {
    /// The terms that a listener's configuration says.
    pub fn new(listener: &Listener, tls: Option<TlsAcceptor>, metrics: ListenerMetrics) -> Self {
        Self {
            name: listener.name.as_str().into(),
            redirect_to: match listener.purpose {
                Purpose::Route => None,
                Purpose::RedirectToTls { port } => Some(port),
            },
            http1: listener.http1,
            http2: listener.http2,
            proxies: listener.proxy_protocol.clone(),
            guard: Arc::new(listener.guard.clone()),
            tls,
            metrics,
        }
    }
}

impl fmt::Debug for Terms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Terms({})", self.name)
    }
}

/// TLS of an address that is open.
#[derive(Clone, Debug)]
pub struct OpenTls {
    /// What the settings were made for.
    pub shape: TlsShape,
    /// Where certificates are swapped.
    pub resolver: Arc<Resolver>,
    /// The settings.
    pub config: Arc<ServerConfig>,
}

/// An address that is open.
#[derive(Debug)]
pub struct Open {
    /// What it is bound to, port included.
    pub address: SocketAddr,
    /// The terms for new connections.
    pub terms: Arc<ArcSwap<Terms>>,
    /// Its TLS; `None` on a plain listener.
    pub tls: Option<OpenTls>,
    /// Turns true when it closes.
    pub stop: watch::Sender<bool>,
}

/// Why an address can't be opened.
#[derive(Debug, thiserror::Error)]
#[error("listener \"{listener}\" can't be bound to {address}")]
pub struct BindError {
    /// The listener's name.
    pub listener: String,
    /// The address.
    pub address: SocketAddr,
    /// What the system says.
    #[source]
    pub cause: io::Error,
    /// What to try.
    pub hint: &'static str,
}

impl BindError {
    /// Says what the system's error usually means.
    pub fn new(listener: &Listener, cause: io::Error) -> Self {
        let hint = match cause.kind() {
            io::ErrorKind::AddrInUse => "something listens there already; `ss -ltnp` shows what",
            io::ErrorKind::AddrNotAvailable => "this machine has no such address; 0.0.0.0 means every one it has",
            io::ErrorKind::PermissionDenied => {
                "ports below 1024 need root or CAP_NET_BIND_SERVICE (`setcap cap_net_bind_service=+ep`)"
            }
            _ => "check the address",
        };
        Self { listener: listener.name.clone(), address: listener.bind, cause, hint }
    }
}

/// Binds one socket for each of `workers`, without listening yet. `ours` when a socket of our own
/// that is about to close may hold the port: then it isn't probed.
///
/// # Errors
///
/// What the system says.
pub fn bind(address: SocketAddr, workers: usize, ours: bool) -> io::Result<Vec<Socket>> {
    if address.port() != 0 && !ours {
        // SO_REUSEPORT would let us share the port with another process of the same user, and
        // half of the connections would be theirs. Without it the kernel tells.
        socket(address, false)?;
    }
    let first = socket(address, true)?;
    let chosen = bound_to(&first)?;
    let mut sockets = vec![first];
    for _ in 1..workers {
        sockets.push(socket(chosen, true)?);
    }
    Ok(sockets)
}

/// What a socket is bound to.
///
/// # Errors
///
/// What the system says.
pub fn bound_to(socket: &Socket) -> io::Result<SocketAddr> {
    socket.local_addr()?.as_socket().ok_or_else(|| io::ErrorKind::Unsupported.into())
}

/// Makes a bound socket listen.
///
/// # Errors
///
/// What the system says.
pub fn listen(socket: Socket) -> io::Result<TcpListener> {
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn socket(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}
