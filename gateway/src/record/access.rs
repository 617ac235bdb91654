//! The access log: JSON lines that a thread of its own writes out, so that no request waits for a disk.
//!
//! Each thread appends to its own lane; the writer swaps the lanes out every [`FLUSH_EVERY`], or sooner when one is
//! half full. When the disk fails, the writer keeps what it has and tries again, the lanes fill, and further lines are
//! lost and counted.
//!
//! # Invariants
//!
//! - A line is in the file whole or not at all, unless the process is killed in the middle of a write.
//! - Memory is bounded by [`LANE_BYTES`] for each lane, twice.
//!
//! # Not here
//!
//! What a line looks like is in `line`.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use prometheus::IntCounter;
use tidegate_model::desired::AccessLog as Target;
use tracing::{info, warn};

use super::Metrics;
use super::cells::{LANES, lane_of_this_thread};
pub use super::line::Entry;

/// Bytes of lines that one lane holds until the writer takes them. Beyond it lines are lost and counted.
const LANE_BYTES: usize = 1 << 20;

/// A lane this full wakes the writer.
const WAKE_BYTES: usize = LANE_BYTES / 4;

/// The longest that a line waits for the writer while the disk keeps up.
const FLUSH_EVERY: Duration = Duration::from_millis(200);

/// Commands waiting for the writer. Wakes beyond it are dropped, because one is waiting already; the others wait.
const COMMANDS: usize = 16;

/// An open destination for lines.
pub struct Sink {
    to: Option<Box<dyn Write + Send>>,
    /// Where it is opened again; `None` for what isn't a file.
    path: Option<PathBuf>,
}

impl Sink {
    /// Opens what the configuration asks for; a file is created if missing, and appended to.
    ///
    /// # Errors
    ///
    /// The file can't be opened.
    pub fn open(target: &Target) -> io::Result<Self> {
        match target {
            Target::Off => Ok(Self { to: None, path: None }),
            Target::Stdout => Ok(Self { to: Some(Box::new(io::stdout())), path: None }),
            Target::File(path) => Ok(Self { to: Some(Box::new(append(path)?)), path: Some(path.clone()) }),
        }
    }
}

fn append(path: &std::path::Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}

/// The access log of the process. Clones share it.
#[derive(Clone)]
pub struct AccessLog {
    shared: Arc<Shared>,
    commands: SyncSender<Command>,
    writer: Arc<Mutex<Option<JoinHandle<()>>>>,
}

struct Shared {
    on: AtomicBool,
    lanes: [Mutex<Vec<u8>>; LANES],
    dropped: IntCounter,
    errors: IntCounter,
}

enum Command {
    Wake,
    Switch(Sink),
    Reopen,
    Flush(SyncSender<()>),
    Close,
}

impl AccessLog {
    /// Starts the writer with `sink`.
    pub fn start(sink: Sink, metrics: &Metrics) -> Self {
        let shared = Arc::new(Shared {
            on: AtomicBool::new(sink.to.is_some()),
            lanes: std::array::from_fn(|_| Mutex::default()),
            dropped: metrics.access_log_dropped().clone(),
            errors: metrics.access_log_errors().clone(),
        });
        let (commands, inbox) = sync_channel(COMMANDS);
        let mut writer = Writer { shared: Arc::clone(&shared), sink, pending: Pending::default(), failing: false };
        let thread = std::thread::Builder::new()
            .name("access-log".into())
            .spawn(move || writer.run(&inbox))
            .expect("the process may start a thread while it starts up");
        Self { shared, commands, writer: Arc::new(Mutex::new(Some(thread))) }
    }

    /// Whether lines are wanted. Saves the caller from preparing one that isn't.
    pub fn is_on(&self) -> bool {
        self.shared.on.load(Relaxed)
    }

    /// Hands one line to the writer, or loses and counts it. Never waits for the disk.
    pub fn log(&self, entry: &Entry<'_>) {
        if !self.is_on() {
            return;
        }
        let mut lane = lock(&self.shared.lanes[lane_of_this_thread()]);
        let before = lane.len();
        if before >= LANE_BYTES {
            self.shared.dropped.inc();
            return;
        }
        entry.write(&mut lane);
        let wake = before < WAKE_BYTES && lane.len() >= WAKE_BYTES;
        drop(lane);
        if wake {
            let _ = self.commands.try_send(Command::Wake); // Full: the writer is about to look anyway.
        }
    }

    /// Writes to `sink` from now on. Lines logged before go to the old one.
    pub fn switch(&self, sink: Sink) {
        let _ = self.commands.send(Command::Switch(sink));
    }

    /// Opens the file again, for log rotation. If that fails the old one stays in use, and it is said in the log.
    pub fn reopen(&self) {
        let _ = self.commands.send(Command::Reopen);
    }

    /// Returns when every line logged before was written, or once writing failed.
    pub fn flush(&self) {
        let (done, wait) = sync_channel(1);
        if self.commands.send(Command::Flush(done)).is_ok() {
            let _ = wait.recv();
        }
    }

    /// Writes what is left and ends the writer. Lines that can't be written any more are counted as lost.
    pub fn close(&self) {
        let _ = self.commands.send(Command::Close);
        if let Some(thread) = lock(&self.writer).take() {
            let _ = thread.join();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Lines on their way to the sink; `written` bytes of them are there already.
#[derive(Default)]
struct Pending {
    lines: Vec<u8>,
    written: usize,
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.written == self.lines.len()
    }

    /// Writes as much as the sink takes, and remembers how far it got.
    fn write_to(&mut self, sink: &mut dyn Write) -> io::Result<()> {
        while !self.is_empty() {
            match sink.write(&self.lines[self.written..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => self.written += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.lines.clear();
        self.written = 0;
        sink.flush()
    }

    /// Gives up a line that the old sink has begun, so that a new one begins with a whole line. Tells whether there
    /// was one.
    fn skip_torn_line(&mut self) -> bool {
        let torn = self.written > 0 && self.lines[self.written - 1] != b'\n' && !self.is_empty();
        if torn {
            let rest = &self.lines[self.written..];
            self.written += rest.iter().position(|b| *b == b'\n').map_or(rest.len(), |at| at + 1);
        }
        torn
    }

    /// Forgets everything and tells how many lines that were.
    fn discard(&mut self) -> u64 {
        let lines = self.lines[self.written..].iter().filter(|b| **b == b'\n').count() as u64;
        self.lines.clear();
        self.written = 0;
        lines
    }
}

struct Writer {
    shared: Arc<Shared>,
    sink: Sink,
    pending: Pending,
    failing: bool,
}

impl Writer {
    fn run(&mut self, inbox: &Receiver<Command>) {
        loop {
            match inbox.recv_timeout(FLUSH_EVERY) {
                Ok(Command::Wake) | Err(RecvTimeoutError::Timeout) => self.write(),
                Ok(Command::Switch(sink)) => {
                    self.write();
                    self.replace(sink);
                }
                Ok(Command::Reopen) => {
                    self.write();
                    self.reopen();
                }
                Ok(Command::Flush(done)) => {
                    self.write();
                    let _ = done.send(());
                }
                Ok(Command::Close) | Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        self.write();
        self.shared.on.store(false, Relaxed);
        self.take_lanes();
        self.shared.dropped.inc_by(self.pending.discard());
    }

    /// Writes what is pending, then what the lanes hold. Stops at the first failure.
    fn write(&mut self) {
        if !self.pending.is_empty() {
            self.write_pending();
        }
        if self.pending.is_empty() {
            self.take_lanes();
            self.write_pending();
        }
    }

    fn take_lanes(&mut self) {
        for lane in &self.shared.lanes {
            let mut lane = lock(lane);
            if self.pending.lines.is_empty() {
                std::mem::swap(&mut self.pending.lines, &mut lane); // The common case moves no byte.
            } else {
                self.pending.lines.append(&mut lane);
            }
        }
    }

    fn write_pending(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        let Some(sink) = &mut self.sink.to else {
            self.pending.discard(); // Switched off meanwhile: nobody wants these lines.
            return;
        };
        let path = || self.sink.path.as_deref().map(|path| path.display().to_string());
        match self.pending.write_to(sink.as_mut()) {
            Ok(()) if self.failing => {
                self.failing = false;
                info!(path = path(), lost = self.shared.dropped.get(), "access log is written again");
            }
            Ok(()) => {}
            Err(error) => {
                self.shared.errors.inc();
                if !self.failing {
                    self.failing = true;
                    warn!(path = path(), %error, "access log cannot be written");
                }
            }
        }
    }

    fn reopen(&mut self) {
        let Some(path) = self.sink.path.clone() else { return };
        match append(&path) {
            Ok(file) => self.replace(Sink { to: Some(Box::new(file)), path: Some(path) }),
            Err(error) => {
                self.shared.errors.inc();
                warn!(path = %path.display(), %error, "access log cannot be reopened, the old file stays in use");
            }
        }
    }

    fn replace(&mut self, sink: Sink) {
        if self.pending.skip_torn_line() {
            self.shared.dropped.inc();
        }
        self.shared.on.store(sink.to.is_some(), Relaxed);
        self.sink = sink;
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::line::tests::entry;
    use super::*;

    fn file(path: &Path) -> Sink {
        Sink::open(&Target::File(path.into())).unwrap()
    }

    fn ids(path: &Path) -> Vec<String> {
        let text = std::fs::read_to_string(path).unwrap();
        let parse = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap();
        text.lines().map(|line| parse(line)["id"].as_str().unwrap().to_owned()).collect()
    }

    fn log(to: &AccessLog, id: &str) {
        to.log(&Entry { id, ..entry() });
    }

    #[test]
    fn lines_of_one_thread_are_written_in_order_and_appended() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let access = AccessLog::start(file(&path), &Metrics::new());

        log(&access, "1");
        access.flush();
        log(&access, "2");
        access.close();
        let again = AccessLog::start(file(&path), &Metrics::new());
        log(&again, "3");
        again.close();

        assert_eq!(ids(&path), ["1", "2", "3"]);
    }

    #[test]
    fn lines_are_written_without_being_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let access = AccessLog::start(file(&path), &Metrics::new());

        log(&access, "1");

        while ids(&path).is_empty() {
            std::thread::yield_now();
        }
        assert_eq!(ids(&path), ["1"]);
    }

    #[test]
    fn reopen_follows_a_rotated_file_and_loses_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (path, rotated) = (folder.path().join("access.log"), folder.path().join("access.log.1"));
        let access = AccessLog::start(file(&path), &Metrics::new());

        log(&access, "before");
        std::fs::rename(&path, &rotated).unwrap();
        log(&access, "between");
        access.reopen();
        access.flush();
        log(&access, "after");
        access.close();

        assert_eq!(ids(&rotated), ["before", "between"]);
        assert_eq!(ids(&path), ["after"]);
    }

    #[test]
    fn full_disk_loses_lines_counts_them_and_recovers_with_whole_lines() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let metrics = Metrics::new();
        let full = Arc::new(AtomicBool::new(true));
        let sink = Sink { to: Some(Box::new(Flaky { full: full.clone(), file: append(&path).unwrap() })), path: None };
        let access = AccessLog::start(sink, &metrics);

        log(&access, "torn");
        access.flush(); // The disk takes ten bytes of it.
        let long = "x".repeat(4_000);
        (0..2 * LANE_BYTES / long.len()).for_each(|_| log(&access, &long));
        let lost = metrics.access_log_dropped().get();
        full.store(false, Relaxed);
        access.close();

        assert!(metrics.access_log_errors().get() > 0);
        assert!(lost > 0);
        let written = ids(&path);
        assert_eq!(written[0], "torn");
        assert_eq!(written.len() as u64 + lost, 1 + (2 * LANE_BYTES / long.len()) as u64);
    }

    #[test]
    fn line_torn_by_a_failing_disk_is_given_up_when_the_file_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let (old, new) = (folder.path().join("old.log"), folder.path().join("new.log"));
        let metrics = Metrics::new();
        let full = Arc::new(AtomicBool::new(true));
        let sink = Sink { to: Some(Box::new(Flaky { full, file: append(&old).unwrap() })), path: None };
        let access = AccessLog::start(sink, &metrics);

        log(&access, "torn");
        access.flush();
        log(&access, "whole");
        access.switch(file(&new));
        access.close();

        assert_eq!(ids(&new), ["whole"]);
        assert_eq!(metrics.access_log_dropped().get(), 1);
    }

    #[test]
    fn log_that_is_off_takes_no_lines_until_it_is_switched_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let access = AccessLog::start(Sink::open(&Target::Off).unwrap(), &Metrics::new());

        log(&access, "off");
        access.switch(file(&path));
        access.flush();
        log(&access, "on");
        access.close();

        assert_eq!(ids(&path), ["on"]);
    }

    /// A disk that has room for ten bytes while it is full.
    struct Flaky {
        full: Arc<AtomicBool>,
        file: File,
    }

    impl Write for Flaky {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.full.load(Relaxed) {
                let room = 10_u64.saturating_sub(self.file.metadata()?.len()) as usize;
                if room == 0 {
                    return Err(io::ErrorKind::StorageFull.into());
                }
                return self.file.write(&bytes[..room.min(bytes.len())]);
            }
            self.file.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            self.file.flush()
        }
    }
}
