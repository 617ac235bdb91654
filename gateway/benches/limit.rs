//! How long a limit takes for a request of somebody who asks little, and of somebody who asks too much; and how long
//! it takes to ask for an address among bans and lists.
//!
//! `cargo bench -p tidegate-gateway --bench limit` prints the medians, with one thread and with two.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use divan::Bencher;
use http::{HeaderMap, Method};
use tidegate_gateway::decide::Head;
use tidegate_gateway::decide::key::Network;
use tidegate_gateway::decide::limit::LimitState;
use tidegate_gateway::decide::nets::NetSet;
use tidegate_gateway::guard::bans::Bans;
use tidegate_model::desired::{Key, Limit};
use tidegate_model::time::Timestamp;

fn main() {
    divan::main();
}

const MILLION: u32 = 1_000_000;

fn limit() -> LimitState {
    let limit = Limit {
        name: "per_ip".into(),
        keys: vec![Key::ClientIp],
        interval: Duration::from_millis(20),
        burst: 100,
        window: Duration::from_secs(1),
        per_window: 50,
        over: 429,
        challenge: false,
        ban: None,
        shared: false,
    };
    LimitState::new(&limit, 200_000)
}

fn address(n: u32) -> IpAddr {
    // Far from each other, so that neither caches nor branch prediction are flattered.
    IpAddr::V4(Ipv4Addr::from_bits(n.wrapping_mul(0x9e37_79b9)))
}

/// One in a million addresses, in turn.
#[divan::bench(threads = [1, 2])]
fn of_a_million_light_keys(bencher: Bencher<'_, '_>) {
    take(bencher, MILLION);
}

/// One of a hundred addresses, all of which ask too much.
#[divan::bench(threads = [1, 2])]
fn of_a_hundred_heavy_keys(bencher: Bencher<'_, '_>) {
    take(bencher, 100);
}

fn take(bencher: Bencher<'_, '_>, keys: u32) {
    let (limit, headers, turn) = (limit(), HeaderMap::new(), AtomicU32::new(0));
    bencher.bench(|| {
        let n = turn.fetch_add(1, Relaxed);
        let head = Head {
            method: &Method::GET,
            host: "",
            path: "/",
            query: None,
            headers: &headers,
            content_length: None,
            dyed: None,
        };
        let bucket = limit.bucket(&head, Network::of(address(n % keys), 64));
        limit.try_take(bucket, black_box(Timestamp::from_nanos(1_000_000_000 + u64::from(n) * 1_000)))
    });
}

/// Asking for somebody who isn't banned, among so many who are.
#[divan::bench(args = [0, 1_000, MILLION])]
fn among_bans(bencher: Bencher<'_, '_>, banned: u32) {
    let bans = Bans::default();
    for n in 0..banned {
        bans.add(address(n).into(), Duration::from_secs(3_600), "bench", Timestamp::ZERO).expect("no proxy is trusted");
    }
    let mut n = MILLION;
    bencher.bench_local(|| {
        n = n.wrapping_add(1);
        bans.until(address(n), black_box(Timestamp::ZERO))
    });
}

/// Asking for an address among so many networks of a list.
#[divan::bench(args = [1_000, MILLION, 5 * MILLION])]
fn among_networks(bencher: Bencher<'_, '_>, networks: u32) {
    let nets: Vec<_> = (0..networks).map(|n| address(n).into()).collect();
    let set = NetSet::new(&nets);
    let mut n = 0;
    bencher.bench_local(|| {
        n += 1;
        set.contains(black_box(address(n)))
    });
}
