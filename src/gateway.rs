//! `tidegate gateway`: runs the data plane.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use tidegate_gateway::door;
use tidegate_gateway::run::{self, Options, StartError};
use tidegate_model::diagnostic::{Colour, render_all};
use tracing_subscriber::EnvFilter;

/// What is logged unless RUST_LOG says otherwise: our own events, and nothing of Pingora's, whose
/// errors are about single requests.
const LOGGED: &str = "info,pingora_core=off,pingora_proxy=off,pingora_pool=off,h2=off";

/// Run the gateway
///
/// It serves until SIGTERM or SIGINT, then finishes the requests in flight. It follows its configuration:
/// what is changed on disk comes into force at once, or is refused with diagnostics while
/// the last good generation stays. SIGHUP reads it again and reopens the access log. SIGUSR2 starts the binary
/// anew, which takes over without a gap: see `tidegate upgrade`.
#[derive(clap::Args)]
#[command(
    args_override_self = true,
    after_help = "Examples:
  tidegate gateway --config edge.yaml
  tidegate gateway --config /etc/tidegate/ --state /var/lib/tidegate --drain 60
  RUST_LOG=debug tidegate gateway --config edge.yaml --log json"
)]
pub struct Args {
    /// Configuration file, or a folder of *.yaml files
    #[arg(long, short, value_name = "FILE|FOLDER")]
    config: PathBuf,
    /// Where accepted generations are kept [default: see `tidegate history --help`]
    #[arg(long, value_name = "FOLDER")]
    state: Option<PathBuf>,
    /// Seconds that requests in flight may take once the gateway is told to stop
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    drain: u64,
    /// Threads that carry requests [default: one for each core; or TIDEGATE_WORKERS]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    workers: Option<u16>,
    /// How log lines look
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    log: LogFormat,
    /// Take over from the gateway that started this one; what `tidegate upgrade` makes it do
    #[arg(long, hide = true)]
    take_over: bool,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum LogFormat {
    /// For people.
    Text,
    /// One JSON object for each line.
    Json,
}

/// Runs the command.
///
/// # Errors
///
/// When the gateway can't start for a reason that isn't its configuration; that is exit code 2.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    log_to_stderr(args.log);
    let options = Options {
        config: args.config,
        state: args.state,
        drain: Duration::from_secs(args.drain),
        workers: args.workers.map_or_else(door::default_workers, usize::from),
        take_over: args.take_over,
    };
    match run::run(&options) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(StartError::Refused(diagnostics)) => {
            let colour = if std::io::stderr().is_terminal() { Colour::On } else { Colour::Off };
            eprint!("{}", render_all(&diagnostics, colour));
            Ok(ExitCode::from(2))
        }
        Err(StartError::Other(err)) => Err(err),
    }
}

fn log_to_stderr(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(LOGGED));
    let colour = std::io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colour);
    match format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().init(),
    }
}
