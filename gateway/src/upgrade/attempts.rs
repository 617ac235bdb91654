//! The running gateway's upgrades, one at a time.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tracing::{info, warn};

use super::control::{Asked, Request};
use super::{Abort, Attempt, Failed, Program, READY_TIMEOUT, Sockets, Step, Successor};
use crate::source::Hold;

/// Steps that wait for nobody in particular, where a signal asked.
const UNHEARD: usize = 1;

type GetSockets = dyn Fn() -> io::Result<Sockets> + Send + Sync;

/// See the module.
pub struct Upgrades {
    /// What this process was started as.
    program: Program,
    asked: mpsc::Receiver<Asked>,
    holds: mpsc::Sender<Hold>,
    elders: Vec<OwnedFd>,
    sockets: Arc<GetSockets>,
    under_way: Option<UnderWay>,
}

struct UnderWay {
    task: JoinHandle<Result<Successor, Failed>>,
    abort: Abort,
    steps: mpsc::Sender<Step>,
}

impl Upgrades {
    /// None is under way. `sockets` hands out what is to be passed on; `elders` are gateways that still drain.
    pub fn new(
        program: Program,
        asked: mpsc::Receiver<Asked>,
        holds: mpsc::Sender<Hold>,
        elders: Vec<OwnedFd>,
        sockets: impl Fn() -> io::Result<Sockets> + Send + Sync + 'static,
    ) -> Self {
        Self { program, asked, holds, elders, sockets: Arc::new(sockets), under_way: None }
    }

    /// Does what a command asks, or tells it that another is before it.
    fn by_command(&mut self, Asked { request, steps }: Asked) {
        let Request::Upgrade { binary, arguments, timeout_ms } = request;
        let mut program = self.program.clone();
        program.binary = binary;
        program.arguments.extend(arguments.into_iter().map(Into::into));
        self.begin(program, Duration::from_millis(timeout_ms), steps);
    }

    /// Starts the file that this process was started from, which may be another one by now.
    pub fn by_signal(&mut self) {
        self.begin(self.program.clone(), READY_TIMEOUT, mpsc::channel(UNHEARD).0);
    }

    /// Ends the upgrade that is under way; its outcome comes soon. False where none is.
    pub fn abort(&self) -> bool {
        if let Some(under_way) = &self.under_way {
            under_way.abort.abort();
        }
        self.under_way.is_some()
    }

    /// Begins what commands ask for, until an upgrade has come to its end: who has taken over, or nobody. Safe to cancel.
    pub async fn outcome(&mut self) -> Option<(Successor, mpsc::Sender<Step>)> {
        loop {
            tokio::select! {
                Some(asked) = self.asked.recv() => self.by_command(asked),
                outcome = end_of(&mut self.under_way) => {
                    let UnderWay { steps, .. } = self.under_way.take().expect("invariant: it has just ended");
                    match outcome {
                        Ok(successor) => return Some((successor, steps)),
                        Err(failed) => {
                            let _ = steps.try_send(Step::Failed(failed)); // Who has gone won't hear.
                            return None;
                        }
                    }
                }
            }
        }
    }

    fn begin(&mut self, program: Program, timeout: Duration, steps: mpsc::Sender<Step>) {
        if self.under_way.is_some() {
            warn!("upgrade refused, because another is under way");
            let _ = steps.try_send(Step::Failed(Failed::because("another upgrade is under way")));
            return;
        }
        info!(binary = %program.binary.display(), "upgrade begins");
        let abort = Abort::default();
        let attempt = Attempt {
            program,
            timeout,
            elders: self.elders.iter().filter_map(|elder| elder.try_clone().ok()).collect(),
            holds: self.holds.clone(),
            progress: steps.clone(),
            runtime: Handle::current(),
            abort: abort.clone(),
        };
        let sockets = Arc::clone(&self.sockets);
        let task = tokio::task::spawn_blocking(move || attempt.run(|| sockets()));
        self.under_way = Some(UnderWay { task, abort, steps });
    }
}

async fn end_of(under_way: &mut Option<UnderWay>) -> Result<Successor, Failed> {
    match under_way {
        Some(under_way) => (&mut under_way.task)
            .await
            .unwrap_or_else(|_| Err(Failed::because("the running gateway has a bug: its log says more"))),
        None => std::future::pending().await,
    }
}
