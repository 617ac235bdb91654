//! `tidegate restore`: puts an earlier generation back in place.
//!
//! The files are written over the configuration, one by one by rename; a running
//! gateway notices, and publishes them as a new generation. Nothing is lost:
//! what was in place is among the generations, or copied aside first.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use jiff::Timestamp;
use tidegate_gateway::source::files;
use tidegate_gateway::source::history::{Archive, Record};
use tidegate_model::check::check;

use crate::archive::{self, Place};
use crate::{print, when};

/// Copies of replaced configurations that are kept. The oldest goes first.
const COPIES: usize = 20;

/// How long a running gateway may take to publish what was restored, before we say that it hasn't.
const TAKE_UP: Duration = Duration::from_secs(10);

/// How often we look whether it has.
const LOOK: Duration = Duration::from_millis(50);

/// Put an earlier generation back in place
///
/// Its files are written over the configuration, and a running gateway publishes them as a new generation. What was
/// in place stays: among the generations if it ever was in force, else as a copy in the state folder.
#[derive(clap::Args)]
#[command(after_help = format!("A moment is one of {}, in the local time zone; it means the \
generation that was in force then.

{}

Exit codes: 0 restored, 2 this version of tidegate refuses that generation, 1 anything else.

Examples:
  tidegate restore 41
  tidegate restore --to yesterday
  tidegate restore --config edge.yaml --to '10 minutes ago'", when::FORMS, archive::WHERE))]
#[command(group = clap::ArgGroup::new("which").required(true).args(["generation", "to"]))]
pub struct Args {
    /// Its number
    generation: Option<u64>,
    /// The generation that was in force at this moment
    #[arg(long, value_name = "MOMENT")]
    to: Option<String>,
    #[command(flatten)]
    place: Place,
    /// Restore it even if this version of tidegate would refuse it
    #[arg(long)]
    force: bool,
}

/// Runs the command.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let archive = args.place.archive()?;
    let record = match (&args.to, args.generation) {
        (Some(moment), _) => archive::find(&archive, moment)?,
        (None, number) => archive::find(&archive, &number.unwrap_or_default().to_string())?,
    };
    let generation = record.generation;
    if let (Err(problems), false) = (check(&record.sources()), args.force) {
        print::tell(&problems);
        eprintln!("generation {generation} would be refused; nothing was changed (--force writes it all the same)");
        return Ok(ExitCode::from(2));
    }
    let config = args.place.config.as_deref().map_or(Ok(record.source.clone()), std::path::absolute)?;
    let mut out = io::stdout().lock();
    if in_place(&config, &record) {
        writeln!(out, "{} is as in generation {generation} already", config.display())?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(copy) = keep_current(&config, &archive)? {
        writeln!(out, "what was in place never was in force; a copy is in {}", copy.display())?;
    }
    put_back(&config, &record)?;
    writeln!(out, "generation {generation} of {} is back in {}", archive::local(record.at), config.display())?;
    if !archive.is_in_use() {
        writeln!(out, "no gateway runs with it now; the next one starts with it")?;
        return Ok(ExitCode::SUCCESS);
    }
    let Some(now) = taken_up(&archive, &record) else {
        bail!("the gateway hasn't taken it up within {TAKE_UP:?}; its log says why");
    };
    writeln!(out, "generation {now} is in force, with that text")?;
    Ok(ExitCode::SUCCESS)
}

/// Whether `config` says what `record` says.
fn in_place(config: &Path, record: &Record) -> bool {
    files::read(config).is_ok_and(|current| files::digest(config, &current) == record.sha256)
}

/// Copies aside what is in place, unless it is among the generations or there is nothing.
fn keep_current(config: &Path, archive: &Archive) -> anyhow::Result<Option<PathBuf>> {
    let Ok(paths) = files::list(config) else { return Ok(None) };
    if let Ok(current) = files::read(config) {
        let digest = files::digest(config, &current);
        if archive.newest_first()?.any(|kept| kept.sha256 == digest) {
            return Ok(None);
        }
    }
    let copies = archive.folder().join("replaced");
    let folder = copies.join(Timestamp::now().strftime("%Y%m%dT%H%M%S%.3fZ").to_string());
    fs::create_dir_all(&folder).with_context(|| format!("{} can't be created", folder.display()))?;
    for path in paths {
        let name = path.file_name().context("a configuration file has a name")?;
        fs::copy(&path, folder.join(name)).with_context(|| format!("{} can't be copied aside", path.display()))?;
    }
    let mut all: Vec<PathBuf> = fs::read_dir(&copies)?.flatten().map(|entry| entry.path()).collect();
    all.sort();
    for old in &all[..all.len().saturating_sub(COPIES)] {
        fs::remove_dir_all(old).with_context(|| format!("{} can't be removed", old.display()))?;
    }
    Ok(Some(folder))
}

/// Writes the files of `record` over `config`, and removes configuration files that it doesn't have.
fn put_back(config: &Path, record: &Record) -> anyhow::Result<()> {
    let was_file = record.files.iter().all(|file| file.path == record.source);
    if config.exists() && config.is_dir() == was_file {
        let (then, now) = if was_file { ("a file", "a folder") } else { ("a folder", "a file") };
        bail!("generation {} was {then}, but {} is {now}", record.generation, config.display());
    }
    let mut written = BTreeSet::new();
    for file in &record.files {
        let target = if was_file { config.to_owned() } else { config.join(record.name_of(file)) };
        write_over(&target, &file.text).with_context(|| format!("{} can't be written", target.display()))?;
        written.insert(target);
    }
    for surplus in files::list(config).unwrap_or_default().into_iter().filter(|path| !written.contains(path)) {
        fs::remove_file(&surplus).with_context(|| format!("{} can't be removed", surplus.display()))?;
    }
    Ok(())
}

/// Replaces the file at `target` (behind links, if it is one) in one step, with the same permissions.
fn write_over(target: &Path, text: &str) -> io::Result<()> {
    let target = target.canonicalize().unwrap_or_else(|_| target.to_owned());
    let folder = target.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(folder)?;
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    let aside = folder.join(format!(".{name}.restored-{}", std::process::id()));
    let written = (|| {
        let mut file = File::create(&aside)?;
        if let Ok(meta) = fs::metadata(&target) {
            file.set_permissions(meta.permissions())?;
        }
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&aside, &target)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&aside); // Perhaps it was never there.
    }
    written?;
    File::open(folder)?.sync_all()
}

/// Waits until the newest generation has the text of `record`.
fn taken_up(archive: &Archive, record: &Record) -> Option<u64> {
    let give_up = Instant::now() + TAKE_UP;
    while Instant::now() < give_up {
        let newest = archive.newest_first().ok().and_then(|mut kept| kept.next());
        if let Some(newest) = newest.filter(|newest| newest.sha256 == record.sha256) {
            return Some(newest.generation.0);
        }
        std::thread::sleep(LOOK);
    }
    None
}
