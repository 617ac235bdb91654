//! `tidegate demo-app` as an origin in a process of its own: killed for real, and speaks WebSocket and gRPC.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use super::ports::{self, Port};
use super::{client, eventually};

/// A running demo-app. Killed when dropped.
pub struct App {
    version: String,
    port: Port,
    child: Child,
}

impl App {
    /// Starts one that says it is `version`.
    pub async fn start(version: &str) -> Self {
        let port = ports::reserve();
        let child = spawn(version, port.address);
        let app = Self { version: version.to_owned(), port, child };
        app.until_up().await;
        app
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.port.address
    }

    /// Kills it as `kill -9` does.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again at the same address.
    pub async fn revive(&mut self) {
        self.child = spawn(&self.version, self.port.address);
        self.until_up().await;
    }

    /// Posts to a switch (`slow?ms=2000`).
    pub async fn tell(&self, switch: &str) {
        let answer = client::send(self.address(), "POST", &format!("/_demo/{switch}"), &[], "").await.unwrap();
        assert_eq!(answer.status, 200);
    }

    /// Requests so far.
    pub async fn hits(&self) -> u64 {
        let answer = client::get(self.address(), "/_demo/stats").await.unwrap();
        serde_json::from_slice::<serde_json::Value>(&answer.body).unwrap()["hits"].as_u64().unwrap()
    }

    async fn until_up(&self) {
        let address = self.address();
        eventually("the app answers", || async move {
            client::get(address, "/healthz").await.is_ok_and(|answer| answer.status == 200)
        })
        .await;
    }
}

impl std::fmt::Display for App {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.port.address.fmt(f)
    }
}

impl Drop for App {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(version: &str, address: SocketAddr) -> Child {
    Command::new(crate::kit::binary())
        .args(["--end-with-parent", "demo-app", "--record", "0", "--name", version, "--bind", &address.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}
