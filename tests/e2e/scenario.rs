//! `tidegate load` with files: scenarios, imports, replays and plans, through the real binary.

use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

use crate::kit::{Mood, Origin};

/// Runs `tidegate load` in `folder`, on a thread of its own: origins live on this one's runtime.
async fn load(folder: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.arg("load").args(args).current_dir(folder).env("NO_COLOR", "1");
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

/// Whether it ran and passed. On a busy machine the generator may say that it was the bottleneck (4): that is no failure here.
fn ran(output: &Output) -> bool {
    matches!(output.status.code(), Some(0 | 4))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_visitor_pays_with_the_token_that_the_login_gave() {
    let origin = Origin::start("shop").await;
    origin.set(Mood::Reply(vec![("set-cookie", "sid=s-1; Path=/")], r#"{"token":"t/1"}"#));
    let scenario = format!(
        "version: 1
target: http://{}
load: {{rate: 20/s, for: 1s}}
feeders: {{users: {{file: users.csv, order: unique}}}}
flows:
  - name: buy
    steps:
      - name: login
        post: /login
        body: '{{\"user\": \"{{{{ users.name }}}}\"}}'
        check: {{status: 200, json: {{$.token: t/1}}}}
        take: {{token: json $.token, sid: cookie sid}}
      - name: pay
        get: /pay/{{{{ token }}}}
        headers: {{authorization: \"Bearer {{{{ token }}}}\", cookie: \"sid={{{{ sid }}}}\"}}
thresholds: [errors <= 0%]
",
        origin.address()
    );
    let names: String = (0..20).map(|number| format!("\"user \"\"{number}\"\"\"\n")).collect();
    let folder = folder(&[("buy.yaml", &scenario), ("users.csv", &format!("name\n{names}"))]);

    let output = load(folder.path(), &["buy.yaml"]).await;

    assert!(ran(&output), "{}\n{}", text(&output.stdout), text(&output.stderr));
    let seen = origin.seen();
    let mut users: Vec<String> = seen
        .iter()
        .filter(|request| request.path == "/login")
        .map(|request| {
            let body: serde_json::Value = serde_json::from_slice(&request.body).unwrap();
            body["user"].as_str().unwrap().to_owned()
        })
        .collect();
    users.sort();
    let mut wanted: Vec<String> = (0..20).map(|number| format!("user \"{number}\"")).collect();
    wanted.sort();
    assert_eq!(users, wanted, "each row is taken once");
    let paid: Vec<_> = seen.iter().filter(|request| request.path == "/pay/t/1").collect();
    assert_eq!(paid.len(), 20);
    assert!(paid.iter().all(|request| request.header("authorization") == "Bearer t/1"));
    assert!(paid.iter().all(|request| request.header("cookie") == "sid=s-1"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_scenario_sends_nothing_and_says_where() {
    let origin = Origin::start("shop").await;
    let scenario = format!(
        "version: 1\ntarget: http://{}\nload: {{rate: 20/s, for: 1s}}\nflows:\n  - {{name: item, get: \"/{{{{ itm }}}}\"}}\n",
        origin.address()
    );
    let folder = folder(&[("bad.yaml", &scenario)]);

    let run = load(folder.path(), &["bad.yaml"]).await;
    let check = load(folder.path(), &["check", "bad.yaml"]).await;

    assert_eq!((run.status.code(), check.status.code()), (Some(2), Some(2)));
    assert!(text(&run.stderr).contains("--> bad.yaml:5:28"), "{}", text(&run.stderr));
    assert_eq!(text(&run.stderr), text(&check.stderr));
    assert_eq!(origin.hits(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_shows_what_would_be_sent_and_sends_nothing() {
    let origin = Origin::start("shop").await;
    let scenario = format!(
        "version: 1\ntarget: http://{}\nload: {{rate: 20/s, for: 90s}}\nflows:\n  - {{name: item, get: \"/item/7\"}}\n",
        origin.address()
    );
    let folder = folder(&[("item.yaml", &scenario)]);

    let output = load(folder.path(), &["check", "item.yaml"]).await;

    assert!(output.status.success(), "{}", text(&output.stderr));
    let shown = text(&output.stdout).replace(&origin.address(), "SHOP");
    assert!(shown.contains("requests   1,800, 20/s at the peak"), "{shown}");
    assert!(shown.contains("GET http://SHOP/item/7"), "{shown}");
    assert_eq!(origin.hits(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_sends_what_was_recorded_in_its_order_and_only_safe_methods() {
    let origin = Origin::start("shop").await;
    let mut recording = String::from("{\"recording\":1,\"began\":1795400000000}\n");
    for at in 0..20 {
        let at_us = at * 100_000;
        recording.push_str(&format!(
            "{{\"at_us\":{at_us},\"method\":\"GET\",\"origin\":\"https://shop.example.com\",\"target\":\"/item/{at}?x=%20\",\
             \"headers\":[[\"x-number\",\"{at}\"],[\"authorization\",\"REDACTED\"]]}}\n"
        ));
        recording
            .push_str(&format!("{{\"at_us\":{at_us},\"method\":\"POST\",\"target\":\"/order\",\"body\":\"{{}}\"}}\n"));
    }
    let folder = folder(&[("shop.jsonl", &recording)]);
    let target = format!("http://{}", origin.address());

    let output =
        load(folder.path(), &["replay", "shop.jsonl", "--target", &target, "--speed", "500%", "--threads", "1"]).await;

    assert!(ran(&output), "{}\n{}", text(&output.stdout), text(&output.stderr));
    assert!(text(&output.stderr).contains("20 requests left out whose methods may change something"));
    let mut seen: Vec<(String, String)> =
        origin.seen().iter().map(|request| (request.path.clone(), request.header("x-number"))).collect();
    seen.sort();
    let mut wanted: Vec<(String, String)> = (0..20).map(|at| (format!("/item/{at}?x=%20"), at.to_string())).collect();
    wanted.sort();
    assert_eq!(seen, wanted);
    assert!(origin.seen().iter().all(|request| request.header("authorization").is_empty()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_access_log_becomes_a_scenario_that_runs() {
    let origin = Origin::start("shop").await;
    let log: String = (0..30)
        .map(|at| {
            format!(
                "::1 - - [10/Oct/2026:13:55:{:02} +0000] \"GET /item/{} HTTP/1.1\" 200 5 \"-\" \"x\"\n",
                30 + at / 10,
                at % 3
            )
        })
        .collect();
    let folder = folder(&[("access.log", &log)]);
    let target = format!("http://{}", origin.address());

    let import = load(folder.path(), &["import", "access.log", "--target", &target, "-o", "shop.yaml"]).await;
    let again = load(folder.path(), &["import", "access.log", "--target", &target, "-o", "shop.yaml"]).await;
    let short = std::fs::read_to_string(folder.path().join("shop.yaml")).unwrap().replace("for: 5m", "for: 1s");
    std::fs::write(folder.path().join("shop.yaml"), short).unwrap();
    let run = load(folder.path(), &["shop.yaml"]).await;

    assert!(import.status.success(), "{}", text(&import.stderr));
    assert!(!again.status.success() && text(&again.stderr).contains("--force"), "{}", text(&again.stderr));
    assert!(ran(&run), "{}\n{}", text(&run.stdout), text(&run.stderr));
    assert!(origin.hits() > 0);
    assert!(origin.seen().iter().all(|request| request.path.starts_with("/item/")));
}

#[tokio::test]
async fn a_plan_shows_its_arithmetic_and_writes_a_scenario_that_is_accepted() {
    let folder = folder(&[]);

    let plan = load(folder.path(), &["plan", "--daily-views", "2_000_000", "--safety", "1.5x"]).await;
    let args = ["plan", "--daily-views", "50k", "--url", "http://127.0.0.1:9/front?x=1", "--write", "peak.yaml"];
    let write = load(folder.path(), &args).await;
    let check = load(folder.path(), &["check", "peak.yaml"]).await;

    let shown = text(&plan.stdout);
    for line in [
        "   2,000,000  page views a day",
        "=      1,667  requests a second at today's peak",
        "×        1.5  safety",
        "=      5,000  requests a second: the rate to test with",
        "next: tidegate load https://YOUR-SITE/ -r 5000 -d 10m",
    ] {
        assert!(shown.lines().any(|shown| shown == line), "{line}\n{shown}");
    }
    assert!(write.status.success(), "{}", text(&write.stderr));
    assert!(check.status.success(), "{}", text(&check.stderr));
    assert!(text(&check.stdout).contains("GET http://127.0.0.1:9/front?x=1"), "{}", text(&check.stdout));
}
