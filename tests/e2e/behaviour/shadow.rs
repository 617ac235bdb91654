//! Shadows disturb nobody, and what they are sent is what the client sent.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::kit::load::{Load, Make, Report, connect};
use crate::kit::{App, Client, Gateway, Mood, Origin, eventually, full_size, request};

fn config(shadow: &str) -> String {
    format!(
        "
services:
  shop: {{versions: {{v1: {{endpoints: [\"$v1\"]}}, dead: {{endpoints: [\"$dead\"]}}, slow: {{endpoints: [\"$slow\"]}}}}}}
routes:
  - name: shop
    match: {{path: /**}}
    to: shop/v1
{shadow}
"
    )
}

fn shadow(to: &str) -> String {
    format!("    shadow: [{{to: shop/{to}, sample: 100%, body: 64KiB, max_in_flight: 64, timeout: 12s, methods: any}}]")
}

/// Steady traffic for a while; the first part is left out of the report.
async fn traffic(gateway: &Gateway, span: Duration) -> Report {
    let web = gateway.web();
    let body = "x".repeat(2_000);
    let make: Make = Arc::new(move |_, n| request("POST", &format!("http://x/sha256?{n}"), &[], body.clone()));
    let load = Load::start(8, Duration::from_millis(20), &connect(move || Client::h1(web)), &make);
    tokio::time::sleep(span / 5).await;
    load.take();
    tokio::time::sleep(span).await;
    load.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_shadow_and_one_that_answers_after_10_s_change_nothing_for_clients() {
    let (v1, slow) = (App::start("v1").await, App::start("slow").await);
    slow.tell("slow?ms=10000").await;
    let dead = Origin::start("dead").await.kill();
    let variables: [(&str, &dyn ToString); 3] = [("v1", &v1), ("slow", &slow), ("dead", &dead)];
    let mut gateway = Gateway::start(&config(""), &variables).await;
    let span = Duration::from_secs(if full_size() { 20 } else { 4 });

    traffic(&gateway, span / 4).await;
    let memory = gateway.resident();
    let without = traffic(&gateway, span).await;
    gateway.reload(&config(&shadow("dead"))).await;
    let with_dead = traffic(&gateway, span).await;
    gateway.reload(&config(&shadow("slow"))).await;
    let with_slow = traffic(&gateway, span).await;
    let growth = gateway.resident().saturating_sub(memory);

    println!("no shadow:   {}\ndead shadow: {}\nslow shadow: {}", without.line(), with_dead.line(), with_slow.line());
    println!("resident memory: {} KiB, grew by {} KiB", memory / 1024, growth / 1024);
    let copies = gateway.metric("tidegate_shadow_dropped_total", &[]).await;
    assert!(copies > 0.0, "the slow shadow's bound was never reached");
    assert!(slow.hits().await > 0, "no copy ever arrived");
    for report in [&without, &with_dead, &with_slow] {
        assert_eq!(report.failed(), 0, "{:?}", report.failures);
        assert!(report.total() > 100);
    }
    // A debug build on a busy machine isn't held to the millisecond; `make bench` is.
    let tolerance = Duration::from_millis(if full_size() { 1 } else { 10 });
    for report in [&with_dead, &with_slow] {
        assert!(report.quantile(0.99) <= without.quantile(0.99) + tolerance);
    }
    // 64 copies of 2 kB in flight, connections and allocator slack.
    assert!(growth < 24 << 20, "memory grew by {growth} bytes");
    gateway.assert_unharmed();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_up_to_the_cap_reach_the_shadow_byte_for_byte_once_each_even_when_the_request_was_retried() {
    const CAP: usize = 256 << 10;
    let (bad, good, copy) = (Origin::start("bad").await, Origin::start("good").await, Origin::start("copy").await);
    bad.set(Mood::Status(503));
    let config = "
services:
  shop:
    balance: round_robin
    eject: off
    retry: {when: [\"503\"], attempts: 1, methods: any, budget: 100%}
    versions: {v1: {endpoints: [\"$bad\", \"$good\"]}, next: {endpoints: [\"$copy\"]}}
routes:
  - name: shop
    match: {path: /**}
    to: shop/v1
    shadow: [{to: shop/next, sample: 100%, body: 256KiB, over: skip, max_in_flight: 64, timeout: 5s, methods: any,
              mark: {x-shadow: \"1\"}}]
";
    let gateway = Gateway::start(config, &[("bad", &bad), ("good", &good), ("copy", &copy)]).await;
    let mut client = Client::h1(gateway.web()).await.unwrap();
    let sizes = [1, 100, 4_095, 4_096, 16_000, 60_000, CAP - 1, CAP, CAP + 1];

    let mut sent = BTreeMap::new();
    for (n, size) in (0_u8..).zip(sizes.into_iter().chain(sizes)) {
        let body: Vec<u8> = (0..size).map(|at| (at % 251) as u8 ^ n).collect();
        let answer =
            client.send(request("POST", &format!("http://shop.example.com/{n}"), &[], body.clone())).await.unwrap();
        // What is too long to be kept for a second try is answered as the first try was.
        assert!(answer.status == 200 || size > 32 << 10, "{size} bytes: {}", answer.status);
        if size <= CAP {
            sent.insert(format!("/{n}"), (size, Sha256::digest(&body).to_vec()));
        }
    }
    eventually("every copy arrives", || async { copy.hits() >= sent.len() as u64 }).await;
    gateway.until_metric("tidegate_shadow_dropped_total", &[], 2.0).await;

    let arrived: Vec<_> = copy
        .seen()
        .iter()
        .map(|seen| (seen.path.clone(), (seen.body.len(), Sha256::digest(&seen.body).to_vec())))
        .collect();
    println!("{} bodies of 1 byte to {CAP} bytes copied, {} requests retried", arrived.len(), bad.hits());
    assert!(bad.hits() >= 4, "nothing was retried");
    assert_eq!(arrived.len(), sent.len(), "once each");
    assert_eq!(arrived.into_iter().collect::<BTreeMap<_, _>>(), sent);
    let seen = copy.seen();
    assert!(seen.iter().all(|seen| seen.host == "shop.example.com" && seen.header("x-shadow") == "1"), "{:?}", seen[0]);
    assert!(good.seen().iter().all(|seen| seen.header("x-shadow").is_empty()));
}

#[tokio::test]
async fn a_shadow_that_answers_differently_is_counted_as_a_mismatch() {
    let (v1, next) = (Origin::start("v1").await, Origin::start("next").await);
    v1.set(Mood::Reply(vec![("content-type", "application/json")], r#"{"total": 10, "time": 1}"#));
    next.set(Mood::Reply(vec![("content-type", "application/json")], r#"{"time": 2, "total": 10}"#));
    let config = "
services:
  shop: {versions: {v1: {endpoints: [\"$v1\"]}, next: {endpoints: [\"$next\"]}}}
routes:
  - name: shop
    match: {path: /**}
    to: shop/v1
    shadow: [{to: shop/next, sample: 100%, compare: [status, body], ignore: [\"$.time\"]}]
";
    let gateway = Gateway::start(config, &[("v1", &v1), ("next", &next)]).await;
    let mut client = Client::h1(gateway.web()).await.unwrap();

    client.get("http://x/same").await.unwrap();
    gateway.until_metric("tidegate_shadow_compared_total", &[], 1.0).await;
    let before = gateway.metric("tidegate_shadow_mismatches_total", &[]).await;
    next.set(Mood::Reply(vec![("content-type", "application/json")], r#"{"time": 2, "total": 11}"#));
    client.get("http://x/differs").await.unwrap();
    gateway.until_metric("tidegate_shadow_mismatches_total", &[], 1.0).await;

    assert_eq!(before, 0.0);
}

#[tokio::test]
async fn requests_and_answers_without_bodies_are_copied_and_compared_over_either_protocol() {
    for protocol in ["http/1.1", "h2"] {
        let (v1, next) = (Origin::start("v1").await, Origin::start("next").await);
        let reply = Mood::Reply(vec![("content-type", "text/plain")], "");
        v1.set(reply.clone());
        next.set(reply);
        let config = format!(
            "
services:
  shop: {{protocol: {protocol}, versions: {{v1: {{endpoints: [\"$v1\"]}}, next: {{endpoints: [\"$next\"]}}}}}}
routes:
  - name: shop
    match: {{path: /**}}
    to: shop/v1
    shadow: [{{to: shop/next, sample: 200%, methods: any, compare: [status, body, latency]}}]
"
        );
        let gateway = Gateway::start(&config, &[("v1", &v1), ("next", &next)]).await;
        let mut h1 = Client::h1(gateway.web()).await.unwrap();
        let mut h2 = Client::h2c(gateway.web()).await.unwrap();

        for client in [&mut h1, &mut h2] {
            for method in ["GET", "HEAD", "POST", "DELETE"] {
                let answer = client.send(request(method, "http://shop.example.com/empty?q=1", &[], "")).await.unwrap();
                assert_eq!(answer.status, 200, "{method} {protocol}");
            }
        }

        gateway.until_metric("tidegate_shadow_compared_total", &[], 16.0).await;
        assert_eq!(next.hits(), 16, "{protocol}");
        assert_eq!(gateway.metric("tidegate_shadow_mismatches_total", &["kind=\"status\""]).await, 0.0);
        assert_eq!(gateway.metric("tidegate_shadow_mismatches_total", &["kind=\"body\""]).await, 0.0);
        let seen = next.seen();
        let expected = if protocol == "h2" { "HTTP/2.0" } else { "HTTP/1.1" };
        assert!(seen.iter().all(|seen| seen.protocol == expected && seen.host == "shop.example.com"), "{seen:?}");
        assert!(seen.iter().all(|seen| seen.path == "/empty?q=1"), "{seen:?}");
    }
}
