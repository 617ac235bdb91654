//! OCSP responses, asked from real responders and shown to real clients.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use crate::handshakes::s_client;
use crate::kit::gateway::HOST;
use crate::kit::{Gateway, Manner, Pebble, eventually};

/// Runs openssl in a folder, and returns what it printed.
fn openssl(dir: &Path, arguments: &str) -> String {
    let output = Command::new("openssl").current_dir(dir).args(arguments.split(' ')).output().expect("openssl runs");
    assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// An authority that answers for what it has signed.
struct House {
    dir: PathBuf,
    /// Where its responder is, once it opens.
    address: SocketAddr,
}

/// A port for openssl, which takes it on every address: beyond those that tests reserve, below those of outgoing
/// connections.
fn free_port() -> SocketAddr {
    const FIRST: u16 = 30_000;
    const COUNT: u16 = 2_700;
    let start = u16::try_from(std::process::id() * 7 % u32::from(COUNT)).expect("below COUNT");
    let ports = (0..COUNT).map(|n| FIRST + (start + n) % COUNT);
    let port = ports.into_iter().find(|port| TcpListener::bind((Ipv4Addr::UNSPECIFIED, *port)).is_ok());
    (Ipv4Addr::LOCALHOST, port.expect("one of them is free")).into()
}

const ANSWERS: &str = "ocsp -index index.txt -CA ca.crt -rsigner ca.crt -rkey ca.key";

impl House {
    /// An authority `ca` in `dir`, and a certificate `leaf` for [`HOST`] that names the responder, in a chain.
    fn build(dir: PathBuf) -> Self {
        let address = free_port();
        fs::create_dir_all(&dir).unwrap();
        let extensions = format!(
            "authorityInfoAccess=OCSP;URI:http://{address}\nsubjectAltName=DNS:{HOST}\nextendedKeyUsage=serverAuth\n"
        );
        fs::write(dir.join("leaf.ext"), extensions).unwrap();
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
        openssl(&dir, &format!("req -x509 {key} -days 30 -subj /CN=house -keyout ca.key -out ca.crt"));
        openssl(&dir, &format!("req -new {key} -subj /CN=shop -keyout leaf.key -out leaf.csr"));
        let sign = "x509 -req -in leaf.csr -CA ca.crt -CAkey ca.key -set_serial 4097 -days 30 -extfile leaf.ext";
        openssl(&dir, &format!("{sign} -out leaf.crt"));
        let chain = ["leaf.crt", "ca.crt"].map(|file| fs::read_to_string(dir.join(file)).unwrap()).concat();
        fs::write(dir.join("chain.crt"), chain).unwrap();
        let house = Self { dir, address };
        house.says("V\t300101000000Z\t\t1001");
        house
    }

    /// What it answers from now on, as a line of openssl's index.
    fn says(&self, status: &str) {
        fs::write(self.dir.join("index.txt"), format!("{status}\tunknown\t/CN=shop\n")).unwrap();
    }

    /// Writes a response to a file, in one step.
    fn respond(&self, out: &Path) {
        openssl(&self.dir, &format!("{ANSWERS} -nmin 60 -issuer ca.crt -cert leaf.crt -respout fresh.der"));
        fs::rename(self.dir.join("fresh.der"), out).unwrap();
    }

    /// Starts a responder, and waits until it says that it listens: one that is connected to without a question hangs.
    async fn opens(&self) -> Responder {
        let path = self.dir.join("responder.log");
        let log = fs::File::create(&path).unwrap();
        let mut command = Command::new("openssl");
        command.current_dir(&self.dir).args(ANSWERS.split(' ')).args(["-nmin", "60", "-port"]);
        command.arg(self.address.port().to_string()).stdout(log.try_clone().unwrap()).stderr(log);
        let responder = Responder(command.spawn().expect("openssl runs"));
        let said = || async { fs::read_to_string(&path).unwrap().to_lowercase().contains("waiting for ocsp client") };
        eventually("the responder listens", said).await;
        responder
    }
}

/// A responder, killed when dropped.
struct Responder(Child);

impl Drop for Responder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const CONFIG: &str = "
listeners:
  web: {bind: \"$web\"}
  tls: {bind: \"$tls\", certificates: [{cert: $dir/house/chain.crt, key: $dir/house/leaf.key}]}
routes: [{name: all, match: {path: /**}, answer: {status: 200}}]
";

/// The same with a response from a file.
fn from_file() -> String {
    CONFIG.replace("leaf.key}", "leaf.key, ocsp: $dir/house/response.der}")
}

/// What a client that asks for a response is shown. openssl verifies it.
async fn asked(gateway: &Gateway, ca: &Path) -> String {
    s_client(gateway, &["-status", "-CAfile", ca.to_str().unwrap()]).await
}

fn is_good(said: &str) -> bool {
    said.contains("OCSP Response Status: successful") && said.contains("Cert Status: good")
}

fn is_bare(said: &str) -> bool {
    said.contains("OCSP response: no response sent") && said.contains("BEGIN CERTIFICATE")
}

const RESPONSES: &str = "tidegate_ocsp_responses_total";

#[tokio::test]
async fn a_response_is_fetched_stapled_and_kept_for_a_restart_without_the_responder() {
    let mut gateway = Gateway::prepare(CONFIG, &[]);
    let house = House::build(gateway.dir().join("house"));
    let ca = house.dir.join("ca.crt");
    let responder = house.opens().await;
    gateway.spawn();
    gateway.until_ready().await;

    gateway.until_metric(RESPONSES, &["result=\"ok\""], 1.0).await;
    let said = asked(&gateway, &ca).await;
    drop(responder);
    gateway.signal("TERM");
    gateway.until_ended().await;
    gateway.spawn();
    gateway.until_ready().await;
    let again = asked(&gateway, &ca).await;

    assert!(is_good(&said), "{said}");
    assert!(is_good(&again), "{again}");
    assert_eq!(gateway.metric("tidegate_ocsp_stapled", &[]).await, 1.0);
    gateway.assert_unharmed();
}

#[tokio::test]
async fn a_dead_responder_costs_nothing_and_is_asked_again_by_itself_and_a_reload_keeps_its_response() {
    let mut gateway = Gateway::prepare(CONFIG, &[]);
    let house = House::build(gateway.dir().join("house"));
    let ca = house.dir.join("ca.crt");
    gateway.spawn();
    gateway.until_ready().await;

    gateway.until_metric(RESPONSES, &["result=\"failed\""], 1.0).await;
    let without = asked(&gateway, &ca).await;
    let responder = house.opens().await;
    gateway.until_metric(RESPONSES, &["result=\"ok\""], 1.0).await;
    drop(responder);
    gateway.reload(&CONFIG.replace("status: 200", "status: 204")).await;
    let with = asked(&gateway, &ca).await;

    assert!(is_bare(&without), "{without}");
    assert!(is_good(&with), "{with}");
    assert!(gateway.log().contains("ocsp response could not be had"), "{}", gateway.log());
    gateway.assert_unharmed();
}

#[tokio::test]
async fn a_responder_that_says_revoked_or_speaks_for_another_authority_is_counted_and_not_believed() {
    let mut gateway = Gateway::prepare(CONFIG, &[]);
    let house = House::build(gateway.dir().join("house"));
    let stranger = House::build(gateway.dir().join("stranger"));
    let ca = house.dir.join("ca.crt");
    house.says("R\t300101000000Z\t250101000000Z\t1001");
    let responder = house.opens().await;
    gateway.spawn();
    gateway.until_ready().await;

    gateway.until_metric(RESPONSES, &["result=\"refused\""], 1.0).await;
    let revoked = asked(&gateway, &ca).await;
    drop(responder);
    let _stranger = House { dir: stranger.dir.clone(), ..house }.opens().await;
    let log = || async { gateway.log().contains("its signature isn't that of the issuer") };
    eventually("the stranger is heard", log).await;
    let foreign = asked(&gateway, &ca).await;

    assert!(gateway.log().contains("it says that the certificate is revoked"), "{}", gateway.log());
    assert!(is_bare(&revoked), "{revoked}");
    assert!(is_bare(&foreign), "{foreign}");
}

#[tokio::test]
async fn a_response_may_come_from_a_file_and_one_that_says_revoked_leaves_the_last_good_one() {
    let mut gateway = Gateway::prepare(&from_file(), &[]);
    let house = House::build(gateway.dir().join("house"));
    let (ca, file) = (house.dir.join("ca.crt"), house.dir.join("response.der"));
    house.respond(&file);
    gateway.spawn();
    gateway.until_ready().await;
    let said = asked(&gateway, &ca).await;

    house.says("R\t300101000000Z\t250101000000Z\t1001");
    house.respond(&file);
    gateway.until_metric(RESPONSES, &["result=\"refused\""], 1.0).await;
    gateway.until_metric("tidegate_reloads_total", &["result=\"applied\""], 1.0).await;
    let after = asked(&gateway, &ca).await;

    assert!(is_good(&said), "{said}");
    assert!(is_good(&after), "{after}");
    assert!(gateway.log().contains("it says that the certificate is revoked"), "{}", gateway.log());
}

#[tokio::test]
async fn a_gateway_starts_without_the_response_that_a_stranger_signed_or_that_is_noise() {
    for noise in [false, true] {
        let mut gateway = Gateway::prepare(&from_file(), &[]);
        let house = House::build(gateway.dir().join("house"));
        let stranger = House::build(gateway.dir().join("stranger"));
        let file = house.dir.join("response.der");
        if noise {
            fs::write(&file, b"0\x03no!").unwrap();
        } else {
            stranger.respond(&file);
        }
        gateway.spawn();
        gateway.until_ready().await;

        let said = asked(&gateway, &house.dir.join("ca.crt")).await;

        assert!(is_bare(&said), "{said}");
        assert_eq!(gateway.metric(RESPONSES, &["result=\"refused\""]).await, 1.0);
        assert!(gateway.log().contains("the OCSP response can't be stapled"), "{}", gateway.log());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_was_ordered_gets_its_response_too() {
    let store = tempfile::tempdir().unwrap();
    let mut pebble = Pebble::away();
    let config = "
listeners: {web: {bind: \"$web\"}, tls: {bind: \"$tls\", certificates: [{acme: [shop.example.com]}]}}
acme: {directory: \"$authority\", ca: $ca, accept_terms: true, contact: \"mailto:ops@example.org\", store: $store, challenge: [http-01]}
routes: [{name: all, match: {path: /**}, answer: {status: 200}}]
";
    let (ca, folder) = (pebble.ca().display().to_string(), store.path().display().to_string());
    let mut gateway = Gateway::prepare(config, &[("authority", &pebble.directory()), ("ca", &ca), ("store", &folder)]);
    gateway.spawn();
    gateway.until_ready().await;
    let house = House { dir: gateway.dir().join("house"), address: free_port() };
    let responder = format!("http://{}", house.address);
    pebble.arrive(&Manner { responder, ..Manner::asking(gateway.web(), gateway.tls()) }).await;

    gateway.until_metric("tidegate_acme_orders_total", &["result=\"issued\""], 1.0).await;
    fs::create_dir_all(&house.dir).unwrap();
    fs::write(house.dir.join("ca.crt"), pebble.tells("intermediates/0").await).unwrap();
    fs::write(house.dir.join("ca.key"), pebble.tells("intermediate-keys/0").await).unwrap();
    fs::write(house.dir.join("root.crt"), pebble.root().await).unwrap();
    let shown = s_client(&gateway, &[]).await;
    fs::write(house.dir.join("leaf.crt"), shown).unwrap();
    let serial = openssl(&house.dir, "x509 -in leaf.crt -noout -serial");
    house.says(&format!("V\t300101000000Z\t\t{}", serial.trim().trim_start_matches("serial=")));
    let _responder = house.opens().await;
    gateway.until_metric(RESPONSES, &["result=\"ok\""], 1.0).await;
    let said = asked(&gateway, &house.dir.join("root.crt")).await;

    assert!(is_good(&said), "{said}");
}
