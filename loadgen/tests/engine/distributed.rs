//! A load from several workers is the load that one would send.

use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tidegate_loadgen::distributed::{Key, coordinator, worker};
use tidegate_loadgen::outcome::Verdict;
use tidegate_loadgen::{Beat, Cause, Ender, Outcome};
use tidegate_model::scenario::Plan;
use tidegate_model::scenario::plan::{Order, Piece, Template, Value};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::kit::{OK, adds_up, answering, origin, plan, rate, request, server};

fn key() -> Key {
    Key::new(&[7; 32]).unwrap()
}

/// A worker on a free port, and the task that it is.
async fn start(key: Key) -> (String, JoinHandle<()>) {
    let (tell, told) = oneshot::channel();
    let mut tell = Some(tell);
    let worker = tokio::spawn(async move {
        let listening = worker::listen("127.0.0.1:0".parse().unwrap(), key, |address: SocketAddr| {
            tell.take().unwrap().send(address).unwrap();
        });
        listening.await.unwrap();
    });
    (told.await.unwrap().to_string(), worker)
}

async fn coordinate(plan: &Plan, workers: &[String], ender: &Ender) -> anyhow::Result<Outcome> {
    coordinator::run(plan, workers, &key(), ender, &mut |_| ()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_send_together_what_one_would_and_what_they_find_adds_up() {
    let (address, _) = answering(OK);
    let workers = [start(key()).await.0, start(key()).await.0, start(key()).await.0];

    let outcome = coordinate(&plan(origin(address), rate(300.0, 2.0)), &workers, &Ender::default()).await.unwrap();

    assert_eq!(outcome.generator.lost, [""; 0]);
    adds_up(&outcome);
    assert_eq!((outcome.all.due, outcome.all.good), (600, 600), "{:?}", outcome.all);
    assert_eq!(outcome.all.statuses[&200], 600);
    assert_eq!(outcome.generator.workers, workers);
    assert_eq!(outcome.verdict, Verdict::Passed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_is_used_once_is_used_once_over_all_workers() {
    let seen = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let heard = std::sync::Arc::clone(&seen);
    let (address, _) = server(move |mut stream| {
        use std::io::{Read as _, Write as _};
        let mut buffer = [0; 4096];
        while let Ok(n @ 1..) = stream.read(&mut buffer) {
            let text = String::from_utf8_lossy(&buffer[..n]).into_owned();
            heard.lock().unwrap().push(text.split(' ').nth(1).unwrap().to_owned());
            stream.write_all(OK).unwrap();
        }
    });
    let mut plan = plan(origin(address), rate(100.0, 1.0));
    let mut rows = tidegate_model::scenario::plan::Rows::new(1);
    (0..100).for_each(|n| rows.push([n.to_string()]));
    plan.feeders = vec![tidegate_model::scenario::plan::Feeder {
        name: "ids".into(),
        path: "ids.csv".into(),
        fields: vec!["id".into()],
        rows,
        order: Order::Unique,
    }];
    plan.flows[0].steps[0].target =
        Template { pieces: vec![Piece::Text("/".into()), Piece::Value(Value::Fed { feeder: 0, field: 0 })] };
    let workers = [start(key()).await.0, start(key()).await.0];

    let outcome = coordinate(&plan, &workers, &Ender::default()).await.unwrap();

    let mut seen = seen.lock().unwrap().clone();
    seen.sort();
    seen.dedup();
    assert_eq!((outcome.all.good, seen.len()), (100, 100), "{:?}", outcome.all);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_is_lost_is_named_and_the_others_go_on() {
    let (address, _) = answering(OK);
    let (kept, _) = start(key()).await;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (told, asked) = oneshot::channel();
    runtime.spawn(async move { told.send(start(key()).await.0).unwrap() });
    let lost = asked.await.unwrap();
    let workers = [kept, lost.clone()];
    let mut runtime = Some(runtime);

    let plan = plan(origin(address), rate(100.0, 4.0));
    let mut lose = |_: Beat<'_>| {
        if let Some(runtime) = runtime.take() {
            runtime.shutdown_background(); // Its connections go with it.
        }
    };
    let outcome = coordinator::run(&plan, &workers, &key(), &Ender::default(), &mut lose).await.unwrap();

    assert_eq!(outcome.generator.lost.len(), 1, "{:?}", outcome.generator);
    assert!(outcome.generator.lost[0].starts_with(&lost), "{:?}", outcome.generator.lost);
    assert!(outcome.all.due >= 200, "the other one's part at least: {:?}", outcome.all);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_is_ended_ends_everywhere() {
    let (address, _) = answering(OK);
    let workers = [start(key()).await.0, start(key()).await.0];
    let ender = Ender::default();
    let end = ender.clone();

    let plan = plan(origin(address), rate(100.0, 3_600.0));
    let outcome =
        coordinator::run(&plan, &workers, &key(), &ender, &mut |_| end.end(Cause::Interrupted)).await.unwrap();

    adds_up(&outcome);
    assert!(matches!(outcome.verdict, Verdict::Interrupted { .. }), "{:?}", outcome.verdict);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_another_key_or_comes_while_it_is_busy_starts_nothing() {
    let (address, accepted) = server(|mut stream| while request(&mut stream) {});
    let (stranger, _) = start(Key::new(&[8; 32]).unwrap()).await;
    let plan = plan(origin(address), rate(10.0, 1.0));

    let strange = coordinate(&plan, &[stranger], &Ender::default()).await.unwrap_err();
    let nobody = coordinate(&plan, &["127.0.0.1:1".to_owned()], &Ender::default()).await.unwrap_err();
    let (twice, _) = start(key()).await;
    let busy = coordinate(&plan, &[twice.clone(), twice], &Ender::default()).await.unwrap_err();

    assert!(format!("{strange:#}").contains("another key"), "{strange:#}");
    assert!(format!("{nobody:#}").contains("127.0.0.1:1"), "{nobody:#}");
    assert!(format!("{busy:#}").contains("busy"), "{busy:#}");
    tokio::time::sleep(Duration::from_millis(50)).await; // Nothing is to happen.
    assert_eq!(accepted.load(Relaxed), 0);
}
