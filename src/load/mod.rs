//! `tidegate load`: sends requests by a schedule, and says how long the answers took.

mod capacity;
mod drive;
mod import;
mod plan;
mod replay;
mod scenario;
mod scrape;
mod worker;
mod workers;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tidegate_model::literal::Literal;
use tidegate_model::scenario::Plan;
use tidegate_model::scenario::plan::{Client, Flow, Load, Origin, Protocol, Spacing, Stage, Step, Template};
use tidegate_model::scenario::word::{Condition, StopCondition};

use crate::{duration, print};

/// Send requests by a schedule, and say how long the answers took
///
/// With --rate, requests leave by an absolute schedule, however slow the target is, and times count from when each
/// should have left (open model). With --visitors, that many visitors each wait for an answer before they ask again
/// (closed model): times then leave out whatever a slow target kept them from asking.
#[derive(clap::Args)]
#[command(
    args_override_self = true,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "Examples:
  tidegate load http://127.0.0.1:8080/ -r 500 -d 30s
  tidegate load https://shop.example/ -c 50 -d 1m --http2
  tidegate load sale.yaml
  tidegate load check sale.yaml
  tidegate load plan --daily-views 2000000
  tidegate load sale.yaml --workers 10.0.0.7:7600,10.0.0.8:7600 --key load.key
  tidegate load sale.yaml --find-capacity"
)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// What to ask for, or the file of a scenario
    #[arg(value_name = "URL|FILE", required = true)]
    what: Option<String>,
    /// Show what the scenario would send, and send nothing
    #[arg(long, conflicts_with_all = ["rate", "visitors", "duration"])]
    check: bool,
    /// Requests a second
    #[arg(long, short, value_name = "N", conflicts_with = "visitors", value_parser = rate)]
    rate: Option<f64>,
    /// Visitors that each wait for an answer before they ask again
    #[arg(long, short = 'c', value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    visitors: Option<u32>,
    /// For how long [default: 10s]
    #[arg(long, short, value_name = "TIME", value_parser = duration::read)]
    duration: Option<Duration>,
    #[command(flatten)]
    sending: Sending,
}

#[derive(clap::Subcommand)]
enum Command {
    Check(scenario::Args),
    Plan(plan::Args),
    Import(import::Args),
    Replay(replay::Args),
    Worker(worker::Args),
}

/// How requests are carried, and what becomes of what is found out.
#[derive(clap::Args)]
pub struct Sending {
    /// What must hold at the end, or the exit code is 3: "p99 < 200ms", "errors < 0.1%" (repeat for more)
    #[arg(long, value_name = "CONDITION", value_parser = literal::<Condition>)]
    threshold: Vec<Condition>,
    /// What ends the run early: "errors > 20% over 10s" (repeat for more)
    #[arg(long, value_name = "CONDITION", value_parser = literal::<StopCondition>)]
    stop: Vec<StopCondition>,
    /// Speak HTTP/2
    #[arg(long)]
    http2: bool,
    /// Use a connection for each request
    #[arg(long)]
    no_keep_alive: bool,
    /// Believe any certificate
    #[arg(long)]
    insecure: bool,
    /// Threads that send [default: one for each core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256))]
    threads: Option<u32>,
    #[command(flatten)]
    workers: workers::Workers,
    #[command(flatten)]
    capacity: capacity::Options,
    #[command(flatten)]
    output: drive::Output,
}

fn rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| "expected a number of requests a second".to_owned())?;
    if (0.001..=1_000_000.0).contains(&rate) { Ok(rate) } else { Err("expected 0.001 to 1000000".to_owned()) }
}

/// Reads what scenarios write, too.
fn literal<T: Literal>(text: &str) -> Result<T, String> {
    T::parse(text).map_err(|wrong| match wrong.help {
        Some(help) => format!("{}; {help}", wrong.label),
        None => wrong.label,
    })
}

/// Runs the command.
///
/// # Errors
///
/// When the URL can't be read, or the run could not start.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    match &args.command {
        Some(Command::Check(args)) => return scenario::run(args),
        Some(Command::Plan(args)) => return plan::run(args),
        Some(Command::Import(args)) => return import::run(args),
        Some(Command::Replay(args)) => return replay::run(args),
        Some(Command::Worker(args)) => return worker::run(args),
        None => {}
    }
    let what = args.what.as_deref().context("a URL or the file of a scenario is missing")?;
    if what.contains("://") {
        return match args.check {
            true => Ok(refuse(&format!("--check shows what a scenario sends, and {what} is a URL"))),
            false => send(simple(what, &args)?, &args.sending),
        };
    }
    if args.check {
        return scenario::show(Path::new(what), false);
    }
    if args.rate.is_some() || args.visitors.is_some() || args.duration.is_some() {
        return Ok(refuse(&format!("{what} says its own load: --rate, --visitors and --duration are for URLs")));
    }
    match scenario::read(Path::new(what)) {
        Ok(checked) => {
            print::tell(&checked.warnings);
            send(checked.plan, &args.sending)
        }
        Err(problems) => {
            print::tell(&problems);
            Ok(ExitCode::from(2))
        }
    }
}

/// Tells why the arguments are refused.
fn refuse(reason: &str) -> ExitCode {
    eprintln!("error: {reason}");
    ExitCode::from(2)
}

/// Sends what `plan` says, with what `sending` overrides of it, and tells how it went.
///
/// # Errors
///
/// When the run could not start.
pub fn send(mut plan: Plan, sending: &Sending) -> anyhow::Result<ExitCode> {
    sending.override_client(&mut plan.client);
    let (thresholds, stops) = (sending.threshold.iter(), sending.stop.iter());
    plan.thresholds.extend(thresholds.map(|condition| condition.0.clone()));
    plan.stops.extend(stops.map(|stop| stop.0.clone()));
    let mut named =
        plan.thresholds.iter().chain(plan.stops.iter().map(|stop| &stop.when)).filter_map(|it| it.step.as_ref());
    if let Some(unknown) = named.find(|name| !plan.steps().any(|step| step.name == **name)) {
        return Ok(refuse(&format!("a condition names step \"{unknown}\", which isn't there")));
    }
    if sending.capacity.is_asked() {
        return capacity::find(&plan, &sending.capacity, &sending.output, &sending.workers);
    }
    drive::drive(&plan, &sending.output, &sending.workers)
}

impl Sending {
    /// Overrides what was said on the command line; the rest stays as the plan has it.
    fn override_client(&self, client: &mut Client) {
        if self.http2 {
            client.protocol = Protocol::Http2;
        }
        client.keep_alive &= !self.no_keep_alive;
        client.insecure |= self.insecure;
        if let Some(threads) = self.threads {
            client.threads = threads;
        }
    }
}

/// The plan that asks for `url` alone.
fn simple(url: &str, args: &Args) -> anyhow::Result<Plan> {
    let uri: http::Uri = url.parse().with_context(|| format!("can't read the URL {url:?}"))?;
    let tls = match uri.scheme_str() {
        Some("http") => false,
        Some("https") => true,
        _ => bail!("the URL {url:?} must begin with http:// or https://"),
    };
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_ascii_lowercase();
    let origin = Origin { tls, host, port: uri.port_u16().unwrap_or(if tls { 443 } else { 80 }) };
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    let lasts = args.duration.unwrap_or(Duration::from_secs(10));
    let (load, connections) = match (args.visitors, args.rate) {
        (Some(visitors), _) => (Load::Closed { visitors, lasts }, visitors),
        (None, rate) => {
            let rate = rate.unwrap_or(1.0);
            let most_in_flight = (rate * 10.0).clamp(1_000.0, 10_000.0) as u32;
            let stages = vec![Stage { lasts, from: rate, to: rate }];
            (Load::Open { stages, spacing: Spacing::Even, most_in_flight }, most_in_flight)
        }
    };
    let step = Step::get("request", origin, Template::text(target));
    Ok(Plan {
        name: url.to_owned(),
        load,
        flows: vec![Flow { name: "request".to_owned(), weight: 1.0, steps: vec![step] }],
        feeders: Vec::new(),
        client: Client { connections, connect_timeout: Duration::from_secs(10), ..Client::default() },
        thresholds: Vec::new(),
        stops: Vec::new(),
        mark: None,
        seed: 1,
    })
}
