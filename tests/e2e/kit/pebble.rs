//! Pebble, an ACME authority for tests, and the DNS that leads its questions to this machine.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::json;
use tempfile::TempDir;

use super::certs::Authority;
use super::eventually;
use super::ports::{self, Port};

/// How a pebble behaves.
pub struct Manner {
    /// Where it asks for HTTP-01.
    pub http: SocketAddr,
    /// Where it asks for TLS-ALPN-01.
    pub tls: SocketAddr,
    /// Seconds for which its certificates are valid.
    pub valid: u64,
    /// Percent of good nonces that it refuses, so that clients learn to try again.
    pub bad_nonces: u32,
    /// Seconds that it sleeps at most before it asks; 0: it asks at once.
    pub sleeps: u32,
    /// The OCSP responder that its certificates name; empty: none.
    pub responder: String,
}

impl Manner {
    /// A well-behaved one that asks at these addresses.
    pub fn asking(http: SocketAddr, tls: SocketAddr) -> Self {
        Self { http, tls, valid: 7_776_000, bad_nonces: 20, sleeps: 0, responder: String::new() }
    }
}

/// A running pebble with its DNS. Killed when dropped. Its accounts and certificates are lost when it stops.
pub struct Pebble {
    children: Vec<Child>,
    dir: TempDir,
    port: Port,
    management: Port,
    dns: Port,
    dns_admin: Port,
}

impl Pebble {
    /// Reserves its addresses, and doesn't start: an authority that is away.
    pub fn away() -> Self {
        let dir = TempDir::new().unwrap();
        let authority = Authority::new();
        fs::write(dir.path().join("ca.pem"), &authority.pem).unwrap();
        authority.sign(dir.path(), "pebble", &["localhost", "127.0.0.1"]);
        let [port, management, dns, dns_admin] = [(); 4].map(|()| ports::reserve());
        Self { children: Vec::new(), dir, port, management, dns, dns_admin }
    }

    /// Starts one.
    pub async fn start(manner: &Manner) -> Self {
        let mut pebble = Self::away();
        pebble.arrive(manner).await;
        pebble
    }

    /// Starts it, and waits until it answers.
    pub async fn arrive(&mut self, manner: &Manner) {
        let dir = self.dir.path();
        let config = json!({"pebble": {
            "listenAddress": self.port.address.to_string(),
            "managementListenAddress": self.management.address.to_string(),
            "certificate": dir.join("pebble.crt"),
            "privateKey": dir.join("pebble.key"),
            "httpPort": manner.http.port(),
            "tlsPort": manner.tls.port(),
            "ocspResponderURL": manner.responder,
            "externalAccountBindingRequired": false,
            "certificateValidityPeriod": manner.valid,
        }});
        fs::write(dir.join("pebble.json"), config.to_string()).unwrap();
        let log = File::options().create(true).append(true).open(dir.join("log")).unwrap();
        let dns = Command::new("pebble-challtestsrv")
            .args(["-http01", "", "-https01", "", "-tlsalpn01", "", "-defaultIPv6", ""])
            .args(["-defaultIPv4", "127.0.0.1"])
            .args(["-dns01", &self.dns.address.to_string(), "-management", &self.dns_admin.address.to_string()])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log.try_clone().unwrap())
            .spawn()
            .expect("pebble-challtestsrv runs (make install-tools brings it)");
        self.children.push(dns);
        let mut pebble = Command::new("pebble");
        pebble.arg("-config").arg(dir.join("pebble.json")).args(["-dnsserver", &self.dns.address.to_string()]);
        pebble.env("PEBBLE_WFE_NONCEREJECT", manner.bad_nonces.to_string()).env("PEBBLE_AUTHZREUSE", "0");
        match manner.sleeps {
            0 => pebble.env("PEBBLE_VA_NOSLEEP", "1"),
            seconds => pebble.env("PEBBLE_VA_SLEEPTIME", seconds.to_string()),
        };
        let pebble = pebble.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn();
        self.children.push(pebble.expect("pebble runs (make install-tools brings it)"));
        let addresses = [self.port.address, self.management.address];
        eventually("pebble listens", || async move {
            let mut up = true;
            for address in addresses {
                up &= tokio::net::TcpStream::connect(address).await.is_ok();
            }
            up
        })
        .await;
    }

    /// Its directory.
    pub fn directory(&self) -> String {
        format!("https://{}/dir", self.port.address)
    }

    /// The file of the authority that its own address is certified by.
    pub fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// What signs the certificates that it issues, as PEM.
    pub async fn root(&self) -> String {
        self.tells("roots/0").await
    }

    /// What it tells to whoever manages it: `intermediates/0`, `intermediate-keys/0`.
    pub async fn tells(&self, what: &str) -> String {
        let url = format!("https://{}/{what}", self.management.address);
        super::curl(&["--cacert", self.ca().to_str().unwrap(), &url]).await
    }

    /// Everything it has said so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// How often its log holds `text`.
    pub fn said(&self, text: &str) -> usize {
        self.log().matches(text).count()
    }

    /// Its folder.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for Pebble {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- pebble's log\n{}", self.log());
        }
    }
}
