//! What a flood of very many different clients may cost in memory: everything that deciding remembers, together.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

use http::{HeaderMap, Method};
use rand::SeedableRng;
use rand::rngs::StdRng;
use tidegate_gateway::compile::{Material, compile};
use tidegate_gateway::decide::{Connection, Decision, Head, Reason, decide};
use tidegate_gateway::record::Metrics;
use tidegate_gateway::snapshot::Snapshot;
use tidegate_model::check::{SourceFile, check};
use tidegate_model::time::Timestamp;

/// Limits so small that the second request of a client needs a bucket of its own, and the third one is banned.
const CONFIG: &str = "
version: 1
listeners: {web: {bind: 127.0.0.1:0}}
limits:
  per_ip: {rate: 1/h, burst: 2, key: client_ip, then: ban 1h after 1 in 1h}
  per_network: {rate: 1/h, burst: 2, key: network}
services: {app: {endpoints: [127.0.0.1:1]}}
routes: [{name: all, match: {path: /**}, to: app, limits: [per_ip, per_network]}]
";

/// The bound that is promised for a million clients.
const MOST: u64 = 64 << 20;

/// What of it is there for one client as for a million: a sketch for each limit, and the table of regulars.
const FIXED: u64 = 9 << 20;

/// A million clients where `TIDEGATE_FULL` is 1, and a tenth of everything otherwise.
fn parts() -> u32 {
    if std::env::var_os("TIDEGATE_FULL").is_some_and(|value| value == "1") { 1 } else { 10 }
}

fn snapshot() -> Snapshot {
    let file = SourceFile { path: PathBuf::from("/edge.yaml"), text: CONFIG.into() };
    let mut desired = check(&[file]).unwrap().desired;
    desired.bounds.limit_keys /= parts() as usize;
    desired.bounds.bans /= parts() as usize;
    let material = Material::default();
    material.guard.apply(&desired);
    compile(Arc::new(desired), None, &material, &Metrics::new())
}

/// Each in a network of its own, and none beside the one before.
fn client(n: u32) -> IpAddr {
    let network = u128::from(n.wrapping_mul(0x9e37_79b9));
    IpAddr::V6(Ipv6Addr::from_bits(0x2001 << 112 | network << 80 | 1))
}

/// Three requests of each of these clients, and how many of the last ones were turned away.
fn flood(snapshot: &Snapshot, clients: impl Iterator<Item = u32>) -> u32 {
    let (headers, mut dice) = (HeaderMap::new(), StdRng::seed_from_u64(0));
    let head = Head {
        method: &Method::GET,
        host: "a",
        path: "/",
        query: None,
        headers: &headers,
        content_length: None,
        dyed: None,
    };
    let mut connection = Connection {
        peer: SocketAddr::new(client(0), 1),
        local: SocketAddr::from(([192, 0, 2, 1], 80)),
        listener: "web".into(),
        redirect_to: None,
        tls: None,
        guard: Arc::default(),
    };
    let mut refused = 0;
    for n in clients {
        connection.peer = SocketAddr::new(client(n), 1);
        let now = Timestamp::from_nanos(1_000_000_000_000 + u64::from(n) * 1_000);
        let last = [(); 3].map(|()| decide(&head, &connection, snapshot, now, &mut dice)).into_iter().next_back();
        if let Some(Decision::Answer(answer)) = last {
            refused += u32::from(matches!(answer.reason, Reason::Limited | Reason::Banned));
        }
    }
    refused
}

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

#[test]
fn a_million_clients_that_are_all_limited_and_banned_cost_at_most_64_mib_in_all() {
    let clients = 1_000_000 / parts();
    let snapshot = snapshot();
    let before = resident();

    let refused: u32 = thread::scope(|scope| {
        let halves = [0..clients / 2, clients / 2..clients].map(|half| scope.spawn(|| flood(&snapshot, half)));
        halves.into_iter().map(|half| half.join().unwrap()).sum()
    });

    let cost = resident().saturating_sub(before);
    let most = FIXED + (MOST - FIXED) / u64::from(parts());
    println!(
        "{clients} clients cost {:.1} MiB, {} bans among it",
        cost as f64 / f64::from(1 << 20),
        snapshot.guard.bans.len()
    );
    assert!(refused > clients / 10 * 9, "{refused} were refused");
    assert!(cost <= most, "{cost} bytes of {most}");
}
