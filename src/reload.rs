//! `tidegate reload`: asks a running gateway to read its configuration again.

use std::process::ExitCode;

/// Ask a running gateway to read its configuration again
#[derive(clap::Args)]
pub struct Args {}

/// Runs the command.
pub fn run(_args: Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not built yet")
}
