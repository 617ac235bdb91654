//! How long it takes to find a route among 10, 1,000 and 10,000, and to index them.
//!
//! `cargo bench -p tidegate-gateway --bench route` prints the medians side by side. Measured on 2026-11-22 on a
//! busy 2-core machine (dependencies at opt-level 1, so rather too slow than too fast), medians in nanoseconds:
//!
//! | look-up | 10 | 1,000 | 10,000 |
//! |---|---|---|---|
//! | by host | 45 | 51 | 79 |
//! | by wildcard | 90 | 101 | 144 |
//! | by exact path | 31 | 34 | 46 |
//! | by prefix | 112 | 117 | 155 |
//! | past a header | 130 | 143 | 214 |
//! | nowhere | 133 | 146 | 182 |
//!
//! Indexing 10,000 routes took 8.6 ms.

use std::hint::black_box;

use divan::Bencher;
use http::{HeaderMap, HeaderValue, Method};
use tidegate_gateway::decide::Head;
use tidegate_gateway::decide::route::Router;
use tidegate_model::desired::{Action, FixedAnswer, HostPattern, Matches, PathPattern, Route, ValuePattern};

const SIZES: [usize; 3] = [10, 1_000, 10_000];

/// Requests that are asked in turn, so that neither caches nor branch prediction see the same one again and again.
const REQUESTS: usize = 4_096;

fn main() {
    divan::main();
}

/// Every tenant has a host of its own.
#[divan::bench(args = SIZES)]
fn by_host(bencher: Bencher<'_, '_>, size: usize) {
    let routes = (0..size).map(|n| route(HostPattern::Exact(host(n)), PathPattern::Prefix(String::new()))).collect();
    look_up(bencher, routes, |n| (host(n % size), "/cart/items/7".into()));
}

/// Every tenant has a wildcard of its own.
#[divan::bench(args = SIZES)]
fn by_wildcard(bencher: Bencher<'_, '_>, size: usize) {
    let routes = (0..size).map(|n| route(HostPattern::Wildcard(host(n)), PathPattern::Prefix(String::new()))).collect();
    look_up(bencher, routes, |n| (format!("www.{}", host(n % size)), "/cart/items/7".into()));
}

/// One host, told apart by prefix.
#[divan::bench(args = SIZES)]
fn by_prefix(bencher: Bencher<'_, '_>, size: usize) {
    let routes = (0..size).map(|n| route(shop(), PathPattern::Prefix(format!("/api/service-{n}")))).collect();
    look_up(bencher, routes, |n| ("shop.example.com".into(), format!("/api/service-{}/items/7", n % size)));
}

/// One host, told apart by the whole path.
#[divan::bench(args = SIZES)]
fn by_exact_path(bencher: Bencher<'_, '_>, size: usize) {
    let routes = (0..size).map(|n| route(shop(), PathPattern::Exact(format!("/pages/page-{n}.html")))).collect();
    look_up(bencher, routes, |n| ("shop.example.com".into(), format!("/pages/page-{}.html", n % size)));
}

/// Every path has a beta route before it that asks for a header, which the request has with another value.
#[divan::bench(args = SIZES)]
fn past_a_header(bencher: Bencher<'_, '_>, size: usize) {
    let path = |n: usize| PathPattern::Prefix(format!("/api/service-{}", n / 2));
    let routes = (0..size).map(|n| {
        let mut one = route(shop(), path(n));
        if n % 2 == 0 {
            one.matches.headers = vec![("x-beta".into(), ValuePattern::Exact("1".into()))];
        }
        one
    });
    look_up(bencher, routes.collect(), |n| ("shop.example.com".into(), format!("/api/service-{}/x", n % (size / 2))));
}

/// No route takes it.
#[divan::bench(args = SIZES)]
fn nowhere(bencher: Bencher<'_, '_>, size: usize) {
    let routes = (0..size).map(|n| route(HostPattern::Exact(host(n)), PathPattern::Prefix("/api".into()))).collect();
    look_up(bencher, routes, |n| (host(n % size), "/other/items/7".into()));
}

/// Indexing them all.
#[divan::bench(args = SIZES)]
fn build(bencher: Bencher<'_, '_>, size: usize) {
    let routes: Vec<_> =
        (0..size).map(|n| route(HostPattern::Exact(host(n)), PathPattern::Prefix(format!("/api/{n}")))).collect();
    bencher.bench(|| Router::build(black_box(&routes)));
}

fn look_up(bencher: Bencher<'_, '_>, routes: Vec<Route>, request: impl Fn(usize) -> (String, String)) {
    let router = Router::build(&routes);
    // A stride that is coprime to the count visits the routes far from each other.
    let requests: Vec<_> = (0..REQUESTS).map(|n| request(n.wrapping_mul(7_919))).collect();
    let mut headers = HeaderMap::new();
    for (name, value) in [("user-agent", "bench/1"), ("accept", "*/*"), ("x-beta", "0"), ("cookie", "uid=42; lang=en")]
    {
        headers.insert(name, HeaderValue::from_static(value));
    }
    let mut turn = 0;
    bencher.bench_local(|| {
        turn = (turn + 1) % REQUESTS;
        let (host, path) = &requests[turn];
        let head =
            Head { method: &Method::GET, host, path, query: None, headers: &headers, content_length: None, dyed: None };
        router.find(black_box(&head))
    });
}

fn host(n: usize) -> String {
    format!("tenant-{n}.example.com")
}

fn shop() -> HostPattern {
    HostPattern::Exact("shop.example.com".into())
}

fn route(host: HostPattern, path: PathPattern) -> Route {
    let none = || Vec::new();
    Route {
        name: String::new(),
        matches: Matches {
            hosts: vec![host],
            path,
            dyed: None,
            methods: none(),
            headers: vec![],
            query: vec![],
            cookies: vec![],
        },
        action: Action::Answer(FixedAnswer { status: 200, content_type: String::new(), body: String::new() }),
        limits: Vec::new(),
        access: Default::default(),
        rewrite: Default::default(),
        request_headers: Default::default(),
        response_headers: Default::default(),
        cors: None,
        timeouts: Default::default(),
        max_body: None,
        priority: Default::default(),
        challenge: Default::default(),
        shadows: Vec::new(),
    }
}
