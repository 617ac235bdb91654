//! `tidegate stand-in`: what a gateway that was started by a supervisor turns into after its upgrade. Hidden: nobody types it.

use std::process::ExitCode;

use anyhow::Context as _;
use tidegate_gateway::upgrade::stand_in;

/// Pass signals on to the gateway that took over from this process, and end with it
#[derive(clap::Args)]
pub struct Args {}

/// Runs the command.
///
/// # Errors
///
/// When children can't be waited for.
pub fn run(Args {}: Args) -> anyhow::Result<ExitCode> {
    stand_in::stand_in().map(ExitCode::from).context("could not wait for the gateway that took over")
}
