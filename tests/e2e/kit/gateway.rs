//! Runs the real binary as a gateway, and asks it how it is.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::certs::{Authority, replace};
use super::ports::{self, Port};
use super::{PATIENCE, client, eventually};

/// The listeners of a configuration that doesn't bring its own.
const LISTENERS: &str = "
listeners:
  web: {bind: \"$web\"}
  tls:
    bind: \"$tls\"
    certificates: [{cert: $dir/tls/shop.crt, key: $dir/tls/shop.key}]
";

/// The host that the default certificate is for.
pub const HOST: &str = "shop.example.com";

/// A running gateway with its own folder, ports and certificate. Killed when dropped.
pub struct Gateway {
    child: Child,
    dir: TempDir,
    ports: [Port; 3],
    variables: Vec<(String, String)>,
    /// Further arguments of the command.
    pub arguments: Vec<String>,
    /// Further environment variables.
    pub environment: Vec<(String, String)>,
    /// Signed the certificate for [`HOST`] and `*.wild.example.com`.
    pub authority: Authority,
}

impl Gateway {
    /// Starts a gateway and waits until it is ready.
    ///
    /// `config` is a configuration in which `$name` stands for a variable: `$web`, `$tls` and `$admin` are
    /// addresses, `$dir` is the gateway's folder, the others come from `variables`. `version`, `admin` and
    /// `listeners` are added where the text has none of its own.
    ///
    /// # Panics
    ///
    /// With the gateway's log, when it doesn't become ready.
    pub async fn start(config: &str, variables: &[(&str, &dyn ToString)]) -> Self {
        let mut gateway = Self::prepare(config, variables);
        gateway.spawn();
        gateway.until_ready().await;
        gateway
    }

    /// As [`Gateway::start`], without starting.
    pub fn prepare(config: &str, variables: &[(&str, &dyn ToString)]) -> Self {
        let dir = TempDir::new().unwrap();
        let authority = Authority::new();
        authority.sign(&dir.path().join("tls"), "shop", &[HOST, "*.wild.example.com", "localhost"]);
        fs::write(dir.path().join("tls/ca.crt"), &authority.pem).unwrap();
        let ports = [ports::reserve(), ports::reserve(), ports::reserve()];
        let mut known: Vec<(String, String)> =
            variables.iter().map(|(name, value)| ((*name).to_owned(), value.to_string())).collect();
        for (name, port) in ["web", "tls", "admin"].iter().zip(&ports) {
            known.push(((*name).to_owned(), port.address.to_string()));
        }
        known.push(("dir".into(), dir.path().display().to_string()));
        // Longer names first, so that `$origin2` isn't taken for `$origin` and a 2.
        known.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
        let child = Command::new("true").spawn().unwrap();
        let gateway = Self { child, dir, ports, variables: known, arguments: vec![], environment: vec![], authority };
        replace(&gateway.config(), &gateway.fill(config));
        gateway
    }

    /// Starts the process. From the test's own thread: the kernel kills it when that thread ends.
    pub fn spawn(&mut self) {
        let log = File::options().create(true).append(true).open(self.dir.path().join("log")).unwrap();
        let _ = self.child.wait();
        self.child = Command::new(crate::kit::binary())
            .args(["--end-with-parent", "gateway", "--config"])
            .arg(self.config())
            .arg("--state")
            .arg(self.state())
            .args(&self.arguments)
            .envs(self.environment.clone())
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
    }

    /// Waits until it is ready.
    pub async fn until_ready(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("the gateway ended with {status}:\n{}\n{}", self.log(), self.config_text());
            }
            if client::get(self.admin(), "/readyz").await.is_ok_and(|answer| answer.status == 200) {
                return;
            }
            assert!(Instant::now() < deadline, "the gateway never became ready:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The plain listener.
    pub fn web(&self) -> SocketAddr {
        self.ports[0].address
    }

    /// The TLS listener.
    pub fn tls(&self) -> SocketAddr {
        self.ports[1].address
    }

    /// The admin listener.
    pub fn admin(&self) -> SocketAddr {
        self.ports[2].address
    }

    /// Its folder.
    pub fn dir(&self) -> PathBuf {
        self.dir.path().to_owned()
    }

    /// The configuration file.
    pub fn config(&self) -> PathBuf {
        self.dir.path().join("edge.yaml")
    }

    /// Where it keeps its generations.
    pub fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// `tidegate upgrade` to `binary`, not yet run.
    pub fn upgrade_command(&self, binary: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(crate::kit::binary());
        command.args(["upgrade", "--config"]).arg(self.config()).arg("--state").arg(self.state());
        command.arg("--binary").arg(binary).args(arguments).stdin(Stdio::null());
        command
    }

    /// Runs `tidegate upgrade` to `binary`.
    pub async fn upgrade(&self, binary: &Path, arguments: &[&str]) -> Upgrade {
        let mut command = self.upgrade_command(binary, arguments);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        Upgrade {
            code: output.status.code(),
            said: String::from_utf8_lossy(&output.stdout).into_owned(),
            complained: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Processes of this gateway besides the one that was started first: those that took over, or try to.
    pub fn successors(&self) -> Vec<u32> {
        let dir = self.dir.path().display().to_string();
        let all = fs::read_dir("/proc").unwrap().flatten();
        let numbers = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        numbers
            .filter(|number| *number != self.child.id())
            .filter(|number| {
                fs::read(format!("/proc/{number}/cmdline")).is_ok_and(|line| {
                    let line = String::from_utf8_lossy(&line).into_owned();
                    line.contains(&dir) && line.contains("--take-over")
                })
            })
            .collect()
    }

    fn config_text(&self) -> String {
        fs::read_to_string(self.config()).unwrap_or_default()
    }

    /// The process number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything it has said so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Puts a new configuration in place of the old one, and doesn't wait.
    pub fn write(&self, config: &str) {
        replace(&self.config(), &self.fill(config));
    }

    /// Puts a new configuration in place, and waits until it is in force.
    pub async fn reload(&self, config: &str) {
        let before = self.generation().await;
        self.write(config);
        let deadline = Instant::now() + PATIENCE;
        while self.generation().await <= before {
            assert!(Instant::now() < deadline, "the change was never taken over:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The generation in force.
    pub async fn generation(&self) -> u64 {
        let snapshot = self.snapshot().await;
        snapshot["generation"].as_u64().unwrap_or_else(|| panic!("a snapshot without its generation: {snapshot}"))
    }

    /// What /snapshot says.
    pub async fn snapshot(&self) -> serde_json::Value {
        let answer = client::get(self.admin(), "/snapshot").await.expect("the admin listener answers");
        serde_json::from_slice(&answer.body).expect("/snapshot is JSON")
    }

    /// What /metrics says.
    pub async fn metrics(&self) -> String {
        client::get(self.admin(), "/metrics").await.expect("the admin listener answers").text()
    }

    /// The sum of all series of a metric whose labels contain `labels` as written (`route="shop"`).
    pub async fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        self.metrics()
            .await
            .lines()
            .filter(|line| {
                line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']))
                    && labels.iter().all(|label| line.contains(label))
            })
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    /// Waits until a metric is at least `least`.
    pub async fn until_metric(&self, name: &str, labels: &[&str], least: f64) {
        eventually(&format!("{name}{labels:?} >= {least}"), || async { self.metric(name, labels).await >= least })
            .await;
    }

    /// Resident memory in bytes.
    pub fn resident(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    /// Open file descriptors.
    pub fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap().count()
    }

    /// Sends a signal by its name (`HUP`).
    pub fn signal(&self, name: &str) {
        assert!(Command::new("kill").args(["-s", name, &self.pid().to_string()]).status().unwrap().success());
    }

    /// Whether the process has ended.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits until the process has ended.
    pub async fn until_ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "the gateway never ended:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Asserts that it is still running, and that it never panicked.
    pub fn assert_unharmed(&mut self) {
        if let Some(status) = self.child.try_wait().unwrap() {
            panic!("the gateway ended with {status} (signal {:?}):\n{}", status.signal(), self.log());
        }
        assert!(!self.log().contains("panicked"), "the gateway panicked:\n{}", self.log());
    }

    fn fill(&self, config: &str) -> String {
        let mut text = String::new();
        if !config.contains("version: 1") {
            text.push_str("version: 1\n");
        }
        if !config.contains("\nadmin:") {
            text.push_str("admin: {bind: \"$admin\"}\n");
        }
        if !config.contains("\nlisteners:") {
            text.push_str(LISTENERS);
        }
        text.push_str(config);
        for (name, value) in &self.variables {
            text = text.replace(&format!("${name}"), value);
        }
        text
    }
}

/// What came of `tidegate upgrade`.
#[derive(Debug)]
pub struct Upgrade {
    /// Exit code.
    pub code: Option<i32>,
    /// Standard output.
    pub said: String,
    /// Standard error.
    pub complained: String,
}

impl Upgrade {
    /// The process that serves now.
    ///
    /// # Panics
    ///
    /// When it isn't said which.
    pub fn pid(&self) -> u32 {
        let line =
            self.said.lines().find_map(|line| line.strip_prefix("ok: process ")).unwrap_or_else(|| panic!("{self:?}"));
        line.split(' ').next().unwrap().parse().unwrap()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        for number in self.successors() {
            let _ = Command::new("kill").args(["-s", "KILL", &number.to_string()]).stderr(Stdio::null()).status();
        }
        if std::thread::panicking() {
            eprintln!("--- configuration\n{}\n--- the gateway's log\n{}", self.config_text(), self.log());
        }
    }
}
