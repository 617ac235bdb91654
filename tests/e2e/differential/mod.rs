//! The same bytes to this gateway, nginx, HAProxy and Envoy, and what an endpoint behind each of them saw.
//!
//! `cases/*.txt` hold the bytes, what this gateway does with them, and why. What the others do is in
//! `docs/strictness.md`, which is made from a run (`TIDEGATE_WRITE_DOCS=1`) and compared with each further one.
//!
//! nginx and HAProxy must be installed. Envoy is asked where `TIDEGATE_ENVOY` or `target/.tools/envoy` names it
//! (`make differential` fetches it); elsewhere its column is taken from the file as it is.

mod corpus;
mod origin;
mod pipelines;
mod proxies;
mod table;
mod wire;

use std::collections::BTreeMap;
use std::sync::Arc;

use corpus::Case;
use proxies::Lane;
use tokio::sync::Mutex;

use crate::kit::{Gateway, PATIENCE};
use origin::Recorder;

/// Cases of one proxy that run beside each other, each with an endpoint of its own.
const LANES: usize = 8;

/// The corpus holds at least this many cases.
const CASES: usize = 150;

/// Deadlines are short, so that a case ends when the proxy has given up on it.
const GATEWAY: &str = "
listeners:
  web: {bind: \"$web\", timeouts: {header: 1s, handshake: 1s, body: 1s, idle: 400ms}}
services: {app: {endpoints: [\"$app\"], eject: off, retry: {attempts: 0}, timeouts: {first_byte: 5s}}}
routes: [{name: all, match: {path: /**}, to: app}]
";

/// What each case led to, by proxy.
type Outcomes = BTreeMap<&'static str, Vec<String>>;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_case_ends_as_the_corpus_says_and_the_table_of_disagreements_is_fresh() {
    let cases = Arc::new(corpus::load());
    assert!(cases.len() >= CASES, "only {} cases", cases.len());
    let mut outcomes = Outcomes::new();

    let mut gateways = Vec::new();
    let mut lanes = Vec::new();
    for _ in 0..LANES {
        let origin = Recorder::start().await;
        let gateway = Gateway::start(GATEWAY, &[("app", &origin.address)]).await;
        lanes.push(Lane { http1: gateway.web(), http2: gateway.web(), origin, patience: PATIENCE });
        gateways.push(gateway);
    }
    let mut running = Vec::new();
    let mut runs = vec![("tidegate", lanes)];
    for proxy in proxies::available() {
        let (started, lanes) = proxy.start(LANES).await;
        running.push(started);
        runs.push((proxy.name(), lanes));
    }
    let played = runs.into_iter().map(|(name, lanes)| {
        let cases = Arc::clone(&cases);
        tokio::spawn(async move { (name, run(&cases, lanes).await) })
    });
    for played in played.collect::<Vec<_>>() {
        let (name, results) = played.await.unwrap();
        outcomes.insert(name, results);
    }
    gateways.iter_mut().for_each(Gateway::assert_unharmed);
    // Another proxy may have been late on a busy machine: what isn't as it is written is played once more, alone.
    for proxy in proxies::available() {
        let stale = table::stale(proxy.name(), &cases, &outcomes);
        if stale.is_empty() || table::is_written() {
            continue;
        }
        let (_running, lanes) = proxy.start(1).await;
        for index in stale {
            let outcome = lanes[0].play(&cases[index]).await;
            outcomes.get_mut(proxy.name()).expect("it was played before")[index] = outcome;
        }
    }

    let mut wrong = Vec::new();
    for (case, outcome) in cases.iter().zip(&outcomes["tidegate"]) {
        if *outcome != case.expected {
            wrong.push(format!("{} / {}: {outcome}, wanted {}", case.family, case.name, case.expected));
        }
        let differ = outcomes.values().any(|all| all[case.index] != *outcome);
        if differ && case.why.is_empty() && case.shared.is_empty() {
            wrong.push(format!("{} / {}: others do otherwise, and nobody says why", case.family, case.name));
        }
    }
    println!("{} cases, {} proxies", cases.len(), outcomes.len());
    assert!(wrong.is_empty(), "{} cases:\n{}", wrong.len(), wrong.join("\n"));
    table::compare_or_write(&cases, &outcomes);
}

/// Runs all cases over `lanes`.
async fn run(cases: &Arc<Vec<Case>>, lanes: Vec<Lane>) -> Vec<String> {
    let results = Arc::new(Mutex::new(vec![String::new(); cases.len()]));
    let mut tasks = tokio::task::JoinSet::new();
    let count = lanes.len();
    for (number, lane) in lanes.into_iter().enumerate() {
        let (cases, results) = (Arc::clone(cases), Arc::clone(&results));
        tasks.spawn(async move {
            for case in cases.iter().skip(number).step_by(count) {
                let outcome = lane.play(case).await;
                results.lock().await[case.index] = outcome;
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
    Arc::try_unwrap(results).expect("all lanes have ended").into_inner()
}
