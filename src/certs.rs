//! `tidegate certs`: the certificates of a running gateway; orders one anew.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use jiff::{Timestamp, Unit};
use tidegate_gateway::acme::{Row, Source};

use crate::ask::{self, Which};

/// List the certificates of a running gateway, and order one anew
///
/// Those that are ordered by ACME come first, with their next renewal and what went wrong last.
#[derive(clap::Args)]
#[command(after_help = "Exit codes: 0 done, 2 no certificate that is ordered has this name, 1 no gateway answered.

Examples:
  tidegate certs
  tidegate certs --json | jq -r '.[] | select(.last_error) | .names[0]'
  tidegate certs renew shop.example.com")]
pub struct Args {
    #[command(flatten)]
    which: Which,
    #[command(subcommand)]
    action: Option<Action>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Order the certificate of a name now, whatever pause it is in
    Renew {
        /// One of its names
        name: String,
    },
}

/// Runs the command.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let address = args.which.address()?;
    let mut out = io::stdout().lock();
    if let Some(Action::Renew { name }) = args.action {
        let plain = |char: char| char.is_ascii_alphanumeric() || "-._*".contains(char);
        if name.is_empty() || !name.chars().all(plain) {
            eprintln!("error: \"{name}\" isn't a name");
            return Ok(ExitCode::from(2));
        }
        let (status, body) = ask::ask(address, "POST", &format!("/certificates/renew?name={name}"), "")?;
        return match status {
            202 => {
                writeln!(out, "ok: {name} is ordered now; `tidegate certs` tells what comes of it")?;
                Ok(ExitCode::SUCCESS)
            }
            404 => {
                eprintln!("error: {}", body.trim());
                Ok(ExitCode::from(2))
            }
            _ => bail!("{address} answered {status}: {}", body.trim()),
        };
    }
    let (status, body) = ask::ask(address, "GET", "/certificates", "")?;
    if status != 200 {
        bail!("{address} answered {status}: {}", body.trim());
    }
    if args.json {
        write!(out, "{body}")?;
        return Ok(ExitCode::SUCCESS);
    }
    let rows: Vec<Row> = serde_json::from_str(&body).context("the answer isn't a gateway's")?;
    write!(out, "{}", table(&rows, Timestamp::now()))?;
    Ok(ExitCode::SUCCESS)
}

fn table(rows: &[Row], now: Timestamp) -> String {
    if rows.is_empty() {
        return "this gateway has no certificates\n".into();
    }
    let day = |at: Option<Timestamp>| {
        at.and_then(|at| at.round(Unit::Second).ok()).map_or_else(|| "-".into(), |at| format!("{at}"))
    };
    let mut text = format!("{:<40} {:<6} {:<22} {:<22}\n", "NAMES", "SOURCE", "EXPIRES", "NEXT ORDER");
    for row in rows {
        let source = match row.source {
            Source::Acme => "acme",
            Source::File => "file",
        };
        let late = if row.not_after.is_some_and(|until| until <= now) { " expired" } else { "" };
        let names = row.names.join(",");
        let _ =
            writeln!(text, "{names:<40} {source:<6} {:<22} {:<22}{late}", day(row.not_after), day(row.next_renewal));
        if let Some(error) = &row.last_error {
            let _ = writeln!(text, "  {error}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_went_wrong_stands_below_its_certificate() {
        let at = |seconds| Timestamp::from_second(seconds).ok();
        let row = |names: &[&str], source, until, error: Option<&str>| Row {
            names: names.iter().map(ToString::to_string).collect(),
            source,
            file: None,
            not_before: None,
            not_after: until,
            next_renewal: at(86_400),
            last_error: error.map(str::to_owned),
            failures: 0,
        };
        let rows = [
            row(&["shop.test", "www.shop.test"], Source::Acme, None, Some("shop.test: no A record")),
            row(&["old.test"], Source::File, at(0), None),
        ];

        let text = table(&rows, Timestamp::from_second(1).unwrap());

        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[1].starts_with("shop.test,www.shop.test") && lines[1].contains("1970-01-02T00:00:00Z"), "{text}");
        assert_eq!(lines[2], "  shop.test: no A record");
        assert!(lines[3].ends_with("expired"), "{text}");
    }
}
