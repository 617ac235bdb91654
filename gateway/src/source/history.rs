//! The generations that were accepted, kept on disk with their files verbatim.
//!
//! One JSON file for each generation, `00000042-20261117T120000Z.json`, in the
//! folder that [`super::state`] names. Whoever may read it can do so with a
//! text editor and without a gateway.
//!
//! # Invariants
//!
//! - A record is complete or absent: it is written aside, synced, renamed, and
//!   the folder synced. What is torn or foreign all the same is skipped.
//! - A number is never used twice, also after the newest record became unreadable.
//! - One writer: [`History`] holds a lock that dies with the process.
//!   [`Archive`] only reads, beside a running gateway.
//! - At most [`NEWEST`] + [`DAILY`] records stay, in at most [`MAX_BYTES`].

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tidegate_model::check::SourceFile;
use tidegate_model::desired::Generation;
use tracing::warn;

use super::files;

/// Newest generations that are kept. Of older ones, [`DAILY`] applies.
pub const NEWEST: usize = 200;

/// Of generations beyond the newest, the last one of each day (UTC) is kept, for so many days that had any.
pub const DAILY: usize = 100;

/// Bytes on disk of all records together. Beyond it the oldest go first; the newest two always stay.
pub const MAX_BYTES: u64 = 512 << 20;

/// How long a starting gateway waits for its predecessor to let go of the history.
const LOCK_WAIT: Duration = Duration::from_secs(3);

/// One accepted configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Its number.
    pub generation: Generation,
    /// When it was accepted.
    pub at: Timestamp,
    /// What led to it.
    pub reason: Reason,
    /// The file or folder it was read from, absolute.
    pub source: PathBuf,
    /// [`files::digest`] of the files.
    pub sha256: String,
    /// [`files::fingerprint`] of the certificates and keys that it names.
    pub references: String,
    /// The files, verbatim.
    pub files: Vec<Kept>,
}

/// A file as it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Where it was read from, absolute.
    pub path: PathBuf,
    /// Its text.
    pub text: String,
}

/// What led to a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reason {
    /// The gateway started.
    Start,
    /// The configuration's files changed.
    File,
    /// A certificate, key or list changed; the text is that of the generation before.
    Certificates,
    /// SIGHUP.
    Signal,
    /// `tidegate reload`.
    Command,
}

impl Reason {
    /// One lower-case word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::File => "file",
            Self::Certificates => "certificates",
            Self::Signal => "signal",
            Self::Command => "command",
        }
    }
}

impl Record {
    /// The files, as `check` takes them.
    pub fn sources(&self) -> Vec<SourceFile> {
        self.files.iter().map(|file| SourceFile { path: file.path.clone(), text: file.text.clone() }).collect()
    }

    /// A file's name within the configuration: `shop.yaml`.
    pub fn name_of<'a>(&self, file: &'a Kept) -> &'a Path {
        match file.path.strip_prefix(&self.source) {
            Ok(inside) if !inside.as_os_str().is_empty() => inside,
            _ => file.path.file_name().map_or(&file.path, Path::new),
        }
    }
}

/// Why a record can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file can't be read.
    #[error("can't be read")]
    Unreadable(#[source] io::Error),
    /// The text isn't a record: torn, or somebody else's.
    #[error("isn't a generation that we wrote, or only a part of one")]
    Torn(#[source] serde_json::Error),
    /// The text was altered after it was written.
    #[error("doesn't match its own checksum")]
    Altered,
}

/// Reads generations; takes no lock.
#[derive(Clone, Debug)]
pub struct Archive {
    folder: PathBuf,
}

/// A record's file, judged by its name alone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// The number in its name.
    pub generation: Generation,
    /// The day in its name, `20261117`.
    day: String,
    /// The file.
    pub path: PathBuf,
}

impl Archive {
    /// The archive in `folder`, which need not exist.
    pub fn at(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What looks like records, oldest first. A folder that doesn't exist holds none.
    ///
    /// # Errors
    ///
    /// If the folder can't be listed.
    pub fn entries(&self) -> io::Result<Vec<Entry>> {
        let listing = match fs::read_dir(&self.folder) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            listing => listing?,
        };
        let mut entries = Vec::new();
        for entry in listing {
            let path = entry?.path();
            if let Some((generation, day)) = path.file_name().and_then(|name| parse_name(name.to_str()?)) {
                entries.push(Entry { generation, day: day.to_owned(), path });
            }
        }
        entries.sort();
        Ok(entries)
    }

    /// Reads one record.
    ///
    /// # Errors
    ///
    /// If it isn't a complete, unaltered record.
    pub fn read(&self, entry: &Entry) -> Result<Record, ReadError> {
        let text = fs::read(&entry.path).map_err(ReadError::Unreadable)?;
        let record: Record = serde_json::from_slice(&text).map_err(ReadError::Torn)?;
        let intact =
            record.generation == entry.generation && files::digest(&record.source, &record.sources()) == record.sha256;
        if intact { Ok(record) } else { Err(ReadError::Altered) }
    }

    /// The readable records, newest first, read one by one as they are asked for. Others are skipped
    /// with a warning.
    ///
    /// # Errors
    ///
    /// If the folder can't be listed.
    pub fn newest_first(&self) -> io::Result<impl Iterator<Item = Record> + '_> {
        let entries = self.entries()?;
        Ok(entries.into_iter().rev().filter_map(|entry| match self.read(&entry) {
            Ok(record) => Some(record),
            Err(err) => {
                let err = anyhow::Error::from(err);
                warn!(file = %entry.path.display(), "generation on disk skipped: {err:#}");
                None
            }
        }))
    }

    /// Whether a gateway is writing here now.
    pub fn is_in_use(&self) -> bool {
        File::open(self.folder.join("lock")).is_ok_and(|lock| matches!(lock.try_lock(), Err(TryLockError::WouldBlock)))
    }
}

/// Why generations can't be kept.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another gateway keeps its generations there.
    #[error(
        "another gateway keeps its generations in {}; stop it, or give this one a folder of its own with --state",
        folder.display()
    )]
    Locked {
        /// The folder.
        folder: PathBuf,
    },
    /// The folder can't be used.
    #[error("generations can't be kept in {}", folder.display())]
    Unusable {
        /// The folder.
        folder: PathBuf,
        /// Why.
        #[source]
        cause: io::Error,
    },
}

/// The only writer of an archive.
#[derive(Debug)]
pub struct History {
    archive: Archive,
    /// Held until the process ends.
    _lock: File,
}

impl History {
    /// Opens or creates the archive in `folder` for writing, and clears away what a crash left half done.
    ///
    /// # Errors
    ///
    /// If another gateway holds it (after waiting a little for one that is stopping), or it can't be written.
    pub fn open(folder: &Path) -> Result<Self, OpenError> {
        let unusable = |cause| OpenError::Unusable { folder: folder.to_owned(), cause };
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(unusable)?;
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).write(true).mode(0o600);
        let lock = options.open(folder.join("lock")).map_err(unusable)?;
        let give_up = Instant::now() + LOCK_WAIT;
        loop {
            match lock.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if Instant::now() < give_up => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                Err(TryLockError::WouldBlock) => return Err(OpenError::Locked { folder: folder.to_owned() }),
                Err(TryLockError::Error(cause)) => return Err(unusable(cause)),
            }
        }
        for entry in fs::read_dir(folder).map_err(unusable)?.flatten() {
            if entry.path().extension().is_some_and(|extension| extension == "tmp") {
                // Left by a crash between writing and renaming. Whether it goes now or later is all the same.
                let _ = fs::remove_file(entry.path());
            }
        }
        Ok(Self { archive: Archive::at(folder), _lock: lock })
    }

    /// For reading.
    pub fn archive(&self) -> &Archive {
        &self.archive
    }

    /// The highest number that was ever used here, readable or not; 0 if none was.
    ///
    /// # Errors
    ///
    /// If the folder can't be listed.
    pub fn highest(&self) -> io::Result<Generation> {
        Ok(self.archive.entries()?.last().map_or(Generation(0), |entry| entry.generation))
    }

    /// Keeps `record` durably, then thins the older ones.
    ///
    /// # Errors
    ///
    /// If it couldn't be written (disk full); the archive is as it was then.
    pub fn keep(&mut self, record: &Record) -> io::Result<()> {
        let folder = &self.archive.folder;
        let name = format!("{:08}-{}.json", record.generation.0, record.at.strftime("%Y%m%dT%H%M%SZ"));
        let aside = folder.join(format!("{name}.tmp"));
        let written = write_synced(&aside, record).and_then(|()| fs::rename(&aside, folder.join(&name)));
        if written.is_err() {
            let _ = fs::remove_file(&aside); // Perhaps it was never there; `open` clears it otherwise.
        }
        written?;
        File::open(folder)?.sync_all()?;
        if let Err(err) = self.thin() {
            warn!(folder = %self.archive.folder.display(), "old generations can't be thinned: {err}");
        }
        Ok(())
    }

    fn thin(&self) -> io::Result<()> {
        let sized = |entry: Entry| {
            let bytes = fs::metadata(&entry.path).map_or(0, |meta| meta.len());
            (entry, bytes)
        };
        for entry in surplus(self.archive.entries()?.into_iter().map(sized).collect()) {
            fs::remove_file(&entry.path)?;
        }
        Ok(())
    }
}

/// Which of `entries` (oldest first, with their bytes) go.
fn surplus(entries: Vec<(Entry, u64)>) -> Vec<Entry> {
    let mut days = BTreeSet::new();
    let mut bytes = 0;
    let mut gone = Vec::new();
    for (nth, (entry, size)) in entries.into_iter().rev().enumerate() {
        let by_count = nth < NEWEST || (days.len() < DAILY && days.insert(entry.day.clone()));
        let by_bytes = nth < 2 || bytes + size <= MAX_BYTES;
        if by_count && by_bytes {
            bytes += size;
        } else {
            gone.push(entry);
        }
    }
    gone
}

fn write_synced(path: &Path, record: &Record) -> io::Result<()> {
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(path)?;
    let mut text = serde_json::to_vec_pretty(record)?;
    text.push(b'\n');
    file.write_all(&text)?;
    file.sync_all()
}

/// `00000042-20261117T120000Z.json` → 42 and `20261117`.
fn parse_name(name: &str) -> Option<(Generation, &str)> {
    let (number, time) = name.strip_suffix(".json")?.split_once('-')?;
    let day = time.get(..8).filter(|day| day.bytes().all(|byte| byte.is_ascii_digit()))?;
    (number.len() >= 8).then_some(())?;
    Some((Generation(number.parse().ok()?), day))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(generation: u64, text: &str) -> Record {
        let source = PathBuf::from("/etc/edge.yaml");
        let files = vec![Kept { path: source.clone(), text: text.into() }];
        let mut record = Record {
            generation: Generation(generation),
            at: "2026-11-17T12:00:00Z".parse().unwrap(),
            reason: Reason::File,
            source,
            sha256: String::new(),
            references: String::new(),
            files,
        };
        record.sha256 = files::digest(&record.source, &record.sources());
        record
    }

    fn numbers(archive: &Archive) -> Vec<u64> {
        archive.newest_first().unwrap().map(|record| record.generation.0).collect()
    }

    #[test]
    fn kept_generation_comes_back_verbatim() {
        let folder = tempfile::tempdir().unwrap();
        let mut history = History::open(folder.path()).unwrap();
        let kept = record(1, "version: 1\n# ä\t\"quoted\"\r\n");

        history.keep(&kept).unwrap();

        assert_eq!(history.archive().newest_first().unwrap().next(), Some(kept));
    }

    #[test]
    fn newest_record_torn_at_any_byte_is_skipped_and_its_number_not_used_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut history = History::open(folder.path()).unwrap();
        history.keep(&record(1, "one")).unwrap();
        history.keep(&record(2, "two")).unwrap();
        let newest = history.archive().entries().unwrap().pop().unwrap().path;
        let whole = fs::read(&newest).unwrap();
        drop(history);

        for length in 0..whole.len() - 1 {
            fs::write(&newest, &whole[..length]).unwrap();

            let history = History::open(folder.path()).unwrap();

            assert_eq!(numbers(history.archive()), [1], "torn at byte {length}");
            assert_eq!(history.highest().unwrap(), Generation(2));
        }
    }

    #[test]
    fn altered_text_is_skipped() {
        let folder = tempfile::tempdir().unwrap();
        let mut history = History::open(folder.path()).unwrap();
        history.keep(&record(1, "weights: 95")).unwrap();
        let path = history.archive().entries().unwrap().pop().unwrap().path;

        fs::write(&path, fs::read_to_string(&path).unwrap().replace("weights: 95", "weights: 59")).unwrap();

        assert!(numbers(history.archive()).is_empty());
    }

    #[test]
    fn foreign_files_are_ignored_and_half_written_ones_cleared() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["notes.txt", "1-x.json", "00000009-20261117T120000Z.json.tmp", "lost+found"] {
            fs::write(folder.path().join(name), "{").unwrap();
        }

        let history = History::open(folder.path()).unwrap();

        assert_eq!(history.highest().unwrap(), Generation(0));
        assert!(folder.path().join("notes.txt").exists());
        assert!(!folder.path().join("00000009-20261117T120000Z.json.tmp").exists());
    }

    #[test]
    fn second_writer_is_refused_and_a_reader_sees_that_one_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let first = History::open(folder.path()).unwrap();
        assert!(first.archive().is_in_use());

        let second = History::open(folder.path());

        assert!(matches!(second, Err(OpenError::Locked { .. })));
        drop(first);
        assert!(!Archive::at(folder.path()).is_in_use());
    }

    #[test]
    fn record_that_cannot_be_written_leaves_the_archive_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let mut history = History::open(folder.path()).unwrap();
        history.keep(&record(1, "one")).unwrap();
        fs::create_dir(folder.path().join("00000002-20261117T120000Z.json.tmp")).unwrap();

        let outcome = history.keep(&record(2, "two"));

        assert!(outcome.is_err());
        assert_eq!(numbers(history.archive()), [1]);
    }

    fn entry(generation: u64, day: u64, bytes: u64) -> (Entry, u64) {
        (Entry { generation: Generation(generation), day: format!("{day:08}"), path: PathBuf::new() }, bytes)
    }

    #[test]
    fn beyond_the_newest_only_the_last_of_each_day_stays() {
        let old = (1..=9).map(|generation| entry(generation, (generation - 1) / 3, 1));
        let new = (10..10 + NEWEST as u64).map(|generation| entry(generation, 9, 1));

        let gone: Vec<u64> = surplus(old.chain(new).collect()).iter().map(|entry| entry.generation.0).collect();

        assert_eq!(gone, [8, 7, 5, 4, 2, 1]);
    }

    #[test]
    fn byte_bound_drops_the_oldest_but_never_the_newest_two() {
        let entries = vec![entry(1, 1, 9), entry(2, 1, MAX_BYTES), entry(3, 1, MAX_BYTES)];

        let gone = surplus(entries);

        assert_eq!(gone.iter().map(|entry| entry.generation.0).collect::<Vec<_>>(), [1]);
    }
}
