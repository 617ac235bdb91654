//! The loop: something may have changed → read → check → apply → remember.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use jiff::Timestamp;
use tidegate_model::check::{Checked, SourceFile, check};
use tidegate_model::desired::{Desired, Generation};
use tidegate_model::diagnostic::{Diagnostic, Severity};
use tokio::sync::mpsc;
use tracing::{error, info, warn};

use super::history::{History, Kept, OpenError, Reason, Record};
use super::seen::Seen;
use super::watch::Watch;
use super::{Apply, Hold, Outcome, ReloadRequest, Status, Verdict, files, rendered, state};
use crate::record::{Metrics, ReloadResult};

/// Kept generations that a start tries, newest first, when the configuration on disk is refused.
const FALLBACKS: usize = 5;

/// One configuration on disk, with its history.
pub struct Source {
    config: PathBuf,
    state: Option<PathBuf>,
    history: Option<History>,
    metrics: Metrics,
    status: Status,
    /// The highest number used so far.
    highest: Generation,
    /// What is in force; `None` before [`Source::first`].
    current: Option<Seen>,
    /// What was refused last, until something else is read.
    refused: Option<(Seen, Vec<Diagnostic>)>,
    holds: Option<mpsc::Receiver<Hold>>,
}

/// The configuration that a gateway starts with.
#[derive(Debug)]
pub struct First {
    /// It, numbered.
    pub desired: Arc<Desired>,
    /// Why it isn't the one on disk, if it isn't.
    pub fallback: Option<Vec<Diagnostic>>,
}

impl Source {
    /// Opens `config`, a file or folder, and the history kept in `state` (default: [`state::folder`]).
    ///
    /// # Errors
    ///
    /// If `config` can't be made absolute, or another gateway holds the history. A history that can't be
    /// written is an error in the log only: serving matters more.
    pub fn open(config: &Path, state: Option<&Path>, metrics: Metrics) -> anyhow::Result<Self> {
        let config = std::path::absolute(config)?;
        let history = match History::open(&state::folder(&config, state)) {
            Ok(history) => Some(history),
            Err(err @ OpenError::Locked { .. }) => return Err(err.into()),
            Err(err) => {
                let err = anyhow::Error::from(err);
                error!("generations aren't kept, so there will be no last good one to start from: {err:#}");
                None
            }
        };
        let highest = history.as_ref().map(History::highest).transpose().unwrap_or_else(|err| {
            error!("history can't be listed, so numbers start again: {err}");
            None
        });
        let status = Status::default();
        status.with(|seen| seen.unkept = history.is_none());
        let highest = highest.unwrap_or_default();
        Ok(Self {
            config,
            state: state.map(Path::to_owned),
            history,
            metrics,
            status,
            highest,
            current: None,
            refused: None,
            holds: None,
        })
    }

    /// The folder where state is kept, if it can be.
    pub fn state(&self) -> Option<&Path> {
        self.history.as_ref().map(|history| history.archive().folder())
    }

    /// What `/readyz` tells.
    pub fn status(&self) -> Status {
        self.status.clone()
    }

    /// Lets [`Source::run`] be held by whoever has the other end of `holds`.
    pub fn held_by(&mut self, holds: mpsc::Receiver<Hold>) {
        self.holds = Some(holds);
    }

    /// Applies the configuration on disk or, loudly, the newest kept generation that can still be applied.
    ///
    /// # Errors
    ///
    /// What is wrong with the one on disk, if no kept generation can take its place.
    pub fn first(&mut self, apply: &mut impl Apply) -> Result<First, Vec<Diagnostic>> {
        let problems = match self.first_on_disk(apply) {
            Ok(desired) => return Ok(First { desired, fallback: None }),
            Err(problems) => problems,
        };
        let Some(desired) = self.fall_back(apply) else { return Err(problems) };
        self.say_refused(&problems);
        error!(generation = %desired.generation, "started from the last good generation");
        Ok(First { desired, fallback: Some(problems) })
    }

    /// Applies the configuration on disk and no other.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn first_on_disk(&mut self, apply: &mut impl Apply) -> Result<Arc<Desired>, Vec<Diagnostic>> {
        let (seen, problems) = match self.read() {
            Ok((sources, mut seen)) => match self.start_with(&sources, &mut seen, apply) {
                Ok(desired) => return Ok(desired),
                Err(problems) => (seen, problems),
            },
            Err(problems) => (Seen::default(), problems),
        };
        self.refused = Some((seen, problems.clone()));
        Err(problems)
    }

    /// Applies every change until all senders of `requests` are gone. Blocks its thread.
    ///
    /// # Errors
    ///
    /// If the thread's runtime can't be built.
    pub fn run(mut self, mut apply: impl Apply, mut requests: mpsc::Receiver<ReloadRequest>) -> io::Result<()> {
        // Only waiting happens inside the runtime, so that `apply` may block and use other runtimes.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        let mut watch = {
            let _inside = runtime.enter();
            Watch::new(&self.config)
        };
        watch.refer_to(self.references());
        let mut wake = Wake::Changed; // Something may have changed between `first` and the watch.
        loop {
            match wake {
                Wake::Changed => drop(self.reload(Reason::File, &mut apply)),
                Wake::Asked(request) => {
                    let outcome = self.reload(request.reason, &mut apply);
                    let _ = request.reply.send(outcome); // Whoever asked may have gone.
                }
                Wake::Held(hold) => match self.hold(hold, &runtime) {
                    Some(()) => drop(self.reload(Reason::File, &mut apply)),
                    None => return Ok(()),
                },
                Wake::Stop => return Ok(()),
            }
            if watch.refer_to(self.references()) {
                // A file that became of interest may have changed before it was watched.
                self.reload(Reason::File, &mut apply);
            }
            wake = runtime.block_on(async {
                tokio::select! {
                    request = requests.recv() => request.map_or(Wake::Stop, Wake::Asked),
                    hold = next_hold(&mut self.holds) => Wake::Held(hold),
                    () = watch.changed() => Wake::Changed,
                }
            });
        }
    }

    /// Lets another gateway have the history, until it is known whether that one takes over. `None` if it did.
    fn hold(&mut self, Hold { held, ended }: Hold, runtime: &tokio::runtime::Runtime) -> Option<()> {
        let kept = self.history.take().is_some();
        let _ = held.send(()); // Whoever asked may have given up.
        if runtime.block_on(ended).is_ok() {
            return None;
        }
        if kept {
            let reopened = History::open(&state::folder(&self.config, self.state.as_deref()));
            // The other one may have kept generations before it failed, and numbers are never used twice.
            let highest = reopened.as_ref().ok().and_then(|history| history.highest().ok()).unwrap_or_default();
            self.highest = self.highest.max(highest);
            self.history = reopened.inspect_err(|err| error!("generations aren't kept any more: {err}")).ok();
            self.status.with(|seen| seen.unkept = self.history.is_none());
        }
        Some(())
    }

    /// Reads the configuration again, and applies it if it says something new.
    fn reload(&mut self, reason: Reason, apply: &mut impl Apply) -> Outcome {
        let (sources, mut seen) = match self.read() {
            Ok(read) => read,
            Err(problems) => return self.refuse(Seen::default(), problems, reason),
        };
        let same_text = self.current.as_ref().is_some_and(|current| current.sha256 == seen.sha256);
        if same_text && self.current.as_ref().is_some_and(Seen::is_unchanged) {
            return self.unchanged(reason);
        }
        if let Some((refused, problems)) = &self.refused
            && reason == Reason::File
            && refused.sha256 == seen.sha256
            && refused.is_unchanged()
        {
            return self.outcome(Verdict::Refused, problems); // Said once already.
        }
        let reason = if same_text { Reason::Certificates } else { reason };
        match self.put_in_force(&sources, &mut seen, Generation(self.highest.0 + 1), apply) {
            Ok((desired, warnings)) => {
                self.highest = desired.generation;
                self.accept(desired.generation, seen, &warnings);
                self.metrics.reloaded(ReloadResult::Applied);
                self.keep(reason, sources);
                self.outcome(Verdict::Published, &warnings)
            }
            Err(problems) => self.refuse(seen, problems, reason),
        }
    }

    fn read(&self) -> Result<(Vec<SourceFile>, Seen), Vec<Diagnostic>> {
        let sources = files::read(&self.config)?;
        let sha256 = files::digest(&self.config, &sources);
        Ok((sources, Seen::text(sha256)))
    }

    /// Checks and applies `sources`. Fills in what they refer to, as it was before it was applied: whatever
    /// changes meanwhile is a change.
    fn put_in_force(
        &self,
        sources: &[SourceFile],
        seen: &mut Seen,
        generation: Generation,
        apply: &mut impl Apply,
    ) -> Result<(Arc<Desired>, Vec<Diagnostic>), Vec<Diagnostic>> {
        let attempt = AssertUnwindSafe(|| {
            let Checked { mut desired, warnings, places } = check(sources)?;
            desired.generation = generation;
            seen.references = files::references(&desired);
            seen.fingerprint = files::fingerprint(&seen.references);
            let desired = Arc::new(desired);
            apply(Arc::clone(&desired), &places)?;
            Ok((desired, warnings))
        });
        catch_unwind(attempt).unwrap_or_else(|_| {
            let bug = Diagnostic::error("internal-error", "the gateway failed while applying this configuration");
            Err(vec![bug.help("this is a bug in tidegate: please report it with the log's panic message")])
        })
    }

    /// The first configuration has the number of the newest kept generation if it has its text.
    fn start_with(
        &mut self,
        sources: &[SourceFile],
        seen: &mut Seen,
        apply: &mut impl Apply,
    ) -> Result<Arc<Desired>, Vec<Diagnostic>> {
        let newest = self.newest_kept().next();
        let known = newest.filter(|newest| newest.sha256 == seen.sha256 && newest.source == self.config);
        let generation = known.as_ref().map_or(Generation(self.highest.0 + 1), |known| known.generation);
        let (desired, warnings) = self.put_in_force(sources, seen, generation, apply)?;
        self.highest = self.highest.max(generation);
        self.accept(generation, seen.clone(), &warnings);
        if known.is_none() {
            self.keep(Reason::Start, sources.to_vec());
        }
        Ok(desired)
    }

    fn fall_back(&mut self, apply: &mut impl Apply) -> Option<Arc<Desired>> {
        let kept: Vec<Record> = self.newest_kept().take(FALLBACKS).collect();
        for record in kept {
            let mut seen = Seen::text(record.sha256.clone());
            match self.put_in_force(&record.sources(), &mut seen, record.generation, apply) {
                Ok((desired, _)) => {
                    self.accept_beside_refused(record.generation, seen);
                    return Some(desired);
                }
                Err(problems) => {
                    warn!(generation = %record.generation, "kept generation can't be used:\n{}", rendered(&problems));
                }
            }
        }
        None
    }

    fn newest_kept(&self) -> impl Iterator<Item = Record> + '_ {
        let kept = self.history.as_ref().map(|history| history.archive().newest_first());
        kept.and_then(|kept| kept.inspect_err(|err| error!("history can't be read: {err}")).ok()).into_iter().flatten()
    }

    fn accept(&mut self, generation: Generation, seen: Seen, warnings: &[Diagnostic]) {
        self.refused = None;
        self.status.with(|status| status.refused = None);
        self.accept_beside_refused(generation, seen);
        if !warnings.is_empty() {
            warn!(%generation, "configuration accepted with warnings\n{}", rendered(warnings));
        }
        info!(%generation, "configuration in force");
    }

    fn accept_beside_refused(&mut self, generation: Generation, seen: Seen) {
        self.current = Some(seen);
        self.status.with(|status| status.generation = generation);
        self.metrics.in_force(generation, SystemTime::now());
    }

    fn unchanged(&mut self, reason: Reason) -> Outcome {
        if self.refused.take().is_some() {
            self.status.with(|status| status.refused = None);
            info!(generation = %self.status.generation(), "configuration is again the one in force");
            self.metrics.reloaded(ReloadResult::Unchanged);
        } else if reason != Reason::File {
            info!(generation = %self.status.generation(), reason = reason.word(), "configuration unchanged");
            self.metrics.reloaded(ReloadResult::Unchanged);
        }
        self.outcome(Verdict::Unchanged, &[])
    }

    fn refuse(&mut self, seen: Seen, mut problems: Vec<Diagnostic>, reason: Reason) -> Outcome {
        let again = self.refused.as_ref().is_some_and(|(before, said)| (before, said) == (&seen, &problems));
        if !(again && reason == Reason::File) {
            self.say_refused(&problems);
        }
        self.refused = Some((seen, problems.clone()));
        if let Some(last) = problems.last_mut() {
            last.note.get_or_insert_with(|| format!("generation {} stays in force", self.status.generation()));
        }
        self.outcome(Verdict::Refused, &problems)
    }

    fn say_refused(&self, problems: &[Diagnostic]) {
        let generation = self.status.generation();
        let errors = problems.iter().filter(|problem| problem.severity == Severity::Error).count();
        self.status.with(|status| status.refused = Some(errors));
        self.metrics.reloaded(ReloadResult::Refused);
        let text = rendered(problems);
        error!(errors, %generation, "configuration refused\n{text}note: generation {generation} stays in force");
    }

    fn outcome(&self, result: Verdict, diagnostics: &[Diagnostic]) -> Outcome {
        Outcome { result, generation: self.status.generation(), diagnostics: rendered(diagnostics) }
    }

    /// Everything whose change may make a difference: what is in force, and what would be if it weren't refused.
    fn references(&self) -> Vec<PathBuf> {
        let refused = self.refused.iter().flat_map(|(refused, _)| &refused.references);
        let mut paths: Vec<PathBuf> =
            self.current.iter().flat_map(|current| &current.references).chain(refused).cloned().collect();
        paths.sort();
        paths.dedup();
        paths
    }

    fn keep(&mut self, reason: Reason, sources: Vec<SourceFile>) {
        let (Some(history), Some(current)) = (&mut self.history, &self.current) else { return };
        let record = Record {
            generation: self.status.generation(),
            at: Timestamp::now(),
            reason,
            source: self.config.clone(),
            sha256: current.sha256.clone(),
            references: current.fingerprint.clone(),
            files: sources.into_iter().map(|SourceFile { path, text }| Kept { path, text }).collect(),
        };
        let kept = history.keep(&record);
        if let Err(err) = &kept {
            error!(generation = %record.generation, "generation is in force but couldn't be kept: {err}");
        }
        self.status.with(|status| status.unkept = kept.is_err());
    }
}

enum Wake {
    Changed,
    Asked(ReloadRequest),
    Held(Hold),
    Stop,
}

/// Never, where nobody can ask (any more).
async fn next_hold(holds: &mut Option<mpsc::Receiver<Hold>>) -> Hold {
    if let Some(receiver) = holds {
        if let Some(hold) = receiver.recv().await {
            return hold;
        }
        *holds = None;
    }
    std::future::pending().await
}

#[cfg(test)]
mod tests;
