//! Certificates are replaced while clients keep arriving.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::kit::client::tls;
use crate::kit::gateway::HOST;
use crate::kit::{Gateway, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_replaced_under_load_fail_no_handshake_and_the_new_one_is_served() {
    const ROTATIONS: usize = 5;
    let mut gateway = Gateway::start("routes: [{name: all, match: {path: /**}, answer: {status: 200}}]\n", &[]).await;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let mut clients = JoinSet::new();
    for _ in 0..4 {
        let (address, trust, stopped) = (gateway.tls(), gateway.authority.trust(&[]), stopped.clone());
        clients.spawn(async move {
            let (mut done, mut failed) = (0_u64, Vec::new());
            while !*stopped.borrow() {
                // No session is resumed: each handshake shows a certificate.
                let mut fresh = (*trust).clone();
                fresh.resumption = rustls::client::Resumption::disabled();
                match tls(address, HOST, Arc::new(fresh)).await {
                    Ok(_) => done += 1,
                    Err(err) => failed.push(format!("{err:#}")),
                }
            }
            (done, failed)
        });
    }

    let mut slowest = Duration::ZERO;
    for _ in 0..ROTATIONS {
        // The certificate is there before its key: for a moment the pair doesn't match.
        let signed = gateway.authority.sign(&gateway.dir().join("tls"), "shop", &[HOST]);
        let began = Instant::now();
        eventually("the new certificate is served", || async {
            let trust = gateway.authority.trust(&[]);
            let mut fresh = (*trust).clone();
            fresh.resumption = rustls::client::Resumption::disabled();
            let stream = tls(gateway.tls(), HOST, Arc::new(fresh)).await.unwrap();
            stream.get_ref().1.peer_certificates().unwrap()[0] == signed.der
        })
        .await;
        slowest = slowest.max(began.elapsed());
    }
    stop.send(true).unwrap();
    let outcomes = clients.join_all().await;

    let done: u64 = outcomes.iter().map(|(done, _)| done).sum();
    let failed: Vec<_> = outcomes.into_iter().flat_map(|(_, failed)| failed).collect();
    println!(
        "{ROTATIONS} rotations, {done} handshakes, {} failed, a new certificate was served after at most {slowest:.1?}",
        failed.len()
    );
    assert_eq!(failed, [""; 0]);
    assert!(done > 50);
    gateway.assert_unharmed();
}

#[tokio::test]
async fn a_certificate_that_does_not_fit_its_key_is_refused_and_the_old_one_stays() {
    let mut gateway = Gateway::start("routes: [{name: all, match: {path: /**}, answer: {status: 200}}]\n", &[]).await;
    let dir = gateway.dir().join("tls");
    let other = gateway.authority.sign(&gateway.dir().join("other"), "other", &[HOST]);

    std::fs::copy(&other.cert, dir.join("shop.crt")).unwrap();
    gateway.until_metric("tidegate_reloads_total", &["result=\"refused\""], 1.0).await;
    let stream = tls(gateway.tls(), HOST, gateway.authority.trust(&[])).await.unwrap();
    let served = stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned();

    assert_ne!(served, other.der);
    assert!(gateway.log().contains("shop.crt"), "{}", gateway.log());
    gateway.assert_unharmed();
}
