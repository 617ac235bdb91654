//! Ways to reach an endpoint: unix sockets, TLS with an own authority and a client certificate, HTTP/2, nginx.

use std::sync::Arc;

use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;

use crate::kit::certs::{Authority, provider};
use crate::kit::nginx::Nginx;
use crate::kit::{Client, Gateway, Mood, Origin, get, request};

#[tokio::test]
async fn an_endpoint_may_be_a_unix_socket() {
    let dir = tempfile::tempdir().unwrap();
    let origin = Origin::start_unix("unix", &dir.path().join("app.sock"));
    let config = "
services: {app: {endpoints: [\"$app\"]}}
routes: [{name: all, match: {path: /**}, to: app}]
";
    let gateway = Gateway::start(config, &[("app", &origin)]).await;

    let answer = get(gateway.web(), "/hello").await.unwrap();

    assert_eq!((answer.status, answer.text()), (200, "unix /hello\n".into()));
}

/// A TLS origin that asks for a certificate from `authority`, and offers `alpn`.
fn acceptor(authority: &Authority, dir: &std::path::Path, alpn: &[&str]) -> TlsAcceptor {
    use rustls::pki_types::PrivateKeyDer;
    use rustls::pki_types::pem::PemObject;

    let signed = authority.sign(dir, "origin", &["inner.example.com"]);
    let mut roots = RootCertStore::empty();
    roots.add(authority.der.clone()).unwrap();
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider()).build().unwrap();
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![signed.der], PrivateKeyDer::from_pem_file(signed.key).unwrap())
        .unwrap();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    TlsAcceptor::from(Arc::new(config))
}

const TLS_APP: &str = "
services:
  app:
    endpoints: [\"$app\"]
    protocol: $protocol
    tls: {ca: $certs/ca.crt, sni: inner.example.com, client: {cert: $certs/client.crt, key: $certs/client.key}}
routes: [{name: all, match: {path: /**}, to: app}]
";

#[tokio::test]
async fn an_endpoint_behind_tls_is_verified_and_shown_our_certificate() {
    for (protocol, alpn, spoken) in
        [("http/1.1", "http/1.1", "HTTP/1.1"), ("h2", "h2", "HTTP/2.0"), ("auto", "h2", "HTTP/2.0")]
    {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::new();
        let origin = Origin::start_tls("inner", acceptor(&authority, dir.path(), &[alpn])).await;
        authority.sign(dir.path(), "client", &["gateway.example.com"]);
        std::fs::write(dir.path().join("ca.crt"), &authority.pem).unwrap();
        let certs = dir.path().display();
        let gateway = Gateway::start(TLS_APP, &[("app", &origin), ("certs", &certs), ("protocol", &protocol)]).await;

        let answer = get(gateway.web(), "http://shop.example.com/").await.unwrap();

        assert_eq!((answer.status, answer.text()), (200, "inner /\n".into()), "{protocol}");
        assert_eq!((origin.last().protocol.as_str(), origin.last().host.as_str()), (spoken, "shop.example.com"));
    }
}

#[tokio::test]
async fn an_endpoint_that_another_authority_signed_is_not_talked_to() {
    let dir = tempfile::tempdir().unwrap();
    let origin = Origin::start_tls("inner", acceptor(&Authority::new(), dir.path(), &["http/1.1"])).await;
    let authority = Authority::new();
    authority.sign(dir.path(), "client", &["gateway.example.com"]);
    std::fs::write(dir.path().join("ca.crt"), &authority.pem).unwrap();
    let certs = dir.path().display();
    let gateway = Gateway::start(TLS_APP, &[("app", &origin), ("certs", &certs), ("protocol", &"http/1.1")]).await;

    let answer = get(gateway.web(), "/").await.unwrap();

    assert!([502, 503].contains(&answer.status), "{}", answer.status);
    assert_eq!(origin.hits(), 0);
}

#[tokio::test]
async fn http2_is_spoken_to_a_plain_endpoint_that_is_configured_so() {
    let origin = Origin::start("v1").await;
    let config = "
services: {app: {endpoints: [\"$app\"], protocol: h2}}
routes: [{name: all, match: {path: /**}, to: app}]
";
    let gateway = Gateway::start(config, &[("app", &origin)]).await;
    let mut client = Client::h1(gateway.web()).await.unwrap();

    let get = client.get("http://shop.example.com/a").await.unwrap();
    let post = client.send(request("POST", "http://shop.example.com/b", &[], "body")).await.unwrap();

    assert_eq!((get.text(), post.text()), ("v1 /a\n".into(), "body".into()));
    assert!(origin.seen().iter().all(|seen| seen.protocol == "HTTP/2.0"), "{:?}", origin.seen());
}

#[tokio::test]
async fn nginx_serves_files_ranges_and_heads_through_the_gateway() {
    let file: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    let nginx = Nginx::start(&[("big.bin", &file)]).await;
    let config = "
services: {app: {endpoints: [\"$app\"], health: {path: /healthz, every: 1s}}}
routes: [{name: all, match: {path: /**}, to: app}]
";
    let gateway = Gateway::start(config, &[("app", &nginx.address())]).await;
    let mut client = Client::h1(gateway.web()).await.unwrap();

    let whole = client.get("http://x/big.bin").await.unwrap();
    let part = client.send(request("GET", "http://x/big.bin", &[("range", "bytes=1000-1999")], "")).await.unwrap();
    let head = client.send(request("HEAD", "http://x/big.bin", &[], "")).await.unwrap();
    let missing = client.get("http://x/missing").await.unwrap();

    assert!(whole.status == 200 && whole.body == file);
    assert!(part.status == 206 && part.body == file[1000..2000]);
    assert_eq!((head.status, head.header("content-length"), head.body.len()), (200, "3000000", 0));
    assert_eq!(missing.status, 404);
}

#[tokio::test]
async fn a_failed_request_is_retried_on_an_endpoint_that_has_not_failed_it() {
    let (bad, good) = (Origin::start("bad").await, Origin::start("good").await);
    bad.set(Mood::Status(503));
    let config = "
services:
  app:
    endpoints: [\"$bad\", \"$good\"]
    balance: round_robin
    eject: off
    retry: {when: [\"503\"], attempts: 1, methods: idempotent, budget: 100%}
routes: [{name: all, match: {path: /**}, to: app}]
";
    let gateway = Gateway::start(config, &[("bad", &bad), ("good", &good)]).await;
    let mut client = Client::h1(gateway.web()).await.unwrap();

    let mut gets = Vec::new();
    for _ in 0..10 {
        gets.push(client.get("http://x/").await.unwrap().status);
    }
    let mut posts = Vec::new();
    for _ in 0..10 {
        posts.push(client.send(request("POST", "http://x/", &[], "once")).await.unwrap().status);
    }

    assert_eq!(gets, [200; 10], "GET is idempotent");
    assert!(posts.contains(&503), "POST is not: {posts:?}");
    assert_eq!(bad.seen().iter().chain(&good.seen()).filter(|seen| seen.method == "POST").count(), 10);
}

#[tokio::test]
async fn an_nginx_that_admits_only_the_gateway_answers_through_it_and_nobody_else() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    authority.sign(dir.path(), "origin", &["inner.example.com"]);
    authority.sign(dir.path(), "client", &["gateway.example.com"]);
    std::fs::write(dir.path().join("ca.crt"), &authority.pem).unwrap();
    let at = dir.path().display();
    let nginx = Nginx::start_guarded(&format!(
        "ssl_certificate {at}/origin.crt; ssl_certificate_key {at}/origin.key;
        ssl_client_certificate {at}/ca.crt; ssl_verify_client on;"
    ))
    .await;
    let inner = nginx.guarded();
    let gateway = Gateway::start(TLS_APP, &[("app", &inner), ("certs", &at), ("protocol", &"http/1.1")]).await;

    let through = get(gateway.web(), "http://shop.example.com/who").await.unwrap();
    let mut around = Client::tls(inner, "inner.example.com", authority.trust(&[])).await.unwrap();
    let refused = around.get("https://inner.example.com/who").await.unwrap();

    assert_eq!((through.status, through.text().as_str()), (200, "CN=client"));
    assert_eq!(refused.status, 400); // nginx: "No required SSL certificate was sent".
}
