//! The demo's visitors: steady https traffic, and what became of it.
//!
//! Arrivals follow a fixed schedule for each visitor connection; a visitor who is
//! still waiting for an answer misses its next turns instead of piling them up.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use hdrhistogram::Histogram;
use http::{Request, Response, Version, header};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_rustls::TlsConnector;

use super::site::{HOST, Site};

/// Connections that are kept open; every other one speaks HTTP/2.
const CONNECTIONS: u32 = 16;

/// People who come again and again, told apart by a cookie.
const PEOPLE: u32 = 2_000;

/// A request that takes longer has failed. Longer than the gateway's own deadline.
const PATIENCE: Duration = Duration::from_secs(15);

/// Time to wait after a connection failed.
const SULK: Duration = Duration::from_millis(100);

/// The largest latency that is told apart, in microseconds; longer ones count as this.
const LONGEST_MICROS: u64 = 60_000_000;

/// Name under which answers of the gateway itself, and no answers at all, are counted.
pub const NOBODY: &str = "(none)";

/// Visitors at work.
pub struct Visitors {
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

struct Shared {
    total: Mutex<Tally>,
    second: Mutex<Tally>,
    connector: TlsConnector,
    connector_h2: TlsConnector,
    address: std::net::SocketAddr,
}

/// What became of requests, by version.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// By the version that answered.
    pub versions: BTreeMap<String, Outcomes>,
}

/// What became of the requests that one version answered.
#[derive(Clone, Debug)]
pub struct Outcomes {
    /// Answers below 500.
    pub succeeded: u64,
    /// Answers from 500 up, and requests without an answer.
    pub failed: u64,
    /// Latencies in microseconds.
    pub latency: Histogram<u32>,
}

impl Default for Outcomes {
    fn default() -> Self {
        let latency = Histogram::new_with_max(LONGEST_MICROS, 3).expect("the bounds are legal");
        Self { succeeded: 0, failed: 0, latency }
    }
}

impl Tally {
    /// Counts one request.
    pub fn count(&mut self, version: &str, succeeded: bool, latency: Duration) {
        let outcomes = match self.versions.get_mut(version) {
            Some(outcomes) => outcomes,
            None => self.versions.entry(version.to_owned()).or_default(),
        };
        *(if succeeded { &mut outcomes.succeeded } else { &mut outcomes.failed }) += 1;
        outcomes.latency.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(LONGEST_MICROS));
    }

    /// Requests that succeeded.
    pub fn succeeded(&self) -> u64 {
        self.versions.values().map(|outcomes| outcomes.succeeded).sum()
    }

    /// Requests that failed.
    pub fn failed(&self) -> u64 {
        self.versions.values().map(|outcomes| outcomes.failed).sum()
    }
}

impl Visitors {
    /// Sends `rate` requests per second to the site until [`Visitors::leave`].
    pub fn send(site: &Site, rate: u32) -> anyhow::Result<Self> {
        let shared = Arc::new(Shared {
            total: Mutex::default(),
            second: Mutex::default(),
            connector: connector(&site.authority, b"http/1.1")?,
            connector_h2: connector(&site.authority, b"h2")?,
            address: site.tls,
        });
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        let every = Duration::from_secs(1) * CONNECTIONS / rate;
        for number in 0..CONNECTIONS {
            let (shared, stopped) = (Arc::clone(&shared), stopped.clone());
            let first = tokio::time::Instant::now() + every * number / CONNECTIONS;
            tasks.spawn(async move { shared.visit(number, first, every, stopped).await });
        }
        Ok(Self { shared, stop, tasks })
    }

    /// What became of the requests since this was last asked.
    pub fn take_second(&self) -> Tally {
        std::mem::take(&mut *self.shared.second.lock().expect("nobody panics while counting"))
    }

    /// Lets requests in flight finish, and returns what became of all of them.
    pub async fn leave(mut self) -> Tally {
        let _ = self.stop.send(true);
        while self.tasks.join_next().await.is_some() {}
        self.shared.total.lock().expect("nobody panics while counting").clone()
    }
}

impl Shared {
    /// One visitor connection: a request at each of its turns, reconnecting when it must.
    async fn visit(&self, number: u32, first: tokio::time::Instant, every: Duration, stopped: watch::Receiver<bool>) {
        let mut turns = tokio::time::interval_at(first, every);
        turns.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut connection = None;
        let mut turn = 0_u32;
        while !*stopped.borrow() {
            turns.tick().await;
            let began = Instant::now();
            let person = (turn * CONNECTIONS + number) % PEOPLE;
            turn = turn.wrapping_add(1);
            let outcome = tokio::time::timeout(PATIENCE, self.ask(&mut connection, number, person)).await;
            match outcome {
                Ok(Ok((version, succeeded))) => self.count(&version, succeeded, began.elapsed()),
                Ok(Err(_)) | Err(_) => {
                    self.count(NOBODY, false, began.elapsed());
                    connection = None;
                    tokio::time::sleep(SULK).await;
                }
            }
        }
    }

    async fn ask(&self, kept: &mut Option<Sender>, number: u32, person: u32) -> anyhow::Result<(String, bool)> {
        // A server may close an idle connection at any time; that is no failed request.
        if kept.as_mut().is_none_or(|sender| sender.is_closed()) {
            *kept = Some(self.connect(number % 2 == 1).await?);
        }
        let sender = kept.as_mut().expect("connected above");
        let path = ["/", "/cart", "/item/17", "/item/42", "/search?q=tide"][person as usize % 5];
        let response = sender.send(path, self.address.port(), person).await?;
        let version = response.headers().get("x-version").and_then(|value| value.to_str().ok()).unwrap_or(NOBODY);
        let version = version.to_owned();
        let succeeded = !response.status().is_server_error();
        response.into_body().collect().await.context("the answer broke off")?;
        Ok((version, succeeded))
    }

    async fn connect(&self, h2: bool) -> anyhow::Result<Sender> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let connector = if h2 { &self.connector_h2 } else { &self.connector };
        let stream = connector.connect(ServerName::try_from(HOST)?, stream).await?;
        if h2 {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            return Ok(Sender::H2(sender));
        }
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Sender::H1(sender))
    }

    fn count(&self, version: &str, succeeded: bool, latency: Duration) {
        for tally in [&self.total, &self.second] {
            tally.lock().expect("nobody panics while counting").count(version, succeeded, latency);
        }
    }
}

enum Sender {
    H1(http1::SendRequest<Empty<Bytes>>),
    H2(http2::SendRequest<Empty<Bytes>>),
}

impl Sender {
    fn is_closed(&self) -> bool {
        match self {
            Self::H1(sender) => sender.is_closed(),
            Self::H2(sender) => sender.is_closed(),
        }
    }

    async fn send(&mut self, path: &str, port: u16, person: u32) -> anyhow::Result<Response<Incoming>> {
        let request = Request::get(path).header(header::COOKIE, format!("uid=visitor-{person}"));
        Ok(match self {
            Self::H1(sender) => {
                sender.ready().await?;
                let request = request.header(header::HOST, format!("{HOST}:{port}"));
                sender.send_request(request.body(Empty::new())?).await?
            }
            Self::H2(sender) => {
                sender.ready().await?;
                let request = request.uri(format!("https://{HOST}:{port}{path}")).version(Version::HTTP_2);
                sender.send_request(request.body(Empty::new())?).await?
            }
        })
    }
}

/// Trusts the demo's authority only, and speaks one protocol only.
fn connector(authority: &CertificateDer<'static>, protocol: &[u8]) -> anyhow::Result<TlsConnector> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(authority.clone()).context("our own certificate authority is not accepted")?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}
