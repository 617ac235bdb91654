//! A split sends the configured share to each version, and raising a share moves nobody off it.

use std::time::Instant;

use tokio::task::JoinSet;

use crate::kit::{App, Client, Gateway, full_size, request};

fn config(weights: &str) -> String {
    format!(
        "
services:
  shop: {{versions: {{v1: {{endpoints: [\"$v1\"]}}, v2: {{endpoints: [\"$v2\"]}}}}}}
routes:
  - name: shop
    match: {{path: /**}}
    split: {{stick_by: [\"cookie:uid\"], salt: checkout, weights: {weights}}}
"
    )
}

/// Asks once for each of `people`, and tells who was sent to v2.
async fn who_sees_v2(gateway: &Gateway, people: usize) -> Vec<bool> {
    const CONNECTIONS: usize = 8;

    let mut tasks = JoinSet::new();
    let web = gateway.web();
    for number in 0..CONNECTIONS {
        tasks.spawn(async move {
            let mut client = Client::h1(web).await.unwrap();
            let mut seen = Vec::new();
            for person in (number..people).step_by(CONNECTIONS) {
                let cookie = format!("theme=dark; uid=person-{person}");
                let answer = client.send(request("GET", "http://x/", &[("cookie", &cookie)], "")).await.unwrap();
                assert_eq!(answer.status, 200);
                seen.push((person, answer.header("x-version") == "v2"));
            }
            seen
        });
    }
    let mut all = vec![false; people];
    for (person, v2) in tasks.join_all().await.into_iter().flatten() {
        all[person] = v2;
    }
    all
}

fn share(people: &[bool]) -> f64 {
    people.iter().filter(|v2| **v2).count() as f64 * 100.0 / people.len() as f64
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_split_of_95_to_5_is_met_and_raising_it_to_20_moves_nobody_off_v2() {
    let (v1, v2) = (App::start("v1").await, App::start("v2").await);
    let variables: [(&str, &dyn ToString); 2] = [("v1", &v1), ("v2", &v2)];
    let mut gateway = Gateway::start(&config("{shop/v1: 95, shop/v2: 5}"), &variables).await;
    let people = if full_size() { 100_000 } else { 20_000 };

    let began = Instant::now();
    let before = who_sees_v2(&gateway, people).await;
    let took = began.elapsed();
    gateway.reload(&config("{shop/v1: 80, shop/v2: 20}")).await;
    let after = who_sees_v2(&gateway, people).await;

    let moved_off = before.iter().zip(&after).filter(|(before, after)| **before && !**after).count();
    println!(
        "split 95/5 over {people} people: v2 {:.2} %; 80/20: v2 {:.2} %; moved off v2: {moved_off}; \
         {:.0} requests per second",
        share(&before),
        share(&after),
        people as f64 / took.as_secs_f64()
    );
    // Three standard deviations of a fair draw of 20,000 are 0.46 and 0.85 points.
    let tolerance = if full_size() { 0.5 } else { 0.9 };
    assert!((share(&before) - 5.0).abs() <= 0.5);
    assert!((share(&after) - 20.0).abs() <= tolerance);
    assert_eq!(moved_off, 0);
    gateway.assert_unharmed();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drained_version_keeps_the_people_it_has_and_an_off_one_nobody() {
    let (v1, v2) = (App::start("v1").await, App::start("v2").await);
    let variables: [(&str, &dyn ToString); 2] = [("v1", &v1), ("v2", &v2)];
    let config = |weights: &str| {
        format!(
            "
services:
  shop: {{versions: {{v1: {{endpoints: [\"$v1\"]}}, v2: {{endpoints: [\"$v2\"]}}}}}}
routes:
  - name: shop
    match: {{path: /**}}
    split: {{salt: a, issue: {{cookie: tg, max_age: 1h}}, weights: {weights}}}
"
        )
    };
    let mut gateway = Gateway::start(&config("{shop/v1: 50, shop/v2: 50}"), &variables).await;
    let mut client = Client::h1(gateway.web()).await.unwrap();

    let cookie = loop {
        let answer = client.get("http://x/").await.unwrap();
        let cookie = answer.header("set-cookie").split(';').next().unwrap().to_owned();
        assert!(cookie.starts_with("tg="), "{:?}", answer.headers);
        if answer.header("x-version") == "v2" {
            break cookie;
        }
    };
    gateway.reload(&config("{shop/v1: 100, shop/v2: drain}")).await;
    let mut holder = Vec::new();
    let mut strangers = Vec::new();
    for _ in 0..50 {
        let held = client.send(request("GET", "http://x/", &[("cookie", &cookie)], "")).await.unwrap();
        holder.push(held.header("x-version").to_owned());
        strangers.push(client.get("http://x/").await.unwrap().header("x-version").to_owned());
    }
    gateway.reload(&config("{shop/v1: 100, shop/v2: off}")).await;
    let off = client.send(request("GET", "http://x/", &[("cookie", &cookie)], "")).await.unwrap();

    assert!(holder.iter().all(|version| version == "v2"), "{holder:?}");
    assert!(strangers.iter().all(|version| version == "v1"), "{strangers:?}");
    assert_eq!(off.header("x-version"), "v1");
    gateway.assert_unharmed();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_any_key_the_shares_are_met_after_a_few_hundred_requests() {
    let (v1, v2) = (App::start("v1").await, App::start("v2").await);
    let config = "
services:
  shop: {versions: {v1: {endpoints: [\"$v1\"]}, v2: {endpoints: [\"$v2\"]}}}
routes:
  - {name: shop, match: {path: /**}, split: {weights: {shop/v1: 95, shop/v2: 5}}}
";
    let gateway = Gateway::start(config, &[("v1", &v1), ("v2", &v2)]).await;
    let mut client = Client::h1(gateway.web()).await.unwrap();

    for _ in 0..400 {
        client.get("http://x/").await.unwrap();
    }

    let v2 = v2.hits().await;
    println!("split 95/5 without a key: {v2} of 400 requests on v2");
    assert!((18..=22).contains(&v2), "dice would be within this range every third time: {v2}");
}
