//! Lists of networks in files: one address or network a line, `#` begins a comment.
//!
//! # Invariants
//!
//! - A list is taken over whole or not at all: with a bad line the change is refused, and the last good one stays.
//! - While a gateway starts, the last good state of a broken file takes its place, loudly: `shelf` has kept it.
//! - Files are read while a configuration is got ready, never on the path of a request. One whose inode, size and times
//!   are as they were isn't read again.

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader};
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use ipnet::IpNet;
use tidegate_model::check::Places;
use tidegate_model::desired::{Access, Desired};
use tidegate_model::diagnostic::{Colour, Diagnostic, EXCERPT_MAX, Place};
use tidegate_model::literal::{Literal as _, Network};
use tracing::{error, info};

use super::shelf::Shelf;
use crate::decide::nets::{Builder, NetSet};

/// Bytes of a line. Beyond it the line is bad.
const LINE: u64 = 1_024;

/// Bad lines of one file that are told. Of more, only the number is.
const TOLD: usize = 20;

/// Networks in one file. Beyond it the change is refused: eight bytes each are held, and twice that while it is read.
const MOST: usize = 50_000_000;

/// Lists by file, as they were read last.
#[derive(Clone, Debug, Default)]
pub struct Lists(HashMap<PathBuf, List>);

#[derive(Clone, Debug)]
struct List {
    /// The state of the file that was read; `None` where an earlier one had to do.
    stamp: Option<Stamp>,
    set: Arc<NetSet>,
}

/// What tells two states of a file apart without reading it: device, inode, size, and when content and inode changed.
pub type Stamp = (u64, u64, u64, (i64, i64), (i64, i64));

impl Lists {
    /// The set in `file`; empty where it wasn't read.
    pub fn of(&self, file: &Path) -> Arc<NetSet> {
        self.0.get(file).map(|list| Arc::clone(&list.set)).unwrap_or_default()
    }

    /// The lists that `desired` names. Those in `known` that haven't changed are taken over from there.
    ///
    /// # Errors
    ///
    /// A diagnostic for each file that can't be read, and for its bad lines.
    pub fn read(desired: &Desired, places: &Places, known: &Self) -> Result<Self, Vec<Diagnostic>> {
        Self::read_or_kept(desired, places, known, None)
    }

    /// The same, for a gateway that starts: where a file can't be used, its copy on the `shelf` is. A list that `known` has
    /// from there stays until its file is good again.
    ///
    /// # Errors
    ///
    /// The same, for files that there is no good copy of.
    pub fn read_or_kept(
        desired: &Desired,
        places: &Places,
        known: &Self,
        shelf: Option<&Shelf>,
    ) -> Result<Self, Vec<Diagnostic>> {
        let (mut lists, mut problems) = (Self::default(), Vec::new());
        for (file, key) in named(desired) {
            if lists.0.contains_key(&file) {
                continue;
            }
            let known = known.0.get(&file);
            let told = match load(&file, known) {
                Ok(list) => {
                    lists.0.insert(file, list);
                    continue;
                }
                Err(Bad::Unreadable(err)) => vec![
                    Diagnostic::error("unusable-list", format!("{} can't be read", file.display()))
                        .maybe_at(places.of(&key), err.to_string())
                        .help("check the path and its permissions; an empty file is a list too"),
                ],
                Err(Bad::Lines(lines)) => lines,
            };
            let stale = known.filter(|known| known.stamp.is_none()).cloned();
            let kept = stale.or_else(|| {
                let list = load(&shelf?.copy_of(&file)?, None).ok()?;
                Some(List { stamp: None, ..list })
            });
            match kept {
                Some(list) => {
                    let told: String = told.iter().map(|problem| problem.render(Colour::Off)).collect();
                    error!(file = %file.display(), "list can't be used: its last good state is in force\n{}", told.trim_end());
                    lists.0.insert(file, list);
                }
                None => problems.extend(told),
            }
        }
        if problems.is_empty() { Ok(lists) } else { Err(problems) }
    }

    /// The files that lists were taken from.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.0.keys().map(PathBuf::as_path)
    }

    /// The files whose present state is in force, with that.
    pub fn fresh(&self) -> impl Iterator<Item = (&Path, Stamp)> {
        self.0.iter().filter_map(|(file, list)| Some((file.as_path(), list.stamp?)))
    }

    /// How many files have an earlier state in force.
    pub fn stale(&self) -> usize {
        self.0.values().filter(|list| list.stamp.is_none()).count()
    }
}

/// The files that `desired` takes lists from, each once.
pub fn files(desired: &Desired) -> BTreeSet<PathBuf> {
    named(desired).map(|(file, _)| file).collect()
}

/// Each mention of a file, with the key of its place.
fn named(desired: &Desired) -> impl Iterator<Item = (PathBuf, String)> + '_ {
    let routes = desired.routes.iter().map(|route| (&route.access, format!("routes.{}.access", route.name)));
    std::iter::once((&desired.access, "access".to_owned())).chain(routes).flat_map(
        |(access, key): (&Access, String)| {
            let keyed = |which: &'static str, files: &[PathBuf]| -> Vec<(PathBuf, String)> {
                files.iter().enumerate().map(|(at, file)| (file.clone(), format!("{key}.{which}.{at}"))).collect()
            };
            let mut all = keyed("allow_files", &access.allow_files);
            all.extend(keyed("deny_files", &access.deny_files));
            all
        },
    )
}

enum Bad {
    Unreadable(io::Error),
    Lines(Vec<Diagnostic>),
}

fn load(path: &Path, known: Option<&List>) -> Result<List, Bad> {
    let began = Instant::now();
    let meta = fs::metadata(path).map_err(Bad::Unreadable)?;
    if !meta.is_file() {
        // A pipe could block for ever.
        return Err(Bad::Unreadable(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")));
    }
    let file = File::open(path).map_err(Bad::Unreadable)?;
    // Of the open file, and before it is read: whatever is written meanwhile is a change.
    let stamp = stamp(&file.metadata().map_err(Bad::Unreadable)?);
    if let Some(known) = known.filter(|known| known.stamp == Some(stamp)) {
        return Ok(known.clone());
    }
    let set = parse(path, BufReader::with_capacity(1 << 16, file))?;
    info!(file = %path.display(), ranges = set.ranges(), bytes = set.bytes(), took = ?began.elapsed(), "list of networks read");
    Ok(List { stamp: Some(stamp), set: Arc::new(set) })
}

/// What tells this state of a file.
pub fn stamp(meta: &fs::Metadata) -> Stamp {
    (meta.dev(), meta.ino(), meta.size(), (meta.mtime(), meta.mtime_nsec()), (meta.ctime(), meta.ctime_nsec()))
}

fn parse(path: &Path, mut reader: impl io::BufRead) -> Result<NetSet, Bad> {
    let mut builder = Builder::default();
    let (mut line, mut number, mut bad, mut problems) = (Vec::new(), 0, 0_usize, Vec::new());
    loop {
        line.clear();
        let length = io::Read::take(&mut reader, LINE).read_until(b'\n', &mut line).map_err(Bad::Unreadable)?;
        if length == 0 {
            break;
        }
        number += 1;
        let whole = line.ends_with(b"\n") || length < LINE as usize;
        if !whole {
            reader.skip_until(b'\n').map_err(Bad::Unreadable)?;
        }
        match network(&line, whole) {
            Ok(Some(net)) => builder.add(net),
            Ok(None) => {}
            Err((label, help)) => {
                bad += 1;
                if bad <= TOLD {
                    problems.push(bad_line(path, number, &line, label, help));
                }
            }
        }
        if builder.networks() > MOST {
            let message = format!("{} holds more than {MOST} networks", path.display());
            return Err(Bad::Lines(vec![Diagnostic::error("list-too-long", message).help("merge what touches")]));
        }
    }
    if problems.is_empty() {
        return Ok(builder.finish());
    }
    if let Some(more) = bad.checked_sub(TOLD).filter(|more| *more > 0) {
        let message = format!("{} has {more} more bad lines", path.display());
        problems.push(Diagnostic::error("bad-list", message));
    }
    Err(Bad::Lines(problems))
}

/// The network on a line, if there is one.
fn network(line: &[u8], whole: bool) -> Result<Option<IpNet>, (String, Option<String>)> {
    let text = line.split(|&byte| byte == b'#').next().unwrap_or_default().trim_ascii();
    if text.is_empty() {
        return Ok(None);
    }
    if !whole {
        return Err((format!("the line is longer than {LINE} bytes"), None));
    }
    let text = std::str::from_utf8(text).map_err(|_| ("this isn't text".to_owned(), None))?;
    if let Ok(v4) = text.parse::<Ipv4Addr>() {
        return Ok(Some(IpNet::from(IpAddr::V4(v4)))); // What most lines of most lists are, so it is tried first.
    }
    Network::parse(text).map(|network| Some(network.0)).map_err(|wrong| (wrong.label, wrong.help))
}

fn bad_line(path: &Path, number: usize, line: &[u8], label: String, help: Option<String>) -> Diagnostic {
    let text = String::from_utf8_lossy(line.trim_ascii_end());
    let excerpt: String = text.chars().take(EXCERPT_MAX).collect();
    let begins = excerpt.chars().take_while(|char| char.is_whitespace()).count();
    let shown = excerpt.split('#').next().unwrap_or_default().trim();
    let place = Place {
        file: path.to_owned(),
        line: number,
        column: begins + 1,
        length: shown.chars().count().max(1),
        excerpt: excerpt.clone(),
    };
    let mut diagnostic = Diagnostic::error("bad-list", "a line of a list isn't a network".to_owned());
    diagnostic.at = Some(place);
    diagnostic.label = label;
    diagnostic.help = help;
    diagnostic
}

#[cfg(test)]
mod tests {
    use tidegate_model::desired::Desired;

    use super::*;

    fn desired(file: &Path) -> Desired {
        Desired { access: Access { deny_files: vec![file.to_owned()], ..Access::default() }, ..Desired::default() }
    }

    fn read(file: &Path, known: &Lists) -> Result<Lists, Vec<Diagnostic>> {
        Lists::read(&desired(file), &Places::default(), known)
    }

    #[test]
    fn a_list_holds_addresses_networks_comments_and_empty_lines() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("bad.txt");
        fs::write(&file, "# all bad\n\n192.0.2.7\r\n  203.0.113.0/24 # a scraper\n2001:db8::/32\n10.0.0.1/8").unwrap();

        let set = read(&file, &Lists::default()).unwrap().of(&file);

        for (ip, inside) in [
            ("192.0.2.7", true),
            ("192.0.2.8", false),
            ("203.0.113.9", true),
            ("2001:db8::9", true),
            ("10.9.9.9", true),
        ] {
            assert_eq!(set.contains(ip.parse().unwrap()), inside, "{ip}");
        }
    }

    #[test]
    fn bad_lines_are_told_with_their_numbers_and_only_so_many() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("bad.txt");
        fs::write(&file, format!("192.0.2.7\n192.0.2.300 # x\n{}", "nonsense\n".repeat(100))).unwrap();

        let problems = read(&file, &Lists::default()).unwrap_err();

        assert_eq!(problems.len(), TOLD + 1);
        let first = problems[0].at.clone().unwrap();
        assert_eq!((first.line, first.column, first.length), (2, 1, 11));
        assert!(problems[TOLD].message.contains("81 more"), "{}", problems[TOLD].message);
    }

    #[test]
    fn an_unchanged_file_is_not_read_again_and_a_changed_one_is() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("bad.txt");
        fs::write(&file, "192.0.2.7\n").unwrap();
        let first = read(&file, &Lists::default()).unwrap();

        let again = read(&file, &first).unwrap();
        fs::write(&file, "192.0.2.8\n10.0.0.1\n").unwrap();
        let changed = read(&file, &again).unwrap();

        assert!(Arc::ptr_eq(&first.of(&file), &again.of(&file)));
        assert!(changed.of(&file).contains("192.0.2.8".parse().unwrap()));
    }

    #[test]
    fn a_kept_list_takes_the_place_of_a_broken_file_until_that_is_good_again() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("bad.txt");
        let shelf = Shelf::new(Some(folder.path()), &prometheus::Registry::new()).unwrap();
        let start = || Lists::read_or_kept(&desired(&file), &Places::default(), &Lists::default(), Some(&shelf));
        fs::write(&file, "192.0.2.7\n").unwrap();
        shelf.keep(&start().unwrap());

        fs::write(&file, "192.0.2.8\nnonsense\n").unwrap();
        let broken = start().unwrap();
        shelf.keep(&broken); // A copy isn't replaced by what is broken.
        fs::remove_file(&file).unwrap();
        let gone = start().unwrap();
        let running = read(&file, &broken).unwrap();
        fs::write(&file, "192.0.2.9\n").unwrap();
        let good = read(&file, &running).unwrap();

        for kept in [&broken, &gone, &running] {
            assert!(kept.of(&file).contains("192.0.2.7".parse().unwrap()));
            assert_eq!(kept.stale(), 1);
        }
        assert!(good.of(&file).contains("192.0.2.9".parse().unwrap()));
        assert_eq!(good.stale(), 0);
        fs::write(&file, "nonsense\n").unwrap();
        assert!(read(&file, &good).is_err(), "a running gateway refuses it");
    }

    #[test]
    fn a_missing_file_and_one_that_would_block_are_refused() {
        let folder = tempfile::tempdir().unwrap();

        assert_eq!(read(&folder.path().join("gone"), &Lists::default()).unwrap_err()[0].code, "unusable-list");
        assert_eq!(read(folder.path(), &Lists::default()).unwrap_err()[0].code, "unusable-list");
    }
}
