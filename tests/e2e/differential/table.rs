//! `docs/strictness.md`: what everybody does with each case, and why this gateway does what it does.

use std::fmt::Write as _;
use std::path::Path;

use super::Outcomes;
use super::corpus::Case;
use super::proxies;

const INTRO: &str = "\
# Strictness: the same bytes to four proxies

Made by `tests/e2e/differential` (`TIDEGATE_WRITE_DOCS=1` writes it, each further run compares). Each case of its corpus was
sent to Tidegate, nginx, HAProxy and Envoy, with an endpoint behind each that wrote down what it got. *forwarded* tells
what reached the endpoint, with bodies in quotes; *refused* that nothing whole did.

nginx forwards what it got (`proxy_pass` without a path) and decides on its own normal form; HAProxy is as it comes; Envoy is
set up as its guide for edge proxies has it (`normalize_path`, `merge_slashes`, `UNESCAPE_AND_REDIRECT`, no underscores).
Where one of them does otherwise, the last column says why Tidegate does what it does.
";

const COLUMNS: [&str; 4] = ["tidegate", "nginx", "haproxy", "envoy"];

/// Whether the table is written, and not compared.
pub fn is_written() -> bool {
    std::env::var_os("TIDEGATE_WRITE_DOCS").is_some()
}

/// Compares the table on disk with `outcomes`, or writes it.
///
/// # Panics
///
/// When they differ.
pub fn compare_or_write(cases: &[Case], outcomes: &Outcomes) {
    if is_written() {
        assert_eq!(outcomes.len(), COLUMNS.len(), "the table is written with every proxy at hand");
        std::fs::write(path(), render(cases, outcomes)).unwrap();
        return;
    }
    let mut wrong = Vec::new();
    for name in COLUMNS {
        let told = |index: usize| format!("{} / {name}: {}", cases[index].name, outcomes[name][index]);
        wrong.extend(stale(name, cases, outcomes).into_iter().map(told));
    }
    assert!(wrong.is_empty(), "docs/strictness.md is stale (make differential writes it):\n{}", wrong.join("\n"));
}

/// The cases that don't end as the table says. None for a proxy that isn't at hand in the table's version: another
/// one may do otherwise.
pub fn stale(name: &str, cases: &[Case], outcomes: &Outcomes) -> Vec<usize> {
    let before = std::fs::read_to_string(path()).unwrap_or_default();
    let same_version =
        |(other, version): &(&str, String)| *other != name || before.contains(&format!("{name} {version}"));
    let Some(all) = outcomes.get(name).filter(|_| versions().iter().all(same_version)) else {
        eprintln!("SKIPPED: the table's column of {name} was made by another version, or it isn't installed");
        return Vec::new();
    };
    let column = COLUMNS.iter().position(|column| *column == name).expect("every proxy has a column") + 1;
    let rows: Vec<Vec<&str>> = before
        .lines()
        .filter(|line| line.starts_with("| "))
        .map(|line| line.trim_matches('|').split(" | ").collect())
        .collect();
    let is_stale = |case: &&Case| {
        let row = rows.iter().find(|row| row[0].trim() == escape(&case.name));
        let now = cell(name, &all[case.index], &outcomes["tidegate"][case.index]);
        row.and_then(|row| row.get(column)).is_none_or(|written| written.trim() != now)
    };
    cases.iter().filter(is_stale).map(|case| case.index).collect()
}

fn path() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/strictness.md")
}

fn versions() -> Vec<(&'static str, String)> {
    proxies::available().iter().map(|proxy| (proxy.name(), proxy.version())).collect()
}

fn render(cases: &[Case], outcomes: &Outcomes) -> String {
    let mut text = INTRO.to_owned();
    let told: Vec<String> = versions().iter().map(|(name, version)| format!("{name} {version}")).collect();
    let differ = |name: &str| cases.iter().filter(|c| outcomes[name][c.index] != outcomes["tidegate"][c.index]).count();
    let counts: Vec<String> = COLUMNS[1..].iter().map(|name| format!("{name} {}", differ(name))).collect();
    let _ =
        writeln!(text, "\nVersions: {}. {} cases; disagreements: {}.", told.join(", "), cases.len(), counts.join(", "));
    let mut family = "";
    for case in cases {
        if case.family != family {
            family = &case.family;
            let _ = writeln!(
                text,
                "\n## {family}\n\n{}\n\n| case | Tidegate | nginx | HAProxy | Envoy | why |\n|---|---|---|---|---|---|",
                case.shared
            );
        }
        let ours = &outcomes["tidegate"][case.index];
        let cells: Vec<String> = COLUMNS.iter().map(|name| cell(name, &outcomes[name][case.index], ours)).collect();
        let _ = writeln!(text, "| {} | {} | {} |", escape(&case.name), cells.join(" | "), escape(&case.why));
    }
    text
}

/// The same as ours is said with one sign, so that the others stand out.
fn cell(name: &str, outcome: &str, ours: &str) -> String {
    if name != "tidegate" && outcome == ours { "=".to_owned() } else { escape(outcome) }
}

fn escape(text: &str) -> String {
    text.replace('|', "\\|").replace('<', "&lt;")
}
