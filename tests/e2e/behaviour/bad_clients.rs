//! Clients that are wrong, broken or hostile: a clean answer or a close, a count, and the next one is served.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::kit::client::raw;
use crate::kit::gateway::HOST;
use crate::kit::{Client, Gateway, Origin, eventually, get};

const CONFIG: &str = "
listeners:
  web: {bind: \"$web\", timeouts: {header: 1s, handshake: 1s, body: 1s, idle: 2s}, max_header: 16KiB, max_headers: 64}
  tls:
    bind: \"$tls\"
    certificates: [{cert: $dir/tls/shop.crt, key: $dir/tls/shop.key}]
    timeouts: {header: 1s, handshake: 1s, body: 1s, idle: 2s}
services: {app: {endpoints: [\"$app\"], eject: off}}
routes: [{name: all, match: {path: /**}, to: app}]
";

/// A name, what is sent, and the statuses that are good answers. A close without a word is always good.
fn table() -> Vec<(&'static str, Vec<u8>, &'static [u16])> {
    let with = |text: &str| text.as_bytes().to_vec();
    let many: String = (0..200).map(|n| format!("X-{n}: 1\r\n")).collect();
    vec![
        (
            "a header of 40 KB",
            with(&format!("GET / HTTP/1.1\r\nHost: x\r\nX-Big: {}\r\n\r\n", "a".repeat(40_000))),
            &[431, 400],
        ),
        ("a URL of 40 KB", with(&format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(40_000))), &[414, 431, 400]),
        ("200 headers", with(&format!("GET / HTTP/1.1\r\nHost: x\r\n{many}\r\n")), &[431, 400]),
        ("an illegal method", with("G@T / HTTP/1.1\r\nHost: x\r\n\r\n"), &[400, 405, 501]),
        ("no method", with(" / HTTP/1.1\r\nHost: x\r\n\r\n"), &[400]),
        ("an unknown version", with("GET / HTTP/9.9\r\nHost: x\r\n\r\n"), &[400, 505]),
        ("no Host", with("GET / HTTP/1.1\r\n\r\n"), &[400]),
        ("two Hosts", with("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"), &[400]),
        (
            "length and chunked",
            with("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
            &[400],
        ),
        (
            "two lengths",
            with("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!"),
            &[400],
        ),
        ("a negative length", with("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n"), &[400]),
        ("a length that isn't one", with("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5,5\r\n\r\nhello"), &[400]),
        (
            "a chunk size that isn't hex",
            with("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n"),
            &[400],
        ),
        (
            "a chunk size that overflows",
            with("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\nhello\r\n"),
            &[400],
        ),
        (
            "a coding that isn't chunked",
            with("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n"),
            &[400, 501],
        ),
        ("a space before the colon", with("GET / HTTP/1.1\r\nHost: x\r\nX-A : 1\r\n\r\n"), &[400]),
        ("a folded header", with("GET / HTTP/1.1\r\nHost: x\r\nX-A: 1\r\n folded\r\n\r\n"), &[400]),
        ("a header with NUL", with("GET / HTTP/1.1\r\nHost: x\r\nX-A: a\0b\r\n\r\n"), &[400]),
        ("a bare carriage return", with("GET / HTTP/1.1\r\nHost: x\r\nX-A: a\rb\r\n\r\n"), &[400]),
        ("bytes that are no HTTP", b"\x01\x02\x03\x04\xff\xfe\r\n\r\n".to_vec(), &[400]),
        (
            "a TLS hello on the plain port",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n\r\n".to_vec(),
            &[400],
        ),
        (
            "an HTTP/2 preface and then nonsense",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nnonsense nonsense nonsense".to_vec(),
            &[400],
        ),
        ("half a head", with("GET / HTTP/1.1\r\nHost: x\r\nX-"), &[408, 400]),
        ("half a body", with("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhello"), &[408, 400, 502]),
        ("nothing at all", Vec::new(), &[408]),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_bad_client_gets_a_clean_4xx_or_a_close_and_the_next_request_is_served() {
    let origin = Origin::start("v1").await;
    let mut gateway = Gateway::start(CONFIG, &[("app", &origin)]).await;
    assert_eq!(get(gateway.web(), "/").await.unwrap().status, 200);
    let web = gateway.web();

    let mut wrong = Vec::new();
    let mut cases = tokio::task::JoinSet::new();
    for (name, bytes, good) in table() {
        cases.spawn(async move {
            let began = Instant::now();
            let said = raw(web, bytes).await;
            (name, good, said, began.elapsed())
        });
    }
    while let Some(case) = cases.join_next().await {
        let (name, good, said, took) = case.unwrap();
        let verdict = match &said {
            // An HTTP/2 connection is ended by frames, which are no text.
            Ok(said) if said.is_empty() || !said.starts_with("HTTP/1.") => "closed".to_owned(),
            Ok(said) => {
                let status = said.get(9..12).and_then(|status| status.parse::<u16>().ok()).unwrap_or(0);
                if !good.contains(&status) {
                    wrong.push(format!("{name}: answered {status}, wanted one of {good:?}"));
                }
                if said.matches("\nHTTP/1.1 ").count() > 0 {
                    wrong.push(format!("{name}: answered twice: {said:?}"));
                }
                status.to_string()
            }
            Err(err) => {
                wrong.push(format!("{name}: {err:#}"));
                "left open".to_owned()
            }
        };
        println!("{name:<38} {verdict:<10} {took:.1?}");
        assert_eq!(get(web, "/").await.unwrap().status, 200, "the next request after {name}");
    }

    assert_eq!(wrong, [""; 0]);
    let refused = gateway.metric("tidegate_requests_refused_total", &[]).await;
    println!("{refused} refusals counted");
    assert!(refused >= 12.0, "{refused}");
    gateway.assert_unharmed();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_and_silence_on_the_tls_port_are_closed_counted_and_leak_nothing() {
    let origin = Origin::start("v1").await;
    let mut gateway = Gateway::start(CONFIG, &[("app", &origin)]).await;
    let mut client = Client::tls(gateway.tls(), HOST, gateway.authority.trust(&["h2"])).await.unwrap();
    client.get(&format!("https://{HOST}/")).await.unwrap();
    drop(client);
    get(gateway.web(), "/").await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let before = gateway.descriptors();

    let mut clients = tokio::task::JoinSet::new();
    for n in 0..150 {
        let (tls, web) = (gateway.tls(), gateway.web());
        clients.spawn(async move {
            match n % 5 {
                0 => drop(raw(tls, "GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("garbage is closed")),
                1 => drop(raw(tls, [0x80; 300]).await.expect("garbage is closed")),
                2 => drop(raw(tls, "").await.expect("silence is closed")),
                3 => {
                    // Half-open: nothing comes, and nothing is read.
                    let mut stream = TcpStream::connect(web).await.unwrap();
                    stream.shutdown().await.unwrap();
                    let mut rest = Vec::new();
                    let _ = stream.read_to_end(&mut rest).await;
                }
                _ => {
                    // Gone in the middle of a body.
                    let mut stream = TcpStream::connect(web).await.unwrap();
                    stream
                        .write_all(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\nhello")
                        .await
                        .unwrap();
                }
            }
        });
    }
    clients.join_all().await;
    let mut next = Client::tls(gateway.tls(), HOST, gateway.authority.trust(&["h2"])).await.unwrap();
    let served = next.get(&format!("https://{HOST}/")).await.unwrap();
    drop(next);
    eventually("every descriptor is given back", || async { gateway.descriptors() <= before + 4 }).await;

    println!("descriptors: {before} before 150 bad clients, {} after", gateway.descriptors());
    assert_eq!(served.status, 200);
    for result in ["plain_http", "garbage", "late"] {
        gateway.until_metric("tidegate_tls_handshakes_total", &[&format!("result=\"{result}\"")], 30.0).await;
    }
    gateway.assert_unharmed();
}

#[tokio::test]
async fn a_head_that_drips_in_is_ended_at_the_total_deadline() {
    let origin = Origin::start("v1").await;
    let gateway = Gateway::start(CONFIG, &[("app", &origin)]).await;
    let mut stream = TcpStream::connect(gateway.web()).await.unwrap();

    let began = Instant::now();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n").await.unwrap();
    let mut closed = false;
    let mut buffer = [0; 1024];
    while !closed && began.elapsed() < Duration::from_secs(10) {
        let _ = stream.write_all(b"X-A: 1\r\n").await;
        let read = tokio::time::timeout(Duration::from_millis(100), stream.read(&mut buffer)).await;
        closed = matches!(read, Ok(Ok(0) | Err(_)));
    }

    println!("a dripping head was ended after {:.1?} (deadline 1 s)", began.elapsed());
    assert!(closed);
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    assert_eq!(origin.hits(), 0);
}
