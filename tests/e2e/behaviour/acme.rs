//! Certificates by themselves, from a real ACME authority (pebble).

use std::process::Command;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio::task::JoinSet;

use crate::kit::certs::provider;
use crate::kit::{Gateway, Manner, Origin, Pebble, client, curl, eventually};

const HOST: &str = "shop.example.org";

/// A gateway that orders a certificate for [`HOST`] and `www.`; `$challenge` and `$store` come from the test.
const CONFIG: &str = "
listeners:
  web: {bind: \"$web\", redirect_to: tls}
  tls:
    bind: \"$tls\"
    certificates:
      - {cert: $dir/tls/shop.crt, key: $dir/tls/shop.key}
      - {acme: [shop.example.org, www.shop.example.org]}
acme: {directory: \"$authority\", ca: $ca, accept_terms: true, contact: \"mailto:ops@example.org\", store: $store, challenge: [$challenge]}
routes: [{name: all, match: {path: /**}, answer: {status: 200, body: routed}}]
";

fn prepare(pebble: &Pebble, challenge: &str, store: &std::path::Path) -> Gateway {
    let (ca, store) = (pebble.ca().display().to_string(), store.display().to_string());
    Gateway::prepare(
        CONFIG,
        &[("authority", &pebble.directory()), ("ca", &ca), ("store", &store), ("challenge", &challenge)],
    )
}

/// A client that trusts nobody but `root`, and resumes no session.
fn trusting(root: &str) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(root.as_bytes()).unwrap()).unwrap();
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = rustls::client::Resumption::disabled();
    Arc::new(config)
}

/// The certificate that a gateway shows for `host`, if it is from the authority.
async fn leaf(gateway: &Gateway, host: &str, trust: &Arc<ClientConfig>) -> anyhow::Result<CertificateDer<'static>> {
    let stream = client::tls(gateway.tls(), host, Arc::clone(trust)).await?;
    Ok(stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned())
}

async fn until_issued(gateway: &Gateway, trust: &Arc<ClientConfig>) -> CertificateDer<'static> {
    eventually("a certificate of the authority is shown", || async { leaf(gateway, HOST, trust).await.is_ok() }).await;
    leaf(gateway, HOST, trust).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_ordered_by_http_01_through_a_redirect_listener_and_other_names_never_wait() {
    let store = tempfile::tempdir().unwrap();
    let mut pebble = Pebble::away();
    let mut gateway = prepare(&pebble, "http-01", store.path());
    gateway.spawn();
    gateway.until_ready().await;

    let placeholder = client::tls(gateway.tls(), HOST, trusting(&gateway.authority.pem)).await;
    let other = client::tls(gateway.tls(), "localhost", trusting(&gateway.authority.pem)).await;
    let note = client::get(gateway.admin(), "/readyz").await.unwrap();
    gateway.until_metric("tidegate_acme_orders_total", &["away"], 1.0).await;
    pebble.arrive(&Manner::asking(gateway.web(), gateway.tls())).await;
    let trust = trusting(&pebble.root().await);
    let shown = until_issued(&gateway, &trust).await;

    assert!(placeholder.is_err() && other.is_ok());
    assert_eq!(note.status, 200);
    assert!(note.text().contains("no certificate was issued yet for shop.example.org"), "{}", note.text());
    assert_eq!(leaf(&gateway, "www.shop.example.org", &trust).await.unwrap(), shown);
    eventually("nothing is noted any more", || async {
        client::get(gateway.admin(), "/readyz").await.is_ok_and(|answer| answer.text() == "ok\n")
    })
    .await;
    assert!(gateway.metric("tidegate_certificate_expiry_seconds", &["shop.example.org"]).await > 1.7e9);
    let unknown =
        client::get(gateway.web(), "http://shop.example.org/.well-known/acme-challenge/unknown").await.unwrap();
    assert_eq!(unknown.status, 301, "what isn't pending is treated as any other request");
    let listed: serde_json::Value =
        serde_json::from_slice(&client::get(gateway.admin(), "/certificates").await.unwrap().body).unwrap();
    assert_eq!(listed[0]["names"][0], HOST);
    assert_eq!((&listed[0]["source"], &listed[1]["source"]), (&"acme".into(), &"file".into()));
    assert!(listed[0]["next_renewal"].is_string() && listed[0]["last_error"].is_null(), "{listed}");
    gateway.assert_unharmed();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_ordered_by_tls_alpn_01() {
    let store = tempfile::tempdir().unwrap();
    let mut pebble = Pebble::away();
    let mut gateway = prepare(&pebble, "tls-alpn-01", store.path());
    pebble.arrive(&Manner::asking(gateway.web(), gateway.tls())).await;

    gateway.spawn();
    gateway.until_ready().await;
    until_issued(&gateway, &trusting(&pebble.root().await)).await;

    gateway.until_metric("tidegate_tls_handshakes_total", &["acme_challenge"], 2.0).await;
    gateway.assert_unharmed();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_renews_itself_under_load_without_a_failed_handshake() {
    /// Long enough to outlive a slow machine's renewal, short enough to be seen renewed.
    const LIFE: u64 = 18;
    let store = tempfile::tempdir().unwrap();
    let mut pebble = Pebble::away();
    let mut gateway = prepare(&pebble, "http-01", store.path());
    pebble.arrive(&Manner { valid: LIFE, ..Manner::asking(gateway.web(), gateway.tls()) }).await;
    gateway.spawn();
    gateway.until_ready().await;
    let trust = trusting(&pebble.root().await);
    let first = until_issued(&gateway, &trust).await;
    let generation = gateway.generation().await;

    let (stop, stopped) = tokio::sync::watch::channel(false);
    let mut clients = JoinSet::new();
    for _ in 0..2 {
        let (address, trust, stopped) = (gateway.tls(), Arc::clone(&trust), stopped.clone());
        clients.spawn(async move {
            let (mut done, mut failed) = (0_u64, Vec::new());
            while !*stopped.borrow() {
                match client::tls(address, HOST, Arc::clone(&trust)).await {
                    Ok(_) => done += 1,
                    Err(err) => failed.push(format!("{err:#}")),
                }
            }
            (done, failed)
        });
    }
    gateway.until_metric("tidegate_acme_orders_total", &["issued"], 2.0).await;
    eventually("the renewed certificate is shown", || async {
        leaf(&gateway, HOST, &trust).await.is_ok_and(|shown| shown != first)
    })
    .await;
    stop.send(true).unwrap();
    let outcomes = clients.join_all().await;

    let done: u64 = outcomes.iter().map(|(done, _)| done).sum();
    let failed: Vec<_> = outcomes.into_iter().flat_map(|(_, failed)| failed).collect();
    println!("renewed under {done} handshakes, {} failed", failed.len());
    assert_eq!(failed, [""; 0]);
    assert!(done > 20);
    assert_eq!(gateway.generation().await, generation, "a renewal is no reload");
    gateway.assert_unharmed();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_gateways_over_one_store_order_once_and_answer_challenges_for_each_other() {
    let store = tempfile::tempdir().unwrap();
    let mut pebble = Pebble::away();
    let mut first = prepare(&pebble, "http-01", store.path());
    let mut second = prepare(&pebble, "http-01", store.path());

    first.spawn();
    second.spawn();
    first.until_ready().await;
    second.until_ready().await;
    // The authority asks the second one, whoever orders.
    pebble.arrive(&Manner::asking(second.web(), second.tls())).await;
    let trust = trusting(&pebble.root().await);
    let shown = [until_issued(&first, &trust).await, until_issued(&second, &trust).await];

    assert_eq!(shown[0], shown[1]);
    let mut orders = 0.0;
    for gateway in [&first, &second] {
        orders += gateway.metric("tidegate_acme_orders_total", &["issued"]).await;
    }
    assert_eq!(orders, 1.0);
    first.assert_unharmed();
    second.assert_unharmed();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_is_told_in_the_authoritys_words_with_what_to_try_and_a_command_tries_again() {
    let store = tempfile::tempdir().unwrap();
    let mut pebble = Pebble::away();
    let mut gateway = prepare(&pebble, "http-01", store.path());
    // The names lead to somebody else.
    let other = Origin::start("other").await;
    pebble.arrive(&Manner::asking(other.address().parse().unwrap(), gateway.tls())).await;

    gateway.spawn();
    gateway.until_ready().await;
    gateway.until_metric("tidegate_acme_orders_total", &["refused"], 1.0).await;
    let (_, told) = certs(&gateway, &[]);
    let (asked, _) = certs(&gateway, &["renew", HOST]);
    let (nobody, _) = certs(&gateway, &["renew", "nobody.example.org"]);
    gateway.until_metric("tidegate_acme_orders_total", &["refused"], 2.0).await;

    assert!(told.contains("unauthorized") && told.contains("leads to another server"), "{told}");
    assert!(gateway.log().contains("certificate couldn't be ordered"), "{}", gateway.log());
    assert_eq!((asked, nobody), (Some(0), Some(2)));
    gateway.assert_unharmed();
}

/// Runs `tidegate certs`: its exit code, and what it printed.
fn certs(gateway: &Gateway, arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(crate::kit::binary())
        .args(["certs", "--admin", &gateway.admin().to_string()])
        .args(arguments)
        .output()
        .unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_killed_in_the_middle_of_an_order_goes_on_with_the_same_account() {
    let store = tempfile::tempdir().unwrap();
    let mut pebble = Pebble::away();
    let mut gateway = prepare(&pebble, "http-01", store.path());
    // It sleeps before it asks, so that there is a middle.
    pebble.arrive(&Manner { sleeps: 3, ..Manner::asking(gateway.web(), gateway.tls()) }).await;
    gateway.spawn();
    gateway.until_ready().await;
    eventually("an order is under way", || async { pebble.said("Added order") >= 1 }).await;
    eventually("a challenge is pending", || async { pebble.said("Pulled a task from the Tasks queue") >= 1 }).await;

    gateway.signal("KILL");
    gateway.until_ended().await;
    let torn = std::fs::read_dir(store.path()).unwrap().count();
    gateway.spawn();
    gateway.until_ready().await;
    until_issued(&gateway, &trusting(&pebble.root().await)).await;

    assert_eq!(torn, 1);
    let accounts =
        gateway.log().lines().filter(|line| line.contains("account is open")).map(account).collect::<Vec<_>>();
    assert!(accounts.len() == 2 && accounts[0] == accounts[1], "{accounts:?}");
    gateway.assert_unharmed();
}

/// The account that a line of the log names.
fn account(line: &str) -> String {
    line.split_whitespace().find(|word| word.starts_with("account=")).unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_shows_the_kept_certificate_at_once_and_a_damaged_one_is_ordered_again() {
    let store = tempfile::tempdir().unwrap();
    let mut pebble = Pebble::away();
    let mut gateway = prepare(&pebble, "tls-alpn-01, http-01", store.path());
    pebble.arrive(&Manner::asking(gateway.web(), gateway.tls())).await;
    gateway.spawn();
    gateway.until_ready().await;
    let trust = trusting(&pebble.root().await);
    let first = until_issued(&gateway, &trust).await;

    gateway.signal("KILL");
    gateway.until_ended().await;
    gateway.spawn();
    gateway.until_ready().await;
    let kept = leaf(&gateway, HOST, &trust).await.unwrap();
    let file = walk(store.path())
        .into_iter()
        .find(|path| path.extension().is_some_and(|e| e == "pem") && path.parent().unwrap().ends_with("certificates"));
    std::fs::write(file.unwrap(), "-----BEGIN CERTIFICATE-----\nMIIB").unwrap();
    eventually("another certificate is shown", || async {
        leaf(&gateway, HOST, &trust).await.is_ok_and(|shown| shown != first)
    })
    .await;

    assert_eq!(kept, first);
    assert!(gateway.log().contains("certificate in the store can't be used"), "{}", gateway.log());
    gateway.assert_unharmed();
}

fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        match entry.path() {
            path if path.is_dir() => found.extend(walk(&path)),
            path => found.push(path),
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_application_behind_the_gateway_answers_challenges_of_its_own() {
    let store = tempfile::tempdir().unwrap();
    let pebble = Pebble::away();
    let origin = Origin::start("app").await;
    let config = CONFIG.replace(", redirect_to: tls", "").replace("answer: {status: 200, body: routed}", "to: app")
        + "services: {app: {endpoints: [\"$origin\"]}}\n";
    let (ca, at) = (pebble.ca().display().to_string(), store.path().display().to_string());
    let mut gateway = Gateway::start(
        &config,
        &[
            ("authority", &pebble.directory()),
            ("ca", &ca),
            ("store", &at),
            ("challenge", &"http-01"),
            ("origin", &origin.address()),
        ],
    )
    .await;

    let url = format!("http://{}/.well-known/acme-challenge/theirs", gateway.web());
    let said = curl(&["-o", "/dev/null", "-w", "%{http_code}", &url]).await;

    assert_eq!(said, "200");
    assert_eq!(origin.hits(), 1);
    gateway.assert_unharmed();
}
