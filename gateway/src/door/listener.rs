//! A listening address: its sockets, one for each worker, and the terms on which it serves.
//!
//! # Invariants
//!
//! - All sockets of one address share its port, also where the port was 0 and the kernel chose.
//! - A port that another process holds is reported before anything changes.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use ipnet::IpNet;
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use tidegate_model::desired::{Listener, ListenerGuard, Purpose};
use tokio::sync::watch;

use super::metrics::ListenerMetrics;
use crate::clock;
use crate::guard::bans::Bans;
use crate::tls::Front;

/// Connections that wait in the kernel to be accepted, for each socket. Beyond it the kernel
/// ignores new ones, and clients try again.
const BACKLOG: i32 = 4_096;

/// A client that takes none of its answer for this long is cut by the kernel; one that reads
/// slowly is not.
const STALLED: Duration = Duration::from_secs(60);

/// A silent connection is probed after this long, so that one whose client has vanished (power,
/// network) doesn't stay open until its idle timeout. A WebSocket may have none.
const SILENT: Duration = Duration::from_secs(60);

/// What tells addresses apart. Two listeners on port 0 get two ports, so there the name counts too.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AddressKey(SocketAddr, Option<String>);

impl AddressKey {
    /// The key of a listener.
    pub fn of(listener: &Listener) -> Self {
        Self(listener.bind, (listener.bind.port() == 0).then(|| listener.name.clone()))
    }

    /// As configured; the port may be 0.
    pub fn bind(&self) -> SocketAddr {
        self.0
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
    pub tls: Option<Front>,
    /// Handles.
    pub metrics: ListenerMetrics,
    /// Who is banned.
    pub bans: Arc<Bans>,
}

impl Terms {
    /// The terms that a listener's configuration says.
    pub fn new(listener: &Listener, tls: Option<Front>, metrics: ListenerMetrics, bans: Arc<Bans>) -> Self {
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
            bans,
        }
    }

    /// Whether `source` is banned.
    pub fn is_banned(&self, source: IpAddr) -> bool {
        self.bans.until(source, clock::now()).is_some()
    }

    /// Whether `peer` must send a PROXY header, and so speaks for somebody else.
    pub fn is_proxy(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.proxies.iter().any(|net| net.contains(&peer))
    }
}

impl fmt::Debug for Terms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Terms({})", self.name)
    }
}

/// An address that is open.
#[derive(Debug)]
pub struct Open {
    /// What it is bound to, port included.
    pub address: SocketAddr,
    /// The terms for new connections.
    pub terms: Arc<ArcSwap<Terms>>,
    /// Turns true when it closes.
    pub stop: watch::Sender<bool>,
    /// Second handles to its sockets, to pass them on.
    pub sockets: Vec<TcpListener>,
}

/// A socket that one gateway passes to the next.
#[derive(Debug)]
pub struct Passed {
    /// The listener's name.
    pub name: String,
    /// As configured; the port may be 0.
    pub bind: SocketAddr,
    /// The very same open socket, with the connections that wait in it.
    pub socket: TcpListener,
}

impl Passed {
    /// Whether it is one of `listener`'s. A port that the kernel chose is known by the listener's name.
    pub fn is_for(&self, listener: &Listener) -> bool {
        self.bind == listener.bind && (listener.bind.port() != 0 || self.name == listener.name)
    }
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
    complete(vec![socket(address, true)?], workers)
}

/// Binds as many more sockets to the address of `sockets` as it takes to have one for each of `workers`.
///
/// # Errors
///
/// What the system says.
pub fn complete(mut sockets: Vec<Socket>, workers: usize) -> io::Result<Vec<Socket>> {
    let chosen = bound_to(&sockets[0])?;
    while sockets.len() < workers {
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
    // Connections inherit these from the socket that accepts them (Linux, tcp(7)). Without
    // nodelay a small answer may wait for the client's delayed acknowledgement.
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_user_timeout(Some(STALLED))?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(SILENT))?;
    socket.bind(&address.into())?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_inherit_what_their_listening_socket_was_told() {
        let socket = bind("127.0.0.1:0".parse().unwrap(), 1, false).unwrap().remove(0);
        let listening = listen(socket).unwrap();
        listening.set_nonblocking(false).unwrap();
        let _client = std::net::TcpStream::connect(listening.local_addr().unwrap()).unwrap();

        let (accepted, _) = listening.accept().unwrap();
        let accepted = socket2::SockRef::from(&accepted);

        assert!(accepted.tcp_nodelay().unwrap() && accepted.keepalive().unwrap());
        assert_eq!(accepted.tcp_user_timeout().unwrap(), Some(STALLED));
    }
}
