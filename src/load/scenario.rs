//! Scenario files: read, checked, and shown.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use tidegate_loadgen::{feeders, preview};
use tidegate_model::check::SourceFile;
use tidegate_model::diagnostic::Diagnostic;
use tidegate_model::scenario::{Checked, check};

use crate::print;

/// Bytes of one scenario. A larger file is refused: rows belong into feeders.
const MAX_BYTES: u64 = 8 << 20;

/// Check a scenario without sending anything
///
/// Reports every problem in one run, with file, line and column. Where there is none, it shows the arithmetic of the load and
/// the first visit of each flow as it would be sent.
#[derive(clap::Args)]
#[command(after_help = "Exit codes: 0 accepted (perhaps with warnings), 2 refused.

Examples:
  tidegate load check sale.yaml
  tidegate load check --json sale.yaml")]
pub struct Args {
    /// The scenario, or - for standard input
    #[arg(value_name = "FILE")]
    path: PathBuf,
    /// Print the outcome as JSON on standard output
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    show(&args.path, args.json)
}

/// Checks the scenario at `path`, and shows what it would do.
pub fn show(path: &Path, json: bool) -> anyhow::Result<ExitCode> {
    let outcome = read(path);
    let mut out = io::stdout().lock();
    if json {
        let (ok, diagnostics) = match &outcome {
            Ok(checked) => (true, &checked.warnings),
            Err(problems) => (false, problems),
        };
        let mut report = serde_json::json!({"ok": ok, "diagnostics": diagnostics});
        if let Ok(checked) = &outcome {
            report["flows"] = checked.plan.flows.len().into();
            report["steps"] = checked.plan.steps().count().into();
            report["lasts_s"] = checked.plan.lasts().as_secs_f64().into();
        }
        writeln!(out, "{report:#}")?;
        return Ok(if ok { ExitCode::SUCCESS } else { ExitCode::from(2) });
    }
    match outcome {
        Ok(checked) => {
            print::tell(&checked.warnings);
            write!(out, "{}", preview::preview(&checked.plan, unix_millis()))?;
            Ok(ExitCode::SUCCESS)
        }
        Err(problems) => {
            print::tell(&problems);
            Ok(ExitCode::from(2))
        }
    }
}

/// Reads and checks the scenario at `path`, its feeders included.
///
/// # Errors
///
/// Every problem found.
pub fn read(path: &Path) -> Result<Checked, Vec<Diagnostic>> {
    let unreadable = |error: io::Error| {
        let message = format!("{} can't be read: {error}", path.display());
        vec![
            Diagnostic::error("unreadable-file", message)
                .help("name a scenario's file, or a URL with http:// or https://"),
        ]
    };
    let mut text = String::new();
    let source = if path == Path::new("-") {
        io::Read::read_to_string(&mut io::Read::take(io::stdin(), MAX_BYTES + 1), &mut text).map_err(unreadable)?;
        SourceFile { path: "standard input".into(), text }
    } else {
        let file = std::fs::File::open(path).map_err(unreadable)?;
        io::Read::read_to_string(&mut io::Read::take(file, MAX_BYTES + 1), &mut text).map_err(unreadable)?;
        SourceFile { path: path.to_owned(), text }
    };
    if source.text.len() as u64 > MAX_BYTES {
        let message = format!("{} has more than {MAX_BYTES} bytes", path.display());
        return Err(vec![Diagnostic::error("file-too-large", message).help("put rows into a feeder's file")]);
    }
    check(&source, &mut feeders::read)
}

/// Now, for what is shown before anything is sent.
pub fn unix_millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
