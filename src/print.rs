//! What commands share when they talk to a person.

use std::io::IsTerminal;

use tidegate_model::diagnostic::{Colour, Diagnostic, render_all};

/// Whether text for `stream` is coloured: only for a terminal, and not where `NO_COLOR` is set (no-color.org).
pub fn colour(stream: &impl IsTerminal) -> Colour {
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    if stream.is_terminal() && !refused { Colour::On } else { Colour::Off }
}

/// Tells `diagnostics` on standard error.
pub fn tell(diagnostics: &[Diagnostic]) {
    if !diagnostics.is_empty() {
        eprint!("{}", render_all(diagnostics, colour(&std::io::stderr())));
    }
}

/// `1 route`, `2 routes`.
pub fn count(number: usize, word: &str) -> String {
    if number == 1 { format!("1 {word}") } else { format!("{number} {word}s") }
}
