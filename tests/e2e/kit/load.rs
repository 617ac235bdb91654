//! Steady traffic in the background, and what became of it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;
use http::Request;
use http_body_util::Full;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::Client;

/// What became of some requests.
#[derive(Clone, Debug)]
pub struct Report {
    /// By status; 0 stands for no answer.
    pub statuses: BTreeMap<u16, u64>,
    /// By the version that answered; empty for the gateway itself.
    pub versions: BTreeMap<String, u64>,
    /// Latencies in microseconds.
    pub latency: Histogram<u64>,
    /// The first few failures, in words.
    pub failures: Vec<String>,
    /// Connections that were opened.
    pub connections: u64,
}

impl Default for Report {
    fn default() -> Self {
        Self {
            statuses: BTreeMap::new(),
            versions: BTreeMap::new(),
            latency: Histogram::new_with_max(60_000_000, 3).unwrap(),
            failures: Vec::new(),
            connections: 0,
        }
    }
}

impl Report {
    /// Requests.
    pub fn total(&self) -> u64 {
        self.statuses.values().sum()
    }

    /// Requests without an answer, or with one from 500 up.
    pub fn failed(&self) -> u64 {
        self.statuses.iter().filter(|(status, _)| **status == 0 || **status >= 500).map(|(_, count)| count).sum()
    }

    /// A quantile of the latency.
    pub fn quantile(&self, q: f64) -> Duration {
        Duration::from_micros(self.latency.value_at_quantile(q))
    }

    /// One line.
    pub fn line(&self) -> String {
        format!(
            "{} requests, {} failed, statuses {:?}, versions {:?}, {} connections, p50 {:.1?}, p99 {:.1?}",
            self.total(),
            self.failed(),
            self.statuses,
            self.versions,
            self.connections,
            self.quantile(0.5),
            self.quantile(0.99)
        )
    }

    fn count(&mut self, status: u16, version: &str, took: Duration) {
        *self.statuses.entry(status).or_default() += 1;
        *self.versions.entry(version.to_owned()).or_default() += 1;
        self.latency.saturating_record(u64::try_from(took.as_micros()).unwrap());
    }
}

/// Traffic that runs until it is stopped.
pub struct Load {
    report: Arc<Mutex<Report>>,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

/// How to open a connection.
pub type Connect = Arc<dyn Fn() -> futures_util::future::BoxFuture<'static, anyhow::Result<Client>> + Send + Sync>;

/// Makes the n-th request of a connection (numbered too).
pub type Make = Arc<dyn Fn(u64, u64) -> Request<Full<Bytes>> + Send + Sync>;

/// A [`Connect`] from an async closure.
pub fn connect<F>(open: impl Fn() -> F + Send + Sync + 'static) -> Connect
where
    F: Future<Output = anyhow::Result<Client>> + Send + 'static,
{
    Arc::new(move || Box::pin(open()))
}

impl Load {
    /// Keeps `connections` busy, each with a request every `every` (or as fast as answers come, when zero).
    pub fn start(connections: u64, every: Duration, open: &Connect, make: &Make) -> Self {
        let report = Arc::new(Mutex::new(Report::default()));
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        for number in 0..connections {
            let (report, stopped) = (Arc::clone(&report), stopped.clone());
            let (open, make) = (Arc::clone(open), Arc::clone(make));
            tasks.spawn(async move {
                let mut n = 0;
                let mut client = None;
                let mut turns = (!every.is_zero()).then(|| {
                    let mut turns = tokio::time::interval(every);
                    turns.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
                    turns
                });
                while !*stopped.borrow() {
                    if let Some(turns) = &mut turns {
                        turns.tick().await;
                    }
                    one(&mut client, &open, make(number, n), &report).await;
                    n += 1;
                }
            });
        }
        Self { report, stop, tasks }
    }

    /// Sends `total` requests over `connections`, as fast as answers come, and waits for them.
    pub async fn send(total: u64, connections: u64, open: &Connect, make: &Make) -> Report {
        let report = Arc::new(Mutex::new(Report::default()));
        let mut tasks = JoinSet::new();
        for number in 0..connections {
            let (report, open, make) = (Arc::clone(&report), Arc::clone(open), Arc::clone(make));
            let mine = total / connections + u64::from(number < total % connections);
            tasks.spawn(async move {
                let mut client = None;
                for n in 0..mine {
                    one(&mut client, &open, make(number, n), &report).await;
                }
            });
        }
        tasks.join_all().await;
        let report = report.lock().unwrap();
        report.clone()
    }

    /// What became of the requests so far.
    pub fn so_far(&self) -> Report {
        self.report.lock().unwrap().clone()
    }

    /// Forgets what became of the requests so far, and returns it.
    pub fn take(&self) -> Report {
        std::mem::take(&mut self.report.lock().unwrap())
    }

    /// Lets requests in flight finish, and returns what became of all.
    pub async fn stop(mut self) -> Report {
        self.stop.send(true).unwrap();
        while self.tasks.join_next().await.is_some() {}
        self.report.lock().unwrap().clone()
    }
}

async fn one(client: &mut Option<Client>, open: &Connect, request: Request<Full<Bytes>>, report: &Mutex<Report>) {
    let began = Instant::now();
    loop {
        let fresh = client.as_ref().is_none_or(Client::is_closed);
        if fresh {
            report.lock().unwrap().connections += 1;
            match open().await {
                Ok(opened) => *client = Some(opened),
                Err(err) => return fail(report, began, &err),
            }
        }
        match client.as_mut().expect("opened above").send(request.clone()).await {
            Ok(answer) => {
                return report.lock().unwrap().count(answer.status, answer.header("x-version"), began.elapsed());
            }
            // The connection was said to end, and nothing was sent: clients open another one.
            Err(err) if !fresh && was_never_sent(&err) => *client = None,
            Err(err) => {
                *client = None;
                return fail(report, began, &err);
            }
        }
    }
}

/// Whether the client itself held the request back. After a GOAWAY without an error HTTP/2 clients open no stream, and
/// what the server leaves out of it wasn't looked at (RFC 9113 §6.8).
fn was_never_sent(err: &anyhow::Error) -> bool {
    let Some(err) = err.downcast_ref::<hyper::Error>() else { return false };
    let cause = std::error::Error::source(err).map(ToString::to_string).unwrap_or_default();
    err.is_canceled() || err.is_closed() || cause == "connection error received: not a result of an error"
}

fn fail(report: &Mutex<Report>, began: Instant, err: &anyhow::Error) {
    let mut report = report.lock().unwrap();
    report.count(0, "", began.elapsed());
    if report.failures.len() < 5 {
        report.failures.push(format!("{err:#}"));
    }
}
