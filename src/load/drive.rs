//! Runs a plan from the start to the exit code: shows it, stops it, judges it, and writes down what it found.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use tidegate_loadgen::judge;
use tidegate_loadgen::judge::stops::{Seen, Stops};
use tidegate_loadgen::live::board::Board;
use tidegate_loadgen::live::{Live, Look, Wish};
use tidegate_loadgen::outcome::{Outcome, Verdict};
use tidegate_loadgen::report::compare::{self, Change, Comparison};
use tidegate_loadgen::report::files::{self, Files};
use tidegate_loadgen::report::summary;
use tidegate_loadgen::{Beat, Cause, Ender, Start};
use tidegate_model::scenario::Plan;

use super::scrape::{Scraper, Source};
use super::workers::Workers;

/// A threshold that doesn't hold, and a run that is worse than its baseline.
const FAILED: u8 = 3;

/// What becomes of what a run finds out.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Results")]
pub struct Output {
    /// Write report.html, result.json, seconds.csv, response.hlog and junit.xml into this folder
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Compare with an earlier run's result.json
    #[arg(long, value_name = "FILE|DIR")]
    pub baseline: Option<PathBuf>,
    /// Exit with 3 if the run is worse than the baseline
    #[arg(long, requires = "baseline")]
    pub fail_on_worse: bool,
    /// Read these Prometheus metrics once a second, and show them on the report's time axis
    #[arg(long, value_name = "URL")]
    pub metrics: Vec<Source>,
    /// Print all that was found out as JSON
    #[arg(long)]
    pub json: bool,
    /// Show nothing while it runs
    #[arg(long, short)]
    pub quiet: bool,
}

/// Runs `plan`, and tells how it went.
///
/// # Errors
///
/// When the run could not start, or its results could not be written.
pub fn drive(plan: &Plan, output: &Output, workers: &Workers) -> anyhow::Result<ExitCode> {
    let (outcome, comparison) = run(plan, output, workers)?;
    tell(&outcome, comparison.as_ref(), output)?;
    Ok(ExitCode::from(code(&outcome.verdict, comparison.as_ref(), output.fail_on_worse)))
}

/// Runs `plan`: shows it while it runs, ends it where it says so, judges it, and writes down what it found.
///
/// # Errors
///
/// As [`drive`].
pub fn run(plan: &Plan, output: &Output, workers: &Workers) -> anyhow::Result<(Outcome, Option<Comparison>)> {
    // Whatever could spoil the results is looked at before anything is sent.
    let before = output.baseline.as_deref().map(files::read).transpose()?;
    let mut files = output.out.as_deref().map(|folder| Files::create(folder, &plan.name, unix_millis())).transpose()?;
    let start = Start::default();
    end_on_interrupt(start.ender.clone())?;
    let scraper = Scraper::begin(&output.metrics)?;
    let board = Board::new(plan);
    let look = if output.quiet { Look::Nothing } else { Look::suitable(&board) };
    let mut live = Live::begin(board, look, wishes(start.ender.clone()))?;

    let lasts = plan.lasts().as_secs_f64();
    let mut stops = Stops::new(plan);
    let mut spoiled: Option<anyhow::Error> = None;
    let mut watch = |beat: Beat<'_>| {
        let steps: Vec<Seen<'_>> = beat.steps.iter().map(Seen::from).collect();
        let reason = stops.beat(Seen::from(beat.all), &steps);
        // Once the schedule is over there is nothing left to stop, and rates fall by themselves.
        if let Some(reason) = reason.filter(|_| f64::from(beat.second.at + 1) <= lasts) {
            start.ender.end(Cause::Stopped(reason));
        }
        let examples = beat.totals.iter().flat_map(|total| &total.examples).map(|(kind, text)| (*kind, text.as_str()));
        live.beat(beat.second, &beat.all.response, &beat.all.service, examples);
        if let Some(files) = &mut files
            && spoiled.is_none()
            && let Err(err) = files.beat(beat.second.at, &beat.all.response, &beat.all.service)
        {
            spoiled = Some(err); // The run is worth finishing; it is told at the end.
        }
    };
    let ran = workers.run(plan, &start, &mut watch);
    live.end();
    let mut outcome = ran?;
    outcome.target = scraper.end(outcome.began);
    judge::judge(plan, &mut outcome);
    let comparison = before.map(|before| compare::compare(&before, &outcome));

    let written = files.map_or(Ok(()), |files| files.end(&outcome, comparison.as_ref()));
    if let Err(err) = written.and_then(|()| spoiled.map_or(Ok(()), Err)) {
        // What was found out isn't lost with the disk.
        tell(&outcome, comparison.as_ref(), &Output { out: None, ..output.clone() })?;
        return Err(err);
    }
    Ok((outcome, comparison))
}

fn code(verdict: &Verdict, comparison: Option<&Comparison>, fail_on_worse: bool) -> u8 {
    let worse = comparison.is_some_and(|it| it.change == Change::Worse);
    match judge::exit_code(verdict) {
        0 if worse && fail_on_worse => FAILED,
        code => code,
    }
}

fn tell(outcome: &Outcome, comparison: Option<&Comparison>, output: &Output) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    if output.json {
        serde_json::to_writer_pretty(&mut out, outcome)?;
        writeln!(out)?;
        return Ok(());
    }
    let colours = out.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    for line in summary::lines(outcome, comparison, colours) {
        writeln!(out, "{line}")?;
    }
    if let Some(folder) = &output.out {
        writeln!(out, "report: {}", folder.join("report.html").display())?;
    }
    Ok(())
}

fn wishes(ender: Ender) -> impl Fn(Wish) + Send + 'static {
    move |wish| match wish {
        Wish::End => ender.end(Cause::Interrupted),
        Wish::Hurry => ender.hurry(Cause::Interrupted),
    }
}

/// The first interrupt ends the run; the second doesn't wait for what is open.
fn end_on_interrupt(ender: Ender) -> anyhow::Result<()> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_io().build().context("can't watch for signals")?;
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        runtime.block_on(async {
            if tokio::signal::ctrl_c().await.is_ok() {
                ender.end(Cause::Interrupted);
            }
            if tokio::signal::ctrl_c().await.is_ok() {
                ender.hurry(Cause::Interrupted);
            }
        });
    })?;
    Ok(())
}

fn unix_millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
