//! What recording one request costs: our rows beside the `prometheus` crate's types, on one thread and on two that
//! count on the same series, as the door's cores do. And one access-log line.
//!
//! `cargo bench -p tidegate-gateway --bench record`

use std::hint::black_box;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant, SystemTime};

use prometheus::{Histogram, HistogramOpts, IntCounter};
use tidegate_gateway::record::access::{AccessLog, Entry, Sink};
use tidegate_gateway::record::{BOUNDS_NANOS, Metrics};
use tidegate_model::desired::{AccessLog as Target, Generation};

const TIMES: u32 = 2_000_000;
const LINES: u32 = 100_000;

fn main() {
    let metrics = Metrics::new();
    let arm = metrics.arm("shop", "shop", "v1");
    let buckets = BOUNDS_NANOS.iter().map(|nanos| *nanos as f64 / 1e9).collect();
    let histogram = Histogram::with_opts(HistogramOpts::new("seconds", "Seconds.").buckets(buckets)).expect("valid");
    let counter = IntCounter::new("requests_total", "Requests.").expect("valid");

    for threads in [1, 2] {
        let ours = per_call(threads, TIMES, |took| arm.finished(200, took));
        let theirs = per_call(threads, TIMES, |took| {
            counter.inc();
            histogram.observe(took.as_secs_f64());
        });
        println!("status and duration, {threads} thread(s): rows {ours:.1} ns, prometheus types {theirs:.1} ns");
    }

    let access = AccessLog::start(Sink::open(&Target::File("/dev/null".into())).expect("it is always there"), &metrics);
    let line = per_call(1, LINES, |took| access.log(&entry(took)));
    access.close();
    println!("access-log line: {line:.0} ns, {} of {LINES} lost", metrics.access_log_dropped().get());
}

/// Nanoseconds of wall time for one call on each of `threads` threads at once.
fn per_call(threads: u32, times: u32, call: impl Fn(Duration) + Sync) -> f64 {
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope
                .spawn(|| (0..times).for_each(|n| call(black_box(Duration::from_nanos(u64::from(n % 5_000) * 1_000)))));
        }
    });
    began.elapsed().as_secs_f64() * 1e9 / f64::from(times)
}

fn entry(took: Duration) -> Entry<'static> {
    Entry {
        time: SystemTime::now(),
        id: "0af7651916cd43dd8448eb211c80319c",
        client: IpAddr::from([203, 0, 113, 9]),
        peer: SocketAddr::from(([10, 0, 0, 1], 40_001)),
        method: "GET",
        host: "shop.example.com",
        path: "/cart/items/17",
        query: Some("a=1"),
        protocol: "HTTP/2",
        status: 200,
        reason: None,
        route: Some("shop"),
        version: Some("shop/v1"),
        endpoint: None,
        attempts: 1,
        received: 0,
        sent: 512,
        took,
        first_byte: Some(took),
        user_agent: Some(b"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
        referer: None,
        trace: None,
        dyed: None,
        generation: Generation(7),
        tls: None,
    }
}
