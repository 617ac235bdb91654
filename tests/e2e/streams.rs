//! HTTP/2 clients, stream by stream: what one stream does is its own affair, and neither carrier lets it cost more than
//! its share.
//!
//! # Not here
//!
//! That both carriers say the same: `carriers`. ALPN, h2c and gRPC: `protocols`.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use crate::kit::{Client, Gateway, Mood, Origin, eventually, request};

const CONFIG: &str = "
access_log: $dir/access.log
listeners:
  web: {bind: \"$web\", timeouts: {body: 1s, idle: 2s, send: 2s}, min_body_rate: 100}
services:
  app: {endpoints: [\"$app\"], eject: off}
routes:
  - {name: late, match: {path: /late/**}, to: app, timeouts: {first_byte: 300ms}}
  - {name: total, match: {path: /total/**}, to: app, timeouts: {total: 500ms}}
  - {name: small, match: {path: /small/**}, to: app, max_body: 8}
  - {name: fixed, match: {path: /fixed}, answer: {status: 200, body: \"fixed\\n\"}}
  - {name: all, match: {path: /**}, to: app}
";

/// Both carriers, to be tried in turn.
const CARRIERS: [&str; 2] = ["", "pingora"];

async fn gateway(carrier: &str, app: &dyn ToString) -> Gateway {
    let mut gateway = Gateway::prepare(CONFIG, &[("app", app)]);
    gateway.environment.push(("TIDEGATE_CARRIER".into(), carrier.into()));
    gateway.spawn();
    gateway.until_ready().await;
    gateway
}

/// A body that is sent piece by piece.
type Pieces = StreamBody<stream::BoxStream<'static, Result<Frame<Bytes>, Infallible>>>;

/// A body, and what its pieces are sent by.
fn pieces() -> (mpsc::Sender<Bytes>, Pieces) {
    let (sender, receiver) = mpsc::channel(1);
    let frames = stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|piece: Bytes| (Ok(Frame::data(piece)), receiver))
    });
    (sender, StreamBody::new(Box::pin(frames) as stream::BoxStream<'static, _>))
}

/// A connection on which streams can be sent at the same time. A stream's window is 64 KiB.
async fn connect(gateway: &Gateway) -> SendRequest<Pieces> {
    let stream = TcpStream::connect(gateway.web()).await.unwrap();
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(64 << 10)
        .handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    sender
}

fn post(path: &str, body: Pieces) -> Request<Pieces> {
    Request::post(format!("http://x{path}")).body(body).unwrap()
}

async fn status_and_body(answer: Response<Incoming>) -> (u16, Bytes) {
    let status = answer.status().as_u16();
    (status, answer.into_body().collect().await.unwrap().to_bytes())
}

/// An origin that does one thing to each connection, once it has a head.
async fn origin<F: Future<Output = ()> + Send + 'static>(
    mut act: impl FnMut(TcpStream, Vec<u8>) -> F + Clone + Send + 'static,
) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut read = Vec::new();
            while !read.windows(4).any(|four| four == b"\r\n\r\n") {
                if stream.read_buf(&mut read).await.unwrap_or(0) == 0 {
                    break;
                }
            }
            tokio::spawn(act(stream, read));
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_bodies_pass_whole_on_many_streams_at_once() {
    for carrier in CARRIERS {
        let app = Origin::start("v1").await;
        let gateway = gateway(carrier, &app).await;
        let sender = connect(&gateway).await;
        let body: Bytes = (0..2_000_000_u32).map(|n| (n % 251) as u8).collect::<Vec<_>>().into();

        let streams = (0..6).map(|n: usize| {
            let (mut sender, mut body) = (sender.clone(), body.slice(n..));
            tokio::spawn(async move {
                let (pieces, stream) = pieces();
                let whole = body.clone();
                tokio::spawn(async move {
                    while !body.is_empty() {
                        let _ = pieces.send(body.split_to(body.len().min(50_000))).await;
                    }
                });
                let answer = sender.send_request(post("/echo", stream)).await.unwrap();
                status_and_body(answer).await == (200, whole)
            })
        });
        let whole = futures_util::future::join_all(streams).await;

        assert!(whole.iter().all(|whole| *whole.as_ref().unwrap()), "{carrier:?}: {whole:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_whose_client_does_not_read_holds_its_endpoint_back_and_nobody_else() {
    for carrier in CARRIERS {
        let written = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&written);
        let address = origin(move |mut stream, head| {
            let count = Arc::clone(&count);
            async move {
                if !head.starts_with(b"GET /endless") {
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").await;
                    return;
                }
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n").await;
                while let Ok(n @ 1..) = stream.write(&[b'x'; 16 << 10]).await {
                    count.fetch_add(n as u64, Relaxed);
                }
            }
        })
        .await;
        let gateway = gateway(carrier, &address).await;
        let mut sender = connect(&gateway).await;
        let memory = gateway.resident();

        let endless = sender.send_request(Request::get("http://x/endless").body(pieces().1).unwrap()).await.unwrap();
        let quick = sender.send_request(Request::get("http://x/quick").body(pieces().1).unwrap()).await.unwrap();
        let quick = status_and_body(quick).await;
        eventually("the endpoint is held back", || async {
            let before = written.load(Relaxed);
            tokio::time::sleep(Duration::from_millis(200)).await;
            before > 0 && written.load(Relaxed) == before
        })
        .await;

        assert_eq!(quick, (200, Bytes::from("hi")), "{carrier:?}");
        assert!(gateway.resident() < memory + (32 << 20), "{carrier:?}: an unread answer piles up");
        drop(endless);
    }
}

#[tokio::test]
async fn a_stream_that_its_client_resets_ends_its_exchange_and_the_connection_goes_on() {
    for carrier in CARRIERS {
        let app = Origin::start("v1").await;
        let gateway = gateway(carrier, &app).await;
        let mut sender = connect(&gateway).await;
        app.set(Mood::Slow(Duration::from_secs(600)));

        let left = Request::get("http://x/a").body(pieces().1).unwrap();
        let left = tokio::spawn(sender.send_request(left));
        eventually("the origin has the request", || async { app.hits() == 1 }).await;
        left.abort();

        gateway.until_metric("tidegate_requests_total", &["code=\"499\""], 1.0).await;
        app.set(Mood::Ok);
        let next = Request::get("http://x/b").body(pieces().1).unwrap();
        assert_eq!(sender.send_request(next).await.unwrap().status(), 200, "{carrier:?}");
    }
}

#[tokio::test]
async fn a_late_endpoint_is_a_504_by_its_first_byte_and_by_the_whole() {
    for carrier in CARRIERS {
        let app = Origin::start("v1").await;
        let gateway = gateway(carrier, &app).await;
        let mut client = Client::h2c(gateway.web()).await.unwrap();
        app.set(Mood::Slow(Duration::from_secs(600)));

        let late = client.get("http://x/late/a").await.unwrap().status;
        let total = client.get("http://x/total/a").await.unwrap().status;

        assert_eq!((late, total), (504, 504), "{carrier:?}");
    }
}

#[tokio::test]
async fn a_body_that_does_not_come_is_a_408_and_one_that_is_too_long_a_413() {
    for carrier in CARRIERS {
        let app = Origin::start("v1").await;
        let gateway = gateway(carrier, &app).await;
        let mut sender = connect(&gateway).await;

        let (begun, body) = pieces();
        begun.send(Bytes::from_static(b"begun")).await.unwrap();
        let slow = sender.send_request(post("/a", body)).await.unwrap();
        let (more, body) = pieces();
        more.send(Bytes::from_static(b"0123456789")).await.unwrap();
        let long = sender.send_request(post("/small/a", body)).await.unwrap();

        assert_eq!((slow.status().as_u16(), long.status().as_u16()), (408, 413), "{carrier:?}");
        assert_eq!(app.hits(), 0, "{carrier:?}: no origin saw a whole request");
        drop((begun, more));
    }
}

#[tokio::test]
async fn an_answer_that_comes_before_the_body_was_sent_reaches_the_client_and_the_connection_goes_on() {
    let address = origin(|mut stream, _| async move {
        let _ = stream.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno").await;
        while stream.read(&mut [0; 4_096]).await.is_ok_and(|n| n > 0) {}
    })
    .await;
    for carrier in CARRIERS {
        let gateway = gateway(carrier, &address).await;
        let mut sender = connect(&gateway).await;

        let (begun, body) = pieces();
        begun.send(Bytes::from_static(b"begun")).await.unwrap();
        let early = status_and_body(sender.send_request(post("/a", body)).await.unwrap()).await;
        let next = sender.send_request(Request::get("http://x/fixed").body(pieces().1).unwrap()).await.unwrap();

        assert_eq!(early, (403, Bytes::from("no")), "{carrier:?}");
        assert_eq!(next.status(), 200, "{carrier:?}");
        drop(begun);
    }
}

#[tokio::test]
async fn answers_without_a_body_end_with_their_head() {
    let address = origin(|mut stream, head| async move {
        let answer: &[u8] = match head.split(|b| *b == b' ').nth(1).unwrap_or_default() {
            b"/none" => b"HTTP/1.1 204 No Content\r\n\r\n",
            b"/same" => b"HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n",
            b"/hint" => b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            _ => b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
        };
        let _ = stream.write_all(answer).await;
    })
    .await;
    for carrier in CARRIERS {
        let gateway = gateway(carrier, &address).await;
        let mut client = Client::h2c(gateway.web()).await.unwrap();

        let mut said = Vec::new();
        for (method, path) in [("GET", "/none"), ("GET", "/same"), ("GET", "/hint"), ("HEAD", "/a")] {
            let answer = client.send(request(method, &format!("http://x{path}"), &[], "")).await.unwrap();
            said.push((answer.status, answer.header("content-length").to_owned(), answer.body.len()));
        }

        let of = |status, length: &str| (status, length.to_owned(), 0);
        assert_eq!(said, [of(204, ""), of(304, ""), of(200, "0"), of(200, "5")], "{carrier:?}");
    }
}

#[tokio::test]
async fn an_answer_that_its_endpoint_cuts_short_is_a_reset_and_never_a_whole_one() {
    let cut: [&'static [u8]; 2] = [
        b"HTTP/1.1 200 OK\r\nContent-Length: 200\r\n\r\ncut",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\ncut\r\n",
    ];
    for carrier in CARRIERS {
        let app = Origin::start("v1").await;
        let gateway = gateway(carrier, &app).await;
        let mut client = Client::h2c(gateway.web()).await.unwrap();

        for bytes in cut {
            app.set(Mood::Bytes(bytes));
            let answer = client.get("http://x/a").await;
            assert!(answer.is_err(), "{carrier:?}: {answer:?}");
        }

        assert_eq!(client.get("http://x/fixed").await.unwrap().status, 200, "{carrier:?}: the connection goes on");
    }
}

#[tokio::test]
async fn a_stream_is_written_down_like_any_request() {
    for carrier in CARRIERS {
        let app = Origin::start("v1").await;
        let gateway = gateway(carrier, &app).await;
        let mut client = Client::h2c(gateway.web()).await.unwrap();

        let echo = client.send(request("POST", "http://x/echo?q=1", &[("user-agent", "me")], "hello")).await.unwrap();
        let fixed = client.get("http://x/fixed").await.unwrap();

        assert_eq!((echo.status, fixed.status), (200, 200));
        let log = gateway.dir().join("access.log");
        let lines = || std::fs::read_to_string(&log).unwrap_or_default();
        eventually("both are logged", || async { lines().lines().count() == 2 }).await;
        let rows: Vec<serde_json::Value> = lines().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let row = |n: usize, names: &[&str]| -> Vec<String> {
            names.iter().map(|name| format!("{name}={}", rows[n][*name])).collect()
        };
        let first = row(0, &["method", "host", "path", "query", "protocol", "status", "route", "version", "attempts"]);
        let bytes = row(0, &["bytes_in", "bytes_out", "user_agent"]);
        let second = row(1, &["method", "path", "protocol", "status", "reason", "route", "bytes_in", "bytes_out"]);
        assert_eq!(
            first.join(" "),
            "method=\"POST\" host=\"x\" path=\"/echo\" query=\"q=1\" protocol=\"HTTP/2\" status=200 route=\"all\" version=\"app/default\" attempts=1"
        );
        assert_eq!(bytes.join(" "), "bytes_in=5 bytes_out=5 user_agent=\"me\"");
        assert_eq!(
            second.join(" "),
            "method=\"GET\" path=\"/fixed\" protocol=\"HTTP/2\" status=200 reason=\"fixed\" route=\"fixed\" bytes_in=0 bytes_out=6"
        );
    }
}
