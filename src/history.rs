//! `tidegate history`: lists the generations on disk.

use std::io::{self, Write as _};
use std::process::ExitCode;

use jiff::Timestamp;
use serde_json::json;
use similar::{ChangeTag, TextDiff};
use tidegate_gateway::source::history::Record;
use tidegate_model::changes::changes;
use tidegate_model::check::check;
use tidegate_model::desired::Desired;

use crate::archive::{self, Place};

/// List the generations that were accepted
#[derive(clap::Args)]
#[command(after_help = format!("{}\n
Examples:
  tidegate history
  tidegate history --config edge.yaml -n 100
  tidegate history --config edge.yaml --json | jq '.[0].generation'", archive::WHERE))]
pub struct Args {
    #[command(flatten)]
    place: Place,
    /// How many, newest first
    #[arg(long, short = 'n', value_name = "N", default_value_t = 20)]
    number: usize,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What `tidegate history` tells of one generation.
struct Row {
    record: Record,
    /// Lines that came and went since the one before; `None` for the oldest.
    lines: Option<(usize, usize)>,
    /// What it does differently.
    changes: Vec<String>,
    /// An earlier one with the same text.
    same_as: Option<u64>,
}

/// Runs the command.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let archive = args.place.archive()?;
    // One more, to tell what the last one shown changed.
    let records: Vec<Record> = archive.newest_first()?.take(args.number.saturating_add(1)).collect();
    let mut rows = rows(records);
    rows.truncate(args.number);

    let mut out = io::stdout().lock();
    if args.json {
        let list: Vec<_> = rows.iter().map(as_json).collect();
        writeln!(out, "{:#}", json!(list))?;
        return Ok(ExitCode::SUCCESS);
    }
    let now = Timestamp::now();
    writeln!(out, "{:>10}  {:19}  {:>4}  {:12}  {:>11}  CHANGED", "GENERATION", "SINCE", "AGE", "REASON", "LINES")?;
    for row in &rows {
        let Record { generation, at, reason, .. } = &row.record;
        let lines = row.lines.map_or(String::new(), |(more, less)| format!("+{more} -{less}"));
        let (since, age) = (archive::local(*at), archive::age(*at, now));
        let told = told(row);
        let line = format!("{generation:>10}  {since}  {age:>4}  {:12}  {lines:>11}  {told}", reason.word());
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(ExitCode::SUCCESS)
}

fn rows(records: Vec<Record>) -> Vec<Row> {
    // Each is checked once, although it is compared twice.
    let meant: Vec<Option<Desired>> =
        records.iter().map(|record| check(&record.sources()).ok().map(|checked| checked.desired)).collect();
    let mut rows = Vec::with_capacity(records.len());
    for (nth, record) in records.iter().enumerate() {
        let before = records.get(nth + 1);
        let changes = match (&meant[nth], meant.get(nth + 1)) {
            (Some(new), Some(Some(old))) => changes(old, new),
            _ => Vec::new(),
        };
        let twin = records[nth + 1..].iter().find(|earlier| earlier.sha256 == record.sha256);
        rows.push(Row {
            lines: before.map(|before| changed_lines(before, record)),
            changes,
            same_as: twin.map(|twin| twin.generation.0),
            record: record.clone(),
        });
    }
    rows
}

/// The first change, and how many more there are.
fn told(row: &Row) -> String {
    let mut parts = Vec::new();
    if let Some(same) = row.same_as {
        parts.push(format!("same text as {same}"));
    }
    match row.changes.as_slice() {
        [] => {}
        [only] => parts.push(only.clone()),
        [first, rest @ ..] => parts.push(format!("{first} (and {} more)", rest.len())),
    }
    parts.join("; ")
}

fn changed_lines(old: &Record, new: &Record) -> (usize, usize) {
    let (mut more, mut less) = (0, 0);
    for (_, old, new) in by_name(old, new) {
        for change in TextDiff::from_lines(old, new).iter_all_changes() {
            match change.tag() {
                ChangeTag::Insert => more += 1,
                ChangeTag::Delete => less += 1,
                ChangeTag::Equal => {}
            }
        }
    }
    (more, less)
}

/// Each file's name with its text in both; a file that isn't there is empty.
pub fn by_name<'a>(old: &'a Record, new: &'a Record) -> Vec<(String, &'a str, &'a str)> {
    let named = |record: &'a Record| {
        record.files.iter().map(|file| (record.name_of(file).display().to_string(), file.text.as_str()))
    };
    let mut files: std::collections::BTreeMap<String, (&str, &str)> =
        named(old).map(|(name, text)| (name, (text, ""))).collect();
    for (name, text) in named(new) {
        files.entry(name).or_default().1 = text;
    }
    files.into_iter().map(|(name, (old, new))| (name, old, new)).collect()
}

fn as_json(row: &Row) -> serde_json::Value {
    let record = &row.record;
    json!({
        "generation": record.generation,
        "at": record.at,
        "reason": record.reason,
        "source": record.source,
        "sha256": record.sha256,
        "files": record.files.iter().map(|file| record.name_of(file)).collect::<Vec<_>>(),
        "lines_added": row.lines.map(|(more, _)| more),
        "lines_removed": row.lines.map(|(_, less)| less),
        "changes": row.changes,
        "same_text_as": row.same_as,
    })
}
