//! Any text is either a valid configuration or a list of diagnostics that can be rendered.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_model::check::{SourceFile, check};
use tidegate_model::diagnostic::{Colour, render_all};

fuzz_target!(|text: &str| {
    let file = SourceFile { path: "edge.yaml".into(), text: text.to_owned() };
    if let Err(diagnostics) = check(&[file]) {
        assert!(!diagnostics.is_empty(), "a refusal says why");
        assert!(!render_all(&diagnostics, Colour::Off).is_empty());
    }
});
