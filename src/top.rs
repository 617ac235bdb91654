//! `tidegate top`: live traffic in the terminal.

use std::process::ExitCode;

/// Show live traffic in the terminal
#[derive(clap::Args)]
pub struct Args {}

/// Runs the command.
pub fn run(_args: Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not built yet")
}
