//! Plans, and targets that do as they are told.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tidegate_loadgen::{Failure, Outcome, Start};
use tidegate_model::scenario::Plan;
use tidegate_model::scenario::plan::{Client, Flow, Load, Origin, Protocol, Spacing, Stage, Step, Template};

/// A plan with one step.
pub fn plan(origin: Origin, load: Load) -> Plan {
    let mut step = Step::get("home", origin, Template::text("/"));
    step.timeout = Duration::from_secs(30);
    Plan {
        name: "test".to_owned(),
        load,
        flows: vec![Flow { name: "home".to_owned(), weight: 1.0, steps: vec![step] }],
        feeders: Vec::new(),
        client: Client {
            protocol: Protocol::Http1,
            keep_alive: true,
            connections: 4_000,
            streams: 100,
            threads: 2,
            sources: Vec::new(),
            resolve: BTreeMap::new(),
            connect_timeout: Duration::from_secs(10),
            ca: None,
            insecure: false,
        },
        thresholds: Vec::new(),
        stops: Vec::new(),
        mark: None,
        seed: 7,
    }
}

/// So many requests a second.
pub fn rate(rate: f64, seconds: f64) -> Load {
    Load::Open {
        stages: vec![Stage { lasts: Duration::from_secs_f64(seconds), from: rate, to: rate }],
        spacing: Spacing::Even,
        most_in_flight: 4_000,
    }
}

/// Where a local server is.
pub fn origin(address: SocketAddr) -> Origin {
    Origin { tls: false, host: address.ip().to_string(), port: address.port() }
}

/// Runs a plan that nobody watches.
pub fn run(plan: &Plan) -> Outcome {
    tidegate_loadgen::run(plan, &Start::default(), &mut |_| ()).unwrap()
}

/// Holds what an outcome promises.
pub fn adds_up(outcome: &Outcome) {
    let all = &outcome.all;
    assert_eq!(all.due, all.sent + all.unsent, "{all:?}");
    assert_eq!(all.sent, all.good + all.failures.values().sum::<u64>(), "{all:?}");
    assert_eq!(all.sent, all.response.count, "{all:?}");
    assert_eq!(all.sent, all.service.count, "{all:?}");
    assert_eq!(all.sent, outcome.seconds.iter().map(|second| second.sent).sum::<u64>());
    assert_eq!(all.good, outcome.seconds.iter().map(|second| second.good).sum::<u64>());
}

/// The failures, by kind.
pub fn failures(outcome: &Outcome) -> Vec<(Failure, u64)> {
    outcome.all.failures.iter().map(|(failure, count)| (*failure, *count)).collect()
}

/// A quantile of the response times, in seconds.
pub fn response(outcome: &Outcome, q: f64) -> f64 {
    let found = outcome.all.response.quantiles.iter().find(|(other, _)| (other - q).abs() < 1e-9);
    found.unwrap().1 as f64 / 1e9
}

/// A server that does `serve` with each connection, on a thread of its own, for as long as the test runs.
pub fn server(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> (SocketAddr, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let accepted = Arc::new(AtomicU64::new(0));
    let serve = Arc::new(serve);
    let count = Arc::clone(&accepted);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, serve) = (stream.unwrap(), Arc::clone(&serve));
            count.fetch_add(1, Ordering::Relaxed);
            std::thread::spawn(move || serve(stream));
        }
    });
    (address, accepted)
}

/// Reads a request without a body. Whether there was one.
pub fn request(stream: &mut TcpStream) -> bool {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => return false,
        }
    }
    true
}

/// A server that answers each request with these bytes and keeps the connection.
pub fn answering(answer: &'static [u8]) -> (SocketAddr, Arc<AtomicU64>) {
    server(move |mut stream| {
        let _ = stream.set_nodelay(true);
        while request(&mut stream) && stream.write_all(answer).is_ok() {}
    })
}

/// A plain good answer.
pub const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
