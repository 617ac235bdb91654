//! `docs/strictness.md`: what everybody does with each case, and why this gateway does what it does.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use super::Outcomes;
use super::corpus::Case;
use super::proxies::{self, Proxy};

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

/// Compares the table on disk with `outcomes`, or writes it.
///
/// A proxy of another version than the table's may do otherwise: its column isn't compared then.
///
/// # Panics
///
/// When they differ.
pub fn compare_or_write(cases: &[Case], outcomes: &Outcomes) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/strictness.md");
    let before = std::fs::read_to_string(&path).unwrap_or_default();
    let versions: BTreeMap<&str, String> =
        proxies::available().iter().map(|proxy| (Proxy::name(proxy), proxy.version())).collect();
    if std::env::var_os("TIDEGATE_WRITE_DOCS").is_some() {
        assert_eq!(outcomes.len(), COLUMNS.len(), "the table is written with every proxy at hand");
        std::fs::write(&path, render(cases, outcomes, &versions)).unwrap();
        return;
    }
    let rows: Vec<Vec<&str>> = before
        .lines()
        .filter(|line| line.starts_with("| "))
        .map(|line| line.trim_matches('|').split(" | ").collect())
        .collect();
    let mut stale = Vec::new();
    let mut compared = 0;
    for (column, name) in COLUMNS.iter().enumerate() {
        let same_version = versions.get(name).is_none_or(|version| before.contains(&format!("{name} {version}")));
        let Some(all) = outcomes.get(name).filter(|_| same_version) else {
            eprintln!("SKIPPED: the table's column of {name} was made by another version, or it isn't installed");
            continue;
        };
        compared += 1;
        for case in cases {
            let written =
                rows.iter().find(|row| row[0].trim() == escape(&case.name)).and_then(|row| row.get(column + 1));
            let now = cell(name, &all[case.index], &outcomes["tidegate"][case.index]);
            if written.is_none_or(|written| written.trim() != now) {
                stale.push(format!("{} / {name}: {now}, the table says {written:?}", case.name));
            }
        }
    }
    println!("{compared} columns of docs/strictness.md compared");
    assert!(stale.is_empty(), "docs/strictness.md is stale (TIDEGATE_WRITE_DOCS=1 writes it):\n{}", stale.join("\n"));
}

fn render(cases: &[Case], outcomes: &Outcomes, versions: &BTreeMap<&str, String>) -> String {
    let mut text = INTRO.to_owned();
    let told: Vec<String> = versions.iter().map(|(name, version)| format!("{name} {version}")).collect();
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
                "\n## {family}\n\n| case | Tidegate | nginx | HAProxy | Envoy | why |\n|---|---|---|---|---|---|"
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
