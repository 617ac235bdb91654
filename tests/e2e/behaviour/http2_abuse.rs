//! HTTP/2 clients that send what costs the gateway more than them. Each is sent away, told why, and counted.

use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::task::JoinSet;

use crate::kit::beside::withstand;
use crate::kit::frames::{self, Said, frame};
use crate::kit::{Gateway, Origin, full_size};

const CONFIG: &str = "
services: {app: {endpoints: [\"$app\"], eject: off}}
routes: [{name: all, match: {path: /**}, to: app}]
";

/// Listeners without much patience: for clients that all have to go.
const HASTY: &str = "
listeners:
  web: {bind: \"$web\", timeouts: {header: 1s, idle: 2s}}
";

/// Frames at most that a flood consists of. Reached only when nobody stops it.
const ENDLESS: u32 = 200_000;

/// Sends `flood(n)` again and again, and returns what the gateway says to that.
async fn flood(gateway: std::net::SocketAddr, first: Vec<u8>, flood: fn(u32) -> Vec<u8>) -> Said {
    let stream = frames::open(gateway, b"").await;
    let (read, mut write) = stream.into_split();
    let reading = tokio::spawn(frames::listen(read));
    if write.write_all(&first).await.is_ok() {
        for batch in 0..ENDLESS / 100 {
            let bytes: Vec<u8> = (batch * 100..(batch + 1) * 100).flat_map(flood).collect();
            if write.write_all(&bytes).await.is_err() {
                break;
            }
        }
    }
    reading.await.unwrap()
}

fn id(n: u32) -> u32 {
    2 * n + 1
}

/// A reason, what comes first, and what comes again and again.
type Flood = (&'static str, Vec<u8>, fn(u32) -> Vec<u8>);

fn floods() -> Vec<Flood> {
    vec![
        ("http2_resets", Vec::new(), |n| {
            let request = frame(frames::HEADERS, frames::WHOLE, id(n), frames::GET);
            [request, frame(frames::RST_STREAM, 0, id(n), &8_u32.to_be_bytes())].concat()
        }),
        ("http2_pings", Vec::new(), |n| frame(frames::PING, 0, 0, &u64::from(n).to_be_bytes())),
        ("http2_settings", Vec::new(), |_| frame(frames::SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100])),
        ("http2_priorities", Vec::new(), |n| frame(frames::PRIORITY, 0, id(n), &[0, 0, 0, 0, 16])),
        ("http2_window_updates", Vec::new(), |_| frame(frames::WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes())),
        ("http2_empty_data", frame(frames::HEADERS, frames::END_HEADERS, 1, frames::POST), |_| {
            frame(frames::DATA, 0, 1, b"")
        }),
        ("http2_continuations", frame(frames::HEADERS, 0, 1, frames::GET), |_| {
            frame(frames::CONTINUATION, 0, 1, b"\x00\x01a\x01b")
        }),
        // A window beyond 2^31 - 1 is an error of its stream (RFC 9113 §6.9.1), so the gateway resets it (MadeYouReset).
        ("http2_made_resets", Vec::new(), |n| {
            let request = frame(frames::HEADERS, frames::END_HEADERS, id(n), frames::POST);
            [request, frame(frames::WINDOW_UPDATE, 0, id(n), &0x7fff_ffff_u32.to_be_bytes())].concat()
        }),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_flood_of_frames_is_ended_calmly_and_counted_while_good_clients_notice_nothing() {
    let origin = Origin::start("v1").await;
    let mut gateway = Gateway::start(CONFIG, &[("app", &origin)]).await;
    let web = gateway.web();
    // Attackers of each kind, and how often each comes again.
    let (each, times) = if full_size() { (5, 20) } else { (3, 1) };

    let attack = async {
        let mut attackers = JoinSet::new();
        for (reason, first, bytes) in floods() {
            for _ in 0..each {
                attackers.spawn({
                    let first = first.clone();
                    async move {
                        let mut said = Vec::new();
                        for _ in 0..times {
                            said.push((reason, flood(web, first.clone(), bytes).await));
                            tokio::time::sleep(Duration::from_millis(500)).await;
                        }
                        said
                    }
                });
            }
        }
        attackers.join_all().await.concat()
    };
    let (ended, _) = withstand(&mut gateway, attack).await;

    for (reason, ..) in floods() {
        let count = gateway.metric("tidegate_requests_refused_total", &[&format!("reason=\"{reason}\"")]).await;
        let told = ended.iter().filter(|(r, said)| *r == reason && said.goaway == Some(frames::CALM)).count();
        println!("{reason:<24} {count} of {} counted, {told} told", each * times);
        assert!(count >= f64::from(each * times), "{reason}: {count}");
        assert!(told > 0, "{reason}: nobody was told");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_and_header_blocks_that_never_end_and_silent_connections_are_closed() {
    let origin = Origin::start("v1").await;
    let mut gateway = Gateway::start(&[HASTY, CONFIG].concat(), &[("app", &origin)]).await;
    let web = gateway.web();

    let mut clients = JoinSet::new();
    for beginning in [
        frame(frames::HEADERS, frames::END_STREAM, 1, frames::GET),
        frame(frames::HEADERS, frames::WHOLE, 1, frames::GET)[..12].to_vec(),
        frame(frames::PING, 0, 0, &[0; 8])[..4].to_vec(),
        Vec::new(), // Idle; it never answers the PING that goes with the GOAWAY either.
    ] {
        clients.spawn(async move {
            let mut stream = frames::open(web, b"").await;
            stream.write_all(&beginning).await.unwrap();
            tokio::time::timeout(Duration::from_secs(20), frames::listen(stream)).await.expect("it is closed")
        });
    }
    let said = clients.join_all().await;

    assert_eq!(said.iter().filter(|said| said.goaway == Some(frames::CALM)).count(), 3, "{said:?}");
    gateway.until_metric("tidegate_requests_refused_total", &["reason=\"http2_unfinished_frame\""], 3.0).await;
    gateway.assert_unharmed();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_number_of_headers_is_bounded_for_http2_too() {
    let origin = Origin::start("v1").await;
    let mut gateway = Gateway::start(CONFIG, &[("app", &origin)]).await;
    let mut client = crate::kit::Client::h2c(gateway.web()).await.unwrap();
    let names: Vec<String> = (0..200).map(|n| format!("x-{n}")).collect();
    let headers: Vec<_> = names.iter().map(|name| (name.as_str(), "1")).collect();

    let refused = client.send(crate::kit::request("GET", "http://x/", &headers, "")).await.unwrap();
    let served = client.send(crate::kit::request("GET", "http://x/", &headers[..50], "")).await.unwrap();

    assert_eq!((refused.status, served.status), (431, 200));
    gateway.until_metric("tidegate_requests_refused_total", &["reason=\"too_many_headers\""], 1.0).await;
    gateway.assert_unharmed();
}
