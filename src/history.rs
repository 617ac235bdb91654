//! `tidegate history`: lists the generations on disk.

use std::process::ExitCode;

/// List the generations that were accepted
#[derive(clap::Args)]
pub struct Args {}

/// Runs the command.
pub fn run(_args: Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not built yet")
}
