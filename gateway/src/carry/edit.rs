//! Changes to heads on their way: configured edits, and what a proxy has to say about itself.

use http::{HeaderName, HeaderValue};
use pingora_error::Result;
use pingora_http::{RequestHeader, ResponseHeader};

use crate::snapshot::ReadyEdits;

/// A head whose lines can be changed.
pub trait Head {
    /// Replaces every line of this name.
    ///
    /// # Errors
    ///
    /// Too many headers.
    fn set(&mut self, name: &HeaderName, value: &HeaderValue) -> Result<()>;
    /// Adds a line.
    ///
    /// # Errors
    ///
    /// Too many headers.
    fn add(&mut self, name: &HeaderName, value: &HeaderValue) -> Result<()>;
    /// Removes every line of this name.
    fn remove(&mut self, name: &HeaderName);
}

impl Head for RequestHeader {
    fn set(&mut self, name: &HeaderName, value: &HeaderValue) -> Result<()> {
        self.insert_header(name.clone(), value.clone())
    }
    fn add(&mut self, name: &HeaderName, value: &HeaderValue) -> Result<()> {
        self.append_header(name.clone(), value.clone()).map(drop)
    }
    fn remove(&mut self, name: &HeaderName) {
        self.remove_header(name);
    }
}

impl Head for ResponseHeader {
    fn set(&mut self, name: &HeaderName, value: &HeaderValue) -> Result<()> {
        self.insert_header(name.clone(), value.clone())
    }
    fn add(&mut self, name: &HeaderName, value: &HeaderValue) -> Result<()> {
        self.append_header(name.clone(), value.clone()).map(drop)
    }
    fn remove(&mut self, name: &HeaderName) {
        self.remove_header(name);
    }
}

/// Applies configured edits: removed, then set, then added.
///
/// # Errors
///
/// Too many headers.
pub fn apply(head: &mut impl Head, edits: &ReadyEdits) -> Result<()> {
    for name in &edits.remove {
        head.remove(name);
    }
    for (name, value) in &edits.set {
        head.set(name, value)?;
    }
    for (name, value) in &edits.add {
        head.add(name, value)?;
    }
    Ok(())
}
