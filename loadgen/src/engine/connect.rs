//! Makes connections: from the plan's source addresses, to whichever address of the origin answers, by TLS where it
//! is asked for.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::IpBindAddressNoPort;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;

use super::fault::Fault;
use super::io::Io;
use crate::Failure;

/// Where an origin is.
#[derive(Debug)]
pub struct Place {
    /// Its addresses. None where its name was not found.
    pub addresses: Vec<SocketAddr>,
    /// The one that answered last: an address that refuses is not asked first again.
    pub liked: AtomicUsize,
    /// Why it has no address.
    pub unresolved: String,
    /// How it proves who it is; `None`: plain text.
    pub tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
}

/// Makes a connection. It takes as long as it takes: the caller has the deadline.
pub async fn connect(place: &Place, source: Option<IpAddr>) -> Result<Io, Fault> {
    let stream = dial(place, source).await?;
    let _ = stream.set_nodelay(true);
    let Some((config, name)) = &place.tls else { return Ok(Io::Plain(stream)) };
    let connector = TlsConnector::from(Arc::clone(config));
    let tls = connector.connect(name.clone(), stream).await.map_err(|err| Fault::of_handshake(&err))?;
    Ok(Io::Tls(Box::new(tls)))
}

async fn dial(place: &Place, source: Option<IpAddr>) -> Result<TcpStream, Fault> {
    let liked = place.liked.load(Ordering::Relaxed);
    let count = place.addresses.len();
    let mut fault = Fault::new(Failure::Dns, place.unresolved.clone());
    for index in (liked..liked + count).map(|index| index % count) {
        match dial_one(place.addresses[index], source).await {
            Ok(stream) => {
                if index != liked {
                    place.liked.store(index, Ordering::Relaxed);
                }
                return Ok(stream);
            }
            Err(err) => fault = Fault::of_connect(&err),
        }
    }
    Err(fault)
}

async fn dial_one(to: SocketAddr, source: Option<IpAddr>) -> io::Result<TcpStream> {
    let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(source) = source {
        // The port is chosen when it connects, where the target is known: each source address has all its ports for
        // each target, instead of all its ports once. Without it there are fewer, and that is an error of its own.
        let _ = setsockopt(&socket.as_fd(), IpBindAddressNoPort, &true);
        socket.bind(SocketAddr::new(source, 0))?;
    }
    socket.connect(to).await
}
