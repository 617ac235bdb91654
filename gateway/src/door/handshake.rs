//! TLS handshakes: ClientHello → settings for it → handshake.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use pingora_core::protocols::tls::SslDigest;
use rustls::HandshakeKind;
use rustls::server::{Accepted, AcceptedAlert, Acceptor};
use tokio::io::AsyncWriteExt;
use tokio_rustls::StartHandshake;

use super::connection::refuse;
use super::listener::Terms;
use super::metrics::Handshake;
use super::refusal::Refusal;
use super::socket::Socket;
use super::stream::DoorStream;
use crate::decide::TlsFacts;
use crate::tls::{Choice, ClientIdentity, Front, Ja4};

/// The first byte of a TLS handshake record (RFC 8446 §5.1).
const TLS_HANDSHAKE: u8 = 0x16;

/// Bytes of a ClientHello with the records around it. Browsers send up to 2 KiB, with post-quantum keys; a longer one
/// is garbage.
const MAX_HELLO: usize = 32 << 10;

/// Shakes hands with a client. `None` when the connection is over; that has been counted.
pub(super) async fn handshake(
    mut socket: Socket,
    front: &Front,
    terms: &Terms,
    peer: SocketAddr,
    local: SocketAddr,
) -> Option<(Box<DoorStream>, TlsFacts)> {
    if socket.ahead().is_empty() && !matches!(socket.fill().await, Ok(1..)) {
        // Opened and closed without a word: a port check, and no failed handshake.
        return None;
    }
    match socket.ahead().first() {
        Some(&TLS_HANDSHAKE) => {}
        Some(letter) if letter.is_ascii_uppercase() => {
            terms.metrics.handshake(Handshake::PlainHttp);
            terms.metrics.refused(Refusal::PlainOnTls);
            let mut plain = DoorStream::over_socket(socket, peer, local);
            refuse(&mut plain, Refusal::PlainOnTls).await;
            return None;
        }
        _ => {
            terms.metrics.handshake(Handshake::Garbage);
            return None;
        }
    }
    let (hello, ja4) = match hello(&mut socket).await {
        Ok(read) => read,
        Err(why) => {
            terms.metrics.handshake(why);
            return None;
        }
    };
    let (config, policy) = match front.choose(&hello.client_hello()) {
        Choice::Visitor(config, policy) => (Arc::clone(config), Some(policy)),
        Choice::Authority(challenges) => {
            let name = hello.client_hello().server_name().map(str::to_owned);
            match challenges.tls(name.as_deref().unwrap_or_default()).await {
                Some(config) => (config, None),
                // Nothing is pending: a visitor's settings have no protocol in common, which is what the authority is
                // to be told (RFC 8737 §3).
                None => {
                    let (config, policy) = front.visitor(&hello.client_hello());
                    (Arc::clone(config), Some(policy))
                }
            }
        }
    };
    let mut tls = match StartHandshake::from_parts(hello, socket).into_stream(config).await {
        Ok(tls) => tls,
        Err(err) => {
            let tls = err.get_ref().and_then(|inner| inner.downcast_ref());
            terms.metrics.handshake(tls.map_or(Handshake::Closed, outcome));
            return None;
        }
    };
    let Some(policy) = policy else {
        terms.metrics.handshake(Handshake::Authority);
        let _ = tls.shutdown().await;
        return None;
    };
    terms.metrics.handshake(Handshake::Ok);
    let (_, state) = tls.get_ref();
    if state.handshake_kind() == Some(HandshakeKind::Resumed) {
        terms.metrics.resumed.inc();
    }
    let facts = TlsFacts {
        sni: state.server_name().map(str::to_ascii_lowercase),
        version: state.protocol_version().and_then(|version| version.as_str()).unwrap_or_default(),
        cipher: state.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str()).unwrap_or_default(),
        ja4,
        policy,
        client: state.peer_certificates().and_then(<[_]>::first).map(ClientIdentity::of),
    };
    let digest = SslDigest::new(facts.cipher, facts.version, None, None, Vec::new());
    Some((Box::new(DoorStream::tls(tls, digest, peer, local)), facts))
}

/// Reads the ClientHello, which takes all that lies read ahead, and its fingerprint.
async fn hello(socket: &mut Socket) -> Result<(Accepted, Option<Ja4>), Handshake> {
    let mut acceptor = Acceptor::default();
    let mut fed = 0;
    loop {
        while fed < socket.ahead().len() {
            match acceptor.read_tls(&mut &socket.ahead()[fed..]) {
                Ok(n @ 1..) => fed += n,
                _ => return Err(Handshake::Garbage),
            }
        }
        match acceptor.accept() {
            Ok(Some(hello)) => {
                let ja4 = Ja4::of(socket.ahead());
                socket.skip(fed);
                return Ok((hello, ja4));
            }
            Ok(None) if fed > MAX_HELLO => return Err(Handshake::Garbage),
            Ok(None) => {}
            Err((err, alert)) => {
                let _ = send(alert, socket).await; // The client may have gone.
                return Err(outcome(&err));
            }
        }
        if !matches!(socket.fill().await, Ok(1..)) {
            return Err(Handshake::Closed);
        }
    }
}

async fn send(mut alert: AcceptedAlert, socket: &mut Socket) -> io::Result<()> {
    let mut bytes = Vec::new();
    alert.write_all(&mut bytes)?;
    socket.write_all(&bytes).await
}

fn outcome(err: &rustls::Error) -> Handshake {
    use rustls::{CertificateError, Error};
    match err {
        Error::NoCertificatesPresented => Handshake::NoClientCertificate,
        Error::InvalidCertificate(CertificateError::Revoked) => Handshake::ClientRevoked,
        Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            Handshake::ClientExpired
        }
        Error::InvalidCertificate(_) => Handshake::ClientRefused,
        Error::PeerIncompatible(_) | Error::NoApplicationProtocol => Handshake::Incompatible,
        Error::AlertReceived(_) => Handshake::ClientAlert,
        Error::InvalidMessage(_) | Error::InappropriateMessage { .. } => Handshake::Garbage,
        _ => Handshake::Failed,
    }
}
