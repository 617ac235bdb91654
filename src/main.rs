//! The `tidegate` binary: reads the arguments, runs one command, exits.
//!
//! Exit codes: 0 it worked; 1 it failed; 2 the configuration or the arguments
//! were refused. A reader that went away (`tidegate schema | head`) is success.

mod archive;
mod ask;
mod bans;
mod certs;
mod check;
mod completions;
mod demo;
mod demo_app;
mod diff;
mod duration;
mod explain;
mod gateway;
mod history;
mod load;
mod mark;
mod print;
mod record;
mod reload;
mod restore;
mod schema;
mod stand_in;
mod top;
mod upgrade;
mod when;

use std::io;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Edge gateway and traffic-control proxy.
#[derive(Parser)]
#[command(
    version,
    after_help = "Exit codes: 0 it worked, 1 it failed, 2 the configuration or the arguments were refused."
)]
struct Cli {
    /// Be killed when the process that started this one dies, however it dies.
    #[arg(long, hide = true, global = true)]
    end_with_parent: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Gateway(gateway::Args),
    Check(check::Args),
    Explain(explain::Args),
    Reload(reload::Args),
    Bans(bans::Args),
    Certs(certs::Args),
    Mark(mark::Args),
    Record(record::Args),
    Upgrade(upgrade::Args),
    History(history::Args),
    Load(Box<load::Args>),
    Diff(diff::Args),
    Restore(restore::Args),
    Top(top::Args),
    Schema(schema::Args),
    Completions(completions::Args),
    Demo(demo::Args),
    DemoApp(demo_app::Args),
    #[command(hide = true)]
    StandIn(stand_in::Args),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    if cli.end_with_parent {
        demo::end_with_parent();
    }
    let done = match cli.command {
        Command::Gateway(args) => gateway::run(args),
        Command::Check(args) => check::run(args),
        Command::Explain(args) => explain::run(args),
        Command::Reload(args) => reload::run(args),
        Command::Bans(args) => bans::run(args),
        Command::Certs(args) => certs::run(args),
        Command::Mark(args) => mark::run(args),
        Command::Record(args) => record::run(args),
        Command::Upgrade(args) => upgrade::run(args),
        Command::History(args) => history::run(args),
        Command::Load(args) => load::run(*args),
        Command::Diff(args) => diff::run(args),
        Command::Restore(args) => restore::run(args),
        Command::Top(args) => top::run(args),
        Command::Schema(args) => schema::run(args),
        Command::Completions(args) => completions::run(args),
        Command::Demo(args) => demo::run(args),
        Command::DemoApp(args) => demo_app::run(args),
        Command::StandIn(args) => stand_in::run(args),
    };
    done.unwrap_or_else(|err| {
        if err
            .chain()
            .any(|cause| matches!(cause.downcast_ref::<io::Error>(), Some(e) if e.kind() == io::ErrorKind::BrokenPipe))
        {
            return ExitCode::SUCCESS;
        }
        eprintln!("error: {err:#}");
        ExitCode::FAILURE
    })
}
