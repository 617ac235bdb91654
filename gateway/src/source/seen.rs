//! What was found on disk at one moment, so that a change can be told from none.

use std::path::PathBuf;

use super::files;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seen {
    /// [`files::digest`], or empty if the files couldn't be read.
    pub sha256: String,
    /// The files that it names.
    pub references: Vec<PathBuf>,
    /// [`files::fingerprint`] of them.
    pub fingerprint: String,
}

impl Seen {
    /// A text of which it isn't known yet what it refers to.
    pub fn text(sha256: String) -> Self {
        Self { sha256, references: Vec::new(), fingerprint: files::fingerprint(&[]) }
    }

    /// Whether what it refers to is as it was.
    pub fn is_unchanged(&self) -> bool {
        files::fingerprint(&self.references) == self.fingerprint
    }
}
