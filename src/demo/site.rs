//! The demo's folder: ports that are free, a certificate made on the spot, and the configuration.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::{fmt, fs, io};

use anyhow::Context;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::pki_types::CertificateDer;

/// The host that visitors ask for. Every resolver sends names below `localhost` to this machine (RFC 6761).
pub const HOST: &str = "shop.localhost";

/// Where everything is.
pub struct Site {
    /// The folder.
    pub dir: PathBuf,
    /// Redirects to https.
    pub web: SocketAddr,
    /// Serves the shop.
    pub tls: SocketAddr,
    /// Metrics and snapshots.
    pub admin: SocketAddr,
    /// The shop's instances, with the version each runs.
    pub apps: Vec<App>,
    /// The authority that signed the certificate.
    pub authority: CertificateDer<'static>,
    moved: Vec<String>,
    temporary: Option<tempfile::TempDir>,
}

/// One instance of the shop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct App {
    /// Its version.
    pub version: &'static str,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Site {
    /// Finds ports, and writes certificate and configuration into `dir`, or into a temporary folder that goes
    /// when the site does.
    pub fn build(dir: Option<&Path>) -> anyhow::Result<Self> {
        let temporary = match dir {
            Some(_) => None,
            None => Some(tempfile::Builder::new().prefix("tidegate-demo-").tempdir()?),
        };
        let dir = match (&temporary, dir) {
            (Some(temporary), _) => temporary.path().to_owned(),
            (None, Some(dir)) => {
                fs::create_dir_all(dir).with_context(|| format!("could not create {}", dir.display()))?;
                dir.canonicalize()?
            }
            (None, None) => unreachable!("without a folder there is a temporary one"),
        };

        let mut ports = Ports::default();
        let [web, tls, admin] = [8080, 8443, 9900].map(|port| ports.take(port));
        let apps = [("v1", 9001), ("v1", 9002), ("v2", 9011), ("next", 9021)]
            .map(|(version, port)| Ok(App { version, address: ports.take(port)? }));
        let mut site = Self {
            dir,
            web: web?,
            tls: tls?,
            admin: admin?,
            apps: apps.into_iter().collect::<io::Result<_>>()?,
            authority: CertificateDer::from(Vec::new()),
            moved: ports.moved,
            temporary,
        };
        site.authority = make_certificate(&site.dir.join("tls")).context("could not make a certificate")?;
        site.write_config().context("could not write the configuration")?;
        Ok(site)
    }

    /// The configuration file.
    pub fn config(&self) -> PathBuf {
        self.dir.join("edge.yaml")
    }

    /// A file that an earlier demo left is kept beside the new one.
    fn write_config(&self) -> io::Result<()> {
        let path = self.config();
        match fs::rename(&path, self.dir.join("edge.yaml.old")) {
            Err(err) if err.kind() != io::ErrorKind::NotFound => Err(err),
            _ => fs::write(path, self.to_string()),
        }
    }

    fn endpoints(&self, version: &str) -> String {
        let quoted: Vec<_> =
            self.apps.iter().filter(|app| app.version == version).map(|app| format!("\"{}\"", app.address)).collect();
        quoted.join(", ")
    }

    /// What to try, with this site's own paths, ports and processes.
    pub fn invitation(&self, pids: &[(App, u32)]) -> String {
        use fmt::Write;

        let mut text = String::new();
        let mut say = |line: String| writeln!(text, "{line}").expect("a string never refuses");
        let dir = self.dir.display();
        for line in &self.moved {
            say(line.clone());
        }
        say(format!(
            "The shop is open at https://{HOST}:{} (http on {}, metrics on http://{}/metrics).",
            self.tls.port(),
            self.web.port(),
            self.admin
        ));
        say("Things to try, from another terminal:\n".into());
        say(format!("  visit it               curl --cacert {dir}/tls/ca.crt https://{HOST}:{}/", self.tls.port()));
        say(format!("  move the weights       edit the last lines of {dir}/edge.yaml and save; watch the shares move"));
        say("                         (or break the file: the last good one stays in force, and the log says why)"
            .into());
        for (app, pid) in pids {
            let name = format!("kill {}", app.version);
            say(format!("  {name:<22} kill -9 {pid:<8} # listens on {}; comes back after a while", app.address));
        }
        if let Some((app, _)) = pids.first() {
            let control = format!("curl -X POST 'http://{}/_demo", app.address);
            say(format!("  make one slow          {control}/slow?ms=2000'"));
            say(format!("  make one fail          {control}/fail?rate=100'"));
            say(format!("  make it well again     {control}/ok'"));
        }
        say(format!(
            "  run into a limit       for i in 1 2 3 4 5 6 7; do curl -s -o /dev/null -w '%{{http_code}} ' --cacert \
             {dir}/tls/ca.crt https://{HOST}:{}/login; done",
            self.tls.port()
        ));
        say(format!("  read the log           tail -f {dir}/gateway.log"));
        text
    }

    /// What to try, in the few lines that stand below the live view.
    pub fn notes(&self) -> Vec<String> {
        let Some(app) = self.apps.first() else { return Vec::new() };
        let control = format!("curl -X POST 'http://{}/_demo", app.address);
        vec![
            format!("move the weights  edit {}/edge.yaml (its last lines) and save", self.dir.display()),
            format!("kill a shop/v1    {control}/die'  (it comes back)"),
            format!("or spoil it       {control}/slow?ms=2000'  ../fail?rate=100  ../ok"),
        ]
    }

    /// Last words: where things were left, if anywhere.
    pub fn farewell(&self) -> Vec<String> {
        match self.temporary {
            Some(_) => Vec::new(),
            None => vec![format!("Everything it wrote is in {}.", self.dir.display())],
        }
    }
}

/// The configuration, as it is written to `edge.yaml`.
impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { web, tls, admin, .. } = self;
        let [v1, v2, next] = ["v1", "v2", "next"].map(|version| self.endpoints(version));
        write!(
            f,
            r#"# The demo's edge. Edit and save: the gateway checks the file and takes it over at once,
# or says what is wrong with it and keeps the last good one.
version: 1

admin: {{bind: "{admin}"}}

listeners:
  web: {{bind: "{web}", redirect_to: tls}}
  tls:
    bind: "{tls}"
    protocols: [h2, http/1.1]
    certificates:
      - {{cert: tls/shop.crt, key: tls/shop.key}}

limits:
  login: {{key: client_ip, rate: 5/m, over: 429}}

services:
  shop:
    balance: p2c
    health: {{path: /healthz, every: 1s, timeout: 1s, up_after: 2, down_after: 2}}
    eject:  {{consecutive_5xx: 5, failure_rate: 50% of 20, for: 5s, max: 50%, panic: 40%, slow_start: 10s}}
    retry:  {{when: [connect, reset, "502", "503"], attempts: 2, methods: idempotent, budget: 20%}}
    timeouts: {{connect: 1s, first_byte: 5s, total: 10s}}
    versions:
      v1:   {{endpoints: [{v1}]}}
      v2:   {{endpoints: [{v2}]}}
      next: {{endpoints: [{next}]}}

routes:
  - name: login
    match: {{path: /login}}
    limits: [login]
    to: shop/v1

  - name: shop
    match: {{path: /**}}
    split:
      stick_by: ["cookie:uid", client_ip]
      salt: checkout-2026
      weights: {{shop/v1: 95, shop/v2: 5}}      # try 50 and 50; or shop/v2: drain; or shop/v2: off
    shadow:
      - {{to: shop/next, sample: 10%, body: 1MiB, max_in_flight: 64, timeout: 2s, methods: safe,
         mark: {{x-shadow: "1"}}, compare: [status, body], ignore: ["$.version", "$.instance", "$.hits"]}}
"#
        )
    }
}

/// Hands out loopback ports: the one that is asked for, or another one when that is taken.
#[derive(Default)]
struct Ports {
    given: BTreeSet<u16>,
    moved: Vec<String>,
}

impl Ports {
    fn take(&mut self, wanted: u16) -> io::Result<SocketAddr> {
        let free = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).and_then(|listener| listener.local_addr());
        if let Ok(address) = free(wanted) {
            self.given.insert(wanted);
            return Ok(address);
        }
        loop {
            let address = free(0)?;
            if self.given.insert(address.port()) {
                self.moved.push(format!("Port {wanted} is taken; using {} instead.", address.port()));
                return Ok(address);
            }
        }
    }
}

/// Writes `ca.crt`, `shop.crt` and `shop.key`, and returns the authority's certificate.
fn make_certificate(dir: &Path) -> anyhow::Result<CertificateDer<'static>> {
    fs::create_dir_all(dir)?;
    let mut authority = CertificateParams::new(Vec::new())?;
    authority.distinguished_name.push(DnType::CommonName, "Tidegate demo authority");
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    let authority_key = KeyPair::generate()?;
    let authority_cert = authority.self_signed(&authority_key)?;
    let issuer = Issuer::new(authority, authority_key);

    let mut shop = CertificateParams::new([HOST.to_owned(), "localhost".to_owned(), "127.0.0.1".to_owned()])?;
    shop.distinguished_name.push(DnType::CommonName, HOST);
    let shop_key = KeyPair::generate()?;
    let shop_cert = shop.signed_by(&shop_key, &issuer)?;

    fs::write(dir.join("ca.crt"), authority_cert.pem())?;
    fs::write(dir.join("shop.crt"), shop_cert.pem())?;
    write_secret(&dir.join("shop.key"), &shop_key.serialize_pem())?;
    Ok(authority_cert.der().clone())
}

fn write_secret(path: &Path, text: &str) -> io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;

    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_is_taken_is_replaced_by_another_one_and_said() {
        let holder = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let taken = holder.local_addr().unwrap().port();
        let mut ports = Ports::default();

        let given = ports.take(taken).unwrap();

        assert_ne!(given.port(), taken);
        assert_eq!(ports.moved, [format!("Port {taken} is taken; using {} instead.", given.port())]);
    }

    #[test]
    fn a_configuration_from_an_earlier_demo_is_kept_beside_the_new_one() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("edge.yaml"), "mine").unwrap();

        let site = Site::build(Some(dir.path())).unwrap();

        assert_eq!(fs::read_to_string(site.dir.join("edge.yaml.old")).unwrap(), "mine");
        assert_eq!(fs::read_to_string(site.config()).unwrap(), site.to_string());
    }
}
