//! Upgrades disturb nobody, and whatever a new binary does instead of serving changes nothing.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::kit::gateway::HOST;
use crate::kit::load::{Load, Make, connect};
use crate::kit::{App, Client, Gateway, eventually, full_size, get, request};

const CONFIG: &str = "
services:
  shop:
    health: {path: /healthz, every: 1s}
    versions: {v1: {endpoints: [\"$v1\"]}}
routes:
  - {name: which, match: {path: /which}, answer: {status: 200, body: one}}
  - {name: shop, match: {path: /**}, to: shop}
";

/// A new version: the same binary in another place.
fn new_version(dir: &Path, name: &str) -> PathBuf {
    let path = dir.join(name);
    let ours = crate::kit::binary();
    if fs::hard_link(&ours, &path).is_err() {
        fs::copy(ours, &path).unwrap();
    }
    path
}

/// A program that a shell runs.
fn script(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

async fn which(gateway: &Gateway) -> String {
    get(gateway.web(), "/which").await.map_or_else(|err| format!("{err:#}"), |answer| answer.text())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upgrades_under_load_fail_no_request_refuse_no_connection_and_cut_no_websocket() {
    let upgrades = if full_size() { 60 } else { 20 };
    let app = App::start("v1").await;
    let mut gateway = Gateway::prepare(CONFIG, &[("v1", &app)]);
    gateway.arguments = ["--drain", "300", "--workers", "2"].map(Into::into).to_vec();
    gateway.spawn();
    gateway.until_ready().await;
    let versions = ["a", "b"].map(|name| new_version(&gateway.dir(), name));
    let keep: Make = Arc::new(|_, n| request("GET", &format!("https://{HOST}/page/{n}"), &[], ""));
    let once: Make =
        Arc::new(|_, n| request("GET", &format!("https://{HOST}/page/{n}"), &[("connection", "close")], ""));
    let (web, tls) = (gateway.web(), gateway.tls());
    let (trust1, trust2) = (gateway.authority.trust(&["http/1.1"]), gateway.authority.trust(&["h2"]));
    let plain = connect(move || Client::h1(web));
    let secure = connect(move || Client::tls(tls, HOST, Arc::clone(&trust1)));
    let two = connect(move || Client::tls(tls, HOST, Arc::clone(&trust2)));
    let every = Duration::from_millis(10);
    let loads = [
        ("HTTP/1 kept", Load::start(4, every, &plain, &keep)),
        ("HTTP/1 kept, no pause", Load::start(1, Duration::ZERO, &plain, &keep)),
        ("HTTP/1 once each", Load::start(4, every, &plain, &once)),
        ("TLS", Load::start(2, every, &secure, &keep)),
        ("HTTP/2", Load::start(2, every, &two, &keep)),
    ];
    let admin = gateway.admin();
    let ready: Make = Arc::new(move |_, _| request("GET", &format!("http://{admin}/readyz"), &[], ""));
    let readiness = Load::start(1, every, &connect(move || Client::h1(admin)), &ready);
    let stop = Arc::new(AtomicBool::new(false));
    let messages = Arc::new(AtomicU64::new(0));
    let mut sockets = Vec::new();
    for _ in 0..4 {
        let stream = TcpStream::connect(web).await.unwrap();
        let (mut socket, _) = tokio_tungstenite::client_async(format!("ws://{HOST}/ws"), stream).await.unwrap();
        let (stop, messages) = (Arc::clone(&stop), Arc::clone(&messages));
        sockets.push(tokio::spawn(async move {
            while !stop.load(Relaxed) {
                let text = Message::text(messages.fetch_add(1, Relaxed).to_string());
                socket.send(text.clone()).await.expect("the socket stays open");
                assert_eq!(socket.next().await.expect("the socket stays open").unwrap(), text);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }));
    }

    let mut slowest = Duration::ZERO;
    for n in 0..upgrades {
        let began = Instant::now();
        let upgrade = gateway.upgrade(&versions[n % 2], &["--no-wait"]).await;
        slowest = slowest.max(began.elapsed());
        assert_eq!(upgrade.code, Some(0), "upgrade {n}: {upgrade:?}");
        let before: Vec<u64> = loads.iter().map(|(_, load)| load.so_far().total()).collect();
        eventually("traffic of every kind flows on", || async {
            loads.iter().zip(&before).all(|((_, load), before)| load.so_far().total() >= before + 10)
        })
        .await;
        // All but the first gateway, which has the WebSockets, end soon.
        eventually("at most two old gateways drain", || async { gateway.successors().len() <= 3 }).await;
    }
    stop.store(true, Relaxed);
    for socket in sockets {
        socket.await.expect("no WebSocket was disturbed");
    }

    println!("{upgrades} upgrades, slowest {slowest:.1?}, {} WebSocket messages", messages.load(Relaxed));
    for (name, load) in loads.into_iter().chain([("readiness", readiness)]) {
        let report = load.stop().await;
        println!("  {name}: {}", report.line());
        assert_eq!(report.failed(), 0, "{name}: {:?}", report.failures);
        assert!(report.statuses.keys().eq(&[200]) && report.total() > 100, "{name}: {}", report.line());
    }
    assert!(!gateway.log().contains("panicked"), "{}", gateway.log());
}

#[tokio::test]
async fn more_and_fewer_workers_than_before_accept_from_every_socket() {
    let mut gateway = Gateway::prepare(CONFIG, &[("v1", &"127.0.0.1:1")]);
    gateway.arguments = ["--workers", "2"].map(Into::into).to_vec();
    gateway.spawn();
    gateway.until_ready().await;
    let new = new_version(&gateway.dir(), "new");

    for workers in ["4", "1"] {
        let upgrade = gateway.upgrade(&new, &["--", "--workers", workers]).await;
        assert_eq!(upgrade.code, Some(0), "{upgrade:?}");
        let threads = fs::read_dir(format!("/proc/{}/task", upgrade.pid())).unwrap().flatten();
        let doors = threads.filter(|thread| {
            fs::read_to_string(thread.path().join("comm")).is_ok_and(|name| name.starts_with("door-"))
        });

        // The kernel spreads connections over all sockets, so that one which nobody accepts from would show.
        for _ in 0..100 {
            assert_eq!(which(&gateway).await, "one", "{workers} workers");
        }
        assert_eq!(doors.count().to_string(), workers);
    }
}

#[tokio::test]
async fn a_new_binary_that_does_not_serve_changes_nothing_and_is_quoted() {
    let mut gateway = Gateway::start(CONFIG, &[("v1", &"127.0.0.1:1")]).await;
    let dir = gateway.dir();
    fs::write(dir.join("text"), "I am no program").unwrap();
    let broken = [
        (dir.join("missing"), "could not be started", "No such file"),
        (dir.join("text"), "could not be started", "Permission denied"),
        (script(&dir, "crashes", "echo boom >&2; exit 3"), "exit status: 3", "boom"),
        (script(&dir, "killed", "echo last words >&2; kill -9 $$"), "signal: 9", "last words"),
        (script(&dir, "hangs", "echo waiting >&2; exec sleep 600"), "wasn't ready within 500ms", "waiting"),
        (script(&dir, "ignores", "exec tidegate-does-not-exist"), "exit status: 127", "not found"),
        (
            script(&dir, "older", "echo \"error: unexpected argument '--take-over' found\" >&2; exit 2"),
            "exit status: 2",
            "--take-over",
        ),
    ];

    for (binary, why, said) in broken {
        let upgrade = gateway.upgrade(&binary, &["--timeout", "500ms"]).await;

        let complained = &upgrade.complained;
        assert!(upgrade.code.is_some_and(|code| code != 0), "{}: {upgrade:?}", binary.display());
        assert!(complained.contains(why) && complained.contains(said), "{}: {complained}", binary.display());
        assert!(complained.contains("the old gateway serves on"), "{complained}");
        assert_eq!(which(&gateway).await, "one");
        assert_eq!(gateway.successors(), [0; 0]);
    }
    gateway.reload(&CONFIG.replace("body: one", "body: two")).await;
    assert_eq!(which(&gateway).await, "two", "it still follows its configuration");
    gateway.assert_unharmed();
}

#[tokio::test]
async fn a_configuration_that_the_new_one_refuses_leaves_the_old_one_with_its_own() {
    let mut gateway = Gateway::start(CONFIG, &[("v1", &"127.0.0.1:1")]).await;
    gateway.write("routes: [{name: broken, match: {path: /**}, to: nowhere}]\n");

    let upgrade = gateway.upgrade(&new_version(&gateway.dir(), "new"), &[]).await;
    let meanwhile = which(&gateway).await;
    gateway.reload(&CONFIG.replace("body: one", "body: two")).await;

    assert_eq!(upgrade.code, Some(2), "{upgrade:?}");
    assert!(upgrade.complained.contains("refuses the configuration"), "{}", upgrade.complained);
    assert!(upgrade.complained.contains("edge.yaml:"), "{}", upgrade.complained);
    assert_eq!((meanwhile.as_str(), which(&gateway).await.as_str()), ("one", "two"));
    gateway.assert_unharmed();
}

#[tokio::test]
async fn a_second_upgrade_at_once_is_refused_and_a_stop_ends_the_first() {
    let mut gateway = Gateway::start(CONFIG, &[("v1", &"127.0.0.1:1")]).await;
    let hangs = script(&gateway.dir(), "hangs", "exec sleep 600 # --take-over");
    let mut first = gateway.upgrade_command(&hangs, &[]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(first.stdout.take().unwrap()).read_line(&mut line).unwrap();

    let second = gateway.upgrade(&new_version(&gateway.dir(), "new"), &[]).await;
    let meanwhile = which(&gateway).await;
    gateway.signal("TERM");
    let status = gateway.until_ended().await;

    assert!(line.contains("new gateway started"), "{line}");
    assert_eq!(second.code, Some(1), "{second:?}");
    assert!(second.complained.contains("another upgrade is under way"), "{second:?}");
    assert_eq!(meanwhile, "one");
    assert!(status.success(), "{status}");
    assert!(!first.wait().unwrap().success());
    assert_eq!(gateway.successors(), [0; 0]);
}

/// Starts an upgrade, kills one side as soon as the command shows `step`, and returns what it exited with.
fn kill_at(gateway: &Gateway, binary: &Path, step: &str, old: bool) -> bool {
    let mut upgrade =
        gateway.upgrade_command(binary, &[]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut new = String::new();
    for line in BufReader::new(upgrade.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        if let Some((_, number)) = line.split_once("(process ") {
            number.trim_end_matches(')').clone_into(&mut new);
        }
        if line.contains(step) {
            let victim = if old { gateway.pid().to_string() } else { new.clone() };
            let _ = Command::new("kill").args(["-s", "KILL", &victim]).stderr(Stdio::null()).status();
        }
    }
    upgrade.wait().unwrap().success()
}

#[tokio::test]
async fn a_new_gateway_that_is_killed_before_it_is_ready_leaves_the_old_one_serving() {
    let mut gateway = Gateway::start(CONFIG, &[("v1", &"127.0.0.1:1")]).await;
    let new = new_version(&gateway.dir(), "new");
    let mut failed = 0;

    for step in ["new gateway started", "it is version", "it accepts"] {
        for _ in 0..3 {
            if kill_at(&gateway, &new, step, false) {
                // It was ready before the signal came. From then on it is on its own.
                let _ = gateway.until_ended().await;
                gateway.spawn();
                gateway.until_ready().await;
                continue;
            }
            failed += 1;
            assert_eq!(which(&gateway).await, "one", "killed at \"{step}\"");
            gateway.assert_unharmed();
        }
    }

    assert!(failed > 0, "every signal came too late");
    gateway.reload(&CONFIG.replace("body: one", "body: two")).await;
    assert_eq!(which(&gateway).await, "two");
}

#[tokio::test]
async fn an_old_gateway_that_is_killed_while_it_hands_over_is_replaced_all_the_same() {
    for step in ["new gateway started", "it is version", "it accepts", "ok: process"] {
        let gateway = Gateway::start(CONFIG, &[("v1", &"127.0.0.1:1")]).await;
        let new = new_version(&gateway.dir(), "new");

        kill_at(&gateway, &new, step, true);

        eventually(&format!("the new one serves, the old one killed at \"{step}\""), || async {
            which(&gateway).await == "one" && get(gateway.admin(), "/readyz").await.is_ok_and(|page| page.status == 200)
        })
        .await;
        eventually("it can be upgraded again", || async { gateway.upgrade(&new, &[]).await.code == Some(0) }).await;
    }
}

#[tokio::test]
async fn the_process_that_was_started_stays_passes_signals_on_and_ends_as_the_last_gateway_does() {
    let mut gateway = Gateway::start(CONFIG, &[("v1", &"127.0.0.1:1")]).await;
    let new = new_version(&gateway.dir(), "new");
    for _ in 0..2 {
        let upgrade = gateway.upgrade(&new, &[]).await;
        assert_eq!(upgrade.code, Some(0), "{upgrade:?}");
    }
    eventually("one gateway is left", || async { gateway.successors().len() == 1 }).await;
    eventually("the first process stands in", || async {
        fs::read(format!("/proc/{}/cmdline", gateway.pid())).unwrap().windows(8).any(|word| word == b"stand-in")
    })
    .await;
    let served = which(&gateway).await;

    gateway.signal("TERM");
    let status = gateway.until_ended().await;

    assert_eq!(served, "one");
    assert_eq!(status.code(), Some(0));
    assert_eq!(gateway.successors(), [0; 0]);
}

#[tokio::test]
async fn the_process_that_was_started_ends_with_a_gateway_that_is_killed() {
    let mut gateway = Gateway::start(CONFIG, &[("v1", &"127.0.0.1:1")]).await;
    let upgrade = gateway.upgrade(&new_version(&gateway.dir(), "new"), &[]).await;

    let killed = Command::new("kill").args(["-s", "KILL", &upgrade.pid().to_string()]).status().unwrap();

    assert!(killed.success());
    assert_eq!(gateway.until_ended().await.code(), Some(128 + 9));
}

#[tokio::test]
async fn usr2_starts_the_same_file_anew() {
    let gateway = Gateway::start(CONFIG, &[("v1", &"127.0.0.1:1")]).await;

    gateway.signal("USR2");
    eventually("another gateway serves", || async { gateway.log().contains("took over from the gateway before") })
        .await;

    assert_eq!(which(&gateway).await, "one");
    assert_eq!(gateway.successors().len(), 1);
}

#[tokio::test]
async fn systemd_is_told_when_it_is_ready_and_which_process_is_the_main_one() {
    let mut gateway = Gateway::prepare(CONFIG, &[("v1", &"127.0.0.1:1")]);
    let path = gateway.dir().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(crate::kit::PATIENCE)).unwrap();
    let told = || {
        let mut text = [0; 256];
        let length = manager.recv(&mut text).unwrap();
        String::from_utf8_lossy(&text[..length]).into_owned()
    };
    gateway.environment.push(("NOTIFY_SOCKET".into(), path.display().to_string()));
    gateway.spawn();
    gateway.until_ready().await;
    assert_eq!(told(), "READY=1");

    let upgrade = gateway.upgrade(&new_version(&gateway.dir(), "new"), &[]).await;
    let main = format!("MAINPID={}", upgrade.pid());

    let said: Vec<String> = vec![told(), told()];
    assert!(said.contains(&main), "{said:?}");
    assert!(gateway.until_ended().await.success(), "the old one ends, as it isn't the main one any more");
    assert_eq!(which(&gateway).await, "one");
}

#[tokio::test]
async fn websockets_stay_until_the_drain_is_over_and_the_command_says_that_they_were_cut() {
    let app = App::start("v1").await;
    let mut gateway = Gateway::prepare(CONFIG, &[("v1", &app)]);
    gateway.arguments = ["--drain", "2"].map(Into::into).to_vec();
    gateway.spawn();
    gateway.until_ready().await;
    let stream = TcpStream::connect(gateway.web()).await.unwrap();
    let (mut socket, _) = tokio_tungstenite::client_async(format!("ws://{HOST}/ws"), stream).await.unwrap();
    let new = new_version(&gateway.dir(), "new");
    let began = Instant::now();

    let upgrade = tokio::join!(gateway.upgrade(&new, &[]), async {
        let mut end = None;
        for n in 0.. {
            let text = Message::text(n.to_string());
            if socket.send(text.clone()).await.is_err() {
                break;
            }
            end = socket.next().await;
            match &end {
                Some(Ok(answer)) if *answer == text => tokio::time::sleep(Duration::from_millis(20)).await,
                _ => break,
            }
        }
        let Some(Ok(Message::Close(Some(close)))) = &end else { panic!("no word of goodbye: {end:?}") };
        assert_eq!(close.code, CloseCode::Away);
        assert!(began.elapsed() >= Duration::from_secs(2), "cut off after {:?}", began.elapsed());
    })
    .0;

    assert_eq!(upgrade.code, Some(0), "{upgrade:?}");
    assert!(upgrade.said.contains("1 connection left") && upgrade.said.contains("1 connection cut off"), "{upgrade:?}");
}

#[tokio::test]
async fn a_stop_takes_as_long_as_the_last_request() {
    let app = App::start("v1").await;
    let mut gateway = Gateway::start(CONFIG, &[("v1", &app)]).await;
    let (mut idle, mut busy) = (Client::h1(gateway.web()).await.unwrap(), Client::h1(gateway.web()).await.unwrap());
    let mut two = Client::h2c(gateway.web()).await.unwrap();
    let url = format!("http://{HOST}/page");
    for client in [&mut idle, &mut two] {
        assert_eq!(client.get(&url).await.unwrap().status, 200);
    }
    app.tell("slow?ms=1500").await;
    let hits = app.hits().await;
    let last = tokio::spawn(async move { (busy.get(&url).await.unwrap().status, Instant::now()) });
    eventually("the request is in flight", || async { app.hits().await > hits }).await;

    gateway.signal("TERM");
    let status = gateway.until_ended().await;
    let ended = Instant::now();
    let (answered, at) = last.await.unwrap();

    assert!(status.success(), "{status}");
    assert_eq!(answered, 200);
    // The drain may take 30 s, and nothing but this request was left.
    assert!(ended - at < Duration::from_secs(10), "it ended {:?} after the last answer", ended - at);
}

#[tokio::test]
async fn a_second_sigterm_ends_it_at_once() {
    let app = App::start("v1").await;
    let mut gateway = Gateway::prepare(CONFIG, &[("v1", &app)]);
    gateway.arguments = ["--drain", "600"].map(Into::into).to_vec();
    gateway.spawn();
    gateway.until_ready().await;
    let stream = TcpStream::connect(gateway.web()).await.unwrap();
    let (_socket, _) = tokio_tungstenite::client_async(format!("ws://{HOST}/ws"), stream).await.unwrap();

    gateway.signal("TERM");
    eventually("it drains", || async { TcpStream::connect(gateway.web()).await.is_err() }).await;
    // One on the heels of the first is taken for the first.
    let insist = || {
        gateway.signal("TERM");
        std::future::ready(gateway.has_ended())
    };
    eventually("it ends", insist).await;

    assert!(gateway.until_ended().await.success());
}
