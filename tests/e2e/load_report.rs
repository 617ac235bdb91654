//! What `tidegate load` leaves behind: files, exit codes, comparisons, the target's own metrics.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::kit::{Gateway, Origin, eventually};

/// Runs `tidegate load` on a thread of its own: origins live on this one's runtime.
async fn load(args: &[String]) -> Output {
    let mut command = command(args);
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

fn command(args: &[String]) -> Command {
    let mut command = Command::new(crate::kit::binary());
    command.arg("load").args(args);
    command
}

fn result(folder: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(folder.join("result.json")).unwrap()).unwrap()
}

/// What the exit code must be. A slow machine may make the generator the bottleneck, and that is said.
fn code_of(verdict: &str) -> i32 {
    match verdict {
        "passed" => 0,
        "generator-limited" => 4,
        "interrupted" => 130,
        other => panic!("an unexpected verdict: {other}"),
    }
}

fn arguments(url: &str, folder: &Path, more: &[&str]) -> Vec<String> {
    let out = folder.to_str().unwrap();
    ["-r", "50", "-d", "2s", "--out", out, url].iter().chain(more).map(|it| (*it).to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_file_is_written_and_the_exit_code_is_that_of_the_verdict_in_them() {
    let origin = Origin::start("shop").await;
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (folder.path().join("first"), folder.path().join("second"));
    let url = format!("http://{}/", origin.address());

    let ran = load(&arguments(&url, &first, &[])).await;
    let again = load(&arguments(&url, &second, &["--baseline", first.to_str().unwrap()])).await;

    let found = result(&first);
    assert_eq!(ran.status.code(), Some(code_of(found["verdict"]["is"].as_str().unwrap())), "{ran:?}");
    assert_eq!((&found["all"]["due"], &found["version"]), (&100.into(), &1.into()), "{ran:?}");
    let read = |name: &str| std::fs::read_to_string(first.join(name)).unwrap();
    assert!(read("report.html").contains("Content-Security-Policy"), "the page");
    assert!(read("seconds.csv").lines().count() >= 3, "a row for each second");
    assert!(read("response.hlog").contains("\nTag=response,0.000,"), "{}", read("response.hlog"));
    assert!(read("junit.xml").contains("the generator kept up"), "{}", read("junit.xml"));
    let lines = String::from_utf8(ran.stderr).unwrap();
    assert!(lines.contains("1 s  due ") && !lines.contains('\u{1b}'), "{lines}");
    let said = String::from_utf8(again.stdout).unwrap();
    assert!(said.contains("against the baseline: "), "{said}");
    assert!(std::fs::read_to_string(second.join("report.html")).unwrap().contains("Compared with the baseline"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn interrupt_ends_the_run_early_and_it_still_reports() {
    let origin = Origin::start("shop").await;
    let folder = tempfile::tempdir().unwrap();
    let url = format!("http://{}/", origin.address());
    let mut arguments = arguments(&url, folder.path(), &[]);
    arguments[3] = "10m".to_owned();
    let mut child = command(&arguments).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    eventually("requests arrive", || async { origin.hits() > 0 }).await;

    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    let ended = tokio::task::spawn_blocking(move || child.wait().unwrap()).await.unwrap();

    let found = result(folder.path());
    assert_eq!(ended.code(), Some(code_of(found["verdict"]["is"].as_str().unwrap())), "{found}");
    assert!(found["took"].as_u64().unwrap() < 600_000_000_000, "{found}");
    assert!(folder.path().join("report.html").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn results_that_could_not_be_kept_or_compared_stop_the_run_before_it_starts() {
    let origin = Origin::start("shop").await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "{}").unwrap();
    let url = format!("http://{}/", origin.address());

    let nowhere = load(&arguments(&url, &file.join("below"), &[])).await;
    let baseless = load(&arguments(&url, folder.path(), &["--baseline", file.to_str().unwrap()])).await;
    let blind = load(&arguments(&url, folder.path(), &["--metrics", "http://127.0.0.1:1/metrics"])).await;

    for ran in [nowhere, baseless, blind] {
        assert_eq!(ran.status.code(), Some(1), "{ran:?}");
    }
    assert_eq!(origin.hits(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateways_metrics_are_on_the_runs_time_axis_by_version() {
    let origin = Origin::start("shop").await;
    let gateway = Gateway::start(
        "
services:
  shop: {versions: {v1: {endpoints: [\"$shop\"]}}}
routes:
  - {name: shop, match: {path: /**}, to: shop/v1}
",
        &[("shop", &origin.address())],
    )
    .await;
    let folder = tempfile::tempdir().unwrap();
    let metrics = format!("http://{}/metrics", gateway.admin());

    load(&arguments(&format!("http://{}/", gateway.web()), folder.path(), &["--metrics", &metrics])).await;

    let target = &result(folder.path())["target"];
    let has = |what: &str, of: &str| target.as_array().unwrap().iter().any(|it| it["what"] == what && it["of"] == of);
    assert!(has("requests by version", "shop/v1") && has("p99 by version", "shop/v1"), "{target}");
}
