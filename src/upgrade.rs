//! `tidegate upgrade`: lets a new binary take over from a running gateway.

use std::io::{self, Write as _};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use tidegate_gateway::source::state;
use tidegate_gateway::upgrade::control::{self, Request};
use tidegate_gateway::upgrade::{Failed, READY_TIMEOUT, Step};

use crate::{duration, print};

/// How long a gateway that has just taken over may take to open its control socket.
const HANDED_ON: Duration = Duration::from_secs(5);

/// Between two looks at it.
const AGAIN: Duration = Duration::from_millis(50);

/// Let a new binary take over from a running gateway
///
/// The running gateway starts the new binary with its own arguments, passes it all listening sockets, and serves on
/// until the new one is ready. Then it takes no more connections, and lets those it has end: HTTP/1 connections after
/// their next answer, HTTP/2 ones by GOAWAY, WebSockets at the latest when its --drain is over. If the new one
/// doesn't become ready, whatever the reason, nothing has changed.
#[derive(clap::Args)]
#[command(
    after_help = "Exit codes: 0 the new one serves, 2 it refuses the configuration, 1 anything else; after 1 and 2 the old one \
serves on.

Examples:
  tidegate upgrade
  tidegate upgrade --config edge.yaml --binary /opt/tidegate-2/tidegate
  tidegate upgrade --config edge.yaml -- --workers 8
  kill -USR2 PID   # the same, with the file that PID was started from"
)]
pub struct Args {
    /// The new binary [default: the one that runs this command]
    #[arg(long, short, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// The running gateway's configuration [default: if only one gateway runs, that one]
    #[arg(long, short, value_name = "FILE|FOLDER")]
    config: Option<PathBuf>,
    /// Where the running gateway keeps its generations [default: see `tidegate history --help`]
    #[arg(long, value_name = "FOLDER")]
    state: Option<PathBuf>,
    /// How long the new one may take to become ready
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration::read)]
    timeout: Duration,
    /// Return as soon as the new one serves, and don't wait for the old one's connections
    #[arg(long)]
    no_wait: bool,
    /// Arguments for the new one, behind those of the old one (`--workers 8`); a later one counts
    #[arg(last = true, value_name = "ARGUMENTS")]
    arguments: Vec<String>,
}

/// Runs the command.
///
/// # Errors
///
/// No gateway is found, or the new one didn't take over.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    debug_assert_eq!(READY_TIMEOUT, Duration::from_secs(30), "the default above");
    let binary = args.binary.map_or_else(std::env::current_exe, std::path::absolute)?;
    let state = find(args.config.as_deref(), args.state.as_deref())?;
    let timeout_ms = u64::try_from(args.timeout.as_millis()).unwrap_or(u64::MAX);
    let request = Request::Upgrade { binary, arguments: args.arguments, timeout_ms };
    let give_up = Instant::now() + HANDED_ON;
    loop {
        let mut shown = Shown::default();
        let asked = control::ask(&state, &request, |step| {
            shown.step(step);
            if args.no_wait && shown.ready.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        if let Some(failed) = &shown.failed {
            return Ok(fail(failed));
        }
        if let Some(ready) = shown.ready {
            if !shown.drained && !args.no_wait {
                say(&format!("the old gateway was killed before its connections had ended; process {ready} serves"));
            }
            return Ok(ExitCode::SUCCESS);
        }
        match asked {
            // The name leads to whoever has taken over in a moment.
            Ok(()) if shown.leaving && Instant::now() < give_up => std::thread::sleep(AGAIN),
            Ok(()) if shown.leaving => bail!("the gateway is about to stop, and takes no orders any more"),
            Ok(()) => {
                bail!("the running gateway ended before the new one was ready; the new one may serve in its place")
            }
            Err(err) => {
                return Err(err).with_context(|| {
                    format!("no gateway answers at {}; does it run, as this user?", control::path(&state).display())
                });
            }
        }
    }
}

/// What was shown so far.
#[derive(Default)]
struct Shown {
    ready: Option<u32>,
    drained: bool,
    leaving: bool,
    failed: Option<Failed>,
    draining: Option<usize>,
}

impl Shown {
    fn step(&mut self, step: Step) {
        match step {
            Step::Started { pid } => say(&format!("new gateway started (process {pid})")),
            Step::Answered { version } => say(&format!("it is version {version}")),
            Step::Accepted { generation } => say(&format!("it accepts the configuration: generation {generation}")),
            Step::Ready { pid, .. } => {
                self.ready = Some(pid);
                say(&format!("ok: process {pid} serves"));
            }
            Step::Draining { connections, seconds_left } => {
                if self.draining.replace(connections) != Some(connections) {
                    let connections = print::count(connections, "connection");
                    say(&format!("old gateway drains: {connections} left, {seconds_left} s at most"));
                }
            }
            Step::Drained { cut } => {
                self.drained = true;
                match cut {
                    0 => say("old gateway is done"),
                    _ => say(&format!("old gateway is done; {} cut off", print::count(cut, "connection"))),
                }
            }
            Step::Leaving => self.leaving = true,
            Step::Failed(failed) => self.failed = Some(failed),
        }
    }
}

fn say(line: &str) {
    // Whoever reads may have gone; the upgrade goes on.
    let _ = writeln!(io::stdout(), "{line}");
}

fn fail(failed: &Failed) -> ExitCode {
    if !failed.said.is_empty() {
        eprintln!("{}", failed.said.trim_end());
    }
    eprintln!("error: {}\nnote: nothing has changed, the old gateway serves on", failed.why);
    if failed.refused { ExitCode::from(2) } else { ExitCode::FAILURE }
}

/// The state folder of the gateway that is meant.
fn find(config: Option<&Path>, state: Option<&Path>) -> anyhow::Result<PathBuf> {
    match (config, state) {
        (_, Some(state)) => Ok(state.to_owned()),
        (Some(config), None) => Ok(state::find(&std::path::absolute(config)?, None)),
        (None, None) => {
            let mut running: Vec<PathBuf> =
                state::known().into_iter().filter(|state| control::path(state).exists()).collect();
            match running.len() {
                0 => bail!("no running gateway was found; say which by --config or --state"),
                1 => Ok(running.remove(0)),
                _ => {
                    let all: Vec<String> = running.iter().map(|state| format!("  {}", state.display())).collect();
                    bail!(
                        "several gateways keep their state here; say which by --config or --state\n{}",
                        all.join("\n")
                    )
                }
            }
        }
    }
}
