//! A flood of twenty times what the upstream can take, from so many addresses that none of them does much.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::net::TcpSocket;

use crate::kit::client::request;
use crate::kit::flood::{Flood, Narrow, Sources};
use crate::kit::load::{Connect, Load, Make, Report, connect};
use crate::kit::{Client, Gateway, full_size};

const CONFIG: &str = "
listeners:
  web: {bind: \"$web\"}
  proxied: {bind: \"$tls\", proxy_protocol: {from: [127.0.0.1/32]}}
services: {shop: {endpoints: [\"$narrow\"]}}
routes: [{name: shop, match: {path: /**}, to: shop}]
";

/// How much of everything.
struct Scale {
    places: usize,
    each: Duration,
    good: u64,
    every: Duration,
    rate: u32,
    sources: u32,
    quiet: Duration,
    flood: Duration,
}

impl Scale {
    fn of_this_run() -> Self {
        if full_size() {
            Self {
                places: 10,
                each: Duration::from_millis(10),
                good: 50,
                every: Duration::from_millis(500),
                rate: 20_000,
                sources: 100_000,
                quiet: Duration::from_secs(30),
                flood: Duration::from_secs(60),
            }
        } else {
            Self {
                places: 4,
                each: Duration::from_millis(20),
                good: 20,
                every: Duration::from_millis(500),
                rate: 4_000,
                sources: 20_000,
                quiet: Duration::from_secs(12),
                flood: Duration::from_secs(8),
            }
        }
    }
}

/// Clients that each come from an address of their own: 127.1.0.1, .2, …
fn good_clients(web: SocketAddr, scale: &Scale) -> Load {
    let next = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let good = u32::try_from(scale.good).unwrap();
    let open: Connect = connect(move || {
        let n = next.fetch_add(1, Relaxed) % good;
        async move {
            let socket = TcpSocket::new_v4()?;
            socket.bind(SocketAddr::from((Ipv4Addr::from_bits(0x7f01_0001 + n), 0)))?;
            let stream = socket.connect(web).await?;
            stream.set_nodelay(true)?;
            Client::h1_on(stream).await
        }
    });
    let make: Make = Arc::new(|_, _| request("GET", "http://shop.example.com/", &[], ""));
    Load::start(scale.good, scale.every, &open, &make)
}

/// Quiet time, then the flood. Returns what became of the good ones in either.
async fn run(gateway: &Gateway, narrow: &Narrow, scale: &Scale, to: SocketAddr, sources: Sources) -> (Report, Report) {
    let good = good_clients(gateway.web(), scale);
    tokio::time::sleep(scale.quiet).await; // Time itself is what is tested: regulars are who came for a while.
    let quiet = good.take();

    let flood = Flood::start(to, scale.rate, 2, sources);
    gateway.until_metric("tidegate_service_under_attack", &["service=\"shop\""], 1.0).await;
    narrow.most.store(0, Relaxed);
    tokio::time::sleep(scale.flood).await;
    let tally = flood.stop();
    let during = good.stop().await;

    println!("quiet: {}", quiet.line());
    println!("flood: {}", during.line());
    println!(
        "flood requests {tally:?} in {:?}, success {:.3} %, resident {} MiB, at most {} in the upstream at once",
        scale.flood,
        100.0 * (1.0 - during.failed() as f64 / during.total() as f64),
        gateway.resident() >> 20,
        narrow.most.load(Relaxed),
    );
    assert!(tally.refused.load(Relaxed) > tally.served.load(Relaxed), "most of the flood is kept out");
    (quiet, during)
}

fn assert_unharmed(quiet: &Report, during: &Report, narrow: &Narrow, scale: &Scale, before: u64, after: u64) {
    let wrong: u64 =
        during.statuses.iter().filter(|(status, _)| **status == 0 || **status >= 400).map(|(_, n)| n).sum();
    // In the small size everything shares two cores with the debug build, and one turn of the good ones is 5 %.
    let bearable = if full_size() { during.total() / 1_000 } else { during.total() / 10 };
    assert!(wrong <= bearable, "{}", during.line());
    let most = narrow.most.load(Relaxed);
    // What came before the attack was seen may still be there; after that no queue builds.
    assert!(most <= 300 + scale.places as u64, "{most} in the upstream at once");
    assert!(after < before + (64 << 20), "resident memory grew from {before} to {after}");
    if full_size() {
        assert!(during.quantile(0.99) < quiet.quantile(0.99) * 2, "{} / {}", quiet.line(), during.line());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn regulars_notice_nothing_of_a_flood_from_very_many_addresses() {
    let scale = Scale::of_this_run();
    let narrow = Narrow::start(scale.places, scale.each).await;
    let mut gateway = Gateway::start(CONFIG, &[("narrow", &narrow.address)]).await;
    let before = gateway.resident();

    let (quiet, during) = run(&gateway, &narrow, &scale, gateway.web(), Sources::Loopback(scale.sources)).await;

    assert_unharmed(&quiet, &during, &narrow, &scale, before, gateway.resident());
    gateway.assert_unharmed();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn regulars_notice_nothing_of_a_flood_from_very_many_ipv6_prefixes() {
    let scale = Scale::of_this_run();
    let narrow = Narrow::start(scale.places, scale.each).await;
    let mut gateway = Gateway::start(CONFIG, &[("narrow", &narrow.address)]).await;
    let before = gateway.resident();

    let (quiet, during) = run(&gateway, &narrow, &scale, gateway.tls(), Sources::Prefixes(scale.sources)).await;

    assert_unharmed(&quiet, &during, &narrow, &scale, before, gateway.resident());
    gateway.assert_unharmed();
}
