//! Every example in `configs/` is accepted, without warnings.

use std::path::Path;

use tidegate_model::check::{SourceFile, check};
use tidegate_model::diagnostic::{Colour, render_all};

#[test]
fn every_example_is_accepted_without_warnings() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs");
    let mut seen = 0;

    for entry in std::fs::read_dir(&folder).expect("configs/ is there") {
        let path = entry.expect("configs/ can be read").path();
        if path.is_dir() {
            continue; // Scenarios of the load generator: `loadgen/tests/scenarios.rs`.
        }
        let text = std::fs::read_to_string(&path).expect("an example can be read");
        let result = check(&[SourceFile { path: path.clone(), text }]);
        let problems = match result {
            Ok(checked) => checked.warnings,
            Err(problems) => problems,
        };
        assert!(problems.is_empty(), "{}:\n{}", path.display(), render_all(&problems, Colour::Off));
        seen += 1;
    }

    assert!(seen >= 8, "only {seen} examples in {}", folder.display());
}
