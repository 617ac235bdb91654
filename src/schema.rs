//! `tidegate schema`: the configuration as JSON Schema.

use std::io::{self, Write as _};
use std::process::ExitCode;

use tidegate_model::reference;

/// Print the JSON Schema of the configuration, for editors
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  tidegate schema > tidegate.schema.json\n  \
    # then, as the first line of a configuration, for editors with a YAML language server:\n  \
    # yaml-language-server: $schema=./tidegate.schema.json")]
pub struct Args {}

/// Runs the command.
pub fn run(_args: Args) -> anyhow::Result<ExitCode> {
    writeln!(io::stdout(), "{:#}", reference::schema())?;
    Ok(ExitCode::SUCCESS)
}
