//! `tidegate gateway`: runs the data plane.

use std::process::ExitCode;

/// Run the gateway
#[derive(clap::Args)]
pub struct Args {}

/// Runs the command.
pub fn run(_args: Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not built yet")
}
