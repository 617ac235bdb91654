//! Notices that a configuration, or a file that it names, may have changed.
//!
//! Folders are watched rather than files, because editors rename new files into
//! place and Kubernetes swaps a symbolic link (`..data`) above them. Whatever a
//! path runs through is watched: every symbolic link on its way, and its folder.
//!
//! # Invariants
//!
//! - A change is reported at least once: what the kernel's events miss (no
//!   inotify on this filesystem, queue overflow, watches used up) a slow poll finds.
//! - Bursts become one report: after [`SETTLE`] of silence, at the latest after [`SETTLE_MAX`].
//! - Reading the files reports nothing.
//!
//! # Not here
//!
//! Whether the content really differs: [`super`] compares digests.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::watch as channel;
use tokio::time::{Instant, sleep_until};
use tracing::warn;

use super::files;

/// Silence after an event before it is reported: an editor or `kubectl` has finished by then.
pub const SETTLE: Duration = Duration::from_millis(50);

/// A burst that doesn't end is reported after this time all the same.
pub const SETTLE_MAX: Duration = Duration::from_millis(500);

/// How often sizes, times and inodes are looked at in case the kernel told nothing.
pub const POLL: Duration = Duration::from_secs(5);

/// The same where the kernel can't tell anything at all.
const POLL_ALONE: Duration = Duration::from_secs(1);

/// Symbolic links followed on one path (the kernel's own bound is 40). What lies beyond is only polled.
const MAX_LINKS: usize = 40;

/// Folders watched. Beyond them the rest is only polled.
const MAX_FOLDERS: usize = 1_024;

/// Watches a configuration and the files that it names.
pub struct Watch {
    config: PathBuf,
    references: Vec<PathBuf>,
    interest: Arc<Mutex<Interest>>,
    kernel: Option<RecommendedWatcher>,
    /// Folders that the kernel watches.
    watched: BTreeSet<PathBuf>,
    events: channel::Receiver<()>,
    stamps: BTreeMap<PathBuf, Stamp>,
    poll: Duration,
    next_poll: Instant,
    /// The first event of a burst that hasn't been reported.
    burst: Option<Instant>,
}

/// Which events matter.
#[derive(Default)]
struct Interest {
    /// The configuration, if it is a folder: every configuration file inside matters.
    folder: Option<PathBuf>,
    /// Files, links and folders on their ways.
    paths: BTreeSet<PathBuf>,
}

impl Interest {
    fn covers(&self, path: &Path) -> bool {
        let is_config = || path.file_name().and_then(|name| name.to_str()).is_some_and(files::is_config_name);
        self.paths.contains(path) || (self.folder.is_some() && self.folder.as_deref() == path.parent() && is_config())
    }
}

/// What a poll compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Watch {
    /// Watches `config`, an absolute path to a file or folder that need not exist yet. Must be called
    /// inside a Tokio runtime with time enabled.
    pub fn new(config: &Path) -> Self {
        Self::with(config, POLL, true)
    }

    fn with(config: &Path, poll: Duration, ask_kernel: bool) -> Self {
        let (sender, events) = channel::channel(());
        let interest = Arc::new(Mutex::new(Interest::default()));
        let seen = Arc::clone(&interest);
        let watcher = ask_kernel.then(|| {
            notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
                let interest = seen.lock().unwrap_or_else(PoisonError::into_inner);
                if matters(&event, &interest) {
                    sender.send_replace(());
                }
            })
        });
        let (kernel, poll) = match watcher {
            Some(Ok(kernel)) => (Some(kernel), poll),
            Some(Err(err)) => {
                warn!(every = ?POLL_ALONE, "kernel can't watch files, so they are polled: {err}");
                (None, POLL_ALONE)
            }
            None => (None, poll),
        };
        let mut watch = Self {
            config: config.to_owned(),
            references: Vec::new(),
            interest,
            kernel,
            watched: BTreeSet::new(),
            events,
            stamps: BTreeMap::new(),
            poll,
            next_poll: Instant::now() + poll,
            burst: None,
        };
        watch.aim();
        watch.stamps = watch.look();
        watch
    }

    /// Also watches `references` from now on, and no longer those given before. Tells whether they are others.
    pub fn refer_to(&mut self, references: Vec<PathBuf>) -> bool {
        let others = references != self.references;
        if others {
            self.references = references;
            self.aim();
            self.stamps = self.look();
        }
        others
    }

    /// Waits until something may have changed since the last report. May be dropped and called again.
    pub async fn changed(&mut self) {
        loop {
            // An idle watcher waits for an event or the poll; within a burst, for its end.
            let (until, settling) = match self.burst {
                None => (self.next_poll, false),
                Some(first) => ((Instant::now() + SETTLE).min(first + SETTLE_MAX), true),
            };
            tokio::select! {
                // The sender lives as long as the kernel's watcher; without one only the poll is left.
                event = self.events.changed(), if self.kernel.is_some() => match event {
                    Ok(()) => { self.burst.get_or_insert_with(Instant::now); }
                    Err(_) => self.kernel = None,
                },
                () = sleep_until(until) => {
                    let before = std::mem::take(&mut self.stamps);
                    self.aim();
                    self.stamps = self.look();
                    self.next_poll = Instant::now() + self.poll;
                    self.burst = None;
                    if settling || self.stamps != before {
                        return;
                    }
                }
            }
        }
    }

    /// Works out which paths matter now, and asks the kernel to watch the folders they are in.
    fn aim(&mut self) {
        let folder = self.config.is_dir().then(|| self.config.clone());
        let mut paths = BTreeSet::new();
        for path in self.targets() {
            trace(&path, &mut paths);
        }
        let mut folders: BTreeSet<&Path> = paths.iter().filter_map(|path| path.parent()).collect();
        folders.extend(folder.as_deref());
        let folders: BTreeSet<PathBuf> =
            folders.into_iter().filter(|folder| folder.is_dir()).take(MAX_FOLDERS).map(Path::to_owned).collect();
        *self.interest.lock().unwrap_or_else(PoisonError::into_inner) = Interest { folder, paths };

        let Some(kernel) = &mut self.kernel else { return };
        for gone in self.watched.difference(&folders) {
            let _ = kernel.unwatch(gone); // A folder that was deleted isn't watched any more anyway.
        }
        self.watched.retain(|folder| folders.contains(folder));
        for folder in folders {
            // Asking again is how a folder that was replaced by another of the same name is followed.
            match kernel.watch(&folder, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    self.watched.insert(folder);
                }
                Err(err) => {
                    let every = self.poll;
                    warn!(folder = %folder.display(), ?every, "folder can't be watched, so it is polled: {err}");
                }
            }
        }
    }

    /// The configuration, its files, and what they refer to.
    fn targets(&self) -> BTreeSet<PathBuf> {
        let mut targets: BTreeSet<PathBuf> = files::list(&self.config).unwrap_or_default().into_iter().collect();
        targets.insert(self.config.clone());
        targets.extend(self.references.iter().cloned());
        targets
    }

    fn look(&self) -> BTreeMap<PathBuf, Stamp> {
        let stamp = |path: PathBuf| {
            let meta = fs::metadata(&path).ok()?;
            // A folder's own times change with every editor's dropping; its files are looked at one by one.
            let of_file = |value: (i64, i64)| if meta.is_dir() { (0, 0) } else { value };
            let stamp = Stamp {
                inode: (meta.dev(), meta.ino()),
                size: if meta.is_dir() { 0 } else { meta.size() },
                modified: of_file((meta.mtime(), meta.mtime_nsec())),
                changed: of_file((meta.ctime(), meta.ctime_nsec())),
            };
            Some((path, stamp))
        };
        self.targets().into_iter().filter_map(stamp).collect()
    }
}

/// Whether an event is worth a look.
fn matters(event: &notify::Result<notify::Event>, interest: &Interest) -> bool {
    let Ok(event) = event else { return true };
    let only_read = match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => false,
        EventKind::Access(_) => true,
        _ => false,
    };
    event.need_rescan() || (!only_read && event.paths.iter().any(|path| interest.covers(path)))
}

/// Adds `path`, the folder it is in, and every symbolic link on its way, wherever it leads.
fn trace(path: &Path, into: &mut BTreeSet<PathBuf>) {
    let mut waiting = vec![path.to_owned()];
    let mut links = 0;
    while let Some(path) = waiting.pop() {
        let mut walked = PathBuf::new();
        for component in path.components() {
            walked.push(component);
            let Ok(target) = fs::read_link(&walked) else { continue };
            links += 1;
            if into.insert(walked.clone()) && links <= MAX_LINKS {
                let folder = walked.parent().unwrap_or(Path::new("/"));
                let rest = path.strip_prefix(&walked).unwrap_or(Path::new(""));
                waiting.push(normal(&folder.join(target).join(rest)));
            }
        }
        into.extend(path.parent().map(Path::to_owned));
        into.insert(path);
    }
}

/// `path` without `.` and `..`, by name only.
fn normal(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                out.pop();
            }
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests;
