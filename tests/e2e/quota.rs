//! Limits that two gateways share through a Redis, which may go away.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::kit::ports::{self, Port};
use crate::kit::{Client, Gateway, client, eventually};

/// A bucket of 60 tokens, one more each minute: nothing comes back while a test runs.
const BURST: usize = 60;

const CONFIG: &str = "
redis: {url: \"redis://$redis\", every: 50ms}
limits: {api: {key: \"header:x-api-key\", rate: 60/h, burst: 60, shared: true}}
routes: [{name: all, limits: api, answer: {status: 200, body: hi}}]
";

struct Redis {
    child: Child,
    port: Port,
    folder: TempDir,
}

impl Redis {
    fn start() -> Self {
        let (port, folder) = (ports::reserve(), TempDir::new().unwrap());
        let child = Self::spawn(port.address, &folder);
        Self { child, port, folder }
    }

    fn spawn(address: SocketAddr, folder: &TempDir) -> Child {
        Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--port"])
            .arg(address.port().to_string())
            .arg("--dir")
            .arg(folder.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed (Debian: redis-server)")
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn restart(&mut self) {
        self.child = Self::spawn(self.port.address, &self.folder);
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn two(redis: &Redis) -> [Gateway; 2] {
    let variables: [(&str, &dyn ToString); 1] = [("redis", &redis.port.address)];
    let gateways = [Gateway::start(CONFIG, &variables).await, Gateway::start(CONFIG, &variables).await];
    for gateway in &gateways {
        gateway.until_metric("tidegate_quota_redis_up", &[], 1.0).await;
    }
    gateways
}

async fn ask(client: &mut Client, key: &str) -> u16 {
    let request = client::request("GET", "http://a/", &[("x-api-key", key)], "");
    client.send(request).await.expect("an answer").status
}

/// Asks `times` times, and counts who passes.
async fn passes(gateway: &Gateway, key: &str, times: usize) -> usize {
    let mut client = Client::h1(gateway.web()).await.unwrap();
    let mut passed = 0;
    for _ in 0..times {
        passed += usize::from(ask(&mut client, key).await == 200);
    }
    passed
}

/// Waits until the gateway has told Redis everything.
async fn told(gateway: &Gateway) {
    let before = gateway.metric("tidegate_quota_exchanges_total", &["result=\"ok\""]).await;
    // One more token of a key of its own, so that there is something to tell.
    passes(gateway, "other", 1).await;
    gateway.until_metric("tidegate_quota_exchanges_total", &["result=\"ok\""], before + 1.0).await;
}

#[tokio::test]
async fn two_gateways_give_out_one_quota_together() {
    let redis = Redis::start();
    let [one, other] = two(&redis).await;

    let first = passes(&one, "k", BURST / 2).await;
    told(&one).await;
    told(&other).await;
    let mut second = 0;
    // Whatever it gives out before it hears of the first is owed; then there is nothing left.
    for _ in 0..4 {
        second += passes(&other, "k", BURST / 3).await;
        told(&other).await;
    }
    told(&one).await;
    let third = passes(&one, "k", 5).await;

    println!("quota {BURST}: given out {first} + {second} + {third}");
    assert_eq!(first, BURST / 2);
    assert!(first + second + third >= BURST, "the quota itself is given out");
    assert!(first + second + third <= BURST + BURST / 2, "beyond it at most what one gave out unheard");
}

#[tokio::test]
async fn no_request_waits_for_a_redis_that_dies_and_the_quota_is_common_again_when_it_is_back() {
    let mut redis = Redis::start();
    let [one, other] = two(&redis).await;
    let clients = [Client::h1(one.web()).await.unwrap(), Client::h1(other.web()).await.unwrap()];
    let stop = tokio::sync::watch::channel(false);
    let load: Vec<_> = clients
        .into_iter()
        .map(|mut client| {
            let stop = stop.1.clone();
            tokio::spawn(async move {
                let (mut times, mut n) = (Vec::new(), 0_u64);
                while !*stop.borrow() {
                    n += 1;
                    let began = Instant::now();
                    assert_eq!(ask(&mut client, &format!("load-{n}")).await, 200);
                    times.push(began.elapsed());
                }
                times
            })
        })
        .collect();

    redis.kill();
    for gateway in [&one, &other] {
        eventually("the loss is noticed", || async { gateway.metric("tidegate_quota_redis_up", &[]).await == 0.0 })
            .await;
    }
    let alone = [passes(&one, "k", BURST + 20).await, passes(&other, "k", BURST + 20).await];
    redis.restart();
    for gateway in [&one, &other] {
        gateway.until_metric("tidegate_quota_redis_up", &[], 1.0).await;
    }
    told(&one).await;
    told(&other).await;
    let afterwards = passes(&one, "k", 10).await + passes(&other, "k", 10).await;
    stop.0.send_replace(true);
    let mut times: Vec<Duration> = Vec::new();
    for load in load {
        times.extend(load.await.unwrap());
    }

    times.sort_unstable();
    let (middle, slowest) = (times[times.len() / 2], times[times.len() - 1]);
    println!(
        "alone each gave out {alone:?} of {BURST}; {} requests, median {middle:?}, slowest {slowest:?}",
        times.len()
    );
    assert_eq!(alone, [BURST, BURST], "the whole quota each, and not more");
    assert_eq!(afterwards, 0, "what was given out meanwhile is told");
    for gateway in [&one, &other] {
        assert_eq!(gateway.log().matches("redis is gone").count(), 1, "said once");
    }
}
