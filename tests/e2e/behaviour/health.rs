//! Endpoints that die, fail and dawdle: clients notice no more than detection costs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::kit::load::{Load, Make, connect};
use crate::kit::{App, Client, Gateway, eventually, get, request};

/// Failures in a row that eject.
const CONSECUTIVE: u64 = 5;

/// Connections of the load: each may have one more request on its way to an endpoint that is being found out.
const CONNECTIONS: u64 = 8;

const CONFIG: &str = "
services:
  shop:
    balance: round_robin
    health: {path: /healthz, every: 200ms, timeout: 200ms, up_after: 2, down_after: 2}
    eject: {consecutive_5xx: 5, for: 3s, max: 50%, panic: 40%, slow_start: 3s}
    retry: {when: [connect, reset], attempts: 2, methods: idempotent, budget: 100%}
    timeouts: {connect: 500ms, first_byte: 500ms}
    endpoints: [\"$a0\", \"$a1\", \"$a2\", \"$a3\"]
routes:
  - {name: shop, match: {path: /**}, to: shop}
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_endpoint_of_four_killed_then_failing_then_slow_costs_no_more_than_its_detection() {
    let mut apps = Vec::new();
    for n in 0..4 {
        apps.push(App::start(&format!("a{n}")).await);
    }
    let mut gateway =
        Gateway::start(CONFIG, &[("a0", &apps[0]), ("a1", &apps[1]), ("a2", &apps[2]), ("a3", &apps[3])]).await;
    let web = gateway.web();
    let make: Make = Arc::new(|_, n| request("GET", &format!("http://x/{n}"), &[], ""));
    let load = Load::start(CONNECTIONS, Duration::from_millis(10), &connect(move || Client::h1(web)), &make);
    let phase = Duration::from_millis(2_500);
    tokio::time::sleep(phase / 2).await;
    let healthy = load.take();

    apps[0].kill();
    tokio::time::sleep(phase).await;
    let killed = load.take();
    apps[0].revive().await;
    let back = until_it_serves(&apps[0]).await;

    load.take();
    apps[1].tell("fail?rate=100").await;
    tokio::time::sleep(phase).await;
    let failing = load.take();
    apps[1].tell("ok").await;
    until_it_serves(&apps[1]).await;

    load.take();
    apps[2].tell("slow?ms=2000").await;
    tokio::time::sleep(phase).await;
    let slow = load.take();
    apps[2].tell("ok").await;
    let recovered = load.stop().await;

    println!(
        "healthy: {}\nkilled:  {}\nfailing: {}\nslow:    {}",
        healthy.line(),
        killed.line(),
        failing.line(),
        slow.line()
    );
    println!(
        "the killed endpoint had traffic again {back:.1?} after it was up; failures of the slow phase: {:?}",
        slow.failures
    );
    let bound = CONSECUTIVE + CONNECTIONS;
    assert_eq!(healthy.failed(), 0, "{:?}", healthy.failures);
    assert_eq!(killed.failed(), 0, "a failed connection is retried elsewhere: {:?}", killed.failures);
    assert!(failing.failed() > 0 && failing.failed() <= bound, "{}", failing.failed());
    assert!(slow.failed() > 0 && slow.failed() <= bound, "{}", slow.failed());
    assert!(recovered.total() < 1_000_000);
    gateway.until_metric("tidegate_ejections_total", &[], 2.0).await;
    gateway.assert_unharmed();
}

/// Waits until an endpoint has had a few more requests, and tells how long that took.
async fn until_it_serves(app: &App) -> Duration {
    let began = Instant::now();
    let before = app.hits().await;
    eventually("the endpoint has traffic again", || async { app.hits().await > before + 5 }).await;
    began.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_comes_back_starts_with_a_small_share() {
    let mut apps = [App::start("a").await, App::start("b").await];
    let config = "
services:
  shop:
    balance: round_robin
    health: {path: /healthz, every: 100ms, timeout: 100ms, up_after: 2, down_after: 2}
    eject: {consecutive_5xx: 5, for: 1s, slow_start: 4s}
    retry: {when: [connect, reset], attempts: 2, budget: 100%}
    endpoints: [\"$a\", \"$b\"]
routes:
  - {name: shop, match: {path: /**}, to: shop}
";
    let gateway = Gateway::start(config, &[("a", &apps[0]), ("b", &apps[1])]).await;
    let web = gateway.web();
    let make: Make = Arc::new(|_, n| request("GET", &format!("http://x/{n}"), &[], ""));
    let load = Load::start(2, Duration::from_millis(5), &connect(move || Client::h1(web)), &make);

    apps[0].kill();
    eventually("the killed endpoint is out", || async {
        gateway.metric("tidegate_endpoint_up", &[&apps[0].to_string()]).await == 0.0
    })
    .await;
    apps[0].revive().await;
    eventually("it is in again", || async {
        gateway.metric("tidegate_endpoint_up", &[&apps[0].to_string()]).await == 1.0
    })
    .await;
    load.take();
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let early = load.take();
    tokio::time::sleep(Duration::from_millis(3_500)).await;
    load.take();
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let late = load.stop().await;

    let share = |versions: &std::collections::BTreeMap<String, u64>| {
        versions.get("a").copied().unwrap_or(0) as f64 * 100.0 / versions.values().sum::<u64>() as f64
    };
    println!(
        "share in the first 1.5 s: {:.0} %; after slow start: {:.0} %",
        share(&early.versions),
        share(&late.versions)
    );
    assert_eq!(late.failed(), 0, "{:?}", late.failures);
    assert!(share(&early.versions) < 40.0);
    assert!((45.0..=55.0).contains(&share(&late.versions)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_all_four_killed_the_answer_is_a_clear_503_and_their_return_is_noticed() {
    let mut apps = Vec::new();
    for n in 0..4 {
        apps.push(App::start(&format!("a{n}")).await);
    }
    let mut gateway =
        Gateway::start(CONFIG, &[("a0", &apps[0]), ("a1", &apps[1]), ("a2", &apps[2]), ("a3", &apps[3])]).await;
    assert_eq!(get(gateway.web(), "/").await.unwrap().status, 200);

    apps.iter_mut().for_each(App::kill);
    let began = Instant::now();
    let first = get(gateway.web(), "/").await.unwrap();
    let took = began.elapsed();
    eventually("the probes have noticed", || async { gateway.metric("tidegate_endpoint_up", &[]).await == 0.0 }).await;
    let later = get(gateway.web(), "/").await.unwrap();
    apps[3].revive().await;
    let back = Instant::now();
    eventually("one endpoint serves again", || async { get(gateway.web(), "/").await.is_ok_and(|a| a.status == 200) })
        .await;

    println!(
        "all killed: {} after {took:.1?}, then {}; back {:.1?} after one was up",
        first.status,
        later.status,
        back.elapsed()
    );
    assert!([502, 503].contains(&first.status), "{}", first.status);
    assert_eq!(later.status, 503);
    assert!(!later.body.is_empty(), "a person can read why");
    gateway.assert_unharmed();
}
