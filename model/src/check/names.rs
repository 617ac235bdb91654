//! Tables of names: who is defined, and where.

use std::collections::HashMap;
use std::fmt;

use crate::config::{At, Table};
use crate::diagnostic::Diagnostic;
use crate::literal::Name;
use crate::problems::{Problems, Span, suggest};

/// The names of one table, over all files, in order.
///
/// An index that it gives is the place of the thing in the table that `check` builds.
pub(super) struct Names<'c, T> {
    kind: &'static str,
    entries: Vec<(&'c At<Name>, Option<&'c T>)>,
    index: HashMap<&'c str, usize>,
}

impl<'c, T> Names<'c, T> {
    /// Collects `tables`; a name that is defined twice is reported with both places.
    pub(super) fn collect(
        kind: &'static str,
        tables: impl Iterator<Item = &'c Table<Name, T>>,
        problems: &mut Problems<'_>,
    ) -> Self {
        let mut names = Self { kind, entries: Vec::new(), index: HashMap::new() };
        for (name, value) in tables.flat_map(|table| &table.entries) {
            let text = name.value.0.as_str();
            if let Some(first) = names.index.get(text) {
                let first = names.entries[*first].0.span;
                // Within one file the YAML reader has said so already.
                if first.file != name.span.file {
                    twice(kind, text, name.span, first, problems);
                }
                continue;
            }
            names.index.insert(text, names.entries.len());
            names.entries.push((name, value.as_ref()));
        }
        names
    }

    /// Every name and what it names; `None` where that was refused.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&'c At<Name>, Option<&'c T>)> {
        self.entries.iter().copied()
    }

    /// The place of `name` in the table, and what it names.
    pub(super) fn get(&self, name: &str) -> Option<(usize, Option<&'c T>)> {
        let at = *self.index.get(name)?;
        Some((at, self.entries[at].1))
    }

    /// Like [`Names::get`]; reports a name that isn't there. `who` begins the sentence: `route "shop" points at`.
    pub(super) fn find(
        &self,
        (name, span): (&str, Span),
        who: fmt::Arguments<'_>,
        problems: &mut Problems<'_>,
    ) -> Option<(usize, Option<&'c T>)> {
        let found = self.get(name);
        if found.is_none() {
            let code = match self.kind {
                "listener" => "unknown-listener",
                "limit" => "unknown-limit",
                _ => "unknown-service",
            };
            let mut diagnostic = Diagnostic::error(code, format!("{who} a {} that isn't defined", self.kind));
            if problems.wants_hints() {
                diagnostic.help = suggest(name, self.entries.iter().map(|(name, _)| name.value.0.as_str()));
            }
            problems.add(span, format!("no {} has this name", self.kind), diagnostic);
        }
        found
    }
}

/// Reports a name that is defined twice.
pub(super) fn twice(kind: &str, name: &str, again: Span, first: Span, problems: &mut Problems<'_>) {
    let diagnostic = Diagnostic::error("duplicate-name", format!("{kind} \"{name}\" is defined twice"))
        .help("rename or remove one of them");
    problems.add_with(again, "again here", (first, "first here"), diagnostic);
}
