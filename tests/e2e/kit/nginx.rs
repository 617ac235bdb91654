//! nginx as an origin: what most origins really are.

use std::fs;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::ports::{self, Port};
use super::{client, eventually};

/// A running nginx. Killed when dropped.
pub struct Nginx {
    child: Child,
    _dir: TempDir,
    port: Port,
    guarded: Port,
}

impl Nginx {
    /// Serves `files` (name, content) and answers `/healthz`.
    pub async fn start(files: &[(&str, &[u8])]) -> Self {
        Self::run(files, None).await
    }

    /// The same with a second server on TLS with these settings, which says whose certificate it was shown.
    pub async fn start_guarded(tls: &str) -> Self {
        Self::run(&[], Some(tls)).await
    }

    async fn run(files: &[(&str, &[u8])], tls: Option<&str>) -> Self {
        let dir = TempDir::new().unwrap();
        let (port, guarded) = (ports::reserve(), ports::reserve());
        let second = tls.map_or(String::new(), |tls| {
            let address = guarded.address;
            format!("server {{ listen {address} ssl; {tls} location / {{ return 200 $ssl_client_s_dn; }} }}")
        });
        let root = dir.path().join("files");
        fs::create_dir(&root).unwrap();
        for (name, content) in files {
            fs::write(root.join(name), content).unwrap();
        }
        let at = dir.path().display();
        let user = if rustix::process::geteuid().is_root() { "user root;" } else { "" };
        let config = format!(
            "daemon off; master_process off; worker_processes 1; pid {at}/pid; error_log stderr warn; {user}
            events {{ worker_connections 1024; }}
            http {{
              access_log off; keepalive_requests 1000000;
              client_body_temp_path {at}/body; proxy_temp_path {at}/proxy; fastcgi_temp_path {at}/fastcgi;
              uwsgi_temp_path {at}/uwsgi; scgi_temp_path {at}/scgi;
              server {{
                listen {}; root {};
                location = /healthz {{ return 200 ok; }}
                location = /hello {{ add_header x-version nginx; return 200 hello; }}
              }}
              {second}
            }}",
            port.address,
            root.display()
        );
        fs::write(dir.path().join("nginx.conf"), config).unwrap();
        let child = Command::new("nginx")
            .arg("-c")
            .arg(dir.path().join("nginx.conf"))
            .arg("-p")
            .arg(dir.path())
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("nginx runs (make install-tools brings it)");
        let nginx = Self { child, _dir: dir, port, guarded };
        let address = nginx.address();
        eventually("nginx answers", || async move {
            client::get(address, "/healthz").await.is_ok_and(|answer| answer.status == 200)
        })
        .await;
        nginx
    }

    /// Where its second server listens.
    pub fn guarded(&self) -> SocketAddr {
        self.guarded.address
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.port.address
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
