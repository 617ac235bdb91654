//! The proxies beside this gateway, each with an endpoint behind every lane, and how a case is played.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use tokio::net::TcpStream;

use super::corpus::{Bytes, Case};
use super::origin::Recorder;
use super::wire;
use crate::kit::eventually;
use crate::kit::ports::{self, Port};

/// A way through a proxy, with an endpoint of its own.
pub struct Lane {
    /// Where HTTP/1 is spoken.
    pub http1: SocketAddr,
    /// Where HTTP/2 is spoken by prior knowledge.
    pub http2: SocketAddr,
    /// What stands behind it.
    pub origin: Recorder,
    /// How long a connection may stay open: longer than the proxy's deadlines.
    pub patience: Duration,
}

/// How long other proxies get to close: some keep a broken exchange open for long.
const PATIENCE: Duration = Duration::from_secs(3);

/// Requests after a bad answer, each on a connection of its own: whichever pool it went to is asked.
const AFTER: usize = 4;

impl Lane {
    /// Plays one case, and says what came of it.
    pub async fn play(&self, case: &Case) -> String {
        match &case.bytes {
            Bytes::Http1(bytes) => {
                let said = wire::say(self.http1, bytes, self.patience).await;
                let statuses: Vec<u16> = wire::answers(&said, "GET").iter().map(|answer| answer.status).collect();
                told(self.origin.take().await, &statuses, "closed")
            }
            Bytes::Http2(fields, body) => match wire::say_http2(self.http2, fields, body, self.patience).await {
                Ok(status) => told(self.origin.take().await, &[status], "closed"),
                Err(how) => told(self.origin.take().await, &[], how),
            },
            Bytes::Answer { method, bytes, close } => {
                self.origin.script(Some((bytes.clone(), *close)));
                let ask = format!("{method} /case HTTP/1.1\r\nHost: a\r\n\r\n");
                let said = wire::say(self.http1, ask.as_bytes(), self.patience).await;
                self.origin.script(None);
                let mut outcome = match wire::answers(&said, method).as_slice() {
                    [] => "closed".to_owned(),
                    [answer] => match &answer.body {
                        (_, _) if answer.status >= 500 => format!("answered {}", answer.status),
                        (body, true) => format!("passed {} \"{}\"", answer.status, body.escape_ascii()),
                        (_, false) => format!("passed {}, cut off", answer.status),
                    },
                    several => format!("passed {} answers", several.len()),
                };
                for number in 0..AFTER {
                    let ask = format!("GET /after{number} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
                    let said = wire::say(self.http1, ask.as_bytes(), self.patience).await;
                    let right = format!("saw /after{number}").into_bytes();
                    let answers = wire::answers(&said, "GET");
                    if !matches!(answers.as_slice(), [answer] if answer.status == 200 && answer.body.0 == right) {
                        outcome.push_str(", and the next request got a wrong answer");
                        break;
                    }
                }
                self.origin.take().await;
                outcome
            }
        }
    }
}

/// What became of a request: what the endpoint saw, and what the client was told.
fn told(seen: Vec<String>, statuses: &[u16], end: &str) -> String {
    // A request that was broken off before its end did no harm, whether or not its beginning got through.
    let whole: Vec<String> =
        seen.into_iter().filter(|seen| !seen.ends_with(" cut off") && !seen.starts_with("half a head")).collect();
    let last = statuses.last().copied();
    if whole.is_empty() {
        return match last {
            Some(status @ 400..) => format!("refused {status}"),
            Some(status @ 300..400) => format!("redirected {status}"),
            Some(status) => format!("answered {status}"),
            None if end == "closed" => end.to_owned(),
            None => format!("refused by {end}"),
        };
    }
    let mut outcome = format!("forwarded {}", whole.join(" + "));
    if let Some(status @ 400..) = last {
        let _ = write!(outcome, ", then {status}");
    }
    outcome
}

/// A proxy that can be started.
pub enum Proxy {
    /// nginx, forwarding what it got.
    Nginx,
    /// HAProxy as it comes.
    Haproxy,
    /// Envoy as its guide for edge proxies has it.
    Envoy(PathBuf),
}

/// What runs until it is dropped.
pub struct Started {
    child: Child,
    _dir: TempDir,
    _ports: Vec<Port>,
}

/// The proxies that are installed.
///
/// # Panics
///
/// Without nginx or HAProxy: they are needed.
pub fn available() -> Vec<Proxy> {
    for needed in ["nginx", "haproxy"] {
        let found = Command::new(needed).arg("-v").stdout(Stdio::null()).stderr(Stdio::null()).status();
        assert!(found.is_ok_and(|status| status.success()), "{needed} is missing: make install-tools brings it");
    }
    let mut all = vec![Proxy::Nginx, Proxy::Haproxy];
    let envoy = std::env::var_os("TIDEGATE_ENVOY")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target/.tools/envoy"), PathBuf::from);
    if envoy.exists() {
        all.push(Proxy::Envoy(envoy));
    } else {
        eprintln!(
            "SKIPPED: Envoy isn't at {}; its column isn't checked (make differential fetches it)",
            envoy.display()
        );
    }
    all
}

impl Proxy {
    /// Its name in the table.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Envoy(_) => "envoy",
        }
    }

    /// The first number in what it says about its version.
    pub fn version(&self) -> String {
        let (program, argument) = match self {
            Self::Nginx => ("nginx".into(), "-v"),
            Self::Haproxy => ("haproxy".into(), "-v"),
            Self::Envoy(path) => (path.clone(), "--version"),
        };
        let output = Command::new(program).arg(argument).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        let is_version = |word: &&str| word.matches('.').count() >= 2 && word.starts_with(|c: char| c.is_ascii_digit());
        said.split(|c: char| !c.is_ascii_digit() && c != '.').find(is_version).unwrap_or_default().to_owned()
    }

    /// Starts it with so many lanes. It runs until the first value is dropped.
    pub async fn start(&self, lanes: usize) -> (Started, Vec<Lane>) {
        let dir = TempDir::new().unwrap();
        let mut all = Vec::new();
        let mut ports = Vec::new();
        for _ in 0..lanes {
            let (http1, http2) = (ports::reserve(), ports::reserve());
            let origin = Recorder::start().await;
            all.push(Lane { http1: http1.address, http2: http2.address, origin, patience: PATIENCE });
            ports.extend([http1, http2]);
        }
        let at = dir.path().join("config.yaml");
        let mut command = match self {
            Self::Nginx => {
                fs::write(&at, nginx(dir.path(), &all)).unwrap();
                let mut command = Command::new("nginx");
                command.arg("-c").arg(&at).arg("-p").arg(dir.path());
                command
            }
            Self::Haproxy => {
                fs::write(&at, haproxy(&all)).unwrap();
                let mut command = Command::new("haproxy");
                command.arg("-db").arg("-f").arg(&at);
                command
            }
            Self::Envoy(path) => {
                fs::write(&at, envoy(&all)).unwrap();
                let mut command = Command::new(path);
                command.args(["--concurrency", "1", "--disable-hot-restart", "--log-level", "off", "-c"]).arg(&at);
                command
            }
        };
        let log = fs::File::create(dir.path().join("log")).unwrap();
        let child = command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        let started = Started { child, _dir: dir, _ports: ports };
        for lane in &all {
            for address in [lane.http1, lane.http2] {
                eventually(&format!("{} listens on {address}", self.name()), || async move {
                    TcpStream::connect(address).await.is_ok()
                })
                .await;
            }
        }
        (started, all)
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn nginx(dir: &Path, lanes: &[Lane]) -> String {
    let at = dir.display();
    let user = if rustix::process::geteuid().is_root() { "user root;" } else { "" };
    let mut servers = String::new();
    for (n, lane) in lanes.iter().enumerate() {
        let _ = write!(
            servers,
            "upstream o{n} {{ server {}; keepalive 4; }}
             server {{
               listen {}; listen {} http2;
               location / {{
                 proxy_pass http://o{n}; proxy_http_version 1.1;
                 proxy_set_header Connection ''; proxy_set_header Host $http_host;
               }}
             }}\n",
            lane.origin.address, lane.http1, lane.http2
        );
    }
    format!(
        "daemon off; master_process off; worker_processes 1; pid {at}/pid; error_log stderr crit; {user}
        events {{ worker_connections 1024; }}
        http {{
          access_log off; keepalive_timeout 400ms; client_header_timeout 1s; client_body_timeout 1s; proxy_read_timeout 2s;
          client_body_temp_path {at}/body; proxy_temp_path {at}/proxy; fastcgi_temp_path {at}/fastcgi;
          uwsgi_temp_path {at}/uwsgi; scgi_temp_path {at}/scgi;
          {servers}
        }}"
    )
}

fn haproxy(lanes: &[Lane]) -> String {
    let mut text =
        "global\n  log /dev/null local0\ndefaults\n  mode http\n  timeout connect 1s\n  timeout client 1s\n  \
                    timeout server 2s\n  timeout http-request 1s\n  timeout http-keep-alive 400ms\n"
            .to_owned();
    for (n, lane) in lanes.iter().enumerate() {
        let _ = write!(
            text,
            "frontend f{n}\n  bind {}\n  bind {} proto h2\n  default_backend b{n}\nbackend b{n}\n  http-reuse always\n  server o{n} {}\n",
            lane.http1, lane.http2, lane.origin.address
        );
    }
    text
}

fn envoy(lanes: &[Lane]) -> String {
    let address = |address: SocketAddr| serde_json::json!({"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}});
    let (mut listeners, mut clusters) = (Vec::new(), Vec::new());
    for (n, lane) in lanes.iter().enumerate() {
        let cluster = format!("o{n}");
        let manager = serde_json::json!({
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "in",
            "codec_type": "AUTO",
            "normalize_path": true,
            "merge_slashes": true,
            "path_with_escaped_slashes_action": "UNESCAPE_AND_REDIRECT",
            "common_http_protocol_options": {"idle_timeout": "0.4s", "headers_with_underscores_action": "REJECT_REQUEST"},
            "request_headers_timeout": "1s",
            "stream_idle_timeout": "1s",
            "route_config": {"virtual_hosts": [{
                "name": "all", "domains": ["*"],
                "routes": [{"match": {"prefix": "/"}, "route": {"cluster": cluster}}],
            }]},
            "http_filters": [{
                "name": "router",
                "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
            }],
        });
        for at in [lane.http1, lane.http2] {
            listeners.push(serde_json::json!({
                "address": address(at),
                "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
            }));
        }
        clusters.push(serde_json::json!({
            "name": cluster, "type": "STATIC", "connect_timeout": "1s",
            "load_assignment": {"cluster_name": cluster, "endpoints": [{"lb_endpoints": [
                {"endpoint": {"address": address(lane.origin.address)}},
            ]}]},
        }));
    }
    serde_json::json!({"static_resources": {"listeners": listeners, "clusters": clusters}}).to_string()
}
