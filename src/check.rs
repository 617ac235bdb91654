//! `tidegate check`: says whether a configuration would be accepted.

use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::json;
use tidegate_gateway::guard::lists::Lists;
use tidegate_gateway::tls::Slots;
use tidegate_gateway::{material, source};
use tidegate_model::check::{Checked, SourceFile, check};
use tidegate_model::diagnostic::Diagnostic;

use crate::print;

/// Check a configuration without running it
///
/// Reports every problem in one run, with file, line and column. Certificates and keys are read too, so that
/// what passes here also starts there; only ports aren't tried.
#[derive(clap::Args)]
#[command(after_help = "Exit codes: 0 accepted (perhaps with warnings), 2 refused.

Examples:
  tidegate check edge.yaml
  tidegate check /etc/tidegate/
  tidegate check --no-files edge.yaml    # in CI, where the keys aren't
  generate-config | tidegate check -")]
pub struct Args {
    /// A file, a folder of *.yaml files, or - for standard input
    #[arg(value_name = "FILE|FOLDER")]
    path: PathBuf,
    /// Don't read the certificates and keys that the configuration names
    #[arg(long)]
    no_files: bool,
    /// Print the outcome as JSON on standard output
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let outcome = read(&args.path)
        .and_then(|files| check(&files))
        .and_then(|checked| if args.no_files { Ok(checked) } else { with_files(checked) });
    let (accepted, diagnostics) = match &outcome {
        Ok(checked) => (Some(&checked.desired), &checked.warnings),
        Err(problems) => (None, problems),
    };
    let counts = accepted.map(|desired| {
        [(desired.services.len(), "service"), (desired.routes.len(), "route"), (desired.listeners.len(), "listener")]
    });

    let mut out = io::stdout().lock();
    if args.json {
        let mut report = json!({"ok": accepted.is_some(), "diagnostics": diagnostics});
        for (number, word) in counts.into_iter().flatten() {
            report[format!("{word}s")] = number.into();
        }
        writeln!(out, "{report:#}")?;
    } else {
        print::tell(diagnostics);
        if let Some(counts) = counts {
            writeln!(out, "ok: {}", counts.map(|(number, word)| print::count(number, word)).join(", "))?;
        }
    }
    Ok(if accepted.is_some() { ExitCode::SUCCESS } else { ExitCode::from(2) })
}

fn read(path: &Path) -> Result<Vec<SourceFile>, Vec<Diagnostic>> {
    if path != Path::new("-") {
        return source::files::read(path);
    }
    let mut text = String::new();
    match io::stdin().take(source::files::MAX_BYTES).read_to_string(&mut text) {
        Ok(_) => Ok(vec![SourceFile { path: "standard input".into(), text }]),
        Err(err) => Err(vec![Diagnostic::error("unreadable-file", format!("standard input can't be read: {err}"))]),
    }
}

/// Reads what the configuration names, as a start would.
fn with_files(mut checked: Checked) -> Result<Checked, Vec<Diagnostic>> {
    let lists = Lists::read(&checked.desired, &checked.places, &Lists::default());
    let files = match (material::read(&checked.desired, &checked.places, &Slots::default()), lists) {
        (files, Ok(_)) => files,
        (files, Err(told)) => Err(files.err().into_iter().flatten().chain(told).collect()),
    };
    match files {
        Ok(files) => {
            checked.warnings.extend(files.warnings);
            Ok(checked)
        }
        Err(problems) => Err(checked.warnings.into_iter().chain(problems).collect()),
    }
}
