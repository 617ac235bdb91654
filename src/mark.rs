//! `tidegate mark`: keys and marks of dyed traffic, for people who send it with other tools.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, anyhow, bail};
use tidegate_gateway::guard::dyed::Keys;
use tidegate_loadgen::mark::{Signer, new_key};
use tidegate_model::mark;

use crate::duration;

/// Make keys and marks of dyed traffic, and check them
///
/// A request with a signed mark is dyed: gateways count it apart, route it apart, and shed it first. `tidegate load`
/// signs by itself; this is for other tools.
#[derive(clap::Args)]
#[command(after_help = "Exit codes: 0 done, 1 it failed, or the mark isn't good.

Examples:
  tidegate mark key > pt.key
  curl -H \"x-pt: $(tidegate mark sign --key pt.key --run spring-drill --for 1h)\" https://shop.example.com/
  tidegate mark check --key pt.key --host shop.example.com 'v1;spring-drill;1900000000;*;…'")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Print a new key, for a file that dyed.keys names
    Key,
    /// Print a signed mark: the value of the x-pt header
    Sign {
        /// The file with the key
        #[arg(long, value_name = "FILE", default_value = "pt.key")]
        key: PathBuf,
        /// The run's name
        #[arg(long)]
        run: String,
        /// How long it is good for, 24h at most
        #[arg(long = "for", value_name = "TIME", value_parser = duration::read, default_value = "1h")]
        lasts: Duration,
        /// A host that it is good for: shop.example.com, *.example.com; may be given several times [default: every host]
        #[arg(long, value_name = "HOST")]
        host: Vec<String>,
    },
    /// Tell whether a mark is good, and what it says
    Check {
        /// The mark
        mark: String,
        /// A file with a key; may be given several times
        #[arg(long, value_name = "FILE", default_value = "pt.key")]
        key: Vec<PathBuf>,
        /// The host that is asked [default: one that it is for]
        #[arg(long, value_name = "HOST")]
        host: Option<String>,
    },
}

/// Runs the command.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut out = io::stdout().lock();
    match args.command {
        Command::Key => writeln!(out, "{}", new_key(&mut rand::rng()))?,
        Command::Sign { key, run, lasts, host } => {
            if lasts > mark::FARTHEST {
                bail!("a mark is good for 24h at most; sign another one then");
            }
            let text = read(&key)?;
            let signer = Signer::read(&text).with_context(|| no_key(&key))?;
            let mark = signer.sign(&run, unix() + lasts.as_secs(), &host).map_err(|sentence| anyhow!(sentence))?;
            writeln!(out, "{mark}")?;
        }
        Command::Check { mark: text, key, host } => {
            let texts = key.iter().map(|file| read(file)).collect::<anyhow::Result<Vec<_>>>()?;
            let keys = texts.iter().zip(&key).map(|(text, file)| mark::key(text).with_context(|| no_key(file)));
            let keys = Keys::new(keys.collect::<anyhow::Result<Vec<_>>>()?);
            let own = mark::Mark::parse(text.as_bytes()).map(|mark| mark.hosts.split('+').next().unwrap_or_default());
            // Any name below a wildcard will do.
            let host = host.unwrap_or_else(|| own.unwrap_or_default().replace('*', "x"));
            match keys.verify(text.as_bytes(), &host.to_ascii_lowercase(), unix()) {
                Ok(mark) => {
                    let left = Duration::from_secs(mark.expiry.saturating_sub(unix()));
                    let left = tidegate_model::literal::write_duration(left);
                    writeln!(out, "good: run {}, for hosts {}, {left} left", mark.run, mark.hosts)?;
                }
                Err(why) => bail!("the mark isn't good: {why}"),
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Unix seconds by this machine's clock.
pub fn unix() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn read(file: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(file)
        .with_context(|| format!("could not read {}; `tidegate mark key > {0}` makes a key", file.display()))
}

fn no_key(file: &Path) -> String {
    format!("{} holds no key: it has one line of at least 16 characters", file.display())
}
