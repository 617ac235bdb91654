//! HTTP/1.1, HTTP/2, h2c, TLS, WebSocket, gRPC and the PROXY protocol, with other people's clients.

use std::process::Command;

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;

use crate::kit::certs::Authority;
use crate::kit::client::tls;
use crate::kit::gateway::HOST;
use crate::kit::{App, Client, Gateway, Origin, PATIENCE, curl, request};

const APP: &str = "
services:
  app: {endpoints: [\"$app\"]}
routes:
  - {name: all, match: {path: /**}, to: app}
";

/// The same, with HTTP/2 to the endpoint.
const H2_APP: &str = "
services:
  app: {endpoints: [\"$app\"], protocol: h2}
routes:
  - {name: all, match: {path: /**}, to: app}
";

#[tokio::test]
async fn alpn_chooses_h2_then_http11_and_h2c_works_by_prior_knowledge() {
    let origin = Origin::start("v1").await;
    let gateway = Gateway::start(APP, &[("app", &origin)]).await;
    let url = format!("https://{HOST}/");

    let mut versions = Vec::new();
    for alpn in [&["h2", "http/1.1"][..], &["http/1.1"], &[]] {
        let mut client = Client::tls(gateway.tls(), HOST, gateway.authority.trust(alpn)).await.unwrap();
        versions.push(client.get(&url).await.unwrap().version);
    }
    let mut h2c = Client::h2c(gateway.web()).await.unwrap();
    let answer = h2c.get("http://shop.example.com/").await.unwrap();

    assert_eq!(versions, [http::Version::HTTP_2, http::Version::HTTP_11, http::Version::HTTP_11]);
    assert_eq!((answer.version, answer.status), (http::Version::HTTP_2, 200));
    assert_eq!(origin.hits(), 4);
    assert_eq!(origin.last().host, HOST);
}

#[tokio::test]
async fn the_certificate_is_chosen_by_name_exact_then_wildcard_then_the_first() {
    let config = "
listeners:
  web: {bind: \"$web\"}
  tls:
    bind: \"$tls\"
    certificates:
      - {cert: $dir/tls/shop.crt, key: $dir/tls/shop.key}
      - {cert: $dir/other/wild.crt, key: $dir/other/wild.key}
      - {cert: $dir/other/exact.crt, key: $dir/other/exact.key}
routes: [{name: all, match: {path: /**}, answer: {status: 200}}]
";
    let mut gateway = Gateway::prepare(config, &[]);
    let other = gateway.dir().join("other");
    let wild = gateway.authority.sign(&other, "wild", &["*.b.example.com"]);
    let exact = gateway.authority.sign(&other, "exact", &["x.b.example.com"]);
    gateway.spawn();
    gateway.until_ready().await;

    let mut served = Vec::new();
    for name in ["x.b.example.com", "y.b.example.com", HOST] {
        let stream = tls(gateway.tls(), name, gateway.authority.trust(&[])).await.unwrap();
        served.push(stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned());
    }
    // Nobody's name: the first certificate is served, which doesn't match, so the client refuses it.
    let nobody = tls(gateway.tls(), "nobody.example.org", gateway.authority.trust(&[])).await.unwrap_err();

    assert_eq!(served[0], exact.der);
    assert_eq!(served[1], wild.der);
    assert_ne!(served[2], exact.der);
    assert!(nobody.to_string().contains("not valid for name"), "{nobody}");
}

#[tokio::test]
async fn a_websocket_echoes_text_and_binary_through_the_gateway() {
    let app = App::start("v1").await;
    let gateway = Gateway::start(APP, &[("app", &app)]).await;

    let plain = TcpStream::connect(gateway.web()).await.unwrap();
    let (mut plain, response) = tokio_tungstenite::client_async(format!("ws://{HOST}/ws"), plain).await.unwrap();
    let secure = tls(gateway.tls(), HOST, gateway.authority.trust(&["http/1.1"])).await.unwrap();
    let (mut secure, _) = tokio_tungstenite::client_async(format!("ws://{HOST}/ws"), secure).await.unwrap();
    let big = Message::binary(vec![7_u8; 200_000]);
    plain.send(Message::text("hello")).await.unwrap();
    secure.send(big.clone()).await.unwrap();
    let (said, gave) = (plain.next().await.unwrap().unwrap(), secure.next().await.unwrap().unwrap());
    plain.close(None).await.unwrap();

    assert_eq!(response.status(), 101);
    assert_eq!(said, Message::text("hello"));
    assert_eq!(gave, big);
}

/// A gRPC message: one byte for compression, four for the length (gRPC over HTTP/2, "Length-Prefixed-Message").
fn grpc_message(text: &str) -> Bytes {
    let mut message = BytesMut::new();
    message.put_u8(0);
    message.put_u32(u32::try_from(text.len()).unwrap());
    message.put_slice(text.as_bytes());
    message.freeze()
}

#[tokio::test]
async fn a_unary_grpc_call_comes_back_with_its_trailers() {
    let app = App::start("v1").await;
    let gateway = Gateway::start(H2_APP, &[("app", &app)]).await;
    let message = grpc_message("ping");
    let headers = [("content-type", "application/grpc"), ("te", "trailers")];

    let mut h2c = Client::h2c(gateway.web()).await.unwrap();
    let plain =
        h2c.send(request("POST", "http://shop.example.com/echo.Echo/Say", &headers, message.clone())).await.unwrap();
    let mut secure = Client::tls(gateway.tls(), HOST, gateway.authority.trust(&["h2"])).await.unwrap();
    let url = format!("https://{HOST}/echo.Echo/Say");
    let secure = secure.send(request("POST", &url, &headers, message.clone())).await.unwrap();

    for answer in [plain, secure] {
        assert_eq!((answer.status, answer.header("content-type")), (200, "application/grpc"));
        assert_eq!(answer.body, message);
        assert_eq!(answer.trailers.expect("trailers arrive")["grpc-status"], "0");
    }
}

#[tokio::test]
async fn a_grpc_call_that_nobody_serves_fails_in_grpcs_own_words() {
    let down = Origin::start("v1").await.kill();
    let gateway = Gateway::start(H2_APP, &[("app", &down)]).await;
    let headers = [("content-type", "application/grpc"), ("te", "trailers")];

    let mut client = Client::h2c(gateway.web()).await.unwrap();
    let call = request("POST", "http://shop.example.com/echo.Echo/Say", &headers, grpc_message("ping"));
    let answer = client.send(call).await.unwrap();

    let status = answer.trailers.as_ref().and_then(|trailers| trailers.get("grpc-status"));
    let status = status.or_else(|| answer.headers.get("grpc-status")).expect("a gRPC client reads grpc-status only");
    assert_eq!((answer.status, status.to_str().unwrap()), (200, "14"), "14 is UNAVAILABLE");
}

#[tokio::test]
async fn curl_speaks_http11_and_http2_with_the_gateway() {
    let origin = Origin::start("v1").await;
    let gateway = Gateway::start(APP, &[("app", &origin)]).await;
    let resolve = format!("{HOST}:{}:127.0.0.1", gateway.tls().port());
    let url = format!("https://{HOST}:{}/hello", gateway.tls().port());
    let ca = gateway.dir().join("tls/ca.crt").display().to_string();

    let mut said = Vec::new();
    for version in ["--http1.1", "--http2"] {
        let format = "%{http_version} %{http_code} %header{x-version}";
        let arguments = [version, "--cacert", &ca, "--resolve", &resolve, "-o", "/dev/null", "-w", format, &url];
        said.push(curl(&arguments).await);
    }
    let h2c = curl(&["--http2-prior-knowledge", &format!("http://{}/hello", gateway.web())]).await;

    assert_eq!(said, ["1.1 200 v1", "2 200 v1"]);
    assert_eq!(h2c, "v1 /hello\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h2load_has_every_one_of_2000_streams_answered() {
    let app = App::start("v1").await;
    let gateway = Gateway::start(APP, &[("app", &app)]).await;

    let output = Command::new("h2load")
        .args(["-n", "2000", "-c", "4", "-m", "20", &format!("http://{}/", gateway.web())])
        .output()
        .expect("h2load runs (make install-tools brings it)");
    let said = String::from_utf8_lossy(&output.stdout);

    assert!(said.contains("2000 succeeded, 0 failed, 0 errored, 0 timeout"), "{said}");
    assert!(said.contains("2000 2xx, 0 3xx, 0 4xx, 0 5xx"), "{said}");
}

#[tokio::test]
async fn the_proxy_protocol_names_the_visitor_in_both_versions() {
    let origin = Origin::start("v1").await;
    let config = "
listeners:
  web: {bind: \"$web\", proxy_protocol: {from: [127.0.0.0/8]}}
services: {app: {endpoints: [\"$app\"]}}
routes: [{name: all, match: {path: /**}, to: app}]
";
    let gateway = Gateway::start(config, &[("app", &origin)]).await;
    let v1 = b"PROXY TCP4 203.0.113.7 10.0.0.1 4711 80\r\n".to_vec();
    let mut v2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c".to_vec();
    v2.extend([203, 0, 113, 8, 10, 0, 0, 1, 0x12, 0x67, 0, 80]);

    for header in [v1, v2] {
        let mut stream = TcpStream::connect(gateway.web()).await.unwrap();
        stream.write_all(&header).await.unwrap();
        let mut client = Client::h1_on(stream).await.unwrap();
        assert_eq!(client.get("http://shop.example.com/").await.unwrap().status, 200);
    }
    // Who doesn't begin with the header is not served.
    let mut bare = TcpStream::connect(gateway.web()).await.unwrap();
    bare.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut said = Vec::new();
    let _ = bare.read_to_end(&mut said).await;

    let addresses: Vec<_> = origin.seen().iter().map(|seen| seen.header("x-forwarded-for")).collect();
    assert_eq!(addresses, ["203.0.113.7", "203.0.113.8"]);
    assert!(!String::from_utf8_lossy(&said).contains("200 OK"));
}

#[tokio::test]
async fn promtool_finds_nothing_wrong_with_the_metrics() {
    let origin = Origin::start("v1").await;
    let gateway = Gateway::start(APP, &[("app", &origin)]).await;
    crate::kit::get(gateway.web(), "/").await.unwrap();
    gateway.until_metric("tidegate_requests_total", &[], 1.0).await;
    let metrics = gateway.metrics().await;

    let file = gateway.dir().join("metrics.txt");
    std::fs::write(&file, &metrics).unwrap();
    let output = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(std::fs::File::open(file).unwrap())
        .output()
        .expect("promtool runs (make install-tools brings it)");

    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{metrics}");
    assert_eq!(said, "");
}

#[tokio::test]
async fn a_client_that_trusts_somebody_else_is_refused_by_itself_and_the_next_one_is_served() {
    let gateway = Gateway::start("routes: [{name: all, match: {path: /**}, answer: {status: 200}}]\n", &[]).await;

    let stranger = tls(gateway.tls(), HOST, Authority::new().trust(&[])).await;
    let mut friend = Client::tls(gateway.tls(), HOST, gateway.authority.trust(&[])).await.unwrap();

    assert!(stranger.is_err());
    assert_eq!(friend.get(&format!("https://{HOST}/")).await.unwrap().status, 200);
}

#[tokio::test]
async fn an_idle_http2_client_that_confirms_no_goaway_is_left() {
    const SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0";
    let config = "
listeners: {web: {bind: \"$web\", timeouts: {idle: 200ms}}}
routes: [{name: all, match: {path: /**}, answer: {status: 200}}]
";
    let mut gateway = Gateway::start(config, &[]).await;
    let mut client = TcpStream::connect(gateway.web()).await.unwrap();
    client.write_all(&[b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", SETTINGS].concat()).await.unwrap();

    let mut said = Vec::new();
    let ended = tokio::time::timeout(PATIENCE, client.read_to_end(&mut said)).await;

    assert!(ended.is_ok(), "still open; it said {said:?}");
    let mut types = Vec::new();
    let mut rest = &said[..];
    while let [a, b, c, kind, _, _, _, _, _, behind @ ..] = rest {
        types.push(*kind);
        rest = &behind[usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c)..];
    }
    assert!(types.contains(&7), "no GOAWAY among frames of types {types:?}");
    gateway.assert_unharmed();
}
