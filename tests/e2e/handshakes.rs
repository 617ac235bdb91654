//! TLS as clients meet it: sessions, key exchange, fingerprints, protocols.

use std::process::Command;
use std::sync::Arc;

use rustls::{ClientConfig, HandshakeKind, NamedGroup};

use crate::kit::client::tls;
use crate::kit::gateway::HOST;
use crate::kit::{Gateway, curl, eventually};

const HELLO: &str = "routes: [{name: all, match: {path: /**}, answer: {status: 200}}]\n";

/// Runs `openssl s_client` towards the gateway, and returns all that it said.
pub async fn s_client(gateway: &Gateway, arguments: &[&str]) -> String {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", &gateway.tls().to_string(), "-servername", HOST]).args(arguments);
    command.stdin(std::process::Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output().expect("openssl runs")).await.unwrap();
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

async fn kind(gateway: &Gateway, config: &Arc<ClientConfig>) -> HandshakeKind {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tls(gateway.tls(), HOST, Arc::clone(config)).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: shop.example.com\r\nConnection: close\r\n\r\n").await.unwrap();
    let _ = stream.read_to_end(&mut Vec::new()).await; // TLS 1.3 tickets come with the answer.
    stream.get_ref().1.handshake_kind().unwrap()
}

#[tokio::test]
async fn every_further_connection_resumes_its_session_on_whichever_core_it_lands() {
    const CONNECTIONS: usize = 30;
    let mut gateway = Gateway::start(HELLO, &[]).await;
    for versions in [&[&rustls::version::TLS12][..], &[&rustls::version::TLS13]] {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(gateway.authority.der.clone()).unwrap();
        let client = ClientConfig::builder_with_provider(crate::kit::certs::provider())
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let client = Arc::new(client);

        let first = kind(&gateway, &client).await;
        let mut resumed = 0;
        for _ in 0..CONNECTIONS {
            resumed += usize::from(kind(&gateway, &client).await == HandshakeKind::Resumed);
        }

        assert_ne!(first, HandshakeKind::Resumed);
        assert_eq!(resumed, CONNECTIONS);
    }
    assert_eq!(gateway.metric("tidegate_tls_resumed_total", &[]).await, 2.0 * CONNECTIONS as f64);
    gateway.assert_unharmed();
}

#[tokio::test]
async fn openssl_resumes_its_session_each_time_it_connects_again() {
    let gateway = Gateway::start(HELLO, &[]).await;

    let said = s_client(&gateway, &["-tls1_2", "-reconnect"]).await;

    assert_eq!(said.matches("Reused, TLSv1.2").count(), 5, "{said}");
}

#[tokio::test]
async fn a_restarted_gateway_with_a_ticket_secret_resumes_what_the_old_one_began() {
    let config = "tls: {ticket_secret: $dir/tickets}\n";
    let mut gateway = Gateway::prepare(&format!("{config}{HELLO}"), &[]);
    std::fs::write(gateway.dir().join("tickets"), [42; 48]).unwrap();
    gateway.spawn();
    gateway.until_ready().await;
    let client = gateway.authority.trust(&[]);
    let first = kind(&gateway, &client).await;

    gateway.signal("TERM");
    gateway.until_ended().await;
    gateway.spawn();
    gateway.until_ready().await;
    let second = kind(&gateway, &client).await;
    std::fs::write(gateway.dir().join("tickets"), [43; 48]).unwrap();
    gateway.until_metric("tidegate_reloads_total", &["result=\"applied\""], 1.0).await;
    let with_another = kind(&gateway, &client).await;

    assert_ne!(first, HandshakeKind::Resumed);
    assert_eq!(second, HandshakeKind::Resumed);
    assert_ne!(with_another, HandshakeKind::Resumed);
}

#[tokio::test]
async fn a_client_that_can_agrees_on_a_key_that_no_quantum_computer_finds() {
    let gateway = Gateway::start(HELLO, &[]).await;

    let stream = tls(gateway.tls(), HOST, gateway.authority.trust(&[])).await.unwrap();

    let group = stream.get_ref().1.negotiated_key_exchange_group().unwrap().name();
    assert_eq!(group, NamedGroup::X25519MLKEM768);
}

#[tokio::test]
async fn fingerprints_tell_clients_apart_and_stay_the_same_for_each() {
    let gateway = Gateway::start(&format!("access_log: $dir/access.log\n{HELLO}"), &[]).await;
    let (port, ip) = (gateway.tls().port(), gateway.tls().ip());
    let resolve = format!("{HOST}:{port}:{ip}");
    let log = gateway.dir().join("access.log");
    let old = ["--tls-max", "1.2", "--ciphers", "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256"];
    let clients = [("/one", &["--http1.1"][..]), ("/same", &["--http1.1"]), ("/two", &["--http2"]), ("/old", &old)];

    for (path, options) in clients {
        let url = format!("https://{HOST}:{port}{path}");
        curl(&[&["-k", "--resolve", &resolve, &url][..], options].concat()).await;
    }
    let lines = || std::fs::read_to_string(&log).unwrap_or_default();
    eventually("four requests are logged", || async { lines().lines().count() == 4 }).await;

    let seen = |path: &str| {
        let parsed =
            lines().lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<serde_json::Value>>();
        parsed.iter().find(|line| line["path"] == path).unwrap()["ja4"].as_str().unwrap().to_owned()
    };
    let (one, two, old) = (seen("/one"), seen("/two"), seen("/old"));
    assert!(one.starts_with("t13d") && one[8..].starts_with("h1_") && one.len() == 36, "{one}");
    assert_eq!(one, seen("/same"));
    assert!(two[8..].starts_with("h2_") && two[11..] == one[11..], "{two} {one}");
    // Two suites and the renegotiation SCSV: printf 00ff,c02b,c02f | sha256sum
    assert!(old.starts_with("t12d03") && old[11..23] == *"0e67c0ef781e", "{old}");
}

#[tokio::test]
async fn a_client_with_no_protocol_in_common_is_told_so() {
    let gateway = Gateway::start(HELLO, &[]).await;

    let said = s_client(&gateway, &["-alpn", "spdy/3"]).await;

    assert!(said.contains("no application protocol"), "{said}");
    gateway.until_metric("tidegate_tls_handshakes_total", &["result=\"incompatible\""], 1.0).await;
}

#[tokio::test]
async fn old_versions_and_weak_suites_are_refused_and_the_server_chooses() {
    let gateway = Gateway::start(HELLO, &[]).await;

    for arguments in [&["-tls1", "-cipher", "ALL:@SECLEVEL=0"][..], &["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"]] {
        let said = s_client(&gateway, arguments).await;
        assert!(said.contains("SSL alert number") && said.contains("Cipher is (NONE)"), "{arguments:?}: {said}");
    }
    let cbc = s_client(&gateway, &["-tls1_2", "-cipher", "AES128-SHA:ECDHE-ECDSA-AES128-SHA:AES128-GCM-SHA256"]).await;
    assert!(cbc.contains("alert handshake failure"), "{cbc}");
    let order = [
        "ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-ECDSA-AES256-GCM-SHA384",
        "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305",
    ];
    for cipher in order {
        let said = s_client(&gateway, &["-tls1_2", "-cipher", cipher]).await;
        assert!(said.contains("Cipher is ECDHE-ECDSA-AES256-GCM-SHA384"), "{said}");
    }
}
