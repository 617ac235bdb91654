//! Problems with a configuration, told so that a tired person can mend them.
//!
//! ```text
//! error[unknown-service]: route "checkout" points at a service that isn't defined
//!   --> configs/edge.yaml:14:11
//!    |
//! 14 |     to: chekout/v1
//!    |         ^^^^^^^ no service has this name
//!    = help: did you mean "checkout"?
//! ```
//!
//! # Invariants
//!
//! - A diagnostic carries the line it talks about, so rendering needs no files.
//! - Rendered text holds no control characters from the configuration: a file
//!   can't write escape sequences to a terminal.

use std::fmt::Write as _;
use std::path::PathBuf;

use serde::Serialize;
use unicode_width::UnicodeWidthChar;

/// One problem.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// Whether it refuses the configuration.
    pub severity: Severity,
    /// A stable kebab-case code: `unknown-service`.
    pub code: &'static str,
    /// What is wrong, in one lower-case sentence without a full stop.
    pub message: String,
    /// Where; `None` when it concerns the configuration as a whole.
    pub at: Option<Place>,
    /// What stands at the place, said under the caret. May be empty.
    pub label: String,
    /// Another place that matters, and what it has to do with this: the first of two definitions.
    pub related: Option<(Place, String)>,
    /// What to try.
    pub help: Option<String>,
    /// What remains true, or why it is so.
    pub note: Option<String>,
}

/// Whether a problem refuses the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The configuration is refused.
    Error,
    /// It is accepted, but probably isn't what was meant.
    Warning,
}

/// A place in a file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Place {
    /// The file.
    pub file: PathBuf,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// Length in characters, at least 1.
    pub length: usize,
    /// The line's text, at most [`EXCERPT_MAX`] characters of it.
    pub excerpt: String,
}

/// Characters of a source line that a diagnostic keeps. What lies beyond isn't shown.
pub const EXCERPT_MAX: usize = 400;

/// Whether text is coloured for a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colour {
    /// Plain text.
    Off,
    /// ANSI colours.
    On,
}

impl Diagnostic {
    /// A problem that refuses the configuration.
    pub fn error(code: &'static str, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            code,
            message: message.into(),
            at: None,
            label: String::new(),
            related: None,
            help: None,
            note: None,
        }
    }

    /// Something that is accepted, but probably isn't what was meant.
    pub fn warning(code: &'static str, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(code, message) }
    }

    /// Points at `place`, and says `label` under the caret.
    pub fn at(self, place: Place, label: impl Into<String>) -> Self {
        Self { at: Some(place), label: label.into(), ..self }
    }

    /// Like [`Diagnostic::at`], where the place may be unknown.
    pub fn maybe_at(self, place: Option<Place>, label: impl Into<String>) -> Self {
        Self { at: place, label: label.into(), ..self }
    }

    /// Also points at another place.
    pub fn related(self, place: Place, label: impl Into<String>) -> Self {
        Self { related: Some((place, label.into())), ..self }
    }

    /// Says what to try.
    pub fn help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }

    /// Says what remains true.
    pub fn note(self, note: impl Into<String>) -> Self {
        Self { note: Some(note.into()), ..self }
    }

    /// The text that people read; ends with a line break.
    pub fn render(&self, colour: Colour) -> String {
        let paint = Paint(colour);
        let mut out = String::new();
        let (word, style) = match self.severity {
            Severity::Error => ("error", RED),
            Severity::Warning => ("warning", YELLOW),
        };
        let head = paint.with(style, &format!("{word}[{}]", self.code));
        let _ = writeln!(out, "{head}: {}", paint.with(BOLD, &clean(&self.message)));

        let lines = self.at.iter().chain(self.related.iter().map(|(place, _)| place)).map(|place| place.line);
        let gutter = lines.max().map_or(1, |line| line.to_string().len());
        if let Some(place) = &self.at {
            snippet(&mut out, paint, gutter, "-->", place, ('^', style), &self.label);
        }
        if let Some((place, label)) = &self.related {
            snippet(&mut out, paint, gutter, ":::", place, ('-', BLUE), label);
        }
        for (word, text) in [("help", &self.help), ("note", &self.note)] {
            if let Some(text) = text {
                let _ = writeln!(out, "{:gutter$} {} {word}: {}", "", paint.with(BLUE, "="), clean(text));
            }
        }
        out
    }
}

/// All of `diagnostics` as text, one blank line between them, with a count at the end.
pub fn render_all(diagnostics: &[Diagnostic], colour: Colour) -> String {
    let mut out = String::new();
    for diagnostic in diagnostics {
        out.push_str(&diagnostic.render(colour));
        out.push('\n');
    }
    let count = |severity| diagnostics.iter().filter(|diagnostic| diagnostic.severity == severity).count();
    let mut parts = Vec::new();
    for (count, word) in [(count(Severity::Error), "error"), (count(Severity::Warning), "warning")] {
        match count {
            0 => {}
            1 => parts.push(format!("1 {word}")),
            _ => parts.push(format!("{count} {word}s")),
        }
    }
    if !parts.is_empty() {
        out.push_str(&parts.join(", "));
        out.push('\n');
    }
    out
}

const RED: &str = "1;31";
const YELLOW: &str = "1;33";
const BLUE: &str = "1;34";
const BOLD: &str = "1";

/// Columns of a tab stop in rendered lines.
const TAB: &str = "    ";

#[derive(Clone, Copy)]
struct Paint(Colour);

impl Paint {
    fn with(self, style: &str, text: &str) -> String {
        match self.0 {
            Colour::Off => text.to_owned(),
            Colour::On => format!("\x1b[{style}m{text}\x1b[0m"),
        }
    }
}

/// Writes one place: its file, its line, and the mark below it.
fn snippet(
    out: &mut String,
    paint: Paint,
    gutter: usize,
    arrow: &str,
    place: &Place,
    (mark, style): (char, &str),
    label: &str,
) {
    let bar = paint.with(BLUE, "|");
    let file = clean(&place.file.display().to_string());
    let _ = writeln!(out, "{:gutter$}{} {file}:{}:{}", "", paint.with(BLUE, arrow), place.line, place.column);
    if place.excerpt.is_empty() && label.is_empty() {
        return;
    }
    let _ = writeln!(out, "{:gutter$} {bar}", "");
    let number = paint.with(BLUE, &format!("{:>gutter$}", place.line));
    let line = expand(&place.excerpt);
    let _ = writeln!(out, "{}", format!("{number} {bar} {line}").trim_end());

    let before: String = place.excerpt.chars().take(place.column.saturating_sub(1)).collect();
    let marked: String = place.excerpt.chars().skip(place.column.saturating_sub(1)).take(place.length).collect();
    let indent = " ".repeat(width(&before));
    let carets = mark.to_string().repeat(width(&marked).max(1));
    let text = paint.with(style, format!("{carets} {}", clean(label)).trim_end());
    let _ = writeln!(out, "{:gutter$} {bar} {indent}{text}", "");
}

/// `line` as it is shown: tabs widened, control characters made visible.
fn expand(line: &str) -> String {
    let mut shown = String::with_capacity(line.len());
    for char in line.chars() {
        match char {
            '\t' => shown.push_str(TAB),
            _ if is_hostile(char) => shown.push('\u{fffd}'),
            _ => shown.push(char),
        }
    }
    shown
}

/// Columns that `text` takes on a terminal.
fn width(text: &str) -> usize {
    expand(text).chars().map(|char| char.width().unwrap_or(1)).sum()
}

/// `text` on one line, without what a terminal would obey.
fn clean(text: &str) -> String {
    text.chars()
        .map(|char| match char {
            '\n' | '\t' => ' ',
            _ if is_hostile(char) => '\u{fffd}',
            _ => char,
        })
        .collect()
}

/// Control characters, and those that reorder text (Trojan Source).
fn is_hostile(char: char) -> bool {
    char.is_control() || matches!(char, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(excerpt: &str, column: usize, length: usize) -> Place {
        Place { file: "configs/edge.yaml".into(), line: 14, column, length, excerpt: excerpt.into() }
    }

    #[test]
    fn renders_the_form_that_the_style_guide_shows() {
        let diagnostic =
            Diagnostic::error("unknown-service", "route \"checkout\" points at a service that isn't defined")
                .at(place("    to: chekout/v1", 9, 7), "no service has this name")
                .help("did you mean \"checkout\"?")
                .note("generation 41 stays in force");

        let text = diagnostic.render(Colour::Off);

        insta::assert_snapshot!(text, @r#"
        error[unknown-service]: route "checkout" points at a service that isn't defined
          --> configs/edge.yaml:14:9
           |
        14 |     to: chekout/v1
           |         ^^^^^^^ no service has this name
           = help: did you mean "checkout"?
           = note: generation 41 stays in force
        "#);
    }

    #[test]
    fn carets_stand_below_wide_characters_and_behind_tabs() {
        let diagnostic = Diagnostic::warning("x", "m").at(place("\t商店: 日本", 6, 2), "here");

        let text = diagnostic.render(Colour::Off);

        insta::assert_snapshot!(text, @r"
        warning[x]: m
          --> configs/edge.yaml:14:6
           |
        14 |     商店: 日本
           |           ^^^^ here
        ");
    }

    #[test]
    fn both_places_of_a_double_definition_are_shown() {
        let first = Place { line: 3, ..place("  shop:", 3, 4) };
        let diagnostic = Diagnostic::error("duplicate-service", "service \"shop\" is defined twice")
            .at(place("  shop:", 3, 4), "again here")
            .related(first, "first here");

        let text = diagnostic.render(Colour::Off);

        insta::assert_snapshot!(text, @r#"
        error[duplicate-service]: service "shop" is defined twice
          --> configs/edge.yaml:14:3
           |
        14 |   shop:
           |   ^^^^ again here
          ::: configs/edge.yaml:3:3
           |
         3 |   shop:
           |   ---- first here
        "#);
    }

    #[test]
    fn a_file_cannot_write_escape_sequences_to_the_terminal() {
        let diagnostic = Diagnostic::error("x", "bad \x1b[2J").at(place("a: \x1b[31m\u{202e}", 4, 1), "\x07");

        let text = diagnostic.render(Colour::Off);

        assert!(!text.chars().any(|char| char != '\n' && is_hostile(char)), "{text:?}");
    }

    #[test]
    fn a_count_follows_the_last_diagnostic() {
        let all = [Diagnostic::error("a", "one"), Diagnostic::error("b", "two"), Diagnostic::warning("c", "three")];

        let text = render_all(&all, Colour::Off);

        assert!(text.ends_with("\n2 errors, 1 warning\n"), "{text}");
    }
}
