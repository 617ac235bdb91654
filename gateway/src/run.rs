//! Assembles the gateway, runs it, drains it, stops it.
//!
//! Threads: one for each worker (the door's), one each for admin pages, shadow copies, the access log and kept bans,
//! one for the source of configurations, and a small runtime for probes, name lookups and signals.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tidegate_model::diagnostic::Diagnostic;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tracing::{error, info, warn};

use crate::admin::{Readiness, Stage};
use crate::gateway::{Gateway, Parts};
use crate::record::Metrics;
use crate::resolve;
use crate::source::{Reason, ReloadRequest, Source};

/// Reload requests that wait. Beyond it `POST /reload` answers 503.
const RELOADS_WAITING: usize = 8;

/// How to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// A configuration file, or a folder of them.
    pub config: PathBuf,
    /// Where generations are kept; `None` for the usual place.
    pub state: Option<PathBuf>,
    /// How long requests in flight may take once the gateway is told to stop.
    pub drain: Duration,
    /// Threads that carry requests.
    pub workers: usize,
}

/// Why a gateway didn't start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration can't be served, and no earlier one was kept.
    #[error("the configuration is refused, and no earlier generation can take its place")]
    Refused(Vec<Diagnostic>),
    /// Anything else.
    #[error(transparent)]
    Other(#[from] anyhow::Error),
}

/// Runs until SIGTERM or SIGINT, then drains.
///
/// # Errors
///
/// The configuration is refused, or the system gives no threads or signals.
pub fn run(options: &Options) -> Result<(), StartError> {
    // Pingora installs its own choice where there is none yet; the first one wins.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    raise_descriptor_limit();
    let control = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("control")
        .enable_all()
        .build()
        .context("could not start the control runtime")?;
    let metrics = Metrics::new();
    let mut source = Source::open(&options.config, options.state.as_deref(), metrics.clone())?;
    let readiness = Arc::new(Readiness::default());
    let (reloads, requests) = mpsc::channel(RELOADS_WAITING);
    let parts = Parts {
        metrics,
        readiness: Arc::clone(&readiness),
        source: source.status(),
        reload: reloads.clone(),
        control: control.handle().clone(),
        workers: options.workers,
        state: source.state().map(Path::to_owned),
    };
    let mut gateway = Gateway::open(parts).context("could not start the gateway's threads")?;
    source.first(&mut |desired, places| gateway.apply(&desired, places)).map_err(StartError::Refused)?;
    readiness.enter(Stage::Serving);
    for (listener, address) in gateway.addresses() {
        info!(listener, %address, "listening");
    }

    let gateway = Arc::new(Mutex::new(Some(gateway)));
    let applied = Arc::clone(&gateway);
    let feed = std::thread::Builder::new()
        .name("source".into())
        .spawn(move || {
            source.run(
                |desired, places| match locked(&applied).as_mut() {
                    Some(gateway) => gateway.apply(&desired, places),
                    None => Err(vec![Diagnostic::error("stopping", "the gateway is stopping")]),
                },
                requests,
            )
        })
        .context("could not start the source's thread")?;

    control.block_on(until_stopped(&gateway, reloads))?;

    readiness.enter(Stage::Draining);
    let stopping = locked(&gateway).take(); // Not in the `if`, which would hold the lock to its end.
    if let Some(gateway) = stopping {
        let began = Instant::now();
        let (door, rest) = gateway.into_door();
        let cut = control.block_on(door.drain(options.drain));
        rest.close();
        match cut {
            0 => info!(took = ?began.elapsed(), "drained"),
            _ => warn!(cut, after = ?options.drain, "connections were cut off"),
        }
    }
    // The source ends when nobody can ask it any more.
    if let Ok(Err(err)) = feed.join() {
        error!("source ended: {err}");
    }
    control.shutdown_background();
    Ok(())
}

/// Serves signals and changed names until it is time to stop.
async fn until_stopped(
    gateway: &Arc<Mutex<Option<Gateway>>>,
    reloads: mpsc::Sender<ReloadRequest>,
) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let (names_changed, mut changed_names) = mpsc::channel(1);
    let names_of = Arc::clone(gateway);
    let lookups = tokio::spawn(resolve::keep_fresh(
        move || locked(&names_of).as_ref().map(Gateway::names).unwrap_or_default(),
        names_changed,
    ));
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => {
                if let Some(gateway) = locked(gateway).as_ref() {
                    gateway.access_log().reopen();
                }
                let (reply, _) = oneshot::channel();
                let _ = reloads.try_send(ReloadRequest { reason: Reason::Signal, reply }); // Full: it is about to be read anyway.
            }
            Some(news) = changed_names.recv() => {
                // Applying may wait for the source's thread, so not on this one.
                let gateway = Arc::clone(gateway);
                tokio::task::spawn_blocking(move || locked(&gateway).as_mut().map(|gateway| gateway.renew(news)));
            }
        }
    }
    lookups.abort();
    Ok(())
}

/// Each request in flight takes two descriptors, and the usual soft limit is 1,024: takes what the hard limit gives.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        Ok(()) => info!(from = limit.current, to = limit.maximum, "file descriptor limit raised"),
        Err(err) => warn!(%err, soft = limit.current, "file descriptor limit could not be raised"),
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
