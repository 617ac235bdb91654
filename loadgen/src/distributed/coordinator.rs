//! A coordinator: gives each worker its part, starts them at one instant, and adds up what they tell.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail, ensure};
use tidegate_model::scenario::Plan;
use tokio::io::{ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

use super::channel;
use super::key::Key;
use super::wire::{Part, ToCoordinator, ToWorker, receive, send};
use crate::clock;
use crate::collect::{self, Beat, Collector};
use crate::engine::{Ender, outcome};
use crate::mark;
use crate::outcome::Outcome;
use crate::record::Gauges;

/// From the last word to the first arrival: time for the word to reach everybody.
const RUN_UP: Duration = Duration::from_millis(500);

/// How often a worker's distance is measured; the shortest counts.
const PINGS: usize = 5;

/// How long a worker may take to prepare.
const PREPARING: Duration = Duration::from_secs(120);

/// A worker that is silent for so long in a run is lost. Each tells something every second.
const SILENCE: Duration = Duration::from_secs(30);

/// Parts that wait to be added up.
const WAITING: usize = 256;

/// A worker that is prepared.
struct Worker {
    address: String,
    from: ReadHalf<TlsStream<TcpStream>>,
    to: WriteHalf<TlsStream<TcpStream>>,
    /// The time that a word takes there, at most.
    distance: Duration,
}

/// What a worker has told.
enum Told {
    Part(Part),
    Done(u64),
    Lost(String),
}

/// Runs a plan on these workers, and tells `watch` each second.
///
/// # Errors
///
/// A worker isn't there, has another key or another version, is busy, or can't do its part. Nothing was sent then.
pub async fn run(
    plan: &Plan,
    workers: &[String],
    key: &Key,
    ender: &Ender,
    watch: &mut dyn FnMut(Beat<'_>),
) -> anyhow::Result<Outcome> {
    let marked = mark::dyed(plan, clock::unix_now() / 1_000_000_000)?;
    let plan = &*marked;
    let files = files(plan)?;
    let mut ready = Vec::new();
    for (part, address) in workers.iter().enumerate() {
        let worker = prepare(plan, &files, address, key, part as u64, workers.len() as u64).await;
        ready.push(worker.with_context(|| format!("worker {address}"))?);
    }
    let farthest = ready.iter().map(|worker| worker.distance).max().unwrap_or_default();
    let begins = Instant::now() + RUN_UP + farthest * 2;
    let began = (clock::unix_now() + (begins - Instant::now()).as_nanos() as u64) / 1_000_000;
    let begins_clock = clock::now() + (begins - Instant::now()).as_nanos() as u64;

    let (tell, mut told) = mpsc::channel(WAITING);
    let mut ends = Vec::new();
    for (index, mut worker) in ready.into_iter().enumerate() {
        let after = begins.saturating_duration_since(Instant::now()).saturating_sub(worker.distance / 2);
        let after = u64::try_from(after.as_nanos()).unwrap_or(u64::MAX);
        send(&mut worker.to, &ToWorker::Go { after }).await.with_context(|| format!("worker {}", worker.address))?;
        ends.push(worker.to);
        tokio::spawn(listen(index, worker.from, tell.clone()));
    }
    drop(tell);

    let steps = plan.steps().count();
    let mut gathered = Gathered::new(workers, steps);
    let mut ended = false;
    let mut tick = tokio::time::interval(Duration::from_millis(50));
    while !gathered.collector.is_over() {
        tokio::select! {
            word = told.recv() => match word {
                Some((index, word)) => gathered.take(index, word, watch),
                None => break,
            },
            _ = tick.tick(), if !ended => if ender.ended_at().is_some() {
                ended = true;
                for to in &mut ends {
                    let _ = send(to, &ToWorker::End).await; // One that is gone has ended.
                }
            },
        }
    }
    let lasts = u64::try_from(plan.lasts().as_nanos()).unwrap_or(u64::MAX);
    let took = ender.ended_at().map_or(lasts, |at| at.saturating_sub(begins_clock).min(lasts));
    let mut collected = gathered.collector.done();
    collected.health.workers = workers.to_vec();
    collected.health.memory = gathered.memory;
    collected.health.lost = gathered.lost;
    Ok(outcome(plan, collected, ender, began, took))
}

async fn prepare(
    plan: &Plan,
    files: &BTreeMap<String, Vec<u8>>,
    address: &str,
    key: &Key,
    part: u64,
    parts: u64,
) -> anyhow::Result<Worker> {
    let mut stream = channel::connect(address, key).await?;
    let hello = timeout(PREPARING, receive(&mut stream)).await.context("it says nothing")??;
    let ToCoordinator::Hello { version, busy, .. } = hello else { bail!("it can't be understood") };
    let ours = env!("CARGO_PKG_VERSION");
    ensure!(version == ours, "its version is {version}, and this is {ours}; both must be the same");
    ensure!(!busy, "it is busy with another run");
    let job = ToWorker::Job { plan: Box::new(plan.clone()), files: files.clone(), part, parts };
    send(&mut stream, &job).await?;
    match timeout(PREPARING, receive(&mut stream)).await.context("it doesn't get ready")?? {
        ToCoordinator::Ready => {}
        ToCoordinator::Refused { why } => bail!("it can't do its part: {why}"),
        other => bail!("it said {other:?} where it should be ready"),
    }
    let mut distance = Duration::MAX;
    for _ in 0..PINGS {
        let asked = Instant::now();
        send(&mut stream, &ToWorker::Ping).await?;
        timeout(PREPARING, receive::<ToCoordinator>(&mut stream)).await.context("it says nothing")??;
        distance = distance.min(asked.elapsed());
    }
    let (from, to) = tokio::io::split(stream);
    Ok(Worker { address: address.to_owned(), from, to, distance })
}

fn files(plan: &Plan) -> anyhow::Result<BTreeMap<String, Vec<u8>>> {
    let mut plan = plan.clone();
    let read = |path: &mut std::path::PathBuf| {
        let bytes = std::fs::read(&*path).with_context(|| format!("can't read {}", path.display()))?;
        Ok((path.to_string_lossy().into_owned(), bytes))
    };
    plan.files_mut().map(read).collect()
}

async fn listen(index: usize, mut from: ReadHalf<TlsStream<TcpStream>>, tell: mpsc::Sender<(usize, Told)>) {
    loop {
        let heard = timeout(SILENCE, receive::<ToCoordinator>(&mut from)).await;
        let word = match heard.map_err(|_| anyhow!("silent for {} s", SILENCE.as_secs())) {
            Ok(Ok(ToCoordinator::Second(part))) => Told::Part(part),
            Ok(Ok(ToCoordinator::Done { memory })) => Told::Done(memory),
            Ok(Ok(ToCoordinator::Refused { why })) => Told::Lost(why),
            Ok(Ok(_)) => continue,
            Ok(Err(err)) | Err(err) => Told::Lost(format!("{err:#}")),
        };
        let over = !matches!(word, Told::Part(_));
        if tell.send((index, word)).await.is_err() || over {
            return;
        }
    }
}

/// What was told so far.
struct Gathered<'w> {
    workers: &'w [String],
    collector: Collector,
    memory: u64,
    lost: Vec<String>,
}

impl<'w> Gathered<'w> {
    fn new(workers: &'w [String], steps: usize) -> Self {
        Self { workers, collector: Collector::new(workers.len(), steps), memory: 0, lost: Vec::new() }
    }

    fn take(&mut self, index: usize, word: Told, watch: &mut dyn FnMut(Beat<'_>)) {
        let lost = match word {
            Told::Part(part) => match opened(part) {
                Ok(part) => return self.collector.take_part(index, part, watch),
                Err(err) => Some(format!("{err:#}")),
            },
            Told::Done(memory) => {
                self.memory += memory;
                None
            }
            Told::Lost(why) => Some(why),
        };
        if let Some(why) = lost {
            self.lost.push(format!("{}: {why}", self.workers[index]));
        }
        self.collector.end(index, watch);
    }
}

fn opened(part: Part) -> anyhow::Result<collect::Part> {
    Ok(collect::Part {
        second: part.second,
        steps: part.steps.into_iter().map(super::wire::StepPart::open).collect::<anyhow::Result<_>>()?,
        lag: part.lag.open()?,
        gauges: Gauges { in_flight: part.in_flight, connections: part.connections, cpu: part.cpu, open: Vec::new() },
    })
}
