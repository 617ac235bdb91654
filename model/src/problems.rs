//! Collects diagnostics while a configuration is read.
//!
//! # Invariants
//!
//! - At most [`MAX_PROBLEMS`] are kept; the rest are counted, so that a hostile
//!   or generated file can't make a report that nobody reads.

use std::cell::OnceCell;

use crate::check::SourceFile;
use crate::diagnostic::{Diagnostic, EXCERPT_MAX, Place, Severity};

/// Problems kept in one run. Beyond it they are counted, and the count is said at the end.
pub const MAX_PROBLEMS: usize = 100;

/// Where something stands: small enough to go with every node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    /// Index of the file.
    pub file: u32,
    /// Line, from 1; 0 for what nobody wrote.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
    /// Length in characters, at least 1.
    pub length: u32,
}

impl Span {
    /// The `length` characters that start `offset` characters into this.
    pub fn part(self, offset: usize, length: usize) -> Self {
        Self { column: self.column + offset as u32, length: length.max(1) as u32, ..self }
    }
}

/// Collects problems, and turns spans into places.
pub struct Problems<'f> {
    files: &'f [SourceFile],
    /// Byte offsets where lines start, for each file that had a problem.
    lines: Vec<OnceCell<Vec<usize>>>,
    found: Vec<(Span, Diagnostic)>,
    errors: usize,
    dropped: usize,
}

impl<'f> Problems<'f> {
    /// Nothing found yet in `files`.
    pub fn new(files: &'f [SourceFile]) -> Self {
        let lines = files.iter().map(|_| OnceCell::new()).collect();
        Self { files, lines, found: Vec::new(), errors: 0, dropped: 0 }
    }

    /// Adds `diagnostic`, which says `label` at `span`.
    pub fn add(&mut self, span: Span, label: impl Into<String>, diagnostic: Diagnostic) {
        let is_error = diagnostic.severity == Severity::Error;
        self.errors += usize::from(is_error);
        if self.found.len() >= MAX_PROBLEMS {
            self.dropped += usize::from(is_error);
            return;
        }
        let diagnostic = diagnostic.maybe_at(self.place(span), label);
        self.found.push((span, diagnostic));
    }

    /// Adds `diagnostic`, which also points at `other`.
    pub fn add_with(
        &mut self,
        span: Span,
        label: impl Into<String>,
        (other, other_label): (Span, &str),
        diagnostic: Diagnostic,
    ) {
        let diagnostic = match self.place(other) {
            Some(place) => diagnostic.related(place, other_label),
            None => diagnostic,
        };
        self.add(span, label, diagnostic);
    }

    /// Whether another problem would still be kept: guessing what was meant is only worth it then.
    pub fn wants_hints(&self) -> bool {
        self.found.len() < MAX_PROBLEMS
    }

    /// Errors found so far.
    pub fn errors(&self) -> usize {
        self.errors
    }

    /// Everything found, in file order.
    pub fn finish(mut self) -> Vec<Diagnostic> {
        self.found.sort_by_key(|(span, diagnostic)| (span.file, span.line, span.column, diagnostic.severity));
        let mut all: Vec<Diagnostic> = self.found.into_iter().map(|(_, diagnostic)| diagnostic).collect();
        if self.dropped > 0 {
            let message = format!("{} more problems aren't shown", self.dropped);
            all.push(Diagnostic::error("too-many-problems", message).help("mend these first"));
        }
        all
    }

    /// The place that `span` means; `None` for what nobody wrote.
    pub fn place(&self, span: Span) -> Option<Place> {
        let file = self.files.get(span.file as usize)?;
        if span.line == 0 {
            return None;
        }
        let starts = self.lines[span.file as usize]
            .get_or_init(|| std::iter::once(0).chain(file.text.match_indices('\n').map(|(at, _)| at + 1)).collect());
        let text =
            starts.get(span.line as usize - 1).map_or("", |start| file.text[*start..].lines().next().unwrap_or(""));
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let column = span.column.max(1) as usize;
        let excerpt: String = text.chars().take(EXCERPT_MAX).collect();
        let rest = excerpt.chars().count().saturating_sub(column - 1);
        Some(Place {
            file: file.path.clone(),
            line: span.line as usize,
            column,
            length: (span.length as usize).clamp(1, rest.max(1)),
            excerpt,
        })
    }

    /// The files that are read.
    pub fn files(&self) -> &'f [SourceFile] {
        self.files
    }
}

/// The candidate that `written` was probably meant to be; `None` when none is near, or several equally.
pub fn did_you_mean<'c>(written: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    let lower = written.to_lowercase();
    let allowed = (lower.chars().count() / 3).clamp(1, 3);
    let mut best: Option<(usize, &'c str)> = None;
    let mut tied = false;
    for candidate in candidates {
        let distance = strsim::damerau_levenshtein(&lower, &candidate.to_lowercase());
        if distance > allowed || best.is_some_and(|(least, _)| distance > least) {
            continue;
        }
        tied = best.is_some_and(|(least, _)| distance == least);
        best = Some((distance, candidate));
    }
    best.filter(|_| !tied).map(|(_, candidate)| candidate)
}

/// What to try when `written` is none of `candidates`: the one that was probably meant, or all when they are few.
pub fn suggest<'c>(written: &str, candidates: impl IntoIterator<Item = &'c str> + Clone) -> Option<String> {
    /// More candidates than this aren't listed: the line would be too long to read.
    const LISTED: usize = 12;
    if let Some(meant) = did_you_mean(written, candidates.clone()) {
        return Some(format!("did you mean \"{meant}\"?"));
    }
    let few: Vec<&str> = candidates.into_iter().take(LISTED + 1).collect();
    match few.len() {
        0 => None,
        1 => Some(format!("there is only \"{}\"", few[0])),
        2..=LISTED => Some(format!("there are: {}", few.join(", "))),
        _ => None,
    }
}
