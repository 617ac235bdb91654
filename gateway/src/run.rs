//! Assembles the gateway, runs it, drains it, stops it.
//!
//! Threads: one for each worker (the door's), one each for admin pages, shadow copies, the access log and kept bans,
//! one for the source of configurations, and a small runtime for probes, name lookups and signals.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::sys::signal::Signal::{SIGHUP, SIGINT, SIGTERM, SIGUSR2};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tidegate_model::check::Places;
use tidegate_model::desired::Desired;
use tidegate_model::diagnostic::{Colour, Diagnostic, render_all};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tracing::{error, info, warn};

use crate::admin::{Readiness, Stage};
use crate::gateway::{Gateway, Parts};
use crate::record::Metrics;
use crate::resolve;
use crate::source::{Reason, ReloadRequest, Source};
use crate::upgrade::control::Control;
use crate::upgrade::{Predecessor, Program, Step, Successor, Upgrades, notify, stand_in};

/// Reload requests that wait. Beyond it `POST /reload` answers 503.
const RELOADS_WAITING: usize = 8;

/// Upgrades that wait to be looked at. Beyond it they are told that the gateway is leaving.
const ASKS_WAITING: usize = 8;

/// Once another gateway has taken over, a connection that sends no request for so long is closed. Half of the
/// drain's time if that is less. A client that sends one just then fails, as with any idle timeout.
const QUIET: Duration = Duration::from_secs(5);

/// A second signal to end within this time is the first one, come by another way: a terminal sends it to every process,
/// and the one that stands in does so too. Later ones mean "at once".
const ONE_SIGNAL: Duration = Duration::from_millis(300);

/// How often it is told how many connections are left.
const REPORT_EVERY: Duration = Duration::from_secs(1);

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
    /// Whether a running gateway has started this one to take over.
    pub take_over: bool,
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

/// Runs until SIGTERM or SIGINT, or until another gateway has taken over, then drains.
///
/// # Errors
///
/// The configuration is refused, or the system gives no threads or signals.
pub fn run(options: &Options) -> Result<(), StartError> {
    // Pingora installs its own choice where there is none yet; the first one wins.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let program = Program::of_this_process();
    let mut before = options.take_over.then(Predecessor::meet).transpose().context("could not take over")?;
    raise_descriptor_limit();
    let control = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("control")
        .enable_all()
        .build()
        .context("could not start the control runtime")?;
    let metrics = Metrics::new();
    let mut source = Source::open(&options.config, options.state.as_deref(), metrics.clone())?;
    let (holds, held) = mpsc::channel(1);
    source.held_by(held);
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
    match &mut before {
        None => {
            drop(source.first(&mut |desired, places| gateway.apply(&desired, places)).map_err(StartError::Refused)?)
        }
        Some(before) => take_over(before, &mut gateway, &mut source, &readiness)?,
    }
    readiness.enter(Stage::Serving);
    for (listener, address) in gateway.addresses() {
        info!(listener, %address, "listening");
    }
    let elders = before.map_or_else(Vec::new, |before| before.ready(source.status().generation().0));
    let (asks, asked) = mpsc::channel(ASKS_WAITING);
    let socket = source.state().and_then(|folder| {
        let _inside = control.enter();
        Control::open(folder, asks)
            .inspect_err(|err| warn!(%err, "control socket can't be opened, so `tidegate upgrade` won't work"))
            .ok()
    });
    notify::notify("READY=1");

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

    let mut signals = {
        let _inside = control.enter();
        Signals::listen().context("could not listen to signals")?
    };
    let sockets_of = Arc::clone(&gateway);
    let upgrades = Upgrades::new(program, asked, holds, elders, move || match locked(&sockets_of).as_ref() {
        Some(gateway) => gateway.sockets(),
        None => Err(std::io::ErrorKind::NotConnected.into()),
    });
    let end = control.block_on(until_ended(&gateway, reloads, &mut signals, upgrades));

    let stopping = locked(&gateway).take(); // Not in the `if`, which would hold the lock to its end.
    // Whoever started the first process tells its end to that one; it tells all others.
    let passes_on = matches!(end, End::Replaced { main_process_moved: false, .. }) && !options.take_over;
    if let Some(gateway) = stopping {
        let left = leave(gateway, &end, &readiness, &mut signals, options.drain, passes_on);
        control.block_on(left);
    }
    // The source ends when nobody can ask it any more, or when another one has taken over.
    if let Ok(Err(err)) = feed.join() {
        error!("source ended: {err}");
    }
    if let End::Replaced { steps, .. } = end {
        drop(steps);
        if let Some(socket) = &socket {
            control.block_on(socket.told());
        }
        if passes_on && let Err(err) = stand_in::become_one(|| control.block_on(signals.next_end())) {
            error!(%err, "this process can't stand in for the gateway that took over, and ends");
        }
    }
    drop(socket);
    control.shutdown_background();
    Ok(())
}

/// Begins where the gateway before stands: with its sockets, and the configuration on disk.
fn take_over(
    before: &mut Predecessor,
    gateway: &mut Gateway,
    source: &mut Source,
    readiness: &Readiness,
) -> Result<(), StartError> {
    gateway.inherit(before.sockets());
    // Whoever asks at the address it takes over has been told so all the time.
    readiness.enter(Stage::Serving);
    let mut apply = |desired: Arc<Desired>, places: &Places| {
        gateway.apply(&desired, places)?;
        before.accepted(desired.generation.0);
        Ok(())
    };
    let Err(problems) = source.first_on_disk(&mut apply) else { return Ok(()) };
    if before.is_alive() {
        // It serves what it has. An older generation here would be no upgrade.
        before.refused(&render_all(&problems, Colour::Off));
        return Err(StartError::Refused(problems));
    }
    source.first(&mut |desired, places| gateway.apply(&desired, places)).map(drop).map_err(StartError::Refused)
}

/// The signals that a gateway listens to, from its start to its end.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    upgrade: Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            upgrade: signal(SignalKind::user_defined2())?,
        })
    }

    async fn next(&mut self) -> nix::sys::signal::Signal {
        tokio::select! {
            _ = self.terminate.recv() => SIGTERM,
            _ = self.interrupt.recv() => SIGINT,
            _ = self.hangup.recv() => SIGHUP,
            _ = self.upgrade.recv() => SIGUSR2,
        }
    }

    /// The signal to end that has come and was not asked for yet. Waits a moment for one that another thread holds.
    async fn next_end(&mut self) -> Option<nix::sys::signal::Signal> {
        let to_end = async {
            tokio::select! {
                _ = self.terminate.recv() => SIGTERM,
                _ = self.interrupt.recv() => SIGINT,
            }
        };
        tokio::time::timeout(Duration::from_millis(10), to_end).await.ok()
    }
}

/// How a gateway's service ends.
enum End {
    /// It was told to stop.
    Stopped,
    /// Another one has taken over.
    Replaced {
        /// Kept, because the other one notices when it goes.
        _successor: Successor,
        /// Who follows the upgrade.
        steps: mpsc::Sender<Step>,
        /// Whether the service manager watches the other one now.
        main_process_moved: bool,
    },
}

/// Serves signals, changed names and upgrades until this gateway has to go.
async fn until_ended(
    gateway: &Arc<Mutex<Option<Gateway>>>,
    reloads: mpsc::Sender<ReloadRequest>,
    signals: &mut Signals,
    mut upgrades: Upgrades,
) -> End {
    let (names_changed, mut changed_names) = mpsc::channel(1);
    let names_of = Arc::clone(gateway);
    let lookups = tokio::spawn(resolve::keep_fresh(
        move || locked(&names_of).as_ref().map(Gateway::names).unwrap_or_default(),
        names_changed,
    ));
    let mut stopping = false;
    let end = loop {
        tokio::select! {
            signal = signals.next() => match signal {
                SIGHUP => {
                    if let Some(gateway) = locked(gateway).as_ref() {
                        gateway.access_log().reopen();
                    }
                    let (reply, _) = oneshot::channel();
                    let _ = reloads.try_send(ReloadRequest { reason: Reason::Signal, reply }); // Full: it is about to be read anyway.
                }
                SIGUSR2 => upgrades.by_signal(),
                _ if upgrades.abort() => stopping = true,
                _ => break End::Stopped,
            },
            outcome = upgrades.outcome() => match outcome {
                Some((successor, steps)) => {
                    let main_process_moved = notify::main_process_is(successor.pid());
                    if stopping {
                        stand_in::pass_on(SIGTERM);
                    }
                    break End::Replaced { _successor: successor, steps, main_process_moved };
                }
                None if stopping => break End::Stopped,
                None => {}
            },
            Some(news) = changed_names.recv() => {
                // Applying may wait for the source's thread, so not on this one.
                let gateway = Arc::clone(gateway);
                tokio::task::spawn_blocking(move || locked(&gateway).as_mut().map(|gateway| gateway.renew(news)));
            }
        }
    };
    lookups.abort();
    end
}

/// Lets connections end, and tells how many are left.
async fn leave(
    gateway: Gateway,
    end: &End,
    readiness: &Readiness,
    signals: &mut Signals,
    patience: Duration,
    passes_on: bool,
) {
    let began = Instant::now();
    let (door, mut rest) = gateway.into_door();
    let (quiet, steps) = match end {
        End::Stopped => {
            readiness.enter(Stage::Draining);
            notify::notify("STOPPING=1");
            (Duration::ZERO, None)
        }
        End::Replaced { steps, .. } => {
            readiness.enter(Stage::Replaced);
            rest.retire();
            if let Err(err) = stand_in::adopt_descendants() {
                warn!(%err, "gateways that come later may not be watched");
            }
            (QUIET.min(patience / 2), Some(steps))
        }
    };
    let census = door.census();
    let drained = door.drain(patience, quiet);
    tokio::pin!(drained);
    let mut report = tokio::time::interval(REPORT_EVERY);
    let cut = loop {
        tokio::select! {
            cut = &mut drained => break cut,
            _ = report.tick() => if let Some(steps) = steps {
                let seconds_left = patience.saturating_sub(began.elapsed()).as_secs();
                // Who doesn't keep up misses one.
                let _ = steps.try_send(Step::Draining { connections: census.connections(), seconds_left });
            },
            signal = signals.next() => match end {
                End::Replaced { .. } if passes_on => stand_in::pass_on(signal),
                End::Stopped if matches!(signal, SIGTERM | SIGINT) && began.elapsed() > ONE_SIGNAL => {
                    break census.connections();
                }
                _ => {}
            },
        }
    };
    if let Some(steps) = steps {
        let _ = steps.try_send(Step::Drained { cut });
    }
    rest.close();
    match cut {
        0 => info!(took = ?began.elapsed(), "drained"),
        _ => warn!(cut, after = ?began.elapsed(), "connections were cut off"),
    }
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
