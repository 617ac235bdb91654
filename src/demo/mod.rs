//! `tidegate demo`: a shop, a gateway and visitors on this machine.

use std::process::ExitCode;

/// Run the whole thing on this machine, with a shop behind it
#[derive(clap::Args)]
pub struct Args {}

/// Runs the command.
pub fn run(_args: Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not built yet")
}
