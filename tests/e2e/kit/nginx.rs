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
}

impl Nginx {
    /// Serves `files` (name, content) and answers `/healthz`.
    pub async fn start(files: &[(&str, &[u8])]) -> Self {
        let dir = TempDir::new().unwrap();
        let port = ports::reserve();
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
        let nginx = Self { child, _dir: dir, port };
        let address = nginx.address();
        eventually("nginx answers", || async move {
            client::get(address, "/healthz").await.is_ok_and(|answer| answer.status == 200)
        })
        .await;
        nginx
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
