//! Keeps the table of bans over a restart: a file of lines in the state folder.
//!
//! ```text
//! tidegate bans 1
//! ban 203.0.113.0/24 1763850000000 1763857200000 1 0 scraper
//! free 198.51.100.7/32
//! ```
//!
//! The numbers are beginning and end (Unix milliseconds), which time it is, and seconds that it is remembered
//! afterwards. Later lines win. Changes are appended; when the file has grown to twice what it need be, it is written anew.
//!
//! # Invariants
//!
//! - A change is on disk within [`SETTLE`] and the time of one write, whatever ends the process afterwards.
//! - A file that is written anew replaces the old one in one step. A torn last line is skipped.
//! - The file is at most twice as long as the table, or [`SMALL`].
//! - The gateway serves even where the file can't be written; it says so once and counts.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, BufWriter, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;
use std::time::Duration;

use tracing::{error, info, warn};

use super::changes::Batch;
use super::{Ban, Bans, Key, SHARDS, lock};
use crate::clock;

/// The file's name in the state folder.
const NAME: &str = "bans";

/// What it begins with.
const HEADER: &str = "tidegate bans 1\n";

/// How long changes are gathered before they are written.
const SETTLE: Duration = Duration::from_millis(200);

/// How often a few shards are cleared of what is over.
const SWEEP: Duration = Duration::from_secs(1);

/// Shards that are cleared at a time: all of them in half a minute.
const SWEPT: usize = SHARDS / 32;

/// A file of this many bytes isn't written anew just for being long.
const SMALL: u64 = 1 << 20;

/// Bytes of a line that are read. A longer one isn't ours.
const LINE: u64 = 4_096;

/// Keeps a table as long as it lives; what is left is written when it is dropped.
#[derive(Debug)]
pub struct Keeper {
    bans: Arc<Bans>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    /// Fills `bans` with what was kept in `folder`, and keeps it there from now on. Without a folder it is only
    /// cleared of what is over.
    ///
    /// # Errors
    ///
    /// The system gives no thread.
    pub fn start(bans: Arc<Bans>, folder: Option<&Path>) -> io::Result<Self> {
        let mut journal = folder.map(|folder| Journal::new(folder.join(NAME)));
        if let Some(journal) = &mut journal {
            journal.load(&bans);
            bans.changes.begin();
            journal.rewrite(&bans);
        }
        let kept = Arc::clone(&bans);
        let thread = std::thread::Builder::new().name("bans".into()).spawn(move || keep(&kept, journal))?;
        Ok(Self { bans, thread: Some(thread) })
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.bans.changes.stop();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            error!("the keeper of bans panicked");
        }
    }
}

fn keep(bans: &Bans, mut journal: Option<Journal>) {
    let mut next_shard = 0;
    loop {
        let Some(Batch { mut keys, all, stop }) = bans.changes.wait(SWEEP, SETTLE) else {
            if !bans.is_empty() {
                bans.sweep(next_shard..next_shard + SWEPT, bans.unix(clock::now()));
                next_shard = (next_shard + SWEPT) % SHARDS;
            }
            continue;
        };
        if let Some(journal) = &mut journal {
            keys.sort_unstable();
            keys.dedup();
            if all { journal.rewrite(bans) } else { journal.append(bans, &keys) }
        }
        if stop {
            return;
        }
    }
}

#[derive(Debug)]
struct Journal {
    path: PathBuf,
    file: Option<File>,
    bytes: u64,
    /// Bytes when it was last written anew.
    compact: u64,
    /// Whether the last attempt failed, so that it is said once.
    failing: bool,
}

impl Journal {
    fn new(path: PathBuf) -> Self {
        Self { path, file: None, bytes: 0, compact: 0, failing: false }
    }

    /// Fills `bans` with what was kept.
    fn load(&self, bans: &Bans) {
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(err) if err.kind() == io::ErrorKind::NotFound => return,
            Err(err) => return error!(file = %self.path.display(), %err, "bans that were kept can't be read"),
        };
        let now = clock::now();
        let (mut line, mut skipped, mut reader) = (Vec::new(), 0_usize, BufReader::new(file));
        loop {
            line.clear();
            match io::Read::take(&mut reader, LINE).read_until(b'\n', &mut line) {
                Ok(0) => break,
                Ok(_) => {}
                Err(err) => {
                    error!(file = %self.path.display(), %err, "bans that were kept can't be read to their end");
                    break;
                }
            }
            match std::str::from_utf8(&line).ok().and_then(|line| Line::parse(line.strip_suffix('\n')?)) {
                Some(Line::Header) => {}
                Some(Line::Ban(ban)) => bans.restore(&ban, now),
                Some(Line::Free(network)) => drop(bans.remove(network)),
                None => skipped += 1,
            }
        }
        info!(bans = bans.len(), "bans restored");
        if skipped > 0 {
            warn!(file = %self.path.display(), lines = skipped, "lines of kept bans were skipped: they are torn or foreign");
        }
    }

    /// Writes what became of `keys`.
    fn append(&mut self, bans: &Bans, keys: &[Key]) {
        if keys.is_empty() && !self.failing {
            return; // The file may be a newer process's by now: one that has nothing to say leaves it alone.
        }
        let replaced = || self.file.as_ref().is_none_or(|file| !is_at(file, &self.path));
        if self.bytes > SMALL.max(2 * self.compact) || replaced() {
            return self.rewrite(bans);
        }
        let mut text = String::new();
        for key in keys {
            let entry = lock(&bans.shard(key).map).get(key).copied();
            match entry {
                Some(entry) => write_ban(&mut text, &bans.show(key, &entry)),
                None => drop(writeln!(text, "free {}", key.net())), // Writing to a String can't fail.
            }
        }
        let written = match &mut self.file {
            Some(file) => file.write_all(text.as_bytes()).and_then(|()| file.sync_data()),
            None => Ok(()),
        };
        match written {
            Ok(()) => self.bytes += text.len() as u64,
            Err(err) => self.failed(bans, &err),
        }
    }

    /// Writes the whole table aside, and puts it in place of the file.
    fn rewrite(&mut self, bans: &Bans) {
        match self.written_anew(bans) {
            Ok((file, bytes)) => {
                (self.file, self.bytes, self.compact) = (Some(file), bytes, bytes);
                self.failing = false;
            }
            Err(err) => self.failed(bans, &err),
        }
    }

    fn written_anew(&self, bans: &Bans) -> io::Result<(File, u64)> {
        let aside = self.path.with_extension("new");
        let mut out = BufWriter::new(File::create(&aside)?);
        let mut bytes = HEADER.len() as u64;
        out.write_all(HEADER.as_bytes())?;
        let mut text = String::new();
        for shard in bans.shards.iter().filter(|shard| shard.entries.load(Relaxed) > 0) {
            let entries: Vec<_> = lock(&shard.map).iter().map(|(key, entry)| (*key, *entry)).collect();
            text.clear();
            entries.iter().for_each(|(key, entry)| write_ban(&mut text, &bans.show(key, entry)));
            out.write_all(text.as_bytes())?;
            bytes += text.len() as u64;
        }
        let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync_all()?;
        fs::rename(&aside, &self.path)?;
        if let Some(folder) = self.path.parent() {
            File::open(folder)?.sync_all()?;
        }
        Ok((file, bytes))
    }

    /// The next attempt writes everything, so nothing is lost by this one.
    fn failed(&mut self, bans: &Bans, err: &io::Error) {
        self.file = None;
        bans.metrics.unkept();
        if !self.failing {
            error!(file = %self.path.display(), %err, "bans can't be kept: a restart would forget them");
        }
        self.failing = true;
    }
}

/// Whether `file` is still what `path` names.
fn is_at(file: &File, path: &Path) -> bool {
    let same = |a: &fs::Metadata, b: &fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
    matches!((file.metadata(), fs::metadata(path)), (Ok(a), Ok(b)) if same(&a, &b))
}

fn write_ban(text: &mut String, ban: &Ban) {
    let Ban { network, since, until, times, reason, memory } = ban;
    let _ = writeln!(text, "ban {network} {since} {until} {times} {memory} {reason}"); // Can't fail.
}

/// A line of the file.
enum Line {
    Header,
    Ban(Ban),
    Free(ipnet::IpNet),
}

impl Line {
    fn parse(line: &str) -> Option<Self> {
        if let Some(network) = line.strip_prefix("free ") {
            return network.parse().ok().map(Self::Free);
        }
        let Some(ban) = line.strip_prefix("ban ") else {
            return (line == HEADER.trim_end()).then_some(Self::Header);
        };
        let mut words = ban.splitn(6, ' ');
        Some(Self::Ban(Ban {
            network: words.next()?.parse().ok()?,
            since: words.next()?.parse().ok()?,
            until: words.next()?.parse().ok()?,
            times: words.next()?.parse().ok()?,
            memory: words.next()?.parse().ok()?,
            reason: words.next()?.into(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Seek as _;

    use super::*;

    fn banned(bans: &Bans, ip: &str) -> bool {
        bans.until(ip.parse().unwrap(), clock::now()).is_some()
    }

    fn hour(bans: &Bans, net: &str, reason: &str) {
        bans.add(net.parse().unwrap(), Duration::from_secs(3_600), reason, clock::now()).unwrap();
    }

    #[test]
    fn what_was_banned_is_banned_after_a_restart_and_what_was_freed_is_free() {
        let folder = tempfile::tempdir().unwrap();
        let bans = Arc::new(Bans::default());
        let keeper = Keeper::start(Arc::clone(&bans), Some(folder.path())).unwrap();
        hour(&bans, "203.0.113.0/24", "a scraper, says ops");
        hour(&bans, "2001:db8::/64", "x");
        bans.add("192.0.2.9/32".parse().unwrap(), Duration::ZERO, "over at once", clock::now()).unwrap();
        bans.remove("2001:db8::/64".parse().unwrap());
        drop(keeper);

        let again = Arc::new(Bans::default());
        let _keeper = Keeper::start(Arc::clone(&again), Some(folder.path())).unwrap();

        assert!(banned(&again, "203.0.113.200"));
        assert!(!banned(&again, "2001:db8::1") && !banned(&again, "192.0.2.9"));
        assert_eq!(&*again.page(None, None, 9, clock::now())[0].reason, "a scraper, says ops");
        assert_eq!(again.len(), 1);
    }

    #[test]
    fn a_torn_or_foreign_line_costs_only_itself() {
        let folder = tempfile::tempdir().unwrap();
        let until = u64::MAX / 2;
        let text = format!(
            "{HEADER}ban 192.0.2.1/32 1 {until} 1 0 a\nnonsense\nban 192.0.2.2/32 1 {until} 1 0 b\nban 192.0.2.3/32 1 {until} 1"
        );
        fs::write(folder.path().join(NAME), text).unwrap();
        let bans = Arc::new(Bans::default());

        let _keeper = Keeper::start(Arc::clone(&bans), Some(folder.path())).unwrap();

        assert!(banned(&bans, "192.0.2.1") && banned(&bans, "192.0.2.2"));
        assert!(!banned(&bans, "192.0.2.3"));
    }

    #[test]
    fn the_file_stays_short_however_often_the_table_changes() {
        let folder = tempfile::tempdir().unwrap();
        let bans = Bans::default();
        let mut journal = Journal::new(folder.path().join(NAME));
        hour(&bans, "192.0.2.1/32", &"x".repeat(200));
        let key = Key::from("192.0.2.1/32".parse::<ipnet::IpNet>().unwrap());

        for _ in 0..100 {
            journal.append(&bans, &[key; 100]);
        }

        assert!(journal.file.as_mut().unwrap().stream_position().unwrap() <= SMALL + 100 * 300);
    }

    #[test]
    fn a_file_that_somebody_replaced_is_written_anew() {
        let folder = tempfile::tempdir().unwrap();
        let bans = Bans::default();
        let mut journal = Journal::new(folder.path().join(NAME));
        hour(&bans, "192.0.2.1/32", "a");
        journal.rewrite(&bans);
        fs::remove_file(folder.path().join(NAME)).unwrap();
        let key = Key::from("192.0.2.1/32".parse::<ipnet::IpNet>().unwrap());

        journal.append(&bans, &[]);
        let left_alone = !folder.path().join(NAME).exists();
        journal.append(&bans, &[key]);

        assert!(left_alone, "whoever has nothing to say says nothing");
        assert!(fs::read_to_string(folder.path().join(NAME)).unwrap().contains("192.0.2.1/32"));
    }
}
