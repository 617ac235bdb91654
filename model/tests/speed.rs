//! How long a large configuration takes. The issue asks for less than 200 ms for `check` and
//! compile of 10,000 routes together, in a release build. `check` aims at 120 ms of them; most of
//! its time is spent in the YAML parser.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use tidegate_model::check::{SourceFile, check};

/// The binary's allocator: a tree is thousands of small pieces.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What `check` may take in a release build. Above the aim, since other tests run beside it.
const RELEASE: Duration = Duration::from_millis(300);

/// Debug builds are only held to not being quadratic, on however busy a machine.
const DEBUG: Duration = Duration::from_secs(60);

fn many_routes(count: usize) -> SourceFile {
    let mut text = String::from(
        "version: 1\nlisteners:\n  web: {bind: \"0.0.0.0:8080\"}\nlimits:\n  per_ip: {rate: 50/s}\nservices:\n",
    );
    for at in 0..count / 10 {
        let _ = writeln!(text, "  s{at}:\n    versions:");
        let _ = writeln!(text, "      v1: {{endpoints: [\"10.0.{}.{}:80\"]}}", at / 250, at % 250 + 1);
        let _ = writeln!(text, "      v2: {{endpoints: [\"10.1.{}.{}:80\"]}}", at / 250, at % 250 + 1);
    }
    text.push_str("routes:\n");
    for at in 0..count {
        let service = at / 10;
        let _ = writeln!(text, "  - name: route-{at}");
        let _ = writeln!(text, "    match: {{host: host{}.example.com, path: /api/{at}/**, method: GET}}", at % 100);
        let _ = writeln!(text, "    limits: [per_ip]");
        let _ = writeln!(text, "    split: {{stick_by: client_ip, weights: {{s{service}/v1: 95, s{service}/v2: 5}}}}");
    }
    SourceFile { path: "many.yaml".into(), text }
}

fn fastest(files: &[SourceFile]) -> Duration {
    let runs = if cfg!(debug_assertions) { 1 } else { 10 };
    let once = || {
        let begin = Instant::now();
        let result = check(files);
        let took = begin.elapsed();
        assert!(result.is_ok(), "{:?}", result.err());
        took
    };
    (0..runs).map(|_| once()).min().expect("there is at least one run")
}

#[test]
fn ten_thousand_routes_are_checked_within_their_budget() {
    let budget = if cfg!(debug_assertions) { DEBUG } else { RELEASE };

    for count in [10, 1_000, 10_000] {
        let files = [many_routes(count)];
        let took = fastest(&files);

        println!("check: {count} routes, {} KiB, {took:?}", files[0].text.len() >> 10);
        assert!(took < budget, "{count} routes took {took:?}");
    }
}

#[test]
fn ten_thousand_mistakes_take_no_longer_than_none() {
    let mut file = many_routes(10_000);
    file.text = file.text.replace("/v2: 5", "/v3: 5").replace("[per_ip]", "[per-ip]");

    let begin = Instant::now();
    let problems = check(&[file]).expect_err("every route is wrong");

    println!("check: 20000 mistakes, {:?}", begin.elapsed());
    assert!(problems.len() <= 101, "{} diagnostics", problems.len());
    assert!(begin.elapsed() < DEBUG);
}
