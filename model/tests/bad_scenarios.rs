//! What people read when a load scenario is refused: every text is reviewed.
//!
//! A file of `bad_scenarios/` holds many cases; `=== name` begins one. Cases get the top-level keys that they lack
//! behind their last line, except those of `whole.txt`, which stand alone.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use tidegate_model::check::SourceFile;
use tidegate_model::diagnostic::{Colour, Place, render_all};
use tidegate_model::scenario::plan::Rows;
use tidegate_model::scenario::{BadFile, Checked, Table, check};

/// The table holds at least this many cases.
const CASES: usize = 100;

const BASE: [(&str, &str); 4] = [
    ("version", "version: 1"),
    ("target", "target: http://shop.test"),
    ("load", "load: {rate: 10/s, for: 10s}"),
    ("flows", "flows: [{name: front, get: /}]"),
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bad_scenarios")
}

fn read(name: &str) -> String {
    let path = folder().join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The cases of one file, as names and texts.
fn cases(text: &str) -> Vec<(&str, &str)> {
    let split = text.split("\n=== ").map(|case| case.strip_prefix("=== ").unwrap_or(case));
    split.map(|case| case.split_once('\n').unwrap_or((case, ""))).collect()
}

/// `case` with the keys of [`BASE`] that it lacks.
fn completed(case: &str) -> String {
    let mut text = case.trim_end().to_owned();
    for (key, line) in BASE {
        if !case.lines().any(|line| line.starts_with(&format!("{key}:"))) {
            let _ = write!(text, "\n{line}");
        }
    }
    text
}

/// The feeders' files that cases name.
fn feeder(path: &Path) -> Result<Table, BadFile> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let bad = |what: &str| BadFile { what: what.into(), at: None, help: None };
    let table = |fields: &[&str], values: &[&[&str]]| {
        let mut rows = Rows::new(fields.len());
        for row in values {
            rows.push(*row);
        }
        Ok(Table { fields: fields.iter().map(|field| (*field).to_owned()).collect(), rows })
    };
    match name.as_str() {
        "users.csv" => table(&["name", "password"], &[&["ann", "a"], &["bob", "b"]]),
        "odd.csv" => table(&["lines", "path"], &[&["fine", "/fine"], &["two\nlines", "fine"]]),
        "ragged.csv" => {
            let place = Place { file: path.to_owned(), line: 3, column: 1, length: 3, excerpt: "bob".into() };
            Err(BadFile {
                at: Some((place, "this row has 1 value, and the first line names 2".into())),
                ..bad("it is ragged")
            })
        }
        "empty.csv" => Err(BadFile { help: Some("the first line names the fields".into()), ..bad("it is empty") }),
        _ => Err(bad("it can't be read: no such file")),
    }
}

fn check_text(text: String) -> Result<Checked, Vec<tidegate_model::diagnostic::Diagnostic>> {
    check(&SourceFile { path: "bad.yaml".into(), text }, &mut feeder)
}

fn report(file: &str) -> String {
    let text = read(file);
    let mut report = String::new();
    for (name, case) in cases(&text) {
        let case = if file == "whole.txt" { case.to_owned() } else { completed(case) };
        let problems = match check_text(case) {
            Ok(_) => panic!("{name} was accepted"),
            Err(problems) => problems,
        };
        let _ = writeln!(report, "=== {name}\n{}", render_all(&problems, Colour::Off));
    }
    report
}

#[test]
fn the_base_of_all_cases_is_accepted() {
    let checked = check_text(completed(""));

    assert!(checked.is_ok_and(|checked| checked.warnings.is_empty()));
}

#[test]
fn the_table_is_as_long_as_promised_and_names_are_unique() {
    let mut names = Vec::new();

    for entry in std::fs::read_dir(folder()).expect("the table is there") {
        let path = entry.expect("the table can be read").path();
        if path.extension().is_some_and(|extension| extension == "txt") {
            let text = std::fs::read_to_string(&path).expect("a file of cases can be read");
            names.extend(cases(&text).into_iter().map(|(name, _)| name.to_owned()));
        }
    }
    let count = names.len();
    names.sort_unstable();
    names.dedup();

    assert!(count >= CASES, "only {count} cases");
    assert_eq!(names.len(), count, "two cases share a name");
}

macro_rules! table {
    ($($name:ident => $file:literal),+ $(,)?) => {
        $(#[test]
        fn $name() {
            let text = report($file);

            insta::with_settings!({snapshot_path => "bad_scenarios", prepend_module_to_snapshot => false, omit_expression => true}, {
                insta::assert_snapshot!($file.trim_end_matches(".txt"), text);
            });
        })+
    };
}

table! {
    files_that_are_no_scenario_are_refused => "whole.txt",
    loads_that_cannot_be_are_refused => "load.txt",
    flows_that_cannot_be_are_refused => "flows.txt",
    templates_that_cannot_be_filled_are_refused => "templates.txt",
    rules_that_cannot_hold_are_refused => "rules.txt",
}
