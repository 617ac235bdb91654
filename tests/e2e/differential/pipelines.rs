//! Odd but legal requests in a row, through the real gateway, to an endpoint with another parser (hyper).

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tidegate_model::desired::Paths;
use tidegate_model::target::normalise;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::kit::{Gateway, Origin, full_size};

const CONFIG: &str = "
services: {app: {endpoints: [\"$app\"], eject: off, retry: {attempts: 0}}}
routes: [{name: all, match: {path: /**}, to: app}]
";

/// What would be read as a request by whoever loses count.
const BAIT: &[u8] = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";

/// What an endpoint is to see.
#[derive(Debug, PartialEq, Eq)]
struct Expected {
    method: String,
    target: String,
    odd: Vec<u8>,
    body: Vec<u8>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn as_many_requests_come_out_as_went_in_and_each_is_the_same() {
    let origin = Origin::start("v1").await;
    let mut gateway = Gateway::start(CONFIG, &[("app", &origin)]).await;
    let rounds = if full_size() { 5_000 } else { 200 };
    for seed in 0..rounds {
        let mut rng = StdRng::seed_from_u64(seed);
        let before = origin.hits();
        let mut wire = Vec::new();
        let mut expected = Vec::new();
        for number in 0..rng.random_range(1..6) {
            expected.push(request(&mut wire, &format!("{seed}-{number}"), &mut rng));
        }
        let ends_badly = rng.random_ratio(1, 3);
        wire.extend_from_slice(if ends_badly {
            b"POST /last HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n".as_slice()
        } else {
            b"GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        });

        let said = say(&gateway, &wire, &mut rng).await;

        let told = String::from_utf8_lossy(&said);
        let mut seen = origin.seen().split_off(usize::try_from(before).unwrap());
        if !ends_badly {
            assert_eq!(seen.pop().map(|last| last.path).as_deref(), Some("/last"), "seed {seed}: {told}");
        }
        let seen: Vec<Expected> = seen
            .into_iter()
            .map(|seen| Expected {
                odd: seen.headers.get("x-odd").map(|value| value.as_bytes().to_vec()).unwrap_or_default(),
                method: seen.method,
                target: seen.path,
                body: seen.body.to_vec(),
            })
            .collect();
        assert_eq!(seen, expected, "seed {seed}: sent {}\ntold {told}", wire.escape_ascii());
        let good = told.matches("HTTP/1.1 200 OK\r\n").count();
        assert_eq!(good, expected.len() + usize::from(!ends_badly), "seed {seed}: {told}");
        assert_eq!(told.contains("HTTP/1.1 400 "), ends_badly, "seed {seed}: {told}");
    }
    gateway.assert_unharmed();
}

/// Sends `wire` in a few pieces, and reads until the gateway closes.
async fn say(gateway: &Gateway, wire: &[u8], rng: &mut StdRng) -> Vec<u8> {
    let stream = TcpStream::connect(gateway.web()).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (mut reader, mut writer) = stream.into_split();
    let mut rest = wire;
    let mut pieces = Vec::new();
    for _ in 0..rng.random_range(0..4) {
        let (piece, after) = rest.split_at(rng.random_range(0..=rest.len()));
        pieces.push(piece.to_vec());
        rest = after;
    }
    pieces.push(rest.to_vec());
    let writing = tokio::spawn(async move {
        for piece in pieces {
            if writer.write_all(&piece).await.is_err() {
                break;
            }
            tokio::task::yield_now().await;
        }
        writer
    });
    let mut said = Vec::new();
    let _ = tokio::time::timeout(crate::kit::PATIENCE, reader.read_to_end(&mut said)).await;
    drop(writing.await);
    said
}

/// Adds one request to `wire`, and says what an endpoint is to see.
fn request(wire: &mut Vec<u8>, name: &str, rng: &mut StdRng) -> Expected {
    let mut pick = |all: &[&'static str]| all[rng.random_range(0..all.len())];
    let method = pick(&["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "M-SEARCH", "X!#$"]);
    let path = pick(&[
        "/",
        "/a",
        "/a/",
        "//a//b",
        "/a/../b",
        "/./%2e/c",
        "/%7Euser",
        "/caf%c3%a9",
        "/a%2Fb;x=1",
        "/.well-known/x",
        "/a|b",
        "/[x]",
    ]);
    let query = pick(&["", "", "?", "?a=b&c", "?u=/../x//y", "?%zz", "?a=%2e%2e/\\"]);
    let written = format!("{path}{query}");
    let target = normalise(&written, &Paths::default()).unwrap().into_owned();
    let absolute = if rng.random_ratio(1, 8) { "http://a" } else { "" };
    let space = ["", " ", "\t", " \t "][rng.random_range(0..4)];
    let mut odd = format!("{name} ").into_bytes();
    odd.extend((0..rng.random_range(0..20)).map(|_| match rng.random_range(0..10) {
        0 => b'\t',
        1 => rng.random_range(0x80..=0xff),
        _ => rng.random_range(b'!'..=b'~'),
    }));
    odd.push(b'.');
    if rng.random_ratio(1, 6) {
        wire.extend_from_slice(b"\r\n");
    }
    wire.extend_from_slice(format!("{method} {absolute}{written} HTTP/1.1\r\nhOST: a\r\nX-Odd:{space}").as_bytes());
    wire.extend_from_slice(&odd);
    wire.extend_from_slice(format!("{space}\r\n").as_bytes());
    let mut body = Vec::new();
    for _ in 0..rng.random_range(0..4) {
        match rng.random_range(0..4) {
            0 => body.extend_from_slice(BAIT),
            1 => body.extend_from_slice(b"0\r\n\r\n"),
            2 => body.extend((0..rng.random_range(0..3_000)).map(|_| rng.random::<u8>())),
            _ => body.extend_from_slice(b"hello"),
        }
    }
    match rng.random_range(0..3) {
        0 => {
            body.clear();
            wire.extend_from_slice(b"\r\n");
        }
        1 => {
            wire.extend_from_slice(format!("Content-Length:{space}{}\r\n\r\n", body.len()).as_bytes());
            wire.extend_from_slice(&body);
        }
        _ => chunked(wire, &body, rng),
    }
    Expected { method: method.into(), target, odd, body }
}

/// Adds a chunked body, cut anywhere, with extensions and trailers.
fn chunked(wire: &mut Vec<u8>, body: &[u8], rng: &mut StdRng) {
    let coding = ["chunked", "Chunked", " CHUNKED\t"][rng.random_range(0..3)];
    wire.extend_from_slice(format!("Transfer-Encoding:{coding}\r\n\r\n").as_bytes());
    let extensions = ["", "", ";a", ";a=b", " ;a=\"0\\\"; \"", ";a=0"];
    let mut rest = body;
    while !rest.is_empty() {
        let (chunk, after) = rest.split_at(rng.random_range(1..=rest.len()));
        let extension = extensions[rng.random_range(0..extensions.len())];
        let zeros = "0".repeat(rng.random_range(0..3));
        wire.extend_from_slice(format!("{zeros}{:x}{extension}\r\n", chunk.len()).as_bytes());
        wire.extend_from_slice(chunk);
        wire.extend_from_slice(b"\r\n");
        rest = after;
    }
    wire.extend_from_slice(["0\r\n", "00\r\n", "0;a=b\r\n"][rng.random_range(0..3)].as_bytes());
    if rng.random_ratio(1, 3) {
        wire.extend_from_slice(b"X-Trailer: 1\r\nContent-Length: 99\r\n");
    }
    wire.extend_from_slice(b"\r\n");
}
