//! Good clients beside an attack, and what is left behind when it is over.

use std::time::Duration;

use super::gateway::HOST;
use super::load::{Connect, Load, Make, Report, connect};
use super::{Client, Gateway, eventually, full_size, request};

/// Memory that may stay with the allocator after an attack.
const KEPT: u64 = 64 << 20;

/// The shortest p99 of quiet times that is told from noise.
const NOISE: Duration = Duration::from_millis(2);

/// Good clients that come anew for each request, over TLS: the ones that an attack on the door hits first.
pub fn newcomers(gateway: &Gateway) -> Connect {
    let (tls, config) = (gateway.tls(), gateway.authority.trust(&["h2", "http/1.1"]));
    connect(move || Client::tls(tls, HOST, config.clone()))
}

/// Good clients that keep their connection.
pub fn regulars(gateway: &Gateway) -> Connect {
    let web = gateway.web();
    connect(move || Client::h1(web))
}

/// A good request.
pub fn good() -> Make {
    std::sync::Arc::new(|_, _| request("GET", &format!("http://{HOST}/good"), &[("x-good", "1")], ""))
}

/// Runs `attack` with good clients beside it, and asserts that they notice nothing and that everything is given back.
pub async fn withstand<T>(gateway: &mut Gateway, attack: impl Future<Output = T>) -> (T, Report) {
    // A first visit, so that what the gateway keeps for good is there before we count.
    let fresh = newcomers(gateway);
    fresh().await.unwrap().get(&format!("https://{HOST}/")).await.unwrap();
    let quiet = (gateway.descriptors(), gateway.resident());
    let every = Duration::from_millis(50);
    let (kept, new) = (Load::start(4, every, &regulars(gateway), &good()), tokio::spawn(newcomer(newcomers(gateway))));
    if full_size() {
        tokio::time::sleep(Duration::from_secs(10)).await; // A quiet time to compare with.
    }
    let before = kept.take();

    let outcome = attack.await;

    let report = kept.stop().await;
    new.abort();
    let newcomers = match new.await {
        Ok(()) => unreachable!("newcomers come for ever"),
        Err(err) if err.is_cancelled() => "all served",
        Err(err) => panic!("a newcomer was not served: {err}"),
    };
    println!("good clients: {}; newcomers: {newcomers}", report.line());
    assert!(report.total() > 0);
    assert!(report.statuses.keys().all(|status| *status == 200), "{}: {:?}", report.line(), report.failures);
    if full_size() {
        println!("before that: {}", before.line());
        assert!(report.quantile(0.99) < before.quantile(0.99).max(NOISE) * 2, "good clients were slowed down");
    }
    eventually("every connection is closed", || async {
        gateway.metric("tidegate_connections_open", &[]).await == 0.0
    })
    .await;
    eventually("every descriptor is given back", || async { gateway.descriptors() <= quiet.0 + 8 }).await;
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    println!(
        "descriptors {} → {}, resident {:.1} → {:.1} MiB",
        quiet.0,
        gateway.descriptors(),
        mib(quiet.1),
        mib(gateway.resident())
    );
    assert!(gateway.resident() < quiet.1 + KEPT, "memory is given back");
    gateway.assert_unharmed();
    (outcome, report)
}

async fn newcomer(open: Connect) {
    loop {
        let answer = async { open().await?.get(&format!("https://{HOST}/good")).await };
        let answer = answer.await.unwrap_or_else(|err| panic!("{err:#}"));
        assert_eq!(answer.status, 200);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
