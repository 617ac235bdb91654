//! `tidegate demo-app`: one small HTTP server of the demonstration.

use std::process::ExitCode;

/// Run one small HTTP server of the demonstration's shop
#[derive(clap::Args)]
pub struct Args {}

/// Runs the command.
pub fn run(_args: Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not built yet")
}
