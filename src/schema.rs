//! `tidegate schema`: the configuration, or a load scenario, as JSON Schema.

use std::io::{self, Write as _};
use std::process::ExitCode;

use tidegate_model::reference;

/// Print the JSON Schema of the configuration or of load scenarios, for editors
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  tidegate schema > tidegate.schema.json\n  \
    # then, as the first line of a configuration, for editors with a YAML language server:\n  \
    # yaml-language-server: $schema=./tidegate.schema.json")]
pub struct Args {
    /// Of what
    #[arg(value_enum, default_value = "configuration")]
    of: Of,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Of {
    /// What the gateway reads
    Configuration,
    /// What `tidegate load` reads
    Scenario,
}

/// Runs the command.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let schema = match args.of {
        Of::Configuration => reference::schema(),
        Of::Scenario => reference::scenario_schema(),
    };
    writeln!(io::stdout(), "{schema:#}")?;
    Ok(ExitCode::SUCCESS)
}
