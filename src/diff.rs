//! `tidegate diff`: what changed between two generations.

use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::Context as _;
use similar::{ChangeTag, TextDiff};
use tidegate_gateway::source::files;
use tidegate_gateway::source::history::{Archive, Kept, Record};
use tidegate_model::changes::changes;
use tidegate_model::check::check;
use tidegate_model::diagnostic::Colour;

use crate::archive::{self, Place};
use crate::{history, print};

/// Unchanged lines shown around a change.
const CONTEXT: usize = 3;

/// Show what changed between two generations
///
/// First what the gateway does differently, then the text as a unified diff.
#[derive(clap::Args)]
#[command(after_help = format!("{}\n
Examples:
  tidegate diff                          # the newest two
  tidegate diff 40                       # generation 40 and the newest
  tidegate diff 40 42
  tidegate diff yesterday disk           # what was in force, and what is in the file now", archive::WHERE))]
pub struct Args {
    /// A generation: its number, or a moment [default: the one before B]
    #[arg(value_name = "A")]
    old: Option<String>,
    /// A generation, or \"disk\" for the file as it is now [default: the newest]
    #[arg(value_name = "B")]
    new: Option<String>,
    #[command(flatten)]
    place: Place,
}

/// Runs the command.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let archive = args.place.archive()?;
    let mut newest = archive.newest_first()?;
    let new = match args.new.as_deref() {
        Some("disk") => on_disk(&archive)?,
        Some(phrase) => archive::find(&archive, phrase)?,
        None => newest.next().context("no generation can be read")?,
    };
    let old = match args.old {
        Some(phrase) => archive::find(&archive, &phrase)?,
        None => newest.next().context("there is only one generation; nothing to compare it with")?,
    };

    let mut out = io::stdout().lock();
    let colour = print::colour(&io::stdout());
    writeln!(out, "{} → {}", title(&old), title(&new))?;
    if let (Ok(old), Ok(new)) = (check(&old.sources()), check(&new.sources())) {
        for line in changes(&old.desired, &new.desired) {
            writeln!(out, "  {line}")?;
        }
    }
    for (name, before, after) in history::by_name(&old, &new) {
        let diff = TextDiff::from_lines(before, after);
        if before == after {
            continue;
        }
        writeln!(out, "\n--- {name} ({})\n+++ {name} ({})", short(&old), short(&new))?;
        for hunk in diff.unified_diff().context_radius(CONTEXT).iter_hunks() {
            writeln!(out, "{}", hunk.header())?;
            for change in hunk.iter_changes() {
                let (sign, style) = match change.tag() {
                    ChangeTag::Insert => ('+', "32"),
                    ChangeTag::Delete => ('-', "31"),
                    ChangeTag::Equal => (' ', ""),
                };
                // Text that was accepted may still hold what a terminal would obey.
                let line: String = change.value().chars().filter(|&char| char == '\t' || !char.is_control()).collect();
                if colour == Colour::On && !style.is_empty() {
                    writeln!(out, "\x1b[{style}m{sign}{line}\x1b[0m")?;
                } else {
                    writeln!(out, "{sign}{line}")?;
                }
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The configuration as it is now, in the shape of a generation without a number.
fn on_disk(archive: &Archive) -> anyhow::Result<Record> {
    let mut record = archive.newest_first()?.next().context("no generation can be read")?;
    let files = files::read(&record.source).map_err(|problems| anyhow::anyhow!("{}", problems[0].message))?;
    record.generation.0 = 0;
    record.files = files.into_iter().map(|file| Kept { path: file.path, text: file.text }).collect();
    Ok(record)
}

fn short(record: &Record) -> String {
    if record.generation.0 == 0 { "on disk".into() } else { format!("generation {}", record.generation) }
}

fn title(record: &Record) -> String {
    match record.generation.0 {
        0 => record.source.display().to_string(),
        _ => format!("{} ({}, {})", short(record), archive::local(record.at), record.reason.word()),
    }
}
