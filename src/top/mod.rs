//! `tidegate top`: live traffic in the terminal.
//!
//! It reads the admin listener's `/metrics` and `/snapshot` and shows what changed between two readings. Percentiles
//! come from the same histograms that Prometheus scrapes.
//!
//! # Not here
//!
//! Reading is in `scrape`, comparing two readings in `view`, words and columns in `layout`, the terminal in `screen`.

mod layout;
pub(crate) mod scrape;
mod screen;
mod view;

use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use clap::Args as ClapArgs;

use scrape::{Admin, Reading};
use view::View;

/// Columns of the plain table where there is no terminal to ask.
const PLAIN_COLUMNS: usize = 120;

/// Show live traffic in the terminal
#[derive(ClapArgs)]
#[command(after_help = "Keys: q quits, arrows and Page Up/Down scroll, space pauses.\n\
    Without a terminal it prints a plain table each interval.\n\nExamples:\n  \
    tidegate top\n  \
    tidegate top --admin 10.0.0.5:9900\n  \
    tidegate top --once --json | jq .totals")]
pub struct Args {
    /// Address of the gateway's admin listener
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:9900", env = "TIDEGATE_ADMIN")]
    admin: Admin,
    /// Seconds between two readings (0.2 to 60)
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = interval)]
    every: Duration,
    /// Print one table and exit
    #[arg(long)]
    once: bool,
    /// Print JSON, one object a line
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    if args.once {
        let first = args.admin.read()?;
        thread::sleep(args.every);
        print(&View::between(&first, &args.admin.read()?), args.json)?;
    } else if args.json || !io::stdout().is_terminal() {
        print_forever(&args)?;
    } else {
        screen::run(args.admin, args.every, Vec::new())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Shows the traffic of the gateway behind `admin`, and `notes` below it, until the person quits. Blocks its thread.
///
/// # Errors
///
/// The terminal can't be used.
pub fn live(admin: &str, notes: Vec<String>) -> anyhow::Result<()> {
    screen::run(admin.parse().map_err(anyhow::Error::msg)?, Duration::from_secs(1), notes)
}

fn print_forever(args: &Args) -> anyhow::Result<()> {
    let mut last: Option<Reading> = None;
    let mut lost = false;
    loop {
        match args.admin.read() {
            Ok(reading) => {
                lost = false;
                if let Some(last) = &last {
                    print(&View::between(last, &reading), args.json)?;
                }
                last = Some(reading);
            }
            Err(err) if !lost => {
                lost = true; // Said once; it goes on trying.
                eprintln!("{err:#}; trying again");
            }
            Err(_) => {}
        }
        thread::sleep(args.every);
    }
}

fn print(view: &View, json: bool) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    if json {
        writeln!(out, "{}", serde_json::to_string(view)?)?;
    } else {
        for line in layout::lines(view, PLAIN_COLUMNS) {
            writeln!(out, "{}", line.text().trim_end())?;
        }
        writeln!(out)?;
    }
    out.flush()?;
    Ok(())
}

fn interval(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "expected a number of seconds".to_owned())?;
    if (0.2..=60.0).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err("expected 0.2 to 60 seconds".to_owned())
    }
}

#[cfg(test)]
mod tests;
