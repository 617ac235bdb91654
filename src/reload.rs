//! `tidegate reload`: asks a running gateway to read its configuration again.

use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use tidegate_gateway::source::{Outcome, Verdict};

use crate::ask::{self, Which};

/// Ask a running gateway to read its configuration again
///
/// A gateway follows its files by itself; this is for scripts that want to know what came of it, and does what
/// SIGHUP does.
#[derive(clap::Args)]
#[command(
    after_help = "Exit codes: 0 in force (or unchanged), 2 refused and the last good one stays, 1 no gateway answered.

Examples:
  tidegate reload
  tidegate reload --config edge.yaml
  tidegate reload --admin 127.0.0.1:9901"
)]
pub struct Args {
    #[command(flatten)]
    which: Which,
}

/// Runs the command.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let address = args.which.address()?;
    let (status, body) = ask::ask(address, "POST", "/reload", "")?;
    match status {
        200 => {
            let outcome: Outcome = serde_json::from_str(&body).context("the answer isn't a gateway's")?;
            eprint!("{}", outcome.diagnostics);
            let word = if outcome.result == Verdict::Unchanged { "unchanged: generation" } else { "ok: generation" };
            writeln!(io::stdout(), "{word} {} is in force", outcome.generation)?;
            Ok(ExitCode::SUCCESS)
        }
        422 => {
            eprint!("{body}");
            Ok(ExitCode::from(2))
        }
        _ => bail!("{address} answered {status}: {}", body.trim()),
    }
}
