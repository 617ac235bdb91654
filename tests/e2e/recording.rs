//! `tidegate record`: what went through the gateway is in the file, secrets aren't, and visitors notice nothing.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use tidegate_loadgen::import::{self, Choice, replay};
use tidegate_loadgen::outcome::Outcome;
use tidegate_loadgen::{Start, run};
use tidegate_model::scenario::plan::{Client as Carriage, Mark, Origin as Target, Protocol};
use tidegate_model::scenario::recording::{End, Line, REDACTED, Request, read_line};

use crate::kit::{Client, Gateway, Origin, eventually, request};

const CONFIG: &str = "
recording: {redact: [x-customer]}
services: {app: {endpoints: [\"$app\"]}}
routes:
  - {name: shop, match: {path: /shop/**}, to: app}
  - {name: rest, to: app}
";

/// Runs `tidegate record` against `gateway`, and `meanwhile` once it records; what the command did.
async fn record(gateway: &Gateway, file: &Path, arguments: &[&str], meanwhile: impl AsyncFnOnce()) -> Output {
    let child = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(["record", "--admin", &gateway.admin().to_string(), "--out"])
        .arg(file)
        .args(arguments)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let began = file.to_owned();
    eventually("the recording has begun", || async {
        gateway.metric("tidegate_recordings", &[]).await >= 1.0 || done(&began)
    })
    .await;
    meanwhile().await;
    tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap()
}

fn done(file: &Path) -> bool {
    std::fs::read_to_string(file).is_ok_and(|text| text.contains("\"end\":true"))
}

fn read(file: &Path) -> (Vec<Request>, End) {
    let text = std::fs::read_to_string(file).unwrap();
    let mut requests = Vec::new();
    let mut end = None;
    for line in text.lines() {
        match read_line(line).unwrap() {
            Line::Head(head) => assert_eq!(requests.len(), 0, "{head:?} comes first"),
            Line::Request(request) => requests.push(*request),
            Line::End(last) => end = Some(last),
        }
    }
    requests.sort_by_key(|request| request.at_us);
    (requests, end.expect("a recording that ended says so"))
}

#[tokio::test]
async fn what_was_sent_is_in_the_file_and_secrets_are_not() {
    for carrier in ["express", "pingora"] {
        let app = Origin::start("app").await;
        let mut gateway = Gateway::prepare(CONFIG, &[("app", &app)]);
        gateway.environment.push(("TIDEGATE_CARRIER".into(), carrier.into()));
        gateway.spawn();
        gateway.until_ready().await;
        let file = gateway.dir().join("shop.jsonl");
        let secrets =
            [("authorization", "Bearer s3cret"), ("cookie", "uid=s3cret"), ("x-customer", "s3cret"), ("x-a", "1")];
        let form = [("content-type", "application/x-www-form-urlencoded"), ("x-a", "1")];

        let output = record(&gateway, &file, &["--route", "shop", "--for", "3s", "--body-max", "1KiB"], async || {
            let mut h1 = Client::h1(gateway.web()).await.unwrap();
            let mut h2 = Client::h2c(gateway.web()).await.unwrap();
            for client in [&mut h1, &mut h2] {
                let url = "http://shop.example.com/shop/item?id=7&token=s3cret";
                client.send(request("GET", url, &secrets, "")).await.unwrap();
                let body = "item=7&password=s3cret";
                client.send(request("POST", "http://shop.example.com/shop/cart", &form, body)).await.unwrap();
                client.send(request("PUT", "http://shop.example.com/shop/big", &[], vec![b'x'; 50_000])).await.unwrap();
                client.send(request("GET", "http://shop.example.com/elsewhere", &[], "")).await.unwrap();
            }
        })
        .await;

        let told = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success() && told.contains("6 requests in") && told.contains("0 lost"),
            "{carrier}: {told}"
        );
        assert!(!std::fs::read_to_string(&file).unwrap().contains("s3cret"), "{carrier}");
        let (requests, end) = read(&file);
        assert_eq!((end.requests, end.lost), (6, 0), "{carrier}");
        for three in requests.chunks(3) {
            let [get, post, put] = three else { panic!("{carrier}: {three:?}") };
            let field =
                |name: &str| get.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
            assert_eq!(
                (get.method.as_str(), get.target.as_str()),
                ("GET", "/shop/item?id=7&token=REDACTED"),
                "{carrier}"
            );
            assert_eq!(get.origin, "http://shop.example.com", "{carrier}");
            assert_eq!(
                [field("authorization"), field("cookie"), field("x-customer")],
                [Some(REDACTED); 3],
                "{carrier}"
            );
            assert_eq!((field("x-a"), field("host"), get.status), (Some("1"), None, 200), "{carrier}");
            assert_eq!(post.body.as_deref(), Some("item=7&password=REDACTED"), "{carrier}");
            assert_eq!((put.method.as_str(), put.cut, put.body.as_deref()), ("PUT", 50_000, None), "{carrier}");
        }
        let bodies: Vec<_> = app.seen().iter().map(|seen| seen.body.len()).filter(|length| *length > 0).collect();
        assert_eq!(bodies, [22, 50_000, 22, 50_000], "{carrier}: endpoints get what was sent");
    }
}

#[tokio::test]
async fn a_recording_ends_with_whoever_asked_for_it_and_web_pages_may_not_ask() {
    let app = Origin::start("app").await;
    let gateway = Gateway::start(CONFIG, &[("app", &app)]).await;
    let mut child = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(["record", "--admin", &gateway.admin().to_string(), "--for", "1h"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    gateway.until_metric("tidegate_recordings", &[], 1.0).await;

    child.kill().unwrap();
    child.wait().unwrap();

    eventually("nobody records", || async { gateway.metric("tidegate_recordings", &[]).await == 0.0 }).await;
    let origin = [("origin", "http://evil.example.com")];
    let answer = crate::kit::client::send(gateway.admin(), "POST", "/record?for_ms=1000", &origin, "").await.unwrap();
    assert_eq!(answer.status, 403);
}

/// Sends the recording in `file` to `to` again, five times as fast, and dyed.
async fn send_again(file: &Path, to: SocketAddr, mark: Mark) -> Outcome {
    let traffic = import::read(file, Choice { unsafe_methods: true, ..Choice::default() }).unwrap();
    let client = Carriage {
        protocol: Protocol::Http1,
        keep_alive: true,
        connections: 10,
        streams: 1,
        threads: 1,
        sources: Vec::new(),
        resolve: Default::default(),
        connect_timeout: Duration::from_secs(10),
        ca: None,
        insecure: false,
    };
    let target = Target { tls: false, host: to.ip().to_string(), port: to.port() };
    let options = replay::Options { target, speed: 500.0, volume: 100.0, keep_host: true, client, most_in_flight: 100 };
    let mut plan = replay::plan(file, &traffic, &options).unwrap();
    plan.mark = Some(mark);
    tokio::task::spawn_blocking(move || run(&plan, &Start::default(), &mut |_| {}).unwrap()).await.unwrap()
}

#[tokio::test]
async fn a_recording_is_sent_again_as_a_dyed_load_test() {
    let (app, drill) = (Origin::start("app").await, Origin::start("drill").await);
    let config = "
dyed: {keys: [{file: $dir/pt.key}]}
services: {app: {endpoints: [\"$app\"]}, drill: {endpoints: [\"$drill\"]}}
routes: [{name: shop, to: app}, {name: drill, match: {host: shop.example.com, dyed: again}, to: drill}]
";
    let mut gateway = Gateway::prepare(config, &[("app", &app), ("drill", &drill)]);
    let key = gateway.dir().join("pt.key");
    std::fs::write(&key, "a key of some length\n").unwrap();
    gateway.spawn();
    gateway.until_ready().await;
    let file = gateway.dir().join("shop.jsonl");
    let output = record(&gateway, &file, &["--for", "2s"], async || {
        let mut client = Client::h1(gateway.web()).await.unwrap();
        for n in 0..20 {
            let kind = [("content-type", "application/json"), ("authorization", "Bearer s3cret")];
            let url = format!("http://shop.example.com/cart/{n}");
            client.send(request("POST", &url, &kind, format!("{{\"item\":{n}}}"))).await.unwrap();
            client.get(&format!("http://shop.example.com/item/{n}?size=m")).await.unwrap();
        }
    })
    .await;
    assert!(output.status.success());

    let outcome = send_again(&file, gateway.web(), Mark { run: "again".into(), key }).await;

    let asked = |origin: &Origin| {
        let line = |seen: &crate::kit::origin::Seen| {
            (seen.method.clone(), seen.path.clone(), seen.host.clone(), seen.body.clone())
        };
        let mut lines: Vec<_> = origin.seen().iter().map(line).collect();
        lines.sort();
        lines
    };
    assert_eq!((outcome.all.sent, outcome.all.good), (40, 40));
    assert_eq!(app.hits(), 40, "the live service saw the visitors only");
    assert_eq!(asked(&drill), asked(&app));
    assert!(
        drill.seen().iter().all(|seen| seen.header("baggage") == "pt=again" && seen.header("authorization").is_empty())
    );
}
