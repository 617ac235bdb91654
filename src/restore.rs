//! `tidegate restore`: puts an earlier generation back in place.

use std::process::ExitCode;

/// Put an earlier generation back in place
#[derive(clap::Args)]
pub struct Args {}

/// Runs the command.
pub fn run(_args: Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not built yet")
}
