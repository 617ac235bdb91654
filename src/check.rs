//! `tidegate check`: says whether a configuration would be accepted.

use std::process::ExitCode;

/// Check a configuration without running it
#[derive(clap::Args)]
pub struct Args {}

/// Runs the command.
pub fn run(_args: Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not built yet")
}
