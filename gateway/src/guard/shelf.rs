//! Copies of the lists in force, so that a gateway which starts while a list's file is broken has the last good one.
//!
//! # Invariants
//!
//! - A copy is one whole state of a file that was read without an error; it is synced before it takes its name.
//! - Only lists that the configuration in force names have one.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use prometheus::{IntGauge, Registry};
use sha2::{Digest as _, Sha256};
use tracing::warn;

use super::lists::{Lists, Stamp, stamp};

/// Where copies are kept, if anywhere.
#[derive(Debug)]
pub struct Shelf {
    folder: Option<PathBuf>,
    stale: IntGauge,
}

impl Shelf {
    /// Keeps copies in `state`, and counts on `registry`.
    ///
    /// # Errors
    ///
    /// When `registry` has the metric's name already.
    pub fn new(state: Option<&Path>, registry: &Registry) -> Result<Self, prometheus::Error> {
        let help =
            "Lists of networks in force that are an earlier state of their file, because that can't be used now.";
        let stale = IntGauge::new("tidegate_lists_stale", help)?;
        registry.register(Box::new(stale.clone()))?;
        Ok(Self { folder: state.map(|state| state.join("lists")), stale })
    }

    /// Where the copy of `file` is.
    pub fn copy_of(&self, file: &Path) -> Option<PathBuf> {
        self.folder.as_ref().map(|folder| folder.join(name(file)))
    }

    /// Keeps the lists that are in force now, and no others.
    pub fn keep(&self, lists: &Lists) {
        self.stale.set(i64::try_from(lists.stale()).unwrap_or(i64::MAX));
        let Some(folder) = &self.folder else { return };
        for (file, of) in lists.fresh() {
            if let Err(error) = keep(folder, file, of) {
                warn!(file = %file.display(), %error, "no copy of a list could be kept for the next start");
            }
        }
        let named: HashSet<_> = lists.files().map(name).collect();
        for copy in fs::read_dir(folder).into_iter().flatten().flatten() {
            if !copy.file_name().to_str().is_some_and(|copy| named.contains(copy)) {
                let _ = fs::remove_file(copy.path());
            }
        }
    }
}

/// Copies `file`, which was read in the state `of`, unless that is done already.
fn keep(folder: &Path, file: &Path, of: Stamp) -> io::Result<()> {
    let copy = folder.join(name(file));
    let before = fs::metadata(file)?;
    // A copy has its original's size and time.
    let is_kept = |copy: fs::Metadata| copy.len() == before.len() && copy.modified().ok() == before.modified().ok();
    if stamp(&before) != of || fs::metadata(&copy).is_ok_and(is_kept) {
        return Ok(()); // What has changed since it was read is read again soon.
    }
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let fresh = copy.with_extension("fresh");
    let (mut from, mut to) = (File::open(file)?, File::create(&fresh)?);
    io::copy(&mut from, &mut to)?;
    to.set_modified(before.modified()?)?;
    to.sync_all()?;
    if stamp(&fs::metadata(file)?) != of || to.metadata()?.size() != before.size() {
        return fs::remove_file(fresh); // It was written meanwhile.
    }
    fs::rename(fresh, copy)
}

/// What the copy of `file` is called.
fn name(file: &Path) -> String {
    let hash = Sha256::digest(file.as_os_str().as_encoded_bytes());
    let mut name = String::new();
    for byte in &hash[..16] {
        let _ = write!(name, "{byte:02x}"); // Writing to a String can't fail.
    }
    name + ".list"
}
