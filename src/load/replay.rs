//! `tidegate load replay`: sends recorded traffic again, with its own spacing.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use tidegate_loadgen::import::replay::Options;
use tidegate_loadgen::import::{self, Choice};
use tidegate_loadgen::preview;
use tidegate_model::literal::Literal as _;
use tidegate_model::scenario::plan::Client;
use tidegate_model::scenario::word::WholeUrl;

use super::{Sending, scenario, send};

/// Send recorded traffic again, with its own spacing
///
/// --speed compresses time: at 300% the gaps are a third, so the same requests come at three times their rate in a third of
/// the time. --volume keeps the time and changes how many come: at 300% each request is sent three times, spread over the gap
/// to the next; at 30% three of ten are sent.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  tidegate load replay shop.jsonl --target https://staging.example.com
  tidegate load replay access.log --target http://127.0.0.1:8080 --speed 300%
  tidegate load replay shop.jsonl --target http://127.0.0.1:8080 --volume 50% --check")]
pub struct Args {
    /// The recording, access log or HAR file
    #[arg(value_name = "FILE")]
    path: PathBuf,
    /// Where it is sent, such as `https://staging.example.com`. Never taken from the file
    #[arg(long, value_name = "URL")]
    target: String,
    /// How fast, from 10% to 500%
    #[arg(long, value_name = "PERCENT", default_value = "100%", value_parser = percent)]
    speed: f64,
    /// How much of it, from 10% to 500%
    #[arg(long, value_name = "PERCENT", default_value = "100%", value_parser = percent)]
    volume: f64,
    /// Name the hosts that requests were recorded for, instead of the target's
    #[arg(long)]
    keep_host: bool,
    /// Send methods that may change something, too: POST, PUT, DELETE, …
    #[arg(long)]
    unsafe_methods: bool,
    /// Show what would be sent, and send nothing
    #[arg(long)]
    check: bool,
    /// Connections at most
    #[arg(long, value_name = "N", default_value_t = Client::CONNECTIONS, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    connections: u32,
    #[command(flatten)]
    sending: Sending,
}

fn percent(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').unwrap_or(text).trim();
    match number.parse::<f64>() {
        Ok(percent) if import::replay::PERCENT.contains(&percent) => Ok(percent),
        _ => Err("expected 10% to 500%".into()),
    }
}

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let target = WholeUrl::parse(&args.target)
        .map_err(|wrong| anyhow::anyhow!("the target \"{}\": {}", args.target, wrong.label))?
        .0;
    let traffic = import::read(&args.path, Choice { unsafe_methods: args.unsafe_methods, all_hosts: true })?;
    let client = Client { connections: args.connections, ..Client::default() };
    let options = Options {
        target,
        speed: args.speed,
        volume: args.volume,
        keep_host: args.keep_host,
        client,
        most_in_flight: 10_000,
    };
    let plan = import::replay::plan(&args.path, &traffic, &options)?;
    for note in &traffic.notes {
        eprintln!("note: {note}");
    }
    if args.check {
        write!(io::stdout(), "{}", preview::preview(&plan, scenario::unix_millis()))?;
        return Ok(ExitCode::SUCCESS);
    }
    send(plan, &args.sending)
}
