//! Runs a plan: prepares it, sets a thread to work on each core, and puts together what they find out.
//!
//! # Invariants
//!
//! - Threads share what is only read, the word to end, and one channel each to the collector; no lock.
//! - The schedule is dealt among threads before the start, and what one thread does never moves another's arrivals.
//! - The same plan run in parts (`Start::deal`) on several machines sends what one would send.

mod connect;
mod ender;
mod fault;
mod h1;
mod http2;
mod io;
mod limits;
mod pool;
mod prepare;
mod share;
mod slots;
mod thread;
mod tls;
mod visit;
mod wire;

use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread::{Builder, JoinHandle};

use tidegate_model::scenario::Plan;
use tidegate_model::scenario::plan::Load;

pub use ender::{Cause, Ender};
use prepare::Prepared;
pub(crate) use tls::Anything;

use crate::clock;
use crate::collect::{Beat, Collected, Collector};
use crate::fill::Supply;
use crate::mark;
use crate::outcome::{Outcome, StepOutcome, Verdict};
use crate::record::{BATCHES, Batch, Recorder};
use crate::schedule::{Deal, Schedule};
use crate::total::Total;
use thread::Job;

/// From the preparation to the first arrival, in nanoseconds: enough for threads to start.
const RUN_UP: u64 = 50_000_000;

/// Threads at most.
const THREADS: u64 = 256;

/// How a run is started.
#[derive(Clone, Debug)]
pub struct Start {
    /// When, in nanoseconds since 1970; `None`: at once.
    pub at: Option<u64>,
    /// The part of the load that this process sends.
    pub deal: Deal,
    /// Ends it before its time.
    pub ender: Ender,
}

impl Default for Start {
    fn default() -> Self {
        Self { at: None, deal: Deal::WHOLE, ender: Ender::default() }
    }
}

/// Why a run could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No host of the plan has an address.
    #[error("the name {host:?} was not found: {why}")]
    Unresolved {
        /// The first one.
        host: String,
        /// What the system said.
        why: String,
    },
    /// The file of CA certificates can't be used.
    #[error("can't read the CA certificates in {}: {why}", path.display())]
    Ca {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// TLS can't be set up.
    #[error("can't set up TLS: {0}")]
    Tls(String),
    /// A check or a take can't be used.
    #[error("{0}")]
    Check(String),
    /// The requests can't be marked.
    #[error("{0:#}")]
    Mark(anyhow::Error),
    /// A step sends messages.
    #[error("steps with messages (WebSocket) can't be sent yet")]
    WebSocket,
    /// The system has no room for the threads.
    #[error("can't start the sending threads")]
    Threads(#[source] std::io::Error),
}

/// Runs a plan, and tells `watch` each second. Blocks until it is over: until the end of the schedule, and then until
/// the requests that are open are answered, or for 5 s at most.
///
/// The verdict is [`Verdict::Passed`], unless the run was ended before its time: thresholds are not its business.
///
/// # Errors
///
/// When it can't start. Nothing was sent then.
pub fn run(plan: &Plan, start: &Start, watch: &mut dyn FnMut(Beat<'_>)) -> Result<Outcome, StartError> {
    Ready::new(Cow::Borrowed(plan))?.run(start, watch)
}

/// A plan, and all that takes time or can fail before the first request: names are looked up, certificates read, checks
/// compiled, requests signed.
#[derive(Debug)]
pub struct Ready<'p> {
    plan: Cow<'p, Plan>,
    prepared: Arc<Prepared>,
}

impl<'p> Ready<'p> {
    /// Prepares a plan.
    ///
    /// # Errors
    ///
    /// As [`run`].
    pub fn new(plan: Cow<'p, Plan>) -> Result<Self, StartError> {
        limits::raise_descriptors();
        let marked = match mark::dyed(&plan, clock::unix_now() / 1_000_000_000).map_err(StartError::Mark)? {
            Cow::Owned(marked) => Some(marked),
            Cow::Borrowed(_) => None,
        };
        let plan = marked.map_or(plan, Cow::Owned);
        let prepared = Arc::new(Prepared::new(&plan)?);
        Ok(Self { plan, prepared })
    }

    /// As [`run`].
    ///
    /// # Errors
    ///
    /// When the system has no room for the threads.
    pub fn run(&self, start: &Start, watch: &mut dyn FnMut(Beat<'_>)) -> Result<Outcome, StartError> {
        let (plan, prepared) = (&*self.plan, &self.prepared);
        let (now, unix) = (clock::now(), clock::unix_now());
        let begins = now + start.at.map_or(RUN_UP, |at| at.saturating_sub(unix));
        let (full, batches) = mpsc::sync_channel(BATCHES);
        let crew = Crew::start(plan, start, begins, prepared, &full)?;
        drop(full);
        let collected = crew.collect(&batches, plan.steps().count(), watch);
        let lasts = u64::try_from(plan.lasts().as_nanos()).unwrap_or(u64::MAX);
        let took = start.ender.ended_at().map_or(lasts, |at| at.saturating_sub(begins).min(lasts));
        let began = (unix + (begins - now)) / 1_000_000;
        let mut outcome = outcome(plan, collected, &start.ender, began, took);
        outcome.generator.memory = limits::most_memory();
        Ok(outcome)
    }
}

/// The threads of a run.
struct Crew {
    threads: Vec<(JoinHandle<std::io::Result<()>>, SyncSender<Batch>)>,
}

impl Crew {
    fn start(
        plan: &Plan,
        start: &Start,
        begins: u64,
        prepared: &Arc<Prepared>,
        full: &SyncSender<Batch>,
    ) -> Result<Self, StartError> {
        let schedule = Schedule::new(&plan.load, plan.seed);
        let flows = u64::from(match plan.load {
            Load::Open { most_in_flight, .. } | Load::Recorded { most_in_flight, .. } => most_in_flight,
            Load::Closed { visitors, .. } => visitors,
        });
        let connections = u64::from(plan.client.connections);
        let cores = core_affinity::get_core_ids().unwrap_or_default();
        let asked = if plan.client.threads == 0 { cores.len() as u64 } else { u64::from(plan.client.threads) };
        // A thread without a flow or a connection of its own would be of no use.
        let most = start.deal.share(flows).min(start.deal.share(connections)).clamp(1, THREADS);
        let count = asked.clamp(1, most);
        let lasts = u64::try_from(plan.lasts().as_nanos()).unwrap_or(u64::MAX);
        let mut threads = Vec::new();
        for index in 0..count {
            let deal = start.deal.of_thread(index, count);
            let job = Job {
                deal,
                arrivals: schedule.as_ref().map(|schedule| schedule.arrivals(deal)),
                start: begins,
                lasts,
                flows: usize::try_from(deal.share(flows)).unwrap_or(usize::MAX),
                connections: u32::try_from(deal.share(connections)).unwrap_or(u32::MAX),
                prepared: Arc::clone(prepared),
                supply: Supply::new(plan, Arc::clone(&prepared.feeders), deal.index as u32, deal.of as u32),
                ender: start.ender.clone(),
            };
            let (give, empty) = mpsc::sync_channel(BATCHES);
            let recorder = Recorder::new(index as usize, prepared.steps.len(), full.clone(), empty);
            let core = if cores.is_empty() { None } else { Some(cores[index as usize % cores.len()]) };
            let handle = Builder::new()
                .name(format!("load-{index}"))
                .spawn(move || {
                    if let Some(core) = core {
                        core_affinity::set_for_current(core);
                    }
                    thread::run(job, recorder)
                })
                .map_err(StartError::Threads)?;
            threads.push((handle, give));
        }
        Ok(Self { threads })
    }

    /// Puts together what they find out, until they are done.
    fn collect(self, batches: &Receiver<Batch>, steps: usize, watch: &mut dyn FnMut(Beat<'_>)) -> Collected {
        let mut collector = Collector::new(self.threads.len(), steps);
        // It ends when every thread has dropped its end of the channel.
        while let Ok(batch) = batches.recv() {
            let mut empty = |batch: Batch| {
                // Where a thread has enough of them, this one is freed.
                let _ = self.threads[batch.thread].1.try_send(batch);
            };
            collector.take(batch, &mut empty, watch);
        }
        collector.done()
    }
}

pub(crate) fn outcome(plan: &Plan, collected: Collected, ender: &Ender, began: u64, took: u64) -> Outcome {
    let mut all = Total::new();
    let mut steps = Vec::new();
    let written = plan.flows.iter().flat_map(|flow| flow.steps.iter().map(move |step| (flow, step)));
    for ((flow, step), total) in written.zip(&collected.totals) {
        all.add(total);
        steps.push(StepOutcome {
            name: step.name.clone(),
            request: format!("{} {}{}", step.method, step.origin, plan.written(flow, &step.target)),
            tally: total.tally(),
        });
    }
    let at = took as f64 / 1e9;
    let model = match plan.load {
        Load::Open { .. } => "open",
        Load::Closed { .. } => "closed",
        Load::Recorded { .. } => "recorded",
    };
    Outcome {
        version: 1,
        name: plan.name.clone(),
        began,
        took,
        model: model.to_owned(),
        load: crate::describe::load(&plan.load),
        verdict: match ender.cause() {
            Some(Cause::Stopped(reason)) => Verdict::Stopped { reason: reason.clone(), at },
            Some(Cause::Interrupted) => Verdict::Interrupted { at },
            None => Verdict::Passed,
        },
        thresholds: Vec::new(),
        all: all.tally(),
        steps,
        seconds: collected.seconds,
        generator: collected.health,
        target: Vec::new(),
    }
}
