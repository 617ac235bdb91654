//! `tidegate completions`: tab completion for shells.

use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::CommandFactory as _;
use clap_complete::Shell;

/// Print tab completions for a shell
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    tidegate completions bash > /etc/bash_completion.d/tidegate\n  \
    tidegate completions zsh > \"${fpath[1]}/_tidegate\"\n  \
    tidegate completions fish > ~/.config/fish/completions/tidegate.fish")]
pub struct Args {
    /// Which shell
    shell: Shell,
}

/// Runs the command.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut crate::Cli::command(), "tidegate", &mut script);
    io::stdout().write_all(&script)?;
    Ok(ExitCode::SUCCESS)
}
