//! What operators read when a configuration is refused: every text is reviewed.
//!
//! A file of `bad_configs/` holds many cases. `=== name` begins one, `+++ file` begins a
//! further file of it. Cases are checked together with `base.yaml`, except those of
//! `whole.txt`, which stand alone.

use std::fmt::Write as _;
use std::path::Path;

use tidegate_model::check::{SourceFile, check};
use tidegate_model::diagnostic::{Colour, render_all};

/// The table holds at least this many cases: the issue asks for 60.
const CASES: usize = 80;

fn read(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bad_configs").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The cases of one file, as names and texts.
fn cases(text: &str) -> Vec<(&str, &str)> {
    let mut cases = Vec::new();
    for case in text.split("\n=== ").map(|case| case.strip_prefix("=== ").unwrap_or(case)) {
        cases.push(case.split_once('\n').expect("a case has a name and a text"));
    }
    cases
}

fn files_of(case: &str) -> Vec<SourceFile> {
    let mut files = Vec::new();
    for (at, part) in case.split("+++ ").enumerate() {
        let (name, text) = if at == 0 { ("bad.yaml", part) } else { part.split_once('\n').expect("a file has a name") };
        files.push(SourceFile { path: name.into(), text: text.into() });
    }
    files
}

fn report(file: &str) -> String {
    let text = read(file);
    let mut report = String::new();
    for (name, case) in cases(&text) {
        let mut files = files_of(case);
        if file != "whole.txt" {
            files.push(SourceFile { path: "base.yaml".into(), text: read("base.yaml") });
        }
        let problems = check(&files).expect_err(name);
        let _ = writeln!(report, "=== {name}\n{}", render_all(&problems, Colour::Off));
    }
    report
}

#[test]
fn the_base_of_all_cases_is_accepted() {
    let base = SourceFile { path: "base.yaml".into(), text: read("base.yaml") };

    let result = check(&[base]);

    assert!(result.is_ok_and(|checked| checked.warnings.is_empty()));
}

#[test]
fn the_table_is_as_long_as_promised_and_names_are_unique() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bad_configs");
    let mut names = Vec::new();

    for entry in std::fs::read_dir(folder).expect("the table is there") {
        let path = entry.expect("the table can be read").path();
        if path.extension().is_some_and(|extension| extension == "txt") {
            let text = std::fs::read_to_string(&path).expect("a file of cases can be read");
            names.extend(cases(&text).into_iter().map(|(name, _)| name.to_owned()));
        }
    }
    let count = names.len();
    names.sort_unstable();
    names.dedup();

    println!("{count} bad configurations");
    assert!(count >= CASES, "only {count} cases");
    assert_eq!(names.len(), count, "two cases share a name");
}

macro_rules! table {
    ($($name:ident => $file:literal),+ $(,)?) => {
        $(#[test]
        fn $name() {
            let text = report($file);

            insta::with_settings!({snapshot_path => "bad_configs", prepend_module_to_snapshot => false, omit_expression => true}, {
                insta::assert_snapshot!($file.trim_end_matches(".txt"), text);
            });
        })+
    };
}

table! {
    files_that_are_no_configuration_are_refused => "whole.txt",
    values_that_mean_nothing_are_refused => "values.txt",
    listeners_that_cannot_be_are_refused => "listeners.txt",
    certificates_that_cannot_be_ordered_are_refused => "acme.txt",
    services_that_cannot_be_are_refused => "services.txt",
    routes_that_cannot_be_are_refused => "routes.txt",
    splits_and_shadows_that_cannot_be_are_refused => "splits.txt",
}
