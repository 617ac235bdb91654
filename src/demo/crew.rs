//! The demo's children: the gateway and the shop's instances. The dead ones come back.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bytes::Bytes;
use http::Request;
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use rustix::process::{Pid, Signal, kill_process};
use tokio::net::TcpStream;

use super::site::{App, Site};

/// How long a shop that died stays away, so that its absence can be watched.
const AWAY: Duration = Duration::from_secs(15);

/// How long the gateway may take to be ready before the demo gives up.
const READY: Duration = Duration::from_secs(30);

/// How long the gateway may take to finish its requests before it is killed.
const FAREWELL: Duration = Duration::from_secs(5);

/// Time between two looks at something that is awaited.
const LOOK: Duration = Duration::from_millis(50);

/// The running children.
pub struct Crew {
    binary: PathBuf,
    gateway: Child,
    apps: Vec<Member>,
}

struct Member {
    app: App,
    child: Child,
    died: Option<Instant>,
}

impl Crew {
    /// Starts everybody.
    pub fn start(site: &Site) -> anyhow::Result<Self> {
        let binary = std::env::current_exe().context("could not find our own binary")?;
        let mut apps = Vec::new();
        for &app in &site.apps {
            let child = start_app(&binary, app)?;
            apps.push(Member { app, child, died: None });
        }
        let log = File::create(site.dir.join("gateway.log")).context("could not create gateway.log")?;
        let gateway = Command::new(&binary)
            .args(["--end-with-parent", "gateway", "--config"])
            .arg(site.config())
            .arg("--state")
            .arg(site.dir.join("state"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .context("could not start the gateway")?;
        Ok(Self { binary, gateway, apps })
    }

    /// Waits until the gateway says it is ready and every shop answers.
    ///
    /// # Errors
    ///
    /// With the gateway's last words, when it ended or took too long.
    pub async fn until_ready(&mut self, site: &Site) -> anyhow::Result<()> {
        let deadline = Instant::now() + READY;
        loop {
            if let Some(status) = self.gateway.try_wait()? {
                bail!("the gateway did not start ({status}):\n{}", last_words(site));
            }
            let mut all = answers(site.admin, "/readyz").await;
            for app in &site.apps {
                all = all && answers(app.address, "/healthz").await;
            }
            if all {
                return Ok(());
            }
            if Instant::now() >= deadline {
                bail!("not ready after {} s:\n{}", READY.as_secs(), last_words(site));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The shops' process numbers.
    pub fn pids(&self) -> Vec<(App, u32)> {
        self.apps.iter().map(|member| (member.app, member.child.id())).collect()
    }

    /// Notices who died, and brings back who was away long enough. Returns what happened, as lines to print.
    pub fn look_after(&mut self, now: Instant) -> Vec<String> {
        let mut news = Vec::new();
        if let Ok(Some(status)) = self.gateway.try_wait() {
            news.push(format!("the gateway ended: {status}"));
        }
        for Member { app, child, died } in &mut self.apps {
            match died {
                None => {
                    if let Ok(Some(status)) = child.try_wait() {
                        *died = Some(now);
                        news.push(format!(
                            "shop/{} at {} ended ({status}); it comes back in {} s",
                            app.version,
                            app.address,
                            AWAY.as_secs()
                        ));
                    }
                }
                Some(since) if now.duration_since(*since) >= AWAY => match start_app(&self.binary, *app) {
                    Ok(back) => {
                        news.push(format!("shop/{} at {} is back as process {}", app.version, app.address, back.id()));
                        *child = back;
                        *died = None;
                    }
                    Err(err) => news.push(format!("shop/{} could not come back: {err:#}", app.version)),
                },
                Some(_) => {}
            }
        }
        news
    }

    /// Lets the gateway finish its requests, then ends everybody.
    pub async fn stop(mut self) {
        if let Ok(pid) = i32::try_from(self.gateway.id()) {
            let _ = Pid::from_raw(pid).map(|pid| kill_process(pid, Signal::TERM));
        }
        let deadline = Instant::now() + FAREWELL;
        while matches!(self.gateway.try_wait(), Ok(None)) && Instant::now() < deadline {
            tokio::time::sleep(LOOK).await;
        }
        // Dropping ends whoever is left.
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        for child in std::iter::once(&mut self.gateway).chain(self.apps.iter_mut().map(|member| &mut member.child)) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn start_app(binary: &Path, app: App) -> anyhow::Result<Child> {
    Command::new(binary)
        .args(["--end-with-parent", "demo-app", "--name", app.version, "--bind", &app.address.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .with_context(|| format!("could not start shop/{}", app.version))
}

/// The end of the gateway's log.
fn last_words(site: &Site) -> String {
    /// Lines that are shown: enough for a diagnostic with its source.
    const LINES: usize = 30;

    let log = fs::read_to_string(site.dir.join("gateway.log")).unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}

/// Whether a GET of `path` is answered with success.
async fn answers(address: std::net::SocketAddr, path: &str) -> bool {
    let ask = async {
        let stream = TcpStream::connect(address).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let request = Request::get(path).header("host", address.to_string()).body(Empty::<Bytes>::new())?;
        anyhow::Ok(sender.send_request(request).await?.status())
    };
    matches!(tokio::time::timeout(Duration::from_secs(1), ask).await, Ok(Ok(status)) if status.is_success())
}
