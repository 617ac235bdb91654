//! Limits that two gateways share through a Redis, which may go away.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;

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

    /// Lets it hang: it takes connections and bytes, and says nothing more. Or, with CONT, lets it go on.
    fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([format!("-{name}"), self.child.id().to_string()]).status();
        assert!(sent.unwrap().success());
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

/// Requests without a pause, each with a key of its own, until told to stop.
struct Load {
    stop: watch::Sender<bool>,
    clients: Vec<JoinHandle<Vec<(Instant, Duration)>>>,
}

impl Load {
    async fn start(gateways: &[Gateway]) -> Self {
        let (stop, stopped) = watch::channel(false);
        let mut clients = Vec::new();
        for gateway in gateways {
            let (mut client, stopped) = (Client::h1(gateway.web()).await.unwrap(), stopped.clone());
            clients.push(tokio::spawn(async move {
                let mut times = Vec::new();
                while !*stopped.borrow() {
                    let began = Instant::now();
                    assert_eq!(ask(&mut client, &format!("load-{}", times.len())).await, 200);
                    times.push((began, began.elapsed()));
                }
                times
            }));
        }
        Self { stop, clients }
    }

    /// When each request began, and how long it took.
    async fn stop(self) -> Vec<(Instant, Duration)> {
        self.stop.send_replace(true);
        let mut times = Vec::new();
        for client in self.clients {
            times.extend(client.await.unwrap());
        }
        times
    }
}

async fn until_noticed(gateways: &[Gateway]) {
    for gateway in gateways {
        eventually("the loss is noticed", || async { gateway.metric("tidegate_quota_redis_up", &[]).await == 0.0 })
            .await;
    }
}

#[tokio::test]
async fn no_request_waits_for_a_redis_that_hangs() {
    let redis = Redis::start();
    let gateways = two(&redis).await;
    let exchanges = ["result=\"ok\""];
    let load = Load::start(&gateways).await;
    let told = gateways[0].metric("tidegate_quota_exchanges_total", &exchanges).await;
    gateways[0].until_metric("tidegate_quota_exchanges_total", &exchanges, told + 20.0).await;

    let hung_at = Instant::now();
    redis.signal("STOP");
    until_noticed(&gateways).await;
    let noticed_at = Instant::now();
    redis.signal("CONT");
    for gateway in &gateways {
        gateway.until_metric("tidegate_quota_redis_up", &[], 1.0).await;
    }
    let times = load.stop().await;

    let slowest = |times: &mut dyn Iterator<Item = &(Instant, Duration)>| times.map(|(_, took)| *took).max().unwrap();
    let quiet = slowest(&mut times.iter().filter(|(began, took)| *began + *took < hung_at));
    let during: Vec<_> = times.iter().filter(|(began, _)| (hung_at..noticed_at).contains(began)).copied().collect();
    let (hung, away) = (noticed_at - hung_at, slowest(&mut during.iter()));
    println!("redis hung for {hung:?}: {} requests, slowest {away:?}, quiet {quiet:?}", during.len());
    // Who waits for Redis waits for nearly as long as it takes to give it up.
    assert!(away < (hung / 2).max(3 * quiet), "slowest {away:?} of {hung:?}, quiet {quiet:?}");
    for gateway in &gateways {
        assert_eq!(gateway.log().matches("redis is gone").count(), 1, "said once");
    }
}

#[tokio::test]
async fn without_redis_each_gateway_gives_out_the_quota_once_and_it_is_common_again_afterwards() {
    let mut redis = Redis::start();
    let gateways = two(&redis).await;
    let [one, other] = &gateways;
    let load = Load::start(&gateways).await;

    redis.kill();
    until_noticed(&gateways).await;
    let alone = [passes(one, "k", BURST + 20).await, passes(other, "k", BURST + 20).await];
    redis.restart();
    for gateway in &gateways {
        gateway.until_metric("tidegate_quota_redis_up", &[], 1.0).await;
    }
    told(one).await;
    told(other).await;
    let afterwards = passes(one, "k", 10).await + passes(other, "k", 10).await;
    let asked = load.stop().await.len();

    println!("alone each gave out {alone:?} of {BURST}, beside {asked} requests");
    assert_eq!(alone, [BURST, BURST], "the whole quota each, so twice the quota together, and not more");
    assert_eq!(afterwards, 0, "what was given out meanwhile is told");
    for gateway in &gateways {
        assert_eq!(gateway.log().matches("redis is gone").count(), 1, "said once");
    }
}
