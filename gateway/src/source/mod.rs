//! Where configurations come from: files that are watched, checked, applied and remembered.
//!
//! ```text
//! files or SIGHUP or `tidegate reload` → read → check → apply → history
//! ```
//!
//! # Invariants
//!
//! - Generation numbers only grow, also across restarts, and each names one text and one state of certificates.
//! - A refused configuration changes nothing: what was in force stays in force, and one error says so.
//! - The gateway serves even where its history can't be written; it says so loudly.
//!
//! # Not here
//!
//! What a configuration means is `tidegate_model::check`; putting it into force is `run`.

mod feed;
pub mod files;
pub mod history;
mod seen;
pub mod state;
pub mod watch;

use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use tidegate_model::check::{Checked, Places};
use tidegate_model::desired::{Desired, Generation};
use tidegate_model::diagnostic::{Colour, Diagnostic, render_all};
use tokio::sync::oneshot;

pub use feed::{First, Source};
pub use history::Reason;

/// Puts a configuration into force, or says why it can't be. Called on the source's own thread, outside any
/// runtime, so it may block. What it returned `Ok` for is in force.
pub trait Apply: FnMut(Arc<Desired>, &Places) -> Result<(), Vec<Diagnostic>> {}

impl<T: FnMut(Arc<Desired>, &Places) -> Result<(), Vec<Diagnostic>>> Apply for T {}

/// Asks for the configuration to be read again.
#[derive(Debug)]
pub struct ReloadRequest {
    /// Who asks.
    pub reason: Reason,
    /// Receives what came of it. Nobody need wait for it.
    pub reply: oneshot::Sender<Outcome>,
}

/// Asks the source to keep away from its files and its history, because another gateway may be about to take over.
#[derive(Debug)]
pub struct Hold {
    /// Told when the history is free.
    pub held: oneshot::Sender<()>,
    /// Fulfilled when the other one has taken over: the source ends. Closed when it hasn't: the source goes on.
    pub ended: oneshot::Receiver<()>,
}

/// What came of reading the configuration again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// In one word.
    pub result: Verdict,
    /// The generation in force now.
    pub generation: Generation,
    /// Rendered errors or warnings; may be empty.
    pub diagnostics: String,
}

/// What came of reading the configuration again, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It is in force.
    Published,
    /// It says what is in force already.
    Unchanged,
    /// It was refused; the last good one stays.
    Refused,
}

/// What the source knows, for `/readyz`. Cheap to clone; all clones see the same.
#[derive(Clone, Debug, Default)]
pub struct Status(Arc<Mutex<Seen>>);

#[derive(Debug, Default)]
struct Seen {
    generation: Generation,
    refused: Option<usize>,
    unkept: bool,
}

impl Status {
    /// The generation in force.
    pub fn generation(&self) -> Generation {
        self.with(|seen| seen.generation)
    }

    /// What an operator should know: `serving generation 41; the configuration on disk is refused (2 errors)`.
    pub fn note(&self) -> Option<String> {
        self.with(|seen| {
            let refused = seen.refused.map(|errors| {
                let plural = if errors == 1 { "" } else { "s" };
                format!("the configuration on disk is refused ({errors} error{plural})")
            });
            let unkept = seen.unkept.then(|| "it is not kept in the history".to_owned());
            let notes: Vec<String> = refused.into_iter().chain(unkept).collect();
            (!notes.is_empty()).then(|| format!("serving generation {}; {}", seen.generation, notes.join("; ")))
        })
    }

    fn with<T>(&self, act: impl FnOnce(&mut Seen) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Reads and checks `path`, as every command and every reload does.
///
/// # Errors
///
/// Every problem found.
pub fn load(path: &std::path::Path) -> Result<Checked, Vec<Diagnostic>> {
    tidegate_model::check::check(&files::read(path)?)
}

fn rendered(diagnostics: &[Diagnostic]) -> String {
    if diagnostics.is_empty() { String::new() } else { render_all(diagnostics, Colour::Off) }
}
