//! Clients that are slow on purpose, by hand and by slowhttptest; and honest ones that are only slow.

use std::process::Command;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::kit::beside::withstand;
use crate::kit::frames::{self, frame};
use crate::kit::{Gateway, Mood, Origin, full_size};

const CONFIG: &str = "
listeners:
  web: {bind: \"$web\", min_body_rate: 1KiB, timeouts: {header: 2s, body: 2s, send: 2s, idle: 3s}}
  tls:
    bind: \"$tls\"
    certificates: [{cert: $dir/tls/shop.crt, key: $dir/tls/shop.key}]
services: {app: {endpoints: [\"$app\"], eject: off}}
routes: [{name: all, match: {path: /**}, to: app}]
";

/// An answer that no socket buffer takes whole.
fn large() -> &'static str {
    String::leak("large ".repeat(2 << 20))
}

/// Runs slowhttptest until the gateway has closed all its connections, or for so many seconds, and returns what it says.
async fn slowhttptest(arguments: &[&str], seconds: &str, url: String) -> String {
    let connections = if full_size() { "2000" } else { "150" };
    let mut command = Command::new("slowhttptest");
    command.args(arguments).args(["-c", connections, "-r", "200", "-l", seconds, "-p", "5", "-u", &url]);
    let output = tokio::task::spawn_blocking(move || command.output().expect("slowhttptest runs")).await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let plain = said.replace("\u{1b}", "");
    let last: Vec<_> = plain
        .lines()
        .filter(|line| ["available", "status", "closed:"].iter().any(|word| line.contains(word)))
        .collect();
    println!("slowhttptest {arguments:?}: {:?}", &last[last.len().saturating_sub(4)..]);
    plain
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_heads_and_slow_bodies_are_ended_while_good_clients_notice_nothing() {
    let origin = Origin::start("v1").await;
    let mut gateway = Gateway::start(CONFIG, &[("app", &origin)]).await;
    let url = format!("http://{}/", gateway.web());

    let attack = async {
        let heads = slowhttptest(&["-H", "-i", "1"], "40", url.clone()).await;
        let bodies = slowhttptest(&["-B", "-i", "1", "-s", "100000"], "40", url.clone()).await;
        let ranges = slowhttptest(&["-R", "-a", "5", "-b", "3000"], "40", url.clone()).await;
        (heads, bodies, ranges)
    };
    let ((heads, bodies, _), _) = withstand(&mut gateway, attack).await;

    assert!(heads.contains("No open connections left"), "{heads}");
    assert!(bodies.contains("No open connections left"), "{bodies}");
    for reason in ["late", "slow_body"] {
        gateway.until_metric("tidegate_requests_refused_total", &[&format!("reason=\"{reason}\"")], 100.0).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_readers_are_cut_while_good_clients_notice_nothing() {
    let origin = Origin::start("v1").await;
    let mut gateway = Gateway::start(CONFIG, &[("app", &origin)]).await;
    // Good clients ask for something small.
    let big = Origin::start("big").await;
    big.set(Mood::Reply(vec![], large()));
    let config = CONFIG.replace("services: {", &format!("services: {{big: {{endpoints: [\"{big}\"], eject: off}}, "));
    let config = config.replace("routes: [", "routes: [{name: big, match: {path: /big}, to: big}, ");
    gateway.reload(&config).await;
    let url = format!("http://{}/big", gateway.web());

    // It goes on reading what its own kernel has kept long after the gateway is rid of it.
    let seconds = if full_size() { "40" } else { "8" };
    let attack = slowhttptest(&["-X", "-w", "512", "-y", "1024", "-n", "1", "-z", "32", "-k", "1"], seconds, url);
    withstand(&mut gateway, attack).await;

    gateway.until_metric("tidegate_requests_refused_total", &["reason=\"slow_read\""], 100.0).await;
}

/// Sends a body of 8 KiB at so many bytes in each 100 ms, and returns what comes of it.
async fn upload(gateway: std::net::SocketAddr, each: usize) -> (String, Duration) {
    let began = Instant::now();
    let mut stream = TcpStream::connect(gateway).await.unwrap();
    stream.write_all(b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 8192\r\n\r\n").await.unwrap();
    let (mut read, mut write) = stream.into_split();
    let mut said = Vec::new();
    let sending = async {
        for piece in vec![b'a'; 8192].chunks(each) {
            if write.write_all(piece).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        _ = read.read_to_end(&mut said) => {}
        () = sending => {}
    }
    (String::from_utf8_lossy(&said).into_owned(), began.elapsed())
}

#[tokio::test]
async fn an_honest_client_on_a_slow_line_is_served_and_a_trickle_gets_408_and_a_close() {
    let origin = Origin::start("v1").await;
    let gateway = Gateway::start(CONFIG, &[("app", &origin)]).await;

    let (honest, trickle) = tokio::join!(upload(gateway.web(), 200), upload(gateway.web(), 10));

    println!("2,000 bytes a second took {:.1?}; 100 bytes a second were ended after {:.1?}", honest.1, trickle.1);
    assert!(honest.0.starts_with("HTTP/1.1 200 "), "{}", honest.0);
    assert!(honest.1 > Duration::from_secs(3), "longer than any pause may last");
    assert!(trickle.0.starts_with("HTTP/1.1 408 ") && trickle.0.contains("onnection: close"), "{}", trickle.0);
    assert_eq!(gateway.metric("tidegate_requests_refused_total", &["reason=\"slow_body\""]).await, 1.0);
}

#[tokio::test]
async fn an_http2_body_that_trickles_is_ended_and_one_that_is_slow_is_not() {
    let origin = Origin::start("v1").await;
    let mut gateway = Gateway::start(CONFIG, &[("app", &origin)]).await;
    let web = gateway.web();

    // One frame for the whole body, as on a slow line: nothing of it can be passed on until its end.
    let send = |each: usize| async move {
        let stream = frames::open(web, b"").await;
        let (read, mut write) = stream.into_split();
        let reading = tokio::spawn(frames::listen(read));
        let mut bytes = frame(frames::HEADERS, frames::END_HEADERS, 1, frames::POST);
        bytes.extend(frame(frames::DATA, frames::END_STREAM, 1, &[b'a'; 8192]));
        write.write_all(&bytes[..100]).await.unwrap();
        for piece in bytes[100..].chunks(each) {
            if write.write_all(piece).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        reading.abort();
    };
    tokio::join!(send(200), async {
        let _ = tokio::time::timeout(Duration::from_secs(6), send(10)).await;
    });

    gateway.until_metric("tidegate_requests_refused_total", &["reason=\"slow_body\""], 1.0).await;
    assert_eq!(gateway.metric("tidegate_requests_refused_total", &["reason=\"slow_body\""]).await, 1.0);
    assert_eq!(origin.seen().iter().filter(|seen| seen.body.len() == 8192).count(), 1);
    gateway.assert_unharmed();
}

#[tokio::test]
async fn an_http2_client_that_opens_no_window_is_ended() {
    let origin = Origin::start("v1").await;
    origin.set(Mood::Reply(vec![], large()));
    let mut gateway = Gateway::start(CONFIG, &[("app", &origin)]).await;

    // SETTINGS_INITIAL_WINDOW_SIZE of 0: no answer may be sent.
    let mut stream = frames::open(gateway.web(), &[0, 4, 0, 0, 0, 0]).await;
    stream.write_all(&frame(frames::HEADERS, frames::WHOLE, 1, frames::GET)).await.unwrap();
    let said = tokio::time::timeout(Duration::from_secs(20), frames::listen(stream)).await.expect("it is ended");

    assert!(!said.resets.is_empty(), "{said:?}");
    gateway.until_metric("tidegate_connections_total", &[], 1.0).await;
    gateway.assert_unharmed();
}
