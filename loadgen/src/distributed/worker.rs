//! A worker: sends its part of what a coordinator asks for, and tells it each second what it found.
//!
//! # Invariants
//!
//! - One run at a time; a second coordinator is told that it is busy.
//! - Nothing is sent that no coordinator waits for: when the connection ends, the run ends.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail, ensure};
use tidegate_model::scenario::Plan;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tracing::{info, warn};

use super::channel;
use super::key::Key;
use super::wire::{Packed, Part, StepPart, ToCoordinator, ToWorker, receive, send};
use crate::clock;
use crate::collect::Beat;
use crate::engine::{Cause, Ender, Ready, Start};
use crate::schedule::Deal;

/// Connections that are looked at at once. More wait to be accepted.
const STRANGERS: usize = 16;

/// Seconds of a run that wait for a slow connection. Beyond it the engine's collector waits, and then its threads.
const WAITING: usize = 64;

/// How long a coordinator may take from one word to the next before the run begins.
const PATIENCE: Duration = Duration::from_secs(120);

/// Listens for coordinators until it fails.
///
/// # Errors
///
/// The address can't be listened at.
pub async fn listen(bind: SocketAddr, key: Key, mut tell: impl FnMut(SocketAddr)) -> anyhow::Result<()> {
    let listener = TcpListener::bind(bind).await.with_context(|| format!("can't listen at {bind}"))?;
    tell(listener.local_addr()?);
    let acceptor = channel::acceptor()?;
    let (busy, room) = (Arc::new(AtomicBool::new(false)), Arc::new(Semaphore::new(STRANGERS)));
    loop {
        let place = Arc::clone(&room).acquire_owned().await?;
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(err) => {
                warn!(%err, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await; // Out of descriptors, most likely.
                continue;
            }
        };
        let (acceptor, key, busy) = (acceptor.clone(), key.clone(), Arc::clone(&busy));
        tokio::spawn(async move {
            let _place = place;
            match serve(stream, &acceptor, &key, &busy).await {
                Ok(()) => info!(%from, "run over"),
                Err(err) => warn!(%from, "{err:#}"),
            }
        });
    }
}

/// Frees the worker again.
struct Taken<'b>(&'b AtomicBool);

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

async fn serve(stream: TcpStream, acceptor: &TlsAcceptor, key: &Key, busy: &AtomicBool) -> anyhow::Result<()> {
    let mut stream = channel::accept(stream, acceptor, key).await?;
    let was_busy = busy.swap(true, Ordering::AcqRel);
    let taken = (!was_busy).then(|| Taken(busy));
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32);
    let version = env!("CARGO_PKG_VERSION").to_owned();
    send(&mut stream, &ToCoordinator::Hello { version, cores, busy: was_busy }).await?;
    ensure!(taken.is_some(), "busy with another run");
    let (mut from, mut to) = tokio::io::split(stream);
    let ToWorker::Job { plan, files, part, parts } =
        timeout(PATIENCE, receive(&mut from)).await.context("no job came")??
    else {
        bail!("the coordinator said something else than a job");
    };
    // Names are looked up and files read, so not on this thread.
    let job = match tokio::task::spawn_blocking(move || Job::prepare(*plan, &files, part, parts)).await? {
        Ok(job) => job,
        Err(err) => {
            send(&mut to, &ToCoordinator::Refused { why: format!("{err:#}") }).await?;
            return Err(err);
        }
    };
    send(&mut to, &ToCoordinator::Ready).await?;
    let after = loop {
        match timeout(PATIENCE, receive(&mut from)).await.context("no start came")?? {
            ToWorker::Ping => send(&mut to, &ToCoordinator::Pong).await?,
            ToWorker::Go { after } => break after,
            ToWorker::End => return Ok(()),
            ToWorker::Job { .. } => bail!("a second job"),
        }
    };
    info!(name = job.name, part = job.deal.index, of = job.deal.of, "run begins");
    job.run(after, &mut from, &mut to).await
}

/// What a coordinator asked for, with all that it needs.
struct Job {
    ready: Ready<'static>,
    name: String,
    deal: Deal,
    _folder: Folder,
}

impl Job {
    /// Writes the files that the plan names, names them as they are here, and prepares the plan.
    fn prepare(mut plan: Plan, files: &BTreeMap<String, Vec<u8>>, part: u64, parts: u64) -> anyhow::Result<Self> {
        ensure!(part < parts, "part {part} of {parts}");
        let folder = Folder::new()?;
        for (index, path) in plan.files_mut().enumerate() {
            let bytes = files.get(&path.to_string_lossy().into_owned()).context("a file is missing")?;
            let here = folder.0.join(index.to_string());
            std::fs::write(&here, bytes).context("can't write a file of the job")?;
            *path = here;
        }
        let name = plan.name.clone();
        let ready = Ready::new(Cow::Owned(plan))?;
        Ok(Self { ready, name, deal: Deal { index: part, of: parts }, _folder: folder })
    }

    /// Sends, and tells each second. Ends at once when nobody listens any more.
    async fn run(
        self,
        after: u64,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
    ) -> anyhow::Result<()> {
        let ender = Ender::default();
        let start = Start { at: Some(clock::unix_now() + after), deal: self.deal, ender: ender.clone() };
        let (tell, mut told) = mpsc::channel::<Part>(WAITING);
        let running = tokio::task::spawn_blocking(move || {
            self.ready.run(&start, &mut |beat| {
                // If nobody reads any more, the run is about to end.
                let _ = tell.blocking_send(part(beat));
            })
        });
        let hear = async {
            loop {
                match receive::<ToWorker>(from).await {
                    Ok(ToWorker::End) => ender.end(Cause::Interrupted),
                    Ok(_) => {}
                    Err(_) => return,
                }
            }
        };
        let report = async {
            while let Some(part) = told.recv().await {
                send(to, &ToCoordinator::Second(part)).await?;
            }
            anyhow::Ok(())
        };
        let reported = tokio::select! {
            () = hear => Err(anyhow!("the coordinator is gone")),
            reported = report => reported,
        };
        drop(told);
        if reported.is_err() {
            ender.hurry(Cause::Interrupted);
        }
        let outcome = running.await?;
        reported?;
        match outcome {
            Ok(outcome) => send(to, &ToCoordinator::Done { memory: outcome.generator.memory }).await,
            Err(err) => send(to, &ToCoordinator::Refused { why: err.to_string() }).await,
        }
    }
}

/// A folder of its own, that only this user can read, as long as a run needs it.
struct Folder(PathBuf);

impl Folder {
    fn new() -> anyhow::Result<Self> {
        use std::os::unix::fs::DirBuilderExt as _;
        let path = std::env::temp_dir().join(format!("tidegate-load-{:016x}", rand::random::<u64>()));
        std::fs::DirBuilder::new().mode(0o700).create(&path).context("can't make a folder for the job's files")?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn part(beat: Beat<'_>) -> Part {
    Part {
        second: beat.second.at,
        steps: beat.steps.iter().map(StepPart::new).collect(),
        lag: Packed::new(beat.lag),
        in_flight: beat.second.in_flight,
        connections: beat.second.connections,
        cpu: beat.second.cpu,
    }
}
