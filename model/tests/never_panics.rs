//! Whatever the text, `check` answers, and what it says can be rendered.

use proptest::prelude::*;
use tidegate_model::check::{SourceFile, check};
use tidegate_model::diagnostic::{Colour, Diagnostic, render_all};

const EDGE: &str = include_str!("../../configs/edge.yaml");

/// Bits that mean something to YAML or to us, so that mutations reach deep.
const BITS: &[&str] = &[
    "\n",
    " ",
    "  ",
    "\t",
    ": ",
    "- ",
    "[",
    "]",
    "{",
    "}",
    "\"",
    "'",
    "#",
    "&a ",
    "*a",
    "<<: ",
    "!t ",
    "|",
    ">",
    "~",
    "null",
    "off",
    "0",
    "-1",
    "99999999999999999999",
    "1.5",
    "%",
    "/",
    "/**",
    "~ (",
    "*",
    "é",
    "\u{202e}",
    "\u{0}",
    "\r\n",
    "---\n",
    "shop",
    "v1",
    "10%",
    "2s",
    "1MiB",
    "header:",
    "unix:",
    "host: ",
    "to: ",
    "🙂",
];

fn report(text: String) -> Vec<Diagnostic> {
    let problems = match check(&[SourceFile { path: "fuzz.yaml".into(), text }]) {
        Ok(checked) => checked.warnings,
        Err(problems) => {
            assert!(!problems.is_empty(), "a refusal says why");
            problems
        }
    };
    for place in problems.iter().filter_map(|problem| problem.at.as_ref()) {
        assert!(place.line >= 1 && place.column >= 1 && place.length >= 1, "{place:?}");
    }
    let text = render_all(&problems, Colour::Off);
    assert!(!text.chars().any(|char| char.is_control() && char != '\n'), "{text:?}");
    problems
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_answered(text in any::<String>()) {
        report(text);
    }

    #[test]
    fn any_string_of_meaningful_bits_is_answered(bits in prop::collection::vec(prop::sample::select(BITS), 0..60)) {
        report(bits.concat());
    }

    #[test]
    fn a_mutated_example_is_answered(
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0usize..12, prop::sample::select(BITS)), 1..8)
    ) {
        let mut chars: Vec<char> = EDGE.chars().collect();
        for (at, removed, bit) in edits {
            let at = at.index(chars.len().max(1)).min(chars.len());
            let end = (at + removed).min(chars.len());
            chars.splice(at..end, bit.chars());
        }

        report(chars.into_iter().collect());
    }

    #[test]
    fn a_line_left_out_or_moved_is_answered(from in 0usize..60, to in 0usize..60) {
        let mut lines: Vec<&str> = EDGE.lines().collect();
        let line = lines.remove(from.min(lines.len() - 1));

        report(lines.join("\n"));
        lines.insert(to.min(lines.len()), line);
        report(lines.join("\n"));
    }
}
