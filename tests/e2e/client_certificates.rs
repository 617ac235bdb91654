//! Client certificates by server name, and the ways that people have come past them elsewhere.

use std::path::Path;
use std::sync::Arc;

use rcgen::{
    CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod,
    KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber, date_time_ymd,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, HandshakeKind, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::kit::certs::{Authority, Signed, provider, replace};
use crate::kit::{Client, Gateway, Origin, eventually, request};

const GUARDED: &str = "
listeners:
  web: {bind: \"$web\", redirect_to: tls}
  tls:
    bind: \"$tls\"
    certificates: [{cert: $dir/tls/all.crt, key: $dir/tls/all.key}]
    client_certificates:
      - {for: api.example.com, ca: $dir/tls/clients.pem}
      - {for: \"*.maybe.example.com\", ca: $dir/tls/clients.pem, verify: ask}
services: {app: {endpoints: [\"$app\"]}}
routes: [{name: all, match: {path: /**}, to: app}]
access_log: $dir/access.log
";

/// A gateway that guards `api.example.com`, and a client that `clients` vouches for.
async fn guarded(origin: &Origin) -> (Gateway, Authority, Signed) {
    let clients = Authority::new();
    let mut gateway = Gateway::prepare(GUARDED, &[("app", origin)]);
    let dir = gateway.dir().join("tls");
    let names = ["api.example.com", "open.example.com", "a.maybe.example.com"];
    gateway.authority.sign(&dir, "all", &names);
    replace(&dir.join("clients.pem"), &clients.pem);
    let alice = clients.sign(&dir, "alice", &["alice.example.com"]);
    gateway.spawn();
    gateway.until_ready().await;
    (gateway, clients, alice)
}

/// A client that trusts the gateway, and shows this certificate.
fn showing(gateway: &Gateway, own: Option<&Signed>, alpn: &[&str]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(gateway.authority.der.clone()).unwrap();
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match own {
        None => builder.with_no_client_auth(),
        Some(own) => {
            let key = PrivateKeyDer::from_pem_file(&own.key).unwrap();
            let chain = CertificateDer::pem_file_iter(&own.cert).unwrap().collect::<Result<_, _>>().unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    };
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Arc::new(config)
}

/// What a request to `host` is answered on a connection made for `name`; 0 when there is no answer.
async fn status(gateway: &Gateway, name: &str, host: &str, config: Arc<ClientConfig>) -> u16 {
    let Ok(mut client) = Client::tls(gateway.tls(), name, config).await else { return 0 };
    client.get(&format!("https://{host}/")).await.map_or(0, |answer| answer.status)
}

#[tokio::test]
async fn a_guarded_name_takes_only_clients_with_a_certificate_and_tells_the_endpoint_whose() {
    let origin = Origin::start("app").await;
    let (mut gateway, _clients, alice) = guarded(&origin).await;
    let stranger = Authority::new().sign(&gateway.dir().join("tls"), "mallory", &["mallory.example.com"]);

    let nobody = status(&gateway, "api.example.com", "api.example.com", showing(&gateway, None, &[])).await;
    let other = status(&gateway, "api.example.com", "api.example.com", showing(&gateway, Some(&stranger), &[])).await;
    let mut client = Client::tls(gateway.tls(), "api.example.com", showing(&gateway, Some(&alice), &[])).await.unwrap();
    let forged = [("client-cert", ":Zm9yZ2Vk:"), ("client-cert-chain", ":Zm9yZ2Vk:")];
    let answer = client.send(request("GET", "https://api.example.com/", &forged, "")).await.unwrap();

    assert_eq!((nobody, other, answer.status), (0, 0, 200));
    let told = origin.last().headers;
    assert_eq!(told["client-cert"].to_str().unwrap(), format!(":{}:", base64(&alice.der)));
    assert!(!told.contains_key("client-cert-chain"));
    let failed = ["client_certificate_missing", "client_certificate_refused"];
    for why in failed {
        gateway.until_metric("tidegate_tls_handshakes_total", &[&format!("result=\"{why}\"")], 1.0).await;
    }
    let log = gateway.dir().join("access.log");
    eventually("the subject is logged", || async {
        std::fs::read_to_string(&log).unwrap().contains("\"client_subject\":\"CN=alice\"")
    })
    .await;
    gateway.assert_unharmed();
}

#[tokio::test]
async fn what_a_client_says_itself_about_its_certificate_is_never_believed() {
    let origin = Origin::start("app").await;
    let (gateway, ..) = guarded(&origin).await;
    let mut client = Client::tls(gateway.tls(), "open.example.com", showing(&gateway, None, &["h2"])).await.unwrap();

    let forged = [("client-cert", ":Zm9yZ2Vk:"), ("client-cert-chain", ":Zm9yZ2Vk:")];
    let answer = client.send(request("GET", "https://open.example.com/", &forged, "")).await.unwrap();

    assert_eq!(answer.status, 200);
    let told = origin.last().headers;
    assert!(!told.contains_key("client-cert") && !told.contains_key("client-cert-chain"));
}

#[tokio::test]
async fn asking_for_an_open_name_first_leads_past_no_guard() {
    let origin = Origin::start("app").await;
    let (gateway, _clients, alice) = guarded(&origin).await;

    for alpn in ["http/1.1", "h2"] {
        let nobody = || showing(&gateway, None, &[alpn]);
        let open = status(&gateway, "open.example.com", "open.example.com", nobody()).await;
        let unknown = status(&gateway, "open.example.com", "elsewhere.example.com", nobody()).await;
        let past = status(&gateway, "open.example.com", "api.example.com", nobody()).await;
        let odd = status(&gateway, "open.example.com", "API.example.com.:443", nobody()).await;
        let asked = status(&gateway, "a.maybe.example.com", "api.example.com", nobody()).await;
        let shown = showing(&gateway, Some(&alice), &[alpn]);
        let own = status(&gateway, "api.example.com", "api.example.com", shown).await;

        assert_eq!((open, unknown, past, odd, asked, own), (200, 200, 421, 421, 421, 200), "{alpn}");
    }
    // A client that names nobody, by the address alone.
    let mut config = (*showing(&gateway, None, &["http/1.1"])).clone();
    config.enable_sni = false;
    let nameless = status(&gateway, "open.example.com", "api.example.com", Arc::new(config)).await;
    assert_eq!(nameless, 421);
    assert!(
        origin.seen().iter().all(|seen| seen.headers.contains_key("client-cert") || seen.host != "api.example.com")
    );
}

#[tokio::test]
async fn a_connection_made_for_one_name_carries_its_requests_on_after_a_refused_one() {
    let origin = Origin::start("app").await;
    let (gateway, ..) = guarded(&origin).await;
    let mut client = Client::tls(gateway.tls(), "open.example.com", showing(&gateway, None, &["h2"])).await.unwrap();

    let mut statuses = Vec::new();
    for host in ["open", "api", "open"] {
        statuses.push(client.get(&format!("https://{host}.example.com/")).await.unwrap().status);
    }

    assert_eq!(statuses, [200, 421, 200]);
}

#[tokio::test]
async fn where_a_certificate_is_only_asked_for_it_may_be_left_out_but_not_be_wrong() {
    let origin = Origin::start("app").await;
    let (gateway, _clients, alice) = guarded(&origin).await;
    let stranger = Authority::new().sign(&gateway.dir().join("tls"), "mallory", &["mallory.example.com"]);
    let name = "a.maybe.example.com";

    let without = status(&gateway, name, name, showing(&gateway, None, &[])).await;
    let with = status(&gateway, name, name, showing(&gateway, Some(&alice), &[])).await;
    let wrong = status(&gateway, name, name, showing(&gateway, Some(&stranger), &[])).await;

    assert_eq!((without, with, wrong), (200, 200, 0));
    assert!(origin.last().headers.contains_key("client-cert"));
}

#[tokio::test]
async fn a_session_made_without_a_certificate_is_not_resumed_where_one_is_required() {
    let origin = Origin::start("app").await;
    let config = "
listeners:
  web:
    bind: \"$web\"
    certificates: [{cert: $dir/tls/shop.crt, key: $dir/tls/shop.key}]
    client_certificates: [{ca: $dir/tls/ca.crt}]
  tls: {bind: \"$tls\", certificates: [{cert: $dir/tls/shop.crt, key: $dir/tls/shop.key}]}
services: {app: {endpoints: [\"$app\"]}}
routes: [{name: all, match: {path: /**}, to: app}]
";
    let gateway = Gateway::start(config, &[("app", &origin)]).await;
    for versions in [&[&rustls::version::TLS12][..], &[&rustls::version::TLS13]] {
        let mut roots = RootCertStore::empty();
        roots.add(gateway.authority.der.clone()).unwrap();
        let client = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let client = Arc::new(client);

        let (first, _) = visit(gateway.tls(), &client).await;
        let (again, open) = visit(gateway.tls(), &client).await;
        let (guarded, past) = visit(gateway.web(), &client).await;

        assert_eq!((first, again, open), (Some(HandshakeKind::Full), Some(HandshakeKind::Resumed), true));
        assert!(guarded != Some(HandshakeKind::Resumed) && !past);
    }
}

/// How the handshake went, and whether a request was answered.
async fn visit(address: std::net::SocketAddr, config: &Arc<ClientConfig>) -> (Option<HandshakeKind>, bool) {
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("shop.example.com").unwrap();
    let Ok(mut tls) = TlsConnector::from(Arc::clone(config)).connect(name, stream).await else { return (None, false) };
    let _ = tls.write_all(b"GET / HTTP/1.1\r\nHost: shop.example.com\r\nConnection: close\r\n\r\n").await;
    let mut said = Vec::new();
    let _ = tls.read_to_end(&mut said).await;
    (tls.get_ref().1.handshake_kind(), said.starts_with(b"HTTP/1.1 200"))
}

#[tokio::test]
async fn files_of_authorities_are_watched_and_a_bad_one_is_told_and_changes_nothing() {
    let origin = Origin::start("app").await;
    let (mut gateway, _clients, alice) = guarded(&origin).await;
    let file = gateway.dir().join("tls/clients.pem");
    let name = "api.example.com";

    replace(&file, "nothing of use");
    gateway.until_metric("tidegate_reloads_total", &["result=\"refused\""], 1.0).await;
    let after_bad = status(&gateway, name, name, showing(&gateway, Some(&alice), &[])).await;
    let others = Authority::new();
    let bob = others.sign(&gateway.dir().join("tls"), "bob", &["bob.example.com"]);
    replace(&file, &others.pem);
    eventually("the new authority's clients are taken", || async {
        status(&gateway, name, name, showing(&gateway, Some(&bob), &[])).await == 200
    })
    .await;
    let after_good = status(&gateway, name, name, showing(&gateway, Some(&alice), &[])).await;

    assert_eq!((after_bad, after_good), (200, 0));
    let log = gateway.log();
    assert!(log.contains("error[unusable-authority]") && log.contains("it holds no certificate"), "{log}");
    gateway.assert_unharmed();
}

#[tokio::test]
async fn a_revoked_certificate_is_refused_from_the_next_handshake_on_resumed_sessions_included() {
    let origin = Origin::start("app").await;
    let mut gateway = Gateway::prepare(
        &GUARDED.replace("clients.pem}\n", "clients.pem, crl: $dir/tls/crl.pem}\n"),
        &[("app", &origin)],
    );
    let dir = gateway.dir().join("tls");
    gateway.authority.sign(&dir, "all", &["api.example.com", "open.example.com"]);
    let house = House::new();
    let alice = house.sign(&dir, "alice", 7);
    replace(&dir.join("clients.pem"), &house.pem);
    replace(&dir.join("crl.pem"), &house.revoke(&[8]));
    gateway.spawn();
    gateway.until_ready().await;
    let (name, config) = ("api.example.com", showing(&gateway, Some(&alice), &[]));

    let before = status(&gateway, name, name, Arc::clone(&config)).await;
    replace(&dir.join("crl.pem"), &house.revoke(&[7, 8]));
    eventually("the revocation is in force", || async { status(&gateway, name, name, Arc::clone(&config)).await == 0 })
        .await;

    assert_eq!(before, 200);
    gateway.until_metric("tidegate_tls_handshakes_total", &["result=\"client_certificate_revoked\""], 1.0).await;
}

/// An authority that may revoke.
struct House {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl House {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "House");
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    fn sign(&self, dir: &Path, name: &str, serial: u64) -> Signed {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.serial_number = Some(SerialNumber::from(serial));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        let (cert_file, key_file) = (dir.join(format!("{name}.crt")), dir.join(format!("{name}.key")));
        replace(&cert_file, &cert.pem());
        replace(&key_file, &key.serialize_pem());
        Signed { cert: cert_file, key: key_file, der: cert.der().clone() }
    }

    fn revoke(&self, serials: &[u64]) -> String {
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2020, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(2099, 1, 1),
            crl_number: SerialNumber::from(serials.len() as u64),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().pem().unwrap()
    }
}

fn base64(bytes: &[u8]) -> String {
    use std::io::Write as _;
    let mut child = std::process::Command::new("base64")
        .arg("-w0")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(bytes).unwrap();
    String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap()
}
