//! Two carriers, one gateway: the same bytes get the same answers through express as through Pingora, and endpoints see
//! the same requests.
//!
//! Not compared: the order and case of header lines, `Date`, `Trailer` (trailers are dropped), request ids, how a body is cut into chunks, and
//! `Connection: keep-alive`, which HTTP/1.1 doesn't need.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::kit::client::raw;
use crate::kit::{Client, Gateway, Mood, Origin, get, request};

const CONFIG: &str = "
listeners:
  web: {bind: \"$web\", timeouts: {idle: 500ms, body: 2s}}
limits: {few: {key: \"header:x-user\", rate: 1/h}}
services:
  app: {endpoints: [\"$app\"], eject: off}
  odd: {endpoints: [\"$odd\"], eject: off}
routes:
  - {name: fixed, match: {path: /fixed}, answer: {status: 200, body: \"fixed\\n\"}, response_headers: {set: {x-a: b}, remove: [x-none]}}
  - {name: none, match: {path: /none}, answer: {status: 204}}
  - {name: moved, match: {path: /moved/**}, redirect: {port: 8443, path: /new}}
  - {name: few, match: {path: /few}, limits: [few], answer: {status: 200}}
  - {name: small, match: {path: /small}, to: app, max_body: 8}
  - {name: odd, match: {path: /odd/**}, to: odd}
  - name: edited
    match: {path: /edited/**}
    to: app
    rewrite: {host: inner.example.com, path: /inner}
    request_headers: {set: {x-set: s}, add: {x-add: a}, remove: [x-gone]}
    response_headers: {set: {x-version: hidden}, add: {x-more: m}}
  - {name: all, match: {path: /**}, to: app}
";

/// A gateway with origins of its own.
struct Rig {
    gateway: Gateway,
    app: Origin,
    odd: Origin,
}

impl Rig {
    async fn start(carrier: &str) -> Self {
        let (app, odd) = (Origin::start("v1").await, Origin::start("odd").await);
        let mut gateway = Gateway::prepare(CONFIG, &[("app", &app), ("odd", &odd)]);
        gateway.environment.push(("TIDEGATE_CARRIER".into(), carrier.into()));
        gateway.spawn();
        gateway.until_ready().await;
        Self { gateway, app, odd }
    }

    /// What `bytes` are answered, and what that made the endpoints see.
    async fn exchange(&self, bytes: &[u8]) -> (Vec<Said>, Vec<String>) {
        let before = self.app.seen().len();
        let said = raw_bytes(self.gateway.web(), bytes).await;
        (answers(&said), self.seen_since(before))
    }

    fn seen_since(&self, before: usize) -> Vec<String> {
        let seen = self.app.seen().split_off(before);
        let seen = seen.iter().map(|seen| {
            let mut headers: BTreeMap<_, Vec<_>> = BTreeMap::new();
            for (name, value) in &seen.headers {
                headers.entry(name.as_str()).or_default().push(String::from_utf8_lossy(value.as_bytes()).into_owned());
            }
            headers.remove("x-request-id").expect("every request has an id");
            format!("{} {} {} {headers:?} {:?}", seen.method, seen.path, seen.host, seen.body)
        });
        seen.collect()
    }

    /// What a request over HTTP/2 is answered, and what that made the endpoints see. Each has a connection of its own.
    async fn stream(&self, (method, url, headers, body): &Stream) -> (Option<Said>, Vec<String>) {
        let before = self.app.seen().len();
        let mut client = Client::h2c(self.gateway.web()).await.unwrap();
        let answer = client.send(request(method, url, headers, *body)).await.ok();
        let said = answer.map(|answer| {
            let value = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
            let headers = answer.headers.iter().map(|(name, v)| (name.to_string(), value(v)));
            let mut headers: Vec<_> =
                headers.filter(|(name, _)| !["date", "x-request-id", "trailer"].contains(&name.as_str())).collect();
            headers.sort();
            Said { status: answer.status, reason: String::new(), headers, body: answer.text() }
        });
        (said, self.seen_since(before))
    }
}

async fn raw_bytes(address: std::net::SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let _ = stream.write_all(bytes).await;
    let mut said = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(15), stream.read_to_end(&mut said)).await;
    assert!(read.is_ok(), "the connection stays open; it said {}", String::from_utf8_lossy(&said));
    said
}

/// One answer, without what needn't be the same.
#[derive(Debug, PartialEq)]
struct Said {
    status: u16,
    reason: String,
    headers: Vec<(String, String)>,
    body: String,
}

/// The answers in a byte stream. All tests here ask by GET where an answer has a body.
fn answers(mut bytes: &[u8]) -> Vec<Said> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let mut space = [httparse::EMPTY_HEADER; 64];
        let mut response = httparse::Response::new(&mut space);
        let Ok(httparse::Status::Complete(head)) = response.parse(bytes) else {
            all.push(Said { status: 0, reason: "cut".into(), headers: vec![], body: String::new() });
            return all;
        };
        bytes = &bytes[head..];
        let status = response.code.unwrap();
        let mut headers: Vec<_> = response
            .headers
            .iter()
            .map(|h| (h.name.to_ascii_lowercase(), String::from_utf8_lossy(h.value).into_owned()))
            .filter(|(name, value)| !(name == "connection" && value == "keep-alive"))
            .filter(|(name, _)| !["date", "x-request-id", "trailer"].contains(&name.as_str()))
            .collect();
        headers.sort();
        let value = |name: &str| headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
        let mut body = Vec::new();
        if value("transfer-encoding").is_some() {
            while let Some(line) = bytes.windows(2).position(|w| w == b"\r\n") {
                let size = usize::from_str_radix(std::str::from_utf8(&bytes[..line]).unwrap(), 16).unwrap();
                body.extend_from_slice(&bytes[line + 2..line + 2 + size]);
                bytes = &bytes[line + 2 + size + 2..];
                if size == 0 {
                    break;
                }
            }
        } else if status >= 200 && status != 304 && value("x-head").is_none() {
            let length = value("content-length").map_or(0, |length| length.parse().unwrap()).min(bytes.len());
            body.extend_from_slice(&bytes[..length]);
            bytes = &bytes[length..];
        }
        let reason = response.reason.unwrap_or_default().to_owned();
        all.push(Said { status, reason, headers, body: String::from_utf8_lossy(&body).into_owned() });
    }
    all
}

/// What clients send. `$` stands for the lines that all have.
const REQUESTS: &[&str] = &[
    "GET /a HTTP/1.1\r\n$\r\n",
    "GET /a//b/%2f?x=%20&y#z HTTP/1.1\r\n$\r\n",
    "GET /a?x=1&y=[2]|{3} HTTP/1.1\r\n$\r\n",
    "OPTIONS * HTTP/1.1\r\n$\r\n",
    "OPTIONS /a HTTP/1.1\r\n$\r\n",
    "PURGE /a HTTP/1.1\r\n$\r\n",
    "GET http://shop.example.com/abs?q HTTP/1.1\r\nHost: other\r\n\r\n",
    "GET / HTTP/1.0\r\n$\r\n",
    "GET / HTTP/1.0\r\n\r\n",
    "GET / HTTP/1.0\r\n$Connection: keep-alive\r\n\r\n",
    "GET / HTTP/1.1\r\n$Connection: close\r\n\r\n",
    "GET / HTTP/1.1\r\n$Connection: keep-alive\r\nKeep-Alive: 5\r\nProxy-Connection: x\r\nTE: trailers\r\nTrailer: x\r\n\r\n",
    "GET / HTTP/1.1\r\n$Proxy-Authorization: Basic eA==\r\nAuthorization: Basic eA==\r\nHTTP2-Settings: x\r\n\r\n",
    "GET / HTTP/1.1\r\n$Connection: x-private\r\nX-Private: secret\r\nX-Public: 1\r\n\r\n",
    "GET / HTTP/1.1\r\n$Connection: host\r\n\r\n",
    "GET / HTTP/1.1\r\n$X-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Proto: https\r\nForwarded: for=1.2.3.4\r\n\r\n",
    "GET / HTTP/1.1\r\n$X-Request-Id: mine\r\nX-Forwarded-Host: evil\r\n\r\n",
    "GET / HTTP/1.1\r\n$Cookie: a=b\r\nCookie: c=d\r\nX-A:  spaced  out \r\nX-A:\r\nX-\u{e9}: no\r\n\r\n",
    "GET / HTTP/1.1\r\n$X-A: \u{e9}\r\n\r\n",
    "GET / HTTP/1.1\r\n$traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\ntracestate: a=b\r\n\r\n",
    "GET / HTTP/1.1\r\n$traceparent: nonsense\r\ntracestate: a=b\r\n\r\n",
    "POST /e HTTP/1.1\r\n$Content-Length: 5\r\n\r\nhello",
    "POST /e HTTP/1.1\r\n$Content-Length: 0\r\n\r\n",
    "POST /e HTTP/1.1\r\n$\r\n",
    "POST /e HTTP/1.1\r\n$Transfer-Encoding: chunked\r\n\r\n5;ext=1\r\nhello\r\n6\r\n world\r\n0\r\nX-Trailer: 1\r\n\r\n",
    "POST /e HTTP/1.1\r\n$Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "POST /e HTTP/1.1\r\n$Transfer-Encoding: chunked\r\n\r\n5\r\nhelloX\r\n",
    "POST /e HTTP/1.1\r\n$Content-Length: 5\r\nExpect: 100-continue\r\n\r\nhello",
    "POST /e HTTP/1.1\r\n$Content-Length: 50\r\n\r\nhello",
    "POST /small HTTP/1.1\r\n$Content-Length: 8\r\n\r\n12345678",
    "POST /small HTTP/1.1\r\n$Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n5\r\nhello\r\n5\r\nworld\r\n0\r\n\r\n",
    "GET /a HTTP/1.1\r\n$\r\nGET /b HTTP/1.1\r\n$\r\nPOST /c HTTP/1.1\r\n$Content-Length: 2\r\n\r\nccGET /d HTTP/1.1\r\n$\r\n",
    "GET /fixed HTTP/1.1\r\n$\r\n",
    "GET /fixed HTTP/1.0\r\n$\r\n",
    "GET /fixed HTTP/1.0\r\n$Connection: keep-alive\r\n\r\n",
    "GET /fixed HTTP/1.1\r\n$Connection: close\r\n\r\n",
    "POST /fixed HTTP/1.1\r\n$Content-Length: 5\r\n\r\nhelloGET /fixed HTTP/1.1\r\n$\r\n",
    "POST /fixed HTTP/1.1\r\n$Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\nGET /a HTTP/1.1\r\n$\r\n",
    "GET /none HTTP/1.1\r\n$\r\nGET /fixed HTTP/1.1\r\n$\r\n",
    "GET /moved/there?q=1 HTTP/1.1\r\n$\r\n",
    "GET /few HTTP/1.1\r\n$X-User: ann\r\n\r\nGET /few HTTP/1.1\r\n$X-User: ann\r\n\r\n",
    "GET /few HTTP/1.1\r\n$X-User: ann\r\nContent-Type: application/grpc\r\nConnection: close\r\n\r\n",
    "GET /edited/x?q=1 HTTP/1.1\r\n$X-Gone: 1\r\nX-Set: theirs\r\nX-Add: theirs\r\n\r\n",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_carriers_send_the_same_requests_and_give_the_same_answers() {
    let (express, pingora) = tokio::join!(Rig::start(""), Rig::start("pingora"));

    let mut wrong = Vec::new();
    for written in REQUESTS {
        let bytes = written.replace('$', "Host: Shop.Example.com:8080\r\nUser-Agent: test\r\nAccept: */*\r\n");
        let (one, other) = tokio::join!(express.exchange(bytes.as_bytes()), pingora.exchange(bytes.as_bytes()));
        if one != other {
            wrong.push(format!("{written:?}\n  express {one:#?}\n  pingora {other:#?}"));
        }
    }

    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A request over HTTP/2: method, URL, headers, body.
type Stream = (&'static str, &'static str, &'static [(&'static str, &'static str)], &'static str);

/// What HTTP/2 clients send.
const STREAMS: &[Stream] = &[
    ("GET", "http://Shop.Example.com:8080/a", &[("user-agent", "test"), ("accept", "*/*")], ""),
    ("GET", "http://x", &[], ""),
    ("GET", "http://x/a//b/%2f?x=%20&y", &[], ""),
    ("GET", "http://x/../a", &[], ""),
    ("HEAD", "http://x/a", &[], ""),
    ("OPTIONS", "http://x/a", &[], ""),
    ("PURGE", "http://x/a", &[], ""),
    ("TRACE", "http://x/a", &[], ""),
    (
        "GET",
        "http://x/a",
        &[("te", "trailers"), ("trailer", "x"), ("proxy-authorization", "x"), ("http2-settings", "x")],
        "",
    ),
    ("GET", "http://x/a", &[("cookie", "a=b"), ("cookie", "c=d"), ("cookie", "e=f"), ("x-a", ""), ("x-a", "1")], ""),
    ("GET", "http://x/a", &[("cookie", "a=b")], ""),
    (
        "GET",
        "http://x/a",
        &[("x-forwarded-for", "1.2.3.4"), ("forwarded", "for=1.2.3.4"), ("x-forwarded-host", "evil")],
        "",
    ),
    ("GET", "http://x/a", &[("traceparent", "nonsense"), ("tracestate", "a=b"), ("x-request-id", "mine")], ""),
    ("GET", "http://x/a", &[("client-cert", "forged"), ("x-real-ip", "1.2.3.4"), ("x_forwarded_for", "1.2.3.4")], ""),
    ("GET", "http://x/a", &[("host", "y")], ""),
    ("POST", "http://x/e", &[], "hello"),
    ("POST", "http://x/e", &[], ""),
    ("POST", "http://x/e", &[("content-length", "0")], ""),
    ("POST", "http://x/e", &[("content-length", "5")], "hello"),
    ("POST", "http://x/e", &[("content-length", "6")], "hello"),
    ("POST", "http://x/e", &[("content-length", "x")], "hello"),
    ("POST", "http://x/e", &[("expect", "100-continue")], "hello"),
    ("GET", "http://x/e", &[], "hello"),
    ("POST", "http://x/small", &[], "12345678"),
    ("POST", "http://x/small", &[], "123456789"),
    ("GET", "http://x/fixed", &[], ""),
    ("HEAD", "http://x/fixed", &[], ""),
    ("POST", "http://x/fixed", &[], "hello"),
    ("GET", "http://x/none", &[], ""),
    ("GET", "http://x/moved/there?q=1", &[], ""),
    ("GET", "http://x/few", &[("x-user", "bob")], ""),
    ("GET", "http://x/few", &[("x-user", "bob")], ""),
    ("GET", "http://x/few", &[("x-user", "bob"), ("content-type", "application/grpc")], ""),
    ("GET", "http://x/edited/x?q=1", &[("x-gone", "1"), ("x-set", "theirs"), ("x-add", "theirs")], ""),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_carriers_send_the_same_requests_and_give_the_same_answers_over_http2() {
    let (express, pingora) = tokio::join!(Rig::start(""), Rig::start("pingora"));

    let mut wrong = Vec::new();
    for stream in STREAMS {
        let (one, other) = tokio::join!(express.stream(stream), pingora.stream(stream));
        if one != other {
            wrong.push(format!("{stream:?}\n  express {one:#?}\n  pingora {other:#?}"));
        }
    }
    for answer in ANSWERS {
        express.odd.set(Mood::Bytes(answer));
        pingora.odd.set(Mood::Bytes(answer));
        let get = ("GET", "http://x/odd/", &[][..], "");
        let (one, other) = tokio::join!(express.stream(&get), pingora.stream(&get));
        if one != other {
            wrong.push(format!("{}\n  express {one:#?}\n  pingora {other:#?}", answer.escape_ascii()));
        }
    }

    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What endpoints answer to a GET.
const ANSWERS: &[&[u8]] = &[
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
    b"HTTP/1.1 200 Very Well\r\nContent-Length: 2\r\nX-A: 1\r\nx-a: 2\r\nSet-Cookie: a\r\nSet-Cookie: b\r\n\r\nhi",
    b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n\r\nuntil the end",
    b"HTTP/1.0 200 OK\r\n\r\nuntil the end",
    b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nhi\r\n3\r\n ho\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n2\r\nhi\r\n0\r\nX-T: 1\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
    b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno",
    b"HTTP/1.1 599 Odd\r\nContent-Length: 2\r\n\r\nno",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2, 3\r\n\r\nhi",
    b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\nhi",
    b"HTTP/1.1 200 OK\r\nX Y: 1\r\n\r\nhi",
    b"HTTP/1.1 200 OK\r\nContent-Le",
    b"HTTP/1.1 200 OK\r\nContent-Length: 200\r\n\r\ncut",
    b"nonsense",
    b"",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_carriers_give_the_same_answers_whatever_the_endpoint_says() {
    let (express, pingora) = tokio::join!(Rig::start(""), Rig::start("pingora"));
    let get = b"GET /odd/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

    let mut wrong = Vec::new();
    for answer in ANSWERS {
        express.odd.set(Mood::Bytes(answer));
        pingora.odd.set(Mood::Bytes(answer));
        let (one, other) = tokio::join!(express.exchange(get), pingora.exchange(get));
        if one != other {
            wrong.push(format!("{}\n  express {one:#?}\n  pingora {other:#?}", answer.escape_ascii()));
        }
    }

    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn an_answer_whose_end_is_in_doubt_is_a_502_and_the_client_keeps_its_connection() {
    let rig = Rig::start("").await;
    let mut client = Client::h1(rig.gateway.web()).await.unwrap();
    let doubtful: [&'static [u8]; 7] = [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nhi!",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhi\r\n0\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    ];

    let mut statuses = Vec::new();
    for answer in doubtful {
        rig.odd.set(Mood::Bytes(answer));
        statuses.push(client.get("http://x/odd/").await.unwrap().status);
    }

    assert_eq!(statuses, [502; 7]);
}

#[tokio::test]
async fn an_endpoint_that_closes_its_connections_without_a_word_fails_nobody() {
    let rig = Rig::start("").await;
    rig.odd.set(Mood::Bytes(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"));
    let mut client = Client::h1(rig.gateway.web()).await.unwrap();

    let mut statuses = Vec::new();
    for _ in 0..50 {
        statuses.push(client.get("http://x/odd/").await.unwrap().status);
    }

    assert_eq!(statuses, [200; 50]);
    assert_eq!(rig.gateway.metric("tidegate_retries_total", &[]).await, 0.0, "a stale connection is not a try");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_bodies_pass_whole_in_both_directions_at_once() {
    let rig = Rig::start("").await;
    let mut client = Client::h1(rig.gateway.web()).await.unwrap();
    let body: Vec<u8> = (0..5_000_000_u32).map(|n| (n % 251) as u8).collect();

    for _ in 0..3 {
        let answer = client.send(request("POST", "http://x/echo", &[], body.clone())).await.unwrap();
        assert!(answer.status == 200 && answer.body == body, "{} bytes", answer.body.len());
    }

    assert_eq!(rig.app.connections(), 1, "the upstream connection is kept");
}

#[tokio::test]
async fn an_answer_that_comes_before_the_body_was_sent_reaches_the_client() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut buffer = [0; 64 << 10];
                let _ = stream.read(&mut buffer).await;
                let _ = stream.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno").await;
                while stream.read(&mut buffer).await.is_ok_and(|n| n > 0) {}
            });
        }
    });
    let config = "
services: {app: {endpoints: [\"$app\"]}}
routes: [{name: all, match: {path: /**}, to: app}]
";
    let gateway = Gateway::start(config, &[("app", &address)]).await;
    let mut stream = TcpStream::connect(gateway.web()).await.unwrap();

    stream.write_all(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\n\r\nbegun").await.unwrap();
    let mut early = [0; 1_024];
    let n = stream.read(&mut early).await.unwrap();
    stream.write_all(&vec![b'x'; 200_000 - 5]).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await.unwrap();

    assert!(early[..n].starts_with(b"HTTP/1.1 403 Forbidden"), "{}", early[..n].escape_ascii());
    assert!(rest.contains("HTTP/1.1 403 Forbidden"), "the connection went on: {rest:?}");
}

#[tokio::test]
async fn a_slow_endpoint_and_a_client_that_left_are_told_apart() {
    let rig = Rig::start("").await;
    rig.app.set(Mood::Slow(Duration::from_millis(300)));
    let mut stream = TcpStream::connect(rig.gateway.web()).await.unwrap();

    stream.write_all(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    crate::kit::eventually("the origin has the request", || async { rig.app.hits() == 1 }).await;
    drop(stream);

    rig.gateway.until_metric("tidegate_requests_total", &["code=\"499\""], 1.0).await;
    assert_eq!(get(rig.gateway.web(), "/a").await.unwrap().status, 200);
    assert_eq!(raw(rig.gateway.web(), "GET /fixed HTTP/1.0\r\n\r\n").await.unwrap().get(9..12), Some("200"));
}

#[tokio::test]
async fn an_answer_that_breaks_off_counts_against_its_endpoint_through_both_carriers() {
    const TORN: &[&[u8]] = &[
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    ];
    const IN_A_ROW: usize = 3;
    let config = "
services:
  app: {endpoints: [\"$torn\", \"$whole\"], balance: round_robin, eject: {consecutive_5xx: 3, for: 1h}}
routes: [{name: all, match: {path: /**}, to: app}]
";
    for carrier in ["express", "pingora"] {
        for bytes in TORN {
            let (torn, whole) = (Origin::start("torn").await, Origin::start("whole").await);
            torn.set(Mood::Bytes(bytes));
            let mut gateway = Gateway::prepare(config, &[("torn", &torn), ("whole", &whole)]);
            gateway.environment.push(("TIDEGATE_CARRIER".into(), carrier.into()));
            gateway.spawn();
            gateway.until_ready().await;

            let mut cut = 0;
            for _ in 0..30 {
                let said = raw_bytes(gateway.web(), b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
                cut += usize::from(!String::from_utf8_lossy(&said).contains("whole /"));
            }

            assert_eq!(cut, IN_A_ROW, "{carrier}: {}", String::from_utf8_lossy(bytes));
            assert_eq!(gateway.metric("tidegate_ejections_total", &[]).await, 1.0, "{carrier}");
        }
    }
}
