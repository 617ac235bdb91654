//! `tidegate explain`: which route takes a request, and why.

use std::process::ExitCode;

/// Tell which route and version would answer a request, and why
#[derive(clap::Args)]
pub struct Args {}

/// Runs the command.
pub fn run(_args: Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not built yet")
}
