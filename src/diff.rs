//! `tidegate diff`: what changed between two generations.

use std::process::ExitCode;

/// Show what changed between two generations
#[derive(clap::Args)]
pub struct Args {}

/// Runs the command.
pub fn run(_args: Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not built yet")
}
