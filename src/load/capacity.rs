//! `--find-capacity`: the highest rate that meets the thresholds.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use serde::Serialize;
use tidegate_loadgen::capacity::{Bounds, CONFIRMATIONS, Found, Next, Search, Trial, Went};
use tidegate_loadgen::outcome::{Outcome, Verdict};
use tidegate_model::scenario::Plan;
use tidegate_model::scenario::plan::{Load, Spacing, Stage};

use super::drive::{self, Output};
use super::workers::Workers;
use super::{duration, refuse};

/// The target's rest between two trials, at most; a quarter of a trial where that is less.
const REST: Duration = Duration::from_secs(10);

/// How to look for the capacity.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Capacity")]
pub struct Options {
    /// Find the highest rate that meets the thresholds: double, halve the gap, confirm three times
    #[arg(long)]
    find_capacity: bool,
    /// How long each trial is
    #[arg(long, value_name = "TIME", default_value = "20s", requires = "find_capacity", value_parser = duration::read)]
    trial: Duration,
    /// Never send more than this a second
    #[arg(long, value_name = "N", default_value_t = 1_000_000.0, requires = "find_capacity", value_parser = super::rate)]
    most_rate: f64,
    /// How exactly to find it, in percent of the rate
    #[arg(long, value_name = "PERCENT", default_value = "5", requires = "find_capacity", value_parser = clap::value_parser!(u8).range(1..=50))]
    precision: u8,
}

impl Options {
    /// Whether that is what the command is for.
    pub fn is_asked(&self) -> bool {
        self.find_capacity
    }
}

/// What is written as `capacity.json`.
#[derive(Serialize)]
struct Report<'s> {
    name: &'s str,
    thresholds: Vec<&'s str>,
    found: Found,
    trials: &'s [Trial],
}

/// Looks for the capacity, a trial after the other.
///
/// # Errors
///
/// When a trial could not run.
pub fn find(plan: &Plan, options: &Options, output: &Output, workers: &Workers) -> anyhow::Result<ExitCode> {
    let Load::Open { stages, spacing, most_in_flight } = &plan.load else {
        return Ok(refuse("--find-capacity needs a rate to begin with: --rate, or a scenario with one"));
    };
    if plan.thresholds.is_empty() {
        return Ok(refuse(
            "--find-capacity looks for the highest rate that meets the thresholds, and there are none; \
             say what is good enough: --threshold \"p99 < 200ms\" --threshold \"errors < 0.1%\"",
        ));
    }
    let first = stages.iter().flat_map(|stage| [stage.from, stage.to]).fold(0.0, f64::max);
    let precision = f64::from(options.precision) / 100.0;
    let mut search = Search::new(Bounds { first, most: options.most_rate, precision });
    let found = loop {
        let rate = match search.next() {
            Next::Done(found) => break found,
            Next::Try(rate) => rate,
        };
        let number = search.trials().len() + 1;
        if number > 1 {
            std::thread::sleep(REST.min(options.trial / 4));
        }
        let outcome = try_once(plan, &at(rate, options.trial, *spacing, *most_in_flight), number, output, workers)?;
        let went = match &outcome.verdict {
            Verdict::Passed => Went::Held,
            Verdict::Failed { .. } | Verdict::Stopped { .. } => Went::Failed,
            Verdict::GeneratorLimited { .. } => Went::GeneratorLimited,
            Verdict::Interrupted { .. } => {
                eprintln!("interrupted in trial {number}");
                return Ok(ExitCode::from(130));
            }
        };
        search.tried(rate, went);
        eprintln!("{}", line(number, rate, &outcome));
    };
    tell(plan, &search, found, output)?;
    Ok(ExitCode::from(match found {
        Found::Capacity { .. } | Found::AtLeast { .. } => 0,
        Found::Nothing { .. } | Found::Unsteady { .. } => 3,
        Found::Generator { .. } => 4,
    }))
}

fn at(rate: f64, lasts: Duration, spacing: Spacing, most_in_flight: u32) -> Load {
    // Room for as many as at the first rate would be none at ten times of it.
    let most_in_flight = most_in_flight.max((rate * 2.0).min(100_000.0) as u32);
    Load::Open { stages: vec![Stage { lasts, from: rate, to: rate }], spacing, most_in_flight }
}

fn try_once(plan: &Plan, load: &Load, number: usize, output: &Output, workers: &Workers) -> anyhow::Result<Outcome> {
    let mut plan = plan.clone();
    plan.load = load.clone();
    if let Load::Open { most_in_flight, .. } = load {
        plan.client.connections = plan.client.connections.max(*most_in_flight);
    }
    let folder = output.out.as_deref().map(|folder| folder.join(format!("trial-{number:02}")));
    let quiet = output.quiet || !io::stderr().is_terminal();
    let output = Output { out: folder, quiet, baseline: None, ..output.clone() };
    Ok(drive::run(&plan, &output, workers)?.0)
}

fn line(number: usize, rate: f64, outcome: &Outcome) -> String {
    let seen = outcome.thresholds.iter().map(|judged| format!("{}: {}", judged.text, judged.seen));
    let (went, why) = match &outcome.verdict {
        Verdict::Passed => ("holds", seen.collect::<Vec<_>>()),
        Verdict::Failed { reasons } => ("doesn't hold", reasons.clone()),
        Verdict::Stopped { reason, .. } => ("doesn't hold", vec![reason.clone()]),
        Verdict::GeneratorLimited { reasons } => ("the generator can't", reasons.clone()),
        Verdict::Interrupted { .. } => ("interrupted", Vec::new()),
    };
    format!("trial {number:>2}  {rate:>10.1}/s  {went}  ({})", why.join("; "))
}

/// What was found, in a sentence.
fn sentence(found: Found) -> String {
    match found {
        Found::Capacity { rate, fails } => {
            format!("capacity: {rate:.1}/s, which held in {CONFIRMATIONS} more trials; {fails:.1}/s didn't hold")
        }
        Found::AtLeast { rate } => {
            format!(
                "capacity: at least {rate:.1}/s, which held in {CONFIRMATIONS} more trials; --most-rate allows no more"
            )
        }
        Found::Generator { rate, limited_at } => format!(
            "capacity: at least {rate:.1}/s; at {limited_at:.1}/s the generator itself was the limit: send from several machines (--workers)"
        ),
        Found::Nothing { fails } => format!("capacity: none; not even {fails:.1}/s holds"),
        Found::Unsteady { rate } => {
            format!(
                "capacity: can't be said; the target answers differently each time (the highest that held: {rate:.1}/s)"
            )
        }
    }
}

fn tell(plan: &Plan, search: &Search, found: Found, output: &Output) -> anyhow::Result<()> {
    let thresholds = plan.thresholds.iter().map(|threshold| threshold.text.as_str()).collect();
    let report = Report { name: &plan.name, thresholds, found, trials: search.trials() };
    let mut out = io::stdout().lock();
    if output.json {
        serde_json::to_writer_pretty(&mut out, &report)?;
        writeln!(out)?;
    } else {
        writeln!(out, "{}", sentence(found))?;
    }
    if let Some(folder) = &output.out {
        write(folder, &report)?;
    }
    Ok(())
}

fn write(folder: &Path, report: &Report<'_>) -> anyhow::Result<()> {
    let path = folder.join("capacity.json");
    let text = serde_json::to_string_pretty(report)?;
    std::fs::write(&path, text + "\n").with_context(|| format!("can't write {}", path.display()))
}
