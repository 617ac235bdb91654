//! `tidegate load worker`: sends part of a load that another machine directs.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use tidegate_loadgen::distributed::{Key, worker};

/// Send part of a load that another machine directs
///
/// Waits for `tidegate load --workers`, sends the part of the schedule that falls to it, and tells each second what it
/// found. Both ends show that they have the same key; what they say is encrypted. When the one that directs is gone, it
/// stops sending.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  openssl rand -hex 32 > load.key   # the same file on every machine
  tidegate load worker --bind 0.0.0.0:7600 --key load.key
  tidegate load sale.yaml --workers 10.0.0.7:7600,10.0.0.8:7600 --key load.key")]
pub struct Args {
    /// Where to wait
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7600")]
    bind: SocketAddr,
    /// The file with the secret that both ends have: 16 characters at least
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
}

/// Runs the command, until it is ended.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).with_target(false).init();
    let key = Key::read(&args.key)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime")?;
    runtime.block_on(worker::listen(args.bind, key, |address| {
        // Nobody may be reading.
        let _ = writeln!(std::io::stdout(), "waiting at {address}");
    }))?;
    Ok(ExitCode::SUCCESS)
}
