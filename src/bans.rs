//! `tidegate bans`: who is banned by a running gateway; bans and frees by hand.

use std::io::{self, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use jiff::Timestamp;
use tidegate_gateway::admin::bans::{BanView, PAGE, Page, Wanted};
use tidegate_model::diagnostic::Colour;
use tidegate_model::literal::write_duration;

use crate::ask::{self, Which};
use crate::{archive, print};

/// List, begin and end bans of a running gateway
///
/// Limits ban sources that go on after they were refused (`then: ban 10m …` in the configuration). Bans are
/// enforced before a connection says a word, and outlive a restart.
#[derive(clap::Args)]
#[command(
    after_help = "Exit codes: 0 done, 2 the gateway refused (not an address, a trusted proxy), 1 nobody to free, or no gateway.

Examples:
  tidegate bans
  tidegate bans 203.0.113.7
  tidegate bans --all --json | jq -r '.bans[].network'
  tidegate bans add 203.0.113.0/24 --for 2h --reason \"scraper\"
  tidegate bans remove 203.0.113.0/24 2001:db8::/64"
)]
pub struct Args {
    #[command(flatten)]
    which: Which,
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    list: List,
}

#[derive(clap::Subcommand)]
enum Action {
    /// List bans by address (what `tidegate bans` alone does)
    List(List),
    /// Ban addresses or networks
    Add(Add),
    /// Free addresses or networks
    Remove(Remove),
}

#[derive(clap::Args)]
struct List {
    /// Only bans that hold this address
    address: Option<IpAddr>,
    /// How many
    #[arg(long, short = 'n', value_name = "N", default_value_t = PAGE)]
    number: usize,
    /// All of them, however many
    #[arg(long, conflicts_with = "number")]
    all: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
struct Add {
    /// Addresses or networks: 203.0.113.7, 203.0.113.0/24, 2001:db8::/64
    #[arg(required = true, value_name = "NETWORK")]
    networks: Vec<String>,
    /// How long: 30m, 2h, 7d
    #[arg(long = "for", value_name = "TIME", default_value = "1d")]
    lasts: String,
    /// Why, for whoever reads the list later
    #[arg(long, value_name = "TEXT", default_value = "by hand")]
    reason: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
struct Remove {
    /// Networks as they are listed
    #[arg(required = true, value_name = "NETWORK")]
    networks: Vec<String>,
}

/// Runs the command.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let address = args.which.address()?;
    match args.action {
        None => list(address, &args.list),
        Some(Action::List(args)) => list(address, &args),
        Some(Action::Add(args)) => add(address, &args),
        Some(Action::Remove(args)) => remove(address, &args),
    }
}

fn list(address: SocketAddr, args: &List) -> anyhow::Result<ExitCode> {
    let wanted = if args.all { usize::MAX } else { args.number };
    let mut out = io::stdout().lock();
    let mut table = Table::new(print::colour(&io::stdout()));
    let mut shown = 0;
    let mut after = None;
    if args.json {
        write!(out, "{{\"bans\": [")?;
    }
    // Page by page, so that a million bans need neither this command's memory nor the gateway's patience.
    let entries = loop {
        let page = page(address, args.address, after, wanted - shown)?;
        for ban in &page.bans {
            if args.json {
                let comma = if shown > 0 { "," } else { "" };
                write!(out, "{comma}\n  {}", serde_json::to_string(ban)?)?;
            } else {
                table.row(&mut out, ban)?;
            }
            shown += 1;
        }
        after = page.next;
        if after.is_none() || shown >= wanted {
            break page.entries;
        }
    };
    match (args.json, after) {
        (true, _) => writeln!(out, "\n], \"entries\": {entries}, \"next\": {}}}", serde_json::to_string(&after)?)?,
        (false, None) if shown == 0 => writeln!(out, "nobody is banned")?,
        (false, None) => {}
        (false, Some(_)) => writeln!(out, "… and more, of {entries} in all: --all lists every one")?,
    }
    Ok(ExitCode::SUCCESS)
}

fn page(
    address: SocketAddr,
    covering: Option<IpAddr>,
    after: Option<impl std::fmt::Display>,
    most: usize,
) -> anyhow::Result<Page> {
    let mut target = format!("/bans?limit={}", most.clamp(1, PAGE));
    if let Some(covering) = covering {
        target.push_str(&format!("&covering={covering}"));
    }
    if let Some(after) = after {
        target.push_str(&format!("&after={after}"));
    }
    match ask::ask(address, "GET", &target, "")? {
        (200, body) => serde_json::from_str(&body).context("the answer isn't a gateway's"),
        (status, body) => bail!("{address} answered {status}: {}", body.trim()),
    }
}

/// Rows for people.
struct Table {
    colour: Colour,
    now: Timestamp,
    begun: bool,
}

impl Table {
    fn new(colour: Colour) -> Self {
        Self { colour, now: Timestamp::now(), begun: false }
    }

    fn row(&mut self, out: &mut impl io::Write, ban: &BanView) -> io::Result<()> {
        let (bold, dim, plain) = match self.colour {
            Colour::On => ("\x1b[1m", "\x1b[2m", "\x1b[0m"),
            Colour::Off => ("", "", ""),
        };
        if !self.begun {
            self.begun = true;
            writeln!(out, "{dim}{:<43} {:>9} {:>6} {:>5}  REASON{plain}", "NETWORK", "ENDS IN", "AGE", "TIMES")?;
        }
        let network = ban.network.to_string();
        // A single address is shown as people write it.
        let network =
            network.strip_suffix(if ban.network.addr().is_ipv4() { "/32" } else { "/128" }).unwrap_or(&network);
        let age = archive::age(ban.since, self.now);
        writeln!(
            out,
            "{bold}{network:<43}{plain} {:>9} {age:>6} {:>5}  {}",
            left(ban.until, self.now),
            ban.times,
            ban.reason
        )
    }
}

/// `1h59m`: the two largest units.
fn left(until: Timestamp, now: Timestamp) -> String {
    let seconds = u64::try_from(until.duration_since(now).as_secs()).unwrap_or(0).max(1);
    let whole = match seconds {
        ..3_600 => seconds,
        3_600..86_400 => seconds / 60 * 60,
        _ => seconds / 3_600 * 3_600,
    };
    write_duration(Duration::from_secs(whole))
}

fn add(address: SocketAddr, args: &Add) -> anyhow::Result<ExitCode> {
    let mut code = ExitCode::SUCCESS;
    let mut out = io::stdout().lock();
    for network in &args.networks {
        let wanted = Wanted { network: network.clone(), lasts: Some(args.lasts.clone()), reason: args.reason.clone() };
        match ask::ask(address, "POST", "/bans", &serde_json::to_string(&wanted)?)? {
            (201, body) if args.json => write!(out, "{body}")?,
            (201, body) => {
                let ban: BanView = serde_json::from_str(&body).context("the answer isn't a gateway's")?;
                writeln!(out, "ok: {} is banned for {}", ban.network, args.lasts)?;
            }
            (400 | 409, body) => {
                eprintln!("error: {}", body.trim());
                code = ExitCode::from(2);
            }
            (status, body) => bail!("{address} answered {status}: {}", body.trim()),
        }
    }
    Ok(code)
}

fn remove(address: SocketAddr, args: &Remove) -> anyhow::Result<ExitCode> {
    let mut code = ExitCode::SUCCESS;
    for network in &args.networks {
        // Whatever else stands in a target is refused by the gateway; these would cut it short.
        let target = format!("/bans?network={}", network.replace('%', "%25").replace(['&', '#', ' '], "%20"));
        match ask::ask(address, "DELETE", &target, "")? {
            (200, _) => writeln!(io::stdout(), "ok: {network} is free")?,
            (404, body) => {
                eprintln!("error: {}", body.trim());
                code = ExitCode::FAILURE;
            }
            (400, body) => {
                eprintln!("error: {}", body.trim());
                code = ExitCode::from(2);
            }
            (status, body) => bail!("{address} answered {status}: {}", body.trim()),
        }
    }
    Ok(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_told_in_its_two_largest_units() {
        let now = Timestamp::UNIX_EPOCH;
        let after = |seconds| left(Timestamp::from_second(seconds).unwrap(), now);

        assert_eq!([after(59), after(61), after(7_199), after(90_061)], ["59s", "1m1s", "1h59m", "1d1h"]);
    }
}
