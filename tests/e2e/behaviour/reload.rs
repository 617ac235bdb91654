//! Reloads disturb nobody: no request fails, no socket closes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;

use crate::kit::gateway::HOST;
use crate::kit::load::{Load, Make, connect};
use crate::kit::{App, Client, Gateway, full_size, get, request};

fn config(n: u64) -> String {
    let v2 = 1 + n % 50;
    format!(
        "
services:
  shop:
    health: {{path: /healthz, every: 1s}}
    eject: {{consecutive_5xx: 5, for: 1s}}
    versions: {{v1: {{endpoints: [\"$v1\"]}}, v2: {{endpoints: [\"$v2\"]}}}}
routes:
  - name: shop
    match: {{path: /**}}
    split: {{stick_by: [client_ip], weights: {{shop/v1: {}, shop/v2: {v2}}}}}
  - {{name: generation, match: {{path: /which}}, answer: {{status: 200, body: \"{n}\"}}}}
",
        100 - v2
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reloads_under_h1_h2_and_websocket_traffic_fail_no_request_and_close_no_socket() {
    const H1: u64 = 4;
    const H2: u64 = 2;
    const SOCKETS: u64 = 4;
    let (v1, v2) = (App::start("v1").await, App::start("v2").await);
    let mut gateway = Gateway::start(&config(0), &[("v1", &v1), ("v2", &v2)]).await;
    let (reloads, at_least) =
        if full_size() { (1_000, Duration::from_secs(60)) } else { (200, Duration::from_secs(12)) };
    let make: Make = Arc::new(|_, n| request("GET", &format!("https://{HOST}/page/{n}"), &[], ""));
    let tls = gateway.tls();
    let (h1, h2) = (gateway.authority.trust(&["http/1.1"]), gateway.authority.trust(&["h2"]));
    let h1 =
        Load::start(H1, Duration::from_millis(10), &connect(move || Client::tls(tls, HOST, Arc::clone(&h1))), &make);
    let h2 =
        Load::start(H2, Duration::from_millis(10), &connect(move || Client::tls(tls, HOST, Arc::clone(&h2))), &make);
    let stop = Arc::new(AtomicBool::new(false));
    let messages = Arc::new(AtomicU64::new(0));
    let mut sockets = Vec::new();
    for _ in 0..SOCKETS {
        let stream = TcpStream::connect(gateway.web()).await.unwrap();
        let (mut socket, _) = tokio_tungstenite::client_async(format!("ws://{HOST}/ws"), stream).await.unwrap();
        let (stop, messages) = (Arc::clone(&stop), Arc::clone(&messages));
        sockets.push(tokio::spawn(async move {
            while !stop.load(Relaxed) {
                let text = Message::text(messages.fetch_add(1, Relaxed).to_string());
                socket.send(text.clone()).await.expect("the socket stays open");
                assert_eq!(socket.next().await.expect("the socket stays open").unwrap(), text);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }));
    }

    let began = Instant::now();
    let mut slowest = Duration::ZERO;
    for n in 1..=reloads {
        let change = Instant::now();
        gateway.reload(&config(n)).await;
        slowest = slowest.max(change.elapsed());
        tokio::time::sleep_until(
            (began + at_least * u32::try_from(n).unwrap() / u32::try_from(reloads).unwrap()).into(),
        )
        .await;
    }
    let took = began.elapsed();
    let last = get(gateway.web(), "/which").await.unwrap().text();
    stop.store(true, Relaxed);
    for socket in sockets {
        socket.await.expect("no WebSocket was disturbed");
    }
    let (h1, h2) = (h1.stop().await, h2.stop().await);

    println!(
        "{reloads} reloads in {took:.1?}, slowest {slowest:.1?}\n  h1: {}\n  h2: {}\n  WebSocket: {} messages on {SOCKETS} sockets",
        h1.line(),
        h2.line(),
        messages.load(Relaxed)
    );
    assert_eq!(last, reloads.to_string());
    assert_eq!((h1.failed(), h2.failed()), (0, 0), "{:?} {:?}", h1.failures, h2.failures);
    assert_eq!((h1.connections, h2.connections), (H1, H2), "a connection was closed");
    assert!(h1.total() > 500 && h2.total() > 250 && messages.load(Relaxed) > 500, "there was too little traffic");
    gateway.assert_unharmed();
}

#[tokio::test]
async fn a_broken_file_is_refused_and_what_was_in_force_stays() {
    let mut gateway = Gateway::start(&config(1), &[("v1", &"127.0.0.1:1"), ("v2", &"127.0.0.1:1")]).await;
    let before = gateway.generation().await;

    gateway.write("routes: [{name: broken, match: {path: /**}, to: nowhere}]\n");
    gateway.until_metric("tidegate_reloads_total", &["result=\"refused\""], 1.0).await;
    let still = get(gateway.web(), "/which").await.unwrap().text();
    let refused = gateway.generation().await;
    gateway.reload(&config(2)).await;
    let mended = get(gateway.web(), "/which").await.unwrap().text();

    assert_eq!((still.as_str(), refused), ("1", before));
    assert_eq!(mended, "2");
    assert!(gateway.log().contains("unknown-service") || gateway.log().contains("nowhere"), "{}", gateway.log());
    gateway.assert_unharmed();
}

#[tokio::test]
async fn a_gateway_that_is_killed_starts_again_from_the_last_good_file_though_the_new_one_is_broken() {
    let mut gateway = Gateway::start(&config(7), &[("v1", &"127.0.0.1:1"), ("v2", &"127.0.0.1:1")]).await;
    gateway.reload(&config(8)).await;

    gateway.signal("KILL");
    gateway.until_ended().await;
    gateway.write("listeners: {web: {bind: nonsense}}\n");
    gateway.spawn();
    gateway.until_ready().await;

    assert_eq!(get(gateway.web(), "/which").await.unwrap().text(), "8");
}

#[tokio::test]
async fn sighup_and_tidegate_reload_take_a_change_over() {
    let mut gateway = Gateway::start(&config(1), &[("v1", &"127.0.0.1:1"), ("v2", &"127.0.0.1:1")]).await;

    gateway.write(&config(2));
    gateway.signal("HUP");
    crate::kit::eventually("SIGHUP takes the change over", || async {
        get(gateway.web(), "/which").await.is_ok_and(|answer| answer.text() == "2")
    })
    .await;

    gateway.assert_unharmed();
}
