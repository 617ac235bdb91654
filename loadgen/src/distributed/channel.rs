//! A connection between coordinator and worker on which both have proved that they have the key.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use rustls::{ClientConfig, ServerConfig, version};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use super::key::{Key, PROOF, Side, material};
use super::wire::{MOST_UNPROVED, receive_bytes, send_bytes};
use crate::engine::Anything;

/// How long it may take until both are proved.
const PROVING: Duration = Duration::from_secs(10);

/// How long what was sent may stay unacknowledged before the other side counts as gone (TCP_USER_TIMEOUT, RFC 5482). A worker
/// tells something each second, so it stops sending soon after its coordinator's machine or the network is lost.
const UNACKNOWLEDGED: Duration = Duration::from_secs(15);

/// What a wrong key looks like to people.
const WRONG_KEY: &str = "the other side has another key";

/// Connects to a worker.
///
/// # Errors
///
/// Nobody is there, or they have another key.
pub async fn connect(address: &str, key: &Key) -> anyhow::Result<client::TlsStream<TcpStream>> {
    let connected = async {
        let stream = TcpStream::connect(address).await.context("can't connect")?;
        stream.set_nodelay(true)?;
        SockRef::from(&stream).set_tcp_user_timeout(Some(UNACKNOWLEDGED))?;
        // Who it is isn't in the certificate but in the proof.
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anything(provider)))
            .with_no_client_auth();
        let name = ServerName::try_from("worker.tidegate.invalid")?;
        let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.context("no TLS there")?;
        let material = material(stream.get_ref().1)?;
        prove(&mut stream, &material, key, Side::Coordinator).await?;
        Ok(stream)
    };
    timeout(PROVING, connected).await.context("no answer")?
}

/// What workers accept connections with: a certificate of its own, made anew by each process.
///
/// # Errors
///
/// None that are known.
pub fn acceptor() -> anyhow::Result<TlsAcceptor> {
    let own = rcgen::generate_simple_self_signed(["worker.tidegate.invalid".to_owned()])?;
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(own.signing_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.into()], key)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Takes a coordinator's connection.
///
/// # Errors
///
/// They have another key, or are too slow to show it.
pub async fn accept(
    stream: TcpStream,
    acceptor: &TlsAcceptor,
    key: &Key,
) -> anyhow::Result<server::TlsStream<TcpStream>> {
    let accepted = async {
        stream.set_nodelay(true)?;
        SockRef::from(&stream).set_tcp_user_timeout(Some(UNACKNOWLEDGED))?;
        let mut stream = acceptor.accept(stream).await.context("no TLS")?;
        let material = material(stream.get_ref().1)?;
        prove(&mut stream, &material, key, Side::Worker).await?;
        Ok(stream)
    };
    timeout(PROVING, accepted).await.context("too slow to prove itself")?
}

/// The coordinator proves itself first, so a worker tells nothing to strangers.
async fn prove(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    material: &[u8],
    key: &Key,
    side: Side,
) -> anyhow::Result<()> {
    match side {
        Side::Coordinator => {
            send_bytes(stream, &key.prove(side, material)).await?;
            let proof = receive_bytes(stream, MOST_UNPROVED).await.context(WRONG_KEY)?;
            ensure!(proof.len() == PROOF && key.accepts(Side::Worker, material, &proof), WRONG_KEY);
        }
        Side::Worker => {
            let proof = receive_bytes(stream, MOST_UNPROVED).await?;
            ensure!(proof.len() == PROOF && key.accepts(Side::Coordinator, material, &proof), WRONG_KEY);
            send_bytes(stream, &key.prove(side, material)).await?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    async fn meet(worker: &'static [u8], coordinator: &'static [u8]) -> (anyhow::Result<()>, anyhow::Result<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let accepting = async {
            let (stream, _) = listener.accept().await.unwrap();
            accept(stream, &acceptor().unwrap(), &Key::new(worker).unwrap()).await.map(drop)
        };
        let key = Key::new(coordinator).unwrap();
        let connecting = async { connect(&address, &key).await.map(drop) };
        tokio::join!(accepting, connecting)
    }

    #[tokio::test]
    async fn two_that_have_the_same_key_meet() {
        let (worker, coordinator) = meet(&[1; 32], &[1; 32]).await;

        assert!(worker.is_ok() && coordinator.is_ok(), "{worker:?} {coordinator:?}");
    }

    #[tokio::test]
    async fn two_that_have_different_keys_part_and_say_why() {
        let (worker, coordinator) = meet(&[1; 32], &[2; 32]).await;

        assert_eq!(worker.unwrap_err().to_string(), WRONG_KEY);
        assert_eq!(coordinator.unwrap_err().to_string(), WRONG_KEY);
    }
}
