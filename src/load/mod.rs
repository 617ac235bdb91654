//! `tidegate load`: sends requests by a schedule, and says how long the answers took.

mod drive;
mod scrape;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tidegate_model::scenario::Plan;
use tidegate_model::scenario::plan::{Client, Flow, Load, Origin, Protocol, Spacing, Stage, Step, Template};

use crate::duration;

/// Send requests by a schedule, and say how long the answers took
///
/// With --rate, requests leave by an absolute schedule, however slow the target is, and times count from when each
/// should have left (open model). With --visitors, that many visitors each wait for an answer before they ask again
/// (closed model): times then leave out whatever a slow target kept them from asking.
#[derive(clap::Args)]
#[command(
    args_override_self = true,
    after_help = "Examples:
  tidegate load http://127.0.0.1:8080/ -r 500 -d 30s
  tidegate load https://shop.example/ -c 50 -d 1m --http2"
)]
pub struct Args {
    /// What to ask for
    url: String,
    /// Requests a second
    #[arg(long, short, value_name = "N", conflicts_with = "visitors", value_parser = rate)]
    rate: Option<f64>,
    /// Visitors that each wait for an answer before they ask again
    #[arg(long, short = 'c', value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    visitors: Option<u32>,
    /// For how long
    #[arg(long, short, value_name = "TIME", default_value = "10s", value_parser = duration::read)]
    duration: Duration,
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
    output: drive::Output,
}

fn rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| "expected a number of requests a second".to_owned())?;
    if (0.001..=1_000_000.0).contains(&rate) { Ok(rate) } else { Err("expected 0.001 to 1000000".to_owned()) }
}

/// Runs the command.
///
/// # Errors
///
/// When the URL can't be read, or the run could not start.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    drive::drive(&plan(&args)?, &args.output)
}

fn plan(args: &Args) -> anyhow::Result<Plan> {
    let uri: http::Uri = args.url.parse().with_context(|| format!("can't read the URL {:?}", args.url))?;
    let tls = match uri.scheme_str() {
        Some("http") => false,
        Some("https") => true,
        _ => bail!("the URL {:?} must begin with http:// or https://", args.url),
    };
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_ascii_lowercase();
    let origin = Origin { tls, host, port: uri.port_u16().unwrap_or(if tls { 443 } else { 80 }) };
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    let (load, connections) = match (args.visitors, args.rate) {
        (Some(visitors), _) => (Load::Closed { visitors, lasts: args.duration }, visitors),
        (None, rate) => {
            let rate = rate.unwrap_or(1.0);
            let most_in_flight = (rate * 10.0).clamp(1_000.0, 10_000.0) as u32;
            let stages = vec![Stage { lasts: args.duration, from: rate, to: rate }];
            (Load::Open { stages, spacing: Spacing::Even, most_in_flight }, most_in_flight)
        }
    };
    let step = Step::get("request", origin, Template::text(target));
    Ok(Plan {
        name: args.url.clone(),
        load,
        flows: vec![Flow { name: "request".to_owned(), weight: 1.0, steps: vec![step] }],
        feeders: Vec::new(),
        client: Client {
            protocol: if args.http2 { Protocol::Http2 } else { Protocol::Http1 },
            keep_alive: !args.no_keep_alive,
            connections,
            streams: 100,
            threads: args.threads.unwrap_or(0),
            sources: Vec::new(),
            resolve: std::collections::BTreeMap::default(),
            connect_timeout: Duration::from_secs(10),
            ca: None,
            insecure: args.insecure,
        },
        thresholds: Vec::new(),
        stops: Vec::new(),
        mark: None,
        seed: 1,
    })
}
